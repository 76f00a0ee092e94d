"""Search: a tree of core/search_query.py -> SQL. Values are always parameters, and ``% _ \\`` in them are literal.

A search ranks at most the newest 10,000 files that match, and those whose name begins with the whole query; counts and
facets are over the same. That bounds its work whatever it asks for: with a common word the newest files are walked
until there are enough, with a rare one the trigram index names the few. A search that is slow all the same (fewer than
three letters in a row have no trigram) is cut off by its caller and asked again of the newest files only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from core.search_query import (
    ExtensionIs,
    HasTag,
    Leaf,
    SearchTree,
    SizeWithin,
    Term,
    TypeIs,
    UploadedWithin,
    spaced,
)
from db import Tx, execute
from db.file_lists import FAMILIES, FileFilter, conditions

RANKED = 10_000             # matches that are ranked and counted
NEWEST = 20_000             # files that a search which took too long is content with
_BEGINNING = 1_000          # names that begin with the query, whatever their age
_SIMILAR = 2_000            # names looked at for near words
_FACET_VALUES = 100

_FACETS = {
    "file_type": "file_type", "folder": "folder_id", "owner": "owner_id",
    "month": "to_char(uploaded_at at time zone 'UTC', 'YYYY-MM')",
}
FACETS = frozenset(_FACETS)

Corrections = Mapping[str, Sequence[str]]       # a term's text -> the words it may be misspelt for


@dataclass(frozen=True, slots=True)
class Position:
    """Where a hit stands in the ranking: what the next page begins after."""

    score: int                  # millionths
    uploaded_at: str
    id: UUID


@dataclass(frozen=True, slots=True)
class Found:
    matched: int                # RANKED + 1 where there are more
    hits: list[Position]
    facets: dict[str, list[dict[str, Any]]]


@dataclass(slots=True)
class _Statement:
    """Collects the values of the SQL being written; ``value`` gives a placeholder."""

    params: dict[str, Any] = field(default_factory=dict)

    def value(self, value: Any) -> str:
        name = f"v{len(self.params)}"
        self.params[name] = value
        return f"%({name})s"


def bound(tx: Tx, milliseconds: int) -> None:
    """Give the statements of this transaction so long each, and set how near a misspelt word has to be."""
    execute(tx, "select set_config('statement_timeout', %(limit)s, true), set_config('jit', 'off', true),"
                " set_config('pg_trgm.word_similarity_threshold', '0.35', true)", {"limit": str(milliseconds)})


def find(
    tx: Tx, wanted: FileFilter, tree: SearchTree, *, corrections: Corrections | None = None, facets: Sequence[str] = (),
    after: Position | None = None, limit: int, newest_only: bool = False,
) -> Found:
    """The best matches after ``after``, best first, those of equal score newest first."""
    corrections = corrections or {}
    where, params = conditions(wanted)
    statement = _Statement(params)
    tests = " and ".join([where, *(_group(statement, group, corrections) for group in tree.groups)])
    columns = "f.id, f.uploaded_at, f.name_key, f.name_words, f.file_type, f.folder_id, f.owner_id"
    source = "files f"
    beginning = ""
    if newest_only:
        scope = conditions(FileFilter(owner_id=wanted.owner_id, deleted=wanted.deleted))[0]
        source = (f"(select * from files f where {scope}"
                  f" order by f.uploaded_at desc, f.id desc limit {NEWEST}) f")
    elif tree.plain is not None:
        beginning = (
            f" union select * from (select {columns} from files f where {tests}"
            f" and f.name_key like {statement.value(_like(tree.plain) + '%')} limit {_BEGINNING}) b"
        )
    behind = ""
    if after is not None:
        behind = (f"where (score, uploaded_at, id) < ({statement.value(after.score)}::integer,"
                  f" {statement.value(after.uploaded_at)}::timestamptz, {statement.value(after.id)}::uuid)")
    counted = ", ".join(f"'{name}', {_facet(_FACETS[name])}" for name in facets)
    sql = f"""
    with near as materialized (
        select {columns} from {source} where {tests}
        order by f.uploaded_at desc, f.id desc limit {RANKED + 1}
    ),
    hits as materialized (select * from near{beginning}),
    page as (
        select id, uploaded_at, score
        from (select id, uploaded_at, {_score(statement, tree.terms, corrections)} as score
              from hits) s
        {behind}
        order by score desc, uploaded_at desc, id desc limit {statement.value(limit)}::integer
    )
    select (select count(*) from near),
           (select json_agg(json_build_array(score, uploaded_at::text, id)
                            order by score desc, uploaded_at desc, id desc) from page),
           json_build_object({counted})
    """
    # Never prepared: a plan that does not know the words can't tell a common one from a rare one.
    row = tx.execute(sql, statement.params, prepare=False).fetchone()
    assert row is not None
    return Found(row[0], [Position(score, at, UUID(file_id)) for score, at, file_id in row[1] or []], row[2])


def similar_names(tx: Tx, wanted: FileFilter, word: str) -> list[str]:
    """Keys of some names that may hold the word misspelt; the caller compares word by word."""
    where, params = conditions(wanted)
    sql = f"select f.name_key from files f where {where} and %(word)s <%% f.name_key limit {_SIMILAR}"
    return [row[0] for row in tx.execute(sql, params | {"word": word}, prepare=False).fetchall()]


def names_beginning(tx: Tx, owner_id: str, prefix: str, *, limit: int) -> list[str]:
    """Distinct names of the owner's files outside the trash whose key begins with ``prefix``, in order."""
    sql = """
    select min(original_name) from (
        select f.original_name, f.name_key from files f
        where f.owner_id = %(owner)s and f.is_deleted = false and f.name_key like %(pattern)s
        order by f.name_key, f.id limit 1000
    ) n group by name_key order by name_key limit %(limit)s
    """
    params = {"owner": owner_id, "pattern": _like(prefix) + "%", "limit": limit}
    return [row[0] for row in tx.execute(sql, params, prepare=False).fetchall()]


