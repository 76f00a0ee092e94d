"""Virus scans: the verdict on a file before it becomes ready, and on everything again when the scanner has learnt more.

    clean         ready
    infected      infected: no download, link, preview or text of any file on the object, from that moment on
    unscannable   rejected, or ready where the deployment says so (SCAN_UNSCANNABLE)
    no answer     stays processing and is tried again, however long it takes (THREATS T96, T97)

A re-scan walks over all objects in the order of their keys, a few at a time, in jobs of the lowest priority that follow one
another; the row says how far it has come, so that it survives whatever is killed (THREATS T98).
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import structlog

from core import names
from core.errors import Conflict, ContentMissing, Unavailable
from core.ids import FILE_PREFIX, object_key
from core.scan import Scan, Signatures
from db import Database, Tx, deferred_deletions, jobs, objects, scans, uploads
from db.records import FileRecord, RescanRecord
from services.objects.deferred_deletions import remove_due
from services.objects.object_reader import ObjectReader
from services.processing.clamd import Clamd
from storage_backends.base import Copies, ObjectNotFound, ObjectStore, StorageError

log = structlog.get_logger()

_BATCH = 100  # objects of one link of the chain, unless they take longer than
_LINK = 30.0  # seconds
_LOST = timedelta(minutes=10)  # a re-scan without a job for so long goes on
_LOWEST = -100
_LEASE = timedelta(hours=1)  # for a copy that nobody puts to use


class Scanning:
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
        """What the scanner knows. Raises Unavailable."""
        return self.clamd.signatures()

    def judge(self, file: FileRecord, sha256: str) -> Scan:
        """The verdict on a file whose bytes have this checksum: the one on the owner's equal bytes, where the same signatures
        gave it, else a new one. Raises Unavailable, and ObjectNotFound where the bytes are gone."""
        signatures = self.clamd.signatures().version
        if signatures is not None:
            with self._db.connection() as tx:
                found = scans.find_verdict(tx, file.owner_id, sha256, file.file_size, signatures=signatures)
            if found is not None:
                return found
        return self._scan(file)

    def quarantine(self, tx: Tx, file: FileRecord, sha256: str, scan: Scan) -> None:
        """Let nothing of these bytes be handed out any more. ``delete_quarantined`` follows, after the transaction."""
        detail = f"A virus scanner found {scan.finding}."
        keys = scans.quarantine(
            tx,
            scan,
            owner_id=file.owner_id,
            sha256=sha256,
            size=file.file_size,
            object_key=file.file_path,
            problem={"code": "infected", "detail": detail},
        )
        log.warning("file_infected", file_id=str(file.id), objects=keys, finding=scan.finding)

    def delete_quarantined(self) -> None:
        """Take what was quarantined out of reach: its previews are deleted, and an object to which URLs of the bucket are still
        about is moved to a key that nobody was told. What the bucket does not confirm is left to the next run."""
        if isinstance(self._store, Copies):
            with self._db.connection() as tx:
                exposed = scans.exposed(tx, limit=_BATCH)
            for key in exposed:
                self._hide(self._store, key)
        remove_due(self._db, self._store)

    def _hide(self, store: Copies, key: str) -> None:
        hidden = object_key(FILE_PREFIX, names.extension(key), datetime.now(UTC))
        with self._db.connection() as tx:
            deferred_deletions.reserve(tx, hidden, lease=_LEASE)
        try:
            copied = store.copy(key, hidden)
        except StorageError as error:  # over 5 GiB, for one
            log.error("infected_object_keeps_its_urls", key=key, error=str(error))
            return
        with self._db.transaction() as tx:
            objects.rename(tx, key, hidden, etag=copied.etag)

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

    # -- everything again ----------------------------------------------------------------------------------------------

    def begin_rescan(self) -> RescanRecord:
        """Scan everything again, in jobs; the one under way where there is one. Raises Unavailable without a scanner that
        answers."""
        signatures = self.clamd.signatures().version
        with self._db.transaction() as tx:
            begun = scans.begin_rescan(tx, signatures=signatures)
            if begun is not None:
                _enqueue(tx)
            latest = begun or scans.latest_rescan(tx)
        assert latest is not None
        return latest

    def latest_rescan(self) -> RescanRecord | None:
        with self._db.connection() as tx:
            return scans.latest_rescan(tx)

    def continue_rescan(self) -> None:
        """Begin a re-scan where one is due and the signatures have changed since the last; go on with one that got lost."""
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
        """One link of the chain; the next is queued with the row that says how far it has come. False at the end of it."""
        with self._db.connection() as tx:
            rescan = scans.latest_rescan(tx)
            if rescan is None or rescan.finished_at is not None:
                return False
            found = scans.next_objects(tx, after=rescan.after_key, limit=_BATCH)
        counts: Counter[str] = Counter()
        deadline, reached = time.monotonic() + _LINK, rescan.after_key
        for file in found:
            counts[self._again(file)] += 1
            reached = file.file_path
            if time.monotonic() > deadline:
                break
        finished = not found
        with self._db.transaction() as tx:
            now = scans.advance_rescan(
                tx,
                rescan,
                to=reached,
                scanned=counts["scanned"] + counts["infected"],
                infected=counts["infected"],
                failed=counts["failed"],
                finished=finished,
            )
            if now is not None and not finished:
                _enqueue(tx)
        if now is not None and finished:
            log.info("rescan_finished", scanned=now.scanned, infected=now.infected, failed=now.failed)
        return now is not None and not finished

    def _again(self, file: FileRecord) -> str:
        """Scan one object again. One that the scanner fails on, while it answers otherwise, keeps its verdict and is counted;
        where it does not answer, or the bucket does not, Unavailable ends the link, which is tried again later."""
        assert file.file_hash is not None
        try:
            scan = self._scan(file)
        except ObjectNotFound:
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
    """Why a file that can't be scanned is rejected, told honestly."""
    return {
        "code": "unscannable",
        "detail": f"The virus scanner could not look into all of it: {scan.finding}.",
    }


def _enqueue(tx: Tx) -> None:
    jobs.enqueue(tx, "rescan", owner_id="", priority=_LOWEST)  # no lock: of two links one advances the row


def configured(scanning: Scanning | None) -> Scanning:
    """Raises Conflict where this deployment has no scanner."""
    if scanning is None:
        raise Conflict("This deployment has no virus scanner: set CLAMD_URL.")
    return scanning
