"""Heartbeats: a request renews its lease while it waits for a slow client or bucket, and the lease expires soon after its process
was killed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

log = structlog.get_logger()

INTERVAL = 30.0  # seconds; leases last minutes
TICK = 1.5  # seconds

_lock = threading.Lock()
_beats: dict[Callable[[], object], tuple[float, float]] = {}  # when it is due, and its interval, in seconds
_process: int | None = None  # that the thread runs in: a fork does not copy threads


@contextmanager
def beating(beat: Callable[[], object], *, every: float = INTERVAL) -> Iterator[None]:
    """Call ``beat`` every ``every`` seconds during the block, in the process's heartbeat thread. It must return soon; its
    errors are logged, and it is called again."""
    global _process
    with _lock:
        _beats[beat] = (time.monotonic() + every, every)
        if _process != os.getpid():
            _process = os.getpid()
            threading.Thread(target=_run, name="heartbeat", daemon=True).start()
    try:
        yield
    finally:
        with _lock:
            del _beats[beat]


def _run() -> None:
    while True:
        time.sleep(TICK)
        beat_due(time.monotonic())


def beat_due(now: float) -> None:
    """Call every beat that is due at ``now``, in seconds of the monotonic clock."""
    with _lock:
        due = [(beat, every) for beat, (at, every) in _beats.items() if at <= now]
        _beats.update({beat: (now + every, every) for beat, every in due})
    for beat, _ in due:
        try:
            beat()
        except Exception as error:
            log.warning("heartbeat_missed", error=repr(error))
