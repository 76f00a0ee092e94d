"""Virus scans: of a file before it becomes ready, and of all objects again when the scanner has new signatures.

    clean         ready
    infected      infected: from then on no download, link, preview or text of any file on the object
    unscannable   rejected; ready if SCAN_UNSCANNABLE is ``accept``
    no answer     stays in processing and is retried, however long it takes (T96, T97)

A re-scan goes through all objects in the order of their keys, in a chain of jobs of the lowest priority. Its row records
how far it has come, so it survives any crash (T98).
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import structlog

from core import names
from core.errors import Conflict, ContentMissing, FileArchived, Unavailable
from core.ids import FILE_PREFIX, object_key
from core.scan import Scan, Signatures
from db import Database, Tx, deferred_deletions, jobs, objects, scans, uploads
from db.records import FileRecord, RescanRecord
from services.objects.deferred_deletions import remove_due
from services.objects.object_reader import ObjectReader
from services.processing.clamd import Clamd
from storage_backends.base import Copies, ObjectNotFound, ObjectStore, StorageError

log = structlog.get_logger()

_BATCH = 100  # objects of one job, which ends earlier after
_BATCH_SECONDS = 30.0
_LOST = timedelta(minutes=10)  # a re-scan without a job for so long is continued
_LOWEST_PRIORITY = -100
_LEASE = timedelta(hours=1)  # a copy that is not in use by then is deleted


class Scanning:
    """Scan files, and quarantine infected ones."""

    def __init__(
        self,
        db: Database,
        store: ObjectStore,
        reader: ObjectReader,
        clamd: Clamd,
        *,
        unscannable: Literal["reject", "accept"],
        rescan_every: timedelta | None,
    ):
        self._db = db
        self._store = store
        self._reader = reader
        self.clamd = clamd
        self._rescan_every = rescan_every
        self.accepts_unscannable = unscannable == "accept"

    def signatures(self) -> Signatures:
        """The version of the scanner's signatures. Raises Unavailable."""
        return self.clamd.signatures()

    def judge(self, file: FileRecord, sha256: str) -> Scan:
        """The verdict on a file whose bytes have this checksum: the known one, if the same signatures gave it to equal bytes
        of this owner, or a new one. Raises Unavailable, and ObjectNotFound if the bytes are gone."""
        signatures = self.clamd.signatures().version
        if signatures is not None:
            with self._db.connection() as tx:
                known = scans.find_verdict(tx, file.owner_id, sha256, file.file_size, signatures=signatures)
            if known is not None:
                return known
        return self._scan(file)

    def quarantine(self, tx: Tx, file: FileRecord, sha256: str, scan: Scan) -> None:
        """Stop serving these bytes. The caller calls ``delete_quarantined`` after the transaction."""
        keys = scans.quarantine(
            tx,
            scan,
            owner_id=file.owner_id,
            sha256=sha256,
            size=file.file_size,
            object_key=file.file_path,
            problem={"code": "infected", "detail": f"A virus scanner found {scan.finding}."},
        )
        log.warning("file_infected", file_id=str(file.id), objects=keys, finding=scan.finding)

    def delete_quarantined(self) -> None:
        """Delete previews of infected files; if presigned URLs may still be valid, move the object to a new key. What the
        bucket does not confirm is left to the next run."""
        if isinstance(self._store, Copies):
            with self._db.connection() as tx:
                exposed = scans.exposed(tx, limit=_BATCH)
            for key in exposed:
                self._move_to_new_key(self._store, key)
        remove_due(self._db, self._store)

    def _move_to_new_key(self, store: Copies, key: str) -> None:
        new_key = object_key(FILE_PREFIX, names.extension(key), datetime.now(UTC))
        with self._db.connection() as tx:
            deferred_deletions.reserve(tx, new_key, lease=_LEASE)
        try:
            copied = store.copy(key, new_key)
        except StorageError as error:  # an object over 5 GiB, for example
            log.error("infected_object_keeps_its_urls", key=key, error=str(error))
            return
        with self._db.transaction() as tx:
            objects.rename(tx, key, new_key, etag=copied.etag)

    def _scan(self, file: FileRecord) -> Scan:
        started = time.monotonic()
        with self._reader.open(file) as reader:
            scan = self.clamd.scan(reader, file.file_size)
        log.info(
            "file_scanned",
            file_id=str(file.id),
            verdict=scan.verdict,
            finding=scan.finding,
            size=file.file_size,
            seconds=round(time.monotonic() - started, 3),
        )
        return scan

    # -- re-scans ------------------------------------------------------------------------------------------------------

    def begin_rescan(self) -> RescanRecord:
        """Begin a re-scan; returns the one under way if there is one. Raises Unavailable if the scanner does not answer."""
        signatures = self.clamd.signatures().version
        with self._db.transaction() as tx:
            begun = scans.begin_rescan(tx, signatures=signatures)
            if begun is not None:
                _enqueue(tx)
            latest = begun or scans.latest_rescan(tx)
        assert latest is not None
        return latest

    def latest_rescan(self) -> RescanRecord | None:
        """The re-scan begun last."""
        with self._db.connection() as tx:
            return scans.latest_rescan(tx)

    def continue_rescan(self) -> None:
        """Continue a re-scan that lost its job; begin one if it is due and the signatures have changed since the last."""
        with self._db.transaction() as tx:
            if scans.lost_rescan(tx, after=_LOST) is not None:
                _enqueue(tx)
                return
            due = self._rescan_every is not None and scans.rescan_due(tx, every=self._rescan_every)
            last = scans.latest_rescan(tx)
        if due:
            signatures = self.clamd.signatures().version
            if last is None or signatures is None or signatures != last.scanned_with:
                self.begin_rescan()

    def scan_next_batch(self) -> bool:
        """One job of a re-scan. It enqueues the next in the transaction that records its progress. False at the end."""
        with self._db.connection() as tx:
            rescan = scans.latest_rescan(tx)
            if rescan is None or rescan.finished_at is not None:
                return False
            batch = scans.next_objects(tx, after=rescan.after_key, limit=_BATCH)
        counts: Counter[str] = Counter()
        deadline, reached = time.monotonic() + _BATCH_SECONDS, rescan.after_key
        for file in batch:
            counts[self._rescan(file)] += 1
            reached = file.file_path
            if time.monotonic() > deadline:
                break
        finished = not batch
        with self._db.transaction() as tx:
            advanced = scans.advance_rescan(
                tx,
                rescan,
                to=reached,
                scanned=counts["scanned"] + counts["infected"],
                infected=counts["infected"],
                failed=counts["failed"],
                finished=finished,
            )
            if advanced is not None and not finished:
                _enqueue(tx)
        if advanced is not None and finished:
            log.info("rescan_finished", scanned=advanced.scanned, infected=advanced.infected, failed=advanced.failed)
        return advanced is not None and not finished

    def _rescan(self, file: FileRecord) -> Literal["scanned", "infected", "failed"]:
        """Scan one object again. If the scan fails while scanner and bucket answer, the verdict stays and the failure is
        counted. Raises Unavailable if one of them does not answer."""
        assert file.file_hash is not None
        try:
            scan = self._scan(file)
        except (ObjectNotFound, FileArchived):
            return "failed"
        except Unavailable:
            self.clamd.signatures()
            with suppress(ContentMissing):
                self._reader.confirm(file)
            log.error("rescan_failed_on_object", file_id=str(file.id), key=file.file_path)
            return "failed"
        with self._db.transaction() as tx:
            uploads.lock_content(tx, file.owner_id, file.file_hash)
            if scan.verdict == "infected":
                self.quarantine(tx, file, file.file_hash, scan)
            else:
                scans.record(
                    tx,
                    scan,
                    owner_id=file.owner_id,
                    sha256=file.file_hash,
                    size=file.file_size,
                    object_key=file.file_path,
                )
        if scan.verdict != "infected":
            return "scanned"
        self.delete_quarantined()
        return "infected"


def problem_of(scan: Scan) -> dict[str, Any]:
    """The ``problem`` of a file that was rejected as unscannable."""
    return {"code": "unscannable", "detail": f"The virus scanner could not scan all of it: {scan.finding}."}


def configured(scanning: Scanning | None) -> Scanning:
    """Raises Conflict if this deployment has no scanner."""
    if scanning is None:
        raise Conflict("This deployment has no virus scanner: set CLAMD_URL.")
    return scanning


def _enqueue(tx: Tx) -> None:
    jobs.enqueue(tx, "rescan", owner_id="", priority=_LOWEST_PRIORITY)  # no lock: of two jobs only one advances the row
