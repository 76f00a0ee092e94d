"""Uploads of every protocol, and the quota that they reserve.

    pending -> uploading -> completing -> done | aborted | expired

The row, with its object key, is committed before the first byte is stored, so the janitor finds whatever a crash leaves.
``cleaned`` says that nothing of an aborted or expired upload is left in the bucket. A session groups uploads that a client
shows as one; its row appears with its first upload and is counted as files appear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from core.placement import Placement
from core.principal import Principal, Quota
from db import Tx, events, execute, finished, many, one, quotas, scalar, serialize
from db.records import UploadRecord

COLUMNS = (
    "id, owner_id, protocol, status, object_key, incoming_key, multipart_id, original_name, content_type, size,"
    " reserved, part_size, folder_id, visibility, tags, on_duplicate, keep_location, metadata, sha256, session_id, token_id,"
    " file_id, problem, cleaned, created_at, updated_at, expires_at, expires_at < now() as overdue, attempts, folder_gone"
)


@dataclass(frozen=True, slots=True)
class NewUpload:
    """An upload to be admitted."""

    owner_id: str
    protocol: str
    object_key: str
    original_name: str
    content_type: str
    size: int | None  # bytes as declared
    reserve: int  # bytes of quota
    session_id: str
    expires_in: timedelta
    status: str = "pending"
    part_size: int | None = None
    placement: Placement = field(default_factory=Placement)
    sha256: str | None = None
    incoming_key: str | None = None
    token_id: UUID | None = None  # the upload token whose budget is charged
    urls_for: timedelta | None = None  # lifetime of the URLs in the first answer
    bound: bool = False  # begun with a key that is limited to a folder
    folder_gone: bool = False  # ``placement`` has the nearest folder that lives


# What the session's files use; what its unfinished uploads add is decided when they become files (files.open_publication).
_SESSION_FITS = """not exists (
    select from (select 1) one left join upload_sessions s on s.owner_id = %(owner_id)s and s.session_id = %(session_id)s
    where coalesce(s.total_size, 0) + %(reserve)s > %(session_bytes)s::bigint
       or coalesce(s.files_uploaded, 0) + 1 > %(session_files)s::bigint)"""


def _recording(action: str) -> str:
    """The event of ``upload``. What is sent by one request has no other than that of its file."""
    return events.recording("upload where protocol not in ('form', 'raw')", action=action, file="null", target="id")


# One conditional UPDATE decides on the quota and the number of open uploads, so that parallel uploads can't exceed them (T71,
# T73); ``may_open`` only spares the rest. Locks are taken in the order session, token, usage (db/__init__.py).
_ADMIT = f"""
with may_open as (
    select where not exists (select from owner_usage where owner_id = %(owner_id)s and reserved_files >= %(max_open)s)
),
session as (
    insert into upload_sessions (owner_id, session_id) select %(owner_id)s, %(session_id)s from may_open
    where not exists (select from upload_sessions where owner_id = %(owner_id)s and session_id = %(session_id)s)
    on conflict (owner_id, session_id) do nothing returning 1
),
budget as (
    update upload_tokens set files_used = files_used + 1, bytes_used = bytes_used + %(reserve)s
    where id = %(token_id)s and exists (select from may_open)
    and expires_at > now() and (max_files is null or files_used < max_files)
    and {finished("session")}
    and (max_total_size is null or bytes_used + %(reserve)s <= max_total_size)
    returning id
),
held as (
    insert into owner_usage as u (owner_id, reserved_bytes, reserved_files)
    select %(owner_id)s, %(reserve)s, 1 from may_open
    where (exists (select from owner_usage where owner_id = %(owner_id)s)
           or coalesce(%(reserve)s <= %(max_bytes)s::bigint, true) and coalesce(1 <= %(max_files)s::bigint, true))
    and {_SESSION_FITS}
    and {finished("session")} and (%(token_id)s::uuid is null or exists (select from budget))
    on conflict (owner_id) do update
    set reserved_bytes = u.reserved_bytes + excluded.reserved_bytes, reserved_files = u.reserved_files + 1
    where u.reserved_files < %(max_open)s and {quotas.fits("excluded.reserved_bytes", "1")}
    returning 1
),
upload as (
    insert into uploads (owner_id, protocol, status, object_key, incoming_key, original_name, content_type, size, reserved,
                         part_size, folder_id, folder_gone, bound, visibility, tags, on_duplicate, keep_location, metadata,
                         sha256, session_id, token_id, urls_until, expires_at)
    select %(owner_id)s, %(protocol)s, %(status)s, %(object_key)s, %(incoming_key)s, %(original_name)s, %(content_type)s,
           %(size)s, %(reserve)s, %(part_size)s, %(folder_id)s, %(folder_gone)s, %(bound)s, %(visibility)s,
           %(tags)s, %(on_duplicate)s, %(keep_location)s, %(metadata)s, %(sha256)s, %(session_id)s, %(token_id)s,
           now() + %(urls_for)s, now() + %(expires_in)s
    from held returning *
),
event as ({_recording("'upload_begun'")})
select {COLUMNS} from upload
"""


def admit(tx: Tx, new: NewUpload, *, quota: Quota, session_quota: Quota, max_open: int) -> UploadRecord | None:
    """Record an upload and reserve its quota and its token's budget. None if one of these or the number of open uploads does
    not allow it; then the caller rolls back what was reserved."""
    place = new.placement
    params = {
        **{field.name: getattr(new, field.name) for field in fields(new)},
        **{field.name: getattr(place, field.name) for field in fields(place)},
        "tags": list(place.tags),
        "metadata": Jsonb(place.metadata),
        "max_open": max_open,
        **_limits(quota, session_quota),
    }
    return one(tx, UploadRecord, _ADMIT, params | events.by())


def _limits(quota: Quota, session_quota: Quota) -> dict[str, Any]:
    session = {"session_bytes": session_quota.max_bytes, "session_files": session_quota.max_files}
    return quotas.defaults(quota) | session


def without_row(new: NewUpload, upload_id: UUID, *, object_key: str) -> UploadRecord:
    """An upload in progress that has no row, and reserves no quota."""
    place, now = new.placement, datetime.now(UTC)
    return UploadRecord(
        id=upload_id,
        owner_id=new.owner_id,
        protocol=new.protocol,
        status=new.status,
        object_key=object_key,
        original_name=new.original_name,
        content_type=new.content_type,
        size=new.size,
        reserved=new.reserve,
        folder_id=place.folder_id,
        visibility=place.visibility,
        tags=list(place.tags),
        on_duplicate=place.on_duplicate,
        keep_location=place.keep_location,
        metadata=place.metadata,
        session_id=new.session_id,
        created_at=now,
        updated_at=now,
        expires_at=now + new.expires_in,
    )


_REFUSAL = f"""
select case
    when not ({quotas.fits("%(reserve)s", "1")}) then 'quota'
    when not ({_SESSION_FITS}) then 'session'
    when %(token_id)s::uuid is not null and not exists (
        select from upload_tokens where id = %(token_id)s and expires_at > now()
        and (max_files is null or files_used < max_files)
        and (max_total_size is null or bytes_used + %(reserve)s <= max_total_size)) then 'budget'
    when u.reserved_files >= %(max_open)s then 'open uploads' end
