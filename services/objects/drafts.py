"""Objects that are written under a reserved key: whatever happens, the key is put to use or the object is deleted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from core.errors import Unavailable
from core.parts import PART_SIZE, plan
from db import Database, deferred_deletions
from db.objects import Replacement
from services.objects.part_writer import PartWriter
from storage_backends.base import MultipartStore

_LEASE = timedelta(hours=1)  # of the reserved key
_RENEW = 600.0  # seconds between renewals of the lease


class Draft:
    """A reserved key, and what was written under it so far."""

    def __init__(self, db: Database, key: str):
        self._db = db
        self.key = key
        self.size = 0  # bytes
        self.ends: list[int] = []  # of each frame, if it is compressed
        self.etag = ""
        self._renewed = time.monotonic()

    def replacement(self) -> Replacement:
        """What was written, to be put to use."""
        return Replacement(self.key, self.size, self.etag, self.ends)

    def renew(self, *, multipart_id: str | None = None) -> None:
        """Renew the lease if it is time, or record the multipart upload. Raises Unavailable if the lease has ended."""
        if multipart_id is None and time.monotonic() - self._renewed < _RENEW:
            return
        with self._db.connection() as tx:
            if not deferred_deletions.renew(tx, self.key, lease=_LEASE, multipart_id=multipart_id):
                raise Unavailable("The new object was given up; try again.")
        self._renewed = time.monotonic()


@contextmanager
def drafted(db: Database, key: str) -> Iterator[Draft]:
    """Reserve a key, which the janitor may delete after the block, unless the draft was put to use."""
    with db.connection() as tx:
        deferred_deletions.reserve(tx, key, lease=_LEASE)
    try:
        yield Draft(db, key)
    finally:
        # If the last transaction was committed although its answer was lost, nothing is left to give up (T104).
        with suppress(Unavailable), db.connection() as tx:
            deferred_deletions.give_up(tx, key)


class DraftWriter:
    """Writes a draft; nothing appears under its key before ``finish``."""

    def __init__(self, store: MultipartStore, draft: Draft, *, size: int, content_type: str):
        """``size``: about how many bytes will come."""
        self._draft = draft
        self._content_type = content_type
        self._writer = PartWriter(store, plan(size, preferred=PART_SIZE).part_size)

    def write(self, data: bytes) -> None:
        """Write the next bytes."""
        self._draft.renew()
        self._draft.size += len(data)
        rest = memoryview(data)
        while rest := self._writer.add(rest):
            if self._writer.ref is None:
                self._draft.renew(multipart_id=self._writer.begin(self._draft.key, self._content_type).upload_id)
            self._writer.send()

    def finish(self) -> None:
        """Complete the object."""
        self._draft.renew()
        self._draft.etag = self._writer.finish(self._draft.key, self._content_type).etag
