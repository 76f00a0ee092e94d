"""Counters of files that triggers keep (migration 0010): compare them with the files, and count anew.

``owner_usage`` holds an owner's bytes and files, ``type_counters`` files by type, status and trash, ``folder_counters`` the files
directly in each folder, without the trash. A counter changes in the same transaction as what it counts, so that any snapshot
shows them equal (T72). Lists, folders and statistics read them instead of scanning files.
"""

from __future__ import annotations

from dataclasses import dataclass

from db import Tx, execute, many, set_timeout

OF_OWNER = "(%(owner)s::text is null or owner_id = %(owner)s)"  # None: of everybody


@dataclass(frozen=True, slots=True)
class Difference:
    """A counter that is wrong."""

    owner_id: str
    counter: str
    kept: int
    counted: int


_OF_USAGE = (
    "used_bytes",
    "file_count",
    "trash_count",
    "stored_bytes",
    "saved_bytes",
    "reserved_bytes",
    "reserved_files",
)


def _counters(text: str) -> str:
    """``text`` with each counter of owner_usage."""
    return ", ".join(text.format(name) for name in _OF_USAGE)


# What the counters should hold: the same columns, counted from files, objects and uploads.
_BY_TYPE = f"""
select owner_id, is_deleted, file_type, status, count(*) as files, sum(file_size)::bigint as bytes
from files where {OF_OWNER} group by owner_id, is_deleted, file_type, status
"""
_BY_FOLDER = f"""
select owner_id, folder_id, count(*) as files, sum(file_size)::bigint as bytes
from files where not is_deleted and {OF_OWNER} group by owner_id, folder_id
"""
_USAGE = f"""
select owner_id, sum(used)::bigint as used_bytes, sum(files)::bigint as file_count, sum(trash)::bigint as trash_count,
       sum(stored)::bigint as stored_bytes, sum(saved)::bigint as saved_bytes, sum(reserved)::bigint as reserved_bytes,
       sum(uploads)::bigint as reserved_files
from (
    select owner_id, bytes as used, case when is_deleted then 0 else files end as files,
           case when is_deleted then files else 0 end as trash, 0 as stored, 0 as saved, 0 as reserved, 0 as uploads
    from by_type
    union all
    select owner_id, 0, 0, 0, size, coalesce(size - stored_size, 0), 0, 0 from objects where status = 'stored' and {OF_OWNER}
    union all
    select owner_id, 0, 0, 0, 0, 0, reserved, 1 from uploads
    where status in ('pending', 'uploading', 'completing') and {OF_OWNER}
) all_of group by owner_id
"""

# One statement, so that the counters and what they count are of one moment. It reads all files: run it once a night.
_DIFFERENCES = f"""
with by_type as materialized ({_BY_TYPE}),
compared (owner_id, counter, kept, counted) as (
    select owner_id, unnest(array[{_counters("'{}'")}]), unnest(array[{_counters("k.{}")}]), unnest(array[{_counters("c.{}")}])
    from owner_usage k full join ({_USAGE}) c using (owner_id)
    union all
    select owner_id, concat_ws(' ', case when is_deleted then 'trashed' end, status, file_type, unnest(array['files', 'bytes'])),
           unnest(array[k.files, k.bytes]), unnest(array[c.files, c.bytes])
    from type_counters k full join by_type c using (owner_id, is_deleted, file_type, status)
    union all
    select owner_id, concat_ws(' ', 'folder', nullif(folder, 0), unnest(array['files', 'bytes'])),
           unnest(array[k.files, k.bytes]), unnest(array[c.files, c.bytes])
    from (select *, coalesce(folder_id, 0) as folder from folder_counters) k
    full join (select *, coalesce(folder_id, 0) as folder from ({_BY_FOLDER}) g) c using (owner_id, folder)
)
select owner_id, counter, coalesce(kept, 0) as kept, coalesce(counted, 0) as counted from compared
where coalesce(kept, 0) <> coalesce(counted, 0) and {OF_OWNER} order by owner_id, counter
"""
_TIMEOUT = 600.0  # seconds; counting very many files takes longer than a request may


def differences(tx: Tx, owner_id: str | None = None) -> list[Difference]:
    """The counters that differ from what they count: an owner's, or those of everybody."""
    set_timeout(tx, _TIMEOUT)
    return many(tx, Difference, _DIFFERENCES, {"owner": owner_id})


_REPAIR_USAGE = f"""
with by_type as materialized ({_BY_TYPE})
insert into owner_usage (owner_id, {_counters("{}")})
select %(owner)s, {_counters("coalesce(c.{}, 0)")} from (select 1) one left join ({_USAGE}) c on true
on conflict (owner_id) do update set {_counters("{0} = excluded.{0}")}
"""


def repair(tx: Tx, owner_id: str) -> list[Difference]:
    """Count an owner's files anew, and return what was wrong. Transactions that change them wait until this one ends, and add to
    the new counts."""
    params = {"owner": owner_id}
    set_timeout(tx, _TIMEOUT)
    execute(tx, "select from owner_usage where owner_id = %(owner)s for update", params)
    wrong = differences(tx, owner_id)
    for sql in (
        _REPAIR_USAGE,
        "delete from type_counters where owner_id = %(owner)s",
        f"insert into type_counters {_BY_TYPE}",
        "delete from folder_counters where owner_id = %(owner)s",
        f"insert into folder_counters {_BY_FOLDER}",
    ):
        execute(tx, sql, params)
    return wrong
