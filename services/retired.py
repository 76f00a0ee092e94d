"""Deleting what is no longer in use, once its time has come: replaced objects, abandoned replacements, previews of files
that turned out infected."""

from __future__ import annotations

import structlog

from db import Database, retired
from services.bucket import delete_quietly
from storage_backends.base import Multipart, MultipartRef, ObjectStore, StorageError

log = structlog.get_logger()

_BATCH = 1_000


def remove_due(db: Database, store: ObjectStore) -> int:
    """Delete what is due; the number. What the bucket does not confirm is left, by its row, for the next run."""
    with db.connection() as tx:
        due = retired.take_due(tx, limit=_BATCH)
    gone = [entry.object_key for entry in due if _remove(store, entry)]
    if gone:
        with db.connection() as tx:
            retired.forget(tx, gone)
    return len(gone)


def _remove(store: ObjectStore, entry: retired.RetiredRecord) -> bool:
    if entry.multipart_id is not None and isinstance(store, Multipart):
        try:
            store.abort_multipart(MultipartRef(entry.object_key, entry.multipart_id))
        except StorageError as error:
            log.warning("parts_left_for_janitor", key=entry.object_key, error=str(error))
            return False
    return delete_quietly(store, entry.object_key)
