"""What an owner's files amount to, read from the counters (db/counters.py): nothing here looks at the files but for names."""

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
    original_name: str | None  # None: the file was purged


@dataclass(frozen=True, slots=True)
class FolderAmount:
    folder_id: int | None  # None: the root
    name: str | None
    files: int
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Counted:
    """Of files outside the trash; sizes in bytes."""

    files: int
    size: int
    by_type: dict[str, tuple[int, int]]
    by_status: dict[str, int]


_COUNT = """
select file_type, status, sum(files)::bigint, sum(bytes)::bigint from type_counters
where not is_deleted and {mine} group by file_type, status having sum(files) > 0
"""


def count(tx: Tx, owner_id: str | None) -> Counted:
    by_type: dict[str, tuple[int, int]] = {}
    by_status: dict[str, int] = {}
    for file_type, status, files, size in tx.execute(_sql(_COUNT, owner_id), {"owner": owner_id}):
        before = by_type.get(file_type, (0, 0))
        by_type[file_type] = (before[0] + files, before[1] + size)
        by_status[status] = by_status.get(status, 0) + files
    return Counted(
        sum(by_status.values()), sum(size for _, size in by_type.values()), by_type, dict(sorted(by_status.items()))
    )


_LARGEST = """
select s.folder_id, f.name, s.files, s.size from ({amounts} order by 3 desc, 2 desc, 1 limit %(limit)s) s
left join folders f on f.id = s.folder_id order by s.size desc, s.files desc, s.folder_id
"""
_AMOUNTS = "select folder_id, files, bytes as size from folder_counters where owner_id = %(owner)s and files > 0"
_AMOUNTS_OF_ALL = """
select folder_id, sum(files)::bigint as files, sum(bytes)::bigint as size from folder_counters where files > 0 group by folder_id
"""


def largest_folders(tx: Tx, owner_id: str | None, *, limit: int) -> list[FolderAmount]:
    """The folders with the most bytes directly inside, and the root among them."""
    sql = _LARGEST.format(amounts=_AMOUNTS_OF_ALL if owner_id is None else _AMOUNTS)
    return many(tx, FolderAmount, sql, {"owner": owner_id, "limit": limit})


_TOTALS = """
select coalesce(sum(used_bytes), 0)::bigint, max(quota_bytes), coalesce(sum(stored_bytes), 0)::bigint,
       coalesce(sum(saved_bytes), 0)::bigint
from owner_usage where {mine}
"""


def totals(tx: Tx, owner_id: str | None) -> tuple[int, int | None, int, int]:
    """Bytes of all files with the trash, the owner's own quota, bytes of the objects that they share, and how many of
    these compression saves."""
    row: tuple[Any, ...] | None = tx.execute(_sql(_TOTALS, owner_id), {"owner": owner_id}).fetchone()
    assert row is not None
    return row[0], row[1] if owner_id is not None else None, row[2], row[3]


_RECENT = """
select e.file_id, e.action, e.at, f.original_name
from (select * from file_events where {mine} order by id desc limit %(limit)s) e
left join files f on f.id = e.file_id order by e.id desc
"""


def recent(tx: Tx, owner_id: str | None, *, limit: int) -> list[Activity]:
    """The newest events, newest first."""
    return many(tx, Activity, _sql(_RECENT, owner_id), {"owner": owner_id, "limit": limit})


def _sql(sql: str, owner_id: str | None) -> Any:
    return sql.format(mine="owner_id = %(owner)s" if owner_id is not None else "true")
