"""The janitor ends abandoned uploads, empties the trash, and makes rows and bucket agree. Idempotent, and safe with many at once.

A quick run, every few minutes, finds what is to be done by rows; a full one also compares all of the bucket (comparison.py) and
all counters. What several runs do at once is done once, and counted in the report of one of them.

A dry run takes the same steps: what is only rows is undone at the end of its transaction, and the bucket is only read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from time import monotonic
from typing import Protocol

import structlog

from core.ids import TAIL_PREFIX
from core.origin import ORIGIN, SYSTEM
from db import (
    Database,
    counters,
    errors,
    events,
    folders,
    idempotency,
    janitor_runs,
    keys,
    login_sessions,
    now,
    objects,
    protected_periods,
    rate_limits,
    reserved_keys,
    resumable,
    upload_tokens,
    uploads,
)
from db.records import UploadRecord
from services.access.idempotency import KEEP as KEEP_IDEMPOTENCY_KEYS
from services.library.trash import Trash
from services.objects import protection
from services.objects.bucket import purge_object
from services.objects.deferred_deletions import find_due, remove_due
from services.objects.protection import Protection
from services.upkeep.comparison import Comparison
from services.upkeep.report import JanitorReport
from services.uploads.intake import Intake
from storage_backends.base import ObjectStore, StorageError
from telemetry import Gauge, gauge, metrics

log = structlog.get_logger()

_GRACE = timedelta(hours=1)  # added to the longest life of an upload: clocks differ, rows come late
_CLEANUP_GRACE = timedelta(minutes=5)  # for the process that ended an upload to remove its bytes
_KEEP_UPLOADS = timedelta(days=7)  # rows of ended uploads, and of upload sessions after their last file
_KEEP_TOKENS = timedelta(days=1)  # after they have expired
_KEEP_KEYS = timedelta(days=30)  # after they were revoked or have expired
_BATCH = 1_000
_MAX_BATCHES = 1_000  # of one run
_EXAMPLES = 5  # ids that a dry run reads of what it counts


class Requeues(Protocol):
    """Enqueues lost jobs again."""

    def __call__(self, *, dry_run: bool = False) -> int:
        """The number of jobs."""
        ...


class Janitor:
    """One clean-up run at a time; every few minutes a job calls it."""

    def __init__(
        self,
        db: Database,
        store: ObjectStore,
        intake: Intake,
        trash: Trash,
        requeues: Sequence[Requeues],
        *,
        upload_ttl: timedelta,
    ):
        self._db = db
        self._store = store
        self._intake = intake
        self._trash = trash
        self._requeues = requeues
        self._orphan_age = max(upload_ttl, timedelta(hours=1)) + _GRACE

    def run(
        self,
        *,
        dry_run: bool = False,
        full: bool = True,
        delete_protected: bool = False,
        listed: Callable[[int], object] = lambda number: None,
    ) -> JanitorReport:
        """Clean up. A ``full`` run lists all of the bucket, and verifies the counters, which reads all files. Raises Unavailable
        without the database, and before anything is changed if this can't be the right bucket; what fails in the bucket is left
        to the next run.

        ``delete_protected`` also deletes objects of protected periods, if it is a full run, and then forgets the periods.
        ``listed`` is told how many more objects were compared."""
        began, report = monotonic(), JanitorReport(dry_run)
        caller = ORIGIN.set(SYSTEM)
        try:
            protected = protection.begin_run(self._db, self._store, dry_run=dry_run)
            comparison = Comparison(
                self._db,
                self._store,
                report,
                protected,
                orphan_age=self._orphan_age,
                delete_protected=full and delete_protected,
            )
            reachable = self._require_right_bucket(comparison, full=full)
            for requeue in self._requeues:
                report.add("requeued_jobs", count=requeue(dry_run=dry_run))
            # What is found is what was there before the run, as in a dry run; then what rows tell is done.
            self._delete_old_rows(report)
            if reachable:
                self._compare(
                    comparison,
                    report,
                    protected,
                    delete_protected=full and delete_protected,
                    listed=listed if full else None,
                )
            if full:
                self._recount(report)
            self._expire_uploads(report, protected)
            self._clean_uploads(report, protected)
            self._forget_keys(report, protected)
            self._remove_reserved(report, protected)
            self._finish_purges(report)
            self._remove_due(report, protected)
            self._empty_trash(report)
            if not dry_run:
                self._add_partitions()
            self._end(report, seconds=monotonic() - began if full else None)
        finally:
            ORIGIN.reset(caller)
        return report

    def gauges(self) -> list[Gauge]:
        """The last full run for /metrics."""
        with self._db.connection() as tx:
            last = {run.kind: run for run in janitor_runs.all(tx)}.get("full")
        if last is None:
            return []
        text = "When the last comparison of all rows and objects ended, in seconds since 1970"
        return [
            gauge("gateway_janitor_last_full_run_timestamp_seconds", text, last.last_at.timestamp()),
            gauge("gateway_janitor_last_full_run_seconds", "Seconds that it took", last.seconds or 0.0),
        ]

    def _end(self, report: JanitorReport, *, seconds: float | None) -> None:
        found = {kind: count for kind, count in report.counts().items() if count}
        if found:
            log.info("janitor_run", dry_run=report.dry_run, **found)
        if report.dry_run:
            return
        for kind, count in found.items():
            metrics().janitor_found(kind, count)
        with self._db.connection() as tx:
            janitor_runs.record(tx)
            if report.compared:
                janitor_runs.record(tx, "full", seconds=seconds)

    def _show_life(self) -> None:
        """Record that the janitor runs, in a run that may take long."""
        with self._db.connection() as tx:
            janitor_runs.record(tx)

    # -- uploads -----------------------------------------------------------------------------------------------------------

    def _expire_uploads(self, report: JanitorReport, protected: Protection) -> None:
        """Set pending and uploading uploads past their time to expired in one statement, then remove their bytes."""
        for _ in range(_MAX_BATCHES):
            with self._db.connection() as tx:
                found = uploads.expired(tx, limit=_BATCH)
                if report.dry_run:
                    ids = [upload.id for upload in found[:_EXAMPLES]]
                    report.add("expired_uploads", ids, count=uploads.count_expired(tx))
                if report.dry_run or not found:
                    return
                ended = set(uploads.end(tx, [upload.id for upload in found], status="expired", expired_only=True))
            for upload in found:
                if upload.id in ended:
                    self._remove_bytes(upload, protected)
            report.add("expired_uploads", [upload.id for upload in found if upload.id in ended])
            if not ended:
                return
            self._show_life()

    def _clean_uploads(self, report: JanitorReport, protected: Protection) -> None:
        with self._db.connection() as tx:
            found = uploads.unclean(tx, grace=_CLEANUP_GRACE, limit=_BATCH)
        done = [upload.id for upload in found if report.dry_run or self._remove_bytes(upload, protected)]
        report.add("cleaned_uploads", done)

    def _remove_bytes(self, upload: UploadRecord, protected: Protection) -> bool:
        """Remove what an upload has left, unless it may have become a file of which the database does not know; that is then an
        object without a row. False if the bucket did not confirm, or another run has done it."""
        stored = [upload.object_key, *([upload.incoming_key] if upload.incoming_key else [])]
        with self._db.connection() as tx:
            stored += resumable.keys(tx, upload.id)
        if not any(protected.keeps(key) for key in stored) and not self._intake.remove_bytes(upload):
            return False
        with self._db.connection() as tx:
            return uploads.mark_cleaned(tx, upload.id)

    def _forget_keys(self, report: JanitorReport, protected: Protection) -> None:
        """Remove keys reserved by writers of ended resumable uploads, unless they have become files' objects."""
        if report.dry_run:
            return
        with self._db.connection() as tx:
            recorded = resumable.keys_of_ended(tx, limit=10 * _BATCH)
        done = [
            key
            for key, has_file in recorded
            if has_file or self._is_kept(key, protected) or self._intake.remove_key(key)
        ]
        with self._db.connection() as tx:
            resumable.forget_keys(tx, done)

    def _is_kept(self, key: str, protected: Protection) -> bool:
        return not key.startswith(TAIL_PREFIX) and protected.keeps(key)

    def _remove_reserved(self, report: JanitorReport, protected: Protection) -> None:
        """Remove what uploads of killed processes stored under reserved keys."""
        if report.dry_run:
            return
        with self._db.connection() as tx:
            expired = reserved_keys.end_expired(tx, limit=_BATCH)
        done = [key_id for key_id, stem in expired if self._intake.remove_stem(stem, keeps=protected.keeps)]
        with self._db.connection() as tx:
            reserved_keys.forget(tx, done)

    # -- files and objects -------------------------------------------------------------------------------------------------

    def _finish_purges(self, report: JanitorReport) -> None:
        with self._db.connection() as tx:
            purging = objects.purging(tx, limit=_BATCH)
        done = [key for key in purging if report.dry_run or purge_object(self._db, self._store, key)]
        report.add("purged_objects", done)

    def _remove_due(self, report: JanitorReport, protected: Protection) -> None:
        if report.dry_run:
            for key in find_due(self._db, protected):
                report.add("retired_objects", [key])
        else:
            report.add("retired_objects", remove_due(self._db, self._store, protected))

    def _empty_trash(self, report: JanitorReport) -> None:
        """Purge first: what moves to the trash now is not purged before the next run."""
        if report.dry_run:
            (expired, moved), (old, purged) = self._trash.due(limit=_EXAMPLES)
            report.add("expired_files", moved, count=expired)
            report.add("purged_files", purged, count=old)
            return
        for kind, steps in (("purged_files", self._trash.purge_old()), ("expired_files", self._trash.move_expired())):
            for ids in steps:
                report.add(kind, ids)
                self._show_life()

    def _require_right_bucket(self, comparison: Comparison, *, full: bool) -> bool:
        """False if the bucket can't be reached, so that nothing is known. Raises Unavailable."""
        try:
            comparison.require_right_bucket(full=full)
        except StorageError as error:
            log.warning("janitor_bucket_unavailable", error=str(error))
            return False
        return True

    def _compare(
        self,
        comparison: Comparison,
        report: JanitorReport,
        protected: Protection,
        *,
        delete_protected: bool,
        listed: Callable[[int], object] | None,
    ) -> None:
        with self._db.connection() as tx:
            began = now(tx)
        try:
            comparison.remove_transient_orphans()
            comparison.abort_orphaned_multiparts()
            if listed is not None:
                comparison.run(listed)
                report.compared = True
        except StorageError as error:
            log.warning("janitor_bucket_unavailable", error=str(error))
            return
        if delete_protected and not report.dry_run:
            with self._db.connection() as tx:
                # Younger objects may still get a row, so they were not deleted, and stay protected.
                protected_periods.forget(tx, protected.ended_before(began - self._orphan_age))

    # -- rows --------------------------------------------------------------------------------------------------------------

    def _delete_old_rows(self, report: JanitorReport) -> None:
        limit = 10 * _BATCH
        with self._db.transaction(undo=report.dry_run) as tx:
            deleted: Iterable[int] = (
                uploads.forget_old(tx, keep=_KEEP_UPLOADS, limit=limit),
                upload_tokens.forget_old(tx, keep=_KEEP_TOKENS, limit=limit),
                uploads.forget_sessions(tx, keep=_KEEP_UPLOADS, limit=limit),
                keys.forget_old(tx, keep=_KEEP_KEYS, limit=limit),
                idempotency.forget_old(tx, keep=KEEP_IDEMPOTENCY_KEYS, limit=limit),
                folders.forget_deleted(tx, limit=limit),
                login_sessions.forget_expired(tx),
                rate_limits.forget_expired(tx, limit=limit),
            )
        report.add("forgotten_rows", count=sum(deleted))

    def _add_partitions(self) -> None:
        """Add the next months' partitions of audit events."""
        with self._db.connection() as tx, suppress(*errors.LOCKED):  # the next run tries again
            events.add_partitions(tx)

    def _recount(self, report: JanitorReport) -> None:
        """Correct counters that differ from what they count, and log them: none should ever differ (T72)."""
        with self._db.transaction() as tx:
            found = counters.differences(tx)
        if not report.dry_run:
            owners = sorted({wrong.owner_id for wrong in found})
            found = []
            for owner_id in owners:
                with self._db.transaction() as tx:
                    found += counters.repair(tx, owner_id)
        for wrong in found:
            log.warning(
                "counter_differs",
                owner_id=wrong.owner_id,
                counter=wrong.counter,
                kept=wrong.kept,
                counted=wrong.counted,
                dry_run=report.dry_run,
            )
        report.add("corrected_counters", [f"{wrong.owner_id}: {wrong.counter}" for wrong in found])
