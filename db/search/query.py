"""A search: a tree of core/search_query.py becomes one SQL statement that finds the files, counts them, and ranks the best.

With a word or an extension, candidates come from the index. They are looked up in *tiers*: names that begin with the query's
first word, other names, texts, and files with some words in the name and others in the text. Each tier leaves out what an
earlier one finds, and goes through the *segments* of the index, newest first. The statement stops at ``RANKED`` matches: a common
word reads one segment, a rare one all of them, by a probe each. Names that equal the query are added, however old. Without a
word, the newest files that pass are listed.

All candidates are tested for the whole query. A file has the highest rank class that fits (terms.py), and within a class the
newest comes first. A search that runs out of its clock's time is repeated over the newest files (T81).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from core.search_query import ExtensionIs, Leaf, SearchTree, Term
from db import Tx, column
from db.file_lists import FileFilter, conditions
from db.files import COLUMNS
from db.records import FileRecord
from db.search import terms
from db.search.clock import Clock
from db.search.index import SEGMENTS, mark_of
from db.search.words import containing

RANKED = 1_000  # matches that are counted and ranked, but for some more names that equal the query
_EXACT = 500  # of these
_MAX_PREFIXES = 4  # that are looked up: a scan of the index for a prefix can't be cancelled
_FACET_VALUES = 100

_FACETS = {
    "file_type": "file_type",
    "folder": "folder_id",
    "owner": "owner_id",
    "month": "to_char(uploaded_at at time zone 'UTC', 'YYYY-MM')",
}
FACETS = frozenset(_FACETS)
_HIT = "f.id, f.uploaded_at, f.name_key, f.file_type, f.folder_id, f.owner_id, i.name_words, i.name_tokens"


@dataclass(frozen=True, slots=True)
class Position:
    """A hit's place in the ranking; the next page begins after it."""

    score: int  # millionths
    uploaded_at: str
    id: UUID


