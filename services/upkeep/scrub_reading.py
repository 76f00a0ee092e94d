"""Read a stored object to its end, and tell what is wrong with it.

    right        the bytes decode to the recorded SHA-256, whatever their ETag
    missing      the bucket says twice that there is no such object
    changed      there are other bytes, twice the same way
    swapped      they are those of another object
    unreadable   this object stalls or fails, while others can be read at the same time

If others can't be read either, or the bucket says that it is busy, nothing is known: ``BucketAway``, ``BucketBusy``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import structlog

from core.breaker import OPEN_SECONDS
from core.errors import Unavailable
from core.ranges import ByteRange
from db import Database, scrub
from db.records import ScrubObject
from db.scrub import Damage
from services.objects import bucket_mark
from services.objects.object_reader import Damaged, Decompressed, Reader
from services.objects.streams import Hashed
from storage_backends.base import (
    ObjectFrozen,
    ObjectInfo,
    ObjectNotFound,
    ObjectStore,
    OutcomeUnknown,
    StorageError,
    StorageRefused,
    StorageUnavailable,
)
from storage_backends.base import ObjectReader as OpenObject

log = structlog.get_logger()

PIECE = 256 * 1024  # bytes read at once
_SLOWEST = 16 * 1024  # bytes per second; an object that comes in more slowly stalls
_PATIENCE = 60.0  # seconds, added to the time at that speed
_OTHERS = 2  # other objects that must be readable if this one is not

_DEFINITE = (OutcomeUnknown, StorageRefused)  # other refusals, such as SlowDown, tell nothing about the object


@dataclass(frozen=True, slots=True)
class Right:
    """The bytes are right."""

    etag: str  # of now


Verdict = Right | Damage | Literal["frozen", "replaced"]  # frozen: to be thawed first


class BucketAway(Exception):
    """The bucket can't be read now, so nothing is known about the object."""


class BucketBusy(BucketAway):
    """It refused this object for now, though not others: the object's next turn is at the end of the queue."""


class Throttle:
    """Lets so many bytes pass in a second."""

    def __init__(self, rate: int, sleep: Callable[[float], None] = time.sleep):
        self._rate, self._sleep = rate, sleep
        self._free_at = 0.0
        self.bytes = 0  # that have passed
        self.slept = 0.0  # seconds

    def passed(self, size: int) -> None:
        """Wait until these bytes may have been read."""
        self.bytes += size
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + size / self._rate
        wait = self._free_at - now
        self.slept += wait
        self._sleep(wait)


@dataclass(frozen=True, slots=True)
class Stored:
    """What a row says about one object in the bucket."""

    key: str
    sha256: str  # of the original bytes
    size: int  # of these
    etag: str
    encoding: str | None
    stored_size: int

    @classmethod
    def object(cls, marked: ScrubObject) -> Stored:
        """The object itself."""
        return cls(marked.object_key, marked.sha256, marked.size, marked.etag, marked.encoding, marked.stored_size)

    @classmethod
    def public_copy(cls, marked: ScrubObject) -> Stored | None:
        """Its public copy, if there is one; that has patches of equal length and is never compressed."""
        if marked.public_key is None or marked.public_sha256 is None:
            return None
        return cls(marked.public_key, marked.public_sha256, marked.size, marked.public_etag or "", None, marked.size)


@dataclass(frozen=True, slots=True)
class Found:
    """What the bucket has under a key."""

    sha256: str | None  # None: can't be decompressed
    size: int  # of what was hashed
    etag: str
    stored_size: int

    def is_right(self, stored: Stored) -> bool:
        """Whether these are the bytes that the row describes."""
        return (self.sha256, self.size, self.stored_size) == (stored.sha256, stored.size, stored.stored_size)


class _Paced:
    """A reader that keeps to the rate, and gives up on an object that comes in too slowly."""

    def __init__(self, raw: OpenObject, throttle: Throttle):
        self._raw, self._throttle = raw, throttle
        self._began, self._slept = time.monotonic(), throttle.slept
        self._patience = _PATIENCE + raw.info.size / _SLOWEST

    def read(self, size: int = -1, /) -> bytes:
        data = self._raw.read(PIECE if size < 0 else min(size, PIECE))
        self._throttle.passed(len(data))
        if time.monotonic() - self._began - (self._throttle.slept - self._slept) > self._patience:
            raise OutcomeUnknown(
                f"reading {self._raw.info.key}: fewer than {_SLOWEST} bytes per second", no_answer=True
            )
        return data


