"""A search: a tree of core/search_query.py becomes one SQL statement that finds the files, counts them, and ranks the best.

With a word or an extension, candidates are looked up in the index in *tiers*: names that begin with the query's first word, other
names, texts, and files with some words in the name and others in the text. No file is in two tiers. Each goes through the
*segments* of the index, newest first. The statement stops at ``RANKED`` matches: a common word reads one segment, a rare one all,
by a probe each. Names that equal the query are added, however old. Without a word, the newest files that pass are listed.

Candidates pass filters by what the index repeats of a file, and count only while that is still what ``files`` says: a file that
differs is in ``search_queue``, so only those are compared. A test of words is left out where the lookup is exact. A file has the
highest rank class that fits (terms.py), and within a class the newest comes first. A search that runs out of its clock's time is
repeated over the newest files (T81).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, NamedTuple

from core.search_query import Is, Leaf, SearchTree, Term
from db import Tx, column, previews, readings
from db.errors import QueryCanceled
from db.file_lists import FileFilter, conditions
from db.files import COLUMNS
from db.records import FileRecord, PreviewRecord
from db.search import terms
from db.search import words as spellings
from db.search.index import COPIES, SEGMENTS, mark_of

RANKED = 1_000  # matches that are counted and ranked, but for some more names that equal the query
_EXACT = 500  # of these
_QUEUED = 1_000  # files waiting to be indexed, from which on each match is compared with its file
_MAX_PREFIXES = 4  # that are looked up: a scan of the index for a prefix can't be cancelled
_FACET_VALUES = 100

FACETS = {
    "file_type": "file_type",
    "folder": "folder_id",
    "owner": "owner_id",
    "month": "to_char(uploaded_at at time zone 'UTC', 'YYYY-MM')",
}
# The planner gets no choice but the indexes: it takes matching a text to be as cheap as comparing a number. Parallel plans would
# lose the order. The last is how similar a misspelt word must be.
_BEGIN = """
begin; set local jit = off; set local enable_seqscan = off; set local enable_memoize = off;
set local max_parallel_workers_per_gather = 0; set local pg_trgm.similarity_threshold = 0.25;
"""
_HIT = "f.id, f.uploaded_at, f.name_key, f.file_type, f.folder_id, f.owner_id, f.names"
_NAMELESS = _HIT.replace("f.names", "'' as names").replace("f.", "file.")
_INDEX = "(select *, file_id as id, name_words || replace(name_tokens, ' ', '  ') as names from search_index)"
_COLUMNS = ", ".join(f"f.{name}" for name in COPIES.split(", "))
_CURRENT = f"(f.name_key, {_COLUMNS}) is not distinct from (file.name_key, {_COLUMNS.replace('f.', 'file.')})"


class Clock:
    """The time that a search has for all its statements together."""

    def __init__(self, seconds: float):
        self._end = monotonic() + seconds

    def begin(self, tx: Tx) -> None:
        """Begin a transaction, which the caller commits."""
        self.limit(tx, _BEGIN)

    def limit(self, tx: Tx, settings: str = "") -> None:
        """Limit the next statements to the time that is left. Raises QueryCanceled if none is."""
        left = self._end - monotonic()
        if left <= 0:
            raise QueryCanceled("the search is out of time")
        tx.execute(f"{settings} set local statement_timeout = {max(1, int(left * 1_000))}", prepare=False)


class RankedFile(NamedTuple):
    """A file with its previews and score."""

    file: FileRecord
    previews: list[PreviewRecord]
    score: int  # millionths

    @property
    def position(self) -> list[Any]:
        """Its place in the ranking; the next page begins after it."""
        return [self.score, self.file.uploaded_at.isoformat(), str(self.file.id)]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A page of hits, and what is known of all matches."""

    matched: int  # RANKED + 1 if there are more
    hits: list[RankedFile]
    facets: dict[str, list[dict[str, Any]]]
    stems: terms.Spellings  # of words of the query, by which texts were searched too


