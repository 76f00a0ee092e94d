"""Limits expensive work inside requests: slots in this process, fewer for one owner, and short queues.

An owner with many such requests waits for the owner's own, and can't occupy all threads of the server by waiting. Owners take
turns: a free slot goes to the one that has waited longest since its last (T75)."""

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
        self._queue: dict[object, str] = {}  # requests that wait, with their owners, in the order in which they came
        self._turns: dict[str, int] = {}  # which owner got a slot when; only of owners with requests here
        self._turn = 0

    @contextmanager
    def slot(self, owner_id: str) -> Iterator[None]:
        """Wait for a slot and hold it. Raises TooMany if too many of the owner's requests wait, Unavailable after the timeout."""
        request = object()
        with self._changed:
            self._queue[request] = owner_id
            try:
                if self._next() is not request:
                    if sum(owner == owner_id for owner in self._queue.values()) > self._waiting:
                        raise TooMany("Too many of your requests wait for this kind of work; try again in a moment.")
                    if not self._changed.wait_for(lambda: self._next() is request, self._timeout):
                        raise Unavailable("The gateway is too busy with this kind of work; try again.")
                self._busy[owner_id] += 1
                self._turn += 1
                self._turns[owner_id] = self._turn
            finally:
                del self._queue[request]
                self._forget(owner_id)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._busy[owner_id] -= 1
                self._forget(owner_id)
                self._changed.notify_all()

    def _next(self) -> object | None:
        """The request that gets a slot now, if one is free."""
        if self._busy.total() >= self._concurrency:
            return None
        may = [request for request, owner in self._queue.items() if self._busy[owner] < self._per_owner]
        return min(may, key=lambda request: self._turns.get(self._queue[request], 0), default=None)

    def _forget(self, owner_id: str) -> None:
        if not self._busy[owner_id]:
            del self._busy[owner_id]
            if owner_id not in self._queue.values():
                self._turns.pop(owner_id, None)
