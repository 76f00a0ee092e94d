"""Search: the files that match a query, best first, and suggestions while typing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import takewhile
from typing import Any, Literal, TypeVar

from core.cursors import Cursors, Page
from core.errors import Unavailable
from core.highlight import mark, snippet
from core.names import name_key
from core.principal import Principal
from core.search_query import MAX_TEXT, SearchTree, Term, parse
from core.tokenizer import is_near, is_run, misspellable, parts, phrase, swapped
from db import Database, Tx, file_lists, set_timeout
from db import errors as db_errors
from db.file_lists import FileFilter
from db.records import FileRecord, FileView, ReadingKey
from db.search import index, query, words
from db.search.query import Clock
from services.access.visibility import listed, owner_scope
from services.library.files import check_folder

T = TypeVar("T")

MAX_RESULTS = 1_000  # of all pages together
_FEW = 20  # with fewer matches, misspellings are corrected
_SECONDS = 0.8  # for a search of all files (T81)
_NEWEST = {20_000: 0.4, 1_000: 5.0}  # after that, only so many of the newest are searched; seconds for these
_LOOKED_AT = 100  # files for suggestions
_MAX_CORRECTED = 4  # terms
_MAX_NEAR = 8  # corrections of one term
_READ = 8_000  # characters of each text in which a snippet is looked for
_READ_AGAIN = 400_000  # characters of all texts together without a match so far
_SHORTEST_STEM = 3  # characters
_REPAIR = 600.0  # seconds


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """The parameters of ``GET /api/search``."""

    query: str = ""
    file_type: str | None = None  # a family, a MIME type, or image/*
    folder: int | Literal["root"] | None = None  # including all below; root: files in no folder
    date_from: datetime | None = None
    date_to: datetime | None = None  # excluded
    facets: tuple[str, ...] = ()
    owner: str | None = None
    limit: int = 50
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class SearchHit(FileView):
    """A file that matches."""

    score: float  # 0 to 1
    highlights: dict[str, str | None]  # HTML


@dataclass(frozen=True, slots=True)
class SearchPage(Page[SearchHit]):
    """A page of hits, with totals of all matches."""

    facets: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)


class Search:
    """Searches files."""

    def __init__(self, db: Database, cursors: Cursors):
        self._db = db
        self._cursors = cursors

    def search(self, principal: Principal, request: SearchRequest) -> SearchPage:
        """A page of hits. Any text is a valid query; an empty one finds everything, newest first. Raises NotAllowed, NotFound for
        a folder, InvalidCursor for a cursor of another search, Unavailable."""
        tree = parse(request.query)
        folder, _ = listed(principal, request.folder, recursive=True)
        wanted = FileFilter(
            owner_id=owner_scope(principal, request.owner),
            file_type=request.file_type,
            folder_id=folder if isinstance(folder, int) else None,
            in_root=folder == "root",
            recursive=isinstance(folder, int),
            date_from=request.date_from,
            date_to=request.date_to,
            deleted=tree.deleted,
        )
        scope = f"search:{principal.owner_id}:{wanted}:{request.query[:MAX_TEXT]}"
        seen, *after = self._cursors.open(request.cursor, scope=scope) if request.cursor is not None else [0]
        seen = int(str(seen))
        room = min(request.limit, MAX_RESULTS - seen)
        with self._db.connection() as conn:
            find = partial(query.find, wanted=wanted, tree=tree, facets=request.facets, after=after, limit=room + 1)
            corrections: dict[str, list[str]] = {}
            clock = Clock(_SECONDS)
            found = _within(clock, conn, find)
            complete = found is not None
            for newest, seconds in _NEWEST.items() if found is None else ():
                found = found or _within(Clock(seconds), conn, partial(find, newest=newest))
            if found is None:
                raise Unavailable("The database is too busy to search; try again.")
            if complete and found.matched < _FEW:
                near = _within(clock, conn, partial(_corrections, wanted=wanted, tree=tree))
                corrected = _within(clock, conn, partial(find, corrections=near)) if near else found
                complete = near is not None and corrected is not None
                corrections, found = near or {}, corrected or found
            total = found.matched if complete and found.matched <= query.RANKED else None
            if not tree.groups and wanted.unfiltered:
                total = file_lists.total(conn, wanted)
            shown = found.hits[:room]
            if not shown and isinstance(request.folder, int):
                check_folder(conn, principal, request.folder)
            snippets = _snippets(conn, tree, found.stems, [hit.file for hit in shown])
        marks = [parts(term.key) or [term.key] for term in tree.terms]
        marks += [[word] for near in corrections.values() for word in near]
        hits = []
        for file, previews, score in shown:
            highlights = {"name": mark(file.original_name, marks), "content": snippets.get(file.reading)}
            hits.append(SearchHit(file, previews, score / 1e6, highlights))
        more = len(found.hits) > room and seen + room < MAX_RESULTS
        next_cursor = self._cursors.sign([seen + room, *shown[-1].position], scope=scope) if more else None
        return SearchPage(hits, next_cursor, total, found.facets)

    def suggest(self, principal: Principal, prefix: str, limit: int = 10) -> list[str]:
        """Suggestions from the caller's files outside the trash: names that start with the prefix, ignoring case, words inside
        names, then names with such a word. Distinct; wildcards are literal."""
        typed = name_key(index.UNSTORABLE.sub("", prefix[:MAX_TEXT]))
        typed_words = phrase(typed)
        folder = principal.folder_id
        wanted = FileFilter(owner_id=principal.owner_id, folder_id=folder, recursive=folder is not None)
        with self._db.connection() as tx:
            found = words.names_beginning(tx, wanted, typed, limit=limit)
            if typed_words and typed.endswith(typed_words[-1]):
                inside = SearchTree(((Term(" ".join(typed_words), "prefix", "name"),),))
                find = partial(query.find, wanted=wanted, tree=inside, limit=_LOOKED_AT)
                named = _within(Clock(_SECONDS), tx, find)
                names = [hit.file.original_name for hit in named.hits] if named else []
                if not is_run(typed):
                    longer = {word for name in names for word in phrase(name) if len(word) > len(typed)}
                    found += sorted(word for word in longer if word.startswith(typed))[:limit]
                found += [name for name in names if not name_key(name).startswith(typed)]
        return list(dict.fromkeys(found))[:limit]

    def index(self) -> int:
        """Index the queued files; returns how many. Workers call it every second, several at once if there are several."""
        count = 0
        while True:
            with self._db.transaction() as tx:
                done = index.index_queued(tx)
            count += done
            if done == 0:
                return count

    def repair_index(self) -> int:
        """Queue what the index lacks, which should be nothing, and forget words that no name has. Returns how many files."""
        with self._db.transaction() as tx:
            set_timeout(tx, _REPAIR)
            count = index.queue_missing(tx)
        last: tuple[str, str] | None = ("", "")
        while last is not None:
            with self._db.transaction() as tx:
                last = index.forget_words(tx, last)
        return count


def _corrections(conn: Tx, *, wanted: FileFilter, tree: SearchTree, clock: Clock) -> dict[str, list[str]]:
    """For terms that may be misspelt, similar words in the names that are searched."""
    found: dict[str, list[str]] = {}
    single = [term.key for term in tree.terms if term.kind == "part" and term.words == (term.key,)]
    for word in [word for word in dict.fromkeys(single) if misspellable(word)][:_MAX_CORRECTED]:
        clock.limit(conn)
        similar = words.similar(conn, wanted.owner_id, word, swapped(word))
        near = {other for other in similar if other != word and is_near(word, other)}
        if near:
            found[word] = sorted(near, key=lambda other: (abs(len(other) - len(word)), other))[:_MAX_NEAR]
    return found


def _snippets(
    conn: Tx, tree: SearchTree, stems: Mapping[str, Sequence[str]], hits: Sequence[FileRecord]
) -> dict[ReadingKey, str]:
    """A line around the first match in the text of each ready file (T82). A bounded part of the texts is
    read; if it has no match, there is no line."""
    terms = [leaf for group in tree.groups for leaf in group if isinstance(leaf, Term)]
    asked = [piece for term in terms if not term.negated and term.where != "name" for piece in parts(term.key)]
    shared = [_shared(word, stem) for word in asked for stem in stems.get(word, ())]
    near = [*asked, *(beginning for beginning in shared if len(beginning) >= _SHORTEST_STEM)]
    of = {hit.reading for hit in hits if asked and hit.status == "ready"}
    found: dict[ReadingKey, str] = {}
    for skip, length in ((0, _READ), (_READ, _READ_AGAIN)):
        texts = index.texts(conn, of, skip=skip, length=length // (len(of) if skip else 1)) if of else {}
        for key, text in texts.items():
            # The exact words first: a stem of one language may be a word of another.
            if (line := snippet(text, asked) or snippet(text, near)) is not None:
                found[key] = line
        of = {key for key, text in texts.items() if key not in found and len(text) == length}
    return found


def _shared(word: str, stem: str) -> str:
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(word, stem, strict=False)))


def _within(clock: Clock, conn: Tx, look: Callable[..., T]) -> T | None:
    """The result of one search; None if the clock runs out first."""
    try:
        clock.begin(conn)
        return look(conn, clock=clock)
    except db_errors.QueryCanceled:
        return None
    finally:
        conn.commit()  # a rollback would forget what is prepared