def find(
    tx: Tx,
    wanted: FileFilter,
    tree: SearchTree,
    *,
    corrections: terms.Spellings | None = None,
    facets: Sequence[str] = (),
    after: Sequence[Any] = (),
    limit: int,
    newest: int | None = None,
    clock: Clock | None = None,
) -> SearchResult:
    """The best matches after ``after``, best first, and the newest first among equals. With ``newest``, only that many of the
    newest files are searched. Raises QueryCanceled when the clock, in whose transaction this runs, has run out."""
    search = _Search(tx, wanted, tree, corrections or {})
    columns = ", ".join(f"'{name}', {_facet(FACETS[name])}" for name in dict.fromkeys(facets))
    behind = "(score, uploaded_at, id) < ({}::integer, {}::timestamptz, {}::uuid)" if after else "true"
    sql = f"""
    with queued as materialized (select file_id from search_queue limit {_QUEUED}), {search.hits(newest)},
    page as (
        select id, uploaded_at, score from (select f.*, {search.score(tree)} as score from hits f) f
        where {behind.format(*map(search.value, after))}
        order by score desc, uploaded_at desc, id desc limit {search.value(limit)}::integer
    )
    select totals.*, page.score, {previews.OF_FILE}, {COLUMNS}
    from (select (select count(*) from found), json_build_object({columns})) totals full join (page
        join lateral (select * from files f where f.id = page.id offset 0) f on true
        join lateral (select * from objects o where o.object_key = f.file_path offset 0) o on true {readings.JOIN}
    ) on false
    order by page.score desc nulls first, page.uploaded_at desc, page.id desc
    """
    # Planning takes a quarter of the time. A plan of look-ups is good for all values, but holds 0.7 MB, so only those of a search
    # of one owner for one word or phrase are kept.
    leaves = [leaf for group in tree.groups for leaf in group]
    one = len(leaves) == 1 and isinstance(leaves[0], Term) and leaves[0].where == "any"
    cached = one and search.looks_up and wanted.unfiltered and wanted.owner_id is not None and not (facets or after)
    if clock is not None:
        clock.limit(tx, "set local plan_cache_mode = force_generic_plan;" if cached else "")
    (matched, counted, *_), *rows = tx.execute(sql, search.params, prepare=None if cached else False).fetchall()
    hits = [RankedFile(FileRecord._make(row[4:]), previews.parsed(row[3]), row[2]) for row in rows]
    return SearchResult(matched, hits, counted, search.stems)


class _Group(NamedTuple):
    """A group that is looked up."""

    leaves: tuple[Leaf, ...]
    names: str  # tsquery; empty if there is none, as ``texts``
    texts: str
    exact: bool  # whether the lookup in names finds no other files


