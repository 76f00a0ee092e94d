"""Folders: a tree for each owner, kept one by the trigger ``folders_keep_tree``; paths and counts are worked out here.

The rules are constraints, and their names are what the caller tells errors by: ``folder_name_conflict``,
``folder_cycle``, ``folder_too_deep``, ``folder_parent``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from db import Tx, execute, many, one, scalar
from db.records import FolderRecord

# The chosen folders with their paths and counts: one statement, whatever their number. Depth is bounded by the trigger.
# What lies directly in each folder is kept by triggers on files (db/counters.py).
_VIEWS = """
with recursive chosen as ({chosen}),
up (base, parent_id, path) as (
    select id, parent_id, '/' || name from chosen
    union all
    select up.base, f.parent_id, '/' || f.name || up.path from up join folders f on f.id = up.parent_id
),
down (base, id, owner_id) as (
    select id, id, owner_id from chosen
    union all
    select down.base, f.id, f.owner_id from down join folders f on f.parent_id = down.id
),
below as (
    select d.base, sum(s.files)::bigint as files, sum(s.bytes)::bigint as bytes,
           sum(s.files) filter (where d.id = d.base) as inside
    from down d join folder_counters s on s.owner_id = d.owner_id and s.folder_id = d.id group by d.base
)
select c.id, c.owner_id, c.name, c.description, c.parent_id, c.created_at, c.updated_at, up.path,
       coalesce(below.inside, 0)::bigint as file_count, coalesce(below.files, 0) as total_file_count,
       coalesce(below.bytes, 0) as total_size
from chosen c join up on up.base = c.id and up.parent_id is null left join below on below.base = c.id
order by c.id
"""
_GET = _VIEWS.format(chosen="select * from folders where id = %(id)s")
_PAGE = _VIEWS.format(
    chosen="select * from folders where (%(owner)s::text is null or owner_id = %(owner)s) and id > %(after)s"
    " order by id limit %(limit)s"
)
# Siblings come in the order of their names from the index that keeps these unique.
_TREE = """
select f.id, f.owner_id, f.name, f.description, f.parent_id, f.created_at, f.updated_at,
       coalesce(s.files, 0), coalesce(s.bytes, 0)
from folders f left join folder_counters s on s.owner_id = f.owner_id and s.folder_id = f.id
where {mine} order by f.owner_id, f.parent_id, f.name_key
"""


def get(tx: Tx, folder_id: int) -> FolderRecord | None:
    return one(tx, FolderRecord, _GET, {"id": folder_id})


def of_owner(tx: Tx, owner_id: str | None) -> list[FolderRecord]:
    """All folders of the owner (None: of everybody), each before those in it, siblings in the order of their names."""
    sql = _TREE.format(mine="true" if owner_id is None else "f.owner_id = %(owner)s")
    with tx.cursor(binary=True) as cursor:  # 20,000 times are read in half the time
        rows = cursor.execute(sql, {"owner": owner_id}).fetchall()
    below: dict[int | None, list[Any]] = {None: []}
    for row in rows:
        below[row[0]] = []
    for row in rows:
        below[row[4]].append(row)
    # Each with its path; then, from the last to the first, what is in it is added to what holds it.
    ordered: list[tuple[str, Any]] = []
    waiting = [("", row) for row in reversed(below[None])]
    while waiting:
        above, row = waiting.pop()
        path = f"{above}/{row[2]}"
        ordered.append((path, row))
        for child in reversed(below[row[0]]):
            waiting.append((path, child))
    files = {row[0]: row[7] for row in rows}
    size = {row[0]: row[8] for row in rows}
    for _, row in reversed(ordered):
        if row[4] is not None:
            files[row[4]] += files[row[0]]
            size[row[4]] += size[row[0]]
    return [
        FolderRecord(row[0], row[1], row[2], row[3], row[4], row[5], row[6], path, row[7], files[row[0]], size[row[0]])
        for path, row in ordered
    ]


def page(tx: Tx, owner_id: str | None, *, after: int, limit: int) -> list[FolderRecord]:
    """Folders with an id above ``after``, in the order of their ids."""
    return many(tx, FolderRecord, _PAGE, {"owner": owner_id, "after": after, "limit": limit})


def count(tx: Tx, owner_id: str | None) -> int:
    sql = "select count(*) from folders where %(owner)s::text is null or owner_id = %(owner)s"
    return int(scalar(tx, sql, {"owner": owner_id}))


def owner_of(tx: Tx, folder_id: int) -> str | None:
    owner: str | None = scalar(tx, "select owner_id from folders where id = %(id)s", {"id": folder_id})
    return owner


def wait_briefly(tx: Tx, longest: timedelta) -> None:
    """Give up on a lock after this time, in this transaction only."""
    execute(
        tx,
        "select set_config('lock_timeout', %(longest)s, true)",
        {"longest": f"{round(longest.total_seconds() * 1000)}ms"},
    )


def lock_tree(tx: Tx, owner_id: str) -> None:
    """Keep others from adding, moving and deleting the owner's folders; the trigger takes the same lock."""
    execute(tx, "select pg_advisory_xact_lock(hashtextextended('folders:' || %(owner)s, 0))", {"owner": owner_id})


