"""Public copies: pictures without the location where they were taken.

The public gets the bytes of a public file, but of a picture that tells its location a copy without it: the object with patches of
equal length (parsers/place.py). A worker makes the copy, under a key of its own, once for all public files on the object. Until
it exists, the file is ``processing`` for everybody but its owner, unless the bytes tell no location or ``keep_location`` is set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import BinaryIO, cast
from uuid import UUID

import structlog

from core import names
from core.content_types import may_hold_location, served_type
from core.errors import ContentMissing, FileArchived, GatewayError, Unavailable
from core.ids import FILE_PREFIX, object_key
from core.principal import Principal
from db import Database, Tx, deferred_deletions, files, jobs, objects
from db.records import FileRecord
from parsers import ParserFailed
from parsers import run as parsers
from services.access.concurrency import ConcurrencyLimit
from services.access.visibility import may_change
from services.library.archive import Archive
from services.objects.bucket import bucket_errors
from services.objects.object_reader import ObjectReader, Reader
from storage_backends.base import ObjectStore

log = structlog.get_logger()

STUCK = {
    "code": "location_stays",
    "detail": "The location can't be removed from this picture, so the public can't get it unless keep_location is set.",
}
_LEASE = timedelta(hours=1)  # an unused copy is deleted after it
_LIMITS = parsers.Limits(wall_seconds=60, cpu_seconds=30, max_input=192 * 1024 * 1024)
_BATCH = 1_000

Patch = tuple[int, bytes]  # offset in the file, and the bytes to put there


def begin(tx: Tx, file: FileRecord) -> None:
    """Enqueue the copy that a file needs, in the transaction that makes it public."""
    if file.visibility == "public" and _needs_copy(file):
        _enqueue(tx, file.id, file.owner_id, file.file_path)


def _enqueue(tx: Tx, file_id: UUID, owner_id: str, key: str) -> None:
    jobs.enqueue(tx, "publish_file", owner_id=owner_id, lock=f"public:{key}", once=True, file_id=str(file_id))


def _hides_location(file: FileRecord) -> bool:
    return not file.keep_location and may_hold_location(file.mime_type) and file.file_size > 0


def _needs_copy(file: FileRecord) -> bool:
    return file.status == "ready" and _hides_location(file) and file.location_state not in ("none", "removed")


def is_stuck(file: FileRecord) -> bool:
    """Whether the file is public, but no copy can be made for the public."""
    return file.visibility == "public" and file.location_state == "unremovable" and _needs_copy(file)


class PublicCopies:
    """Makes public copies, and decides who gets them."""

    def __init__(
        self, db: Database, store: ObjectStore, reader: ObjectReader, archive: Archive, limit: ConcurrencyLimit
    ):
        self._db = db
        self._store = store
        self._reader = reader
        self._archive = archive
        self._limit = limit

    def shown(self, principal: Principal | None, file: FileRecord) -> FileRecord:
        """The file for this caller: as it is for those who may change it, as the public gets it for others."""
        return file if may_change(principal, file.owner_id, file.folder_id) else self.public(file, principal)

    def public(self, file: FileRecord, principal: Principal | None = None) -> FileRecord:
        """The file as the public gets it. While its bytes still tell the location, it is ``processing`` and has no hash."""
        if not _hides_location(file):
            return file
        state = file.location_state
        if state is None and file.status == "ready":  # it was made public a moment ago
            owner_id = principal.owner_id if principal else ""
            with suppress(GatewayError, ParserFailed), self._limit.slot(owner_id):
                state = "present" if self._patches(file) else "none"
                with self._db.connection() as tx:
                    objects.set_location_state(tx, file.file_path, state)
        if state == "none":
            return file
        if file.public_key is None or file.status != "ready":
            return file._replace(status="processing" if file.status == "ready" else file.status, file_hash=None)
        stored = file._replace(file_path=file.public_key, encoding=None, stored_size=None)
        return stored._replace(file_hash=file.public_sha256, etag=file.public_etag or "")

    def publish(self, file_id: UUID) -> None:
        """The job that makes the copy, if one is needed. Repeated or concurrent runs have one effect. Raises Unavailable."""
        with self._db.connection() as tx:
            file = files.get(tx, file_id)
        if file is None or not _needs_copy(file):
            return
        try:
            patches = self._patches(file)
            if patches:
                self._copy(file, patches)
                return
            state = "none"
        except ParserFailed as error:
            log.warning("location_stays", file_id=str(file_id), reason=error.reason)
            state = "unremovable"
        except ContentMissing:
            log.warning("publishing_without_object", file_id=str(file_id))
            return
        except FileArchived:  # ``enqueue_missing`` tries again
            self._archive.request_now(file)
            return
        with self._db.connection() as tx:
            objects.set_location_state(tx, file.file_path, state)

    def enqueue_missing(self, *, dry_run: bool = False) -> int:
        """Enqueue the copies that are missing and have no job. Returns their number."""
        with self._db.transaction(undo=dry_run) as tx:
            missing = objects.to_copy(tx, limit=_BATCH)
            for file_id, owner_id, key in missing:
                _enqueue(tx, file_id, owner_id, key)
        return len(missing)

    def _patches(self, file: FileRecord) -> Sequence[Patch]:
        """Patches that remove the location from the bytes; none if they tell no location. Raises ParserFailed."""
        with bucket_errors(), self._reader.open(file) as reader:
            answer = parsers.run("place", reader, {}, limits=_LIMITS)
        try:
            patches = list(zip(answer.values["offsets"], answer.blobs, strict=True))
            end = 0
            for offset, patch in patches:
                if not end <= offset <= file.file_size - len(patch):
                    raise ValueError("outside the file, or out of order")
                end = offset + len(patch)
        except (TypeError, ValueError, KeyError) as error:
            raise ParserFailed("The parser's answer can't be read") from error
        return patches

    def _copy(self, file: FileRecord, patches: Sequence[Patch]) -> None:
        key = object_key(FILE_PREFIX, names.extension(file.original_name), datetime.now(UTC))
        with self._db.connection() as tx:
            deferred_deletions.reserve(tx, key, lease=_LEASE)
        used = False
        try:
            with bucket_errors(), self._reader.open(file) as reader:
                patched = _Patched(reader, patches)
                body = cast(BinaryIO, patched)  # only read
                stored = self._store.put(key, body, content_type=served_type(file.mime_type), size=file.file_size)
            if file.file_hash not in (None, patched.original.hexdigest()):
                log.error("publishing_found_damage", file_id=str(file.id), key=file.file_path)
                with self._db.connection() as tx:
                    objects.record_check(tx, file.file_path, in_bucket=True, checksum_state="mismatch")
                return
            sha256 = patched.result.hexdigest()
            with self._db.transaction() as tx:
                used = objects.add_public_copy(tx, file.file_path, key, sha256=sha256, etag=stored.etag)
        finally:
            if not used:
                self._give_up(key)
        log.info("public_copy_made", file_id=str(file.id), used=used)

    def _give_up(self, key: str) -> None:
        """Let the janitor delete the copy now. If it is in use after all, it has no reservation left."""
        with suppress(Unavailable), self._db.connection() as tx:
            deferred_deletions.give_up(tx, key)


class _Patched:
    """A reader's bytes with the patches applied, and the checksums of both."""

    def __init__(self, reader: Reader, patches: Sequence[Patch]):
        self._reader, self._patches, self._at = reader, list(reversed(patches)), 0
        self.original, self.result = hashlib.sha256(), hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        data = bytearray(self._reader.read(size))
        self.original.update(data)
        end = self._at + len(data)
        while self._patches and self._patches[-1][0] < end:
            offset, patch = self._patches.pop()
            now, later = patch[: end - offset], patch[end - offset :]
            data[offset - self._at : offset - self._at + len(now)] = now
            if later:
                self._patches.append((end, later))
        self._at = end
        self.result.update(data)
        return bytes(data)
