"""Files: names on objects (objects.py). To copy, move or rename a file changes one row and no bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.types.json import Jsonb

from core.content_types import file_type
from core.names import numbered_parts
from core.placement import Placement
from core.principal import Quota
from db import Tx, events, execute, finished, many, one, previews, quotas, readings, scalar
from db.records import FileDetailsRecord, FileRecord, SessionRecord

COLUMNS = (
    "f.id, f.owner_id, f.original_name, f.stored_name, f.file_path, f.mime_type, f.file_type, f.file_size, f.file_hash,"
    " f.folder_id, f.status, f.visibility, f.tags, coalesce(r.extracted, '{}') || f.metadata as metadata,"
    " coalesce(f.problem, r.problem) as problem, f.uploaded_at, f.last_accessed, f.download_count, f.is_deleted,"
    " f.deleted_at, f.expires_at, f.version, o.storage_class, o.in_bucket, o.encoding, o.stored_size,"
    " o.scan_verdict is not null as scanned, o.etag, o.checksum_state, coalesce(f.expires_at <= now(), false) as expired,"
    " f.keep_location, o.location_state, o.public_key, o.public_sha256, o.public_etag, f.read_as"
)
FROM = f"files f join objects o on o.object_key = f.file_path {readings.JOIN}"


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to be published. The upload, or reserved key, ``upload_id`` stored its bytes under ``object_key``."""

    upload_id: UUID
    owner_id: str
    original_name: str
    object_key: str
    etag: str
    size: int
    sha256: str | None
    mime_type: str
    file_type: str
    status: str  # ready, or processing if the bytes are still to be checked
    placement: Placement
    metadata: dict[str, Any]
    problem: dict[str, str] | None = None


_NAME_LOCK = (
    "pg_advisory_xact_lock(hashtextextended('names:' || %(owner)s || ':' || coalesce(%(folder)s::text, ''), 0))"
)


def lock_names(tx: Tx, owner_id: str, folder_id: int | None) -> None:
    """Lock the names in a folder. Whoever gives a file a name there locks them first, so that a free name stays free."""
    execute(tx, f"select {_NAME_LOCK}", {"owner": owner_id, "folder": folder_id})


def open_publication(
    tx: Tx,
    owner_id: str,
    folder_id: int | None,
    *,
    session_id: str,
    count: int,
    size: int,
    quota: Quota = Quota(),  # noqa: B008 immutable
    contents: Iterable[str] = (),
    began: timedelta = timedelta(),
) -> SessionRecord | None:
    """Lock names as ``lock_names`` does, and count ``count`` files of ``size`` bytes in their upload session; None if its quota
    does not allow them. Call it again with the (negative) difference if fewer are published. A session without a row ``began``
    so long ago.

    ``contents`` are SHA-256s of which the owner may have an equal object. They are locked in order (``uploads.lock_content``),
    so that equal bytes uploaded at the same time share one object."""
    sql = f"""
    with names as materialized (select {_NAME_LOCK}),
    contents as materialized (
        select pg_advisory_xact_lock(hashtextextended('content:' || %(owner)s || ':' || c.sha256, 0))
        from (select sha256 from names, unnest(%(contents)s::text[]) s (sha256) order by 1) c
    )
    insert into upload_sessions as s (owner_id, session_id, files_uploaded, total_size, started_at, completed_at)
    select %(owner)s, %(session)s, greatest(%(files)s, 0), greatest(%(size)s, 0), now() - %(began)s, now()
    from names where {finished("contents")}
    and coalesce(%(size)s <= %(max_bytes)s::bigint, true) and coalesce(%(files)s <= %(max_files)s::bigint, true)
    on conflict (owner_id, session_id) do update
    set files_uploaded = s.files_uploaded + %(files)s, total_size = s.total_size + %(size)s,
        completed_at = now()
    where coalesce(s.total_size + %(size)s <= %(max_bytes)s::bigint, true)
    and coalesce(s.files_uploaded + %(files)s <= %(max_files)s::bigint, true)
    returning session_id, files_uploaded, total_size, started_at, completed_at
    """
    params: dict[str, Any] = {
        "owner": owner_id,
        "folder": folder_id,
        "session": session_id,
        "files": count,
        "size": size,
        "began": began,
        "contents": list(contents),
        **quotas.defaults(quota),
    }
    return one(tx, SessionRecord, sql, params)


