"""Demonstration rows, written by COPY. Triggers count them as they count all rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from core.demo import DemoFile
from db import Tx, execute, scalar
from db.records import ReadingKey
from db.search import index

_FILES = """id owner_id original_name file_path mime_type file_type file_size file_hash folder_id status problem visibility tags
metadata uploaded_at last_accessed first_access download_count is_deleted deleted_at"""
# in_bucket is false until ``set_stored``.
_OBJECTS = "object_key owner_id size sha256 etag content_type in_bucket created_at"
_EVENTS = "file_id owner_id action actor at"
_TABLES = "files, objects, readings, object_texts, search_index, search_words, file_tags, folders, audit_events"


def owner_is_new(tx: Tx, owner_id: str) -> bool:
    """Whether the owner never had a file, a folder or an upload."""
    sql = """
    select not exists (select from owner_usage where owner_id = %(owner)s)
       and not exists (select from folders where owner_id = %(owner)s)
    """
    return bool(scalar(tx, sql, {"owner": owner_id}))


def add_files(tx: Tx, files: Sequence[DemoFile], *, owners: Sequence[str], folders: Sequence[Sequence[int]]) -> None:
    """Add objects, files and their events. The numbers of owners and folders in ``files`` are indexes of these lists."""
    objects = [
        (f.object_key, owners[f.owner], f.size, f.sha256, f.sha256[:32], f.mime_type, False, f.uploaded_at)
        for f in files
        if not f.is_copy
    ]
    _copy(tx, "objects", _OBJECTS, objects)
    # Their texts may be written at the same time.
    shared = "select from objects where object_key = any(%(keys)s) order by object_key for share"
    execute(tx, shared, {"keys": [f.object_key for f in files if f.is_copy]})
    _copy(tx, "files", _FILES, [_row(f, owners[f.owner], folders[f.owner]) for f in files])
    _copy(tx, "audit_events", _EVENTS, [event for f in files for event in _history(f, owners[f.owner])])


def _row(file: DemoFile, owner_id: str, folders: Sequence[int]) -> tuple[Any, ...]:
    folder_id = None if file.folder is None else folders[file.folder]
    problem = None if file.problem is None else Jsonb(file.problem)
    names = (
        file.id,
        owner_id,
        file.original_name,
        file.object_key,
        file.mime_type,
        file.file_type,
        file.size,
        file.sha256,
    )
    state = (folder_id, file.status, problem, file.visibility, file.tags, Jsonb(file.metadata))
    times = (file.uploaded_at, file.last_accessed, file.last_accessed)
    return (*names, *state, *times, file.download_count, file.deleted_at is not None, file.deleted_at)


def _history(file: DemoFile, owner_id: str) -> list[tuple[Any, ...]]:
    happened: list[tuple[str, datetime]] = [("uploaded", file.uploaded_at)]
    if file.last_accessed is not None:
        happened.append(("downloaded", file.last_accessed))
    if file.deleted_at is not None:
        happened.append(("trashed", file.deleted_at))
    return [(file.id, owner_id, action, owner_id, at) for action, at in happened]


def add_texts(tx: Tx, found: Sequence[tuple[str, str, str]]) -> None:
    """Add texts: (object key, text, ISO 639-1 language), sorted by key, so that all lock in one order."""
    sql = "select file_path, read_as from files where file_path = any(%(keys)s)"
    read_as = dict(tx.execute(sql, {"keys": [key for key, _, _ in found]}).fetchall())  # copies keep the extension
    with tx.pipeline():
        for key, content, language in found:
            index.put_text(tx, ReadingKey(key, read_as.get(key, "")), content=content, language=language)


def set_stored(tx: Tx, object_key: str, *, etag: str) -> None:
    """Record that the bucket holds the object."""
    sql = """
    update objects set in_bucket = true, etag = %(etag)s, checksum_state = 'verified', checked_at = now()
    where object_key = %(key)s
    """
    execute(tx, sql, {"key": object_key, "etag": etag})


def analyze(tx: Tx) -> None:
    """Update the planner's statistics. Call it outside a transaction; it takes as long as it takes."""
    execute(tx, "set statement_timeout = 0")
    tx.answer_timeout = 86_400.0
    try:
        execute(tx, f"vacuum (analyze) {_TABLES}")
    finally:
        execute(tx, "reset statement_timeout")


def _copy(tx: Tx, table: str, columns: str, rows: Sequence[tuple[Any, ...]]) -> None:
    names = sql.SQL(", ").join(map(sql.Identifier, columns.split()))
    statement = sql.SQL("copy {} ({}) from stdin").format(sql.Identifier(table), names)
    with tx.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)
