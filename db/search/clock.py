"""The time limit of a search, for all its statements together."""

from __future__ import annotations

from time import monotonic

from db import Tx, execute

_SLACK = 0.05  # seconds; a statement may overrun the clock by this much


class OutOfTime(Exception):
    """The search has used up its time."""


class Clock:
    """The time that a search has for all its statements together."""

    def __init__(self, seconds: float):
        self._end = monotonic() + seconds
        self._set_at = 0.0

    def begin(self, tx: Tx) -> None:
        """Limit the first statement of a transaction, set how similar a misspelt word must be, and leave the planner no choice
        but the indexes: it takes matching a text to be as cheap as comparing a number. Parallel plans would lose the order."""
        execute(
            tx,
            "select set_config('statement_timeout', %(limit)s, true), set_config('jit', 'off', true),"
            " set_config('enable_seqscan', 'off', true), set_config('max_parallel_workers_per_gather', '0', true),"
            " set_config('pg_trgm.similarity_threshold', '0.25', true)",
            {"limit": self._left()},
        )

    def limit_next(self, tx: Tx) -> None:
        """Limit the next statement to the time that is left, if that has changed noticeably."""
        if monotonic() - self._set_at > _SLACK:
            execute(tx, "select set_config('statement_timeout', %(limit)s, true)", {"limit": self._left()})

    def _left(self) -> str:
        """Milliseconds that are left. Raises OutOfTime if none are."""
        now = monotonic()
        left = int((self._end - now) * 1_000)
        if left <= 0:
            raise OutOfTime
        self._set_at = now
        return str(left)
