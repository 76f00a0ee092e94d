"""Statements of tests, and rows that no upload has made."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from core.principal import Principal
from db import Database, Tx, previews, scalar
from db.records import FileRecord, PreviewRecord, ReadingKey
from db.search import index
from services.library.search import Search, SearchPage, SearchRequest

_ADD = """
with o as (
    insert into objects (object_key, owner_id, size, sha256, etag, content_type)
    values (coalesce(%(key)s, %(new_key)s), %(owner)s, %(size)s, null, 'e', %(mime_type)s)
    on conflict (object_key) do update set size = excluded.size returning object_key
)
insert into files (owner_id, original_name, file_path, mime_type, file_type, file_size, folder_id, status, tags,
                   uploaded_at, is_deleted, deleted_at, visibility)
select %(owner)s, %(name)s, o.object_key, %(mime_type)s, %(file_type)s, %(size)s, %(folder)s, %(status)s, %(tags)s,
       coalesce(%(at)s, now()), %(deleted)s, case when %(deleted)s then now() end, %(visibility)s
from o returning id
"""


def sql(db: Database, statement: str, *values: Any) -> list[Any]:
    """Run one statement; the rows, if it returns any."""
    with db.connection() as tx:
        cursor = tx.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


def add_file(
    db: Database,
    name: str,
    *,
    owner: str = "alice",
    mime_type: str = "application/pdf",
    file_type: str = "document",
    size: int = 100,
    folder: int | None = None,
    status: str = "ready",
    tags: Sequence[str] = (),
    at: datetime | None = None,
    deleted: bool = False,
    key: str | None = None,
    visibility: str = "private",
) -> UUID:
    with db.transaction() as tx:
        file_id: UUID = scalar(
            tx,
            _ADD,
            {
                "key": key,
                "new_key": f"files/{uuid4().hex}",
                "owner": owner,
                "name": name,
                "mime_type": mime_type,
                "file_type": file_type,
                "size": size,
                "folder": folder,
                "status": status,
                "tags": list(tags),
                "at": at,
                "deleted": deleted,
                "visibility": visibility,
            },
        )
    return file_id


def index_now(db: Database) -> None:
    """Make all files searchable, as a worker does each second."""
    indexed = 1
    while indexed:
        with db.transaction() as tx:
            indexed = index.index_queued(tx)


def put_text(tx: Tx, object_key: str, *, content: str, language: str | None) -> bool:
    """Store the text of an object whose files are all read alike."""
    read_as = scalar(tx, "select read_as from files where file_path = %(key)s limit 1", {"key": object_key})
    return index.put_text(tx, ReadingKey(object_key, read_as or ""), content=content, language=language)


class IndexingSearch(Search):
    """Indexes what is queued before it searches."""

    def search(self, principal: Principal, request: SearchRequest) -> SearchPage:
        self.index()
        return super().search(principal, request)

    def suggest(self, principal: Principal, prefix: str, limit: int = 10) -> list[str]:
        self.index()
        return super().suggest(principal, prefix, limit)


def previews_of(db: Database, file: FileRecord) -> list[PreviewRecord]:
    """The previews of a file."""
    with db.connection() as tx:
        return [p for p in previews.of_objects(tx, [file.file_path]) if p.read_as == file.read_as]
