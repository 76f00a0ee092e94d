"""Stored objects: bytes under an object key, shared by the owner's files of equal content.

An object row goes ``stored`` -> ``purging`` -> gone, and the bucket's object is deleted between the last two, so that a
row without its object or an object without its row is always on its way somewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from db import Tx, execute, many, one, scalar
from db.records import ObjectRecord

COLUMNS = (
    "object_key, owner_id, size, sha256, etag, content_type, storage_class, status, in_bucket, checksum_state, checked_at,"
    " created_at, coalesce(stored_size, size) as stored_size, public_key"
)


def get(tx: Tx, object_key: str) -> ObjectRecord | None:
    return one(tx, ObjectRecord, f"select {COLUMNS} from objects where object_key = %(key)s", {"key": object_key})


_RECORD_CHECK = """
update objects
set in_bucket = %(in_bucket)s, checksum_state = coalesce(%(checksum_state)s, checksum_state), etag = coalesce(%(etag)s, etag),
    checked_at = now()
where object_key = %(key)s
"""


def record_check(
    tx: Tx, object_key: str, *, in_bucket: bool, checksum_state: str | None = None, etag: str | None = None
) -> None:
    """Keep what a look into the bucket found; None leaves the last verdict on the bytes, and the ETag."""
    params = {"key": object_key, "in_bucket": in_bucket, "checksum_state": checksum_state, "etag": etag}
    execute(tx, _RECORD_CHECK, params)


_TOLD = """
with o as (
    update objects set {change} where object_key = %(key)s and status = 'stored' returning object_key
)
update files set version = version + 1 from o where file_path = o.object_key
"""


def add_extracted(tx: Tx, object_key: str, extracted: dict[str, Any]) -> None:
    """Keep what was found of the bytes (width, exif, …): every file on the object shows it, also one linked to it later."""
    sql = _TOLD.format(change="extracted = extracted || %(extracted)s")
    execute(tx, sql, {"key": object_key, "extracted": Jsonb(extracted)})


def set_problem(tx: Tx, object_key: str, problem: dict[str, Any] | None) -> None:
    """Say on every file of the object which step of its processing failed; None: none."""
    sql = _TOLD.format(change="problem = %(problem)s")
    execute(tx, sql, {"key": object_key, "problem": None if problem is None else Jsonb(problem)})


_KEY_OF_FILE = "select file_path from files where id = %(file_id)s"


def lock_of_file(tx: Tx, file_id: object, *, share: bool = False) -> str | None:
    """Lock the object of a file: against new links to it, before the file is removed, or with ``share`` against its removal,
    before a link is made. Its key, or None where there is no such file.

    An object that is rewritten while this waits for its lock has another key then, and is looked for anew."""
    lock = "select object_key from objects where object_key = %(key)s for " + ("share" if share else "update")
    while True:
        key: str | None = scalar(tx, _KEY_OF_FILE, {"file_id": file_id})
        if key is None:
            return None
        locked = scalar(tx, lock, {"key": key})
        if locked is not None and scalar(tx, _KEY_OF_FILE, {"file_id": file_id}) == key:
            return key


_EQUAL = """
select object_key from objects
where owner_id = %(owner)s and sha256 = %(sha256)s and size = %(size)s and status = 'stored'
and scan_verdict is distinct from 'infected' and object_key <> all(%(others)s)
order by in_bucket and checksum_state <> 'mismatch', created_at limit 1 for share
"""


def equal_to(tx: Tx, owner_id: str, sha256: str, size: int, *, other_than: Sequence[str]) -> str | None:
    """The owner's oldest other object of these bytes, one that is known to be damaged before all others, locked against a
    purge; its key, or None."""
    params = {"owner": owner_id, "sha256": sha256, "size": size, "others": list(other_than)}
    key: str | None = scalar(tx, _EQUAL, params)
    return key


_SHARE_EQUALS = """
select 1 from objects where owner_id = %(owner)s and sha256 = any(%(contents)s) and status = 'stored'
order by object_key for share
"""


def share_equals(tx: Tx, owner_id: str, contents: Sequence[str]) -> None:
    """Lock an owner's objects of these SHA-256s against a purge, in one order, before several files are published: the first
    file locks what a purge locks last."""
    execute(tx, _SHARE_EQUALS, {"owner": owner_id, "contents": list(contents)})


_MARK_PURGING = """
with purged as (
    update objects o set status = 'purging'
    where o.object_key = %(key)s and o.status = 'stored'
    and not exists (select from files f where f.file_path = o.object_key)
    returning object_key
),
earlier as (
    update deferred_deletions r set delete_after = now() from purged where r.replaced_by = purged.object_key
)
select object_key from purged
"""


def mark_purging(tx: Tx, object_key: str) -> bool:
    """stored -> purging where no file is left on it; what it once replaced is due for deletion too. The caller holds
    ``lock_of_file``, so that no file can appear."""
    return scalar(tx, _MARK_PURGING, {"key": object_key}) is not None


def lock_with_files(tx: Tx, keys: Sequence[str]) -> None:
    """Lock these objects, against new links to them too, and the files on them, until the transaction ends."""
    if keys:
        one_by_one = "select 1 from objects where object_key = any(%(keys)s) order by object_key for update"
        execute(tx, one_by_one, {"keys": list(keys)})
        execute(tx, "select 1 from files where file_path = any(%(keys)s) order by id for update", {"keys": list(keys)})


_MEND = """
update files f set file_path = good.object_key, version = version + 1
from objects bad join objects good on good.owner_id = bad.owner_id and good.sha256 = bad.sha256 and good.size = bad.size
where f.file_path = bad.object_key and bad.object_key = any(%(damaged)s) and good.object_key = any(%(by)s)
"""


def mend(tx: Tx, damaged: Sequence[str], *, by: Sequence[str]) -> None:
    """Put all files of the damaged objects (see ``lock_with_files``) onto one of ``by`` with the same bytes; what no file
    is left on is to be purged."""
    if damaged:
        execute(tx, _MEND, {"damaged": list(damaged), "by": list(by)})
    for key in damaged:
        mark_purging(tx, key)


def purging(tx: Tx, *, limit: int) -> Sequence[str]:
    """Keys of objects whose deletion is not finished, oldest first."""
    sql = "select object_key from objects where status = 'purging' order by created_at limit %(limit)s"
    return [row[0] for row in tx.execute(sql, {"limit": limit}).fetchall()]


def remove(tx: Tx, object_key: str) -> None:
    """The last step of a purge, once the bucket no longer holds the object; previews' rows go with it."""
    execute(tx, "delete from objects where object_key = %(key)s and status = 'purging'", {"key": object_key})


