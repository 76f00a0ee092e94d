"""Stored objects: bytes under an object key, shared by an owner's files of equal content.

A row goes ``stored`` -> ``purging`` -> deleted. The object in the bucket is deleted between the last two, so that a row without
its object, or an object without its row, never lasts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from uuid import UUID

from db import Tx, column, events, execute, many, one, scalar, serialize
from db.records import ObjectRecord

COLUMNS = (
    "object_key, owner_id, size, sha256, etag, content_type, storage_class, status, in_bucket, checksum_state, checked_at,"
    " created_at, coalesce(stored_size, size) as stored_size, public_key"
)


def get(tx: Tx, object_key: str) -> ObjectRecord | None:
    """The object under this key."""
    return one(tx, ObjectRecord, f"select {COLUMNS} from objects where object_key = %(key)s", {"key": object_key})


def get_many(tx: Tx, keys: Sequence[str]) -> list[ObjectRecord]:
    """The objects under these keys."""
    return many(
        tx, ObjectRecord, f"select {COLUMNS} from objects where object_key = any(%(keys)s)", {"keys": list(keys)}
    )


def record_check(
    tx: Tx, object_key: str, *, in_bucket: bool, checksum_state: str | None = None, etag: str | None = None
) -> None:
    """Record what a check of the bucket found. None keeps the last checksum state, or the ETag."""
    sql = """
    update objects
    set in_bucket = %(in_bucket)s, checksum_state = coalesce(%(checksum_state)s, checksum_state), etag = coalesce(%(etag)s, etag),
        checked_at = now()
    where object_key = %(key)s
    """
    params = {"key": object_key, "in_bucket": in_bucket, "checksum_state": checksum_state, "etag": etag}
    execute(tx, sql, params)


def record_restored(tx: Tx, object_key: str, *, etag: str, plain: bool, written: bool) -> None:
    """Record that the bucket holds the object's bytes, compared by SHA-256; ``plain``: as they were uploaded. What was just
    ``written`` has left the archive."""
    changes = "encoding = null, stored_size = null, frame_ends = null," if plain else ""
    changes += "storage_class = 'standard', restore_requested_at = null," if written else ""
    sql = f"""
    update objects set {changes} etag = %(etag)s, in_bucket = true, checksum_state = 'verified', checked_at = now()
    where object_key = %(key)s and status = 'stored'
    """
    execute(tx, sql, {"key": object_key, "etag": etag})


def set_public_etag(tx: Tx, copy: str, *, etag: str) -> None:
    """Record the ETag of a public copy that was written again."""
    execute(tx, "update objects set public_etag = %(etag)s where public_key = %(copy)s", {"copy": copy, "etag": etag})


# -- equal objects, and purging ------------------------------------------------------------------------------------------

_KEY_OF_FILE = "select file_path from files where id = %(file_id)s"


def lock_by_file(tx: Tx, file_id: object, *, share: bool = False) -> str | None:
    """Lock a file's object against new links, before the file is removed; with ``share`` only against a purge, before a link
    is made. Returns its key, or None if there is no such file.

    A rewrite gives the object another key. If that happens during the wait for the lock, the new one is locked instead."""
    lock = f"select object_key from objects where object_key = %(key)s for {'share' if share else 'update'}"
    while True:
        key: str | None = scalar(tx, _KEY_OF_FILE, {"file_id": file_id})
        if key is None:
            return None
        locked = scalar(tx, lock, {"key": key})
        if locked is not None and scalar(tx, _KEY_OF_FILE, {"file_id": file_id}) == key:
            return key


def find_equal(tx: Tx, owner_id: str, sha256: str, size: int, *, other_than: Sequence[str]) -> str | None:
    """The key of the owner's oldest other object with these bytes, locked against a purge. A damaged one comes first, so that
    its files are moved to intact bytes."""
    sql = """
    select object_key from objects
    where owner_id = %(owner)s and sha256 = %(sha256)s and size = %(size)s and status = 'stored'
    and scan_verdict is distinct from 'infected' and object_key <> all(%(others)s)
    order by in_bucket and checksum_state <> 'mismatch', created_at limit 1 for share
    """
    params = {"owner": owner_id, "sha256": sha256, "size": size, "others": list(other_than)}
    key: str | None = scalar(tx, sql, params)
    return key


def lock_equals(tx: Tx, owner_id: str, contents: Sequence[str]) -> None:
    """Lock an owner's objects with these SHA-256s against a purge, in one order, before several files are published."""
    sql = """
    select 1 from objects where owner_id = %(owner)s and sha256 = any(%(contents)s) and status = 'stored'
    order by object_key for share
    """
    execute(tx, sql, {"owner": owner_id, "contents": list(contents)})


