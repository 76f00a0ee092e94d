"""The space in the bucket: how much is left, when it will be full, and the refusal of uploads before it is.

Every upload asks ``admit`` when it begins, and again while its bytes arrive. Some space is always kept free, so that rows can
still be written and objects be deleted; and what unfinished uploads may still store counts as taken."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock, Thread
from time import monotonic
from typing import Any, Literal

import structlog

from core.errors import StorageFull, Unavailable
from db import Database, capacity
from storage_backends.base import Capacity, ObjectStore, ReportsCapacity, StorageError
from telemetry import Gauge, gauge

log = structlog.get_logger()

Level = Literal["ok", "warning", "full"]
LEVELS: tuple[Level, ...] = ("ok", "warning", "full")

_FRESH = 5.0  # seconds that a measurement is used
_PATIENCE = 2.0  # seconds that a request waits for one


@dataclass(frozen=True, slots=True)
class CapacityLimits:
    """When space runs out. An amount is bytes, or a share of the total such as ``10%``."""

    size: int | None  # bytes of the bucket, for servers that don't tell theirs
    warning: str  # below this much free space the level is ``warning``
    kept: str  # and below this ``full``


@dataclass(frozen=True, slots=True)
class Space:
    """What was measured."""

    free: int  # bytes
    total: int
    kept: int  # bytes of ``free`` that uploads do not get
    outstanding: int  # bytes that unfinished uploads may still store
    level: Level

    @property
    def room(self) -> int:
        """Bytes that a new upload may have."""
        return self.free - self.kept - self.outstanding


class StorageCapacity:
    """Measures the space, and refuses what does not fit. Where nothing tells the space, nothing is refused."""

    def __init__(self, db: Database, store: ObjectStore, limits: CapacityLimits):
        self._db = db
        self._reports = store if isinstance(store, ReportsCapacity) else None
        self._limits = limits
        self._lock = Lock()
        self._measuring = Thread()
        self._space: Space | None = None
        self._measured = float("-inf")  # by monotonic
        self._admitted = 0  # bytes by this process since then

    def space(self) -> Space | None:
        """The space as measured within the last seconds; None if it is not known."""
        began = False
        if monotonic() - self._measured > _FRESH:
            with self._lock:
                began = not self._measuring.is_alive()
                if began:
                    self._measuring = Thread(target=self._refresh, name="space", daemon=True)
                    self._measuring.start()
        if began or self._measured < 0:  # others use what was measured before
            self._measuring.join(_PATIENCE)
        return self._space

    def _refresh(self) -> None:
        admitted = self._admitted
        space = None
        try:
            space = self._measure()
        finally:
            with self._lock:
                self._space, self._measured = space, monotonic()
                self._admitted -= admitted

    def admit(self, size: int) -> None:
        """Raises StorageFull if there is no room for ``size`` bytes more or, if it is 0, for more bytes of an upload that was
        admitted or tells no size."""
        space = self.space()
        if space is None:
            return
        if space.level == "full" or (size and size > space.room - self._admitted):
            log.warning("upload_refused_for_space", size=size, room=space.room)
            raise StorageFull("There is no space left for this upload.")
        with self._lock:
            self._admitted += size

    def _measure(self) -> Space | None:
        try:
            found = self._reported()
            if found is None:
                return None
            with self._db.connection() as tx:
                outstanding = capacity.outstanding(tx)
        except (StorageError, Unavailable) as error:
            log.warning("space_not_measured", error=str(error))
            return None
        kept = _bytes(self._limits.kept, found.total)
        level: Level = "full" if found.free < kept else "ok"
        if level == "ok" and found.free < _bytes(self._limits.warning, found.total):
            level = "warning"
        return Space(found.free, found.total, kept, outstanding, level)

    def _reported(self) -> Capacity | None:
        found = self._reports.capacity() if self._reports is not None else None
        if found is not None or self._limits.size is None:
            return found
        with self._db.connection() as tx:
            return Capacity(free=max(0, self._limits.size - capacity.stored(tx)), total=self._limits.size)

    # -- for operators -------------------------------------------------------------------------------------------------

    def sample(self) -> None:
        """Record how much is stored today."""
        space = self.space()
        with self._db.transaction() as tx:
            capacity.sample(tx, free=space.free if space else None, total=space.total if space else None)

    def report(self) -> dict[str, Any] | None:
        """Free and total bytes, the level, the growth in bytes a day, and the days until uploads are refused (null: not known, or
        it does not grow); None if the space is not known. Raises Unavailable."""
        space = self.space()
        if space is None:
            return None
        with self._db.connection() as tx:
            growth = capacity.growth(tx).per_day
        days = None if growth is None or growth <= 0 else max(0, space.free - space.kept) / growth
        return {
            "free": space.free,
            "total": space.total,
            "level": space.level,
            "growth_per_day": None if growth is None else round(growth),
            "days_until_full": None if days is None else round(days, 1),
        }

    def gauges(self) -> list[Gauge]:
        """What ``report`` tells, for /metrics."""
        report = self.report()
        if report is None:
            return []
        names = {
            "free": ("gateway_capacity_free_bytes", "Free space on the bucket's disk"),
            "total": ("gateway_capacity_total_bytes", "Size of the bucket's disk"),
            "level": (
                "gateway_capacity_level",
                "0: enough space, 1: little (CAPACITY_WARNING), 2: uploads are refused",
            ),
            "growth_per_day": ("gateway_capacity_growth_bytes", "Bytes stored more each day, by the last month"),
            "days_until_full": ("gateway_capacity_days_until_full", "Days until uploads are refused, at this growth"),
        }
        values = report | {"level": LEVELS.index(report["level"])}
        return [gauge(*names[name], value) for name, value in values.items() if value is not None]


def _bytes(amount: str, total: int) -> int:
    return total * int(amount[:-1]) // 100 if amount.endswith("%") else int(amount)
