"""Holds: while a live one exists, nothing is deleted in the bucket that rows have named since it was taken.

A hold is committed before the snapshot that it protects begins. Whoever deletes first commits that no row names the key any more
and then looks for a hold. So if it finds none, every later snapshot does not name the key either."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from db import Tx, execute, scalar


def take(tx: Tx, hold_id: UUID, *, lease: timedelta) -> None:
    """Begin a hold; forget those that nobody renewed."""
    execute(tx, "delete from backup_holds where held_until < now()")
    sql = "insert into backup_holds (id, held_until) values (%(id)s, now() + %(lease)s)"
    execute(tx, sql, {"id": hold_id, "lease": lease})


def renew(tx: Tx, hold_id: UUID, *, lease: timedelta) -> bool:
    """Extend a hold. False if it has ended: what its snapshot names may be gone."""
    sql = "update backup_holds set held_until = now() + %(lease)s where id = %(id)s and held_until > now()"
    return execute(tx, sql, {"id": hold_id, "lease": lease}) == 1


def release(tx: Tx, hold_id: UUID) -> None:
    """End a hold."""
    execute(tx, "delete from backup_holds where id = %(id)s", {"id": hold_id})


def is_live(tx: Tx) -> bool:
    """Whether there is a hold."""
    return bool(scalar(tx, "select exists (select from backup_holds where held_until > now())"))