# A name that is free in the folder. The caller holds lock_names.
_FREE_NAME = "free_name(%(owner)s, %(folder)s, %(name)s, %(stems)s, %(suffix)s)"

# Publishing is one statement. Its steps:
# 1. name      a free name
# 2. live      the upload or its reserved key, locked; if it is over, nothing below does anything
# 3. equal     the owner's equal object, if ``link``: locked against a purge; a damaged one first, so that the caller notices
# 4. stored    else a new object
# 5. file      the file, on the equal or the new object
# 6. forgotten the upload's row is deleted, if nobody can ask for it again and its object is used,
#    ended     else it is done, or aborted if its object is not used
# 7. spent     the upload token is charged the real size, and then
#    released  the reserved quota is given back. The trigger on files counts what the file uses.
# 8. event     the file's history begins
# The result is the file joined with its object, which this statement can't read yet: PostgreSQL's CTEs see the tables as they
# were before it.
_PUBLISH = f"""
with name as materialized (select {_FREE_NAME} as free),
upload as materialized (
    select id, token_id, reserved from uploads
    where id = %(upload_id)s and status in ('pending', 'uploading', 'completing') for update
),
key as materialized (
    select id from reserved_keys
    where id = %(upload_id)s and expires_at > '-infinity' for update
),
live as materialized (select *, 1 as row from upload union all select id, null, 0, 0 from key),
equal as materialized (
    select object_key, encoding, stored_size, scan_verdict, etag, checksum_state, location_state, public_key, public_sha256,
           public_etag
    from objects
    where owner_id = %(owner)s and sha256 = %(sha256)s and size = %(size)s and status = 'stored'
    and scan_verdict is distinct from 'infected' and object_key <> all(%(damaged)s) and %(link)s and exists (select from live)
    order by in_bucket and checksum_state <> 'mismatch', created_at limit 1 for share
),
stored as (
    insert into objects (object_key, owner_id, size, sha256, etag, content_type, checksum_state, checked_at)
    select %(key)s, %(owner)s, %(size)s, %(sha256)s, %(etag)s, %(mime_type)s, %(checksum_state)s,
           case when %(sha256)s::text is null then null else now() end
    from live where not exists (select from equal)
    returning object_key
),
file as (
    insert into files (id, owner_id, original_name, file_path, mime_type, file_type, file_size, file_hash, folder_id, status,
                       visibility, tags, metadata, problem, keep_location)
    select uuidv7(), %(owner)s, name.free, coalesce((select object_key from equal), (select object_key from stored)),
           %(mime_type)s, %(file_type)s, %(size)s, %(sha256)s, %(folder)s, %(status)s, %(visibility)s, %(tags)s, %(metadata)s,
           %(problem)s, %(keep_location)s
    from name, live
    returning *
),
forgotten as (
    delete from uploads u using upload where u.id = upload.id and %(forget)s and not exists (select from equal)
),
used as (
    delete from reserved_keys k using key where k.id = key.id and not exists (select from equal)
),
ended as (
    update uploads
    set status = case when exists (select from equal) then 'aborted' else 'done' end, reserved = 0, file_id = file.id,
        updated_at = now()
    from upload, file where uploads.id = upload.id and not (%(forget)s and not exists (select from equal))
),
spent as (
    update upload_tokens t set bytes_used = t.bytes_used - live.reserved + %(size)s from live where t.id = live.token_id
    returning 1
),
released as (
    update owner_usage set reserved_bytes = reserved_bytes - live.reserved, reserved_files = reserved_files - 1
    from live where owner_id = %(owner)s and live.row = 1 and {finished("spent")}
),
event as ({events.recording("file", action="'uploaded'", target="(select id from upload)")})
select {COLUMNS}
from file f cross join lateral (
    select e.encoding, e.stored_size, e.scan_verdict, e.location_state, coalesce(e.etag, %(etag)s) as etag,
           coalesce(e.checksum_state, %(checksum_state)s) as checksum_state, e.public_key, e.public_sha256, e.public_etag,
           'standard' as storage_class, true as in_bucket
    from (select 1) one left join equal e on true) o {readings.JOIN}
"""
_PUBLISH = re.sub(r"\n +", "\n", _PUBLISH)  # psycopg does not remember how it parsed longer statements


