"""Readiness: are the parts that every request needs there?"""

from __future__ import annotations

import structlog

from core.errors import Unavailable
from db import Database, scalar
from storage_backends.base import ObjectStore, StorageError

log = structlog.get_logger()


class Health:
    def __init__(self, db: Database, store: ObjectStore):
        self._db = db
        self._store = store

    def ready(self) -> dict[str, bool]:
        """Each part and whether it answers; says nothing about why (THREATS T124), the log does."""
        return {"database": self._database(), "bucket": self._bucket(), "queue": self._queue()}

    def _database(self) -> bool:
        try:
            with self._db.connection() as tx:
                return bool(scalar(tx, "select true"))
        except Unavailable:
            return False

    def _queue(self) -> bool:
        """Whether a worker took jobs lately: no job may wait longer than ten minutes."""
        sql = """
        select not exists (
            select from procrastinate_jobs j join procrastinate_events e on e.job_id = j.id and e.type = 'deferred'
            where j.status = 'todo' and j.scheduled_at is null and e.at < now() - interval '10 minutes')
        """
        try:
            with self._db.connection() as tx:
                return bool(scalar(tx, sql))
        except Unavailable:
            return False

    def _bucket(self) -> bool:
        try:
            self._store.check()
        except StorageError as error:
            log.warning("bucket_not_ready", error=str(error))
            return False
        return True
