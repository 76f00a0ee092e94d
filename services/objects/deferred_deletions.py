"""Delete keys whose time has come: replaced objects, unused replacements, previews of infected files."""

from __future__ import annotations

import structlog

from db import Database, deferred_deletions
from services.objects.bucket import delete_unused
from storage_backends.base import Multipart, ObjectStore, StorageError

log = structlog.get_logger()

_BATCH = 1_000


def remove_due(db: Database, store: ObjectStore) -> int:
    """Delete what is due and return its number. What the bucket does not confirm stays due."""
    with db.connection() as tx:
        due = deferred_deletions.claim_due(tx, limit=_BATCH)
    gone = [key for key in due if _remove(db, store, key)]
    if gone:
        with db.connection() as tx:
            deferred_deletions.forget(tx, gone)
    return len(gone)


def _remove(db: Database, store: ObjectStore, key: str) -> bool:
    """Delete the object, and the parts of one whose writer died."""
    try:
        if isinstance(store, Multipart):
            for ref in [ref for ref in store.list_multiparts(key) if ref.key == key]:
                store.abort_multipart(ref)
    except StorageError as error:
        log.warning("parts_left_for_janitor", key=key, error=str(error))
        return False
    return delete_unused(db, store, [key])
