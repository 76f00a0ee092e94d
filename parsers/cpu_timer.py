"""A limit for work whose length the file decides, where there is something to fall back on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class CpuTimeExceeded(Exception):
    """The work took more processor time than it was given."""


@contextmanager
def cpu_timer(seconds: float) -> Iterator[None]:
    """Raise CpuTimeExceeded after so much processor time, even in the middle of a regular expression's search."""

    def expire(*_: Any) -> None:
        raise CpuTimeExceeded

    previous = signal.signal(signal.SIGVTALRM, expire)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)
