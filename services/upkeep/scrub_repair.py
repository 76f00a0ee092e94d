"""Repair a damaged object from an equal one, or from a backup. The damaged one is kept for a time, as evidence.

Nothing that a user can see tells which of them it was: it could be another owner's object."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal, Protocol

import structlog

from core import names
from core.errors import GatewayError
from core.ids import FILE_PREFIX, object_key
from db import Database, Tx, deferred_deletions, now, objects, previews, scrub, uploads
from db.records import ScrubObject
from db.scrub import Damage
from services.library import readings
from services.objects.drafts import Draft, DraftWriter, drafted
from services.objects.object_reader import Damaged, Reader
from services.objects.streams import Hashed
from services.upkeep.scrub_reading import PIECE, Stored, Throttle, original, read
from storage_backends.base import MultipartStore, StorageError

log = structlog.get_logger()

EVIDENCE = timedelta(days=30)  # for which a damaged object stays under its key after the repair
_EQUALS = 10  # equal objects that are tried

Source = Literal["duplicate", "backup", "original"]


class BackupCopies(Protocol):
    """What a backup has, by the SHA-256 of the original bytes (services/recovery/repository.py)."""

    def has(self, sha256: str) -> bool:
        """Whether it has these bytes."""
        ...

    def open(self, sha256: str) -> AbstractContextManager[Reader]:
        """The original bytes."""
        ...


class Repairs:
    """Repairs one object at a time."""

    def __init__(self, db: Database, store: MultipartStore, backups: Callable[[], BackupCopies] | None):
        self._db = db
        self._store = store
        self._backups = backups

    def repair(self, marked: ScrubObject, damage: Damage, throttle: Throttle) -> Source | None:
        """Replace the bytes, and say where they come from; None if nobody has them now. Raises Unavailable, StorageError."""
        if damage.key == marked.public_key:
            self._drop_public_copy(marked, damage)
            return "original"
        with self._db.connection() as tx:
            equals = scrub.equals(tx, marked, limit=_EQUALS)
        for equal in equals:
            if equal.owner_id == marked.owner_id:
                if self._is_right(equal, throttle) and self._move_files(marked, damage, equal):
                    return "duplicate"
            elif self._copy(marked, damage, throttle, partial(self._open, equal, throttle), "duplicate"):
                return "duplicate"
        return (
            "backup"
            if self._backups is not None and self._from_backup(self._backups, marked, damage, throttle)
            else None
        )

    def _from_backup(
        self, backups: Callable[[], BackupCopies], marked: ScrubObject, damage: Damage, throttle: Throttle
    ) -> bool:
        try:
            copies = backups()
            if not copies.has(marked.sha256):
                return False
        except (StorageError, GatewayError, OSError) as error:
            log.warning("backup_unreadable", error=str(error))
            return False
        return self._copy(marked, damage, throttle, partial(copies.open, marked.sha256), "backup")

    @contextmanager
    def _open(self, equal: ScrubObject, throttle: Throttle) -> Iterator[Reader]:
        with original(self._store, Stored.object(equal), throttle) as (reader, _):
            yield reader

    def _is_right(self, equal: ScrubObject, throttle: Throttle) -> bool:
        stored = Stored.object(equal)
        try:
            found = read(self._store, stored, throttle)
        except StorageError as error:
            log.warning("equal_object_unreadable", key=equal.object_key, error=str(error))
            return False
        return found.is_right(stored) and found.etag == stored.etag

    def _move_files(self, marked: ScrubObject, damage: Damage, equal: ScrubObject) -> bool:
        """Move the files to an equal object of their owner."""
        damaged = marked.object_key
        with self._db.transaction() as tx:
            uploads.lock_content(tx, marked.owner_id, marked.sha256)
            objects.lock_with_files(tx, [damaged, equal.object_key])
            if not (scrub.is_current(tx, marked) and scrub.is_current(tx, equal)):
                return False
            readings.move_files(tx, [damaged], by=[equal.object_key])
            unused = [preview.preview_path for preview in previews.of_objects(tx, [damaged])]
            if marked.public_key is not None:
                unused.append(marked.public_key)
            _retire(tx, unused, keep=timedelta())
            _retire(tx, [damaged], keep=EVIDENCE)
            objects.remove(tx, damaged)
            scrub.record_repair(tx, damage, marked.owner_id, source="duplicate", new_key=equal.object_key)
        return True

    def _drop_public_copy(self, marked: ScrubObject, damage: Damage) -> None:
        """The janitor has another one made."""
        with self._db.transaction() as tx:
            objects.drop_public_copy(tx, damage.key)
            _retire(tx, [damage.key], keep=EVIDENCE)
            scrub.record_repair(tx, damage, marked.owner_id, source="original", new_key=None)

    def _copy(
        self,
        marked: ScrubObject,
        damage: Damage,
        throttle: Throttle,
        source: Callable[[], AbstractContextManager[Reader]],
        origin: Source,
    ) -> bool:
        """Write the bytes under a new key, read them back, and put that to use. False if they are not the right ones."""
        key = object_key(FILE_PREFIX, names.extension(marked.object_key), datetime.now(UTC))
        with drafted(self._db, key) as draft:
            try:
                with source() as reader:
                    written = self._write(marked, draft, reader, throttle)
                return written and self._put_to_use(marked, damage, draft, throttle, origin)
            except (StorageError, Damaged, GatewayError, OSError, ValueError) as error:
                log.warning("repair_failed", key=marked.object_key, source=origin, error=str(error))
                return False

    def _write(self, marked: ScrubObject, draft: Draft, reader: Reader, throttle: Throttle) -> bool:
        """False if the source has other bytes."""
        hashed = Hashed(reader)
        writer = DraftWriter(self._store, draft, size=marked.size, content_type=marked.content_type)
        while draft.size <= marked.size and (piece := hashed.read(PIECE)):
            throttle.passed(len(piece))
            writer.write(piece)
        if (hashed.sha256, draft.size) != (marked.sha256, marked.size):
            log.warning("repair_source_differs", key=marked.object_key)
            return False
        writer.finish()
        return True

    def _put_to_use(
        self, marked: ScrubObject, damage: Damage, draft: Draft, throttle: Throttle, origin: Source
    ) -> bool:
        new = Stored(draft.key, marked.sha256, marked.size, draft.etag, None, marked.size)
        if not read(self._store, new, throttle).is_right(new):
            log.error("repair_read_back_differs", key=draft.key)
            return False
        with self._db.transaction() as tx:
            if not scrub.is_current(tx, marked) or not objects.replace(
                tx, marked.object_key, draft.replacement(), sha256=marked.sha256, grace=EVIDENCE
            ):
                return False
            scrub.record_repair(tx, damage, marked.owner_id, source=origin, new_key=draft.key)
        return True


def _retire(tx: Tx, keys: list[str], *, keep: timedelta) -> None:
    """Have keys deleted that no row uses any more, after this time."""
    for key in keys:
        deferred_deletions.postpone(tx, key, until=now(tx) + keep)
