"""The time limit of a search, for all its statements together."""

from __future__ import annotations

from time import monotonic

from db import Tx
from db.errors import QueryCanceled

# The planner gets no choice but the indexes: it takes matching a text to be as cheap as comparing a number. Parallel plans would
# lose the order. The last is how similar a misspelt word must be.
_BEGIN = """
begin; set local jit = off; set local enable_seqscan = off; set local enable_memoize = off;
set local max_parallel_workers_per_gather = 0; set local pg_trgm.similarity_threshold = 0.25;
"""


class Clock:
    """The time that a search has for all its statements together."""

    def __init__(self, seconds: float):
        self._end = monotonic() + seconds

    def begin(self, tx: Tx) -> None:
        """Begin a transaction, which the caller commits."""
        self.limit(tx, _BEGIN)

    def limit(self, tx: Tx, settings: str = "") -> None:
        """Limit the next statements to the time that is left. Raises QueryCanceled if none is."""
        left = self._end - monotonic()
        if left <= 0:
            raise QueryCanceled("the search is out of time")
        tx.execute(f"{settings} set local statement_timeout = {max(1, int(left * 1_000))}", prepare=False)
