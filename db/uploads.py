"""Transfers in progress, whatever the protocol, and the quota they hold.

    pending -> uploading -> completing -> done | aborted | expired

The row, with its object key, is committed before the first byte is sent; whatever a crash leaves behind, the janitor
finds it from here. ``cleaned`` says that nothing of an aborted or expired upload is left in the bucket."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from core.placement import Placement
from db import Tx, execute, many, one, scalar

COLUMNS = (
    "id, owner_id, protocol, status, object_key, multipart_id, original_name, content_type, size, reserved, part_size,"
    " folder_id, visibility, tags, on_duplicate, metadata, sha256, session_id, file_id, problem, cleaned, created_at,"
    " updated_at, expires_at"
)


@dataclass(frozen=True, slots=True)
class UploadRecord:
    id: UUID
    owner_id: str
    protocol: str
    status: str
    object_key: str
    multipart_id: str | None
    original_name: str
    content_type: str
    size: int | None
    reserved: int
    part_size: int | None
    folder_id: int | None
    visibility: str
    tags: list[str]
    on_duplicate: str
    metadata: dict[str, Any]
    sha256: str | None
    session_id: str | None
    file_id: UUID | None
    problem: dict[str, Any] | None
    cleaned: bool
    created_at: datetime
    updated_at: datetime
    expires_at: datetime

    @property
    def placement(self) -> Placement:
        return Placement(
            folder_id=self.folder_id, visibility=self.visibility, tags=tuple(self.tags),  # type: ignore[arg-type]
            on_duplicate=self.on_duplicate, metadata=self.metadata,                       # type: ignore[arg-type]
        )


@dataclass(frozen=True, slots=True)
class NewUpload:
    owner_id: str
    protocol: str
    object_key: str
    original_name: str
    content_type: str
    size: int | None                    # bytes as declared
    reserve: int                        # bytes of quota to hold
    session_id: str
    expires_in: timedelta
    status: str = "pending"
    part_size: int | None = None
    placement: Placement = Placement()
    sha256: str | None = None


# One conditional UPDATE decides on the quota, so that no number of parallel uploads gets past it (THREATS T71).
_ADMIT = f"""
with held as (
    insert into owner_usage as u (owner_id, reserved_bytes)
    select %(owner_id)s, %(reserve)s where %(quota)s::bigint is null or %(reserve)s <= %(quota)s
    on conflict (owner_id) do update set reserved_bytes = u.reserved_bytes + excluded.reserved_bytes
    where coalesce(u.quota_bytes, %(quota)s) is null
       or u.used_bytes + u.reserved_bytes + excluded.reserved_bytes <= coalesce(u.quota_bytes, %(quota)s)
    returning 1
),
open as (
    select count(*) as n from (
        select from uploads where owner_id = %(owner_id)s and status in ('pending', 'uploading', 'completing') limit %(max_open)s
    ) o
),
session as (
    insert into upload_sessions (owner_id, session_id) select %(owner_id)s, %(session_id)s from held
    on conflict (owner_id, session_id) do nothing
)
insert into uploads (owner_id, protocol, status, object_key, original_name, content_type, size, reserved, part_size, folder_id,
                     visibility, tags, on_duplicate, metadata, sha256, session_id, expires_at)
select %(owner_id)s, %(protocol)s, %(status)s, %(object_key)s, %(original_name)s, %(content_type)s, %(size)s, %(reserve)s,
       %(part_size)s, %(folder_id)s, %(visibility)s, %(tags)s, %(on_duplicate)s, %(metadata)s, %(sha256)s, %(session_id)s,
       now() + %(expires_in)s
from held, open where open.n < %(max_open)s
returning {COLUMNS}
"""


def admit(tx: Tx, new: NewUpload, *, quota_bytes: int | None, max_open: int) -> UploadRecord | None:
    """Record an upload and hold its quota; None where the quota, or the number of open uploads, does not allow it.

    The caller rolls the transaction back on None, since the quota may have been held by then."""
    place = new.placement
    return one(tx, UploadRecord, _ADMIT, {
        "owner_id": new.owner_id, "protocol": new.protocol, "status": new.status, "object_key": new.object_key,
        "original_name": new.original_name, "content_type": new.content_type, "size": new.size, "reserve": new.reserve,
        "part_size": new.part_size, "folder_id": place.folder_id, "visibility": place.visibility, "tags": list(place.tags),
        "on_duplicate": place.on_duplicate, "metadata": Jsonb(place.metadata), "sha256": new.sha256,
        "session_id": new.session_id, "expires_in": new.expires_in, "quota": quota_bytes, "max_open": max_open,
    })


_EXTEND = """
with up as (
    select id, owner_id, reserved from uploads where id = %(id)s and status in ('pending', 'uploading') for update
),
held as (
    update owner_usage u set reserved_bytes = u.reserved_bytes + greatest(%(reserve)s - up.reserved, 0)
    from up where u.owner_id = up.owner_id
    and (coalesce(u.quota_bytes, %(quota)s) is null
         or u.used_bytes + u.reserved_bytes + greatest(%(reserve)s - up.reserved, 0) <= coalesce(u.quota_bytes, %(quota)s))
    returning 1
)
update uploads set reserved = greatest(uploads.reserved, %(reserve)s), expires_at = now() + %(expires_in)s, updated_at = now()
from held where uploads.id = %(id)s
"""


def extend(tx: Tx, upload_id: UUID, *, reserve: int, expires_in: timedelta, quota_bytes: int | None) -> bool:
    """Hold ``reserve`` bytes in all and live longer; False where the quota does not allow it or the upload is over."""
    params = {"id": upload_id, "reserve": reserve, "expires_in": expires_in, "quota": quota_bytes}
    return execute(tx, _EXTEND, params) == 1


_CHARGE = """
insert into owner_usage as u (owner_id) select %(owner)s where %(quota)s::bigint is null or %(size)s <= %(quota)s
on conflict (owner_id) do update set owner_id = excluded.owner_id
where coalesce(u.quota_bytes, %(quota)s) is null
   or u.used_bytes + u.reserved_bytes + %(size)s <= coalesce(u.quota_bytes, %(quota)s)
