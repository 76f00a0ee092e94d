"""Stored objects: bytes under an object key, shared by the owner's files of equal content.

An object row goes ``stored`` -> ``purging`` -> gone, and the bucket's object is deleted between the last two, so that a
row without its object or an object without its row is always on its way somewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from db import Tx, execute, many, one, scalar

COLUMNS = (
    "object_key, owner_id, size, sha256, etag, content_type, storage_class, status, found, checksum_state, checked_at,"
    " created_at"
)


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    object_key: str
    owner_id: str
    size: int
    sha256: str | None
    etag: str
    content_type: str
    storage_class: str
    status: str
    found: bool
    checksum_state: str
    checked_at: datetime | None
    created_at: datetime


def get(tx: Tx, object_key: str) -> ObjectRecord | None:
    return one(
        tx, ObjectRecord, f"select {COLUMNS} from objects where object_key = %(key)s", {"key": object_key}
    )


_RECORD_CHECK = """
update objects
set found = %(found)s, checksum_state = coalesce(%(checksum_state)s, checksum_state), checked_at = now()
where object_key = %(key)s
"""


def record_check(tx: Tx, object_key: str, *, found: bool, checksum_state: str | None = None) -> None:
    """Keep what a look into the bucket found; ``checksum_state`` None leaves the last verdict on the bytes."""
    execute(tx, _RECORD_CHECK, {"key": object_key, "found": found, "checksum_state": checksum_state})


_LOCK_OF_FILE = """
select o.object_key from objects o join files f on f.file_path = o.object_key where f.id = %(file_id)s for update of o
"""


def lock_of_file(tx: Tx, file_id: object) -> str | None:
    """Lock the object of a file against new links to it, before the file is removed; its key, or None."""
    key: str | None = scalar(tx, _LOCK_OF_FILE, {"file_id": file_id})
    return key


_EQUAL = """
select object_key from objects
where owner_id = %(owner)s and sha256 = %(sha256)s and size = %(size)s and status = 'stored' and found
and object_key <> %(other)s
order by created_at limit 1 for share
"""


def equal_to(tx: Tx, owner_id: str, sha256: str, size: int, *, other_than: str) -> str | None:
    """The owner's oldest other object of these bytes, locked against a purge; its key, or None."""
    params = {"owner": owner_id, "sha256": sha256, "size": size, "other": other_than}
    key: str | None = scalar(tx, _EQUAL, params)
    return key


def lock(tx: Tx, object_key: str) -> None:
    """Lock an object against new links to it until the transaction ends."""
    execute(tx, "select 1 from objects where object_key = %(key)s for update", {"key": object_key})


_MARK_PURGING = """
update objects o set status = 'purging'
where o.object_key = %(key)s and o.status = 'stored'
and not exists (select from files f where f.file_path = o.object_key)
"""


def mark_purging(tx: Tx, object_key: str) -> bool:
    """stored -> purging where no file is left on it. The caller holds ``lock_of_file``, so that none can appear."""
    return execute(tx, _MARK_PURGING, {"key": object_key}) == 1


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
   or exists (select from uploads where object_key = k.key and not cleaned)
   or exists (select from uploads where incoming_key = k.key and status in ('pending', 'uploading', 'completing'))
   or exists (select from upload_objects o join uploads u on u.id = o.upload_id
              where o.object_key = k.key and u.status in ('pending', 'uploading', 'completing'))
   or exists (select from file_previews where preview_path = k.key)
"""


def known_keys(tx: Tx, keys: Sequence[str]) -> set[str]:
    """Those of the keys that belong to something: a stored object, an upload, a preview."""
    return {row[0] for row in tx.execute(_KNOWN, {"keys": list(keys)}).fetchall()}


def all_of(tx: Tx, keys: Sequence[str]) -> list[ObjectRecord]:
    return many(
        tx,
        ObjectRecord,
        f"select {COLUMNS} from objects where object_key = any(%(keys)s)",
        {"keys": list(keys)},
    )
