"""Files whose time has come: those past their ``expires_at``, which move to the trash, and old ones in the trash."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from db import Tx, column, events

_EXPIRED = "expires_at <= now() and not is_deleted"
_TRASHED = "is_deleted and deleted_at <= %(before)s"


def expired(tx: Tx, *, limit: int) -> list[tuple[str, UUID]]:
    """Owner and id of files past their ``expires_at`` that are not in the trash, the longest expired first."""
    sql = f"select owner_id, id from files where {_EXPIRED} order by expires_at limit %(limit)s"
    return tx.execute(sql, {"limit": limit}).fetchall()


def move_expired(tx: Tx, file_ids: Sequence[UUID]) -> list[UUID]:
    """Move those of an owner's files to the trash that are past their ``expires_at`` and that nobody changes just now. Returns
    their ids."""
    sql = f"""
    with due as (
        select id from files where id = any(%(ids)s) and {_EXPIRED} order by id for update skip locked
    ),
    f as (
        update files set is_deleted = true, deleted_at = now(), version = version + 1
        from due where files.id = due.id returning files.id, files.owner_id
    ),
    event as ({events.recording("f", action="'trashed'")})
    select id from f
    """
    return column(tx, sql, {"ids": list(file_ids)} | events.by())


def old(tx: Tx, *, before: datetime, limit: int) -> list[UUID]:
    """Files that were in the trash ``before`` then already, the longest there first."""
    sql = f"select id from files where {_TRASHED} order by deleted_at limit %(limit)s"
    return column(tx, sql, {"before": before, "limit": limit})


def count_due(tx: Tx, *, before: datetime) -> tuple[int, int]:
    """The number of files past their ``expires_at`` that are not in the trash, and of those that were there before then."""
    sql = f"select (select count(*) from files where {_EXPIRED}), (select count(*) from files where {_TRASHED})"
    row = tx.execute(sql, {"before": before}).fetchone()
    assert row is not None
    return row[0], row[1]
