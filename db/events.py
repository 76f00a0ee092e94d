"""The history of files, and counters of their downloads and previews."""

from __future__ import annotations

from datetime import datetime
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
    # A heap-only update: none of these columns has an index, and the table has a fill factor.
    sql = """
    with counted as (
        update files set download_count = download_count + 1, first_access = least(first_access, now()),
            last_accessed = greatest(last_accessed, now())
        where id = %(file_id)s returning id, owner_id
    )
    insert into file_events (file_id, owner_id, action, actor) select id, owner_id, 'downloaded', %(actor)s from counted
    """
    execute(tx, sql, {"file_id": file_id, "actor": actor})


def record_preview(tx: Tx, file_id: UUID, *, actor: str) -> None:
    """Record a preview that somebody with a key has seen, and count it."""
    sql = """
    with counted as (
        update files set preview_count = preview_count + 1, first_access = least(first_access, now()),
            last_previewed = greatest(last_previewed, now())
        where id = %(file_id)s returning id, owner_id
    )
    insert into file_events (file_id, owner_id, action, actor) select id, owner_id, 'previewed', %(actor)s from counted
    """
    execute(tx, sql, {"file_id": file_id, "actor": actor})


def count_anonymous(tx: Tx, file_id: UUID, *, preview: bool = False) -> None:
    """Count a download, or a preview, by a client without a credential. It gets no event."""
    sql = """
    update files set preview_count = preview_count + %(preview)s::integer,
        download_count = download_count + 1 - %(preview)s::integer,
        first_access = least(first_access, now()), last_accessed = greatest(last_accessed, now())
    where id = %(file_id)s
    """
    execute(tx, sql, {"file_id": file_id, "preview": preview})


# The newest events of the file ``f``, in a column of its row.
NEWEST = """(
    select json_agg(json_build_array(id, file_id, action, actor, at))
    from (select * from file_events where file_id = f.id order by id desc limit 50) e)"""


def parsed(column: list[list[Any]] | None) -> list[EventRecord]:
    """The value of ``NEWEST``."""
    return [
        EventRecord(number, UUID(file_id), action, actor, datetime.fromisoformat(at))
        for number, file_id, action, actor, at in column or ()
    ]


def of_file(tx: Tx, file_id: UUID, *, before: int | None, limit: int) -> list[EventRecord]:
    """A file's history, newest first, from just before the event ``before``."""
    sql = """
    select id, file_id, action, actor, at from file_events
    where file_id = %(file_id)s and (%(before)s::bigint is null or id < %(before)s)
    order by id desc limit %(limit)s
    """
    return many(tx, EventRecord, sql, {"file_id": file_id, "before": before, "limit": limit})