from {quotas.OF_OWNER}
"""


def refusal(tx: Tx, new: NewUpload, *, quota: Quota, session_quota: Quota, max_open: int) -> str | None:
    """Why ``admit`` returned None: 'quota', 'session', 'budget' or 'open uploads'; None if it would not do so now."""
    params = {name: getattr(new, name) for name in ("owner_id", "session_id", "reserve", "token_id")}
    reason: str | None = scalar(tx, _REFUSAL, params | {"max_open": max_open} | _limits(quota, session_quota))
    return reason


# However often it is extended, an upload expires after seven times the extension, at the latest after a week.
RENEWED = """greatest(expires_at, least(now() + %(expires_in)s,
    created_at + case when protocol in ('form', 'raw') then interval '7 days'
                      else least(7 * %(expires_in)s, interval '7 days') end))"""

_EXTEND = f"""
with up as (
    select id, owner_id, token_id, reserved, greatest(%(reserve)s - reserved, 0) as more
    from uploads where id = %(id)s and status in ('pending', 'uploading', 'completing') for update
),
budget as (
    update upload_tokens t set bytes_used = t.bytes_used + up.more from up
    where t.id = up.token_id and (t.max_total_size is null or t.bytes_used + up.more <= t.max_total_size) returning 1
),
held as (
    update owner_usage u set reserved_bytes = u.reserved_bytes + up.more
    from up where u.owner_id = up.owner_id and (up.token_id is null or exists (select from budget))
    and (up.more = 0 or {quotas.fits_bytes("up.more")})
    returning 1
)
update uploads set reserved = greatest(uploads.reserved, %(reserve)s),
    expires_at = {RENEWED}, updated_at = now()
