"""The job that compresses stored objects: it replaces an object by a smaller one that holds the same bytes.

1. Reserve a key for the replacement, and write it.
2. Read it back and compare.
3. In one transaction, put it to use and defer the deletion of the old object until no URL for it is valid.

A crash before step 3 loses nothing: the janitor deletes a replacement whose reservation has expired. Clients see no change:
size, checksum, ETag, ranges and quota stay those of the original (services/objects/object_reader.py).
"""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog
import zstandard

from core import content_types, names
from core.errors import Unavailable
from core.ids import FILE_PREFIX, object_key
from core.parts import PART_SIZE, plan
from core.ranges import ByteRange
from db import Database, deferred_deletions, files, objects
from db.records import FileRecord
from services.objects.bucket import bucket_errors
from services.objects.object_reader import FRAME, ObjectReader, read_exactly
from services.objects.part_writer import PartWriter
from storage_backends.base import MultipartStore, ObjectNotFound

log = structlog.get_logger()

LEVEL = 3  # of zstd; level 9 takes five times as long and saves a fifth
_MEDIA_TYPE = "application/zstd"
_LEASE = timedelta(hours=1)  # of the reserved key
_RENEW = 600.0  # seconds between renewals of the lease
_GRACE = timedelta(hours=1)  # for readers of the old object


@dataclass(slots=True)
class _Replacement:
    """What was written so far."""

    key: str
    writer: PartWriter
    ends: list[int] = field(default_factory=list)  # of each frame
    etag: str = ""
    renewed: float = field(default_factory=time.monotonic)

    @property
    def size(self) -> int:
        return self.ends[-1] if self.ends else 0


class Compression:
    """Compress objects of types that shrink."""

    def __init__(self, db: Database, store: MultipartStore, reader: ObjectReader, *, on: bool):
        self._db = db
        self._store = store
        self._reader = reader
        self._on = on

    def compress(self, file_id: UUID) -> None:
        """Replace the file's object if that saves a tenth. Idempotent, also if two workers do it at once. Raises
        Unavailable: try again later."""
        with self._db.connection() as tx:
            file = files.get(tx, file_id)
        if not self._on or file is None or not _is_candidate(file):
            return
        try:
            if self._shrinks(file):
                self._rewrite(file)
        except ObjectNotFound:
            log.warning("compression_without_object", file_id=str(file_id))

    def _shrinks(self, file: FileRecord) -> bool:
        """Whether the first frame shrinks: a quick check for content that is compressed already."""
        with self._reader.open(file, ByteRange(0, min(FRAME, file.file_size) - 1)) as reader:
            first = read_exactly(reader, FRAME)
        return _saves(len(zstandard.ZstdCompressor(level=LEVEL).compress(first)), len(first))

    def _rewrite(self, file: FileRecord) -> None:
        key = object_key(FILE_PREFIX, names.extension(file.original_name), datetime.now(UTC))
        with self._db.connection() as tx:
            deferred_deletions.reserve(tx, key, lease=_LEASE)
        replacement = _Replacement(key, PartWriter(self._store, plan(file.file_size, preferred=PART_SIZE).part_size))
        try:
            replaced = self._write(file, replacement) and self._replace(file, replacement)
        except Exception:
            self._release(key)
            raise
        if not replaced:
            self._release(key)
            return
        log.info("object_compressed", file_id=str(file.id), size=file.file_size, stored=replacement.size)

    def _release(self, key: str) -> None:
        """Let the janitor delete the replacement now. If the last transaction was committed although its answer was lost, the
        replacement is in use and has no reservation to release (T104)."""
        with suppress(Unavailable), self._db.connection() as tx:
            deferred_deletions.give_up(tx, key)

    def _write(self, file: FileRecord, replacement: _Replacement) -> bool:
        """Compress into the bucket, frame by frame. False if that saves too little, or the original is damaged."""
        digest = hashlib.sha256()
        compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        with self._reader.open(file) as reader:
            while piece := read_exactly(reader, FRAME):
                digest.update(piece)
                frame = compressor.compress(piece)
                replacement.ends.append(replacement.size + len(frame))
                rest = memoryview(frame)
                while rest := replacement.writer.add(rest):
                    self._send_part(replacement)
        if digest.hexdigest() != file.file_hash:
            log.error("compression_found_damage", file_id=str(file.id), key=file.file_path)
            with self._db.connection() as tx:
                objects.record_check(tx, file.file_path, in_bucket=True, checksum_state="mismatch")
            return False
        if not _saves(replacement.size, file.file_size):
            return False
        self._renew(replacement)
        replacement.etag = replacement.writer.finish(replacement.key, _MEDIA_TYPE).etag
        return True

    def _send_part(self, replacement: _Replacement) -> None:
        self._renew(replacement)
        if replacement.writer.ref is None:
            ref = replacement.writer.begin(replacement.key, _MEDIA_TYPE)
            self._renew(replacement, multipart_id=ref.upload_id)
        replacement.writer.send()

    def _renew(self, replacement: _Replacement, *, multipart_id: str | None = None) -> None:
        if multipart_id is None and time.monotonic() - replacement.renewed < _RENEW:
            return
        with self._db.connection() as tx:
            if not deferred_deletions.renew(tx, replacement.key, lease=_LEASE, multipart_id=multipart_id):
                raise Unavailable("The replacement was given up; try again.")
        replacement.renewed = time.monotonic()

    def _replace(self, file: FileRecord, replacement: _Replacement) -> bool:
        """Read back, compare, put to use. False if the file's object was changed or deleted meanwhile."""
        if not self._reads_back(file, replacement):
            log.error("compression_read_back_differs", file_id=str(file.id), key=replacement.key)
            raise Unavailable("The bucket returned other bytes than were written; try again.")
        assert file.file_hash is not None
        with self._db.transaction() as tx:
            return objects.replace(
                tx,
                file.file_path,
                replacement.key,
                sha256=file.file_hash,
                stored_size=replacement.size,
                frame_ends=replacement.ends,
                etag=replacement.etag,
                grace=_GRACE,
            )

    def _reads_back(self, file: FileRecord, replacement: _Replacement) -> bool:
        """Decompress each frame on its own, as a range is read."""
        digest, begin = hashlib.sha256(), 0
        decompressor = zstandard.ZstdDecompressor()
        with bucket_errors(), self._store.open(replacement.key) as reader:
            if reader.info.size != replacement.size:
                return False
            for end in replacement.ends:
                try:
                    digest.update(decompressor.decompress(read_exactly(reader, end - begin), max_output_size=FRAME))
                except zstandard.ZstdError:
                    return False
                begin = end
        return digest.hexdigest() == file.file_hash


def _is_candidate(file: FileRecord) -> bool:
    return (
        file.status == "ready"
        and file.encoding is None
        and file.storage_class == "standard"
        and file.file_hash is not None
        and content_types.may_shrink(file.mime_type, file.file_size)
    )


def _saves(stored: int, original: int) -> bool:
    """At least a tenth."""
    return stored * 10 <= original * 9