def publish(tx: Tx, new: NewFile, *, link: bool, forget: bool, damaged: Sequence[str] = ()) -> FileRecord | None:
    """Make an uploaded object a file, under a name that is free in its folder. Call ``open_publication`` first. None if the
    upload is over (expired, aborted).

    With ``link`` the file is put on an equal object of the owner that is not in ``damaged``, if there is one. Its ``file_path``
    then differs from ``new.object_key``, and the upload's own object is still to be deleted. The caller makes sure that the
    equal object is sound, or rolls back. ``forget`` deletes the upload's row if nobody can ask for the upload again."""
    placement = new.placement
    params = {
        "owner": new.owner_id,
        "folder": placement.folder_id,
        "sha256": new.sha256,
        "size": new.size,
        "link": link,
        "key": new.object_key,
        "damaged": list(damaged),
        "etag": new.etag,
        "checksum_state": "unverified" if new.sha256 is None else "verified",
        "mime_type": new.mime_type,
        "file_type": new.file_type,
        "status": new.status,
        "visibility": placement.visibility,
        "tags": list(placement.tags),
        "metadata": Jsonb(new.metadata),
        "problem": None if new.problem is None else Jsonb(new.problem),
        "keep_location": placement.keep_location,
        "upload_id": new.upload_id,
        "forget": forget,
    }
    return one(tx, FileRecord, _PUBLISH, params | _names(new.original_name) | events.by())


def set_time(tx: Tx, file_id: UUID, uploaded_at: datetime) -> None:
    """Let a file that was just published have been uploaded at a time in the past; one in the future changes nothing."""
    sql = "update files set uploaded_at = %(at)s where id = %(id)s and %(at)s between '1970-01-01Z' and now()"
    execute(tx, sql, {"id": file_id, "at": uploaded_at})


class NamedFile(NamedTuple):
    """What tells a file in a folder from the others."""

    original_name: str
    file_size: int
    uploaded_at: datetime
    file_hash: str | None


def in_folder(tx: Tx, owner_id: str, folder_id: int | None) -> list[NamedFile]:
    """All files directly in a folder (None: the root), by name, but those whose bytes are lost."""
    sql = """
    select original_name, file_size, uploaded_at, file_hash from files f left join objects on object_key = file_path
    where f.owner_id = %(owner)s and folder_id is not distinct from %(folder)s and not is_deleted
    and in_bucket is not false order by name_key
    """
    return many(tx, NamedFile, sql, {"owner": owner_id, "folder": folder_id})


_GET = f"select {COLUMNS} from {FROM} where f.id = %(id)s"


def get(tx: Tx, file_id: UUID) -> FileRecord | None:
    """The file, also one in the trash."""
    return one(tx, FileRecord, _GET, {"id": file_id})


_DETAILS = f"""
select {previews.OF_FILE}, {events.NEWEST}, f.preview_count, f.first_access,
       greatest(f.last_accessed, f.last_previewed), o.size = f.file_size, o.checked_at, {COLUMNS}
from {FROM} where f.id = %(id)s
"""


def details(tx: Tx, file_id: UUID) -> FileDetailsRecord | None:
    """The file, also one in the trash, with its previews, newest events and counters."""
    row = tx.execute(_DETAILS, {"id": file_id}).fetchone()
    if row is None:
        return None
    made, happened, *counted = row[:7]
    file = FileRecord._make(row[7:])
    return FileDetailsRecord(file, previews.parsed(made), events.parsed(happened), *counted)


def on_object(tx: Tx, object_key: str) -> FileRecord | None:
    """A ready file on this object."""
    file_id = scalar(
        tx, "select id from files where file_path = %(key)s and status = 'ready' limit 1", {"key": object_key}
    )
    return None if file_id is None else get(tx, file_id)


def lock(tx: Tx, file_id: UUID) -> FileRecord | None:
    """The file, with its row locked. Two statements: one that waits for a rewrite of the object would join the file as it is now
    with the object as it was before."""
    execute(tx, "select 1 from files where id = %(id)s for update", {"id": file_id})
    return get(tx, file_id)


def get_many(tx: Tx, file_ids: Sequence[UUID]) -> list[FileRecord]:
    """The files with these ids."""
    return many(tx, FileRecord, f"select {COLUMNS} from {FROM} where f.id = any(%(ids)s)", {"ids": list(file_ids)})


