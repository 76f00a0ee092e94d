"""Verify, then scan: what the bucket holds is read back before it becomes a file, where its bytes did not pass through us,
and shown to the virus scanner, where there is one, whatever way it came.

The gateway takes nobody's word: size, SHA-256 and type come from the stored bytes (THREATS R2, T47)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog

from core.errors import (
    ChecksumMismatch,
    DuplicateFile,
    GatewayError,
    Unavailable,
    Unsupported,
)
from core.principal import Principal
from core.scan import Scan
from db import Database, Tx, files, jobs, objects, scans, uploads
from db.records import FileRecord
from services.access.upload_tokens import uploader_of
from services.library import public_copies
from services.library.files import Files
from services.library.type_policy import HEAD_SIZE
from services.objects.equal_objects import EqualObjects
from services.objects.object_reader import ObjectReader, as_missing
from services.processing import pipeline
from services.processing.scanning import Scanning, problem_of
from services.uploads.intake import Intake
from storage_backends.base import ObjectNotFound

log = structlog.get_logger()

_READ = 1024 * 1024
_LOST = timedelta(minutes=10)  # a check without a job for so long was lost by the queue, or its job gave up
_GIVE_UP = timedelta(days=7)
_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class _Found:
    sha256: str
    size: int
    mime_type: str
    read_back: bool  # by this check; else they are what was found while the bytes passed through us


class Verification:
    def __init__(
        self,
        db: Database,
        reader: ObjectReader,
        intake: Intake,
        files_service: Files,
        scanning: Scanning | None = None,
    ):
        self._db = db
        self._reader = reader
        self._intake = intake
        self._files = files_service
        self._scanning = scanning

    def check(self, file_id: UUID) -> None:
        """processing -> ready, rejected or infected. Done again after a crash it comes to the same end; Unavailable: try
        later."""
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
                found = self._read(file, uploader)
            else:
                found = _Found(file.file_hash, file.file_size, file.mime_type, read_back=False)
            scan = self._scanning.judge(file, found.sha256) if self._scanning is not None else None
        except (ObjectNotFound, Unsupported) as error:
            with self._db.connection() as tx:
                _reject(tx, file, as_missing(error) if isinstance(error, ObjectNotFound) else error)
            return
        equals = EqualObjects(self._reader, new=[file.file_path])
        equals.run(lambda: self._finish(file, found, scan, equals))
        if self._scanning is not None and scan is not None and scan.verdict == "infected":
            self._scanning.delete_quarantined()

    def requeue_lost(self) -> int:
        """Queue again the checks of files that nobody will come back to; reject those that could not be checked for a week,
        unless they wait for a scanner that is away. Their number."""
        patient = self._scanner_is_away()
        with self._db.transaction() as tx:
            lost = uploads.unchecked_files(tx, after=_LOST, limit=_BATCH)
            for file_id, age in lost:
                file = files.get(tx, file_id)
                if age > _GIVE_UP and file is not None and not patient:
                    problem = {
                        "code": "check_failed",
                        "detail": "The file could not be checked for a week; its bytes are kept.",
                    }
                    files.finish_check(
                        tx,
                        file_id,
                        status="rejected",
                        problem=problem,
                    )
                    log.error("file_never_checked", file_id=str(file_id))
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

    def _read(self, file: FileRecord, uploader: Principal) -> _Found:
        digest, size, head = hashlib.sha256(), 0, b""
        with self._reader.open(file) as reader:
            while chunk := reader.read(_READ):
                if len(head) < HEAD_SIZE:
                    head += chunk[: HEAD_SIZE - len(head)]
                digest.update(chunk)
                size += len(chunk)
        if size != file.file_size:
            raise ObjectNotFound(f"{file.file_size} bytes were announced, the bucket holds {size}.")
        mime_type = self._intake.policy.types.judge(uploader, file.original_name, head)
        return _Found(digest.hexdigest(), size, mime_type, read_back=True)

    def _finish(self, file: FileRecord, found: _Found, scan: Scan | None, equals: EqualObjects) -> None:
        """Say what was found, in one transaction: the checksum that the client told last, the scanner's verdict, the owner's
        equal object.

        Checks of equal bytes go one after another, so that of two at once one finds the other's object."""
        orphaned = False
        with self._db.transaction() as tx:
            uploads.lock_content(tx, file.owner_id, found.sha256)
            objects.lock_by_file(tx, file.id)
            objects.lock_with_files(tx, equals.damaged)
            upload = uploads.of_file(tx, file.id, lock=True)
            if upload is not None and upload.sha256 not in (None, found.sha256):
                _reject(
                    tx,
                    file,
                    ChecksumMismatch(f"sha256 {upload.sha256} was declared, the stored bytes have {found.sha256}."),
                )
                return
            if not self._passes(tx, file, found, scan):
                return
            # What passed through us was linked, or not, when it was published.
            wish = upload.on_duplicate if upload is not None and found.read_back else "copy"
            equal = None
            if wish == "reject":
                known = files.duplicate_of(tx, file.owner_id, found.sha256, found.size, damaged=equals.damaged)
                if known is not None:
                    equals.confirm(known)
                    _reject(tx, file, DuplicateFile())
                    return
            elif wish == "link":
                others = [file.file_path, *equals.damaged]
                equal = objects.find_equal(tx, file.owner_id, found.sha256, found.size, other_than=others)
                if equal is not None:
                    equals.confirm(equal)
            done = files.finish_check(
                tx,
                file.id,
                status="ready",
                sha256=found.sha256 if found.read_back else None,
                mime_type=found.mime_type,
                named=file.original_name,
                problem=None,
                onto=equal,
            )
            if done is None:
                return
            if scan is not None:
                _record(tx, done, found, scan)
            if equal is not None:
                orphaned = objects.mark_purging(tx, file.file_path)
            elif not files.another_ready(tx, done):
                pipeline.begin(tx, done)
            objects.move_files(tx, equals.damaged, by=[done.file_path])
            public_copies.begin(tx, done)
        if orphaned:
            self._files.remove_object(file.file_path)
        log.info("file_checked", file_id=str(file.id), status="ready")

    def _passes(self, tx: Tx, file: FileRecord, found: _Found, scan: Scan | None) -> bool:
        """Whether the scanner lets the file be ready; else it has its final status now."""
        if scan is None or self._scanning is None or scan.verdict == "clean":
            return True
        if scan.verdict == "infected":
            self._scanning.quarantine(tx, file, found.sha256, scan)
            return False
        if self._scanning.accepts_unscannable:
            return True
        _record(tx, file, found, scan)
        _end_rejected(tx, file, problem_of(scan))
        return False


def _record(tx: Tx, file: FileRecord, found: _Found, scan: Scan) -> None:
    scans.record(
        tx,
        scan,
        owner_id=file.owner_id,
        sha256=found.sha256,
        size=found.size,
        object_key=file.file_path,
    )


def _reject(tx: Tx, file: FileRecord, error: GatewayError) -> None:
    _end_rejected(tx, file, error.as_problem())


def _end_rejected(tx: Tx, file: FileRecord, problem: dict[str, Any]) -> None:
    files.finish_check(tx, file.id, status="rejected", problem=problem)
    log.info("file_checked", file_id=str(file.id), status="rejected", problem=problem["code"])
