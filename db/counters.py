"""Counts and sums of files that triggers keep as files change (migration 0010), and how they are compared and put right.

``owner_usage`` holds an owner's bytes and files, ``type_counters`` files by kind, status and trash, ``folder_counters`` what lies
directly in each folder without the trash. A counter and what it counts change in one transaction, so any snapshot shows
them equal (THREATS T72); reading them here and in db/stats.py, db/folders.py and db/file_lists.py costs no scan of files.
"""

from __future__ import annotations

from dataclasses import dataclass

from db import Tx, execute, many, set_timeout


@dataclass(frozen=True, slots=True)
class Difference:
    owner_id: str
    counter: str
    kept: int
    counted: int


# What the files, objects and uploads amount to; {mine} narrows it to one owner.
_BY_TYPE = """
select owner_id, is_deleted, file_type, status, count(*) as files, sum(file_size)::bigint as bytes
from files where {mine} group by owner_id, is_deleted, file_type, status
"""
_BY_FOLDER = """
select owner_id, folder_id, count(*) as files, sum(file_size)::bigint as bytes
from files where not is_deleted and {mine} group by owner_id, folder_id
"""
_SAVED = "coalesce(size - stored_size, 0)"
_STORED = f"""
select owner_id, sum(size)::bigint as bytes, sum({_SAVED})::bigint as saved
from objects where status = 'stored' and {{mine}} group by owner_id
"""
_HELD = """
select owner_id, sum(reserved)::bigint as bytes from uploads
where status in ('pending', 'uploading', 'completing') and {mine} group by owner_id
"""

# One statement, so that the counters and what they count are of one moment. It reads all files: once a night.
_DIFFERENCES = f"""
with by_type as materialized ({_BY_TYPE.format(mine="true")}),
used as (
    select owner_id, sum(bytes)::bigint as bytes, coalesce(sum(files) filter (where not is_deleted), 0)::bigint as files
    from by_type group by owner_id
),
compared (owner_id, counter, kept, counted) as (
    select owner_id, unnest(array['used_bytes', 'file_count', 'stored_bytes', 'saved_bytes', 'reserved_bytes']),
           unnest(array[coalesce(u.used_bytes, 0), coalesce(u.file_count, 0), coalesce(u.stored_bytes, 0),
                        coalesce(u.saved_bytes, 0), coalesce(u.reserved_bytes, 0)]),
           unnest(array[coalesce(used.bytes, 0), coalesce(used.files, 0), coalesce(stored.bytes, 0),
                        coalesce(stored.saved, 0), coalesce(held.bytes, 0)])
    from owner_usage u full join used using (owner_id) full join ({_STORED.format(mine="true")}) stored using (owner_id)
    full join ({_HELD.format(mine="true")}) held using (owner_id)
    union all
    select owner_id, concat_ws(' ', case when is_deleted then 'trashed' end, status, file_type, unnest(array['files', 'bytes'])),
           unnest(array[coalesce(s.files, 0), coalesce(s.bytes, 0)]),
           unnest(array[coalesce(t.files, 0), coalesce(t.bytes, 0)])
    from type_counters s full join by_type t using (owner_id, is_deleted, file_type, status)
    union all
    select owner_id, concat_ws(' ', 'folder', nullif(place, 0), unnest(array['files', 'bytes'])),
           unnest(array[coalesce(s.files, 0), coalesce(s.bytes, 0)]),
           unnest(array[coalesce(f.files, 0), coalesce(f.bytes, 0)])
    from (select owner_id, coalesce(folder_id, 0) as place, files, bytes from folder_counters) s
    full join (select owner_id, coalesce(folder_id, 0) as place, files, bytes
               from ({_BY_FOLDER.format(mine="true")}) g) f using (owner_id, place)
)
select owner_id, counter, kept, counted from compared where kept <> counted order by owner_id, counter
"""


# Of very many files counting takes longer than any request may.
_PATIENCE = 600.0  # seconds


def differences(tx: Tx) -> list[Difference]:
    """Counters that are not what they count, of all owners."""
    set_timeout(tx, _PATIENCE)
    return many(tx, Difference, _DIFFERENCES)


_MINE = "owner_id = %(owner)s"
_REPAIR_USAGE = f"""
with stored as ({_STORED.format(mine=_MINE)})
insert into owner_usage as u (owner_id, used_bytes, file_count, stored_bytes, saved_bytes, reserved_bytes)
select %(owner)s, coalesce(sum(bytes), 0), coalesce(sum(files) filter (where not is_deleted), 0),
       coalesce((select bytes from stored), 0), coalesce((select saved from stored), 0),
       coalesce((select bytes from ({_HELD.format(mine=_MINE)}) held), 0)
from ({_BY_TYPE.format(mine=_MINE)}) t
on conflict (owner_id) do update
set used_bytes = excluded.used_bytes, file_count = excluded.file_count, stored_bytes = excluded.stored_bytes,
    saved_bytes = excluded.saved_bytes, reserved_bytes = excluded.reserved_bytes
"""


def repair(tx: Tx, owner_id: str) -> None:
    """Count the owner's things anew. Whoever changes them waits until the transaction ends, and then adds to the new counts."""
    params = {"owner": owner_id}
    set_timeout(tx, _PATIENCE)
    execute(tx, f"select from owner_usage where {_MINE} for update", params)
    execute(tx, _REPAIR_USAGE, params)
    execute(tx, f"delete from type_counters where {_MINE}", params)
    execute(tx, f"insert into type_counters {_BY_TYPE.format(mine=_MINE)}", params)
    execute(tx, f"delete from folder_counters where {_MINE}", params)
    execute(tx, f"insert into folder_counters {_BY_FOLDER.format(mine=_MINE)}", params)
