"""What the storage backends' errors mean to a client, and a few steps that several services take in the bucket."""

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
    """Translate: full -> StorageFull, unreachable -> Unavailable, an object that a row promises -> ContentMissing."""
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
    """Delete each of the keys that is not in use, whatever becomes of the others; True where nothing is left to be deleted.

    An exception does not tell what was committed before it. So the rows are asked, and whoever calls this has first ended
    what could still put a key to use: the lock that takes waits for a COMMIT that is under way."""
    wanted = list(keys)
    try:
        with db.connection() as tx:
            used = objects.in_use(tx, wanted)
    except Unavailable as error:
        log.warning("objects_left_for_janitor", keys=wanted, error=str(error))
        return False
    gone = [delete_quietly(store, key) for key in wanted if key not in used]
    return all(gone)


def delete_quietly(store: ObjectStore, key: str) -> bool:
    """Delete, or leave it to the janitor: False where the bucket did not confirm."""
    try:
        store.delete(key)
    except StorageError as error:
        log.warning("object_left_for_janitor", key=key, error=str(error))
        return False
    return True
