"""What keeps the silence of another server, the bucket or the database, from becoming our own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Condition, Lock
from time import monotonic

PAUSE = 3.0  # seconds between calls that try whether a server is back
QUEUE = 2.0  # seconds without progress after which nobody waits for a place any more


class Away(Exception):
    """The server was not asked: nobody expects it to answer in time."""


_in_vain: ContextVar[set[Breaker] | None] = ContextVar("in_vain", default=None)  # None outside of requests


def begin_request() -> None:
    """From here to ``end_request`` this thread serves one request, which waits for each server in vain once at most."""
    _in_vain.set(set())


def end_request() -> None:
    _in_vain.set(None)


class Breaker:
    """A circuit breaker for one server, shared by the threads of a process.

    It opens when a call gets no answer and no other call got one meanwhile: one slow answer among many is no outage. Then
    calls fail at once, except one in PAUSE seconds, until one is answered. A request that has waited in vain once does not
    wait for that server again, whatever others hear from it: its time is over."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._heard = 0.0
        self._next_try: float | None = None  # None: closed

    def ask(self) -> float:
        """To be called before each call; the moment at which it begins. Raises Away."""
        now = monotonic()
        if self in (_in_vain.get() or ()):
            raise Away("this request has waited in vain already")
        with self._lock:
            if self._next_try is not None:
                if now < self._next_try:
                    raise Away("there has been no answer for a while")
                # Where nobody has tried for so long few are asking, and what it was may be long over.
                self._next_try = now + PAUSE if now < self._next_try + PAUSE else None
        return now

    def heard(self) -> None:
        """The server answered, be it with an error."""
        with self._lock:
            self._heard, self._next_try = monotonic(), None

    def unheard(self, since: float) -> None:
        """A call that began at ``since`` got no answer: it timed out, or nobody was listening."""
        waited = _in_vain.get()
        if waited is not None:
            waited.add(self)
        with self._lock:
            if self._heard < since:
                self._next_try = monotonic() + PAUSE


class Places:
    """Places for calls under way, so that a server that hangs holds only some of a process's threads.

    Where all are taken, a call waits while there is progress: others end, bytes move. Else it gets Away."""

    def __init__(self, number: int) -> None:
        self._free = number
        self._changed = Condition()
        self._progress = 0.0  # when there was some last, or when the last place was taken

    @contextmanager
    def taken(self) -> Iterator[None]:
        with self._changed:
            while not self._free:
                left = self._progress + QUEUE - monotonic()
                if left <= 0:
                    raise Away("too many wait for an answer already")
                self._changed.wait(left)
            self._free -= 1
            self.progress()
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self.progress()
                self._changed.notify()

    def progress(self) -> None:
        self._progress = monotonic()