from held where uploads.id = %(id)s
"""


def extend(tx: Tx, upload_id: UUID, *, reserve: int, expires_in: timedelta, quota: Quota) -> bool:
    """Reserve ``reserve`` bytes in all and postpone the expiry. False if quota or budget do not allow it or the upload is
    over; then the caller rolls back."""
    params = {"id": upload_id, "reserve": reserve, "expires_in": expires_in, **quotas.defaults(quota)}
    return execute(tx, _EXTEND, params) == 1


def get(tx: Tx, upload_id: UUID) -> UploadRecord | None:
    """One upload."""
    return one(tx, UploadRecord, f"select {COLUMNS} from uploads where id = %(id)s", {"id": upload_id})


def lock(tx: Tx, upload_id: UUID) -> UploadRecord | None:
    """One upload, its row locked until the transaction ends."""
    return one(tx, UploadRecord, f"select {COLUMNS} from uploads where id = %(id)s for update", {"id": upload_id})


def of_file(tx: Tx, file_id: UUID, *, lock: bool = False) -> UploadRecord | None:
    """The upload that a file came from, while its row is kept."""
    sql = f"select {COLUMNS} from uploads where file_id = %(id)s limit 1" + (" for update" if lock else "")
    return one(tx, UploadRecord, sql, {"id": file_id})


_LOCK_CONTENT = "select pg_advisory_xact_lock(hashtextextended('content:' || %(owner)s || ':' || %(sha256)s, 0))"


def lock_content(tx: Tx, owner_id: str, sha256: str) -> None:
    """Serialize decisions on an owner's equal bytes until the transaction ends."""
    execute(tx, _LOCK_CONTENT, {"owner": owner_id, "sha256": sha256})


_UNCHECKED_FILES = """
select f.id, now() - f.uploaded_at from files f
where f.status = 'processing' and f.uploaded_at < now() - %(after)s and not exists (
    select from procrastinate_jobs j
    where j.task_name = 'check_file' and j.status in ('todo', 'doing') and j.args ->> 'file_id' = f.id::text)
order by f.uploaded_at limit %(limit)s
"""


def unchecked_files(tx: Tx, *, after: timedelta, limit: int) -> list[tuple[UUID, timedelta]]:
    """``processing`` files without a job, with the time since they were uploaded. One transaction at a time finds them, so that
    what it enqueues is seen by the next."""
    serialize(tx, "unchecked_files")
    return tx.execute(_UNCHECKED_FILES, {"after": after, "limit": limit}).fetchall()


# An upload token has the uploads that it began; a key of a folder those that go there, and those that such a key began.
OWN = """(%(token)s::uuid is null or token_id = %(token)s)
and (%(folders)s::integer[] is null or folder_id = any(%(folders)s) or starts_with(session_id, %(apart)s || '.'))"""


def own(principal: Principal) -> dict[str, Any]:
    """The parameters of ``OWN``."""
    return {"token": principal.token_id, "folders": principal.reach, "apart": principal.apart}


_UNFINISHED = f"""
select {COLUMNS} from uploads
where owner_id = %(owner)s and status in ('pending', 'uploading', 'completing')
and {OWN}
and (%(after)s::uuid is null or id < %(after)s)
order by id desc limit %(limit)s
"""


def unfinished(tx: Tx, principal: Principal, *, after: UUID | None, limit: int) -> list[UploadRecord]:
    """The caller's unfinished uploads after ``after``, newest first."""
    params = {"owner": principal.owner_id, **own(principal), "after": after, "limit": limit}
    return many(tx, UploadRecord, _UNFINISHED, params)


_ANY_INCOMING = """
select exists (select from uploads where incoming_key is not null and status in ('pending', 'uploading'))
    or exists (select from uploads where incoming_key is not null and urls_until > now() - interval '10 minutes')
"""


def any_incoming(tx: Tx) -> bool:
    """Whether a client may be sending to an incoming key, even for an upload that is over."""
    return bool(scalar(tx, _ANY_INCOMING))


# Owners take turns: each one's first upload, then each one's second. What failed before comes last.
FAIRLY = "row_number() over (partition by u.owner_id order by u.retry_at nulls first, u.id), random()"
_DUE = f"""
select {COLUMNS} from uploads u
where (status = 'completing' and updated_at < now() - %(lease)s
       or incoming_key = any(%(keys)s) and status in ('pending', 'uploading'))
and coalesce(retry_at <= now(), true)
order by {FAIRLY} limit %(limit)s
"""


