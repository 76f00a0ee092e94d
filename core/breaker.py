"""A circuit breaker and a bulkhead: an outage of the bucket or the database does not block every thread of a process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Condition, Lock
from time import monotonic

OPEN_SECONDS = 3.0  # between the trial calls of an open breaker
STALLED_SECONDS = 2.0  # without progress, after which a call no longer waits for a slot


class CallRejected(Exception):
    """The call was not made, because no answer is expected in time."""


_timed_out: ContextVar[set[CircuitBreaker] | None] = ContextVar("timed_out", default=None)  # None outside of requests


def begin_request() -> None:
    """Until ``end_request`` this thread serves one request, which waits for at most one timeout of each server."""
    _timed_out.set(set())


def end_request() -> None:
    """Forget which servers have timed out."""
    _timed_out.set(None)


class CircuitBreaker:
    """A circuit breaker for one server, shared by the threads of a process.

    It opens when a call times out and no other call was answered since that call began: one slow call among many is no
    outage. While it is open, calls are rejected, except one trial call per OPEN_SECONDS; an answer closes it. A request whose
    call timed out makes no further calls to that server, even if the breaker is closed."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._last_answer = 0.0
        self._next_trial: float | None = None  # None: closed

    def before_call(self) -> float:
        """Check that a call may be made; returns when it began, for ``no_answer``. Raises CallRejected."""
        now = monotonic()
        if self in (_timed_out.get() or ()):
            raise CallRejected("an earlier call of this request timed out")
        with self._lock:
            if self._next_trial is not None:
                if now < self._next_trial:
                    raise CallRejected("there has been no answer for a while")
                # No call for a whole period after the trial was due: the outage is long ago, so close.
                self._next_trial = now + OPEN_SECONDS if now < self._next_trial + OPEN_SECONDS else None
        return now

    def answered(self) -> float:
        """The server answered; an error is an answer too. Returns when."""
        with self._lock:
            self._last_answer, self._next_trial = monotonic(), None
            return self._last_answer

    def no_answer(self, began: float) -> None:
        """The call that began at ``began`` timed out, or could not connect."""
        servers = _timed_out.get()
        if servers is not None:
            servers.add(self)
        with self._lock:
            if self._last_answer < began:
                self._next_trial = monotonic() + OPEN_SECONDS


class Bulkhead:
    """A limit on concurrent calls, so that a server that hangs blocks only some of a process's threads.

    If all slots are taken, a call waits as long as others make progress (calls end, bytes move), else it is rejected."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._changed = Condition()
        self._last_progress = 0.0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait for a slot and hold it. Raises CallRejected if no call makes progress for STALLED_SECONDS."""
        with self._changed:
            while not self._free:
                left = self._last_progress + STALLED_SECONDS - monotonic()
                if left <= 0:
                    raise CallRejected("too many calls wait for an answer")
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
        """Note that a call ended or bytes moved."""
        self._last_progress = monotonic()
