"""What the storage backends' errors mean to a client, and a few steps that several services take in the bucket."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import structlog

from core.errors import ContentMissing, StorageFull, Unavailable
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


def delete_all_quietly(store: ObjectStore, keys: Iterable[str]) -> bool:
    """Try each of the keys, whatever becomes of the others; True where all are known to be gone."""
    gone = [delete_quietly(store, key) for key in keys]
    return all(gone)


def delete_quietly(store: ObjectStore, key: str) -> bool:
    """Delete, or leave it to the janitor: False where the bucket did not confirm."""
    try:
        store.delete(key)
    except StorageError as error:
        log.warning("object_left_for_janitor", key=key, error=str(error))
        return False
    return True
