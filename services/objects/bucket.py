"""The bucket's errors as the gateway's errors, and deleting objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import structlog

from core.errors import ContentMissing, FileArchived, StorageFull, Unavailable, UploadGone
from core.ids import INCOMING_PREFIX, PROBE_PREFIX, TAIL_PREFIX
from db import Database, backup_holds, deferred_deletions, now, objects, previews
from storage_backends.base import (
    ObjectFrozen,
    ObjectLocked,
    ObjectNotFound,
    ObjectStore,
    OutcomeUnknown,
    OutOfSpace,
    StorageError,
    StorageUnavailable,
    UploadNotFound,
)

log = structlog.get_logger()

_NEVER_NAMED = (INCOMING_PREFIX, PROBE_PREFIX, TAIL_PREFIX)  # by a snapshot of a backup
_LATE = timedelta(hours=1)  # a request without an answer may still take effect


@contextmanager
def bucket_errors() -> Iterator[None]:
    """Translate: full -> StorageFull, unreachable -> Unavailable, a missing object that a row promises -> ContentMissing, one
    that must be thawed -> FileArchived, a multipart upload that the bucket has dropped -> UploadGone."""
    try:
        yield
    except OutOfSpace as error:
        raise StorageFull("The bucket is full.") from error
    except ObjectNotFound as error:
        raise ContentMissing() from error
    except ObjectFrozen as error:
        raise FileArchived() from error
    except UploadNotFound as error:
        raise UploadGone("The bucket no longer has this upload; begin a new one.") from error
    except StorageUnavailable as error:
        log.warning("bucket_unavailable", error=str(error), storage_request_id=error.request_id)
        raise Unavailable("The bucket can't be reached or is too busy; try again.") from error


@contextmanager
def beginning_multipart(db: Database, object_key: str) -> Iterator[None]:
    """Begin a multipart upload in this block. If its outcome is unknown, its key is looked at again later: the row may be gone by
    then, and MinIO lists multipart uploads by their exact key only."""
    try:
        with bucket_errors():
            yield
    except Unavailable as error:
        if isinstance(error.__cause__, OutcomeUnknown):
            with suppress(Unavailable), db.connection() as tx:
                deferred_deletions.postpone(tx, object_key, until=now(tx) + _LATE)
        raise


def delete_unused(db: Database, store: ObjectStore, keys: Iterable[str], *, urgent: bool = False) -> bool:
    """Delete those of the keys that are not in use. True if nothing is left to delete; ``urgent``: also while a backup runs.

    The rows decide, since an exception does not tell whether a COMMIT before it succeeded. The caller has first ended whatever
    could still put a key to use; the lock for that waits for a COMMIT in progress."""
    keys = list(keys)
    try:
        with db.connection() as tx:
            used = objects.in_use(tx, keys)
            held = not urgent and backup_holds.is_live(tx)
    except Unavailable as error:
        log.warning("objects_left_for_janitor", keys=keys, error=str(error))
        return False
    deleted = [_delete(db, store, key, held=held) for key in keys if key not in used]
    return all(deleted)


def purge_object(db: Database, store: ObjectStore, object_key: str) -> bool:
    """Finish a purge: delete previews, public copy and object, then the row. False if the bucket failed or a backup runs, and the
    janitor is to repeat it, or if another call has finished it."""
    with db.connection() as tx:
        if backup_holds.is_live(tx):
            return False
        keys = [preview.preview_path for preview in previews.of_objects(tx, [object_key])]
        record = objects.get(tx, object_key)
    if record is not None and record.public_key:
        keys.append(record.public_key)
    if not delete_unused(db, store, [*keys, object_key]):
        return False
    with db.connection() as tx:
        return objects.remove(tx, object_key)


def delete_quietly(db: Database, store: ObjectStore, key: str) -> bool:
    """Delete an object that no row names, or record that it is to be deleted once the bucket's object lock permits it. False if
    the bucket did not confirm it, or a backup runs whose snapshot may name it; the janitor then deletes it."""
    try:
        with db.connection() as tx:
            held = backup_holds.is_live(tx)
    except Unavailable as error:
        log.warning("object_left_for_janitor", key=key, error=str(error))
        return False
    return _delete(db, store, key, held=held)


def _delete(db: Database, store: ObjectStore, key: str, *, held: bool) -> bool:
    if held and not key.startswith(_NEVER_NAMED):
        return False
    try:
        store.delete(key)
    except ObjectLocked as error:
        log.info("object_locked", key=key, until=error.until.isoformat())
        with db.connection() as tx:
            deferred_deletions.postpone(tx, key, until=error.until)
    except StorageError as error:
        log.warning("object_left_for_janitor", key=key, error=str(error))
        return False
    return True
