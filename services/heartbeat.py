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

BEAT = 30.0  # seconds

_lock = threading.Lock()
_beating: dict[object, Callable[[], None]] = {}
_process: int | None = None  # whose thread it is: a fork takes none along


@contextmanager
def beating(beat: Callable[[], None]) -> Iterator[None]:
    """Call ``beat`` every BEAT seconds until the end of the block, from one thread for all of this process. It must end soon;
    what it raises is logged, and it is called again."""
    global _process
    mark = object()
    with _lock:
        _beating[mark] = beat
        if _process != os.getpid():
            _process = os.getpid()
            threading.Thread(target=_run, name="heartbeat", daemon=True).start()
    try:
        yield
    finally:
        with _lock:
            del _beating[mark]


def _run() -> None:
    while True:
        time.sleep(BEAT)
        beat_all()


def beat_all() -> None:
    with _lock:
        beats = list(_beating.values())
    for beat in beats:
        try:
            beat()
        except Exception as error:
            log.warning("heartbeat_missed", error=repr(error))