# -- the tree as tests ------------------------------------------------------------------------------------------

def _group(statement: _Statement, group: Sequence[Leaf], corrections: Corrections) -> str:
    return "(" + " or ".join(_leaf(statement, leaf, corrections) for leaf in group) + ")"


def _leaf(statement: _Statement, leaf: Leaf, corrections: Corrections) -> str:
    match leaf:
        case Term():
            test = _term(statement, leaf, corrections)
        case TypeIs(value=value):
            test = _type(statement, value)
        case ExtensionIs(value=value):
            test = f"f.name_key like {statement.value('%.' + _like(value))}"
        case HasTag(value=value):
            test = f"f.tags && {statement.value([value, value.casefold()])}::text[]"
        case SizeWithin(low=low, high=high):
            test = _within(statement, "f.file_size", "bigint", low, high)
        case UploadedWithin(start=start, end=end):
            test = _within(statement, "f.uploaded_at", "timestamptz", start, end)
    return f"not ({test})" if leaf.negated else f"({test})"


def _term(statement: _Statement, term: Term, corrections: Corrections) -> str:
    sources = []
    if term.where != "content":
        sources.append(_in_name(statement, term, () if term.negated else corrections.get(term.text, ())))
    if term.where != "name":
        sources += _in_content(statement, term)
    return " or ".join(sources) or "false"


def _in_content(statement: _Statement, term: Term) -> list[str]:
    """The test that a file's text holds the term. No text is extracted yet, so there is none.

    Its place is here alone: it has to say that the file is ready and not in the trash (THREATS R2, T82)."""
    return []


def _in_name(statement: _Statement, term: Term, near: Sequence[str]) -> str:
    # The first LIKE finds, by its index; what tells words from parts is asked of what it found. In coalesce() the
    # planner expects that to hold for half of it, else for next to none, and would sort all files with a common word.
    words = _like(spaced(term.text))
    literal = statement.value(f"%{_like(term.text)}%")
    if term.kind == "prefix" and words:
        return f"f.name_key like {literal} and coalesce(f.name_words like {statement.value(f'% {words}%')}, false)"
    if term.kind == "phrase" and words:
        apart = statement.value(f"%{words.replace(' ', '%')}%")
        exact = f"f.name_key like {literal} or f.name_words like {statement.value(f'% {words} %')}"
        return f"f.name_key like {apart} and coalesce({exact}, false)"
    tests = [literal, *(statement.value(f"%{word}%") for word in near)]
    return " or ".join(f"f.name_key like {test}" for test in tests)


def _type(statement: _Statement, value: str) -> str:
    if value in FAMILIES:
        return f"f.file_type = {statement.value(value)}"
    if value.endswith("/*"):
        return f"starts_with(f.mime_type, {statement.value(value[:-1])})"
    if "/" in value:
        return f"f.mime_type = {statement.value(value)}"
    ending = statement.value("%." + _like(value))
    return f"f.name_key like {ending} or f.mime_type like {statement.value('%' + _like(value) + '%')}"


def _within(statement: _Statement, column: str, kind: str, low: Any, high: Any) -> str:
    tests = [] if low is None else [f"{column} >= {statement.value(low)}::{kind}"]
    tests += [] if high is None else [f"{column} < {statement.value(high)}::{kind}"]
    return " and ".join(tests)


def _score(statement: _Statement, terms: Sequence[Term], corrections: Corrections) -> str:
    """In millionths: how well each term fits, on average, and a tenth for how much of the name the terms make up."""
    if not terms:
        return "1000000"
    fits = " + ".join(_fit(statement, term, bool(corrections.get(term.text))) for term in terms)
    length = statement.value(sum(len(term.text) for term in terms))
    return f"((({fits}) * 9000 / {len(terms)}) + least(100000, 100000 * {length}::integer / length(name_key)))::integer"


def _fit(statement: _Statement, term: Term, corrected: bool) -> str:
    """0 to 100: the whole name, or all before its extension; a whole word; a word's beginning; a part; a near word."""
    whole, text = statement.value(term.text), _like(spaced(term.text))
    dotted = statement.value(_like(term.text) + ".%")
    word, beginning = statement.value(f"% {text} %"), statement.value(f"% {text}%")
    part = statement.value("%" + _like(term.text) + "%")
    return (
        f"case when name_key = {whole} or name_key like {dotted} then 100 when name_words like {word} then 80"
        f" when name_words like {beginning} then 60 when name_key like {part} then 40 else {20 if corrected else 0} end"
    )


def _facet(expression: str) -> str:
    return (
        "(select coalesce(json_agg(json_build_object('value', value, 'count', n) order by n desc, value), '[]') from ("
        f"select {expression} as value, count(*) as n from hits group by 1 order by 2 desc, 1 limit {_FACET_VALUES}) t)"
    )


def _like(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
