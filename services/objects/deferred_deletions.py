"""Delete keys whose time has come: replaced objects, unused replacements, previews of infected files."""

from __future__ import annotations

from collections.abc import Iterator

import structlog

from db import Database, deferred_deletions
from db.deferred_deletions import Due
from services.objects import protection
from services.objects.bucket import delete_unused
from services.objects.protection import Protection
from storage_backends.base import Multipart, ObjectStore, StorageError

log = structlog.get_logger()

_BATCH = 1_000


def remove_due(db: Database, store: ObjectStore, protected: Protection | None = None) -> list[str]:
    """Delete what is due, and return its keys. What the bucket does not confirm stays due, and while a backup runs all but what
    is of infected files. Protected objects are forgotten and kept, unless another one has replaced them."""
    protected = protected or protection.load(db, store)
    removed: list[str] = []
    while True:
        with db.connection() as tx:
            due = deferred_deletions.claim_due(tx, limit=_BATCH)
        kept = {item.key for item in due if not item.replaced and protected.keeps(item.key)}
        gone = [item.key for item in due if item.key in kept or _remove(db, store, item)]
        with db.connection() as tx:
            forgotten = deferred_deletions.forget(tx, gone) if gone else []
        removed += [key for key in forgotten if key not in kept]
        if len(due) < _BATCH or not forgotten:
            return removed


def find_due(db: Database, protected: Protection) -> Iterator[str]:
    """The keys that ``remove_due`` would delete."""
    after = ""
    while True:
        with db.connection() as tx:
            due = deferred_deletions.due(tx, after=after, limit=_BATCH)
        yield from (item.key for item in due if item.replaced or not protected.keeps(item.key))
        if len(due) < _BATCH:
            return
        after = due[-1].key


def _remove(db: Database, store: ObjectStore, item: Due) -> bool:
    """Delete the object, and the parts of one whose writer died."""
    try:
        if isinstance(store, Multipart):
            for ref in [ref for ref in store.list_multiparts(item.key) if ref.key == item.key]:
                store.abort_multipart(ref)
    except StorageError as error:
        log.warning("parts_left_for_janitor", key=item.key, error=str(error))
        return False
    return delete_unused(db, store, [item.key], urgent=item.urgent)
