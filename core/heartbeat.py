"""Signs of life, given while something is under way: what a request holds is renewed however slow its client or the bucket
is, and is free soon after its process was killed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

log = structlog.get_logger()

BEAT = 30.0  # seconds, of what is held for minutes
TICK = 1.5  # seconds

_lock = threading.Lock()
_beating: dict[Callable[[], object], tuple[float, float]] = {}  # when it is due, and how often, in seconds
_process: int | None = None  # whose thread it is: a fork takes none along


@contextmanager
def beating(beat: Callable[[], object], *, every: float = BEAT) -> Iterator[None]:
    """Call ``beat`` every so many seconds until the end of the block, from one thread for all of this process. It must end
    soon; what it raises is logged, and it is called again."""
    global _process
    with _lock:
        _beating[beat] = (time.monotonic() + every, every)
        if _process != os.getpid():
            _process = os.getpid()
            threading.Thread(target=_run, name="heartbeat", daemon=True).start()
    try:
        yield
    finally:
        with _lock:
            del _beating[beat]


def _run() -> None:
    while True:
        time.sleep(TICK)
        beat_due(time.monotonic())


def beat_due(now: float) -> None:
    with _lock:
        due = [(beat, every) for beat, (at, every) in _beating.items() if at <= now]
        _beating.update({beat: (now + every, every) for beat, every in due})
    for beat, _ in due:
        try:
            beat()
        except Exception as error:
            log.warning("heartbeat_missed", error=repr(error))
