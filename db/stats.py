"""What an owner's files amount to: counted when asked, in a fixed number of statements."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from db import Tx, many


@dataclass(frozen=True, slots=True)
class Activity:
    file_id: UUID
    action: str
    at: datetime
    original_name: str | None       # None: the file was purged


# One pass over the files outside the trash, grouped three ways.
_GROUPS = """
select grouping(file_type, status, folder_id), file_type, status, folder_id,
       count(*), coalesce(sum(file_size), 0)::bigint
from files where not is_deleted and {mine}
group by grouping sets ((file_type), (status), (folder_id), ())
"""
_TOTALS = """
select (select coalesce(sum(used_bytes), 0)::bigint from owner_usage where {mine}),
       (select quota_bytes from owner_usage where owner_id = %(owner)s),
       (select coalesce(sum(size), 0)::bigint from objects where status = 'stored' and {mine})
"""
_RECENT = """
select e.file_id, e.action, e.at, f.original_name
from (select * from file_events where {mine} order by id desc limit %(limit)s) e
left join files f on f.id = e.file_id order by e.id desc
"""


@dataclass(frozen=True, slots=True)
class Counted:
    """Of files outside the trash; sizes in bytes."""

    files: int
    size: int
    by_type: dict[str, tuple[int, int]]
    by_status: dict[str, int]
    by_folder: dict[int | None, tuple[int, int]]


def count(tx: Tx, owner_id: str | None) -> Counted:
    counted = Counted(0, 0, {}, {}, {})
    files = size = 0
    for kind, file_type, status, folder_id, number, total in tx.execute(_sql(_GROUPS, owner_id), {"owner": owner_id}):
        match kind:                 # a bit for each column that is not grouped by
            case 0b011:
                counted.by_type[file_type] = (number, total)
            case 0b101:
                counted.by_status[status] = number
            case 0b110:
                counted.by_folder[folder_id] = (number, total)
            case _:
                files, size = number, total
    return Counted(files, size, counted.by_type, counted.by_status, counted.by_folder)


def totals(tx: Tx, owner_id: str | None) -> tuple[int, int | None, int]:
    """Bytes of all files with the trash, the owner's own quota, bytes of the objects that they share."""
    row: tuple[Any, ...] | None = tx.execute(_sql(_TOTALS, owner_id), {"owner": owner_id}).fetchone()
    assert row is not None
    return row[0], row[1], row[2]


def folder_names(tx: Tx, folder_ids: list[int]) -> dict[int, str]:
    return dict(tx.execute("select id, name from folders where id = any(%(ids)s)", {"ids": folder_ids}).fetchall())


def recent(tx: Tx, owner_id: str | None, *, limit: int) -> list[Activity]:
    """The newest events, newest first."""
    return many(tx, Activity, _sql(_RECENT, owner_id), {"owner": owner_id, "limit": limit})


def _sql(sql: str, owner_id: str | None) -> Any:
    return sql.format(mine="owner_id = %(owner)s" if owner_id is not None else "true")
