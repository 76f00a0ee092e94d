"""The archive: which objects are due for it, and which are wanted back (migration 0031)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from core.archive_rules import ArchiveRule
from db import Tx, execute, many, one, scalar
from db.file_lists import FileFilter, conditions

# -- bringing back ---------------------------------------------------------------------------------------------------------


def request_restore(tx: Tx, object_key: str) -> bool:
    """Record that an archived object is wanted back. False if that is recorded, or it is not archived."""
    sql = """
    update objects set restore_requested_at = now()
    where object_key = %(key)s and storage_class = 'archived' and status = 'stored' and restore_requested_at is null
    """
    return execute(tx, sql, {"key": object_key}) == 1


def wanted_back(tx: Tx, *, limit: int) -> list[tuple[UUID, str, str]]:
    """Archived objects that are wanted back and have no job, longest wanted first: a file's id, its owner, and the object key.
    Those that are damaged wait for their repair."""
    sql = """
    select f.id, f.owner_id, o.object_key
    from objects o cross join lateral (
        select id, owner_id from files where file_path = o.object_key and status = 'ready' limit 1) f
    where o.storage_class = 'archived' and o.restore_requested_at is not null and o.status = 'stored'
    and o.in_bucket and o.checksum_state <> 'mismatch' and not exists (
        select from procrastinate_jobs j where j.lock = 'object:' || o.object_key and j.task_name = 'unarchive_object'
        and j.status in ('todo', 'doing'))
    order by o.restore_requested_at limit %(limit)s
    """
    return tx.execute(sql, {"limit": limit}).fetchall()


# -- what is due -----------------------------------------------------------------------------------------------------------

_TOUCHED = "greatest(f.uploaded_at, f.last_accessed, o.restore_requested_at)"  # greatest ignores nulls


class Position(NamedTuple):
    """How far a pass through the objects, oldest first, has come."""

    created_at: datetime | None  # None: at the beginning
    object_key: str = ""


class DueObject(NamedTuple):
    """An object that a rule wants to archive."""

    object_key: str
    owner_id: str
    size: int  # bytes
    stored: int  # bytes in the bucket
    files: int
    file_id: UUID  # one of its files


_NEXT = """
select created_at, object_key from objects
where storage_class = 'standard' and status = 'stored' and (created_at, object_key) > (%(created_at)s, %(key)s)
and created_at <= now() - make_interval(days => %(days)s)
order by created_at, object_key limit %(limit)s
"""


def next_objects(tx: Tx, after: Position, *, days: int, limit: int) -> list[Position]:
    """The next objects that are not archived and are at least so many days old."""
    created_at = after.created_at or "-infinity"
    params = {"created_at": created_at, "key": after.object_key, "days": days, "limit": limit}
    return many(tx, Position, _NEXT, params)


def due(tx: Tx, rule: ArchiveRule, object_keys: Sequence[str]) -> list[DueObject]:
    """Those of the objects of which each file outside the trash meets the rule, in the order of their keys."""
    where, params = conditions(
        FileFilter(
            owner_id=rule.owner_id,
            file_type=rule.file_type,
            folder_id=rule.folder_id,
            recursive=rule.folder_id is not None,
            min_size=rule.min_size,
            status="ready",
        )
    )
    sql = f"""
    select o.object_key, o.owner_id, o.size, coalesce(o.stored_size, o.size), count(*), (array_agg(f.id order by f.id))[1]
    from objects o join files f on f.file_path = o.object_key and not f.is_deleted
    where o.object_key = any(%(keys)s) and o.in_bucket and o.checksum_state <> 'mismatch' and o.sha256 is not null
    and o.scan_verdict is distinct from 'infected'
    group by o.object_key
    having bool_and(coalesce({where} and {_TOUCHED} <= now() - make_interval(days => %(days)s), false))
    order by o.object_key
    """
    return many(tx, DueObject, sql, {**params, "keys": list(object_keys), "days": rule.days})


def is_untouched(tx: Tx, object_key: str, *, days: int) -> bool:
    """Whether no file on the object, outside the trash, was used for so many days."""
    sql = f"""
    select bool_and({_TOUCHED} <= now() - make_interval(days => %(days)s))
    from objects o join files f on f.file_path = o.object_key and not f.is_deleted where o.object_key = %(key)s
    """
    return scalar(tx, sql, {"key": object_key, "days": days}) is True


def waiting_jobs(tx: Tx, *, limit: int) -> int:
    """Jobs that wait to archive an object, counted up to ``limit``."""
    sql = """
    select count(*) from (select from procrastinate_jobs where status = 'todo' and task_name = 'archive_object'
        limit %(limit)s) j
    """
    return int(scalar(tx, sql, {"limit": limit}))


# -- passes ----------------------------------------------------------------------------------------------------------------

_BEGIN = """
insert into archive_pass as p (one) values (true) on conflict (one) do update
set began_at = now(), after_created = '-infinity', after_key = '', finished_at = null
where p.finished_at is not null and p.began_at < now() - interval '23 hours'
"""


def begin_pass(tx: Tx) -> None:
    """Begin a pass through all objects, if none is under way and the last began a day ago."""
    execute(tx, _BEGIN)


def lock_pass(tx: Tx) -> Position | None:
    """How far the pass under way has come, locked; None if there is none, or another worker is at it."""
    sql = """
    select nullif(after_created, '-infinity') as created_at, after_key as object_key
    from archive_pass where finished_at is null for update skip locked
    """
    return one(tx, Position, sql)


def advance_pass(tx: Tx, to: Position | None) -> None:
    """Record how far the pass has come; None: to its end."""
    sql = """
    update archive_pass set after_created = coalesce(%(created_at)s, after_created), after_key = coalesce(%(key)s, after_key),
        finished_at = case when %(key)s::text is null then now() end
    """
    execute(tx, sql, {"created_at": to and to.created_at, "key": to and to.object_key})
