"""Replaces a stored object by one under another key that holds the same bytes: compressed, or copied inside the bucket. So
objects are compressed, archived, and brought back.

1. Reserve a key for the replacement, and write it.
2. Read it back and compare.
3. In one transaction, put it to use and defer the deletion of the old object until no URL for it is valid.

A crash before step 3 loses nothing: the janitor deletes a replacement whose reservation has expired. Clients see no change:
size, checksum, ETag, ranges and quota stay those of the original (object_reader.py).
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import structlog
import zstandard

from core import names
from core.errors import Unavailable
from core.ids import ARCHIVE_PREFIX, FILE_PREFIX, object_key
from core.ranges import ByteRange
from db import Database, objects
from db.records import FileRecord
from services.objects.bucket import bucket_errors
from services.objects.capacity import StorageCapacity
from services.objects.drafts import Draft, DraftWriter, drafted
from services.objects.object_reader import FRAME, ObjectReader, read_exactly
from services.objects.part_writer import complete
from services.objects.streams import Hashed
from storage_backends.base import CopyingStore

log = structlog.get_logger()

_MEDIA_TYPE = "application/zstd"
_GRACE = timedelta(hours=1)  # for readers of the old object
_MAX_COPY = 5 * 1024**3  # bytes that one request copies (S3's limit)
_COPIED_PART = 1024**3  # bytes
_FROZEN = frozenset({"GLACIER", "DEEP_ARCHIVE"})  # classes in which nothing can be read back


@dataclass(frozen=True, slots=True)
class Target:
    """Where a replacement goes."""

    prefix: str
    storage_class: Literal["standard", "archived"]
    bucket_class: str | None = None  # the bucket's name of its storage class; None: its default
    action: str | None = None  # the event of the files on the object


IN_PLACE = Target(FILE_PREFIX, "standard")
OUT_OF_ARCHIVE = Target(FILE_PREFIX, "standard", action="unarchived")


def into_archive(bucket_class: str | None) -> Target:
    """The target of what is archived."""
    return Target(ARCHIVE_PREFIX, "archived", bucket_class, "archived")


class Rewriter:
    """Replaces objects. Its methods are idempotent, also if two workers do the same at once. They raise ContentMissing or
    ObjectNotFound if the object is gone, FileArchived if it must be thawed first, and Unavailable or StorageFull: try again
    later."""

    def __init__(self, db: Database, store: CopyingStore, reader: ObjectReader, capacity: StorageCapacity):
        self._capacity = capacity
        self._db = db
        self._store = store
        self._reader = reader

    def saving(self, file: FileRecord, *, level: int) -> float:
        """The share of the stored bytes that this level saves in the first frame: a quick check, and an estimate."""
        if not file.file_size:
            return 0.0
        with self._reader.open(file, ByteRange(0, min(FRAME, file.file_size) - 1)) as reader:
            first = read_exactly(reader, FRAME)
        stored = self._frame_ends(file)[0] if file.encoding else len(first)
        return 1 - len(zstandard.ZstdCompressor(level=level, write_checksum=True).compress(first)) / stored

    def compress(self, file: FileRecord, target: Target = IN_PLACE, *, level: int) -> bool:
        """Replace the file's object by one compressed at this level of zstd. False if it saves less than a tenth of the stored
        bytes, the object is damaged, or it was changed or deleted meanwhile."""
        if not _pays(self.saving(file, level=level)):
            return False
        with self._draft(file, target) as draft:
            if not self._write(file, draft, level):
                return False
            if not self._reads_back(file, draft):
                raise _differs(file, draft)
            if target.bucket_class is None:
                return self._put_to_use(file, draft, target)
            # Into its class only now: reading costs more there, or is not possible at all.
            with self._draft(file, target) as copy:
                self._copy(draft.replacement(), copy, target)
                return self._put_to_use(file, copy, target)

    def copy(self, file: FileRecord, target: Target) -> bool:
        """Replace the file's object by a copy that the bucket makes. False as of ``compress``."""
        self._reader.confirm(file)
        readable = target.bucket_class not in _FROZEN
        if not readable and not self._is_intact(file):
            return False
        with self._draft(file, target) as draft:
            self._copy(self._stored(file), draft, target)
            if readable and not self._reads_back(file, draft):
                if self._is_intact(file):
                    raise _differs(file, draft)
                return False
            return self._put_to_use(file, draft, target)

    def _stored(self, file: FileRecord) -> objects.Replacement:
        size = file.file_size if file.stored_size is None else file.stored_size
        return objects.Replacement(file.file_path, size, file.etag, self._frame_ends(file) if file.encoding else [])

    def _frame_ends(self, file: FileRecord) -> list[int]:
        with self._db.connection() as tx:
            return objects.frame_ends(tx, file.file_path)

    def _draft(self, file: FileRecord, target: Target) -> AbstractContextManager[Draft]:
        """Raises StorageFull: both objects are kept for a while."""
        self._capacity.admit(0)
        return drafted(self._db, object_key(target.prefix, names.extension(file.original_name), datetime.now(UTC)))

    def _write(self, file: FileRecord, draft: Draft, level: int) -> bool:
        """Compress into the bucket, frame by frame. False if that saves too little, or the original is damaged."""
        digest = hashlib.sha256()
        compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
        writer = DraftWriter(self._store, draft, size=file.file_size, content_type=_MEDIA_TYPE)
        with self._reader.open(file) as reader:
            while piece := read_exactly(reader, FRAME):
                digest.update(piece)
                writer.write(compressor.compress(piece))
                draft.ends.append(draft.size)
        if not self._is_original(file, digest.hexdigest()):
            return False
        if not _pays(1 - draft.size / (file.stored_size or file.file_size)):
            return False
        writer.finish()
        return True

    def _copy(self, source: objects.Replacement, draft: Draft, target: Target) -> None:
        """Copy inside the bucket, a large object in parts."""
        etag = source.etag
        draft.size, draft.ends = source.size, list(source.frame_ends)
        with bucket_errors():
            if source.size <= _MAX_COPY:
                copied = self._store.copy(
                    source.object_key, draft.key, if_source_etag=etag, storage_class=target.bucket_class
                )
            else:
                content_type = self._store.stat(source.object_key).content_type or "application/octet-stream"
                ref = self._store.create_multipart(
                    draft.key, content_type=content_type, storage_class=target.bucket_class
                )
                draft.renew(multipart_id=ref.upload_id)
                parts = []
                for number, first in enumerate(range(0, source.size, _COPIED_PART), 1):
                    span = ByteRange(first, min(first + _COPIED_PART, source.size) - 1)
                    parts.append(
                        self._store.copy_part(ref, number, source.object_key, byte_range=span, if_source_etag=etag)
                    )
                    draft.renew()
                copied = complete(self._store, ref, parts)
        if copied.size != source.size:
            raise Unavailable("The bucket has copied another number of bytes; try again.")
        draft.etag = copied.etag

    def _put_to_use(self, file: FileRecord, draft: Draft, target: Target) -> bool:
        """False if the file's object was changed or deleted meanwhile."""
        assert file.file_hash is not None
        with self._db.transaction() as tx:
            done = objects.replace(
                tx,
                file.file_path,
                draft.replacement(),
                sha256=file.file_hash,
                grace=_GRACE,
                storage_class=target.storage_class,
                action=target.action,
            )
        if done:
            log.info("object_rewritten", file_id=str(file.id), key=draft.key, size=file.file_size, stored=draft.size)
        return done

    def _reads_back(self, file: FileRecord, draft: Draft) -> bool:
        """Decompress each frame on its own, as a range is read."""
        digest, begin = hashlib.sha256(), 0
        decompressor = zstandard.ZstdDecompressor()
        with bucket_errors(), self._store.open(draft.key) as reader:
            if reader.info.size != draft.size:
                return False
            while not draft.ends and (piece := reader.read(FRAME)):
                digest.update(piece)
                draft.renew()
            for end in draft.ends:
                try:
                    digest.update(decompressor.decompress(read_exactly(reader, end - begin), max_output_size=FRAME))
                except zstandard.ZstdError:
                    return False
                begin = end
                draft.renew()
        return digest.hexdigest() == file.file_hash

    def _is_intact(self, file: FileRecord) -> bool:
        """Whether the object holds the file's bytes. Damage is recorded."""
        with self._reader.open(file) as reader:
            hashed = Hashed(reader)
            hashed.read_to_end()
        return self._is_original(file, hashed.sha256)

    def _is_original(self, file: FileRecord, sha256: str) -> bool:
        if sha256 == file.file_hash:
            return True
        log.error("rewriting_found_damage", file_id=str(file.id), key=file.file_path)
        with self._db.connection() as tx:
            objects.record_check(tx, file.file_path, in_bucket=True, checksum_state="mismatch")
        return False


def may_rewrite(file: FileRecord | None) -> FileRecord | None:
    """The file, if its object may be replaced."""
    return file if file is not None and file.status == "ready" and file.file_hash is not None else None


def _pays(saving: float) -> bool:
    """At least a tenth."""
    return saving >= 0.1


def _differs(file: FileRecord, draft: Draft) -> Unavailable:
    log.error("rewriting_read_back_differs", file_id=str(file.id), key=draft.key)
    return Unavailable("The bucket returned other bytes than were written; try again.")
