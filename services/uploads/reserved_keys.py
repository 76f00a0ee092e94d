"""Object keys for small uploads, reserved many at a time.

A key's row is committed before its object is written, so that the janitor finds the object if the process is killed. A row for
each upload would cost as much as publishing it."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta
from threading import Lock
from time import monotonic
from uuid import UUID

from core.ids import FILE_PREFIX, object_key
from db import Database, reserved_keys, uploads
from db.records import UploadRecord
from db.uploads import NewUpload

_COUNT = 32  # keys reserved by one statement
_LIFE = timedelta(minutes=10)  # of a reserved key
_USABLE = 300.0  # seconds; an older key is left to expire. Uploads in progress postpone their key's expiry


class ReservedKeys:
    """The keys that this process has reserved and not used yet."""

    def __init__(self, db: Database):
        self._db = db
        self._reserving = Lock()
        self._keys: deque[tuple[float, UUID, str]] = deque()  # until when it is usable, its id, its stem

    def take(self, new: NewUpload) -> UploadRecord:
        """An upload that has a reserved key instead of a row. Raises Unavailable."""
        key_id, stem = self._next() or self._reserve()
        _, dot, extension = new.object_key.partition(".")
        return uploads.without_row(new, key_id, object_key=stem + dot + extension)

    def _next(self) -> tuple[UUID, str] | None:
        while self._keys:
            try:
                until, key_id, stem = self._keys.popleft()
            except IndexError:  # another thread took the last one
                return None
            if monotonic() < until:
                return key_id, stem
        return None

    def _reserve(self) -> tuple[UUID, str]:
        """Reserve keys and take one. One thread reserves many; those that meanwhile need one, one each."""
        first = self._reserving.acquire(blocking=False)
        try:
            now, until = datetime.now(UTC), monotonic() + _USABLE
            stems = [object_key(FILE_PREFIX, "", now) for _ in range(_COUNT if first else 1)]
            with self._db.connection() as tx:
                ids = reserved_keys.reserve(tx, stems, expires_in=_LIFE)
            self._keys.extend((until, key_id, stem) for key_id, stem in zip(ids[1:], stems[1:], strict=True))
            return ids[0], stems[0]
        finally:
            if first:
                self._reserving.release()
