"""What is durable of a resumable upload, and who may add to it.

    resumable_uploads   the offset that clients are told, the tail, the writer's lease with its fencing token
    upload_parts        the parts that count, each with the ETag that completion will name
    upload_objects      every object key that a writer was given, so that whatever a crash leaves can be found

Each statement of a writer compares its token with the row's: a writer that was given up for dead changes nothing when it
wakes. Part numbers and object keys are handed out once, so what it writes into the bucket is nobody else's either."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from db import Tx, execute, many, one, scalar
from db.records import PartRecord, ResumableRecord, UploadRecord
from db.uploads import COLUMNS as UPLOAD_COLUMNS
from db.uploads import FAIRLY, RENEWED

MAX_PART_NUMBER = 10_000

COLUMNS = (
    "upload_id, received, tail_key, tail_size, next_part, token, sealed, deferred, metadata, partial, concat, sources,"
    " coalesce(held_until > now(), false) as held, asked_for"
)
_LIVE = "exists (select from uploads u where u.id = %(id)s and u.status in ('pending', 'uploading'))"


_CREATE = """
insert into resumable_uploads (upload_id, deferred, metadata, partial, concat, sources)
values (%(id)s, %(deferred)s, %(metadata)s, %(partial)s, %(concat)s, %(sources)s)
"""


def create(
    tx: Tx,
    upload_id: UUID,
    *,
    deferred: bool,
    metadata: str | None,
    partial: bool,
    concat: str | None,
    sources: Sequence[UUID] | None,
) -> None:
    execute(
        tx,
        _CREATE,
        {
            "id": upload_id,
            "deferred": deferred,
            "metadata": metadata,
            "partial": partial,
            "concat": concat,
            "sources": None if sources is None else list(sources),
        },
    )


def get(tx: Tx, upload_id: UUID) -> ResumableRecord | None:
    sql = f"select {COLUMNS} from resumable_uploads where upload_id = %(id)s"
    return one(tx, ResumableRecord, sql, {"id": upload_id})


def parts(tx: Tx, upload_id: UUID) -> list[PartRecord]:
    """The parts that count, in order."""
    sql = "select number, size, etag, crc32 from upload_parts where upload_id = %(id)s order by number"
    return many(tx, PartRecord, sql, {"id": upload_id})


# -- the writer's lease ----------------------------------------------------------------------------------------------------

_TAKE = f"""
update resumable_uploads set token = token + 1, held_until = now() + %(lease)s, asked_for = false
where upload_id = %(id)s and coalesce(held_until < now(), true) returning {COLUMNS}
"""


def take(tx: Tx, upload_id: UUID, *, lease: timedelta) -> ResumableRecord | None:
    """Become the writer, where there is none or its lease has passed; None where there is one."""
    return one(tx, ResumableRecord, _TAKE, {"id": upload_id, "lease": lease})


_ASK = (
    "update resumable_uploads set asked_for = true where upload_id = %(id)s and not asked_for and held_until >= now()"
)


def ask_for(tx: Tx, upload_id: UUID) -> None:
    """Ask the writer to keep what it has and end."""
    execute(tx, _ASK, {"id": upload_id})


_RENEW = """
update resumable_uploads set held_until = now() + %(lease)s where upload_id = %(id)s and token = %(token)s returning asked_for
"""


def renew(tx: Tx, upload_id: UUID, *, token: int, lease: timedelta) -> bool | None:
    """Stay the writer: whether another asks for it; None where another has become it."""
    asked: bool | None = scalar(tx, _RENEW, {"id": upload_id, "token": token, "lease": lease})
    return asked


_RELEASE = """
update resumable_uploads set held_until = null, asked_for = false where upload_id = %(id)s and token = %(token)s
"""


def release(tx: Tx, upload_id: UUID, *, token: int) -> None:
    execute(tx, _RELEASE, {"id": upload_id, "token": token})


# -- what a writer is given, and what it reports -----------------------------------------------------------------------------

_NEXT_PART = f"""
update resumable_uploads set next_part = next_part + 1, held_until = now() + %(lease)s
where upload_id = %(id)s and token = %(token)s and next_part <= {MAX_PART_NUMBER} and {_LIVE} returning next_part - 1
"""


def next_part(tx: Tx, upload_id: UUID, *, token: int, lease: timedelta) -> int | None:
    """A part number that nobody had and nobody else will get; None where the upload is over, taken by another writer, or
    has used them all up."""
    number: int | None = scalar(tx, _NEXT_PART, {"id": upload_id, "token": token, "lease": lease})
    return number


_NEXT_KEY = f"""
with writer as (
    update resumable_uploads set held_until = now() + %(lease)s
    where upload_id = %(id)s and token = %(token)s and {_LIVE} returning upload_id
)
insert into upload_objects (object_key, upload_id) select %(key)s, upload_id from writer
"""


def add_key(tx: Tx, upload_id: UUID, object_key: str, *, token: int, lease: timedelta) -> bool:
    """Note a key before anything is written under it; False where the upload is over or taken by another writer."""
    return execute(tx, _NEXT_KEY, {"id": upload_id, "token": token, "lease": lease, "key": object_key}) == 1


_BEGIN_PARTS = """
update uploads u set object_key = %(key)s, multipart_id = %(multipart_id)s, content_type = %(content_type)s, status = 'uploading',
    updated_at = now()
