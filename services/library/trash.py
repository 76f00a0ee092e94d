"""What the janitor does with files whose time has come: past their ``expires_at`` they move to the trash, and after TRASH_DAYS
there they are purged, as if their owner had done it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import groupby
from uuid import UUID

from core.errors import NotFound
from db import Database, now, trash
from db.records import FileRecord
from services.library.files import Files

_BATCH = 1_000  # files


class Trash:
    """Files on their way through the trash. Each step is told by the ids of its files, so that a caller can count them."""

    def __init__(self, db: Database, files: Files, *, keep: timedelta):
        self._db = db
        self._files = files
        self._keep = keep

    def move_expired(self) -> Iterator[Sequence[UUID]]:
        """Move all files past their ``expires_at`` to the trash."""
        while True:
            with self._db.connection() as tx:
                due = trash.expired(tx, limit=_BATCH)
            moved: list[UUID] = []
            for _, owned in groupby(sorted(due), key=lambda found: found[0]):
                with (
                    self._db.transaction() as tx
                ):  # one for each owner: several owners' counters have no order of locks
                    moved += trash.move_expired(tx, [file_id for _, file_id in owned])
            yield moved
            if not moved or len(due) < _BATCH:
                return

    def purge_old(self) -> Iterator[Sequence[UUID]]:
        """Purge all files that are in the trash for long enough."""
        before = self._before()

        def check(file: FileRecord | None) -> FileRecord:
            if file is None or file.deleted_at is None or file.deleted_at > before:
                raise NotFound("It was purged, or restored.")
            return file

        while True:
            with self._db.connection() as tx:
                due = trash.old(tx, before=before, limit=_BATCH)
            purged: list[UUID] = []
            for file_id in due:
                with suppress(NotFound):
                    self._files.purge_checked(file_id, check)
                    purged.append(file_id)
            yield purged
            if not purged or len(due) < _BATCH:
                return

    def due(self, *, limit: int) -> tuple[tuple[int, Sequence[UUID]], tuple[int, Sequence[UUID]]]:
        """The number of files that ``move_expired`` and ``purge_old`` would find, each with the first ``limit`` ids."""
        before = self._before()
        with self._db.connection() as tx:
            expired, old = trash.count_due(tx, before=before)
            moved = [file_id for _, file_id in trash.expired(tx, limit=limit)]
            return (expired, moved), (old, trash.old(tx, before=before, limit=limit))

    def _before(self) -> datetime:
        with self._db.connection() as tx:
            return now(tx) - self._keep