def mark_purging(tx: Tx, object_key: str) -> bool:
    """stored -> purging, if no file is left on the object. Objects that it replaced become due for deletion too. The caller
    holds ``lock_by_file``, so that no file can be added."""
    sql = """
    with purged as (
        update objects o set status = 'purging'
        where o.object_key = %(key)s and o.status = 'stored'
        and not exists (select from files f where f.file_path = o.object_key)
        returning object_key
    ),
    earlier as (
        update deferred_deletions d set delete_after = now() from purged where d.replaced_by = purged.object_key
    )
    select object_key from purged
    """
    return scalar(tx, sql, {"key": object_key}) is not None


_LOCK_OBJECTS = "select 1 from objects where object_key = any(%(keys)s) order by object_key for update"
_LOCK_FILES = "select 1 from files where file_path = any(%(keys)s) order by id for update"


def lock_with_files(tx: Tx, keys: Sequence[str]) -> None:
    """Lock these objects, also against new links, and the files on them."""
    if keys:
        execute(tx, _LOCK_OBJECTS, {"keys": list(keys)})
        execute(tx, _LOCK_FILES, {"keys": list(keys)})


def move_files(tx: Tx, damaged: Sequence[str], *, by: Sequence[str]) -> list[UUID]:
    """Move all files from damaged objects to those of ``by`` with the same bytes, and mark the damaged objects for purging. The
    caller holds ``lock_with_files``. Returns, for each way that the objects are to be read, a ready file."""
    sql = """
    with moved as (
        update files f set file_path = good.object_key, version = version + 1
        from objects bad join objects good on good.owner_id = bad.owner_id and good.sha256 = bad.sha256 and good.size = bad.size
        where f.file_path = bad.object_key and bad.object_key = any(%(damaged)s) and good.object_key = any(%(by)s)
        returning f.*
    )
    select distinct on (file_path, read_as) id from moved where status = 'ready'
    """
    moved = column(tx, sql, {"damaged": list(damaged), "by": list(by)}) if damaged else []
    for key in damaged:
        mark_purging(tx, key)
    return moved


def purging(tx: Tx, *, limit: int) -> Sequence[str]:
    """Keys of objects in ``purging``, oldest first."""
    sql = "select object_key from objects where status = 'purging' order by created_at limit %(limit)s"
    return column(tx, sql, {"limit": limit})


def count_purging(tx: Tx) -> int:
    """The number of objects in ``purging``."""
    return int(scalar(tx, "select count(*) from objects where status = 'purging'"))


def remove(tx: Tx, object_key: str) -> bool:
    """Delete the row, once the bucket no longer holds the object. The rows of its previews go with it. False if it is gone."""
    return (
        execute(tx, "delete from objects where object_key = %(key)s and status = 'purging'", {"key": object_key}) == 1
    )


def sample(tx: Tx, *, limit: int) -> list[str]:
    """Keys of some stored objects that the last check found in the bucket, chosen at random."""
    sql = "select greatest(reltuples, 1) from pg_class where oid = 'objects'::regclass"
    percent = min(100.0, 100 * 50 * limit / scalar(tx, sql))  # of the table's pages: rows of a page are of one time
    sql = """
    select object_key from objects tablesample system (%(percent)s::real) where status = 'stored' and in_bucket
    order by random() limit %(limit)s
    """
    return column(tx, sql, {"percent": percent, "limit": limit})


# -- which keys are used -----------------------------------------------------------------------------------------------


def known_keys(tx: Tx, keys: Sequence[str]) -> set[str]:
    """Those of the keys that any row names: an object, an upload, a preview or a deferred deletion."""
    sql = """
    select k.key from unnest(%(keys)s::text[]) k(key)
    where exists (select from objects where object_key = k.key)
       or exists (select from objects where public_key = k.key)
       or exists (select from uploads where object_key = k.key and not cleaned)
       or exists (select from uploads where incoming_key = k.key and status in ('pending', 'uploading', 'completing'))
       or exists (select from upload_objects o join uploads u on u.id = o.upload_id
                  where o.object_key = k.key and u.status in ('pending', 'uploading', 'completing'))
       or exists (select from file_previews where preview_path = k.key)
       or exists (select from deferred_deletions where object_key = k.key)
    """
    return set(column(tx, sql, {"keys": list(keys)}))


