"""The janitor ends abandoned uploads and makes rows and bucket agree. Idempotent, and safe with many at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import TypeVar

import structlog

from core.ids import FILE_PREFIX, INCOMING_PREFIX, PREVIEW_PREFIX, PROBE_PREFIX, TAIL_PREFIX
from db import (
    Database,
    counters,
    deferred_deletions,
    errors,
    events,
    folders,
    idempotency,
    keys,
    login_sessions,
    now,
    objects,
    rate_limits,
    reserved_keys,
    resumable,
    upload_tokens,
    uploads,
)
from db.records import UploadRecord
from services.access.idempotency import KEEP as KEEP_IDEMPOTENCY_KEYS
from services.objects.bucket import delete_quietly, purge_object
from services.objects.deferred_deletions import remove_due
from services.uploads.intake import Intake
from storage_backends.base import Multipart, MultipartRef, ObjectInfo, ObjectStore, StorageError

log = structlog.get_logger()

# All that belongs to the gateway in the bucket; nothing else is ever touched.
PREFIXES = (FILE_PREFIX, PREVIEW_PREFIX, INCOMING_PREFIX, TAIL_PREFIX, PROBE_PREFIX)
_GRACE = timedelta(hours=1)  # added to the longest life of an upload: clocks differ, rows come late
# Incoming objects and tails have a row before anybody learns their key: without one they are late writes to an upload that
# has ended, however young. A probe has no row, and is deleted within seconds.
_ORPHANED_AFTER = {INCOMING_PREFIX: timedelta(), TAIL_PREFIX: timedelta(), PROBE_PREFIX: timedelta(minutes=10)}
_CLEANUP_GRACE = timedelta(minutes=5)  # for the process that ended an upload to remove its bytes
_KEEP_UPLOADS = timedelta(days=7)  # rows of ended uploads, and of upload sessions after their last file
_KEEP_TOKENS = timedelta(days=1)  # after they have expired
_KEEP_KEYS = timedelta(days=30)  # after they were revoked or have expired
_BATCH = 1_000
_MAX_BATCHES = 1_000  # of one run

T = TypeVar("T")


@dataclass(slots=True)
class JanitorReport:
    """What a run did, or would do (``dry_run``)."""

    dry_run: bool
    expired_uploads: int = 0
    cleaned_uploads: int = 0
    purged_objects: int = 0
    retired_objects: int = 0
    orphaned_objects: int = 0
    orphaned_bytes: int = 0
    orphaned_multiparts: int = 0
    forgotten_rows: int = 0
    corrected_counters: int = 0

    def as_dict(self) -> dict[str, int | bool]:
        """For JSON."""
        return asdict(self)


class Janitor:
    """One clean-up run at a time; every few minutes a job calls it."""

    def __init__(self, db: Database, store: ObjectStore, intake: Intake, *, upload_ttl: timedelta):
        self._db = db
        self._store = store
        self._intake = intake
        self._orphan_age = max(upload_ttl, timedelta(hours=1)) + _GRACE

    def run(self, *, dry_run: bool = False, recount: bool = True) -> JanitorReport:
        """Clean up everything. ``recount`` also verifies the counters, which reads all files. Raises Unavailable without the
        database; what fails in the bucket is left to the next run."""
        report = JanitorReport(dry_run)
        self._expire_uploads(report)
        self._clean_uploads(report)
        self._forget_keys(report)
        self._remove_reserved(report)
        self._finish_purges(report)
        self._remove_due(report)
        try:
            self._remove_orphans(report)
            self._abort_orphaned_multiparts(report)
        except StorageError as error:
            log.warning("janitor_bucket_unavailable", error=str(error))
        self._delete_old_rows(report)
        self._add_partitions()
        if recount:
            self._recount(report)
        if any(value for name, value in report.as_dict().items() if name != "dry_run"):
            log.info("janitor_run", **report.as_dict())
        return report

    def _expire_uploads(self, report: JanitorReport) -> None:
        """Set pending and uploading uploads past their time to expired in one statement, then remove their bytes."""
        for _ in range(_MAX_BATCHES):
            with self._db.connection() as tx:
                found = uploads.expired(tx, limit=_BATCH)
            if report.dry_run or not found:
                report.expired_uploads += len(found)
                return
            with self._db.connection() as tx:
                ended = set(uploads.end(tx, [upload.id for upload in found], status="expired", expired_only=True))
            for upload in found:
                if upload.id in ended:
                    self._remove_bytes(upload)
            report.expired_uploads += len(ended)
            if not ended:
                return

    def _clean_uploads(self, report: JanitorReport) -> None:
        with self._db.connection() as tx:
            found = uploads.unclean(tx, grace=_CLEANUP_GRACE, limit=_BATCH)
        report.cleaned_uploads += sum(report.dry_run or self._remove_bytes(upload) for upload in found)

    def _remove_bytes(self, upload: UploadRecord) -> bool:
        removed = self._intake.remove_bytes(upload)
        if removed:
            with self._db.connection() as tx:
                uploads.mark_cleaned(tx, upload.id)
        return removed

    def _forget_keys(self, report: JanitorReport) -> None:
        """Remove keys reserved by writers of ended resumable uploads, unless they have become files' objects."""
        if report.dry_run:
            return
        with self._db.connection() as tx:
            recorded = resumable.keys_of_ended(tx, limit=10 * _BATCH)
        done = [key for key, has_file in recorded if has_file or self._intake.remove_key(key)]
        with self._db.connection() as tx:
            resumable.forget_keys(tx, done)

    def _remove_reserved(self, report: JanitorReport) -> None:
        """Remove what uploads of killed processes stored under reserved keys."""
        if report.dry_run:
            return
        with self._db.connection() as tx:
            expired = reserved_keys.end_expired(tx, limit=_BATCH)
        done = [key_id for key_id, stem in expired if self._intake.remove_stem(stem)]
        with self._db.connection() as tx:
            reserved_keys.forget(tx, done)

    def _finish_purges(self, report: JanitorReport) -> None:
        with self._db.connection() as tx:
            purging = objects.purging(tx, limit=_BATCH)
        for key in purging:
            if report.dry_run or purge_object(self._db, self._store, key):
                report.purged_objects += 1

    def _remove_due(self, report: JanitorReport) -> None:
        if report.dry_run:
            with self._db.connection() as tx:
                report.retired_objects = deferred_deletions.count_due(tx)
        else:
            report.retired_objects = remove_due(self._db, self._store)

    def _remove_orphans(self, report: JanitorReport) -> None:
        """Delete objects under our prefixes that no row refers to, and that are too old for a row still to come."""
        for prefix in PREFIXES:
            oldest_live = self._now() - _ORPHANED_AFTER.get(prefix, self._orphan_age)
            for batch in _batches(self._store.list_objects(prefix), _BATCH):
                old = [info for info in batch if info.last_modified < oldest_live]
                for info in self._unknown(old):
                    log.warning("orphaned_object", key=info.key, size=info.size, dry_run=report.dry_run)
                    if report.dry_run or delete_quietly(self._db, self._store, info.key):
                        report.orphaned_objects += 1
                        report.orphaned_bytes += info.size

    def _now(self) -> datetime:
        """PostgreSQL's time: the clock that all processes share."""
        with self._db.connection() as tx:
            return now(tx)

    def _unknown(self, infos: list[ObjectInfo]) -> list[ObjectInfo]:
        if not infos:
            return []
        with self._db.connection() as tx:
            known = objects.known_keys(tx, [info.key for info in infos])
        return [info for info in infos if info.key not in known]

    def _abort_orphaned_multiparts(self, report: JanitorReport) -> None:
        if not isinstance(self._store, Multipart):
            return
        oldest_live = self._now() - _GRACE
        every = self._store.list_multiparts("")  # MinIO lists none by a prefix
        found = (ref for ref in every if ref.key.startswith((FILE_PREFIX, PROBE_PREFIX)))
        for batch in _batches(found, _BATCH):
            old = [ref for ref in batch if ref.started_at is not None and ref.started_at < oldest_live]
            for ref in self._without_upload(old):
                log.warning("orphaned_multipart", key=ref.key, dry_run=report.dry_run)
                if not report.dry_run:
                    self._store.abort_multipart(ref)
                report.orphaned_multiparts += 1

    def _without_upload(self, refs: list[MultipartRef]) -> list[MultipartRef]:
        if not refs:
            return []
        with self._db.connection() as tx:
            live = deferred_deletions.live_multiparts(tx, [ref.upload_id for ref in refs])
        return [ref for ref in refs if ref.upload_id not in live]

    def _delete_old_rows(self, report: JanitorReport) -> None:
        if report.dry_run:
            return
        with self._db.connection() as tx:
            report.forgotten_rows += uploads.forget_old(tx, keep=_KEEP_UPLOADS, limit=10 * _BATCH)
            report.forgotten_rows += upload_tokens.forget_old(tx, keep=_KEEP_TOKENS, limit=10 * _BATCH)
            report.forgotten_rows += uploads.forget_sessions(tx, keep=_KEEP_UPLOADS, limit=10 * _BATCH)
            report.forgotten_rows += keys.forget_old(tx, keep=_KEEP_KEYS, limit=10 * _BATCH)
            report.forgotten_rows += idempotency.forget_old(tx, keep=KEEP_IDEMPOTENCY_KEYS, limit=10 * _BATCH)
            report.forgotten_rows += folders.forget_deleted(tx, limit=10 * _BATCH)
            report.forgotten_rows += login_sessions.forget_expired(tx)
            report.forgotten_rows += rate_limits.forget_expired(tx, limit=10 * _BATCH)

    def _add_partitions(self) -> None:
        """Add the next months' partitions of audit events."""
        with self._db.connection() as tx, suppress(*errors.LOCKED):  # the next run tries again
            events.add_partitions(tx)

    def _recount(self, report: JanitorReport) -> None:
        """Correct counters that differ from what they count, and log them: none should ever differ (T72)."""
        with self._db.transaction() as tx:
            found = counters.differences(tx)
        for wrong in found:
            log.warning(
                "counter_differs",
                owner_id=wrong.owner_id,
                counter=wrong.counter,
                kept=wrong.kept,
                counted=wrong.counted,
                dry_run=report.dry_run,
            )
        if not report.dry_run:
            for owner_id in sorted({wrong.owner_id for wrong in found}):
                with self._db.transaction() as tx:
                    counters.repair(tx, owner_id)
        report.corrected_counters += len(found)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch
