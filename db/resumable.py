"""What is durable of a resumable upload, and who may add to it.

    resumable_uploads   the offset, the tail, and the writer's lease with its fence
    upload_parts        the parts that count, each with the ETag that completion will name
    upload_objects      every object key that a writer was given, so that whatever a crash leaves can be found

The fence is a number that grows with each lease. Every statement of a writer compares its fence with the row's, so a writer
whose lease was taken over changes nothing. Part numbers and object keys are given out once, so nobody else's bytes are
overwritten in the bucket either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from psycopg.rows import kwargs_row

from core.principal import Principal
from db import Tx, execute, many, one, scalar
from db.records import PartRecord, ResumableRecord, UploadRecord, UploadState
from db.uploads import COLUMNS as UPLOAD_COLUMNS
from db.uploads import FAIRLY, OWN, RENEWED, own

MAX_PART_NUMBER = 10_000

COLUMNS = (
    "upload_id, received, tail_key, tail_size, next_part, fence, bytes_complete, metadata_header, partial, concat_header,"
    " sources, coalesce(leased_until > now(), false) as leased, handover_requested"
)
_STATE = f"{UPLOAD_COLUMNS}, {COLUMNS}"  # no name is in both tables
_UPLOAD_FIELDS = {field.name for field in fields(UploadRecord)}
_OPEN = "status in ('pending', 'uploading')"
_UPLOAD_IS_OPEN = f"exists (select from uploads u where u.id = %(id)s and u.{_OPEN})"


def _states(tx: Tx, sql: str, params: dict[str, Any]) -> list[tuple[UploadState, int | None]]:
    """Both records of each row, and its ``taken``."""

    def state(taken: int | None = None, **row: Any) -> tuple[UploadState, int | None]:
        upload = {name: row.pop(name) for name in _UPLOAD_FIELDS}
        return UploadState(UploadRecord(**upload), ResumableRecord(**row)), taken

    with tx.cursor(row_factory=kwargs_row(state)) as cursor:
        return cursor.execute(sql, params).fetchall()


_CREATE = f"""
insert into resumable_uploads (upload_id, metadata_header, partial, concat_header, sources)
values (%(id)s, %(metadata_header)s, %(partial)s, %(concat_header)s, %(sources)s) returning {COLUMNS}
"""


def create(
    tx: Tx,
    upload: UploadRecord,
    *,
    metadata_header: str | None,
    partial: bool,
    concat_header: str | None,
    sources: Sequence[UUID] | None,
) -> UploadState:
    """Make an upload a resumable one."""
    params = {
        "id": upload.id,
        "metadata_header": metadata_header,
        "partial": partial,
        "concat_header": concat_header,
        "sources": None if sources is None else list(sources),
    }
    record = one(tx, ResumableRecord, _CREATE, params)
    assert record is not None
    return UploadState(upload, record)


_OWNED = f"(%(owner)s::text is null or owner_id = %(owner)s) and {OWN}"


def _owned_by(principal: Principal) -> dict[str, Any]:
    return {"owner": None if principal.is_admin else principal.owner_id, **own(principal)}


def states(tx: Tx, principal: Principal, upload_ids: Sequence[UUID]) -> dict[UUID, UploadState]:
    """Those of these uploads that are the caller's."""
    sql = f"select {_STATE} from uploads join resumable_uploads on upload_id = id where id = any(%(ids)s) and {_OWNED}"
    found = _states(tx, sql, {"ids": list(upload_ids), **_owned_by(principal)})
    return {state.upload.id: state for state, _ in found}


def get(tx: Tx, upload_id: UUID) -> ResumableRecord | None:
    """The row beside the upload's."""
    sql = f"select {COLUMNS} from resumable_uploads where upload_id = %(id)s"
    return one(tx, ResumableRecord, sql, {"id": upload_id})


def parts(tx: Tx, upload_id: UUID) -> list[PartRecord]:
    """The parts that count, in order."""
    sql = "select number, size, etag, crc32 from upload_parts where upload_id = %(id)s order by number"
    return many(tx, PartRecord, sql, {"id": upload_id})


# -- the writer's lease ----------------------------------------------------------------------------------------------------

# ``seen`` is the statement's snapshot, while an update changes the row's latest version. Comparing their fences makes sure
# that no other writer came between: then both rows are as the previous writer left them.
_TAKE = f"""
with seen as (
    select {_STATE} from uploads join resumable_uploads on upload_id = id where id = %(id)s and {_OWNED}
),
wanted as (
    select fence from seen where {_OPEN} and not overdue
    and (%(offset)s::bigint is null or (received <= %(offset)s and sources is null))
),
taken as (
    update resumable_uploads r set fence = r.fence + 1, leased_until = now() + %(lease)s, handover_requested = false
    from wanted where r.upload_id = %(id)s and r.fence = wanted.fence and coalesce(r.leased_until < now(), true)
    and (%(offset)s::bigint is null or r.received = %(offset)s)
    returning r.fence
),
requested as (
    update resumable_uploads r set handover_requested = true
    from wanted where r.upload_id = %(id)s and r.leased_until >= now() and not r.handover_requested
)
select seen.*, (select fence from taken) as taken from seen
"""


def take(
    tx: Tx, principal: Principal, upload_id: UUID, *, offset: int | None, lease: timedelta
) -> tuple[UploadState, bool] | None:
    """Take the lease of the caller's upload if it is free, else ask its holder for it. Returns the upload, and whether the
    lease was taken; None if there is no such upload.

    The lease is neither taken nor asked for if the upload is over or, with ``offset``, if that is not the upload's and
    can't become it."""
    found = _states(tx, _TAKE, {"id": upload_id, "offset": offset, "lease": lease, **_owned_by(principal)})
    if not found:
        return None
    state, fence = found[0]
    if fence is None:
        return state, False
    return replace(state, record=replace(state.record, fence=fence, leased=True, handover_requested=False)), True


_RENEW = """
update resumable_uploads set leased_until = now() + %(lease)s where upload_id = %(id)s and fence = %(fence)s
returning handover_requested
"""


def renew(tx: Tx, upload_id: UUID, *, fence: int, lease: timedelta) -> bool | None:
    """Keep the lease. Returns whether another request asks for it; None if another has taken it."""
    requested: bool | None = scalar(tx, _RENEW, {"id": upload_id, "fence": fence, "lease": lease})
    return requested


_RELEASE = """
update resumable_uploads set leased_until = null, handover_requested = false where upload_id = %(id)s and fence = %(fence)s
"""


def release(tx: Tx, upload_id: UUID, *, fence: int) -> None:
    """Give the lease back."""
    execute(tx, _RELEASE, {"id": upload_id, "fence": fence})


# -- what a writer is given, and what it records -----------------------------------------------------------------------------

_NEXT_PART = f"""
update resumable_uploads set next_part = next_part + 1, leased_until = now() + %(lease)s
where upload_id = %(id)s and fence = %(fence)s and next_part <= {MAX_PART_NUMBER} and {_UPLOAD_IS_OPEN} returning next_part - 1
"""


def next_part(tx: Tx, upload_id: UUID, *, fence: int, lease: timedelta) -> int | None:
    """A part number that is given out only once. None if the upload is over, its lease was taken over, or no number is
    left."""
    number: int | None = scalar(tx, _NEXT_PART, {"id": upload_id, "fence": fence, "lease": lease})
    return number


_ADD_KEY = f"""
with writer as (
    update resumable_uploads set leased_until = now() + %(lease)s
    where upload_id = %(id)s and fence = %(fence)s and {_UPLOAD_IS_OPEN} returning upload_id
)
insert into upload_objects (object_key, upload_id) select %(key)s, upload_id from writer
"""


def add_key(tx: Tx, upload_id: UUID, object_key: str, *, fence: int, lease: timedelta) -> bool:
    """Record a key before anything is written under it. False if the upload is over or its lease was taken over."""
    return execute(tx, _ADD_KEY, {"id": upload_id, "fence": fence, "lease": lease, "key": object_key}) == 1


_BEGIN_PARTS = f"""
update uploads set object_key = %(key)s, multipart_id = %(multipart_id)s, content_type = %(content_type)s, status = 'uploading',
    updated_at = now()
from resumable_uploads r
where id = %(id)s and r.upload_id = id and r.fence = %(fence)s and {_OPEN} and multipart_id is null
returning {UPLOAD_COLUMNS}
"""


def begin_parts(
    tx: Tx, upload_id: UUID, *, fence: int, object_key: str, multipart_id: str, content_type: str
) -> UploadRecord | None:
    """Record the multipart upload that takes the parts. None if the upload is over or its lease was taken over."""
    params = {"id": upload_id, "fence": fence, "key": object_key, "multipart_id": multipart_id}
    return one(tx, UploadRecord, _BEGIN_PARTS, params | {"content_type": content_type})


