"""Rate limits over all processes: how many requests of a kind a caller may send in a window of time (T74).

Each process takes requests from the shared count in batches, and answers from its batch: thousands of small uploads cost a few
statements. So at the end of a window up to a batch for each process may be left unused, and never more than the limit is used.

While the shared count can't be reached, each process counts by itself: requests are not refused for it, and the limits hold
for each process."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from ipaddress import IPv6Address, ip_address, ip_network
from threading import Lock
from typing import Literal, NamedTuple, get_args

import structlog
from limits import RateLimitItem, parse
from limits.storage import MemoryStorage, Storage, storage_from_string

from core.errors import Unavailable
from core.principal import Principal
from db import Database, rate_limits
from telemetry import metrics

log = structlog.get_logger()

LimitName = Literal[
    "uploads", "logins", "failures", "previews", "search", "archives", "batches", "tokens", "idempotency_keys"
]
NAMES: tuple[LimitName, ...] = get_args(LimitName)

_BATCH = 32  # requests taken from the shared count at a time, and at most a hundredth of the limit
_RETRY = 5.0  # seconds until a storage that failed is asked again
_MAX_WINDOWS = 10_000  # callers that a process remembers
_TIMEOUTS = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}  # seconds, of Redis


class Hit(NamedTuple):
    """A request that was counted."""

    name: LimitName
    quota: int  # requests in a window
    window: int  # seconds
    allowed: bool
    remaining: int  # requests
    reset: int  # seconds until the window ends


@dataclass(slots=True)
class _Window:
    """What this process knows of a caller's window."""

    ends: float
    left: int  # of the batch
    shared: int  # what all processes may still take


class DatabaseStorage(Storage):
    """The shared count in PostgreSQL, as ``limits`` asks for it."""

    STORAGE_SCHEME = None

    def __init__(self, db: Database):
        super().__init__()
        self._db = db

    @property
    def base_exceptions(self) -> type[Exception]:
        """What its methods raise when the database can't be reached."""
        return Unavailable

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add to a count whose window has ``expiry`` seconds."""
        with self._db.connection() as tx:
            return rate_limits.add(tx, key, amount, window=timedelta(seconds=expiry))

    def get(self, key: str) -> int:
        """A count."""
        with self._db.connection() as tx:
            return rate_limits.count(tx, key)

    def get_expiry(self, key: str) -> float:
        """When the window ends, by this machine's clock."""
        with self._db.connection() as tx:
            return time.time() + rate_limits.seconds_left(tx, key)

    def check(self) -> bool:
        """Whether the database answers."""
        try:
            self.get("")
        except Unavailable:
            return False
        return True

    def reset(self) -> int:
        """Forget everything."""
        with self._db.connection() as tx:
            return rate_limits.forget(tx)

    def clear(self, key: str) -> None:
        """Forget a count."""
        with self._db.connection() as tx:
            rate_limits.forget(tx, key)


class RateLimits:
    """Counts requests and says which are too many."""

    def __init__(self, db: Database, limits: Mapping[LimitName, str], *, url: str | None = None):
        """``limits``: such as "60/minute". ``url``: where to count, ``redis://…`` (Redis or Valkey) or ``memory://``, instead
        of in the database."""
        self._limits = {name: parse(text) for name, text in limits.items()}
        self._storage = DatabaseStorage(db) if url is None else _open(url)
        self._windows: dict[str, _Window] = {}
        self._lock = Lock()
        self._down_until = 0.0

    def hit(self, name: LimitName, principal: Principal | None, address: str) -> Hit:
        """Count a request of this caller: by owner, or by address if it is anonymous."""
        limit, key, now = self._limits[name], f"{name}:{counted_as(principal, address)}", time.time()
        with self._lock:
            window = self._windows.get(key)
            if window is not None and window.ends > now and (window.left or not window.shared):
                return _use(window, name, limit, now)
        taken = self._take(name, key, limit)
        with self._lock:
            window = self._windows.get(key)
            if window is not None and window.ends > now:  # another thread took a batch too
                taken.left += window.left
            if len(self._windows) >= _MAX_WINDOWS:
                self._windows = {key: window for key, window in self._windows.items() if window.ends > now}
                if len(self._windows) >= _MAX_WINDOWS:
                    self._windows.clear()
            self._windows[key] = taken
            return _use(taken, name, limit, now)

    def _take(self, name: LimitName, key: str, limit: RateLimitItem) -> _Window:
        if time.time() >= self._down_until:
            try:
                return _batch(self._storage, key, limit)
            except self._storage.base_exceptions as error:
                self._down_until = time.time() + _RETRY
                metrics().rate_limit(name, "storage_down")
                log.warning("rate_limit_storage_down", limit=name, error=repr(error))
        return _batch(self._alone, key, limit)

    @cached_property
    def _alone(self) -> MemoryStorage:
        """The counts of this process alone."""
        return MemoryStorage()


def _open(url: str) -> Storage:
    found = storage_from_string(url, **({} if url.startswith("memory:") else _TIMEOUTS))
    assert isinstance(found, Storage)
    return found


def _batch(storage: Storage, key: str, limit: RateLimitItem) -> _Window:
    """Take requests from the shared count."""
    wanted = max(1, min(_BATCH, limit.amount // 100))
    count = storage.incr(key, limit.get_expiry(), wanted)
    over = max(0, count - limit.amount)
    return _Window(storage.get_expiry(key), left=max(0, wanted - over), shared=max(0, limit.amount - count))


def _use(window: _Window, name: LimitName, limit: RateLimitItem, now: float) -> Hit:
    allowed = window.left > 0
    window.left -= allowed
    if not allowed:
        metrics().rate_limit(name, "refused")
    reset = min(max(1, math.ceil(window.ends - now)), limit.get_expiry())  # the database's clock may be ahead
    return Hit(name, limit.amount, limit.get_expiry(), allowed, window.left + window.shared, reset)


def counted_as(principal: Principal | None, address: str) -> str:
    """Who is counted together: all credentials of an owner, all its upload tokens, or one address (IPv6: one /64)."""
    if principal is not None:
        return f"{'owner' if principal.budget is None else 'tokens of'} {principal.owner_id}"
    try:
        parsed = ip_address(address)
    except ValueError:
        return "address unknown"
    return f"address {ip_network((parsed, 64), strict=False) if isinstance(parsed, IPv6Address) else parsed}"