def due(tx: Tx, incoming_keys: list[str], *, lease: timedelta, limit: int) -> list[UploadRecord]:
    """Uploads to be completed without their client: those that arrived under these keys, and completions whose holder
    died."""
    return many(tx, UploadRecord, _DUE, {"keys": incoming_keys, "lease": lease, "limit": limit})


_PUT_OFF = "update uploads set attempts = %(attempts)s, retry_at = now() + %(wait)s where id = %(id)s"


def put_off(tx: Tx, upload_id: UUID, *, attempts: int, wait: timedelta) -> None:
    """Hide it from the sweep for a while."""
    execute(tx, _PUT_OFF, {"id": upload_id, "attempts": attempts, "wait": wait})


_OUTSTANDING = """array(select distinct n from unnest(outstanding_parts || %(requested)s::integer[]) n
    where n = any(%(requested)s::integer[]) or n <> all(%(arrived)s::integer[]))"""
_RENEW = f"""
update uploads set expires_at = {RENEWED}, updated_at = now(),
    urls_until = greatest(urls_until, now() + %(urls_for)s), outstanding_parts = {_OUTSTANDING}
where id = %(id)s and status in ('pending', 'uploading') and {RENEWED} > now() and cardinality({_OUTSTANDING}) <= %(max)s
returning {COLUMNS}
"""


def renew(
    tx: Tx,
    upload_id: UUID,
    *,
    expires_in: timedelta,
    urls_for: timedelta,
    requested: Sequence[int],
    arrived: Sequence[int],
    max_outstanding: int,
) -> UploadRecord | None:
    """Postpone the expiry of an upload that gets new URLs. None if it is over, or if more than ``max_outstanding`` parts
    were ``requested``, now and before, that have not ``arrived``."""
    params = {"id": upload_id, "expires_in": expires_in, "urls_for": urls_for, "max": max_outstanding}
    return one(tx, UploadRecord, _RENEW, params | {"requested": list(requested), "arrived": list(arrived)})


_CLAIM_MEASUREMENTS = f"""
with due as (
    select id from uploads
    where urls_until > now() - %(grace)s and multipart_id is not null and status in ('pending', 'uploading')
    and coalesce(measured_at, created_at)
        < now() - case when size is null and urls_until > now() then %(unsized)s
                       else greatest(%(sized)s, least(size / %(speed)s, 300) * interval '1 s') end
    order by coalesce(measured_at, created_at) limit %(limit)s for update skip locked
)
update uploads set measured_at = now() where id in (select id from due) returning {COLUMNS}
"""


def claim_measurements(
    tx: Tx, *, unsized: timedelta, sized: timedelta, speed: int, grace: timedelta, limit: int
) -> list[UploadRecord]:
    """Multipart uploads that may still grow, since their URLs are valid or were within ``grace``. Each goes to one caller
    once in ``unsized`` if the URLs take any length, else once in ``sized``, or in the time (at most five minutes) in which its
    size arrives at ``speed`` bytes a second."""
    params = {"unsized": unsized, "sized": sized, "speed": speed, "grace": grace, "limit": limit}
    return many(tx, UploadRecord, _CLAIM_MEASUREMENTS, params)


_AVAILABLE = f"""
select least({quotas.LEFT}, t.max_total_size - t.bytes_used)
from (select 1) one
left join owner_usage u on u.owner_id = %(owner)s left join upload_tokens t on t.id = %(token)s
"""


def available(tx: Tx, owner_id: str, token_id: UUID | None, *, quota: Quota) -> int | None:
    """Bytes that quota and upload token leave now; None without a limit."""
    left = scalar(tx, _AVAILABLE, {"owner": owner_id, "token": token_id, **quotas.defaults(quota)})
    return None if left is None else max(0, int(left))


# Rows that a transaction has locked are being published or ended. To wait for them would delay the others.
_KEEP_ALIVE = """
update uploads set expires_at = now() + %(expires_in)s, updated_at = now() where id in (
    select id from uploads where id = any(%(ids)s) and status in ('pending', 'uploading') for update skip locked)
"""


def keep_alive(tx: Tx, upload_ids: list[UUID], *, expires_in: timedelta) -> None:
    """Postpone the expiry of a request's uploads."""
    execute(tx, _KEEP_ALIVE, {"ids": upload_ids, "expires_in": expires_in})


