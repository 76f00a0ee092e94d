"""Verify and scan: bytes that did not pass through the gateway are read back before they become a ready file, and all are
shown to the virus scanner, if there is one. Size, SHA-256 and type come from the stored bytes alone (R2, T47)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog

from core.errors import ChecksumMismatch, DuplicateFile, GatewayError, Unavailable, Unsupported
from core.principal import Principal
from core.scan import Scan
from db import Database, Tx, files, jobs, objects, scans, uploads
from db.records import FileRecord
from services.access.upload_tokens import uploader_of
from services.library import public_copies, readings
from services.library.sniff import HEAD_BYTES
from services.objects.bucket import purge_object
from services.objects.equal_objects import EqualObjects
from services.objects.object_reader import ObjectReader, as_missing
from services.processing import pipeline
from services.processing.scanning import Scanning, problem_of
from services.uploads.intake import Intake
from storage_backends.base import ObjectNotFound, ObjectStore

log = structlog.get_logger()

_READ = 1024 * 1024
_LOST = timedelta(minutes=10)  # a file without a job for so long was lost by the queue, or its job gave up
_GIVE_UP = timedelta(days=7)
_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class _Content:
    """What a file holds."""

    sha256: str
    size: int
    mime_type: str
    read_back: bool  # by this check, not while the bytes passed through the gateway


class Verification:
    """The job after an upload."""

    def __init__(
        self, db: Database, store: ObjectStore, reader: ObjectReader, intake: Intake, scanning: Scanning | None = None
    ):
        self._db = db
        self._reader = reader
        self._intake = intake
        self._store = store
        self._scanning = scanning

    def check(self, file_id: UUID) -> None:
        """processing -> ready, rejected or infected. May be repeated after a crash. Raises Unavailable: try later."""
        with self._db.connection() as tx:
            file = files.get(tx, file_id)
            upload = uploads.of_file(tx, file_id)
            uploader = Principal(file.owner_id) if file is not None else None
            if upload is not None:
                uploader = uploader_of(tx, upload)
        if file is None or uploader is None or file.status != "processing":
            return
        try:
            if file.file_hash is None:
                content = self._read(file, uploader)
            else:
                content = _Content(file.file_hash, file.file_size, file.mime_type, read_back=False)
            scan = self._scanning.judge(file, content.sha256) if self._scanning is not None else None
        except (ObjectNotFound, Unsupported) as error:
            with self._db.connection() as tx:
                _reject(tx, file, as_missing(error) if isinstance(error, ObjectNotFound) else error)
            return
        equals = EqualObjects(self._reader, new=[file.file_path])
        equals.run(lambda: self._finish(file, content, scan, equals))
        if self._scanning is not None and scan is not None and scan.verdict == "infected":
            self._scanning.delete_quarantined()

    def requeue_lost(self, *, dry_run: bool = False) -> int:
        """Queue again the checks that were lost. Files that could not be checked for a week are rejected, unless the scanner
        is unreachable. Returns how many."""
        scanner_is_away = self._scanner_is_away()
        with self._db.transaction(undo=dry_run) as tx:
            lost = uploads.unchecked_files(tx, after=_LOST, limit=_BATCH)
            for file_id, age in lost:
                file = files.get(tx, file_id)
                if age > _GIVE_UP and file is not None and not scanner_is_away:
                    detail = "The file could not be checked for a week; its bytes are kept."
                    problem = {"code": "check_failed", "detail": detail}
                    files.finish_check(tx, file_id, status="rejected", problem=problem)
                    log.error("file_never_checked", file_id=str(file_id), dry_run=dry_run)
                elif file is not None:
                    jobs.enqueue(tx, "check_file", owner_id=file.owner_id, file_id=str(file_id))
        return len(lost)

    def _scanner_is_away(self) -> bool:
        try:
            if self._scanning is not None:
                self._scanning.signatures()
        except Unavailable:
            return True
        return False

    def _read(self, file: FileRecord, uploader: Principal) -> _Content:
        digest, size, head = hashlib.sha256(), 0, b""
        with self._reader.open(file) as reader:
            while chunk := reader.read(_READ):
                if len(head) < HEAD_BYTES:
                    head += chunk[: HEAD_BYTES - len(head)]
                digest.update(chunk)
                size += len(chunk)
        if size != file.file_size:
            raise ObjectNotFound(f"{file.file_size} bytes were recorded, the bucket holds {size}.")
        mime_type = self._intake.policy.types.judge(uploader, file.original_name, head)
        return _Content(digest.hexdigest(), size, mime_type, read_back=True)

    def _finish(self, file: FileRecord, content: _Content, scan: Scan | None, equals: EqualObjects) -> None:
        """Decide on the file in one transaction: by the declared checksum, the scanner's verdict, and the owner's equal object.

        Checks of equal bytes are serialized, so that of two at the same time one finds the other's object."""
        orphaned = False
        with self._db.transaction() as tx:
            uploads.lock_content(tx, file.owner_id, content.sha256)
            objects.lock_by_file(tx, file.id)
            objects.lock_with_files(tx, equals.damaged)
            upload = uploads.of_file(tx, file.id, lock=True)
            if upload is not None and upload.sha256 not in (None, content.sha256):
                detail = f"sha256 {upload.sha256} was declared, the stored bytes have {content.sha256}."
                _reject(tx, file, ChecksumMismatch(detail))
                return
            if not self._passes(tx, file, content, scan):
                return
            # Bytes that passed through the gateway were linked, or not, when they were published.
            on_duplicate = upload.on_duplicate if upload is not None and content.read_back else "copy"
            equal = _equal_object(tx, file, content, on_duplicate, equals)
            if equal is not None and on_duplicate == "reject":
                _reject(tx, file, DuplicateFile())
                return
            done = files.finish_check(
                tx,
                file.id,
                status="ready",
                sha256=content.sha256 if content.read_back else None,
                mime_type=content.mime_type,
                named=file.original_name,
                problem=None,
                onto=equal,
            )
            if done is None:
                return
            if scan is not None:
                _record(tx, done, content, scan)
            if equal is not None:
                orphaned = objects.mark_purging(tx, file.file_path)
            pipeline.begin(tx, done)
            readings.move_files(tx, equals.damaged, by=[done.file_path])
            public_copies.begin(tx, done)
        if orphaned:
            purge_object(self._db, self._store, file.file_path)
        log.info("file_checked", file_id=str(file.id), status="ready")

    def _passes(self, tx: Tx, file: FileRecord, content: _Content, scan: Scan | None) -> bool:
        """Whether the file may become ready; if not, it has its final status now."""
        if scan is None or self._scanning is None or scan.verdict == "clean":
            return True
        if scan.verdict == "infected":
            self._scanning.quarantine(tx, file, content.sha256, scan)
            return False
        if self._scanning.accepts_unscannable:
            return True
        _record(tx, file, content, scan)
        _end_rejected(tx, file, problem_of(scan))
        return False


def _equal_object(tx: Tx, file: FileRecord, content: _Content, on_duplicate: str, equals: EqualObjects) -> str | None:
    """The key of the owner's equal object, if duplicates are linked or rejected."""
    if on_duplicate == "reject":
        equal = files.duplicate_of(tx, file.owner_id, content.sha256, content.size, damaged=equals.damaged)
    elif on_duplicate == "link":
        others = [file.file_path, *equals.damaged]
        equal = objects.find_equal(tx, file.owner_id, content.sha256, content.size, other_than=others)
    else:
        return None
    if equal is not None:
        equals.confirm(equal, archived=on_duplicate == "reject")
    return equal


def _record(tx: Tx, file: FileRecord, content: _Content, scan: Scan) -> None:
    scans.record(tx, scan, owner_id=file.owner_id, sha256=content.sha256, size=content.size, object_key=file.file_path)


def _reject(tx: Tx, file: FileRecord, error: GatewayError) -> None:
    _end_rejected(tx, file, error.as_problem())


def _end_rejected(tx: Tx, file: FileRecord, problem: dict[str, Any]) -> None:
    files.finish_check(tx, file.id, status="rejected", problem=problem)
    log.info("file_checked", file_id=str(file.id), status="rejected", problem=problem["code"])
