"""An end to work whose length the file decides, where something else can be made instead."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class CpuTimeExceeded(Exception):
    pass


@contextmanager
def cpu_timer(seconds: float) -> Iterator[None]:
    """Raise CpuTimeExceeded after so much processor time; regular expressions in the middle of a search end too."""

    def expire(*_: Any) -> None:
        raise CpuTimeExceeded

    previous = signal.signal(signal.SIGVTALRM, expire)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)