_CLAIM = f"""
update uploads set status = 'completing', updated_at = now(),
    object_key = case when incoming_key is not null and status <> 'pending' then %(fresh_key)s else object_key end
where id = %(id)s and (status in ('pending', 'uploading') or (status = 'completing' and updated_at < now() - %(lease)s))
returning {COLUMNS}
"""


def claim_completion(tx: Tx, upload_id: UUID, *, lease: timedelta, fresh_key: str) -> UploadRecord | None:
    """Set ``completing``, for one caller; None for the others. A claim whose holder died is taken over after the lease.

    Every attempt to copy but the first copies to ``fresh_key``, so that no two write the same object."""
    return one(tx, UploadRecord, _CLAIM, {"id": upload_id, "lease": lease, "fresh_key": fresh_key})


_KEEP_CLAIM = """
update uploads set updated_at = now() where id = %(id)s and status = 'completing' and object_key = %(object_key)s
"""


def keep_claim(tx: Tx, upload_id: UUID, *, object_key: str) -> None:
    """Renew the claim."""
    execute(tx, _KEEP_CLAIM, {"id": upload_id, "object_key": object_key})


_RELEASE = """
update uploads set status = 'uploading', updated_at = now()
where id = %(id)s and status = 'completing' and object_key = %(object_key)s
"""


def release_completion(tx: Tx, upload_id: UUID, *, object_key: str) -> bool:
    """Set ``uploading`` again, so that it can go on. False if the upload has ended."""
    return execute(tx, _RELEASE, {"id": upload_id, "object_key": object_key}) == 1


_DECLARE = """
with up as (
    update uploads set sha256 = %(sha256)s where id = %(id)s and sha256 is null returning file_id, token_id
)
update files set status = 'rejected', problem = %(problem)s, version = version + 1 from up
where files.id = up.file_id and status = 'ready' and file_hash <> %(sha256)s
and (up.token_id is null or uploaded_at > now() - interval '1 minute')
"""


def declare_sha256(tx: Tx, upload_id: UUID, sha256: str, *, problem: dict[str, Any]) -> None:
    """Record a checksum that was declared at the end, unless there is one. A ready file with another checksum is rejected
    with ``problem``; one that came with an upload token only within a minute, since it is its owner's then."""
    execute(tx, _DECLARE, {"id": upload_id, "sha256": sha256, "problem": Jsonb(problem)})


# No column of an index changes, so the update is heap-only.
_SET_MULTIPART = """
update uploads set multipart_id = %(multipart_id)s
where id = %(id)s and status in ('pending', 'uploading') and multipart_id is null
"""


def set_multipart(tx: Tx, upload_id: UUID, multipart_id: str) -> bool:
    """Record the multipart upload. False if there is one, or if the upload is over."""
    return execute(tx, _SET_MULTIPART, {"id": upload_id, "multipart_id": multipart_id}) == 1


_END = f"""
with up as (
    select id, owner_id, token_id, reserved from uploads
    where id = any(%(ids)s) and status in ('pending', 'uploading', 'completing')
    and (not %(expired_only)s or (expires_at < now() and status <> 'completing'))
    order by id for update
),
refunded as (
    update upload_tokens t set files_used = t.files_used - f.files, bytes_used = t.bytes_used - f.bytes
    from (select token_id, count(*) as files, sum(reserved) as bytes from up group by token_id) f
    where t.id = f.token_id returning 1
),
freed as (
    update owner_usage u set reserved_bytes = u.reserved_bytes - f.bytes, reserved_files = u.reserved_files - f.files
    from (select owner_id, count(*) as files, sum(reserved) as bytes from up group by owner_id) f
    where u.owner_id = f.owner_id and {finished("refunded")}
),
upload as (
    update uploads set status = %(status)s, reserved = 0, problem = coalesce(%(problem)s, problem), updated_at = now()
    from up where uploads.id = up.id
    returning uploads.*
),
event as ({_recording("'upload_' || %(status)s")})
select id from upload
"""


def end(
    tx: Tx, upload_ids: list[UUID], *, status: str, problem: dict[str, Any] | None = None, expired_only: bool = False
) -> list[UUID]:
    """End unfinished uploads as aborted or expired, and return their quota. Returns those that this call ended. With
    ``expired_only`` the expiry is checked in the same statement, so an upload that went on is left alone."""
    rows = tx.execute(
        _END,
        {
            "ids": upload_ids,
            "status": status,
            "expired_only": expired_only,
            "problem": None if problem is None else Jsonb(problem),
            **events.by(),
        },
    ).fetchall()
    return [row[0] for row in rows]


