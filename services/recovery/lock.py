"""One writer for each repository, over all machines: the file ``lock``, which its holder renews.

A lock that nobody renews is taken over. Whoever waits watches it instead of comparing clocks: it is abandoned if it stays the
same for LEASE. Blobs that two writers store at once do no harm; what deletes, or completes a snapshot, looks at it again."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

from core.errors import Conflict, Unavailable
from core.heartbeat import beating
from services.recovery.locations import Location
from storage_backends.base import ObjectNotFound

log = structlog.get_logger()

LEASE = 60.0  # seconds
_RENEW = 15.0  # seconds between renewals
_POLL = 1.0  # seconds
_LONG_AGO = 3_600  # seconds: more than clocks differ
_NAME = "lock"


class RepositoryBusy(Conflict, code="repository_busy", title="Another run writes to the backup's repository"):
    """Its lock is renewed."""


class Lock:
    """A held lock."""

    def __init__(self, location: Location, purpose: str, *, lease: float):
        self._location = location
        self._lease = lease
        self._holder = {
            "id": secrets.token_hex(8),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "purpose": purpose,
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._renewed = 0.0
        self.lost = False  # somebody else may write

    def take(self) -> None:
        """Raises RepositoryBusy if somebody renews it, Unavailable."""
        seen, since = b"", time.monotonic()
        while not self._location.create(_NAME, self._text()):
            current = self._read()
            if current != seen:
                if seen and current:
                    raise RepositoryBusy(f"Another run writes to the repository: {_described(current)}.")
                if current:
                    log.info("backup_lock_watched", holder=_described(current), seconds=self._lease)
                seen, since = current, time.monotonic()
            if time.monotonic() - since > self._lease or _is_old(current):
                log.warning("backup_lock_taken_over", holder=_described(current))
                self._location.delete(_NAME)
            else:
                time.sleep(_POLL)
        self._renewed = time.monotonic()
        self.check()  # two that took an abandoned one over at once

    def check(self) -> None:
        """Raises RepositoryBusy if the lock is lost, Unavailable."""
        self.lost = self.lost or _value(self._read(), "id") != self._holder["id"]
        if self.lost or time.monotonic() - self._renewed > self._lease:
            self.lost = True
            raise RepositoryBusy(
                "This run was silent for too long, and has lost the repository's lock; start it again."
            )

    def renew(self) -> None:
        """Called by the heartbeat. Raises as ``check``."""
        self.check()
        data = self._text()
        with self._location.write(_NAME, size=len(data)) as sink:
            sink.write(data)
        self._renewed = time.monotonic()

    def release(self) -> None:
        """Let others write."""
        try:
            self.check()
            self._location.delete(_NAME)
        except (RepositoryBusy, Unavailable) as error:
            log.warning("backup_lock_left", error=str(error))

    def _text(self) -> bytes:
        return orjson.dumps(self._holder | {"renewed_at": datetime.now(UTC).isoformat()})

    def _read(self) -> bytes:
        try:
            with self._location.open(_NAME) as reader:
                return reader.read(4_096)
        except ObjectNotFound:
            return b""


@contextmanager
def locked(location: Location, purpose: str, *, lease: float = LEASE) -> Iterator[Lock]:
    """Hold the repository's lock during the block; first wait until an abandoned one has been the same for ``lease`` seconds.
    Raises RepositoryBusy, Unavailable."""
    lock = Lock(location, purpose, lease=lease)
    lock.take()
    with beating(lock.renew, every=_RENEW):
        try:
            yield lock
        finally:
            lock.release()


def _value(data: bytes, name: str) -> Any:
    try:
        return orjson.loads(data)[name]
    except (ValueError, KeyError, TypeError):
        return None


def _is_old(data: bytes) -> bool:
    try:
        renewed = datetime.fromisoformat(_value(data, "renewed_at"))
        return (datetime.now(UTC) - renewed).total_seconds() > _LONG_AGO
    except (TypeError, ValueError):
        return False


def _described(data: bytes) -> str:
    return ", ".join(f"{name} {str(_value(data, name))[:80]!r}" for name in ("purpose", "host", "pid", "since"))
