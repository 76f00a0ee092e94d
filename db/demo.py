"""Demonstration rows by COPY. The triggers of the tables count them like any others."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from core.demo import DemoFile
from db import Tx, execute, scalar
from db.search import texts

_FILES = (
    "id",
    "owner_id",
    "original_name",
    "file_path",
    "mime_type",
    "file_type",
    "file_size",
    "file_hash",
    "folder_id",
    "status",
    "problem",
    "visibility",
    "tags",
    "metadata",
    "uploaded_at",
    "last_accessed",
    "download_count",
    "is_deleted",
    "deleted_at",
)
# in_bucket: the bucket holds none of the bytes, until ``bytes_are_there`` says so.
_OBJECTS = ("object_key", "owner_id", "size", "sha256", "etag", "content_type", "in_bucket", "created_at")
_EVENTS = ("file_id", "owner_id", "action", "actor", "at")


def owner_is_new(tx: Tx, owner_id: str) -> bool:
    """Whether the owner has never had a file, a folder or an upload."""
    sql_text = """
    select not exists (select from owner_usage where owner_id = %(owner)s)
       and not exists (select from folders where owner_id = %(owner)s)
    """
    return bool(scalar(tx, sql_text, {"owner": owner_id}))


def add_files(tx: Tx, files: Sequence[DemoFile], *, owners: Sequence[str], folders: Sequence[Sequence[int]]) -> None:
    """Objects, files and their history; ``owners`` and ``folders`` say which ids the numbers in the files stand for."""
    _copy(
        tx,
        "objects",
        _OBJECTS,
        [
            (f.object_key, owners[f.owner], f.size, f.sha256, f.sha256[:32], f.mime_type, False, f.uploaded_at)
            for f in files
            if not f.is_copy
        ],
    )
    # Their texts may be on their way.
    shared = "select from objects where object_key = any(%(keys)s) order by object_key for share"
    execute(tx, shared, {"keys": [f.object_key for f in files if f.is_copy]})
    _copy(
        tx,
        "files",
        _FILES,
        [
            (
                f.id,
                owners[f.owner],
                f.original_name,
                f.object_key,
                f.mime_type,
                f.file_type,
                f.size,
                f.sha256,
                None if f.folder is None else folders[f.owner][f.folder],
                f.status,
                None if f.problem is None else Jsonb(f.problem),
                f.visibility,
                f.tags,
                Jsonb(f.metadata),
                f.uploaded_at,
                f.last_accessed,
                f.download_count,
                f.deleted_at is not None,
                f.deleted_at,
            )
            for f in files
        ],
    )
    _copy(tx, "file_events", _EVENTS, [event for f in files for event in _history(f, owners[f.owner])])


def _history(file: DemoFile, owner_id: str) -> list[tuple[Any, ...]]:
    happened: list[tuple[str, datetime]] = [("uploaded", file.uploaded_at)]
    if file.last_accessed is not None:
        happened.append(("downloaded", file.last_accessed))
    if file.deleted_at is not None:
        happened.append(("trashed", file.deleted_at))
    return [(file.id, owner_id, action, owner_id, at) for action, at in happened]


def add_texts(tx: Tx, found: Sequence[tuple[str, str, str]]) -> None:
    """Keep texts as their extraction would: (object key, text, ISO 639-1 language); sorted, so that all lock in one order."""
    with tx.pipeline():
        for key, content, language in found:
            texts.put(tx, key, content=content, language=language)


def bytes_are_there(tx: Tx, object_key: str, *, etag: str) -> None:
    execute(
        tx,
        "update objects set in_bucket = true, etag = %(etag)s, checksum_state = 'verified', checked_at = now()"
        " where object_key = %(key)s",
        {"key": object_key, "etag": etag},
    )


def settle(tx: Tx) -> None:
    """Tell the planner of the new rows at once. Outside a transaction, and as long as it takes."""
    execute(tx, "set statement_timeout = 0")
    tx.answer_timeout = 86_400.0
    try:
        for table in (
            "files",
            "objects",
            "object_texts",
            "file_texts",
            "file_words",
            "owner_words",
            "folders",
            "file_events",
        ):
            execute(tx, f"vacuum (analyze) {table}")
    finally:
        execute(tx, "reset statement_timeout")


def _copy(tx: Tx, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    statement = sql.SQL("copy {} ({}) from stdin").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with tx.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)
