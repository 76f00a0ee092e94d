"""The bucket's errors as the gateway's errors, and deleting keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import structlog

from core.errors import ContentMissing, StorageFull, Unavailable
from db import Database, objects
from storage_backends.base import ObjectNotFound, ObjectStore, OutOfSpace, StorageError, StorageUnavailable

log = structlog.get_logger()


@contextmanager
def bucket_errors() -> Iterator[None]:
    """Translate: full -> StorageFull, unreachable -> Unavailable, a missing object that a row promises -> ContentMissing."""
    try:
        yield
    except OutOfSpace as error:
        raise StorageFull("The bucket is full.") from error
    except ObjectNotFound as error:
        raise ContentMissing() from error
    except StorageUnavailable as error:
        log.warning("bucket_unavailable", error=str(error), storage_request_id=error.request_id)
        raise Unavailable("The bucket can't be reached or is too busy; try again.") from error


def delete_unused(db: Database, store: ObjectStore, keys: Iterable[str]) -> bool:
    """Delete those of the keys that are not in use. True if nothing is left to delete.

    The rows decide, since an exception does not tell whether a COMMIT before it succeeded. The caller has first ended whatever
    could still put a key to use; the lock for that waits for a COMMIT in progress."""
    keys = list(keys)
    try:
        with db.connection() as tx:
            used = objects.in_use(tx, keys)
    except Unavailable as error:
        log.warning("objects_left_for_janitor", keys=keys, error=str(error))
        return False
    deleted = [delete_quietly(store, key) for key in keys if key not in used]
    return all(deleted)


def delete_quietly(store: ObjectStore, key: str) -> bool:
    """Delete an object. False if the bucket did not confirm it; the janitor then deletes it."""
    try:
        store.delete(key)
    except StorageError as error:
        log.warning("object_left_for_janitor", key=key, error=str(error))
        return False
    return True
