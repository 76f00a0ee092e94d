"""Readiness: whether everything that requests need is available."""

from __future__ import annotations

import shutil
import tempfile
from datetime import UTC, datetime, timedelta

import structlog

from core.errors import Unavailable
from db import Database, disk, jobs, server
from parsers import sandbox
from services.objects import bucket_mark
from services.objects.capacity import StorageCapacity
from services.processing.scanning import Scanning
from storage_backends.base import CLOCK_SKEW, ObjectStore, StorageError
from telemetry import Gauge, gauge

log = structlog.get_logger()

_MAX_QUEUE_LAG = timedelta(minutes=10)
_OLD_SIGNATURES = 7  # days
_DISK = 64 * 1024**2  # bytes that must be free where temporary files are written


class Health:
    """Answer ``/readyz``."""

    def __init__(self, db: Database, store: ObjectStore, capacity: StorageCapacity, scanning: Scanning | None):
        self._db = db
        self._store = store
        self._capacity = capacity
        self._scanning = scanning

    def ready(self) -> dict[str, bool | str]:
        """Each part and whether it is available. The reasons are only logged (T124)."""
        checks: dict[str, bool | str] = {
            "database": self._database(),
            **self._bucket(),
            **self._queues(),
            "disk": _disk(),
            **self._space(),
            "sandbox": "weak" if sandbox.missing() else True,
        }
        return checks if self._scanning is None else checks | self._scanner(self._scanning)

    def gauges(self) -> list[Gauge]:
        """The database for /metrics: its connections, of which all gateways and workers have some, its size, and the workers."""
        with self._db.connection() as tx:
            connections, limit, size, workers = (
                server.connections(tx),
                server.limit(tx),
                server.size(tx),
                jobs.workers(tx),
            )
        counts = [((state,), float(number)) for state, number in connections.items()]
        return [
            Gauge("gateway_database_connections", "Connections to the database, by state", ("state",), counts),
            gauge("gateway_database_connections_limit", "Connections that the database's server accepts", limit),
            gauge("gateway_database_bytes", "Bytes of the database", size),
            gauge("gateway_workers", "Queues that some worker waits for, of all workers with a sign of life", workers),
        ]

    def _scanner(self, scanning: Scanning) -> dict[str, bool | str]:
        """Whether clamd answers, and the age of its signatures, which does not affect readiness."""
        try:
            made_at = scanning.signatures().made_at
        except Unavailable:
            return {"clamd": False}
        if made_at is None:  # local signatures have no date
            return {"clamd": True, "signature_age": "unknown"}
        days = max(0, (datetime.now(UTC) - made_at).days)
        if days > _OLD_SIGNATURES:
            log.warning("signatures_are_old", days=days)
        return {"clamd": True, "signature_age": f"{days} days"}

    def _database(self) -> bool:
        try:
            with self._db.transaction() as tx:
                disk.check(tx)
        except Unavailable as error:
            log.warning("database_not_ready", error=repr(error.__cause__))
            return False
        return True

    def _queues(self) -> dict[str, bool]:
        """Whether each queue has workers: no job has waited ten minutes while none of its queue was running."""
        try:
            with self._db.connection() as tx:
                late = jobs.lagging(tx, longer_than=_MAX_QUEUE_LAG)
        except Unavailable:
            return {"queue": False}
        return {"queue": not late} | {f"queue_{name}": False for name in late}

    def _space(self) -> dict[str, bool | str]:
        """The level of the free space, which does not affect readiness: downloads and deletions go on."""
        space = self._capacity.space()
        return {} if space is None else {"capacity": space.level}

    def _bucket(self) -> dict[str, bool | str]:
        """``clock_skew`` if the bucket refuses requests because its clock differs; ``wrong_bucket`` if it is another than that
        which the rows belong to."""
        try:
            self._store.check()
        except StorageError as error:
            log.warning("bucket_not_ready", error=str(error))
            return {"bucket": False, **({"clock_skew": True} if error.code == CLOCK_SKEW else {})}
        return {"bucket": True} if self._belongs() else {"bucket": False, "wrong_bucket": True}

    def refuse_wrong_bucket(self) -> None:
        """Raise ValueError if this is known not to be the bucket that the rows belong to: what is uploaded would be lost."""
        if not self._belongs():
            raise ValueError(bucket_mark.WRONG_BUCKET)

    def _belongs(self) -> bool:
        """Whether it is the bucket that the rows belong to. What can't be read fails its own check."""
        try:
            right = bucket_mark.is_right(self._db, self._store)
        except (Unavailable, StorageError):
            return True
        if not right:
            log.error("wrong_bucket", detail=bucket_mark.WRONG_BUCKET)
        return right


def _disk() -> bool:
    """Whether this machine's disk has space for temporary files. ``_database`` tries the database's disk."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < _DISK:
        log.warning("disk_is_full", folder=tempfile.gettempdir(), free=free)
    return free >= _DISK
