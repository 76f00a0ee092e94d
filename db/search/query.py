"""A search: a tree of core/search_query.py becomes one SQL statement that finds the files, counts them, and ranks the best.

Candidates come from two tables, both in order of time. *Names* have the words (``file_words``). *Texts* have the words in text
and name together, but not in the name alone (``file_texts``), so that the two do not overlap and are counted apart. A search for
words only is counted in the indexes, and reads just the files that can be on the page. With a filter, or for parts of words, all
candidates are tested. If no word can be looked up, or few files pass the filter, these files are tested instead.

The total is exact up to ``RANKED``. The caller's clock limits all statements of a search together; a search that runs out of time
is repeated over the newest files (T81). A file has the highest rank class that fits (terms.py), and within a class the
newest comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from core.search_query import HasTag, Leaf, SearchTree, SizeWithin, Term, TypeIs, UploadedWithin
from db import Tx, execute, scalar
from db.file_lists import FAMILIES, FileFilter, conditions, total
from db.files import COLUMNS
from db.records import FileRecord
from db.search.clock import Clock
from db.search.lookup import in_name, is_indexed, is_simple, name_patterns, union
from db.search.name_words import MAX_WORDS, WordMatches, WordPattern, like, matching_words
from db.search.terms import Corrections, Statement, Terms, is_hint
from db.search.texts import MARK, marked, stemmed, stems, tsquery

RANKED = 10_000  # matches that are counted, and ranked for facets
_BEST = 1_001  # hits on all pages together, and one more
_RANKED_NAMES = 3_000  # names with several words, or a phrase, that are ranked
_EXACT = 1_000  # names equal to the query
_WIDE = 30_000  # entries of words that are still sorted
_NEWEST_TESTED = 50_000  # newest files that are tested if a prefix has more entries
_PROBED = 2_000  # entries of a rare word that are probed in the index of a common one
_FEW = 3_000  # files that pass a filter: test them all
_FEWER = 30_000  # the same if more names than RANKED have the words
_MAX_PREFIXES = 4  # that are looked up: a scan of the index of texts for a prefix can't be cancelled
_MANY = 8  # words of names by which texts are excluded one by one
_FACET_VALUES = 100

_FACETS = {
    "file_type": "file_type",
    "folder": "folder_id",
    "owner": "owner_id",
    "month": "to_char(uploaded_at at time zone 'UTC', 'YYYY-MM')",
}
FACETS = frozenset(_FACETS)
_COLUMNS = "f.id, f.uploaded_at, f.name_key, f.name_words, f.file_type, f.folder_id, f.owner_id"
_NEWEST = "order by uploaded_at desc, file_id desc"
_COUNT_NAMED = "names (many) as materialized (select count(*) from named)"


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
    corrections: Corrections | None = None,
    facets: Sequence[str] = (),
    after: Position | None = None,
    limit: int,
    newest: int | None = None,
    clock: Clock | None = None,
) -> SearchResult:
    """The best matches after ``after``, best first, and the newest first among equals. With ``newest``, only the owner's newest
    files are searched. Raises OutOfTime or QueryCanceled when the clock, in whose transaction this runs, has run out."""
    search = _Search(tx, wanted, tree, corrections or {}, clock, newest)
    columns = ", ".join(f"'{name}', {_facet(_FACETS[name])}" for name in facets)
    sql = f"""
    with {search.hits(facets=bool(facets), wants=limit if after is None else _BEST)},
    page as (
        select id, uploaded_at, score
        from (select id, uploaded_at, {search.terms.score()} as score from hits f) s
        {search.behind(after)}
        order by score desc, uploaded_at desc, id desc limit {search.value(limit)}::integer
    )
    select all_of.*, page.score, {COLUMNS}
    from (select (select least(matched, {RANKED + 1}) from counted), json_build_object({columns})) all_of
    left join (page
        join lateral (select * from files f where f.id = page.id offset 0) f on true
        join lateral (select * from objects o where o.object_key = f.file_path offset 0) o on true
    ) on true
    order by page.score desc, page.uploaded_at desc, page.id desc
    """
    search.next()
    if search.fixed:  # otherwise a generic plan can't tell a common word from a rare one
        execute(tx, "select set_config('plan_cache_mode', 'force_generic_plan', true)")
    rows = tx.execute(sql, search.params, prepare=None if search.fixed else False).fetchall()
    matched, in_facets = rows[0][:2]
    hits = [RankedFile(row[2], FileRecord(*row[3:])) for row in rows if row[2] is not None]
    return SearchResult(matched, hits, in_facets, search.stems)


@dataclass(frozen=True, slots=True)
class _Group:
    """A group of terms that can be looked up.

    ``lists``: a name that fits has a word of each; None: names can't be looked up. ``simple``: one list, and a name needs no
    further test. ``texts``: the tsquery for texts that fit; None: none does. ``in_name``: the tsquery on ``file_texts`` for names
    that fit; None: there is none, or it is too expensive. ``exact``: it finds exactly the names that fit."""

    leaves: tuple[Term, ...]
    lists: tuple[WordMatches, ...] | None
    simple: bool
    texts: str | None
    in_name: str | None
    exact: bool


class _Search(Statement):
    """The SQL of one search."""

    def __init__(
        self,
        tx: Tx,
        wanted: FileFilter,
        tree: SearchTree,
        corrections: Corrections,
        clock: Clock | None,
        newest: int | None,
    ):
        where, params = conditions(wanted)
        Statement.__init__(self, params | {"owner": wanted.owner_id, "deleted": wanted.deleted})
        self._tx, self._wanted, self._tree, self._where = tx, wanted, tree, where
        self._clock, self._newest = clock, newest
        self._groups: list[_Group] = []  # can be looked up
        self._others: list[tuple[Leaf, ...]] = []  # are tests of each file
        self._barred: dict[tuple[Leaf, ...], str] = {}  # of the others: tsqueries that texts must not match
        self.fixed = False  # one plan fits all values
        self.next()
        leaves = [leaf for group in tree.groups for leaf in group if isinstance(leaf, Term) and leaf.words]
        leaves = [leaf for leaf in leaves if leaf.where != "name"]
        self.stems = stems(tx, wanted.owner_id, [word for leaf in leaves if (word := stemmed(leaf))])
        queries = {leaf: tsquery(leaf, self.stems) for leaf in leaves}
        self.terms = Terms(self, tree, corrections, queries, wanted.owner_id)
        if newest is None:
            self._read_groups()

    def next(self) -> None:
        """Update the clock. Call it before each statement."""
        if self._clock is not None:
            self._clock.limit_next(self._tx)

    def hits(self, *, facets: bool, wants: int) -> str:
        """The CTEs ``hits``, which hold the best ``wants`` matches (with ``facets``: all), and ``counted``."""
        if not self._groups:
            return self._walk()
        bare = not facets and not self._filtered()  # nothing but words and dates
        if not bare and self._is_narrow(_FEW):
            return self._few()
        ctes: list[str] = []
        hits: list[str] = []
        if (lists := self._lists()) is not None:
            self.fixed = bare
            if bare and len(self._groups) == 1 and self._groups[0].simple:
                ctes, hits = self._single(self._groups[0], wants)
            elif not bare and self._is_narrow(_FEWER) and min(self._sizes(lists)) > RANKED:
                return self._few()
            else:
                ctes, hits = self._names(lists, bare, facets)
        names = "(select many from names)" if ctes else "0"
        counted = names
        if (text_query := self._text_query()) is not None:
            more, in_texts, counted = self._texts(text_query, bare, facets, names, wants)
            ctes += more
            hits.append(in_texts)
        found = " union ".join(hits) or f"select {_COLUMNS} from files f where false"
        return ", ".join([*ctes, f"hits as materialized ({found})", f"counted as (select {counted} as matched)"])

    # -- what is looked up ---------------------------------------------------------------------------------

    def _read_groups(self) -> None:
        terms: dict[Term, list[list[WordPattern]]] = {}
        beginnings = 0
        for group in self._tree.groups:
            beginnings += sum(isinstance(leaf, Term) and leaf.kind == "prefix" for leaf in group)
            if all(isinstance(leaf, Term) and is_indexed(leaf) for leaf in group) and beginnings <= _MAX_PREFIXES:
                terms |= {leaf: name_patterns(leaf) for leaf in group if isinstance(leaf, Term)}
            elif (
                len(group) == 1
                and isinstance(leaf := group[0], Term)
                and leaf.negated
                and leaf.words
                and leaf.kind != "prefix"
            ):
                terms[leaf] = name_patterns(leaf)
        flat = [(term, each) for term, wanted in terms.items() if term.where != "content" for each in wanted]
        self.next()
        found = iter(
            matching_words(self._tx, self._wanted.owner_id, self._wanted.deleted, [s for _, each in flat for s in each])
        )
        lists: dict[Term, list[WordMatches]] = {term: [] for term in terms}
        for term, each in flat:
            lists[term].append(union([next(found) for _ in each] + [WordMatches(tuple(self.terms.near(term)))]))
        for group in self._tree.groups:
            leaves = [leaf for leaf in group if isinstance(leaf, Term) and leaf in terms]
            if len(leaves) == len(group) and not leaves[0].negated:
                self._groups.append(self._group(leaves, lists))
                continue
            self._others.append(group)
            if leaves and leaves[0].negated and (barred := self._barrier(leaves[0], lists[leaves[0]])):
                self._barred[group] = barred

    def _group(self, leaves: Sequence[Term], lists: dict[Term, list[WordMatches]]) -> _Group:
        named = [leaf for leaf in leaves if leaf.where != "content"]
        each = [lists[leaf] for leaf in named]
        if len(each) > 1:  # the longest word of each alternative
            each = [[union([max(one, key=lambda words: len(words.words[0])) for one in each if one])]]
        texts = [self.terms.queries[leaf] for leaf in leaves if leaf.where != "name" and not is_hint(leaf)]
        fitting = [in_name(leaf, lists[leaf]) for leaf in named]
        possible = " | ".join(query for query, _ in fitting if query)
        return _Group(
            tuple(leaves),
            lists=tuple(each[0]) if each and each[0] else None,
            simple=all(map(is_simple, named)),
            texts=" | ".join(texts) or None,
            in_name=possible if all(query for query, _ in fitting) else None,
            exact=all(exact for _, exact in fitting),
        )

    def _barrier(self, term: Term, lists: Sequence[WordMatches]) -> str | None:
        """The tsquery on ``file_texts`` for files with the term in name or text; None if it would not be exact."""
        in_text = self.terms.queries[term] if term.where != "name" else None
        named, exact = in_name(term, lists) if term.where != "content" else (None, True)
        if not exact or any(len(words.words) >= MAX_WORDS for words in lists):
            return None
        return " | ".join(filter(None, (in_text, named)))

    def _lists(self) -> list[WordMatches] | None:
        """Lists of words: a name that fits has a word of each. None: no name fits, or names can't be looked up."""
        if any(group.lists is None for group in self._groups):
            return None
        return [words for group in self._groups for words in group.lists or ()]

    # -- by the filter, or file by file --------------------------------------------------------------------

    def _walk(self) -> str:
        source = "files f"
        if self._newest is not None:
            source = f"({self._newest_files(self._newest)}) f"
        tests = self.terms.tests(self._tree.groups)
        return f"""hits as materialized (
            select {_COLUMNS} from {source} {self._beside(self._tree.groups)} where {self._where}{tests}
            order by f.uploaded_at desc, f.id desc limit {RANKED + 1}
        ), counted as (select count(*) as matched from hits)"""

    def _few(self) -> str:
        """Test all files that pass the filter."""
        tests = self.terms.tests(self._tree.groups)
        return f"""few as materialized (
            select {_COLUMNS} from files f {self._beside(self._tree.groups)} where {self._where}{tests}
        ), hits as (select * from few), counted as (select count(*) as matched from few)"""

    def _newest_files(self, limit: int) -> str:
        scope = conditions(FileFilter(owner_id=self._wanted.owner_id, deleted=self._wanted.deleted))[0]
        return f"select * from files f where {scope} order by f.uploaded_at desc, f.id desc limit {limit}"

    def _filtered(self) -> bool:
        """Whether the filter is more than dates, which entries of words have too."""
        wanted = replace(self._wanted, date_from=None, date_to=None)
        return not all(map(_is_date, self._others)) or wanted != FileFilter(
            self._wanted.owner_id, deleted=self._wanted.deleted
        )

    def _is_narrow(self, few: int) -> bool:
        """Whether at most ``few`` files pass the filter, by the counters or by the first entries of the indexes."""
        wanted, owner = self._wanted, FileFilter(self._wanted.owner_id, deleted=self._wanted.deleted)
        known: list[int | None] = []
        if wanted.folder_id is not None and not wanted.deleted:
            known.append(total(self._tx, replace(owner, folder_id=wanted.folder_id, recursive=wanted.recursive)))
        if wanted.file_type in FAMILIES:
            known.append(total(self._tx, replace(owner, file_type=wanted.file_type)))
        for leaf in [group[0] for group in self._others if len(group) == 1 and not group[0].negated]:
            if isinstance(leaf, TypeIs) and leaf.value.lower() in FAMILIES:
                known.append(total(self._tx, replace(owner, file_type=leaf.value.lower())))
            elif isinstance(leaf, SizeWithin | HasTag):
                self.next()
                mine = f"f.is_deleted = %(deleted)s and {self._mine('f')}"
                first = f"select from files f where {mine} and {self.terms.leaf(leaf)}"
                known.append(scalar(self._tx, f"select count(*) from ({first} limit {few + 1}) c", self.params))
        return any(count is not None and count <= few for count in known)

    # -- by names ------------------------------------------------------------------------------------------

    def _single(self, group: _Group, wants: int) -> tuple[list[str], list[str]]:
        """One group of single words, which all names with them fit: ``named`` counts them, and the newest of each rank class are
        read."""
        assert group.lists is not None
        words = group.lists[0]
        # Words by rank class: the word of each term, words that begin with it, other words that contain one, and corrections.
        terms = [leaf for leaf in group.leaves if leaf.where != "content"]
        exact = tuple(dict.fromkeys(leaf.words[0] for leaf in terms))
        near = {word for leaf in terms for word in self.terms.near(leaf)}
        longer = [word for word in words.words if word.lstrip("/") not in exact]
        others = [word for word in longer if not word.lstrip("/").startswith(exact)]
        classes = [[word, "/" + word] for word in exact]
        classes += [[word for word in longer if word.lstrip("/").startswith(begin)] for begin in exact]
        classes += [[word for word in others if word not in near]] + ([[*near]] if near else [])
        picked = [
            self._newest_with([begin + word for word in some if not (begin and word.startswith("/"))], wants)
            for some in classes
            for begin in ("^", "")
        ]
        picked += [
            f"(select f.id from files f where {self._where} and {test} limit {_EXACT})"
            for leaf in group.leaves
            for test in self.terms.exact_keys(leaf)
        ]
        in_all = f"(select entries from sized) < {_WIDE}"
        for word in words.prefixes:
            for begin, pattern in (("^", " "), ("", "% ")):
                picked.append(self._files_of(f"select * from ({self._range(begin + word)}) e where {in_all}", wants))
                picked.append(
                    f"(select f.id from ({self._newest_files(_NEWEST_TESTED)}) f where not {in_all}{self._dates('f')}"
                    f" and f.name_words like {self.value(pattern + like(word) + '%')} limit {wants})"
                )
        looked = f"(select {_COLUMNS} from ({' union '.join(picked)}) p (id) join {self._file('f.id = p.id')} on true)"
        if len(words.words) == 1 and not words.prefixes:
            return [f"names (many) as materialized (select count(*) from ({self._any(words)} limit {RANKED + 1}) e)"], [
                looked
            ]
        # A name may have several of the words. There are seldom too many entries to count each name once.
        each = f"select count(*) as n from ({self._any(words)} limit {_WIDE}) e group by file_id"
        ctes = [
            f"sized (files, entries) as materialized (select count(*), coalesce(sum(n), 0) from ({each}) e)",
            f"names (many) as materialized (select case when entries < {_WIDE} or files > {RANKED} then files"
            f" else (select count(*) from (select distinct file_id from ({self._any(words)}) e) f) end from sized)",
        ]
        if not group.exact:
            ctes.append(
                f"named as materialized (select distinct file_id as id from ({self._any(words)}) e limit {RANKED + 1})"
            )
        return ctes, [looked]

    def _names(self, lists: Sequence[WordMatches], bare: bool, facets: bool) -> tuple[list[str], list[str]]:
        """Names that have a word of each list, newest first, with further tests if needed: ``named``, and the ones to rank."""
        tested = [
            group.leaves for group in self._groups if not group.simple or any(w.prefixes for w in group.lists or ())
        ]
        listed = [words for words in lists if not words.prefixes] or [lists[0]]
        ranked = RANKED + 1 if facets else _RANKED_NAMES
        if bare and not tested:
            named = f"select uploaded_at, file_id as id from ({self._entries(listed)}) e {_NEWEST} limit {RANKED + 1}"
            hits = [
                f"(select {_COLUMNS} from (select id from named limit {ranked}) n join {self._file('f.id = n.id')} on true)"
            ]
        else:
            tests = self.terms.tests(tested, names_only=True) + self.terms.tests(self._others)
            file = self._file("f.id = e.file_id", f"{self._where}{tests}", self._beside(self._others))
            named = f"""
            select {_COLUMNS} from ({self._entries(listed)}) e join {file} on true
            order by e.uploaded_at desc, e.file_id desc limit {RANKED + 1}
            """
            hits = [f"(select * from named limit {ranked})"]
        tests = self.terms.tests([group.leaves for group in self._groups], names_only=True) + self.terms.tests(
            self._others
        )
        hits += [
            f"(select {_COLUMNS} from files f {self._beside(self._others)} where {self._where} and {test}{tests} limit {_EXACT})"
            for whole in self.terms.whole_names()
            for test in self.terms.exact_keys(whole)  # however old they are
        ]
        return [f"named as materialized ({named})", _COUNT_NAMED], hits

    def _entries(self, lists: Sequence[WordMatches]) -> str:
        """Upload time and id of files whose names have a word of each list, newest first."""
        if len(lists) == 1:
            words = lists[0]
            only = f"distinct uploaded_at, file_id from ({self._any(words)}) e"
            if len(words.words) == 1 and not words.prefixes:
                one = f"fw.word = {self.value(words.words[0])}"
                only = f"fw.uploaded_at, fw.file_id from file_words fw where {self._only('fw')} and {one}"
            return f"select {only} {_NEWEST}"
        sizes = self._sizes(lists)
        rare = min(range(len(lists)), key=lambda at: sizes[at])
        if sizes[rare] <= _PROBED and max(sizes) > RANKED:
            self.fixed = False
            also = "".join(
                f" and exists (select from file_words o where {self._mine('o')} and o.is_deleted = %(deleted)s"
                f" and o.word = any({self.value(list(words.words))}::text[])"
                f" and o.uploaded_at = e.uploaded_at and o.file_id = e.file_id)"
                for at, words in enumerate(lists)
                if at != rare
            )
            return f"select * from ({self._entries([lists[rare]])}) e where true{also} {_NEWEST}"
        each = " union all ".join(f"({self._entries([words])})" for words in lists)
        of_all = f"group by uploaded_at, file_id having count(*) = {len(lists)}"
        return f"select uploaded_at, file_id from ({each}) e {of_all} {_NEWEST}"

    def _any(self, words: WordMatches) -> str:
        """Upload time and id of the entries of all the words, in no order; a file with two of the words comes twice."""
        listed = f"fw.word = any({self.value(list(words.words))}::text[])"
        alone = f"select fw.uploaded_at, fw.file_id from file_words fw where {self._only('fw')} and {listed}"
        return " union all ".join([alone, *map(self._range, words.prefixes)])

    def _range(self, word: str) -> str:
        """The entries of all words that start with this one."""
        return (
            f"select fw.uploaded_at, fw.file_id from file_words fw where {self._only('fw')}"
            f" and fw.word >= {self.value(word)} and fw.word < {self.value(word + chr(0x10FFFF))}"
        )

    def _newest_with(self, words: Sequence[str], limit: int) -> str:
        """The newest ``limit`` files that have one of the words."""
        entries = f"""
        select e.uploaded_at, e.file_id from unnest({self.value(list(words))}::text[]) w (word), lateral (
            select fw.uploaded_at, fw.file_id from file_words fw where {self._only("fw")} and fw.word = w.word collate "C"
            order by fw.uploaded_at desc, fw.file_id desc limit {limit}) e
        """
        return self._files_of(entries, limit)

    def _files_of(self, entries: str, limit: int) -> str:
        """The newest ``limit`` files of these entries, each once."""
        return (
            f"(select file_id from (select distinct uploaded_at, file_id from ({entries}) e {_NEWEST} limit {limit}) e)"
        )

    def _sizes(self, lists: Sequence[WordMatches]) -> list[int]:
        """The number of entries of each list, counted up to RANKED + 1."""
        counts = ", ".join(f"(select count(*) from ({self._any(words)} limit {RANKED + 1}) c)" for words in lists)
        self.next()
        row = self._tx.execute(f"select {counts}", self.params).fetchone()
        return list(row or ())

    # -- by texts ------------------------------------------------------------------------------------------

    def _texts(
        self, text_query: tuple[str, str | None, bool, bool], bare: bool, facets: bool, names: str, wants: int
    ) -> tuple[list[str], str, str]:
        """Files that have all words, some or all of them in the text: the CTEs, the candidates for the page (after the ``names``
        found), and the number of all matches."""
        query, by_name, fits, apart = text_query

        def having(query: str) -> str:
            return (
                f"{self._mine('t')} and t.is_deleted = %(deleted)s and t.searchable{self._dates('t')}"
                f" and t.words @@ {self.value(marked(query, self._wanted.owner_id))}::tsquery"
            )

        mine = having(f"{query} & !({by_name})" if by_name else query)
        new = "" if apart else " and not exists (select from named n where n.id = t.id)"
        tested = any(isinstance(leaf, Term) and not leaf.negated for group in self._others for leaf in group)
        behind = "true" if tested else f"{names} < {wants}"  # names rank before texts, unless they lack a term
        page = f"in_texts t where {behind}{new} order by t.uploaded_at desc, t.id desc limit {wants}"
        room = f"limit (select greatest({RANKED + 1} - {names}, 0))"
        in_all = f"{names} + (select count(*) from in_texts)"
        if not apart:
            in_all = "(select count(*) from (select id from named union select id from in_texts) u)"
        if bare and fits:
            found = f"from file_texts t where {mine}"
            hits = f"(select {_COLUMNS} from (select t.id from {page}) t join {self._file('f.id = t.id')} on true)"
            needed = f"{names} < {wants}" if apart else f"{names} <= {RANKED}"
            ctes = [f"in_texts as materialized (select t.file_id as id, t.uploaded_at {found} and {needed})"]
            if apart:  # those that are not on the page are only counted
                others = f"{names} + (select count(*) from (select {found} {room}) t)"
                if by_name and by_name.count(MARK) > _MANY:  # faster than comparing each text with all of them
                    both = having(f"{query} & ({by_name})")
                    ctes.append(f"in_both (many) as materialized (select count(*) from file_texts t where {both})")
                    room = f"limit (select greatest({RANKED + 1} - {names}, 0) + many from in_both)"
                    every = f"(select count(*) from (select from file_texts t where {having(query)} {room}) t)"
                    others = f"{names} - (select many from in_both) + {every}"
                in_all = f"case when {needed} then {in_all} else {others} end"
            return ctes, hits, in_all
        tried = [group for group in self._others if group not in self._barred]
        tried += [] if fits else [group.leaves for group in self._groups]
        tests, beside = self.terms.tests(tried), self._beside(tried)
        in_texts = f"""
        select {_COLUMNS} from (
            select t.file_id from file_texts t where {mine} order by t.uploaded_at desc, t.file_id desc
        ) e
        join {self._file("f.id = e.file_id", f"{self._where}{tests}", beside)} on true
        {room if apart else f"limit {RANKED + 1}"}
        """
        hits = "(select * from in_texts)" if facets else f"(select * from {page})"
        return [f"in_texts as materialized ({in_texts})"], hits, in_all

    def _text_query(self) -> tuple[str, str | None, bool, bool] | None:
        """The tsquery on ``file_texts``; the one for files that fit by name alone; whether all others that match fit; and whether
        none of these fits by its name. None if no text can fit."""
        if not any(group.texts for group in self._groups):
            return None
        by_name = self._lists() is not None
        exact = all(group.exact for group in self._groups)
        if len(self._groups) == 1:
            each, fits = [self._groups[0].texts], True
        else:
            each = [" | ".join(filter(None, (group.texts, group.in_name))) for group in self._groups]
            fits = exact
        query = " & ".join(f"({one})" for one in each if one)
        query += "".join(f" & !({barred})" for barred in self._barred.values())
        named = " & ".join(f"({group.in_name})" for group in self._groups) if by_name and exact else None
        return query, named, fits, exact or not by_name

    # -- pieces --------------------------------------------------------------------------------------------

    def _file(self, which: str, tests: str = "true", beside: str = "") -> str:
        """The one file, if it passes the tests. ``offset 0`` keeps it a subquery, so that each file is looked up by its id: the
        planner would otherwise collect all files that pass first."""
        return f"lateral (select {_COLUMNS} from files f {beside} where {which} and {tests} offset 0) f"

    def _beside(self, groups: Sequence[tuple[Leaf, ...]]) -> str:
        """The join with the texts that tests of these groups need."""
        if not Terms.ask_texts(groups):
            return ""
        of_file = "t.file_id = f.id and t.searchable"
        if self._newest is None:
            return f"left join file_texts t on {of_file}"
        # offset 0: read the texts of these files only
        return f"left join lateral (select t.words from file_texts t where {of_file} offset 0) t on true"

    def _only(self, table: str) -> str:
        return f"{table}.is_deleted = %(deleted)s and {self._mine(table)}{self._dates(table)}"

    def _mine(self, table: str) -> str:
        return f"{table}.owner_id = %(owner)s" if self._wanted.owner_id is not None else "true"

    def _dates(self, table: str) -> str:
        """The tests of dates, which entries of words can be put to directly."""
        bounds = [(self._wanted.date_from, self._wanted.date_to)]
        bounds += [(g[0].start, g[0].end) for g in self._others if isinstance(g[0], UploadedWithin) and _is_date(g)]
        tests = [self.terms.within(f"{table}.uploaded_at", "timestamptz", *each) for each in bounds]
        return "".join(f" and {test}" for test in tests if test)

    def behind(self, after: Position | None) -> str:
        """The WHERE clause of the next page."""
        if after is None:
            return ""
        return (
            f"where (score, uploaded_at, id) < ({self.value(after.score)}::integer,"
            f" {self.value(after.uploaded_at)}::timestamptz, {self.value(after.id)}::uuid)"
        )


def _is_date(group: tuple[Leaf, ...]) -> bool:
    return len(group) == 1 and isinstance(group[0], UploadedWithin) and not group[0].negated


def _facet(expression: str) -> str:
    return (
        "(select coalesce(json_agg(json_build_object('value', value, 'count', n) order by n desc, value), '[]') from ("
        f"select {expression} as value, count(*) as n from hits group by 1 order by 2 desc, 1 limit {_FACET_VALUES}) t)"
    )
