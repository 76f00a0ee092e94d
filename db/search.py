"""Search: a tree of core/search_query.py -> SQL. Values are always parameters, and ``% _ \\`` in them are literal.

Candidates come from three sources. *Names*: the words of names (db/words.py), newest file first, so that a common word
costs no more than a rare one. *Texts*: the index of texts. *Mixed*: texts with one term, in files whose name or text has
the others. A search that names no word that could be looked up, or a common word under a filter that few files pass, walks
the owner's files instead, as lists do; under one that many pass, the newest names are tried until the page is filled. At most
``RANKED`` matches are counted; a single word, the most frequent search, is counted in the index alone, and only what can be
on the page is looked at, of texts too. What is slow all the same is cut off by the caller's clock, which all statements of a
search share, and asked again of the newest files only (THREATS T81).

A file's rank is one of the classes below, the highest that fits; within a class the newest comes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any
from uuid import UUID

from core.names import name_key
from core.search_query import ExtensionIs, HasTag, Leaf, SearchTree, SizeWithin, Term, TypeIs, UploadedWithin
from core.words import MAX_WORD, is_run
from db import Tx, execute, scalar
from db.file_lists import FAMILIES, FileFilter, conditions, total
from db.texts import tsquery
from db.words import SHORTEST_PART, Sought, WordList, like, meant, sought_end, sought_part

RANKED = 10_000             # matches that are ranked and counted
_SLACK = 0.05               # seconds by which a statement may run longer than what is left of the search's time
_BEST = 1_001               # of each source of a single word: what all pages together can show, and one more
_EXACT = 1_000              # names that are just the query
_IN_RANGE = 2_000           # entries of words beyond those that are listed
_LOOKED_THROUGH = 1_000     # newest files, where there are such words
_EXAMINED = 50_000          # newest names with a word, where filters are to be tried on them
_FEW = 3_000                # names with a word, or files that pass a filter: all of them are looked at
_MIXED = 200                # texts with one of several terms
_MIXED_TERMS = 4
_FACET_VALUES = 100

# Scores in millionths. Docs: docs/search-ranking.md.
EXACT, START, BEGINNING, PHRASE, WORDS = 1_000_000, 900_000, 850_000, 800_000, 700_000
PARTS, NEAR, CONTENTS = 600_000, 500_000, 300_000

_FACETS = {
    "file_type": "file_type", "folder": "folder_id", "owner": "owner_id",
    "month": "to_char(uploaded_at at time zone 'UTC', 'YYYY-MM')",
}  # fmt: skip
FACETS = frozenset(_FACETS)
_COLUMNS = "f.id, f.uploaded_at, f.name_key, f.name_words, f.file_type, f.folder_id, f.owner_id"

Corrections = Mapping[str, Sequence[str]]       # a word -> the words it may be misspelt for


@dataclass(frozen=True, slots=True)
class Position:
    """Where a hit stands in the ranking: what the next page begins after."""

    score: int                  # millionths
    uploaded_at: str
    id: UUID


@dataclass(frozen=True, slots=True)
class Found:
    matched: int                # RANKED + 1 where there are more, or where not all words were followed
    hits: list[Position]
    facets: dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class _Group:
    """A group of terms that can be looked up; ``lists``: a name that fits has a word of each, None: names can't be looked
    up; ``texts``: the tsquery of texts that fit, None: none does."""

    leaves: tuple[Leaf, ...]
    lists: tuple[WordList, ...] | None
    texts: str | None


@dataclass(slots=True)
class _Statement:
    """Collects the values of the SQL being written; ``value`` gives a placeholder."""

    params: dict[str, Any] = field(default_factory=dict)

    def value(self, value: Any) -> str:
        name = f"v{len(self.params)}"
        self.params[name] = value
        return f"%({name})s"


class OutOfTime(Exception):
    """The search has had the time that it may take."""


class Clock:
    """What time a search of several statements has left: together they may take no more than one alone."""

    def __init__(self, seconds: float):
        self._end = monotonic() + seconds
        self._told = 0.0

    def begin(self, tx: Tx) -> None:
        """Limit the first statement of a transaction, and set how near a misspelt word has to be. Tables are never read
        whole: the planner takes looking into a text for as cheap as comparing a number."""
        execute(tx, "select set_config('statement_timeout', %(limit)s, true), set_config('jit', 'off', true),"
                    " set_config('enable_seqscan', 'off', true), set_config('pg_trgm.similarity_threshold', '0.25', true)",
                {"limit": self._left()})  # fmt: skip

    def go_on(self, tx: Tx) -> None:
        """Before each further statement: limit it to what is left, where that became less since the server was told."""
        if monotonic() - self._told > _SLACK:
            execute(tx, "select set_config('statement_timeout', %(limit)s, true)", {"limit": self._left()})

    def _left(self) -> str:
        """Milliseconds, for the server. Raises OutOfTime where there are none."""
        now = monotonic()
        left = int((self._end - now) * 1_000)
        if left <= 0:
            raise OutOfTime
        self._told = now
        return str(left)


def find(
    tx: Tx, wanted: FileFilter, tree: SearchTree, *, corrections: Corrections | None = None, facets: Sequence[str] = (),
    after: Position | None = None, limit: int, newest: int | None = None, clock: Clock | None = None,
) -> Found:  # fmt: skip
    """The best matches after ``after``, best first, those of equal score newest first; of the owner's ``newest`` files only,
    where so many are given. Raises OutOfTime or QueryCanceled where the clock, whose transaction this is, says so."""
    statement = _Search(tx, wanted, tree, corrections or {}, clock, newest)
    columns = ", ".join(f"'{name}', {_facet(_FACETS[name])}" for name in facets)
    sql = f"""
    with {statement.hits(facets=facets, after=after, limit=limit)},
    page as (
        select id, uploaded_at, score
        from (select id, uploaded_at, {statement.score()} as score from hits f) s
        {statement.behind(after)}
        order by score desc, uploaded_at desc, id desc limit {statement.value(limit)}::integer
    )
    select (select matched from counted),
           (select json_agg(json_build_array(score, uploaded_at::text, id)
                            order by score desc, uploaded_at desc, id desc) from page),
           json_build_object({columns})
    """
    statement.next()
    # Never prepared: a plan that does not know the words can't tell a common one from a rare one.
    row = tx.execute(sql, statement.params, prepare=False).fetchone()
    assert row is not None
    matched = RANKED + 1 if statement.cut else row[0]
    return Found(matched, [Position(score, at, UUID(file_id)) for score, at, file_id in row[1] or []], row[2])


class _Search(_Statement):
    """The SQL of one search."""

    __slots__ = (
        "_clock", "_corrections", "_dates", "_groups", "_newest", "_others", "_queries", "_tree", "_tx", "_wanted", "_where",
        "cut",
    )  # fmt: skip

    def __init__(
        self, tx: Tx, wanted: FileFilter, tree: SearchTree, corrections: Corrections, clock: Clock | None, newest: int | None
    ):
        where, params = conditions(wanted)
        _Statement.__init__(self, params | {"owner": wanted.owner_id, "deleted": wanted.deleted})
        self._tx, self._wanted, self._tree, self._corrections, self._where = tx, wanted, tree, corrections, where
        self._clock, self._newest = clock, newest
        self._groups: list[_Group] = []                     # those that can be looked up
        self._others: list[tuple[Leaf, ...]] = []           # the others are tests of each file
        self._dates = self._read_dates()
        self.next()
        leaves = [leaf for group in tree.groups for leaf in group if isinstance(leaf, Term) and leaf.words]
        self._queries = tsquery(tx, wanted.owner_id, [leaf for leaf in leaves if leaf.where != "name"])
        if newest is None:
            self._read_groups()
        self.cut = any(words.beyond for group in self._groups for words in group.lists or ())

    def next(self) -> None:
        """Before each statement."""
        if self._clock is not None:
            self._clock.go_on(self._tx)

    # -- what is looked up ---------------------------------------------------------------------------------

    def _read_groups(self) -> None:
        terms: dict[Term, list[list[Sought]]] = {}
        for group in self._tree.groups:
            if all(isinstance(leaf, Term) and not leaf.negated and leaf.words for leaf in group):
                terms |= {leaf: _sought(leaf) for leaf in group if isinstance(leaf, Term)}
        flat = [(term, each) for term, sought in terms.items() if term.where != "content" for each in sought]
        self.next()
        found = iter(meant(self._tx, self._wanted.owner_id, self._wanted.deleted, [s for _, each in flat for s in each]))
        lists: dict[Term, list[WordList]] = {term: [] for term in terms}
        for term, each in flat:
            lists[term].append(_either([next(found) for _ in each] + [WordList(tuple(self._near(term)))]))
        for group in self._tree.groups:
            leaves = [leaf for leaf in group if isinstance(leaf, Term) and leaf in terms]
            if len(leaves) < len(group):
                self._others.append(group)
                continue
            in_names = [lists[leaf] for leaf in leaves if leaf.where != "content"]
            if len(in_names) > 1:                           # of each alternative its most telling word
                in_names = [[_either([max(each, key=lambda one: len(one.words[0])) for each in in_names if each])]]
            texts = " | ".join(self._queries[leaf] for leaf in leaves if leaf.where != "name" and not _is_hint(leaf))
            self._groups.append(_Group(group, tuple(in_names[0]) if in_names and in_names[0] else None, texts or None))

    def _near(self, term: Term) -> Sequence[str]:
        return self._corrections.get(term.key, ()) if term.kind == "part" and not term.negated else ()

    def _read_dates(self) -> str:
        """The tests of dates that entries of words are put to themselves, of all groups that are nothing else."""
        bounds = [(self._wanted.date_from, self._wanted.date_to)]
        for group in self._tree.groups:
            if len(group) == 1 and isinstance(leaf := group[0], UploadedWithin) and not leaf.negated:
                bounds.append((leaf.start, leaf.end))
        tests = [self._within("fw.uploaded_at", "timestamptz", *each) for each in bounds]
        return "".join(f" and {test}" for test in tests if test)

    # -- the hits ------------------------------------------------------------------------------------------

    def hits(self, *, facets: Sequence[str], after: Position | None, limit: int) -> str:
        """The CTEs ``hits``, with _COLUMNS, and ``counted``."""
        if not self._groups:
            return self._walk()
        wants = limit if after is None else _BEST
        if not facets and len(self._groups) == 1 and _is_simple(self._groups[0]):
            named = self._count(self._groups[0].lists[0]) if self._groups[0].lists else 0
            if not self._filtered():
                return self._single(wants, named)
            if named > _FEW:
                return self._few() if self._filter_is_narrow() else self._single(wants, named)
        names = self._by_name(bool(facets), wants)
        if names is None:
            return self._walk()
        ctes, sources = [names], ["select * from source"]
        if not names:
            ctes, sources = ["named as (select 0 as many where false)"], []
        tests = self._tests([group.leaves for group in self._groups], names_only=True) + self._tests(self._others)
        for whole in self._whole_names() if names else ():  # however old they are
            for test in self._exact_keys(whole):
                sources.append(f"(select {_COLUMNS} from files f {self._texts_beside(self._others)}"
                               f" where {self._where} and {test}{tests} limit {_EXACT})")  # fmt: skip
        # Where the page can be filled with names, no text is looked at: it would come behind them.
        enough = f"(select count(*) from source) >= {wants}"

        many = "false"                                      # texts with all words, more than all pages can show

        def most(number: int) -> str:
            return f"(select case when {enough if names and not facets else 'false'} or {many} then 0 else {number} end)"

        texts = [group.texts for group in self._groups]
        if all(texts):
            query = " & ".join(f"({text})" for text in texts)
            ctes.append(f"in_texts as materialized ({self._texts(query, most(_BEST + 1), _BEST if facets else 4 * wants)})")
            sources.append(f"({self._by_text('select * from in_texts', self._tests(self._others))})")
            many = f"(select count(*) from in_texts) > {_BEST}"
        if len(self._groups) > 1:
            for group in [group for group in self._groups if group.texts][:_MIXED_TERMS]:
                others = [g.leaves for g in self._groups if g is not group] + self._others
                newest = self._texts(group.texts or "", most(_MIXED), _MIXED)
                sources.append(f"({self._by_text(newest, self._tests(others))})")
        ctes.append(f"hits as materialized ({' union '.join(sources) or f'select {_COLUMNS} from files f where false'})")
        over = f"(select max(many) from named) {f'= {_EXAMINED}' if self._filtered() else f'> {RANKED}'}"
        if names and not facets:
            over += f" or (select count(*) from source) >= {_FEW}"
            over += f" or {enough}" if any(texts) else ""
        over += f" or {many}"
        ctes.append(f"""counted as (
            select case when {over} then {RANKED + 1}
                        else least(count(*), {RANKED + 1}) end as matched from hits)""")
        return ", ".join(ctes)

    def _walk(self) -> str:
        source = "files f"
        if self._newest is not None:
            scope = conditions(FileFilter(owner_id=self._wanted.owner_id, deleted=self._wanted.deleted))[0]
            source = (
                f"(select * from files f where {scope} order by f.uploaded_at desc, f.id desc limit {self._newest}) f"
            )
        tests = self._tests(self._tree.groups)
        return f"""hits as materialized (
            select {_COLUMNS} from {source} {self._texts_beside(self._tree.groups)} where {self._where}{tests}
            order by f.uploaded_at desc, f.id desc limit {RANKED + 1}
        ), counted as (select count(*) as matched from hits)"""

    def _few(self) -> str:
        """All that pass the filter, and are found by it."""
        tests = self._tests(self._tree.groups)
        return f"""few as materialized (
            select {_COLUMNS} from files f {self._texts_beside(self._tree.groups)} where {self._where}{tests}
        ), hits as (select * from few), counted as (select least(count(*), {RANKED + 1}) as matched from few)"""

    def _single(self, best: int, named: int) -> str:
        """One group of single words: being in the lists is all that a name is tested for, but for the filter. The newest of
        each class are picked; where there is a filter, so many are tried until enough have passed."""
        group, picked = self._groups[0], []
        filtered = self._filtered()
        self.cut = filtered                                     # the ranges are counted, too
        tests = f"{self._where}{self._tests(self._others)}"
        beside = self._texts_beside(self._others)
        if group.lists is not None:
            words = group.lists[0]
            # Apart, since each is a class of its own: the words themselves, and those that they are a part of.
            own = [leaf.words[0] for leaf in group.leaves if isinstance(leaf, Term)]
            own = list(dict.fromkeys(own + ["/" + word for word in own]))
            others = tuple(word for word in words.words if word not in own)
            passing = f"join {self._file('f.id = e.file_id', tests, beside)} on true" if filtered else ""
            for some in (WordList(tuple(own)), WordList(others, words.beyond)):
                for begin in ("^", ""):
                    listed = tuple(begin + word for word in some.words if not (begin and word.startswith("/")))
                    ranges = tuple(begin + word for word in some.beyond)
                    if listed or ranges:
                        entries = self._entries(WordList(listed, ranges), best, passing)
                        picked.append(f"(select file_id from ({entries}) e"
                                      f" order by uploaded_at desc, file_id desc limit {best})")  # fmt: skip
            picked += [
                f"(select f.id from files f {beside} where {tests} and {test} limit {_EXACT})"
                for leaf in group.leaves for test in self._exact_keys(leaf)
            ]  # fmt: skip
            if words.beyond:                                    # the ranges are cut: the newest are looked through
                begins = " or ".join(f"f.name_words like {self.value('% ' + like(w) + '%')}" for w in words.beyond)
                picked.append(f"(select f.id from (select * from files f where f.is_deleted = %(deleted)s"
                              f" and {self._mine('f')} order by f.uploaded_at desc, f.id desc limit {_LOOKED_THROUGH}) f"
                              f" {beside} where {tests} and ({begins}) limit {best})")  # fmt: skip
        texts = "select null::uuid as id, null::timestamptz as uploaded_at, false as named, 0 as many where false"
        if group.texts is not None and named <= RANKED:         # else the names are more than all pages can show
            in_name = " or ".join(self._leaf(leaf, names_only=True) for leaf in group.leaves)
            # So many are followed to their files. Of more the number is not known, and those that the page needs are followed:
            # the newest, none where it is full of names.
            full = not filtered and named >= best
            needed = 0 if full else 4 * best
            texts = f"""
            select f.id, f.uploaded_at, {in_name} as named, t.many
            from ({self._texts(group.texts, str(_BEST + 1), needed)}) t
            left join {self._file("f.file_path = t.object_key and f.status = 'ready'", tests)} on true
            where f.id is not null or t.n = 1 limit {RANKED + 1}
            """
            picked.append(f"(select id from in_texts where id is not null order by uploaded_at desc, id desc limit {best})")
        new = f"case when max(many) > {_BEST} then {RANKED + 1} else count(id) filter (where not named) end"
        return f"""
        in_texts as materialized ({texts}),
        picked (file_id) as ({" union ".join(picked)}),
        hits as materialized (select {_COLUMNS} from picked join files f on f.id = picked.file_id),
        counted as (select least({named} + ({new}), {RANKED + 1}) as matched from in_texts)
        """

    def _file(self, which: str, tests: str, beside: str = "") -> str:
        """The one file, if it passes. A subquery of its own (offset 0), so that each is found by its key when it is asked for:
        the planner would rather find all that pass first, to be quicker where none does."""
        return f"lateral (select f.* from files f {beside} where {which} and {tests} offset 0) f"

    def _filter_is_narrow(self) -> bool:
        """Do so few files pass the filter that they are best found by it? As the counters say, or the indexes' first entries."""
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
                first = f"select from files f where {mine} and {self._leaf(leaf, False)}"
                known.append(scalar(self._tx, f"select count(*) from ({first} limit {_FEW + 1}) c", self.params))
        return any(count is not None and count <= _FEW for count in known)

    def _count(self, words: WordList) -> int:
        """How many names have one of the words; RANKED + 1 where there are more than are counted."""
        only = f"fw.is_deleted = %(deleted)s and {self._mine('fw')}{self._dates}"

        def count(tests: Sequence[str], most: int) -> int:
            each = (f"(select fw.file_id from file_words fw where {only} and {test} limit {most})" for test in tests)
            sql = f"""
            with e as materialized (select * from ({" union all ".join(each)}) e limit {most})
            select case when count(*) = {most} then {RANKED + 1} else (select count(*) from (select distinct * from e) d) end
            from e
            """
            self.next()
            row = self._tx.execute(sql, self.params, prepare=False).fetchone()
            assert row is not None
            return min(int(row[0]), RANKED + 1)

        first = f"fw.word = {self.value(words.words[0])}"
        if (most := count([first], RANKED + 1)) > RANKED or (len(words.words) == 1 and not words.beyond):
            return most
        tests = [f"fw.word = any({self.value(list(words.words))}::text[])"]
        tests += [f"fw.word >= {self.value(w)} and fw.word < {self.value(w + chr(0x10FFFF))}" for w in words.beyond]
        return count(tests, 2 * RANKED)

    def _by_name(self, facets: bool, wants: int) -> str | None:
        """The CTEs ``named`` and ``source``, files whose name fits all groups; "" where none can, None where walking the
        files is better."""
        if any(group.lists is None for group in self._groups):
            return ""
        lists = [words for group in self._groups for words in group.lists or ()]
        sizes = self._sizes(lists)
        first, *rest = (lists[at] for at in sorted(range(len(lists)), key=lambda at: sizes[at]))
        filtered = self._filtered()
        if self._wanted.folder_id is not None and min(sizes) > RANKED:
            return None
        also = "".join(
            f" and exists (select from file_words o where {self._mine('o')} and o.is_deleted = %(deleted)s"
            f" and o.word {self._any_of(words)}"
            f" and o.uploaded_at = e.uploaded_at and o.file_id = e.file_id)"
            for words in rest
            if len(words.words) <= 4 and not words.beyond
        )
        tests = self._tests([group.leaves for group in self._groups], names_only=True) + self._tests(self._others)
        # Of more names than are counted, the newest are ranked.
        most = _EXAMINED if filtered else RANKED + 1
        tried = facets or filtered or not all(map(_is_simple, self._groups))
        few = "" if tried else f" where many <= {RANKED} or n <= {2 * _BEST}"
        return f"""
        named as materialized (
            select *, count(*) over () as many, row_number() over (order by uploaded_at desc, file_id desc) as n from (
                select e.uploaded_at, e.file_id from ({self._entries(first, None)}) e where true{also}
                order by e.uploaded_at desc, e.file_id desc limit {most}) e
        ),
        source as materialized (
            select {_COLUMNS} from (select * from named{few} order by n) e
            join {self._file("f.id = e.file_id", f"{self._where}{tests}", self._texts_beside(self._others))} on true
            order by e.n limit {RANKED + 1 if facets else _FEW}
        )
        """

    def _filtered(self) -> bool:
        """Is there more of a filter than the dates that entries of words have?"""
        def is_date(group: tuple[Leaf, ...]) -> bool:
            return len(group) == 1 and isinstance(group[0], UploadedWithin) and not group[0].negated

        wanted = replace(self._wanted, date_from=None, date_to=None)
        return not all(map(is_date, self._others)) or wanted != FileFilter(self._wanted.owner_id, deleted=self._wanted.deleted)

    def _texts(self, query: str, most: str, needed: int) -> str:
        """``most`` texts of these words, with their number; of more than all pages can show only those ``needed`` have their
        key, which are the newest."""
        return f"""
        select case when many <= {_BEST} or n <= {needed} then object_key end as object_key, words, many, n
        from (select object_key, words, count(*) over () as many, row_number() over (order by created_at desc) as n
              from (select t.object_key, t.words, t.created_at from object_texts t
                    where {self._mine("t")} and t.words @@ {self.value(query)}::tsquery
                    {"order by t.created_at desc" if needed else ""} limit {most}) t) t
        """

    def _by_text(self, texts: str, tests: str) -> str:
        """Files with one of the texts, ready ones: others have no text that counts."""
        return f"""
        select {_COLUMNS} from ({texts}) t
        join {self._file("f.file_path = t.object_key and f.status = 'ready'", f"{self._where}{tests}")} on true
        limit {RANKED + 1}
        """

    def _entries(self, words: WordList, most: int | None, passing: str = "") -> str:
        """Time and file of the names with one of the words, newest first: ``most`` of each word, whose files pass."""
        only = f"fw.is_deleted = %(deleted)s and {self._mine('fw')}{self._dates}"
        if passing:
            tried = f"order by fw.uploaded_at desc, fw.file_id desc limit {max(_FEW, _EXAMINED // len(words.words or '1'))}"
            word = f'select fw.uploaded_at, fw.file_id from file_words fw where {only} and fw.word = w.word collate "C" {tried}'
            return (
                f"select e.* from unnest({self.value([*words.words, *words.beyond])}::text[]) w (word), lateral ("
                f"select e.* from ({word}) e {passing}"
                f" order by e.uploaded_at desc, e.file_id desc limit {most}) e"
            )
        columns = "fw.uploaded_at, fw.file_id"
        order = "order by fw.uploaded_at desc, fw.file_id desc" + (f" limit {most}" if most else "")
        if len(words.words) == 1 and not words.beyond:
            return f"select {columns} from file_words fw where {only} and fw.word = {self.value(words.words[0])} {order}"
        if most is None:
            any_word = f"any({self.value(list(words.words))}::text[])"
            listed = f"select {columns} from file_words fw where {only} and fw.word = {any_word}"
        else:
            listed = (
                f"select e.* from unnest({self.value(list(words.words))}::text[]) w (word), lateral (select {columns}"
                f' from file_words fw where {only} and fw.word = w.word collate "C" {order}) e'
            )
        ranges = [
            f"(select {columns} from file_words fw where {only} and fw.word >= {self.value(word)}"
            f" and fw.word < {self.value(word + chr(0x10FFFF))} limit {_IN_RANGE})"
            for word in words.beyond
        ]
        return " union ".join([f"({listed})", *ranges]) if ranges else listed

    def _any_of(self, words: WordList) -> str:
        """One word by =, so that the entries come in order and two words are merged."""
        if len(words.words) == 1:
            return f"= {self.value(words.words[0])}"
        return f"= any({self.value(list(words.words))}::text[])"

    def _sizes(self, lists: Sequence[WordList]) -> list[int]:
        """How many entries the lists have, counted to one more than are ranked."""
        counts = ", ".join(
            f"(select count(*) from (select from file_words fw where fw.is_deleted = %(deleted)s and {self._mine('fw')}"
            f"{self._dates} and fw.word = any(%(l{n})s::text[]) limit {RANKED + 1}) c)"
            for n in range(len(lists))
        )
        params = {f"l{n}": list(words.words) for n, words in enumerate(lists)}
        self.next()
        row = self._tx.execute(f"select {counts}", self.params | params, prepare=False).fetchone()
        return [RANKED + 1 if words.beyond else count for words, count in zip(lists, row or (), strict=True)]

    def _mine(self, table: str) -> str:
        return f"{table}.owner_id = %(owner)s" if self._wanted.owner_id is not None else "true"

    # -- tests of each file --------------------------------------------------------------------------------

    def _tests(self, groups: Sequence[tuple[Leaf, ...]], *, names_only: bool = False) -> str:
        return "".join(
            " and (" + " or ".join(self._leaf(leaf, names_only) for leaf in group) + ")" for group in groups
        )

    def _texts_beside(self, groups: Sequence[tuple[Leaf, ...]]) -> str:
        if any(isinstance(leaf, Term) and leaf.where != "name" for group in groups for leaf in group):
            text = "object_texts t where t.object_key = f.file_path and f.status = 'ready'"
            if self._newest is None:
                return f"left join {text.replace(' where ', ' on ')}"
            return f"left join lateral (select t.words from {text} offset 0) t on true"     # of these files alone
        return ""

    def _leaf(self, leaf: Leaf, names_only: bool) -> str:
        match leaf:
            case Term():
                test = self._term(leaf, names_only)
            case TypeIs(value=value):
                test = self._type(value.lower())
            case ExtensionIs(value=value):
                test = f"f.name_key like {self.value('%.' + like(name_key(value.lstrip('.'))))}"
            case HasTag(value=value):
                test = f"f.tags && {self.value([value, value.casefold()])}::text[]"
            case SizeWithin(low=low, high=high):
                test = self._within("f.file_size", "bigint", low, high)
            case UploadedWithin(start=start, end=end):
                test = self._within("f.uploaded_at", "timestamptz", start, end)
        return f"not ({test})" if leaf.negated else f"({test})"

    def _term(self, term: Term, names_only: bool) -> str:
        tests = [] if term.where == "content" else self._in_name(term)
        if term.where != "name" and not names_only and term.words:
            tests.append(f"coalesce(t.words @@ {self.value(self._queries[term])}::tsquery, false)")
        return " or ".join(tests) or "false"

    def _in_name(self, term: Term) -> list[str]:
        literal = f"f.name_key like {self.value('%' + like(term.key) + '%')}"
        if not term.words:
            return [literal]
        if term.kind == "phrase":
            return [self._spelt(term, "% ", " %")]
        begins = self._spelt(term, "% ", "%")
        if term.kind == "prefix" or len(term.key) < SHORTEST_PART or term.key.isdecimal():
            return [begins]
        near = [f"f.name_words like {self.value(f'% {like(word)} %')}" for word in self._near(term)]
        return [literal, *([begins] if len(term.words) > 1 else []), *near]

    def _spelt(self, term: Term, before: str, behind: str) -> str:
        """That the words of a name have the term's in order, between what the patterns say."""
        return " or ".join(
            f"f.name_words like {self.value(before + like(spelling) + behind)}" for spelling in term.spellings
        )

    def _type(self, value: str) -> str:
        if value in FAMILIES:
            return f"f.file_type = {self.value(value)}"
        if value.endswith("/*"):
            return f"starts_with(f.mime_type, {self.value(value[:-1])})"
        if "/" in value:
            return f"f.mime_type = {self.value(value)}"
        ending = self.value("%." + like(value))
        return f"f.name_key like {ending} or f.mime_type like {self.value('%' + like(value) + '%')}"

    def _within(self, column: str, kind: str, low: Any, high: Any) -> str:
        tests = [] if low is None else [f"{column} >= {self.value(low)}::{kind}"]
        tests += [] if high is None else [f"{column} < {self.value(high)}::{kind}"]
        return " and ".join(tests)

    # -- the order -----------------------------------------------------------------------------------------

    def _exact_keys(self, leaf: Leaf) -> list[str]:
        """Tests of names that are the term, or the term and an extension: ranges of files_by_name."""
        if not isinstance(leaf, Term) or leaf.kind == "prefix" or leaf.where == "content":
            return []
        key = leaf.key
        return [
            f"f.name_key = {self.value(key)}",
            f"f.name_key >= {self.value(key + '.')} and f.name_key < {self.value(key + '/')}",
        ]

    def _terms(self) -> list[list[Term]]:
        """For each group that has terms to be found, those that a name may have."""
        return [
            [leaf for leaf in group if isinstance(leaf, Term) and not leaf.negated and leaf.where != "content"]
            for group in self._tree.groups
            if any(isinstance(leaf, Term) and not leaf.negated for leaf in group)
        ]

    def _whole_names(self) -> list[Term]:
        """What whole names are compared with: each alternative of the one group, or all terms together."""
        groups = self._terms()
        if len(groups) == 1:
            return groups[0]
        if not groups or any(len(group) != 1 for group in groups):
            return []
        text = " ".join(group[0].text for group in groups)
        return [Term(text, "prefix" if groups[-1][0].kind == "prefix" else "part")]

    def score(self) -> str:
        """The rank class of a hit, in millionths."""
        groups = self._terms()
        if not groups:
            return str(EXACT)
        cases: list[tuple[str, int]] = []
        for term in self._whole_names():
            key, last = like(term.key), "" if term.kind == "prefix" else " "
            if term.kind != "prefix":
                exact = f"f.name_key = {self.value(term.key)} or f.name_key like {self.value(key + '.%')}" \
                        f" and f.name_key not like {self.value(key + '.%.%')}"  # fmt: skip
                cases.append((exact, EXACT))
            if term.words:
                cases.append((self._spelt(term, " ", last + "%"), START))
            if term.kind != "phrase":
                cases.append((f"f.name_key like {self.value(key + '%')}", BEGINNING))
            if len(term.words) > 1 or (term.words and term.kind == "phrase"):
                cases.append((self._spelt(term, "% ", last + "%"), PHRASE))
        cases.sort(key=lambda case: -case[1])

        def everywhere(test: Any) -> str:
            each = [" or ".join(test(term) for term in group) or "false" for group in groups]
            return " and ".join(f"({any_of})" for any_of in each)

        cases.append((everywhere(self._as_words), WORDS))
        cases.append((everywhere(self._as_parts), PARTS))
        if any(self._near(term) for group in groups for term in group):
            cases.append((everywhere(lambda term: " or ".join(self._in_name(term))), NEAR))
        written = " ".join(f"when {test} then {score}" for test, score in cases)
        return f"(case {written} else {CONTENTS} end)"

    def _as_words(self, term: Term) -> str:
        if not term.words:
            return f"f.name_key like {self.value('%' + like(term.key) + '%')}"
        return self._spelt(term, "% ", "%" if term.kind == "prefix" else " %")

    def _as_parts(self, term: Term) -> str:
        literal = f"f.name_key like {self.value('%' + like(term.key) + '%')}"
        return f"{literal} or {self._spelt(term, '% ', '%')}" if term.words else literal

    def behind(self, after: Position | None) -> str:
        if after is None:
            return ""
        return (
            f"where (score, uploaded_at, id) < ({self.value(after.score)}::integer,"
            f" {self.value(after.uploaded_at)}::timestamptz, {self.value(after.id)}::uuid)"
        )