def end_key(tx: Tx, object_key: str) -> None:
    """Abort the upload with this object key, if there is one."""
    found = scalar(tx, "select id from uploads where object_key = %(key)s", {"key": object_key})
    if found is not None:
        end(tx, [found], status="aborted")


def delete(tx: Tx, upload_ids: list[UUID]) -> None:
    """Delete rows that no client can ask for again, whose bytes are gone or belong to a file."""
    execute(tx, "delete from uploads where id = any(%(ids)s) and status in ('done', 'aborted')", {"ids": upload_ids})


_MARK_CLEANED = (
    "update uploads set cleaned = true where id = %(id)s and status in ('aborted', 'expired') and not cleaned"
)


def mark_cleaned(tx: Tx, upload_id: UUID) -> bool:
    """Record that the bucket holds nothing of it. False if that was done."""
    return execute(tx, _MARK_CLEANED, {"id": upload_id}) == 1


_ARE_EXPIRED = "status in ('pending', 'uploading') and expires_at < now()"


def expired(tx: Tx, *, limit: int) -> list[UploadRecord]:
    """Open uploads past their expiry, oldest first."""
    sql = f"select {COLUMNS} from uploads where {_ARE_EXPIRED} order by expires_at limit %(limit)s"
    return many(tx, UploadRecord, sql, {"limit": limit})


def count_expired(tx: Tx) -> int:
    """The number of open uploads past their expiry."""
    return int(scalar(tx, f"select count(*) from uploads where {_ARE_EXPIRED}"))


_UNCLEAN = f"""
select {COLUMNS} from uploads where status in ('aborted', 'expired') and not cleaned and updated_at < now() - %(grace)s
order by updated_at limit %(limit)s
"""


def unclean(tx: Tx, *, grace: timedelta, limit: int) -> list[UploadRecord]:
    """Ended uploads that may have left something in the bucket; ``grace`` lets the request that ended them clean up first."""
    return many(tx, UploadRecord, _UNCLEAN, {"limit": limit, "grace": grace})


_FORGET = """
delete from uploads where id in (
    select id from uploads where updated_at < now() - %(keep)s
    and (status = 'done' or (status in ('aborted', 'expired') and cleaned))
    and not exists (select from files f where f.id = uploads.file_id and f.status = 'processing')  -- its check asks who sent it
    order by updated_at limit %(limit)s)
"""


def forget_old(tx: Tx, *, keep: timedelta, limit: int) -> int:
    """Delete rows of uploads that ended long ago. Returns how many."""
    return execute(tx, _FORGET, {"keep": keep, "limit": limit})


_FORGET_SESSIONS = """
delete from upload_sessions where id in (
    select id from (
        select id, coalesce(completed_at, started_at) as last from upload_sessions order by id limit %(limit)s) oldest
    where last < now() - %(keep)s)
"""


def forget_sessions(tx: Tx, *, keep: timedelta, limit: int) -> int:
    """Delete those of the ``limit`` oldest upload sessions whose last file came ``keep`` ago. Returns how many. One that goes on
    begins anew. An index on the time would cost every upload more than this reads."""
    return execute(tx, _FORGET_SESSIONS, {"keep": keep, "limit": limit})


_MOVE_RESERVED = f"""
with given as (
    select id, reserved from uploads where id = any(%(ids)s) and status in ('pending', 'uploading') order by id for update
),
emptied as (
    update uploads set reserved = 0 from given where uploads.id = given.id returning 1
)
update uploads set reserved = reserved + (select coalesce(sum(reserved), 0) from given)
where id = %(to)s and {finished("emptied")}
"""


def move_reserved(tx: Tx, upload_ids: list[UUID], to: UUID) -> None:
    """Move reserved quota from some uploads of an owner to another."""
    execute(tx, _MOVE_RESERVED, {"ids": upload_ids, "to": to})


_RETURN_RESERVED = f"""
with given as (
    select id, size from uploads where id = any(%(ids)s) and status in ('pending', 'uploading') and reserved = 0
    order by id for update
),
filled as (
    update uploads set reserved = given.size from given where uploads.id = given.id returning 1
)
update uploads set reserved = greatest(reserved - (select coalesce(sum(size), 0) from given), 0)
where id = %(from)s and {finished("filled")}
"""


def return_reserved(tx: Tx, upload_id: UUID, to: list[UUID]) -> None:
    """Undo ``move_reserved`` for uploads that are not over, each of which had reserved its size."""
    execute(tx, _RETURN_RESERVED, {"from": upload_id, "ids": to})