@dataclass(frozen=True, slots=True)
class RankedFile:
    """A file with its score."""

    score: int  # millionths
    file: FileRecord

    @property
    def position(self) -> Position:
        """Its place in the ranking."""
        return Position(self.score, self.file.uploaded_at.isoformat(), self.file.id)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A page of hits, and what is known of all matches."""

    matched: int  # RANKED + 1 if there are more
    hits: list[RankedFile]
    facets: dict[str, list[dict[str, Any]]]
    stems: dict[str, list[str]]  # of words of the query, by which texts were searched too


def find(
    tx: Tx,
    wanted: FileFilter,
    tree: SearchTree,
    *,
    corrections: terms.Spellings | None = None,
    facets: Sequence[str] = (),
    after: Position | None = None,
    limit: int,
    newest: int | None = None,
    clock: Clock | None = None,
) -> SearchResult:
    """The best matches after ``after``, best first, and the newest first among equals. With ``newest``, only that many of the
    newest files are searched. Raises OutOfTime or QueryCanceled when the clock, in whose transaction this runs, has run out."""
    search = _Search(tx, wanted, tree, corrections or {}, clock)
    columns = ", ".join(f"'{name}', {_facet(_FACETS[name])}" for name in facets)
    sql = f"""
    with {search.hits(newest)},
    page as (
        select id, uploaded_at, score
        from (select id, uploaded_at, {search.score(tree, search.near)} as score from hits i) s
        {search.behind(after)}
        order by score desc, uploaded_at desc, id desc limit {search.value(limit)}::integer
    )
    select (select count(*) from found), json_build_object({columns}), page.score, {COLUMNS}
    from (values (1)) always (one) left join (page
        join lateral (select * from files f where f.id = page.id offset 0) f on true
        join lateral (select * from objects o where o.object_key = f.file_path offset 0) o on true
    ) on true
    order by page.score desc, page.uploaded_at desc, page.id desc
    """
    if clock is not None:
        clock.limit_next(tx)
    rows = tx.execute(sql, search.params, prepare=False).fetchall()
    hits = [RankedFile(row[2], FileRecord(*row[3:])) for row in rows if row[2] is not None]
    return SearchResult(rows[0][0], hits, rows[0][1], search.stems)


@dataclass(frozen=True, slots=True)
class _Tier:
    """A lookup in the index: the tsquery, whether all that it finds has by its text what was looked up, and the test for files
    that an earlier tier has."""

    query: str
    sure: bool = False
    unless: str = ""


class _Search(terms.Statement):
    """The SQL of one search."""

    def __init__(self, tx: Tx, wanted: FileFilter, tree: SearchTree, near: terms.Spellings, clock: Clock | None):
        self._where, params = conditions(wanted)
        terms.Statement.__init__(self, params)
        self._wanted, self._tree, self.near = wanted, tree, near
        self._looked_up: list[tuple[Leaf, ...]] = []  # the groups that the tiers look up; the others are only tested
        leaves = [leaf for group in tree.groups for leaf in group if isinstance(leaf, Term) and leaf.words]
        if clock is not None:
            clock.limit_next(tx)
        single = [leaf.words[0] for leaf in leaves if len(leaf.words) == 1 and leaf.kind == "part"]
        self.stems = terms.stems(tx, wanted.owner_id, single)
        parts = [leaf.words[0] for leaf in leaves if terms.may_be_inside(leaf) and leaf.where != "content"]
        owners = column(tx, "select owner_id from owner_usage") if wanted.owner_id is None else [wanted.owner_id]
        self._marks = sorted(set(map(mark_of, owners)))
        self.inside = containing(tx, wanted.owner_id, parts)

    def hits(self, newest: int | None) -> str:
        """The CTEs ``found``, of up to RANKED + 1 matches, and ``hits``, those to rank."""
        tiers = self._tiers() if newest is None and self._marks else []
        if not tiers:
            return f"found as materialized ({self._walk(newest)}), hits as (select * from found)"
        exact = " or ".join(map(self.exact_test, terms.whole_names(self._tree)))
        hits = "select * from found"
        if exact:  # however old
            hits += f"""
            union (select {_HIT} from files f {self._row()} where {self._live(self._tree.groups)} and ({exact})
                   and (select count(*) from found) > {RANKED} limit {_EXACT})"""
        return f"found as materialized ({self._lookup(tiers)}), hits as materialized ({hits})"

    # -- what is looked up ---------------------------------------------------------------------------------------

    def _tiers(self) -> list[_Tier]:
        """What to look up. Empty if nothing can be."""
        names: list[str] = []
        texts: list[str] = []
        either: list[str] = []
        named: list[tuple[Leaf, ...]] = []
        prefixes = 0
        for group in self._tree.groups:
            prefixes += sum(isinstance(leaf, Term) and leaf.kind == "prefix" for leaf in group)
            queries = [self._queries(leaf) for leaf in group]
            if prefixes > _MAX_PREFIXES or not all(map(any, queries)):
                continue
            by_name, by_text = (" | ".join(filter(None, each)) for each in zip(*queries, strict=True))
            self._looked_up.append(group)
            named += [group] if by_name else []
            names.append(f"({by_name or by_text})")
            texts.append(f"({by_text})" if by_text else "")
            either.append(f"({' | '.join(filter(None, (by_name, by_text)))})")
        if not names:
            extensions = [group[0] for group in self._tree.groups if len(group) == 1]
            lookups = [
                terms.extension_query(leaf) for leaf in extensions if isinstance(leaf, ExtensionIs) and not leaf.negated
            ]
            return [_Tier(" & ".join(filter(None, lookups)))] if any(lookups) else []
        if names == texts:
            return [_Tier(" & ".join(texts), sure=True)]
        whole = [term for term in terms.whole_names(self._tree) if term.words]
        tiers = [_Tier(" & ".join(names))]
        if whole:
            first = " | ".join(map(terms.first_query, whole))
            tiers = [_Tier(first), _Tier(f"{tiers[0].query} & !({first})")]
        by_name = f"{self.starts_test(whole)} or true{self._tests(named, None)}"
        if all(texts):
            tiers.append(_Tier(" & ".join(texts), sure=True, unless=by_name))
        if len(names) > 1 and any(texts):
            mixed = " & ".join(either) + (f" & !({' & '.join(texts)})" if all(texts) else "")
            tiers.append(_Tier(mixed, unless=by_name))
        return tiers

    def _queries(self, leaf: Leaf) -> tuple[str, str]:
        """The tsqueries of a leaf for names and for texts; empty if there is none."""
        if (
            not isinstance(leaf, Term)
            or leaf.negated
            or not leaf.words
            or (leaf.where == "content" and terms.is_short(leaf))
        ):
            return "", ""
        near = terms.near_of(leaf, self.near)
        names = "" if leaf.where == "content" else terms.name_query(leaf, self.inside, near)
        return names, terms.text_query(leaf, self.stems) if terms.in_texts(leaf) else ""

    def _term_groups(self) -> list[tuple[Leaf, ...]]:
        return [group for group in self._tree.groups if any(isinstance(leaf, Term) for leaf in group)]

    def _lookup(self, tiers: Sequence[_Tier]) -> str:
        marks, count = self.value(self._marks), len(self._marks)
        barred = [f"!{terms.text_query(leaf, self.stems)}" for leaf in map(_barred, self._tree.groups) if leaf]
        queries = [" & ".join([f"({tier.query})", *barred]) for tier in tiers]
        words = self._term_groups()
        tests = self._where.replace("f.", "i.")  # first of the copies in the index, which are at hand
        for group in sorted(self._tree.groups, key=lambda group: group in words):  # filters are cheaper
            known = None if _barred(group) else "k.sure or" if group in self._looked_up else ""
            tests += f" and ({' or '.join(self._test(leaf, known, 'i') for leaf in group)})"
        unless = "".join(f" when {number} then {tier.unless}" for number, tier in enumerate(tiers, 1) if tier.unless)
        if unless:
            tests += f" and not (case k.tier{unless} else false end)"
        others = [group for group in self._tree.groups if group not in words]
        mixed = [group for group in words if not all(isinstance(leaf, Term) for leaf in group)]
        return f"""
        select {_HIT}
        from (select {SEGMENTS} + 1) s (segments)
        cross join lateral generate_series(0, {len(tiers) * count} * segments - 1) n
        cross join lateral (select n / {count} / segments + 1 as tier, segments - 1 - n / {count} %% segments as segment) p
        cross join lateral (
            select tier, ({self.value([tier.sure for tier in tiers])}::boolean[])[tier] as sure,
                   replace(({self.value(queries)}::text[])[tier], chr(2),
                           ({marks}::text[])[n %% {count} + 1] || segment || ':')::tsquery as query
            offset 0
        ) k
        cross join lateral (
            select i.file_id, i.name_key, i.name_words, i.name_tokens, i.words, i.mark from search_index i
            where i.words @@ k.query and {tests} order by i.uploaded_at desc, i.file_id desc offset 0
        ) i
        cross join lateral (
            select * from files f
            where f.id = i.file_id and f.name_key = i.name_key and {self._live(others + mixed)} offset 0
        ) f
        limit {RANKED + 1}"""

    # -- file by file --------------------------------------------------------------------------------------------

    def _walk(self, newest: int | None) -> str:
        """The newest matches, or those among the ``newest`` files."""
        source, row, columns = "files f", "", _HIT.replace("i.", "'' as ")
        if self._term_groups():
            row, columns = self._row(), _HIT
        if newest is not None:
            scope = conditions(FileFilter(owner_id=self._wanted.owner_id, deleted=self._wanted.deleted))[0]
            source = f"(select * from files f where {scope} order by f.uploaded_at desc, f.id desc limit {newest}) f"
        return f"""select {columns} from {source} {row} where {self._live(self._tree.groups)}
        order by f.uploaded_at desc, f.id desc limit {RANKED + 1}"""

    def _row(self) -> str:
        """The join with the row of the index. ``offset 0``: of each file alone."""
        return (
            "join lateral (select * from search_index i where i.file_id = f.id offset 0) i on i.name_key = f.name_key"
        )

    # -- tests ---------------------------------------------------------------------------------------------------

    def _live(self, groups: Sequence[tuple[Leaf, ...]], known: str = "") -> str:
        """Tests of the live row: the caller's filter, these groups, and for a file that is not ready, all terms by its name."""
        by_name = self._tests(
            [group for group in self._tree.groups if any(isinstance(leaf, Term) for leaf in group)], None
        )
        ready = f" and (f.status = 'ready' or true{by_name})" if by_name else ""
        return f"{self._where}{self._tests(groups, known)}{ready}"

    def _tests(self, groups: Sequence[tuple[Leaf, ...]], known: str | None) -> str:
        """The groups as tests, each after an ``and``. ``known``: SQL that comes before a test of the text; None: only names."""
        return "".join(f" and ({' or '.join(self._test(leaf, known) for leaf in group)})" for group in groups)

    def _test(self, leaf: Leaf, known: str | None, row: str = "f") -> str:
        if not isinstance(leaf, Term):
            return self.filter_test(leaf, row)
        test = self.name_test(leaf, terms.near_of(leaf, self.near))
        if known is not None and terms.in_texts(leaf):
            query = self.value(terms.text_query(leaf, self.stems))
            test += f" or {'' if leaf.negated else known} i.words @@ replace({query}, chr(2), i.mark)::tsquery"
        return f"not ({test})" if leaf.negated else f"({test})"

    def behind(self, after: Position | None) -> str:
        """The WHERE clause of the next page."""
        if after is None:
            return ""
        return (
            f"where (score, uploaded_at, id) < ({self.value(after.score)}::integer,"
            f" {self.value(after.uploaded_at)}::timestamptz, {self.value(after.id)}::uuid)"
        )


def _barred(group: tuple[Leaf, ...]) -> Term | None:
    """The term, if files with it in their text can be left out by index."""
    leaf = group[0]
    alone = (
        len(group) == 1
        and isinstance(leaf, Term)
        and leaf.negated
        and terms.in_texts(leaf)
        and not terms.is_short(leaf)
    )
    return leaf if alone and isinstance(leaf, Term) else None


def _facet(expression: str) -> str:
    return (
        "(select coalesce(json_agg(json_build_object('value', value, 'count', n) order by n desc, value), '[]') from ("
        f"select {expression} as value, count(*) as n from hits group by 1 order by 2 desc, 1 limit {_FACET_VALUES}) t)"
    )
