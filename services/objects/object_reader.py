"""Reads the bytes that were uploaded, however they are stored. Downloads, checks, scans and previews all read through here.

A compressed object is a sequence of independent zstd frames of 1 MiB of original bytes each, which any zstd decompresses as one
stream. The object's row has the end of each frame, so that a range is one read of the frames that hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Protocol, TypeVar, cast

import structlog
import zstandard

from core.errors import ContentMissing, FileArchived
from core.ranges import ByteRange
from db import Database, files, objects
from db.records import FileRecord
from services.objects import bucket_mark
from services.objects.bucket import bucket_errors
from storage_backends.base import ObjectInfo, ObjectNotFound, ObjectStore, PreconditionFailed

log = structlog.get_logger()

FRAME = 1024 * 1024  # original bytes in each frame but the last
WINDOW = 8 * 1024 * 1024  # bytes of memory that a damaged frame may ask for; the gateway's own need 2 MiB
_PIECE = 256 * 1024
_ALTERED = "The bucket does not hold the bytes that were uploaded. Upload the same bytes again to repair the file."

T = TypeVar("T")


class Damaged(ContentMissing):
    """The object is there, but its bytes are damaged."""


class Altered(ObjectNotFound):
    """There is an object under the key, but not the stored one."""


class Reader(Protocol):
    """A stream of bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes, b"" at the end. Raises StorageUnavailable or Damaged."""


def read_exactly(reader: Reader, size: int) -> bytes:
    """``size`` bytes, fewer only at the end."""
    pieces, left = [], size
    while left and (piece := reader.read(left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


class Decompressed:
    """The bytes of a zstd stream, which may have several frames."""

    def __init__(self, reader: Reader):
        decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW)
        source = cast(IO[bytes], reader)  # only read
        self._stream = decompressor.stream_reader(source, read_across_frames=True, closefd=False)

    def read(self, size: int = -1, /) -> bytes:
        """As in Reader."""
        try:
            return self._stream.read(size)
        except zstandard.ZstdError as error:
            raise Damaged("The object can't be decompressed.") from error


class ObjectReader:
    """Reads and checks stored objects, and records what is missing or damaged."""

    def __init__(self, db: Database, store: ObjectStore):
        self._db = db
        self._store = store

    @contextmanager
    def open(self, file: FileRecord, span: ByteRange | None = None) -> Iterator[Reader]:
        """Open the file's bytes, or a span of them.

        Raises, before a byte is read, ObjectNotFound if the object is gone, its subclass Altered if it is not the stored one,
        FileArchived if it must be thawed first, and Unavailable. Damage found then or while reading is recorded."""
        with ExitStack() as stack:
            reader = self._look(file, lambda now: stack.enter_context(self._opened(now, span)))
            try:
                yield reader
            except Damaged:
                self._record(file, altered=True)
                raise

    def confirm(self, file: FileRecord, *, to_read: bool = False) -> None:
        """Check, without reading it, that the bucket holds the object as stored; ``to_read``: and that it can be read now. Raises
        ContentMissing, FileArchived, Unavailable."""
        check_intact(file)
        try:
            info = self._look(file, lambda now: self._stat(now.file_path, _stored_size(now), now.etag))
        except ObjectNotFound as error:
            raise as_missing(error) from error
        if to_read and not info.readable:
            raise FileArchived()

    def is_sound(self, object_key: str, *, archived: bool) -> bool:
        """Whether the object is not known to be damaged, and the bucket confirms its size and ETag. ``archived``: whether an
        archived one may be sound. Raises Unavailable."""
        with self._db.connection() as tx:
            record = objects.get(tx, object_key)
        if record is None or not record.in_bucket or record.checksum_state == "mismatch":
            return False
        if record.storage_class == "archived" and not archived:
            return False
        try:
            self._stat(object_key, record.stored_size, record.etag)
        except ObjectNotFound:
            return False
        return True

    def with_current_etag(self, file: FileRecord) -> FileRecord:
        """The file with its object's present ETag, for a caller who compares all bytes. Raises ObjectNotFound, Unavailable."""
        return self._look(file, lambda now: now._replace(etag=self._stat(now.file_path, _stored_size(now), None).etag))

    def _look(self, file: FileRecord, look: Callable[[FileRecord], T]) -> T:
        """Call ``look``; if the object is not found but was replaced since the record was read, call it with the new one. Record
        what is missing or altered."""
        try:
            return look(file)
        except ObjectNotFound as error:
            now = self._rewritten(file)
            if now is None:
                self._record(file, altered=isinstance(error, Altered))
                raise
        return look(now)

    def _record(self, file: FileRecord, *, altered: bool) -> None:
        with bucket_errors():
            bucket_mark.check(self._db, self._store)
        log.error("content_altered" if altered else "content_missing", file_id=str(file.id), key=file.file_path)
        with self._db.connection() as tx:
            if file.file_path == file.public_key:  # it can be made again
                objects.drop_public_copy(tx, file.file_path)
            else:
                state = "mismatch" if altered else None
                objects.record_check(tx, file.file_path, in_bucket=altered, checksum_state=state)

    @contextmanager
    def _opened(self, file: FileRecord, span: ByteRange | None) -> Iterator[Reader]:
        if file.encoding is not None:
            with self._decoded(file, span or ByteRange(0, file.file_size - 1)) as reader:
                yield reader
            return
        with _storage_errors(), self._store.open(file.file_path, byte_range=span, if_match=file.etag) as raw:
            _check_size(raw.info.size, _stored_size(file))
            yield raw

    @contextmanager
    def _decoded(self, file: FileRecord, span: ByteRange) -> Iterator[Reader]:
        first, last = span.first // FRAME, span.last // FRAME
        with self._db.connection() as tx:
            bounds = objects.frame_bounds(tx, file.file_path, first=first, last=last)
        if bounds is None:
            raise ObjectNotFound(f"No row describes the frames of {file.file_path}.")
        wanted = ByteRange(bounds[0], bounds[1] - 1)
        with _storage_errors(), self._store.open(file.file_path, byte_range=wanted, if_match=file.etag) as raw:
            _check_size(raw.info.size, _stored_size(file))
            yield _Decoding(raw, skip=span.first - first * FRAME, length=span.length)

    def _stat(self, object_key: str, size: int, etag: str | None) -> ObjectInfo:
        """The object's description. Raises ObjectNotFound, also if size or ETag differ."""
        with _storage_errors():
            info = self._store.stat(object_key)
        if etag not in (None, info.etag):
            raise Altered(f"The ETag {etag} was recorded, the object has {info.etag}.")
        _check_size(info.size, size)
        return info

    def _rewritten(self, file: FileRecord) -> FileRecord | None:
        """The file as it is now, if its object was replaced since the record was read. A public copy is never replaced."""
        if file.file_path == file.public_key:
            return None
        with self._db.connection() as tx:
            now = files.get(tx, file.id)
        return now if now is not None and (now.file_path, now.etag) != (file.file_path, file.etag) else None


class _Decoding:
    """Decompresses frames, from ``skip`` on."""

    def __init__(self, raw: Reader, *, skip: int, length: int):
        self._stream = Decompressed(raw)
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
        data = self._stream.read(size)
        if not data:
            raise Damaged("The object ends before its length.")
        return data


def check_intact(file: FileRecord) -> None:
    """Raise ContentMissing if the file's bytes are known to be missing or damaged."""
    if not file.in_bucket:
        raise ContentMissing()
    if not file.intact:
        raise ContentMissing(_ALTERED)


def as_missing(error: ObjectNotFound) -> ContentMissing:
    """The error for the client."""
    return ContentMissing(_ALTERED if isinstance(error, Altered) else None)


def _stored_size(file: FileRecord) -> int:
    return file.file_size if file.stored_size is None else file.stored_size


def _check_size(size: int, recorded: int) -> None:
    if size != recorded:
        raise ObjectNotFound(f"{recorded} bytes were recorded, the object has {size}.")


@contextmanager
def _storage_errors() -> Iterator[None]:
    """Like ``bucket_errors``, but a missing or altered object stays ObjectNotFound."""
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