def _sought(term: Term) -> list[list[Sought]]:
    """What a name that fits the term has words of: of each list one; the file is tested all the same."""
    words = [word[:MAX_WORD] for word in term.words][:8]
    first, last = words[0], words[-1]
    sought = [[Sought(word)] for word in words]
    open_ended = term.kind != "phrase" and (not is_run(last) or len(last) == 1)
    if open_ended:
        sought[-1] = [Sought(last, begins=True)]
    if term.kind == "part" and not is_run(first):
        if len(words) == 1:
            return [[sought_part(first)]]
        end = sought_end(first)                             # of y_rep the y may end a longer word
        sought[0] = [end] if end.pattern else []
    if term.token is not None:                              # report2026 may be one word of a name, or two
        longest = max(range(len(words)), key=lambda at: (len(words[at]), -at))
        return [[sought_part(term.token), *(sought[longest] or [Sought(words[longest])])]]
    return [alternatives for alternatives in sought if alternatives]


def _is_hint(term: Term) -> bool:
    """A beginning so short that nearly all texts have it: only names are looked up by it (THREATS T81)."""
    last = term.words[-1]
    return term.kind == "prefix" and term.where == "any" and len(last) < SHORTEST_PART and not is_run(last)


def _is_simple(group: _Group) -> bool:
    """Single words: being in the lists is all that a name has to be tested for."""
    return all(
        isinstance(leaf, Term) and len(leaf.words) == 1 and len(leaf.words[0]) <= MAX_WORD
        and (leaf.kind != "part" or leaf.words[0] == leaf.key)
        for leaf in group.leaves
    )  # fmt: skip


def _either(lists: Sequence[WordList]) -> WordList:
    words = dict.fromkeys(word for each in lists for word in each.words)
    return WordList(tuple(words), tuple(dict.fromkeys(word for each in lists for word in each.beyond)))


def _facet(expression: str) -> str:
    return (
        "(select coalesce(json_agg(json_build_object('value', value, 'count', n) order by n desc, value), '[]') from ("
        f"select {expression} as value, count(*) as n from hits group by 1 order by 2 desc, 1 limit {_FACET_VALUES}) t)"
    )