from resumable_uploads r
where u.id = %(id)s and r.upload_id = u.id and r.token = %(token)s and u.status in ('pending', 'uploading')
and u.multipart_id is null
"""


def begin_parts(tx: Tx, upload_id: UUID, *, token: int, object_key: str, multipart_id: str, content_type: str) -> bool:
    """Note the multipart that takes the parts; False where the upload is over or taken by another writer."""
    return (
        execute(
            tx,
            _BEGIN_PARTS,
            {
                "id": upload_id,
                "token": token,
                "key": object_key,
                "multipart_id": multipart_id,
                "content_type": content_type,
            },
        )
        == 1
    )


_RECORD = f"""
with live as (
    update uploads u set status = 'uploading', updated_at = now(), expires_at = {RENEWED},
        object_key = coalesce(%(whole_key)s, u.object_key), content_type = coalesce(%(content_type)s, u.content_type)
    where u.id = %(id)s and u.status in ('pending', 'uploading')
    and exists (select from resumable_uploads r where r.upload_id = u.id and r.token = %(token)s)
    returning u.id
),
moved as (
    update resumable_uploads r
    set received = %(received)s, sealed = %(sealed)s, tail_key = %(tail_key)s, tail_size = %(tail_size)s,
        held_until = now() + %(lease)s
    from live where r.upload_id = live.id and r.token = %(token)s and r.received <= %(received)s
    returning r.*
),
added as (
    insert into upload_parts (upload_id, number, size, etag, crc32)
    select moved.upload_id, p.number, p.size, p.etag, p.crc32 from moved,
        unnest(%(numbers)s::int[], %(sizes)s::bigint[], %(etags)s::text[], %(crcs)s::text[]) p(number, size, etag, crc32)
)
select {COLUMNS} from moved
"""


def record(
    tx: Tx,
    upload_id: UUID,
    *,
    token: int,
    received: int,
    new_parts: Sequence[PartRecord],
    tail_key: str | None,
    tail_size: int,
    sealed: bool,
    whole_key: str | None = None,
    content_type: str | None = None,
    lease: timedelta,
    expires_in: timedelta,
) -> ResumableRecord | None:
    """What is durable now: these parts more, this tail, or with ``whole_key`` all of it as one object. None where the upload
    is over or taken by another writer, and then nothing changed."""
    return one(
        tx,
        ResumableRecord,
        _RECORD,
        {
            "id": upload_id,
            "token": token,
            "received": received,
            "tail_key": tail_key,
            "tail_size": tail_size,
            "whole_key": whole_key,
            "content_type": content_type,
            "lease": lease,
            "expires_in": expires_in,
            "numbers": [part.number for part in new_parts],
            "sizes": [part.size for part in new_parts],
            "etags": [part.etag for part in new_parts],
            "crcs": [part.crc32 for part in new_parts],
            "sealed": sealed,
        },
    )


_DECLARE_SIZE = f"""
update uploads set size = %(size)s, updated_at = now() where id = %(id)s and size is null and status in ('pending', 'uploading')
and exists (select from resumable_uploads r where r.upload_id = id and r.token = %(token)s and r.received <= %(size)s)
returning {UPLOAD_COLUMNS}
"""


def declare_size(tx: Tx, upload_id: UUID, size: int, *, token: int) -> UploadRecord | None:
    """Set a length that was left open; None where it was not open any more or is below what has arrived."""
    return one(tx, UploadRecord, _DECLARE_SIZE, {"id": upload_id, "size": size, "token": token})


# -- what nobody ended -------------------------------------------------------------------------------------------------------

_ALL_THERE = f"""
select {UPLOAD_COLUMNS} from uploads u
where u.status in ('pending', 'uploading') and u.expires_at > now() and coalesce(u.retry_at <= now(), true)
and exists (
    select from resumable_uploads r where r.upload_id = u.id and r.received = u.size and not r.partial and r.sources is null
    and coalesce(r.held_until < now(), true))
order by {FAIRLY} limit %(limit)s
"""


def all_there(tx: Tx, *, limit: int) -> list[UploadRecord]:
    """Uploads whose every byte is durable and that nobody is completing: their writer died before it could."""
    return many(tx, UploadRecord, _ALL_THERE, {"limit": limit})


_KEYS = """
select o.object_key from upload_objects o
where o.upload_id = %(id)s and not exists (select from objects s where s.object_key = o.object_key)
"""


def keys(tx: Tx, upload_id: UUID) -> list[str]:
    """The keys that writers of this upload were given, without one that has become a file's object."""
    return [row[0] for row in tx.execute(_KEYS, {"id": upload_id}).fetchall()]


def forget_keys(tx: Tx, object_keys: Sequence[str]) -> None:
    """The bucket holds nothing under these, or a file has it."""
    execute(tx, "delete from upload_objects where object_key = any(%(keys)s)", {"keys": list(object_keys)})


_OVER = """
select o.object_key, exists (select from objects s where s.object_key = o.object_key)
from upload_objects o join uploads u on u.id = o.upload_id
where u.status = 'done' or (u.status in ('aborted', 'expired') and u.cleaned) limit %(limit)s
"""


def keys_of_the_over(tx: Tx, *, limit: int) -> list[tuple[str, bool]]:
    """Keys noted for uploads that are over, and whether a file's object has them."""
    return tx.execute(_OVER, {"limit": limit}).fetchall()
