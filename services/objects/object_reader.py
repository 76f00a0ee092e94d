"""Reading stored objects: the bytes that were uploaded, however they are stored.

Downloads, checks, scans and previews all read through here, so that none of them knows of encodings. A compressed object is
a row of independent zstd frames of 1 MiB of original each, which any zstd decompresses as one; where each frame ends is
kept in the object's row, so that a range is one read of the frames that hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import IO, Protocol, TypeVar, cast

import structlog
import zstandard

from core.errors import ContentMissing
from core.ranges import Span
from db import Database, files, objects
from db.records import FileRecord
from services.objects.bucket import bucket_errors
from storage_backends.base import ByteRange, ObjectNotFound, ObjectStore, PreconditionFailed

log = structlog.get_logger()

FRAME = 1024 * 1024  # bytes of original in each frame but the last
_PIECE = 256 * 1024
_ALTERED = "What the bucket holds is not what was uploaded; uploading the same bytes again mends the file."

T = TypeVar("T")


class Damaged(ContentMissing):
    """The object is there, but does not hold what was stored in it."""


class Altered(ObjectNotFound):
    """There is an object under the key, but not the one that was stored."""


class Reader(Protocol):
    """``read(n)`` gives up to n bytes, b"" at the end; a break midway raises StorageUnavailable, or Damaged."""

    def read(self, size: int = -1, /) -> bytes: ...


class ObjectReader:
    def __init__(self, db: Database, store: ObjectStore):
        self._db = db
        self._store = store

    @contextmanager
    def open(self, file: FileRecord, span: Span | None = None) -> Iterator[Reader]:
        """The file's bytes, or a span of them. On entering, before a byte is read, ObjectNotFound is raised where the object
        is gone or, as Altered, is not the one that was stored (which is recorded), Unavailable where the bucket does not
        answer. Damage that shows while it is read is recorded too."""
        with ExitStack() as stack:
            reader = self._look(file, lambda now: stack.enter_context(self._opened(now, span)))
            try:
                yield reader
            except Damaged:
                self._record(file, altered=True)
                raise

    def confirm(self, file: FileRecord) -> None:
        """Make sure, without reading it, that the object is there as it was stored. Raises ContentMissing, Unavailable."""
        check_intact(file)
        try:
            self._look(file, lambda now: self._stat(now.file_path, _stored_size(now), now.etag))
        except ObjectNotFound as error:
            raise as_missing(error) from error

    def is_sound(self, object_key: str) -> bool:
        """Whether nothing is known to be wrong with the object and the bucket confirms its size and ETag. Raises
        Unavailable."""
        with self._db.connection() as tx:
            record = objects.get(tx, object_key)
        if record is None or not record.in_bucket or record.checksum_state == "mismatch":
            return False
        try:
            self._stat(object_key, record.stored_size, record.etag)
        except ObjectNotFound:
            return False
        return True

    def as_it_is(self, file: FileRecord) -> FileRecord:
        """The file with the ETag that its object has now, for who reads all of it and compares. Raises ObjectNotFound,
        Unavailable."""
        return self._look(file, lambda now: replace(now, etag=self._stat(now.file_path, _stored_size(now), None)))

    def _look(self, file: FileRecord, look: Callable[[FileRecord], T]) -> T:
        """What a look at the object gives, or at the one that has replaced it since this record was read. What turns out to be
        missing or altered is recorded."""
        try:
            return look(file)
        except ObjectNotFound as error:
            now = self._rewritten(file)
            if now is None:
                self._record(file, altered=isinstance(error, Altered))
                raise
        return look(now)

    def _record(self, file: FileRecord, *, altered: bool) -> None:
        log.error("content_altered" if altered else "content_missing", file_id=str(file.id), key=file.file_path)
        with self._db.connection() as tx:
            if file.file_path == file.public_key:  # it can be made again
                objects.drop_public_copy(tx, file.file_path)
            else:
                state = "mismatch" if altered else None
                objects.record_check(tx, file.file_path, in_bucket=altered, checksum_state=state)

    @contextmanager
    def _opened(self, file: FileRecord, span: Span | None) -> Iterator[Reader]:
        if file.encoding is not None:
            with self._decoded(file, span or Span(0, file.file_size - 1)) as reader:
                yield reader
            return
        wanted = ByteRange(span.first, span.last) if span else None
        with _findings_pass(), self._store.open(file.file_path, byte_range=wanted, if_match=file.etag) as raw:
            _check_size(raw.info.size, _stored_size(file))
            yield raw

    @contextmanager
    def _decoded(self, file: FileRecord, span: Span) -> Iterator[Reader]:
        first, last = span.first // FRAME, span.last // FRAME
        with self._db.connection() as tx:
            bounds = objects.frame_bounds(tx, file.file_path, first=first, last=last)
        if bounds is None:
            raise ObjectNotFound(f"No row tells how {file.file_path} is read.")
        wanted = ByteRange(bounds[0], bounds[1] - 1)
        with _findings_pass(), self._store.open(file.file_path, byte_range=wanted, if_match=file.etag) as raw:
            _check_size(raw.info.size, _stored_size(file))
            yield _Decoding(raw, skip=span.first - first * FRAME, length=span.length)

    def _stat(self, object_key: str, size: int, etag: str | None) -> str:
        """The object's ETag, which is to be this one. Raises ObjectNotFound."""
        with _findings_pass():
            info = self._store.stat(object_key)
        if etag not in (None, info.etag):
            raise Altered(f"The ETag {etag} was recorded, the object has {info.etag}.")
        _check_size(info.size, size)
        return info.etag

    def _rewritten(self, file: FileRecord) -> FileRecord | None:
        """The file as it is now, if its object was rewritten since this record was read. A copy for the public never is, and
        nothing stands in for it."""
        if file.file_path == file.public_key:
            return None
        with self._db.connection() as tx:
            now = files.get(tx, file.id)
        return now if now is not None and (now.file_path, now.etag) != (file.file_path, file.etag) else None


