"""Keys in the bucket that no row uses and that are deleted at a known time (table in migration 0007).

A row here is written before anything is written under a key, so that nothing in the bucket is ever without an owner. A
deletion sets ``deleting`` first: from then on the object can't be put to use any more."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from db import Tx, column, execute, many


def reserve(tx: Tx, object_key: str, *, lease: timedelta) -> None:
    """Record a key before its first byte is written. It is deleted after the lease unless it is renewed or put to use."""
    sql = "insert into deferred_deletions (object_key, delete_after) values (%(key)s, now() + %(lease)s)"
    execute(tx, sql, {"key": object_key, "lease": lease})


def renew(tx: Tx, object_key: str, *, lease: timedelta, multipart_id: str | None = None) -> bool:
    """Extend the lease; False if the key is being deleted. ``multipart_id`` keeps the janitor from aborting the multipart."""
    sql = """
    update deferred_deletions set delete_after = now() + %(lease)s, multipart_id = coalesce(%(multipart_id)s, multipart_id)
    where object_key = %(key)s and not deleting
    """
    return execute(tx, sql, {"key": object_key, "lease": lease, "multipart_id": multipart_id}) == 1


def give_up(tx: Tx, object_key: str) -> None:
    """Let a reserved key be deleted now; it can't be put to use any more."""
    sql = "update deferred_deletions set delete_after = now(), deleting = true where object_key = %(key)s"
    execute(tx, sql, {"key": object_key})


def postpone(tx: Tx, object_key: str, *, until: datetime) -> None:
    """Record a key whose object can't be deleted before ``until``."""
    sql = """
    insert into deferred_deletions (object_key, delete_after) values (%(key)s, %(until)s)
    on conflict (object_key) do update set delete_after = excluded.delete_after, deleting = false
    """
    execute(tx, sql, {"key": object_key, "until": until})


def withdraw(tx: Tx, object_key: str) -> None:
    """Forget a key that is in use after all."""
    execute(tx, "delete from deferred_deletions where object_key = %(key)s", {"key": object_key})


class Due(NamedTuple):
    """A key whose time has come."""

    key: str
    replaced: bool  # whether another object has replaced it
    urgent: bool  # of an infected file: deleted also while a backup runs


def claim_due(tx: Tx, *, limit: int) -> list[Due]:
    """Mark keys whose time has come as ``deleting``, the longest due first, and return them; while a backup runs
    (backup_holds.py), only the ``urgent`` ones."""
    sql = """
    update deferred_deletions set deleting = true where object_key in (
        select object_key from deferred_deletions where delete_after <= now()
        and (urgent or not exists (select from backup_holds where held_until > now()))
        order by delete_after limit %(limit)s for update skip locked)
    returning object_key, replaced_by is not null, urgent
    """
    return many(tx, Due, sql, {"limit": limit})


def due(tx: Tx, *, after: str, limit: int) -> list[Due]:
    """The next ``limit`` keys after ``after`` whose time has come."""
    sql = """
    select object_key, replaced_by is not null, urgent from deferred_deletions
    where delete_after <= now() and object_key > %(after)s order by object_key limit %(limit)s
    """
    return many(tx, Due, sql, {"after": after, "limit": limit})


def forget(tx: Tx, object_keys: Sequence[str]) -> list[str]:
    """Delete the rows of claimed keys that the bucket no longer holds, and return these. One that was postponed stays."""
    sql = "delete from deferred_deletions where object_key = any(%(keys)s) and deleting returning object_key"
    return column(tx, sql, {"keys": list(object_keys)})


_LIVE_MULTIPARTS = """
select multipart_id from uploads
where multipart_id = any(%(ids)s) and status in ('pending', 'uploading', 'completing')
union all
select multipart_id from deferred_deletions where multipart_id = any(%(ids)s)
"""


def live_multiparts(tx: Tx, multipart_ids: list[str]) -> set[str]:
    """Those of S3's upload ids that an unfinished upload or an object being rewritten owns."""
    return {row[0] for row in tx.execute(_LIVE_MULTIPARTS, {"ids": multipart_ids}).fetchall()}
