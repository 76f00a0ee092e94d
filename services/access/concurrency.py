"""Limits expensive work inside requests: slots in this process, fewer for one owner, and short queues.

An owner with many such requests waits for the owner's own, does not delay other owners, and can't occupy all threads of the
server by waiting (T75).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import TooMany, Unavailable


class ConcurrencyLimit:
    """Slots shared by all owners."""

    def __init__(self, *, concurrency: int = 2, per_owner: int = 1, waiting: int = 8, timeout: float = 60.0):
        """``waiting``: requests of one owner that may wait at the same time. ``timeout``: seconds that each may wait."""
        self._concurrency, self._per_owner, self._waiting, self._timeout = concurrency, per_owner, waiting, timeout
        self._changed = threading.Condition()
        self._busy: Counter[str] = Counter()
        self._queued: Counter[str] = Counter()

    @contextmanager
    def slot(self, owner_id: str) -> Iterator[None]:
        """Wait for a slot and hold it. Raises TooMany if too many of the owner's requests wait, Unavailable after the timeout."""
        with self._changed:
            if self._queued[owner_id] >= self._waiting:
                raise TooMany("Too many of your requests are waiting for this kind of work; try again in a moment.")
            self._queued[owner_id] += 1
            try:
                if not self._changed.wait_for(lambda: self._free(owner_id), self._timeout):
                    raise Unavailable("The gateway is too busy with this kind of work; try again.")
                self._busy[owner_id] += 1
            finally:
                self._release(self._queued, owner_id)
        try:
            yield
        finally:
            with self._changed:
                self._release(self._busy, owner_id)
                self._changed.notify_all()

    def _free(self, owner_id: str) -> bool:
        return self._busy.total() < self._concurrency and self._busy[owner_id] < self._per_owner

    def _release(self, counts: Counter[str], owner_id: str) -> None:
        counts[owner_id] -= 1
        if not counts[owner_id]:
            del counts[owner_id]