class _Decoding:
    def __init__(self, raw: Reader, *, skip: int, length: int):
        source = cast(IO[bytes], raw)  # only read
        self._stream = zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True, closefd=False)
        self._skip = skip
        self._left = length

    def read(self, size: int = -1, /) -> bytes:
        while self._skip:
            self._skip -= len(self._decode(min(self._skip, _PIECE)))
        data = self._decode(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data

    def _decode(self, size: int) -> bytes:
        if not size:
            return b""
        try:
            data = self._stream.read(size)
        except zstandard.ZstdError as error:
            raise Damaged("The object can't be decompressed.") from error
        if not data:
            raise Damaged("The object ends before its length.")
        return data


def check_intact(file: FileRecord) -> None:
    """Raise ContentMissing where it is known that the file's bytes are gone or damaged."""
    if not file.in_bucket:
        raise ContentMissing()
    if not file.intact:
        raise ContentMissing(_ALTERED)


def as_missing(error: ObjectNotFound) -> ContentMissing:
    """What a client is told."""
    return ContentMissing(_ALTERED if isinstance(error, Altered) else None)


def _stored_size(file: FileRecord) -> int:
    return file.file_size if file.stored_size is None else file.stored_size


def _check_size(size: int, recorded: int) -> None:
    if size != recorded:
        raise ObjectNotFound(f"{recorded} bytes were recorded, the object has {size}.")


@contextmanager
def _findings_pass() -> Iterator[None]:
    """Like ``bucket_errors``, for those to whom a missing or altered object is a finding."""
    finding: ObjectNotFound | None = None
    with bucket_errors():
        try:
            yield
        except PreconditionFailed as error:
            finding = Altered(str(error))
        except ObjectNotFound as error:
            finding = error
    if finding is not None:
        raise finding