def in_use(tx: Tx, keys: Sequence[str]) -> set[str]:
    """Those of the keys that hold a stored object, its preview, or its public copy."""
    sql = """
    select k.key from unnest(%(keys)s::text[]) k(key)
    where exists (select from objects where object_key = k.key and status = 'stored')
       or exists (select from objects where public_key = k.key and status = 'stored')
       or exists (select from file_previews p join objects o on o.object_key = p.object_key
                  where p.preview_path = k.key and o.status = 'stored')
    """
    return set(column(tx, sql, {"keys": list(keys)}))


def holding(tx: Tx, contents: Collection[str]) -> dict[str, list[tuple[str, str | None, int]]]:
    """Stored objects with these SHA-256s: key, encoding and stored size of each, by SHA-256. Reads all objects."""
    sql = """
    select sha256, object_key, encoding, coalesce(stored_size, size) from objects
    where sha256 = any(%(contents)s) and status = 'stored' and in_bucket
    """
    found: dict[str, list[tuple[str, str | None, int]]] = {}
    for sha256, *values in tx.execute(sql, {"contents": list(contents)}):
        found.setdefault(sha256, []).append((values[0], values[1], values[2]))
    return found


# -- replacing an object -------------------------------------------------------------------------------------------------


def record_url(tx: Tx, object_key: str, *, life: timedelta, of: tuple[UUID, str] | None = None) -> bool:
    """Record that a presigned URL, valid for ``life``, is given out for the object or its public copy, so that the object is
    kept as long if it is replaced. False if it was replaced already or is infected.

    Twice the life is recorded, so that not every download writes the row. ``of``: a file and its owner, for an event in
    its history, which is recorded in any case."""
    file = "(select %(file_id)s::uuid as id, %(owner)s as owner_id) f where id is not null"
    sql = f"""
    with present as (
        select object_key, urls_until from objects
        where (object_key = %(key)s or public_key = %(key)s) and status = 'stored' and encoding is null
        and scan_verdict is distinct from 'infected'
    ),
    noted as (
        update objects o set urls_until = now() + 2 * %(life)s::interval from present
        where o.object_key = present.object_key and coalesce(present.urls_until, '-infinity') < now() + %(life)s::interval
        returning 1
    ),
    event as ({events.recording(file, action="'url_issued'")})
    select exists (select from present where urls_until >= now() + %(life)s::interval) or exists (select from noted)
    """
    file_id, owner = of or (None, None)
    params = {"key": object_key, "life": life, "file_id": file_id, "owner": owner}
    return scalar(tx, sql, params | events.by()) is True


# Put a reserved key to use: ``object`` is the CTE that locks the object.
_TAKE_RESERVED = """taken as (
    delete from deferred_deletions d using object where d.object_key = %(new)s and not d.deleting returning 1
)"""


@dataclass(frozen=True, slots=True)
class Replacement:
    """An object that holds the bytes of another one, under a reserved key."""

    object_key: str
    size: int  # bytes in the bucket
    etag: str
    frame_ends: Sequence[int] = ()  # of a compressed object: the end of each frame


def replace(
    tx: Tx,
    old: str,
    new: Replacement,
    *,
    sha256: str,
    grace: timedelta,
    storage_class: Literal["standard", "archived"] = "standard",
    action: str | None = None,
) -> bool:
    """Put a replacement to use, with an event ``action`` for each file on the object. The old object is kept until its presigned
    URLs expire, at least for ``grace``, for those who read it now. False if the object is gone, replaced or infected, or the
    replacement is being deleted."""
    # Files, previews and texts follow the key by their foreign keys (on update cascade).
    sql = f"""
    with object as (
        select object_key, urls_until from objects
        where object_key = %(old)s and status = 'stored' and sha256 = %(sha256)s
        and scan_verdict is distinct from 'infected' for update
    ),
    {_TAKE_RESERVED},
    replaced as (
        update objects o set object_key = %(new)s, storage_class = %(storage_class)s,
            encoding = %(encoding)s, stored_size = %(stored_size)s, frame_ends = %(frame_ends)s,
            etag = %(etag)s, in_bucket = true, checksum_state = 'verified', checked_at = now(), urls_until = null,
            restore_requested_at = case when %(storage_class)s = 'archived' then null else restore_requested_at end
        from object, taken where o.object_key = object.object_key returning 1
    ),
    event as ({events.recording(_FILES_OF_REPLACED, action="%(action)s")})
    insert into deferred_deletions (object_key, delete_after, replaced_by)
    select object.object_key, greatest(object.urls_until, now() + %(grace)s), %(new)s from object, replaced
    """
    params = {
        "old": old,
        "new": new.object_key,
        "sha256": sha256,
        "etag": new.etag,
        "grace": grace,
        "storage_class": storage_class,
        "action": action,
        "encoding": "zstd" if new.frame_ends else None,
        "stored_size": new.size if new.frame_ends else None,
        "frame_ends": list(new.frame_ends) or None,
    }
    return execute(tx, sql, params | events.by()) == 1


