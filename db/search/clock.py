"""The time limit of a search, for all its statements together."""

from __future__ import annotations

from time import monotonic

from db import Tx, execute
from db.errors import QueryCanceled

_SLACK = 0.05  # seconds; a statement may overrun the clock by this much
# The planner gets no choice but the indexes: it takes matching a text to be as cheap as comparing a number. Parallel plans would
# lose the order. The last is how similar a misspelt word must be.
_SETTINGS = """
select set_config('statement_timeout', %(limit)s, true), set_config('jit', 'off', true),
       set_config('enable_seqscan', 'off', true), set_config('enable_memoize', 'off', true),
       set_config('max_parallel_workers_per_gather', '0', true), set_config('pg_trgm.similarity_threshold', '0.25', true)
"""


class Clock:
    """The time that a search has for all its statements together."""

    def __init__(self, seconds: float):
        self._end = monotonic() + seconds
        self._set_at = 0.0

    def begin(self, tx: Tx) -> None:
        """Prepare a transaction."""
        self._set_at = 0.0
        self.limit(tx)

    def limit(self, tx: Tx) -> None:
        """Limit the next statement to the time that is left, if that has changed noticeably. Raises QueryCanceled if none is."""
        now = monotonic()
        if now >= self._end:
            raise QueryCanceled("the search is out of time")
        if now - self._set_at > _SLACK:
            execute(tx, _SETTINGS, {"limit": str(max(1, int((self._end - now) * 1_000)))})
            self._set_at = now
