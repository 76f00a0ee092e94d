"""Compare the bucket with the rows, in both directions, in one pass over a listing and in bounded memory.

Servers differ in how they sort folders, but within a folder all list in the order of the keys' bytes. So each batch of a listing
covers a range of keys in each of its folders, and the rows in that range are read along with it. In the end a walk over all keys
of rows finds those that no range has reached: in folders that were not listed, and after the last listed key of the others.

A row whose object was not listed is only a candidate, since listing and row were read at different moments: the object itself is
asked for (R4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import TypeVar

import structlog

from core.batches import batches
from core.errors import Unavailable
from core.ids import ARCHIVE_PREFIX, FILE_PREFIX, INCOMING_PREFIX, PREVIEW_PREFIX, PROBE_PREFIX, TAIL_PREFIX
from db import Database, comparison, deferred_deletions, now, objects, previews, try_claim
from db.comparison import Expected, Range
from db.records import ObjectRecord
from services.objects import bucket_mark
from services.objects.bucket import delete_quietly
from services.objects.protection import Protection
from services.upkeep.report import JanitorReport
from storage_backends.base import Multipart, MultipartRef, ObjectInfo, ObjectNotFound, ObjectStore, UploadNotFound

log = structlog.get_logger()

# All that belongs to the gateway in the bucket; nothing else is ever touched. What is in the transient ones belongs to
# unfinished uploads, so they are short.
TRANSIENT = (INCOMING_PREFIX, TAIL_PREFIX, PROBE_PREFIX)
LASTING = (FILE_PREFIX, ARCHIVE_PREFIX, PREVIEW_PREFIX)
_GRACE = timedelta(hours=1)  # clocks differ, rows come late
# Incoming objects and tails have a row before anybody learns their key: without one they are late writes to an upload that
# has ended, however young. A probe has no row, and is deleted within seconds.
_ORPHANED_AFTER = {INCOMING_PREFIX: timedelta(), TAIL_PREFIX: timedelta(), PROBE_PREFIX: timedelta(minutes=10)}
_BATCH = 1_000  # listed keys
_ROWS = 4_000  # of one statement
_FOREIGN = 20  # old objects without a row, if there are no others, belong to another gateway
_FOREIGN_BUCKET = (
    "No row names any of the first {count} objects in the bucket: it seems to be another gateway's. Check S3_ENDPOINT, S3_BUCKET"
    " and DATABASE_URL. Nothing was changed. If these objects are really left over, run `python app.py janitor"
    " --delete-protected`."
)

T = TypeVar("T")


class Comparison:
    """Compares one run's listings. ``orphan_age``: how old an object must be for no row to come for it."""

    def __init__(
        self,
        db: Database,
        store: ObjectStore,
        report: JanitorReport,
        protection: Protection,
        *,
        orphan_age: timedelta,
        delete_protected: bool = False,
    ):
        self._db = db
        self._store = store
        self._report = report
        self._protection = protection
        self._orphan_age = orphan_age
        self._delete_protected = delete_protected
        self._reached: dict[str, str] = {}  # the last listed key of each folder that has rows

    def require_right_bucket(self, *, full: bool) -> None:
        """Raise Unavailable if this can't be the bucket of these rows: none of many objects is there or, in a ``full`` run with
        few rows, no row names any of its first old objects. Raises StorageError."""
        known = bucket_mark.require_objects(self._db, self._store)
        if known or not full or self._delete_protected:  # which somebody asks for who has looked
            return
        oldest_live = self._now() - self._orphan_age
        first = [
            info for info in islice(self._store.list_objects(FILE_PREFIX), _BATCH) if info.last_modified < oldest_live
        ]
        old = [info.key for info in first if not self._protection.covers(info.key, info.last_modified)]
        with self._db.connection() as tx:
            if len(old) >= _FOREIGN and not objects.known_keys(tx, old):
                raise Unavailable(_FOREIGN_BUCKET.format(count=len(old)))

    def remove_transient_orphans(self) -> None:
        """Delete what unfinished uploads and checks have left. Raises StorageError."""
        for prefix in TRANSIENT:
            for batch in batches(self._store.list_objects(prefix), _BATCH):
                self._remove_orphans(prefix, batch)

    def run(self, listed: Callable[[int], object]) -> None:
        """Compare all objects with the rows, and tell ``listed`` how many more. Raises StorageError."""
        for prefix in LASTING:
            for batch in batches(self._store.list_objects(prefix), _BATCH):
                self._remove_orphans(prefix, self._match(batch))
                listed(len(batch))
        for kind in comparison.KINDS:
            after: str | None = ""
            while after is not None:
                with self._db.connection() as tx:
                    after, unlisted = comparison.walk(tx, kind, self._reached, after=after, limit=_ROWS)
                self._judge([Expected(kind, key, in_bucket, 0) for key, in_bucket in unlisted])

    # -- rows without an object --------------------------------------------------------------------------------------------

    def _match(self, batch: Sequence[ObjectInfo]) -> list[ObjectInfo]:
        """Compare the rows in the ranges of keys that the batch covers. Returns the objects that are not among them."""
        listed = {info.key: info for info in batch}
        last: dict[str, str] = {}
        for key in listed:
            last[_folder(key)] = max(key, last.get(_folder(key), ""))
        ranges = [Range(folder, self._reached.get(folder, folder), key) for folder, key in last.items()]
        while ranges:
            limit = max(1, _ROWS // len(ranges))
            with self._db.connection() as tx:
                found = comparison.expected(tx, ranges, limit=limit)
            rows = [row for row in found if _folder(row.key) == ranges[row.range].folder]
            for row in rows:
                self._reached[_folder(row.key)] = last[_folder(row.key)]
            self._judge([row for row in rows if row.key not in listed])
            self._clear([row for row in rows if row.key in listed and not row.in_bucket])
            for row in rows:
                listed.pop(row.key, None)
            ranges = _rests(ranges, found, limit)
        return list(listed.values())

    def _judge(self, candidates: Sequence[Expected]) -> None:
        """Record which of the rows have no object."""
        still = [row.key for row in candidates if not row.in_bucket]
        self._report.add("still_missing_objects", still)
        gone = [row for row in candidates if row.in_bucket and not self._exists(row.key)]
        missing = [row.key for row in gone if row.kind == "object"]
        if missing and not self._report.dry_run:
            with self._db.connection() as tx:
                missing = comparison.mark_missing(tx, missing)
        for key in missing:
            log.error("content_missing", key=key, dry_run=self._report.dry_run)
        self._report.add("missing_objects", missing)
        for row in gone:
            if row.kind != "object" and (self._report.dry_run or self._drop(row)):
                log.warning(f"{row.kind}_missing", key=row.key, dry_run=self._report.dry_run)
                kind = "missing_previews" if row.kind == "preview" else "missing_public_copies"
                self._report.add(kind, [row.key])

    def _exists(self, key: str) -> bool:
        try:
            self._store.stat(key)
        except ObjectNotFound:
            return False
        return True

    def _drop(self, row: Expected) -> bool:
        """Let a preview or public copy be made again. False if that was done."""
        with self._db.connection() as tx:
            return previews.remove(tx, row.key) if row.kind == "preview" else objects.drop_public_copy(tx, row.key)

    def _clear(self, rows: Sequence[Expected]) -> None:
        """Record which of the objects are in the bucket after all, as they were stored."""
        if not rows:
            return
        with self._db.connection() as tx:
            records = objects.get_many(tx, [row.key for row in rows])
        found = [record.object_key for record in records if self._is_as_stored(record)]
        if not self._report.dry_run:
            with self._db.connection() as tx:
                found = comparison.mark_found(tx, found)
        for key in found:
            log.warning("content_found", key=key, dry_run=self._report.dry_run)
        self._report.add("returned_objects", found)

    def _is_as_stored(self, record: ObjectRecord) -> bool:
        try:
            info = self._store.stat(record.object_key)
        except ObjectNotFound:
            return False
        return (info.etag, info.size) == (record.etag, record.stored_size)

    # -- objects without a row ---------------------------------------------------------------------------------------------

    def _remove_orphans(self, prefix: str, batch: Sequence[ObjectInfo]) -> None:
        """Delete objects that no row names, and that are too old for a row still to come, unless they are protected."""
        oldest_live = self._now() - _ORPHANED_AFTER.get(prefix, self._orphan_age)
        found = [
            (info, old, protected)
            for info in batch
            if (old := info.last_modified < oldest_live)
            | (protected := self._protection.covers(info.key, info.last_modified))
        ]
        if not found:
            return
        with self._db.connection() as tx:
            known = objects.known_keys(tx, [info.key for info, _, _ in found])
        for info, old, protected in found:
            if info.key in known:
                continue
            if protected and not (old and self._delete_protected):
                log.warning("protected_object", key=info.key, size=info.size)
                self._report.add("protected_objects", [info.key])
                self._report.add("protected_bytes", count=info.size)
                continue
            log.warning("orphaned_object", key=info.key, size=info.size, dry_run=self._report.dry_run)
            if self._report.dry_run or self._delete(info.key):
                self._report.add("orphaned_objects", [info.key])
                self._report.add("orphaned_bytes", count=info.size)

    def _delete(self, key: str) -> bool:
        """Delete an orphan. False if the bucket did not confirm it, or if another run has deleted it."""
        with self._db.transaction() as tx:
            return try_claim(tx, f"delete:{key}") and self._exists(key) and delete_quietly(self._db, self._store, key)

    def _now(self) -> datetime:
        """PostgreSQL's time: the clock that all processes share."""
        with self._db.connection() as tx:
            return now(tx)

    # -- multipart uploads -------------------------------------------------------------------------------------------------

    def abort_orphaned_multiparts(self) -> None:
        """Abort multipart uploads that no row names. MinIO lists none by a prefix, and not all without one: those that it omits
        are found by their rows. Raises StorageError."""
        store = self._store
        if not isinstance(store, Multipart):
            return
        oldest_live = self._now() - _GRACE
        ours = (ref for ref in store.list_multiparts("") if ref.key.startswith((*LASTING, *TRANSIENT)))
        for batch in batches(ours, _BATCH):
            old = [ref for ref in batch if ref.started_at is not None and ref.started_at < oldest_live]
            with self._db.connection() as tx:
                live = deferred_deletions.live_multiparts(tx, [ref.upload_id for ref in old])
            for ref in old:
                if ref.upload_id in live:
                    continue
                if self._is_protected(ref) and not self._delete_protected:
                    self._report.add("protected_multiparts", [ref.key])
                    continue
                log.warning("orphaned_multipart", key=ref.key, dry_run=self._report.dry_run)
                if self._report.dry_run or self._abort(store, ref):
                    self._report.add("orphaned_multiparts", [ref.key])

    def _is_protected(self, ref: MultipartRef) -> bool:
        return ref.started_at is not None and self._protection.covers(ref.key, ref.started_at)

    def _abort(self, store: Multipart, ref: MultipartRef) -> bool:
        """False if another run has aborted it."""
        with self._db.transaction() as tx:
            if not try_claim(tx, f"abort:{ref.upload_id}"):
                return False
            try:
                next(iter(store.list_parts(ref)), None)
            except UploadNotFound:
                return False
            store.abort_multipart(ref)
            return True


def _folder(key: str) -> str:
    return key[: key.rfind("/") + 1]


def _rests(ranges: Sequence[Range], found: Sequence[Expected], limit: int) -> list[Range]:
    """What is left of the ranges that had more rows than were read."""
    counts: dict[int, int] = {}
    ends: dict[int, str] = {}
    for row in found:
        counts[row.range] = counts.get(row.range, 0) + 1
        ends[row.range] = row.key
    return [Range(r.folder, ends[number], r.last) for number, r in enumerate(ranges) if counts.get(number, 0) == limit]
