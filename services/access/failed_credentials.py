"""Slows down addresses that send credentials which are not valid, over all processes.

After some failures in a minute an address gets 429 before anything is read from the database, until the minute is over. Many
people may share an address, so what this process has accepted before still works, and so does every JWT, which needs no
database: only a key, token or session that this process does not know yet waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from time import monotonic
from typing import TypeVar

from core.errors import NotAuthenticated, TooMany
from core.ids import secret_digest
from services.access.rate_limits import RateLimits, counted_as

K = TypeVar("K")
V = TypeVar("V")

_MOST = 10_000  # addresses, and credentials, that a process remembers


class FailedCredentials:
    """Counts failures by address."""

    def __init__(self, limits: RateLimits | None):
        """``limits`` None: nothing is slowed down."""
        self._limits = limits
        self._slowed: dict[str, float] = {}  # until when
        self._accepted: dict[bytes, None] = {}  # digests

    @contextmanager
    def counted(self, credential: str, address: str, *, needs_database: bool = True) -> Iterator[None]:
        """Check a credential in this block, which raises NotAuthenticated if it is not valid. Raises TooMany, before the block
        is entered if it ``needs_database``, when this address has failed too often."""
        if self._limits is None:
            yield
            return
        digest = secret_digest(credential)
        if needs_database and digest not in self._accepted:
            self._refuse_slowed(address)
        try:
            yield
        except NotAuthenticated:
            self._accepted.pop(digest, None)
            self._refuse_slowed(address)
            hit = self._limits.hit("failures", None, address)
            if not hit.remaining:
                _remember(self._slowed, counted_as(None, address), monotonic() + hit.reset)
            raise
        if needs_database:
            _remember(self._accepted, digest, None)

    def _refuse_slowed(self, address: str) -> None:
        left = self._slowed.get(counted_as(None, address), 0.0) - monotonic()
        if left > 0:
            raise TooMany(
                "Too many credentials from your address were not valid; try again later.", retry_after=ceil(left)
            )


def _remember(known: dict[K, V], key: K, value: V) -> None:
    """Add an entry, instead of all others if there are too many."""
    if len(known) >= _MOST and key not in known:
        known.clear()
    known[key] = value
