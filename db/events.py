"""The history of files, and their download counts."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from db import Tx, execute, many
from db.records import EventRecord

_RECORD = (
    "insert into file_events (file_id, owner_id, action, actor) values (%(file_id)s, %(owner)s, %(action)s, %(actor)s)"
)


def record(tx: Tx, file_id: UUID, *, owner_id: str, action: str, actor: str) -> None:
    """Add an event to a file's history."""
    execute(tx, _RECORD, {"file_id": file_id, "owner": owner_id, "action": action, "actor": actor})


def record_download(tx: Tx, file_id: UUID, *, actor: str) -> None:
    """Record a download, count it, and set ``last_accessed``."""
    # A heap-only update: last_accessed and download_count have no index, and the table has a fill factor.
    sql = """
    with counted as (
        update files set download_count = download_count + 1, last_accessed = now() where id = %(file_id)s
        returning id, owner_id
    )
    insert into file_events (file_id, owner_id, action, actor) select id, owner_id, 'downloaded', %(actor)s from counted
    """
    execute(tx, sql, {"file_id": file_id, "actor": actor})


def count_anonymous(tx: Tx, file_id: UUID, *, preview: bool = False) -> None:
    """Count a download, or a preview, by a client without a credential. It gets no event."""
    sql = """
    update files set public_previews = public_previews + %(preview)s::integer,
        download_count = download_count + 1 - %(preview)s::integer,
        last_accessed = now(), first_public_access = coalesce(first_public_access, now())
    where id = %(file_id)s
    """
    execute(tx, sql, {"file_id": file_id, "preview": preview})


def of_file(tx: Tx, file_id: UUID, *, before: int | None, limit: int) -> list[EventRecord]:
    """A file's history, newest first, from just before the event ``before``."""
    sql = """
    select id, file_id, action, actor, at from file_events
    where file_id = %(file_id)s and (%(before)s::bigint is null or id < %(before)s)
    order by id desc limit %(limit)s
    """
    return many(tx, EventRecord, sql, {"file_id": file_id, "before": before, "limit": limit})


def statistics(tx: Tx, file_id: UUID) -> dict[str, Any]:
    """How often a file was previewed, and its first and last access."""
    sql = """
    select e.previews + f.public_previews, least(e.first, f.first_public_access), greatest(e.last, f.last_accessed)
    from files f,
         (select count(*) filter (where action = 'previewed') as previews, min(at) as first, max(at) as last
          from file_events where file_id = %(file_id)s and action in ('downloaded', 'previewed')) e
    where f.id = %(file_id)s
    """
    previews, first, last = tx.execute(sql, {"file_id": file_id}).fetchone() or (0, None, None)
    return {"previews": previews, "first_access": first, "last_access": last}
