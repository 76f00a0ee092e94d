"""Search: a person's words -> the files of theirs that fit, best first; and names that begin as typed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from time import monotonic
from typing import Any, Literal, TypeVar
from uuid import UUID

import psycopg

from core.errors import InvalidCursor, InvalidInput
from core.ids import decode_cursor, encode_cursor
from core.names import name_key
from core.principal import Principal
from core.search_query import MAX_TEXT, SearchTree, highlight, is_near, misspellable, parse, words_of
from db import Database, Tx, file_lists, files
from db import search as index
from db.file_lists import FileFilter
from db.files import FileRecord
from services.access import owner_scope

T = TypeVar("T")

MAX_RESULTS = 1_000         # of all pages together
_FEW = 20                   # with fewer matches than this, near words are tried too
_SECONDS = 1.2              # for the whole search; then it is content with the newest files (THREATS T81)
_MAX_CORRECTED = 4          # terms
_MAX_NEAR = 8               # words tried for one term
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class SearchQuery:
    query: str = ""
    file_type: str | None = None            # a family, a MIME type, or image/*
    folder: int | Literal["root"] | None = None     # with all below; root: what is in no folder
    date_from: datetime | None = None
    date_to: datetime | None = None         # excluded
    facets: tuple[str, ...] = ()
    owner: str | None = None
    limit: int = 50
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    file: FileRecord
    score: float                            # 0 to 1
    highlights: dict[str, str | None]       # HTML


@dataclass(frozen=True, slots=True)
class SearchPage:
    items: list[Hit]
    next_cursor: str | None
    total: int | None
    facets: dict[str, list[dict[str, Any]]]


class Search:
    def __init__(self, db: Database, cursor_secret: bytes):
        self._db = db
        self._cursor_secret = cursor_secret

    def search(self, principal: Principal, query: SearchQuery) -> SearchPage:
        """A page of hits; any text is a valid query, an empty one finds everything, newest first.

        Raises InvalidInput for an unknown facet, InvalidCursor for a cursor of another search."""
        unknown = set(query.facets) - index.FACETS
        if unknown:
            message = f"one of {', '.join(sorted(index.FACETS))}"
            raise InvalidInput("Unknown facet.", errors=[{"field": "facets", "message": message}])
        tree = parse(query.query)
        wanted = FileFilter(
            owner_id=owner_scope(principal, query.owner), file_type=query.file_type,
            folder_id=query.folder if isinstance(query.folder, int) else None, in_root=query.folder == "root",
            recursive=isinstance(query.folder, int), date_from=query.date_from, date_to=query.date_to,
            deleted=tree.deleted,
        )
        scope = f"search:{principal.owner_id}:{wanted}:{query.query[:MAX_TEXT]}"
        seen, after = self._position(query.cursor, scope)
        room = min(query.limit, MAX_RESULTS - seen)
        facets = tuple(dict.fromkeys(query.facets))
        with self._db.connection() as conn:
            find = partial(index.find, wanted=wanted, tree=tree, facets=facets, after=after, limit=room + 1)
            corrections: dict[str, list[str]] = {}
            deadline = monotonic() + _SECONDS
            found = _within(deadline, conn, find)
            complete = found is not None
            if found is None:
                found = find(conn, newest_only=True)
            elif found.matched < _FEW and (corrections := _corrections(deadline, conn, wanted, tree)):
                found = _within(deadline, conn, partial(find, corrections=corrections)) or found
            records = {record.id: record for record in files.all_of(conn, [hit.id for hit in found.hits[:room]])}
            total = found.matched if complete and found.matched <= index.RANKED else None
            if not tree.groups and wanted.unfiltered:
                total = file_lists.total(conn, wanted)
        marks = [term.text for term in tree.terms] + [word for words in corrections.values() for word in words]
        hits = [
            Hit(file, position.score / 1e6, {"name": highlight(file.original_name, marks), "content": None})
            for position in found.hits[:room]
            # None or elsewhere: purged, trashed or restored since it was found.
            if (file := records.get(position.id)) is not None and file.is_deleted == tree.deleted
        ]
        next_cursor = None
        if len(found.hits) > room and seen + room < MAX_RESULTS:
            last = found.hits[room - 1]
            next_cursor = encode_cursor(
                [seen + room, last.score, last.uploaded_at, str(last.id)], scope=scope, secret=self._cursor_secret,
            )
        return SearchPage(hits, next_cursor, total, found.facets)

    def suggest(self, principal: Principal, prefix: str, limit: int = 10) -> list[str]:
        """Distinct names of the caller's own files that begin so, whatever their case; wildcards are literal."""
        prefix = _UNSTORABLE.sub("", prefix[:MAX_TEXT])
        with self._db.connection() as tx:
            return index.names_beginning(tx, principal.owner_id, name_key(prefix), limit=limit)

    def _position(self, cursor: str | None, scope: str) -> tuple[int, index.Position | None]:
        if cursor is None:
            return 0, None
        try:
            seen, score, uploaded_at, file_id = decode_cursor(cursor, scope=scope, secret=self._cursor_secret)
            return int(str(seen)), index.Position(int(str(score)), str(uploaded_at), UUID(str(file_id)))
        except ValueError as error:
            raise InvalidCursor() from error


def _corrections(deadline: float, conn: Tx, wanted: FileFilter, tree: SearchTree) -> dict[str, list[str]]:
    """For terms that may be misspelt, the words near them in the names that are searched."""
    found: dict[str, list[str]] = {}
    for term in [term for term in tree.terms if misspellable(term)][:_MAX_CORRECTED]:
        names = _within(deadline, conn, partial(index.similar_names, wanted=wanted, word=term.text)) or []
        words = {word for name in names for word in words_of(name)} - {term.text}
        near = [word for word in words if is_near(term.text, word)]
        if near:
            found[term.text] = sorted(near, key=lambda word: (abs(len(word) - len(term.text)), word))[:_MAX_NEAR]
    return found


def _within(deadline: float, conn: Tx, look: Callable[[Tx], T]) -> T | None:
    """What one search found; None where the deadline (of the monotonic clock) came first."""
    left = int((deadline - monotonic()) * 1_000)
    if left <= 0:
        return None
    try:
        with conn.transaction():
            index.bound(conn, left)
            return look(conn)
    except psycopg.errors.QueryCanceled:
        return None
