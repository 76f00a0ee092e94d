"""How many bodies of one owner this process reads at once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from api.context import http, principal
from core.errors import TooMany

_in_flight: Counter[str] = Counter()
_waiting: Counter[str] = Counter()
_one_ended = threading.Condition()
_PATIENCE = 20.0  # seconds that a body waits for another of its owner to end


@contextmanager
def body_in_flight() -> Iterator[None]:
    """Count this body among its owner's. Beyond the limit some may wait for a place, the rest are TooMany: nobody
    may hold every thread (THREATS T7)."""
    owner, limit = principal().owner_id, http().max_bodies_in_flight
    with _one_ended:
        if _in_flight[owner] >= limit:
            if _waiting[owner] >= http().max_bodies_waiting:
                raise _too_many()
            _waiting[owner] += 1
            found = _one_ended.wait_for(lambda: _in_flight[owner] < limit, timeout=_PATIENCE)
            _waiting[owner] -= 1
            if not found:
                raise _too_many()
        _in_flight[owner] += 1
    try:
        yield
    finally:
        with _one_ended:
            _in_flight[owner] -= 1
            if not _in_flight[owner] and not _waiting[owner]:
                del _in_flight[owner], _waiting[owner]
            _one_ended.notify_all()


def _too_many() -> TooMany:
    return TooMany("Too many uploads at once; wait for one to end.", retry_after=5)
