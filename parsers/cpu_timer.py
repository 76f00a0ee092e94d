"""An end to work whose length the file decides, where something else can be made instead."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class TooSlow(Exception):
    pass


@contextmanager
def in_time(seconds: float) -> Iterator[None]:
    """Raise TooSlow after so much processor time; regular expressions in the middle of a search end too."""

    def over(*_: Any) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
