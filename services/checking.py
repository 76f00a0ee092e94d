"""Verify: what the bucket holds is read back before it becomes a file, where its bytes did not pass through us.

The gateway takes nobody's word: size, SHA-256 and type come from the stored bytes (THREATS R2, T47)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog

from core import content_types
from core.errors import ChecksumMismatch, ContentMissing, DuplicateFile, Unsupported
from core.principal import Principal
from db import Database, files, jobs, objects, upload_tokens, uploads
from db.files import FileRecord
from db.uploads import UploadRecord
from services.bucket import bucket_errors
from services.files import Files
from services.intake import PREVIEWED, Intake
from storage_backends.base import ObjectStore

log = structlog.get_logger()

_READ = 1024 * 1024
_HEAD = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Found:
    sha256: str
    size: int
    head: bytes


class Checking:
    def __init__(self, db: Database, store: ObjectStore, intake: Intake, files_service: Files):
        self._db = db
        self._store = store
        self._intake = intake
        self._files = files_service

    def check(self, file_id: UUID) -> None:
        """processing -> ready or rejected. Done again after a crash it comes to the same end; Unavailable: try later."""
        with self._db.connection() as tx:
            file = files.get(tx, file_id)
            upload = uploads.of_file(tx, file_id)
        if file is None or file.status != "processing":
            return
        try:
            found = self._read(file)
            mime_type = self._judge(file, upload, found)
        except (ContentMissing, ChecksumMismatch, Unsupported) as error:
            self._finish(file, status="rejected", problem=error.as_problem())
            return
        if self._settle_duplicate(file, upload, found, mime_type):
            return
        self._finish(file, status="ready", found=found, mime_type=mime_type)

    def _read(self, file: FileRecord) -> _Found:
        digest, size, head = hashlib.sha256(), 0, b""
        with bucket_errors(), self._store.open(file.file_path) as reader:
            while chunk := reader.read(_READ):
                if len(head) < _HEAD:
                    head += chunk[: _HEAD - len(head)]
                digest.update(chunk)
                size += len(chunk)
        return _Found(digest.hexdigest(), size, head)

    def _judge(self, file: FileRecord, upload: UploadRecord | None, found: _Found) -> str:
        if found.size != file.file_size:
            raise ContentMissing(f"{file.file_size} bytes were announced, the bucket holds {found.size}.")
        if upload is not None and upload.sha256 is not None and upload.sha256 != found.sha256:
            raise ChecksumMismatch()
        return self._intake.judge_type(self._principal_of(file, upload), file.original_name, found.head)

    def _principal_of(self, file: FileRecord, upload: UploadRecord | None) -> Principal:
        """Who uploaded it, as far as the rules on types go: an upload token may have narrowed them."""
        if upload is None or upload.token_id is None:
            return Principal(file.owner_id)
        with self._db.connection() as tx:
            token = upload_tokens.get(tx, upload.token_id)
        return Principal(file.owner_id, budget=token.budget if token else None)

    def _settle_duplicate(self, file: FileRecord, upload: UploadRecord | None, found: _Found, mime_type: str) -> bool:
        """Bytes that the owner already has: onto the one object with ``link``, rejected with ``reject``."""
        wish = upload.on_duplicate if upload is not None else "copy"
        if wish == "copy":
            return False
        with self._db.transaction() as tx:
            equal = objects.equal_to(tx, file.owner_id, found.sha256, found.size, other_than=file.file_path)
            if equal is None:
                return False
            if wish == "link":
                objects.lock(tx, file.file_path)
                linked = files.finish_check(
                    tx, file.id, status="ready", sha256=found.sha256, mime_type=mime_type,
                    file_type=content_types.file_type(mime_type), problem=None, onto=equal,
                )
                orphaned = linked is not None and objects.mark_purging(tx, file.file_path)
            else:
                in_use = files.duplicate_of(tx, file.owner_id, found.sha256, found.size)
                if in_use is None:
                    return False
        if wish == "reject":
            self._finish(file, status="rejected", problem=DuplicateFile().as_problem())
        elif orphaned:
            self._files.remove_object(file.file_path)
        return True

    def _finish(
        self, file: FileRecord, *, status: str, found: _Found | None = None, mime_type: str | None = None,
        problem: dict[str, Any] | None = None,
    ) -> None:
        with self._db.transaction() as tx:
            done = files.finish_check(
                tx, file.id, status=status, sha256=found.sha256 if found else None, mime_type=mime_type,
                file_type=content_types.file_type(mime_type) if mime_type else None, problem=problem,
            )
            if done is not None and status == "ready" and done.mime_type in PREVIEWED:
                jobs.enqueue(tx, "make_previews", file_id=str(file.id))
        log.info("file_checked", file_id=str(file.id), status=status, problem=(problem or {}).get("code"))


