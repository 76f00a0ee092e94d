"""What is kept because the database may have forgotten it (T122).

If an older state of the database is put back, objects that are newer have no row, and an object that has come to use since is
recorded as to be deleted. So what was written in a protected period is kept until an operator says otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import structlog

from core.ids import PROBE_PREFIX
from db import Database, janitor_runs, now, protected_periods
from db.protected_periods import ProtectedPeriod
from storage_backends.base import ObjectNotFound, ObjectStore, StorageError

log = structlog.get_logger()

_SILENT = timedelta(minutes=15)  # the janitor runs every five minutes: somebody may have put a dump back in so long
_MARGIN = timedelta(hours=1)  # clocks differ, and a dump is older than its end


class Protection:
    """The protected periods, as they were when it was made."""

    def __init__(self, store: ObjectStore, periods: Iterable[ProtectedPeriod]):
        self._store = store
        self._periods = list(periods)

    def covers(self, key: str, written: datetime) -> bool:
        """Whether an object without a row, or a multipart upload, is to be kept. Probes are never data."""
        return not key.startswith(PROBE_PREFIX) and any(
            period.began - _MARGIN <= written <= period.ended + _MARGIN for period in self._periods
        )

    def keeps(self, key: str) -> bool:
        """Whether the object under a key is to be kept, although a row lets it be deleted. One of which the bucket does not tell
        is kept."""
        if not self._periods:
            return False
        try:
            return self.covers(key, self._store.stat(key).last_modified)
        except ObjectNotFound:
            return False
        except StorageError as error:
            log.warning("protection_unknown", key=key, error=str(error))
            return True

    def ended_before(self, moment: datetime) -> list[int]:
        """The periods in which nothing was written after ``moment``."""
        return [period.id for period in self._periods if period.ended + _MARGIN < moment]


def load(db: Database, store: ObjectStore) -> Protection:
    """The present protection."""
    with db.connection() as tx:
        return Protection(store, protected_periods.all(tx))


def begin_run(db: Database, store: ObjectStore, *, dry_run: bool) -> Protection:
    """Record that the janitor runs, and first a protected period if its last run was long ago or on another database: an older
    state may have been put back since."""
    with db.transaction(undo=dry_run) as tx:
        last = janitor_runs.lock(tx)
        moment = now(tx)
        if last is not None and (last.elsewhere or moment - last.last_at > _SILENT):
            reason = "the janitor last ran on another database" if last.elsewhere else "the janitor did not run"
            began = min(last.last_at - _MARGIN, moment)
            protected_periods.add(tx, began=began, ended=moment, reason=reason)
            log.warning(
                "protected_period", began=began.isoformat(), ended=moment.isoformat(), reason=reason, dry_run=dry_run
            )
        janitor_runs.record(tx)
        return Protection(store, protected_periods.all(tx))