def read_apart(tx: Tx, object_key: str) -> list[FileRecord]:
    """A ready file for each way that the object is to be read."""
    sql = f"""
    select distinct on (f.read_as) {COLUMNS} from {FROM} where f.file_path = %(key)s and f.status = 'ready'
    order by f.read_as, f.id
    """
    return many(tx, FileRecord, sql, {"key": object_key})


def duplicate_of(tx: Tx, owner_id: str, sha256: str, size: int, *, damaged: Sequence[str]) -> str | None:
    """The object of a file outside the trash with these bytes, or a damaged object with these bytes, which comes first. The
    caller's ``damaged`` objects are left out."""
    sql = """
    select object_key from objects o
    where owner_id = %(owner)s and sha256 = %(sha256)s and size = %(size)s and status = 'stored'
    and scan_verdict is distinct from 'infected' and object_key <> all(%(damaged)s)
    and (not in_bucket or checksum_state = 'mismatch'
         or exists (select from files f where f.file_path = o.object_key and not f.is_deleted))
    order by in_bucket and checksum_state <> 'mismatch', created_at limit 1
    """
    params = {"owner": owner_id, "sha256": sha256, "size": size, "damaged": list(damaged)}
    key: str | None = scalar(tx, sql, params)
    return key


# The end of a statement that changes a file as ``f``: its event, and the file with its object.
_EVENT = f"event as ({events.recording('f', action='%(action)s', details='%(details)s')})"


def _event(action: str, details: dict[str, Any] | None = None) -> dict[str, Any]:
    """The parameters of ``_EVENT``."""
    return {"action": action, "details": None if details is None else Jsonb(details), **events.by()}


_CHANGED = f"select {COLUMNS} from f join objects o on o.object_key = f.file_path {readings.JOIN}"
_UPDATE = f"""
with f as (
    update files set
        original_name = coalesce(%(original_name)s, original_name),
        mime_type = coalesce(%(mime_type)s, mime_type),
        file_type = coalesce(%(file_type)s, file_type),
        visibility = coalesce(%(visibility)s, visibility),
        keep_location = coalesce(%(keep_location)s, keep_location),
        tags = coalesce(%(tags)s::text[], tags),
        expires_at = case when %(set_expires)s then %(expires_at)s::timestamptz else expires_at end,
        folder_id = case when %(set_folder)s then %(folder)s::integer else folder_id end,
        problem = case when %(set_folder)s and problem ->> 'code' = 'folder_gone' then null else problem end,
        version = version + 1
    where id = %(id)s
    returning *
), {_EVENT}
{_CHANGED}
"""


def update(
    tx: Tx,
    file_id: UUID,
    *,
    action: str = "updated",
    original_name: str | None = None,
    mime_type: str | None = None,
    visibility: str | None = None,
    keep_location: bool | None = None,
    tags: Sequence[str] | None = None,
    expires_at: datetime | None = None,
    set_expires: bool = False,
    folder_id: int | None = None,
    set_folder: bool = False,
) -> FileRecord | None:
    """Change what an owner may edit. A taken name violates the constraint ``file_name_conflict``."""
    params = {
        "id": file_id,
        "original_name": original_name,
        **_types(mime_type),
        "visibility": visibility,
        "keep_location": keep_location,
        "tags": None if tags is None else list(tags),
        "expires_at": expires_at,
        "set_expires": set_expires,
        "folder": folder_id,
        "set_folder": set_folder,
    }
    tag_count = None if tags is None else len(tags)
    given = {
        "visibility": visibility,
        "keep_location": keep_location,
        "original_name": original_name,
        "tags": tag_count,
    }
    details: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if set_expires:
        details["expires_at"] = expires_at and expires_at.isoformat()
    if set_folder:
        details["folder_id"] = folder_id
    return one(tx, FileRecord, _UPDATE, params | _event(action, details))


def trash(tx: Tx, file_id: UUID) -> FileRecord | None:
    """Move to the trash. None if the file is there already."""
    sql = f"""
    with f as (
        update files set is_deleted = true, deleted_at = now(), version = version + 1
        where id = %(id)s and not is_deleted returning *
    ), {_EVENT}
    {_CHANGED}
    """
    return one(tx, FileRecord, sql, {"id": file_id} | _event("trashed"))