_KNOWN = """
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


def known_keys(tx: Tx, keys: Sequence[str]) -> set[str]:
    """Those of the keys that belong to something: a stored object, an upload, a preview, or an object with a time to go."""
    return {row[0] for row in tx.execute(_KNOWN, {"keys": list(keys)}).fetchall()}


_IN_USE = """
select k.key from unnest(%(keys)s::text[]) k(key)
where exists (select from objects where object_key = k.key and status = 'stored')
   or exists (select from objects where public_key = k.key and status = 'stored')
   or exists (select from file_previews p join objects o on o.object_key = p.object_key
              where p.preview_path = k.key and o.status = 'stored')
"""


def in_use(tx: Tx, keys: Sequence[str]) -> set[str]:
    """Those of the keys under which a stored object lies, or a preview or the public copy of one."""
    return {row[0] for row in tx.execute(_IN_USE, {"keys": list(keys)}).fetchall()}


def all_of(tx: Tx, keys: Sequence[str]) -> list[ObjectRecord]:
    return many(
        tx, ObjectRecord, f"select {COLUMNS} from objects where object_key = any(%(keys)s)", {"keys": list(keys)}
    )


# -- stored compressed -----------------------------------------------------------------------------------------------------

_NOTE_URL = """
with present as (
    select object_key, urls_until from objects
    where (object_key = %(key)s or public_key = %(key)s) and status = 'stored' and encoding is null
    and scan_verdict is distinct from 'infected'
),
noted as (
    update objects o set urls_until = now() + 2 * %(life)s::interval from present
    where o.object_key = present.object_key and coalesce(present.urls_until, '-infinity') < now() + %(life)s::interval
    returning 1
)
select exists (select from present where urls_until >= now() + %(life)s::interval) or exists (select from noted)
"""


def note_url(tx: Tx, object_key: str, *, life: timedelta) -> bool:
    """Remember that a URL to the object, or to its copy for the public, is given out, good for ``life``, so that the object
    outlives it when it is replaced; False where that has happened already, or it turned out infected. Twice the life is
    noted, so that a much loaded file is written once in a while and not for every download."""
    return scalar(tx, _NOTE_URL, {"key": object_key, "life": life}) is True


# Atomic: the replacement, reserved in deferred_deletions until now, is in use and the old object due for deletion. Files,
# previews and texts follow the key by their foreign keys (on update cascade).
_REPLACE = """
with old as (
    select object_key, urls_until from objects
    where object_key = %(old)s and status = 'stored' and encoding is null and sha256 = %(sha256)s
    and scan_verdict is distinct from 'infected' for update
),
taken as (
    delete from deferred_deletions r using old where r.object_key = %(new)s and not r.deleting returning 1
),
replaced as (
    update objects o set object_key = %(new)s, encoding = 'zstd', stored_size = %(stored_size)s, frame_ends = %(frame_ends)s,
        etag = %(etag)s, in_bucket = true, checksum_state = 'verified', checked_at = now(), urls_until = null
    from old, taken where o.object_key = old.object_key returning 1
)
insert into deferred_deletions (object_key, delete_after, replaced_by)
select old.object_key, greatest(old.urls_until, now() + %(grace)s), %(new)s from old, replaced
"""


def replace(
    tx: Tx, old: str, new: str, *, sha256: str, stored_size: int, frame_ends: Sequence[int], etag: str, grace: timedelta
) -> bool:
    """Put a compressed replacement to use. False where the object is gone, was replaced before or turned out infected, or the
    replacement was given up. The old one is kept for the URLs given out for it, and for those who read it now (``grace``)."""
    params = {
        "old": old,
        "new": new,
        "sha256": sha256,
        "stored_size": stored_size,
        "frame_ends": list(frame_ends),
        "etag": etag,
        "grace": grace,
    }
    return execute(tx, _REPLACE, params) == 1


_RENAME = """
with old as (select object_key from objects where object_key = %(old)s and status = 'stored' for update),
taken as (
    delete from deferred_deletions r using old where r.object_key = %(new)s and not r.deleting returning 1
),
renamed as (
    update objects o set object_key = %(new)s, etag = %(etag)s, urls_until = null
    from old, taken where o.object_key = old.object_key returning 1
)
insert into deferred_deletions (object_key, delete_after, replaced_by) select old.object_key, now(), %(new)s from old, renamed
"""


def rename(tx: Tx, old: str, new: str, *, etag: str) -> bool:
    """Put a copy under a reserved key to use, and let the old object be deleted now; False as in ``replace``."""
    return execute(tx, _RENAME, {"old": old, "new": new, "etag": etag}) == 1


# -- copies for the public -------------------------------------------------------------------------------------------------


def set_location_state(tx: Tx, object_key: str, state: str) -> None:
    """Keep whether the bytes tell where a picture was taken; a copy for the public that was made before stays."""
    sql = "update objects set location_state = %(state)s where object_key = %(key)s and location_state is distinct from 'removed'"
    execute(tx, sql, {"key": object_key, "state": state})


_ADD_PUBLIC_COPY = """
with object as (
    select object_key from objects
    where object_key = %(key)s and status = 'stored' and location_state is distinct from 'removed'
    and scan_verdict is distinct from 'infected' for update
),
taken as (
    delete from deferred_deletions r using object where r.object_key = %(copy)s and not r.deleting returning 1
)
update objects o set location_state = 'removed', public_key = %(copy)s, public_sha256 = %(sha256)s, public_etag = %(etag)s
from object, taken where o.object_key = object.object_key
"""


def add_public_copy(tx: Tx, object_key: str, copy: str, *, sha256: str, etag: str) -> bool:
    """Put a reserved copy without the place to use. False where there is one, or the object is gone or turned out infected, or
    the copy was given up."""
    params = {"key": object_key, "copy": copy, "sha256": sha256, "etag": etag}
    return execute(tx, _ADD_PUBLIC_COPY, params) == 1


def drop_public_copy(tx: Tx, copy: str) -> None:
    """The bucket does not hold it any more: it is to be made again."""
    sql = (
        "update objects set location_state = 'present', public_key = null, public_sha256 = null, public_etag = null"
        " where public_key = %(copy)s"
    )
    execute(tx, sql, {"copy": copy})


_TO_COPY = """
select f.id, f.owner_id, o.object_key from objects o join lateral (
    select id, owner_id from files f
    where f.file_path = o.object_key and f.status = 'ready' and f.visibility = 'public' and not f.keep_location limit 1
) f on true
where o.location_state = 'present' and o.status = 'stored' and not exists (
    select from procrastinate_jobs j
    where j.lock = 'public:' || o.object_key and j.task_name = 'publish_file' and j.status in ('todo', 'doing'))
limit %(limit)s
"""


def to_copy(tx: Tx, *, limit: int) -> list[tuple[UUID, str, str]]:
    """A public file of each object whose copy is to be made and that no job is about: its id, owner and object key."""
    return [(row[0], row[1], row[2]) for row in tx.execute(_TO_COPY, {"limit": limit}).fetchall()]


def frame_bounds(tx: Tx, object_key: str, *, first: int, last: int) -> tuple[int, int] | None:
    """Where the frames ``first`` to ``last`` (from 0, both included) begin and end in a compressed object; None where there
    is no such object or frame."""
    row = tx.execute(
        "select coalesce(frame_ends[%(first)s], 0), frame_ends[%(last)s] from objects where object_key = %(key)s",
        {"key": object_key, "first": first, "last": last + 1},
    ).fetchone()
    return (row[0], row[1]) if row is not None and row[1] is not None else None
