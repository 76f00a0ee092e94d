"""What was read from an object's bytes as a certain type: metadata and problem. Previews, failures and text belong to it.

``files.read_as`` says how a file is read, so files of equal bytes share a reading only if a parser sees no difference. Rows are
made with the first result, and only while a file is read so."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from db import Tx, execute, scalar
from db.records import ReadingKey

# The reading ``r`` of the file ``f``, if there is one; and what a file shows of it.
JOIN = "left join readings r on r.object_key = f.file_path and r.read_as = f.read_as"

# ``no key update`` keeps out whoever adds a file to the object: they hold it ``for share``.
_LOCK = """
select 1 from objects where object_key = %(object_key)s and status = 'stored' and scan_verdict is distinct from 'infected' for {}
"""
_MAKE = """
with needed as (select from files where file_path = %(object_key)s and read_as = %(read_as)s limit 1),
made as (insert into readings (object_key, read_as) select %(object_key)s, %(read_as)s from needed on conflict do nothing)
select exists (select from needed)
"""


def begin(tx: Tx, reading: ReadingKey, *, lock: str = "share") -> bool:
    """Lock the object and make the row, before a result is stored. False if no file is read so any more, or the object is being
    purged or infected; then there is nothing to store."""
    params = reading._asdict()
    # Two statements: one would see the files from before it waited for the lock.
    return bool(scalar(tx, _LOCK.format(lock), params) and scalar(tx, _MAKE, params))


def add_extracted(tx: Tx, reading: ReadingKey, extracted: dict[str, Any]) -> None:
    """Add metadata read from the bytes (width, EXIF, …). All files that are read so show it, also those linked later."""
    _update(tx, reading, "extracted = r.extracted || %(value)s", Jsonb(extracted))


def set_problem(tx: Tx, reading: ReadingKey, problem: dict[str, Any] | None) -> None:
    """Show on all files that are read so which step of the processing failed; None: none did."""
    _update(tx, reading, "problem = %(value)s", None if problem is None else Jsonb(problem))


def _update(tx: Tx, reading: ReadingKey, change: str, value: Jsonb | None) -> None:
    sql = f"""
    with r as (
        update readings r set {change} where object_key = %(object_key)s and read_as = %(read_as)s returning object_key, read_as
    )
    update files f set version = version + 1 from r where f.file_path = r.object_key and f.read_as = r.read_as
    """
    if begin(tx, reading):
        execute(tx, sql, {**reading._asdict(), "value": value})


def is_queued(tx: Tx, reading: ReadingKey) -> bool:
    """Whether a job waits that will read the object so. No worker takes it before the transaction ends: it would read the file
    as it was before."""
    sql = """
    select true from procrastinate_jobs j join files f on f.id = (j.args ->> 'file_id')::uuid
    where j.lock = 'object:' || %(object_key)s and j.status = 'todo' and j.task_name = 'process_file'
    and f.file_path = %(object_key)s and f.read_as = %(read_as)s
    limit 1 for share of j skip locked
    """
    return scalar(tx, sql, reading._asdict()) is True


_REMAINING = """
select id from files where file_path = %(object_key)s and read_as = %(read_as)s order by status = 'ready' desc, id limit 1
"""
_DROP = """
with gone as (delete from readings where object_key = %(object_key)s and read_as = %(read_as)s)
insert into deferred_deletions (object_key, delete_after)
select preview_path, now() from file_previews where object_key = %(object_key)s and read_as = %(read_as)s
"""


def drop_unused(tx: Tx, reading: ReadingKey) -> UUID | None:
    """Delete a reading, unless a file is left that is read so, whose id is returned. The caller has locked the object."""
    remaining: UUID | None = scalar(tx, _REMAINING, reading._asdict())
    if remaining is None:
        execute(tx, _DROP, reading._asdict())
    return remaining