"""


def charge(tx: Tx, owner_id: str, *, size: int, quota_bytes: int | None) -> bool:
    """For a copy, whose row the trigger will count in the same transaction: does it fit? Locks the owner's usage."""
    return execute(tx, _CHARGE, {"owner": owner_id, "size": size, "quota": quota_bytes}) == 1


def get(tx: Tx, upload_id: UUID) -> UploadRecord | None:
    return one(tx, UploadRecord, f"select {COLUMNS} from uploads where id = %(id)s", {"id": upload_id})


def lock(tx: Tx, upload_id: UUID) -> UploadRecord | None:
    """The upload, its row locked until the transaction ends."""
    return one(tx, UploadRecord, f"select {COLUMNS} from uploads where id = %(id)s for update", {"id": upload_id})


_SET_MULTIPART = """
update uploads set multipart_id = %(multipart_id)s, status = 'uploading', updated_at = now()
where id = %(id)s and status in ('pending', 'uploading')
"""


def set_multipart(tx: Tx, upload_id: UUID, multipart_id: str) -> bool:
    return execute(tx, _SET_MULTIPART, {"id": upload_id, "multipart_id": multipart_id}) == 1


_END = """
with up as (
    select id, owner_id, reserved from uploads
    where id = any(%(ids)s) and status in ('pending', 'uploading', 'completing')
    and (not %(expired_only)s or (expires_at < now() and status <> 'completing'))
    order by id for update
),
freed as (
    update owner_usage u set reserved_bytes = u.reserved_bytes - f.bytes
    from (select owner_id, sum(reserved) as bytes from up group by owner_id) f where u.owner_id = f.owner_id
)
update uploads set status = %(status)s, reserved = 0, problem = coalesce(%(problem)s, problem), updated_at = now()
from up where uploads.id = up.id
returning uploads.id
"""


def end(
    tx: Tx, upload_ids: list[UUID], *, status: str, problem: dict[str, Any] | None = None, expired_only: bool = False,
) -> list[UUID]:
    """Unfinished -> aborted | expired, quota given back: those that it happened to. With ``expired_only`` the time is
    looked at again in the same statement, so that an upload that went on meanwhile is left alone."""
    rows = tx.execute(_END, {
        "ids": upload_ids, "status": status, "expired_only": expired_only,
        "problem": None if problem is None else Jsonb(problem),
    }).fetchall()
    return [row[0] for row in rows]


def delete(tx: Tx, upload_ids: list[UUID]) -> None:
    """Forget uploads whose protocol lets nobody ask for them again and whose bytes are gone or belong to a file."""
    execute(tx, "delete from uploads where id = any(%(ids)s) and status in ('done', 'aborted')", {"ids": upload_ids})


def mark_cleaned(tx: Tx, upload_id: UUID) -> None:
    """The bucket holds nothing of it any more."""
    execute(tx, "update uploads set cleaned = true where id = %(id)s and status in ('aborted', 'expired')", {"id": upload_id})


_EXPIRED = f"""
select {COLUMNS} from uploads
where status in ('pending', 'uploading') and expires_at < now() order by expires_at limit %(limit)s
"""


def expired(tx: Tx, *, limit: int) -> list[UploadRecord]:
    return many(tx, UploadRecord, _EXPIRED, {"limit": limit})


_UNCLEAN = f"""
select {COLUMNS} from uploads where status in ('aborted', 'expired') and not cleaned and updated_at < now() - %(grace)s
order by updated_at limit %(limit)s
"""


def unclean(tx: Tx, *, grace: timedelta, limit: int) -> list[UploadRecord]:
    """Ended uploads that may have left something in the bucket; the grace lets whoever ended them clean up first."""
    return many(tx, UploadRecord, _UNCLEAN, {"limit": limit, "grace": grace})


_FORGET = """
delete from uploads where id in (
    select id from uploads where updated_at < now() - %(keep)s
    and (status = 'done' or (status in ('aborted', 'expired') and cleaned)) order by updated_at limit %(limit)s)
"""


def forget_old(tx: Tx, *, keep: timedelta, limit: int) -> int:
    """Delete the rows of uploads that ended long ago."""
    return execute(tx, _FORGET, {"keep": keep, "limit": limit})


_LIVE_MULTIPARTS = """
select multipart_id from uploads
where multipart_id = any(%(ids)s) and status in ('pending', 'uploading', 'completing')
"""


def live_multiparts(tx: Tx, multipart_ids: list[str]) -> set[str]:
    """Those of S3's upload ids that an unfinished upload owns."""
    return {row[0] for row in tx.execute(_LIVE_MULTIPARTS, {"ids": multipart_ids}).fetchall()}