def restore(tx: Tx, file: FileRecord) -> FileRecord | None:
    """Restore from the trash under a free name. The caller holds ``lock_names``. None if the file is not in the trash."""
    sql = f"""
    with name as materialized (select {_FREE_NAME} as free),
    f as (
        update files set is_deleted = false, deleted_at = null, version = version + 1, original_name = name.free
        from name where id = %(id)s and is_deleted returning files.*
    ), {_EVENT}
    {_CHANGED}
    """
    params = {"id": file.id, "owner": file.owner_id, "folder": file.folder_id}
    return one(tx, FileRecord, sql, params | _names(file.original_name) | _event("restored"))


def copy(
    tx: Tx, file: FileRecord, *, object_key: str, folder_id: int | None, original_name: str, mime_type: str | None
) -> FileRecord | None:
    """A new file on the same object. The caller holds ``lock_names`` and has locked the object. ``mime_type`` None keeps the
    source's. None if the source is gone."""
    sql = f"""
    with name as materialized (select {_FREE_NAME} as free),
    object as (select object_key from objects where object_key = %(key)s and status = 'stored'),
    f as (
        insert into files (id, owner_id, original_name, file_path, mime_type, file_type, file_size, file_hash, folder_id, status,
                           visibility, tags, metadata, problem)
        select uuidv7(), s.owner_id, name.free, object.object_key, coalesce(%(mime_type)s, s.mime_type),
               coalesce(%(file_type)s, s.file_type), s.file_size, s.file_hash, %(folder)s, s.status, 'private', s.tags,
               s.metadata,
               case when s.problem ->> 'code' = 'folder_gone' then null else s.problem end
        from files s, name, object where s.id = %(id)s
        returning *
    ), {_EVENT}
    {_CHANGED}
    """
    params = {"id": file.id, "owner": file.owner_id, "folder": folder_id, "key": object_key, **_types(mime_type)}
    return one(tx, FileRecord, sql, params | _names(original_name) | _event("copied", {"copy_of": str(file.id)}))


def _types(mime_type: str | None) -> dict[str, str | None]:
    return {"mime_type": mime_type, "file_type": None if mime_type is None else file_type(mime_type)}


def _names(name: str) -> dict[str, Any]:
    """The parameters of ``_FREE_NAME``."""
    stems, suffix = numbered_parts(name)
    return {"name": name, "stems": stems, "suffix": suffix}


_REMOVE = f"""
with gone as (delete from files where id = %(id)s returning id, owner_id, original_name)
{events.recording("gone", action="'purged'", details="jsonb_build_object('original_name', original_name)")}
"""


def remove(tx: Tx, file_id: UUID) -> bool:
    """Delete the row. The caller has locked the object. False if the row is gone."""
    return execute(tx, _REMOVE, {"id": file_id} | events.by()) == 1


def finish_check(
    tx: Tx,
    file_id: UUID,
    *,
    status: str,
    problem: dict[str, Any] | None,
    sha256: str | None = None,
    mime_type: str | None = None,
    named: str | None = None,
    onto: str | None = None,
) -> FileRecord | None:
    """processing -> ready | rejected | infected. None if the file is no longer processing, so that of two verifiers only one
    changes it (T106).

    ``mime_type`` was derived with the name ``named``; if the file was renamed since, it keeps the type of its new name.
    ``onto`` moves the file to an equal object, which the caller has locked."""
    sql = f"""
    with f as (
        update files set status = %(status)s, file_hash = coalesce(%(sha256)s, file_hash),
            file_path = coalesce(%(onto)s, file_path),
            mime_type = case when original_name = %(named)s then coalesce(%(mime_type)s, mime_type) else mime_type end,
            file_type = case when original_name = %(named)s then coalesce(%(file_type)s, file_type) else file_type end,
            problem = coalesce(%(problem)s, problem), version = version + 1
        where id = %(id)s and status = 'processing' returning *
    ), checked as (
        update objects set sha256 = %(sha256)s, checked_at = now(), checksum_state = 'verified'
        from f where object_key = f.file_path and %(sha256)s::text is not null and %(onto)s::text is null
    )
    {_CHANGED}
    """
    params = {"id": file_id, "status": status, "sha256": sha256, "named": named, "onto": onto, **_types(mime_type)}
    return one(tx, FileRecord, sql, params | {"problem": None if problem is None else Jsonb(problem)})