@contextmanager
def original(store: ObjectStore, stored: Stored, throttle: Throttle) -> Iterator[tuple[Reader, ObjectInfo]]:
    """Open the original bytes, and tell what the bucket says about the object. Reading raises StorageError, and Damaged if it
    can't be decompressed."""
    with store.open(stored.key) as raw:
        source = _Paced(raw, throttle)
        yield source if stored.encoding is None else Decompressed(source), raw.info


def read(store: ObjectStore, stored: Stored, throttle: Throttle) -> Found:
    """Read the object to its end and hash what it decodes to. Raises StorageError."""
    with original(store, stored, throttle) as (reader, info):
        hashed = Hashed(reader)
        try:
            # What is damaged could decode to any length.
            while (stored.encoding is None or hashed.length <= stored.size) and hashed.read(PIECE):
                pass
        except Damaged:
            return Found(None, hashed.length, info.etag, info.size)
        return Found(hashed.sha256, hashed.length, info.etag, info.size)


class Examiner:
    """Examines one object at a time.

    ``reading`` has a circuit breaker of its own: an object that stalls must not open that of ``store``, which others use."""

    def __init__(self, db: Database, store: ObjectStore, reading: ObjectStore, *, pause: float = OPEN_SECONDS):
        """``pause``: seconds after a read without an answer, until the breaker lets the next one through."""
        self._db = db
        self._store = store
        self._reading = reading
        self._pause = pause

    def examine(self, marked: ScrubObject, stored: Stored, throttle: Throttle) -> Verdict:
        """Read it once, or twice if it is not right. Raises BucketAway, Unavailable."""
        for again in (False, True):
            verdict = self._look(stored, throttle, again=again)
            if not isinstance(verdict, Damage):
                return verdict
            with self._db.connection() as tx:
                if not scrub.is_current(tx, marked):
                    return "replaced"
        return verdict

    def _look(self, stored: Stored, throttle: Throttle, *, again: bool) -> Verdict:
        damage = Damage(stored.key, "missing", stored.sha256, stored.stored_size, stored.etag)
        try:
            try:
                found = read(self._reading, stored, throttle)
            except ObjectNotFound:
                self._reading.stat(stored.key)
                found = read(self._reading, stored, throttle)
            if found.is_right(stored):
                return Right(found.etag)
            return self._differs(damage, stored, found, throttle, identify=again)
        except ObjectNotFound:
            self._require_right_bucket()
            return damage
        except ObjectFrozen:
            return "frozen"
        except StorageError as error:
            time.sleep(self._pause)
            self._require_others(stored.key)
            if isinstance(error, StorageUnavailable) and error.code and not isinstance(error, _DEFINITE):
                raise BucketBusy(str(error)) from error
            return replace(damage, kind="unreadable", error=str(error))

    def _differs(self, damage: Damage, stored: Stored, found: Found, throttle: Throttle, *, identify: bool) -> Damage:
        """``changed``, or ``swapped`` if another object should have these bytes, as they are stored or decompressed."""
        changed = replace(damage, kind="changed", found_size=found.stored_size, found_etag=found.etag)
        if not identify:
            return changed
        digests = [found.sha256]
        other_way = replace(stored, encoding="zstd" if stored.encoding is None else None)
        digests.append(read(self._reading, other_way, throttle).sha256)
        with self._db.connection() as tx:
            for digest in digests:
                owner = None if digest is None else scrub.owner_of_bytes(tx, digest, other_than=damage.key)
                if owner is not None:
                    return replace(changed, kind="swapped", found_sha256=digest, belongs_to=owner)
        return replace(changed, found_sha256=digests[0] or digests[-1])

    def _require_right_bucket(self) -> None:
        """Raise BucketAway if others are missing too: a repair would fill another bucket."""
        try:
            bucket_mark.require_objects(self._db, self._store)
        except (StorageError, Unavailable) as error:
            raise BucketAway(str(error)) from error

    def _require_others(self, key: str) -> None:
        """Raise BucketAway unless other objects can be read now."""
        with self._db.connection() as tx:
            others = scrub.others(tx, than=key, limit=_OTHERS)
        read_some = False
        try:
            for other in others:
                try:
                    with self._store.open(other, byte_range=ByteRange(0, 0)) as reader:
                        read_some |= len(reader.read(1)) == 1
                except ObjectNotFound:
                    continue
            if not read_some:
                self._store.check()
        except StorageError as error:
            raise BucketAway(str(error)) from error
