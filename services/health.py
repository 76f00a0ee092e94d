"""Readiness: are the parts that every request needs there?"""

from __future__ import annotations

from datetime import timedelta

import structlog

from core.errors import Unavailable
from db import Database, jobs
from storage_backends.base import ObjectStore, StorageError

log = structlog.get_logger()

_QUEUE_LAG = timedelta(minutes=10)


class Health:
    def __init__(self, db: Database, store: ObjectStore):
        self._db = db
        self._store = store

    def ready(self) -> dict[str, bool]:
        """Each part and whether it answers; says nothing about why (THREATS T124), the log does."""
        return {"database": self._database(), "bucket": self._bucket(), **self._queues()}

    def _database(self) -> bool:
        try:
            with self._db.connection():  # the pool hands out no connection that does not answer
                return True
        except Unavailable:
            return False

    def _queues(self) -> dict[str, bool]:
        """Whether workers are at each queue: no job may wait longer than ten minutes while none of its queue is done."""
        try:
            with self._db.connection() as tx:
                late = jobs.lagging(tx, longer_than=_QUEUE_LAG)
        except Unavailable:
            return {"queue": False}
        return {"queue": not late} | {f"queue_{name}": False for name in late}

    def _bucket(self) -> bool:
        try:
            self._store.check()
        except StorageError as error:
            log.warning("bucket_not_ready", error=str(error))
            return False
        return True