_FILES_OF_REPLACED = """(
    select f.id, f.owner_id from files f, replaced where f.file_path = %(old)s and %(action)s::text is not null
) f"""


def rename(tx: Tx, old: str, new: str, *, etag: str) -> bool:
    """Put a copy under a reserved key to use, and let the old object be deleted now. False as in ``replace``."""
    sql = f"""
    with object as (select object_key from objects where object_key = %(old)s and status = 'stored' for update),
    {_TAKE_RESERVED},
    renamed as (
        update objects o set object_key = %(new)s, etag = %(etag)s, urls_until = null, storage_class = 'standard'
        from object, taken where o.object_key = object.object_key returning 1
    )
    insert into deferred_deletions (object_key, delete_after, replaced_by, urgent)
    select object.object_key, now(), %(new)s, true from object, renamed
    """
    return execute(tx, sql, {"old": old, "new": new, "etag": etag}) == 1


# -- public copies, without the location -----------------------------------------------------------------------------------


def set_location_state(tx: Tx, object_key: str, state: str) -> None:
    """Record whether the bytes tell where a picture was taken. ``removed`` stays."""
    sql = (
        "update objects set location_state = %(state)s"
        " where object_key = %(key)s and location_state is distinct from 'removed'"
    )
    execute(tx, sql, {"key": object_key, "state": state})


def add_public_copy(tx: Tx, object_key: str, copy: str, *, sha256: str, etag: str) -> bool:
    """Put a reserved copy to use. False if there is one, the object is gone or infected, or the copy is being deleted."""
    sql = f"""
    with object as (
        select object_key from objects
        where object_key = %(key)s and status = 'stored' and location_state is distinct from 'removed'
        and scan_verdict is distinct from 'infected' for update
    ),
    {_TAKE_RESERVED}
    update objects o set location_state = 'removed', public_key = %(new)s, public_sha256 = %(sha256)s, public_etag = %(etag)s
    from object, taken where o.object_key = object.object_key
    """
    return execute(tx, sql, {"key": object_key, "new": copy, "sha256": sha256, "etag": etag}) == 1


def drop_public_copy(tx: Tx, copy: str) -> bool:
    """Let a copy that the bucket no longer holds be made again. False if that was done."""
    sql = (
        "update objects set location_state = 'present', public_key = null, public_sha256 = null, public_etag = null"
        " where public_key = %(copy)s"
    )
    return execute(tx, sql, {"copy": copy}) == 1


def to_copy(tx: Tx, *, limit: int) -> list[tuple[UUID, str, str]]:
    """Objects whose copy is missing and has no job: the id and owner of one public file, and the object key. One transaction at a
    time finds them, so that what it enqueues is seen by the next."""
    serialize(tx, "objects_to_copy")
    sql = """
    select f.id, f.owner_id, o.object_key from objects o join lateral (
        select id, owner_id from files f
        where f.file_path = o.object_key and f.status = 'ready' and f.visibility = 'public' and not f.keep_location limit 1
    ) f on true
    where o.location_state = 'present' and o.status = 'stored' and not exists (
        select from procrastinate_jobs j
        where j.lock = 'public:' || o.object_key and j.task_name = 'publish_file' and j.status in ('todo', 'doing'))
    limit %(limit)s
    """
    return tx.execute(sql, {"limit": limit}).fetchall()


# -- compressed objects ----------------------------------------------------------------------------------------------------


def frame_ends(tx: Tx, object_key: str) -> list[int]:
    """The end of each frame of a compressed object; none of another one."""
    ends: list[int] | None = scalar(
        tx, "select frame_ends from objects where object_key = %(key)s", {"key": object_key}
    )
    return ends or []


def frame_bounds(tx: Tx, object_key: str, *, first: int, last: int) -> tuple[int, int] | None:
    """Start and end in a compressed object of the frames ``first`` to ``last`` (from 0, both included). None if there is no such
    object or frame."""
    sql = """
    select coalesce(frame_ends[%(first)s], 0), frame_ends[%(last)s] from objects where object_key = %(key)s
    """
    row = tx.execute(sql, {"key": object_key, "first": first, "last": last + 1}).fetchone()
    return (row[0], row[1]) if row is not None and row[1] is not None else None