class _Search(terms.Statement):
    """The SQL of one search."""

    def __init__(self, tx: Tx, wanted: FileFilter, tree: SearchTree, near: terms.Spellings):
        self._scope, params = conditions(wanted)
        terms.Statement.__init__(self, params, near=near)
        self._tree = tree
        leaves = [leaf for group in tree.groups for leaf in group if isinstance(leaf, Term) and leaf.words]
        single = [term.words[0] for term in leaves if len(term.words) == 1 and term.kind == "part"]
        inside = [term.words[0] for term in leaves if terms.may_be_inside(term) and term.where != "content"]
        self.stems, self.inside = spellings.related(tx, wanted.owner_id, single, inside)
        owners = column(tx, "select owner_id from owner_usage") if wanted.owner_id is None else [wanted.owner_id]
        self._marks = sorted(set(map(mark_of, owners)))
        self._terms = [group for group in tree.groups if any(isinstance(leaf, Term) for leaf in group)]
        others = [group for group in tree.groups if group not in self._terms]
        self._filters = f"{self._scope} and {self.all_of(others, self.test)}"

    def hits(self, newest: int | None) -> str:
        """The CTEs ``found``, of up to RANKED + 1 matches, and ``hits``, those to rank."""
        lookups = self._lookups() if newest is None and self._marks else None
        self.looks_up = lookups is not None
        if lookups is None:
            source = "files f"
            if newest is not None:
                source = f"""(select * from files f where {self._scope}
                              order by f.uploaded_at desc, f.id desc limit {newest}) f"""
            walk = f"{self._files(source)} order by file.uploaded_at desc, file.id desc limit {RANKED + 1}"
            return f"found as materialized ({walk}), hits as (select * from found)"
        hits = "select * from found"
        if whole := terms.whole_names(self._tree):  # however old
            exact = " or ".join(map(self.exact_test, whole))
            hits += f""" union all ({self._files("files f", f"({exact})")} and (select count(*) from found) > {RANKED}
                         and file.id not in (select id from found) limit {_EXACT})"""
        return f"found as materialized ({lookups} limit {RANKED + 1}), hits as ({hits})"

    def _files(self, source: str, test: str = "true") -> str:
        """Matches read from the files."""
        files = f"(select * from {source} where {self._filters} and {test}) file"
        if not self._terms:
            return f"select {_NAMELESS} from {files} where true"
        return f"""select {_HIT} from {files}
        cross join lateral (select * from {_INDEX} f where f.id = file.id and {_CURRENT} offset 0) f
        where {self.all_of(self._terms, self.test)}"""

    def _lookups(self) -> str | None:
        """Matches found by the index; None if there is nothing to look up."""
        asked: list[_Group] = []
        never = ""  # texts that no lookup may find
        tests = [self._filters]
        prefixes = 0
        for group in self._tree.groups:
            leaf, queries = group[0], [self._queries(leaf) for leaf in group]
            names, texts = (terms.any_of(each) for each in zip(*queries, strict=True))
            words = [leaf for leaf in group if isinstance(leaf, Term)]
            prefixes += sum(term.kind == "prefix" for term in words)
            possible = prefixes <= _MAX_PREFIXES and all(map(any, queries))
            if possible and len(words) in (0, len(group)) and not any(leaf.negated for leaf in group):
                asked.append(_Group(group, names, texts, all(map(terms.is_exact, words))))
            elif possible and len(group) == 1 and isinstance(leaf, Term):  # negated
                never += f" & !{texts}" if texts else ""
                tests.append(f"not ({self.name_test(leaf)})")
            elif words:
                tests.append(self.all_of([group], self.test))
        if not asked:
            return None
        tiers = [(tier, query + never) for tier, query in self._tiers(asked)]
        if inexact := [group.leaves for group in asked if not group.exact]:
            named = self.all_of(
                [group.leaves for group in asked if group.names not in ("", group.texts)], self.name_test
            )
            tests.append(f"""case k.tier when 'names' then {self.all_of(inexact, self.name_test)}
                else not ({named}) and (k.tier = 'texts' or {self.all_of(inexact, self.test)}) end""")
        return f"""
        select {_HIT}
        from (
            select tier, query, segment, mark
            from unnest({self.value([tier for tier, _ in tiers])}::text[], {self.value([query for _, query in tiers])}::text[])
                 with ordinality t (tier, query, place),
                 generate_series(0, {SEGMENTS}) segment, unnest({self.value(self._marks)}::text[]) mark
            order by place, segment desc offset 0
        ) p
        cross join lateral (
            select tier, replace(query, chr(2), mark || segment || ':')::tsquery as query offset 0
        ) k
        cross join lateral (
            select {_HIT} from {_INDEX} f where f.words @@ k.query and {" and ".join(tests)}
                   and (f.id not in (select file_id from queued) and (select count(*) from queued) < {_QUEUED}
                        or exists (select from files file where file.id = f.id and {_CURRENT}))
            order by f.uploaded_at desc, f.id desc offset 0
        ) f"""

    def _tiers(self, asked: Sequence[_Group]) -> list[tuple[str, str]]:
        """The lookups in turn: where they look, and a tsquery. Files of an earlier one are left out, or tested if not exact."""
        names = " & ".join(group.names or group.texts for group in asked)
        texts = " & ".join(group.texts for group in asked) if all(group.texts for group in asked) else ""
        if names == texts:
            return [("texts", texts)]
        whole = [term for term in terms.whole_names(self._tree) if term.words]
        tiers = [("names", names)]
        if first := terms.any_of(map(terms.first_query, whole)):
            is_all = len(asked) == 1 and all(len(term.words) == 1 for term in whole)
            tiers = [("names", first if is_all else f"{first} & {names}"), ("names", f"{names} & !{first}")]
        unnamed = f" & !({names})" if all(group.exact for group in asked) else ""
        if texts:
            tiers.append(("texts", texts + unnamed))
        if sum(group.names != group.texts for group in asked) > 1 and any(group.texts for group in asked):
            either = " & ".join(terms.any_of([group.names, group.texts]) for group in asked)
            tiers.append(("both", either + unnamed + (f" & !({texts})" if texts else "")))
        return tiers

    def _queries(self, leaf: Leaf) -> tuple[str, str]:
        """The tsqueries of a leaf for names and for texts; empty if there is none. An extension is looked up with both."""
        if isinstance(leaf, Term):
            in_all = leaf.where == "content" and terms.is_short(leaf)
            return ("", "") if in_all else (self.name_query(leaf), terms.text_query(leaf, self.stems))
        extension = terms.extension_query(leaf.value) if isinstance(leaf, Is) and leaf.what == "ext" else ""
        return extension, extension


def _facet(expression: str) -> str:
    return (
        "(select coalesce(json_agg(json_build_object('value', value, 'count', n) order by n desc, value), '[]') from ("
        f"select {expression} as value, count(*) as n from hits group by 1 order by 2 desc, 1 limit {_FACET_VALUES}) t)"
    )
