"""A search: a tree of core/search_query.py becomes one SQL statement that finds the files, counts them, and ranks the best.

With a word or an extension, candidates come from the index. They are looked up in *tiers*: names that begin with the query's
first word, other names, texts, and files with some words in the name and others in the text. Each tier leaves out what an
earlier one has, and goes through the *segments* of the index, newest first. The statement stops at ``RANKED`` matches: a common
word reads one segment, a rare one all of them, by a probe each. Names that equal the query are added, however old. Without a
word, the newest files that pass are listed.

All candidates are tested for the whole query. A file has the highest rank class that fits (terms.py), and within a class the
newest comes first. A search that runs out of its clock's time is repeated over the newest files (T81).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from core.search_query import ExtensionIs, Leaf, SearchTree, SizeWithin, Term, TypeIs, UploadedWithin
from db import Tx, column
from db.file_lists import FAMILIES, FileFilter, conditions
from db.files import COLUMNS
from db.records import FileRecord
from db.search import terms
from db.search.clock import Clock
from db.search.index import SEGMENTS, mark_of
from db.search.words import MAX_WORDS, containing

RANKED = 2_000  # matches that are counted and ranked, but for some more names that equal the query
_EXACT = 1_000  # of these
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


class _Search(terms.Statement):
    """The SQL of one search."""

    def __init__(self, tx: Tx, wanted: FileFilter, tree: SearchTree, near: terms.Spellings, clock: Clock | None):
        self._where, params = conditions(wanted)
        terms.Statement.__init__(self, params)
        self._wanted, self._tree, self.near = wanted, tree, near
        leaves = [leaf for group in tree.groups for leaf in group if isinstance(leaf, Term) and leaf.words]
        if clock is not None:
            clock.limit_next(tx)
        single = [leaf.words[0] for leaf in leaves if len(leaf.words) == 1 and leaf.kind == "part"]
        self.stems = terms.stems(tx, wanted.owner_id, single)
        parts = [
            leaf.words[0] for leaf in leaves if terms.is_part(leaf) and leaf.where != "content" and not leaf.negated
        ]
        owners = column(tx, "select owner_id from owner_usage") if wanted.owner_id is None else [wanted.owner_id]
        self._marks = sorted(set(map(mark_of, owners)))
        self._containing = containing(tx, wanted.owner_id, parts)

    def hits(self, newest: int | None) -> str:
        """The CTEs ``found``, of up to RANKED + 1 matches, and ``hits``, those to rank."""
        queries = self._tiers() if newest is None and self._marks else []
        if not queries:
            return f"found as materialized ({self._walk(newest)}), hits as (select * from found)"
        exact = " or ".join(map(self.exact_test, terms.whole_names(self._tree)))
        hits = "select * from found"
        if exact:  # however old
            hits += f"""
            union (select {_HIT} from files f {self._row()} where {self._live(self._tree.groups)} and ({exact})
                   and (select count(*) from found) > {RANKED} limit {_EXACT})"""
        return f"found as materialized ({self._lookup(queries)}), hits as materialized ({hits})"

    # -- what is looked up ---------------------------------------------------------------------------------------

    def _tiers(self) -> list[tuple[str, bool]]:
        """The tsqueries of the tiers, and whether all that they find fits by its text. Empty if nothing can be looked up."""
        by_name: list[str] = []
        by_text: list[str | None] = []
        prefixes = 0
        for group in self._tree.groups:
            prefixes += sum(isinstance(leaf, Term) and leaf.kind == "prefix" for leaf in group)
            queries = [self._queries(leaf) for leaf in group]
            if prefixes > _MAX_PREFIXES or not all(queries):
                continue
            names = " | ".join(filter(None, (pair[0] for pair in queries if pair)))
            texts = " | ".join(filter(None, (pair[1] for pair in queries if pair)))
            by_name.append(f"({names or texts})")
            by_text.append(f"({texts})" if texts else None)
        if (
            not any(isinstance(leaf, Term | ExtensionIs) for group in self._tree.groups for leaf in group)
            or not by_name
        ):
            return []
        also = [f"!{terms.text_query(leaf, self.stems)}" for leaf in map(_barred, self._tree.groups) if leaf]
        if self._wanted.file_type in FAMILIES:
            also.append(terms.filter_query(TypeIs(self._wanted.file_type)) or "")
        named = " & ".join(by_name)
        tiers = [(named, False)]
        first = " | ".join(terms.first_query(term) for term in terms.whole_names(self._tree) if term.words)
        if first:
            tiers = [(f"{named} & ({first})", False), (f"{named} & !({first})", False)]
        every = [texts for texts in by_text if texts]
        if len(every) == len(by_text) and every != by_name:
            tiers.append((f"{' & '.join(every)} & !({named})", True))
        if len(by_name) > 1 and every and every != by_name:
            either = " & ".join(f"({one} | {two})" if two else one for one, two in zip(by_name, by_text, strict=True))
            tiers.append(
                (f"{either} & !({named})" + (f" & !({' & '.join(every)})" if len(every) == len(by_text) else ""), False)
            )
        return [(" & ".join([query, *also]), texts) for query, texts in tiers]

    def _queries(self, leaf: Leaf) -> tuple[str | None, str | None] | None:
        """The tsqueries of a leaf for names and for texts; None if it can't be looked up."""
        if not isinstance(leaf, Term):
            query = terms.filter_query(leaf)
            return (query, query) if query else None
        if leaf.negated or not leaf.words or (leaf.where == "content" and terms.is_short(leaf)):
            return None
        names = None
        if leaf.where != "content":
            names = terms.name_query(leaf, self._containing, terms.near_of(leaf, self.near), full=MAX_WORDS)
        return names, terms.text_query(leaf, self.stems) if terms.in_texts(leaf) else None

    def _lookup(self, queries: Sequence[tuple[str, bool]]) -> str:
        copied = replace(self._wanted, file_type=None, tag=None, status=None)
        copies = conditions(copied)[0].replace("f.", "i.")  # a cheap test first, of the columns that the index has too
        copies += "".join(
            " and (" + " or ".join(self.filter_test(leaf, "i") for leaf in group) + ")"
            for group in self._tree.groups
            if all(isinstance(leaf, SizeWithin | UploadedWithin) for leaf in group)
        )
        barred = [group for group in self._tree.groups if _barred(group)]
        words = [
            group
            for group in self._tree.groups
            if all(isinstance(leaf, Term) for leaf in group) and group not in barred
        ]
        others = [group for group in self._tree.groups if group not in words and group not in barred]
        tests = self._tests(words, "k.texts or") + self._tests(barred, None)
        marks = self._marks
        return f"""
        select {_HIT}
        from (select {SEGMENTS} + 1) s (segments)
        cross join lateral generate_series(0, {len(queries)} * segments * {len(marks)} - 1) n
        cross join lateral (
            select n / {len(marks)} / segments + 1 as tier, segments - 1 - n / {len(marks)} %% segments as segment
        ) p
        cross join lateral (
            select ({self.value([texts for _, texts in queries])}::boolean[])[tier] as texts,
                   replace(({self.value([query for query, _ in queries])}::text[])[tier], chr(2),
                           ({self.value(marks)}::text[])[n %% {len(marks)} + 1] || segment || ':')::tsquery as query
            offset 0
        ) k
        cross join lateral (
            select i.file_id, i.name_key, i.name_words, i.name_tokens, i.words, i.mark from search_index i
            where i.words @@ k.query and {copies}{tests} order by i.uploaded_at desc, i.file_id desc offset 0
        ) i
        cross join lateral (
            select * from files f
            where f.id = i.file_id and f.name_key = i.name_key and {self._live(others, "k.texts or")} offset 0
        ) f
        limit {RANKED + 1}"""

    # -- file by file --------------------------------------------------------------------------------------------

    def _walk(self, newest: int | None) -> str:
        """The newest matches, or those among the ``newest`` files."""
        source, row, columns = "files f", "", _HIT.replace("i.", "'' as ")
        if any(isinstance(leaf, Term) for group in self._tree.groups for leaf in group):
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

    def _test(self, leaf: Leaf, known: str | None) -> str:
        if not isinstance(leaf, Term):
            return self.filter_test(leaf)
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