def create(tx: Tx, owner_id: str, *, name: str, description: str, parent_id: int | None) -> int:
    return int(
        scalar(
            tx,
            "insert into folders (owner_id, name, description, parent_id)"
            " values (%(owner)s, %(name)s, %(description)s, %(parent)s) returning id",
            {"owner": owner_id, "name": name, "description": description, "parent": parent_id},
        )
    )


_UPDATE = """
update folders set name = coalesce(%(name)s, name), description = coalesce(%(description)s, description),
    parent_id = case when %(set_parent)s then %(parent)s::integer else parent_id end, updated_at = now()
where id = %(id)s
"""


def update(
    tx: Tx, folder_id: int, *, name: str | None, description: str | None, parent_id: int | None, set_parent: bool
) -> bool:
    return (
        execute(
            tx,
            _UPDATE,
            {"id": folder_id, "name": name, "description": description, "parent": parent_id, "set_parent": set_parent},
        )
        == 1
    )


# The rows are locked, so that no file can be put into these folders until the transaction ends: its foreign key waits.
_LOCK_BELOW = """
with recursive below (id) as (
    select id from folders where id = %(id)s
    union all
    select f.id from folders f join below on f.parent_id = below.id
)
select id from folders where id in (select id from below) order by id for update
"""


def lock_below(tx: Tx, folder_id: int) -> list[int]:
    """The folder and all below, locked; nothing where it is gone."""
    return [row[0] for row in tx.execute(_LOCK_BELOW, {"id": folder_id}).fetchall()]


def holds_files(tx: Tx, folder_ids: Sequence[int]) -> bool:
    """Outside the trash."""
    sql = "select exists (select from files where folder_id = any(%(ids)s) and not is_deleted)"
    return bool(scalar(tx, sql, {"ids": list(folder_ids)}))


_TRASH = """
with chosen as materialized (
    select id, is_deleted from files where folder_id = any(%(ids)s) order by id limit %(limit)s for no key update
), trashed as (
    update files f set is_deleted = true, deleted_at = coalesce(f.deleted_at, now()), folder_id = null,
        version = f.version + (not f.is_deleted)::integer
    from chosen where f.id = chosen.id
    returning f.id, f.owner_id, chosen.is_deleted as before
), events as (
    insert into file_events (file_id, owner_id, action, actor)
    select id, owner_id, 'trashed', %(actor)s from trashed where not before
)
select count(*), count(*) filter (where not before) from trashed
"""


def trash_inside(tx: Tx, folder_ids: Sequence[int], *, actor: str, limit: int) -> tuple[int, int]:
    """Take up to ``limit`` files out of these folders, into the trash: how many, and how many were not there before."""
    row = tx.execute(_TRASH, {"ids": list(folder_ids), "actor": actor, "limit": limit}).fetchone()
    assert row is not None
    return row[0], row[1]


def remove(tx: Tx, folder_ids: Sequence[int]) -> int:
    return execute(tx, "delete from folders where id = any(%(ids)s)", {"ids": list(folder_ids)})


_PATHS_BELOW = """
with recursive below (id, path) as (
    select id, '' from folders where id = %(id)s
    union all
    select f.id, below.path || f.name || '/' from folders f join below on f.parent_id = below.id
)
select id, path from below
"""


def paths_below(tx: Tx, folder_id: int) -> dict[int, str]:
    """Where the folders below lie, seen from this one: "" is itself, "a/b/" a folder in a folder of it."""
    return dict(tx.execute(_PATHS_BELOW, {"id": folder_id}).fetchall())
