"""Statistics of an owner, or of everybody (``owner_id`` None), read from the counters (counters.py). No file is scanned."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from db import Tx, many, one
from db.counters import OF_OWNER


@dataclass(frozen=True, slots=True)
class Activity:
    """A recent event."""

    file_id: UUID
    action: str
    at: datetime
    original_name: str | None  # None: the file was purged


@dataclass(frozen=True, slots=True)
class FolderUsage:
    """What lies directly in a folder."""

    folder_id: int | None  # None: the root
    name: str | None
    files: int
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class FileCounts:
    """Files outside the trash; sizes in bytes."""

    files: int
    size: int
    by_type: dict[str, tuple[int, int]]
    by_status: dict[str, int]


@dataclass(frozen=True, slots=True)
class StorageUsage:
    """Bytes and files, the trash included."""

    used: int  # of all files
    stored: int  # of the objects that the files share
    saved: int  # by compression
    files: int


@dataclass(frozen=True, slots=True)
class OpenUploads:
    """Uploads in progress of one protocol."""

    protocol: str
    number: int
    oldest_seconds: float  # since the oldest of them began


def count(tx: Tx, owner_id: str | None) -> FileCounts:
    """Files by type and by status."""
    sql = f"""
    select file_type, status, sum(files)::bigint, sum(bytes)::bigint from type_counters
    where not is_deleted and {OF_OWNER} group by file_type, status having sum(files) > 0
    """
    by_type: dict[str, tuple[int, int]] = {}
    by_status: dict[str, int] = {}
    for file_type, status, files, size in tx.execute(sql, {"owner": owner_id}):
        before = by_type.get(file_type, (0, 0))
        by_type[file_type] = (before[0] + files, before[1] + size)
        by_status[status] = by_status.get(status, 0) + files
    size = sum(size for _, size in by_type.values())
    return FileCounts(sum(by_status.values()), size, by_type, dict(sorted(by_status.items())))


_LARGEST_OF_OWNER = """
select s.folder_id, f.name, s.files, s.bytes as size
from (select folder_id, files, bytes from folder_counters where owner_id = %(owner)s and files > 0
      order by bytes desc, files desc, folder_id limit %(limit)s) s
left join folders f on f.id = s.folder_id order by s.bytes desc, s.files desc, s.folder_id
"""
_LARGEST_OF_ALL = """
select s.folder_id, f.name, s.files, s.bytes as size
from (select folder_id, sum(files)::bigint as files, sum(bytes)::bigint as bytes from folder_counters
      where files > 0 group by folder_id order by bytes desc, files desc, folder_id limit %(limit)s) s
left join folders f on f.id = s.folder_id order by s.bytes desc, s.files desc, s.folder_id
"""


def largest_folders(tx: Tx, owner_id: str | None, *, limit: int) -> list[FolderUsage]:
    """The folders with the most bytes directly inside, the root among them."""
    sql = _LARGEST_OF_ALL if owner_id is None else _LARGEST_OF_OWNER
    return many(tx, FolderUsage, sql, {"owner": owner_id, "limit": limit})


def usage(tx: Tx, owner_id: str | None) -> StorageUsage:
    """The bytes that files use and that the bucket holds for them."""
    sql = f"""
    select coalesce(sum(used_bytes), 0)::bigint as used, coalesce(sum(stored_bytes), 0)::bigint as stored,
           coalesce(sum(saved_bytes), 0)::bigint as saved, coalesce(sum(file_count + trash_count), 0)::bigint as files
    from owner_usage where {OF_OWNER}
    """
    record = one(tx, StorageUsage, sql, {"owner": owner_id})
    assert record is not None
    return record


_OPEN_UPLOADS = """
select protocol, count(*)::bigint as number, extract(epoch from now() - min(created_at))::float as oldest_seconds
from uploads where status in ('pending', 'uploading', 'completing') group by protocol order by protocol
"""


def open_uploads(tx: Tx) -> list[OpenUploads]:
    """The uploads in progress, by protocol."""
    return many(tx, OpenUploads, _OPEN_UPLOADS)


# Files' events among the newest thousand. Two statements: a plan for both would not use the right index.
_RECENT_WHERE = """
select e.file_id, e.action, e.at, f.original_name
from (
    select * from (select * from audit_events {} order by id desc limit 1000) newest
    where file_id is not null order by id desc limit %(limit)s
) e
left join files f on f.id = e.file_id order by e.id desc
"""
_RECENT, _RECENT_OF_OWNER = _RECENT_WHERE.format(""), _RECENT_WHERE.format("where owner_id = %(owner)s")


def recent(tx: Tx, owner_id: str | None, *, limit: int) -> list[Activity]:
    """The newest events, newest first."""
    sql = _RECENT if owner_id is None else _RECENT_OF_OWNER
    return many(tx, Activity, sql, {"owner": owner_id, "limit": limit})