# The upload's row is locked first, and changed only if the fence still holds.
_RECORD = f"""
with live as (
    select id from uploads where id = %(id)s and {_OPEN} for no key update
),
moved as (
    update resumable_uploads r
    set received = %(received)s, bytes_complete = %(bytes_complete)s, tail_key = %(tail_key)s, tail_size = %(tail_size)s,
        leased_until = now() + %(lease)s, handover_requested = handover_requested and %(lease)s::interval is not null
    from live where r.upload_id = live.id and r.fence = %(fence)s and r.received <= %(received)s
    returning r.*
),
renewed as (
    update uploads u set status = 'uploading', updated_at = now(), expires_at = {RENEWED},
        object_key = coalesce(%(whole_key)s, u.object_key), content_type = coalesce(%(content_type)s, u.content_type)
    from moved where u.id = moved.upload_id
    returning u.*
),
added as (
    insert into upload_parts (upload_id, number, size, etag, crc32)
    select moved.upload_id, p.number, p.size, p.etag, p.crc32 from moved,
        unnest(%(numbers)s::int[], %(sizes)s::bigint[], %(etags)s::text[], %(crcs)s::text[]) p(number, size, etag, crc32)
)
select {_STATE} from renewed join moved on upload_id = id
"""


def record(
    tx: Tx,
    upload_id: UUID,
    *,
    fence: int,
    received: int,
    new_parts: Sequence[PartRecord],
    tail_key: str | None,
    tail_size: int,
    bytes_complete: bool,
    whole_key: str | None = None,
    content_type: str | None = None,
    lease: timedelta | None,
    expires_in: timedelta,
) -> UploadState | None:
    """Record what has become durable: more parts, the tail, or with ``whole_key`` all of it as one object. Keeps the lease
    for ``lease``, or gives it back. None, and nothing changed, if the upload is over or its lease was taken over."""
    params = {
        "id": upload_id,
        "fence": fence,
        "received": received,
        "tail_key": tail_key,
        "tail_size": tail_size,
        "bytes_complete": bytes_complete,
        "whole_key": whole_key,
        "content_type": content_type,
        "lease": lease,
        "expires_in": expires_in,
        "numbers": [part.number for part in new_parts],
        "sizes": [part.size for part in new_parts],
        "etags": [part.etag for part in new_parts],
        "crcs": [part.crc32 for part in new_parts],
    }
    found = _states(tx, _RECORD, params)
    return found[0][0] if found else None


_DECLARE_SIZE = f"""
update uploads set size = %(size)s, updated_at = now() where id = %(id)s and size is null and {_OPEN}
and exists (select from resumable_uploads r where r.upload_id = id and r.fence = %(fence)s and r.received <= %(size)s)
returning {UPLOAD_COLUMNS}
"""


def declare_size(tx: Tx, upload_id: UUID, size: int, *, fence: int) -> UploadRecord | None:
    """Set a length that was deferred. None if it was set before, or is less than what has arrived."""
    return one(tx, UploadRecord, _DECLARE_SIZE, {"id": upload_id, "size": size, "fence": fence})


# -- what nobody ended -------------------------------------------------------------------------------------------------------

_UNCOMPLETED = f"""
select {UPLOAD_COLUMNS} from uploads u
where u.{_OPEN} and u.expires_at > now() and coalesce(u.retry_at <= now(), true)
and exists (
    select from resumable_uploads r where r.upload_id = u.id and r.received = u.size and not r.partial and r.sources is null
    and coalesce(r.leased_until < now(), true))
order by {FAIRLY} limit %(limit)s
"""


def uncompleted(tx: Tx, *, limit: int) -> list[UploadRecord]:
    """Uploads whose every byte is durable and that nobody completes: their writer died before it could."""
    return many(tx, UploadRecord, _UNCOMPLETED, {"limit": limit})


_KEYS = """
select o.object_key from upload_objects o
where o.upload_id = %(id)s and not exists (select from objects s where s.object_key = o.object_key)
"""


def keys(tx: Tx, upload_id: UUID) -> list[str]:
    """The keys that writers of this upload were given, without one that has become a file's object."""
    return [row[0] for row in tx.execute(_KEYS, {"id": upload_id}).fetchall()]


def forget_keys(tx: Tx, object_keys: Sequence[str]) -> None:
    """The bucket holds nothing under these keys, or a file owns what it holds."""
    execute(tx, "delete from upload_objects where object_key = any(%(keys)s)", {"keys": list(object_keys)})


_KEYS_OF_ENDED = """
select o.object_key, exists (select from objects s where s.object_key = o.object_key)
from upload_objects o join uploads u on u.id = o.upload_id
where u.status = 'done' or (u.status in ('aborted', 'expired') and u.cleaned) limit %(limit)s
"""


def keys_of_ended(tx: Tx, *, limit: int) -> list[tuple[str, bool]]:
    """Keys recorded for uploads that are over, and whether each is a file's object."""
    return tx.execute(_KEYS_OF_ENDED, {"limit": limit}).fetchall()
