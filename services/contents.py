"""Reading stored objects: the bytes that were uploaded, however they are stored.

Downloads, checks, scans and previews all read through here, so that none of them knows of encodings. A compressed object is
a row of independent zstd frames of 1 MiB of original each, which any zstd decompresses as one; where each frame ends is
kept in the object's row, so that a range is one read of the frames that hold it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Protocol, cast

import zstandard

from core.errors import ContentMissing
from core.ranges import Span
from db import Database, files, objects
from db.files import FileRecord
from services.bucket import bucket_errors
from storage_backends.base import ByteRange, ObjectNotFound, ObjectStore

FRAME = 1024 * 1024  # bytes of original in each frame but the last
_PIECE = 256 * 1024


class Damaged(ContentMissing):
    """The object is there, but does not hold what was stored in it."""


class Reader(Protocol):
    """``read(n)`` gives up to n bytes, b"" at the end; a break midway raises StorageUnavailable, or Damaged."""

    def read(self, size: int = -1, /) -> bytes: ...


class Contents:
    def __init__(self, db: Database, store: ObjectStore):
        self._db = db
        self._store = store

    @contextmanager
    def open(self, file: FileRecord, span: Span | None = None) -> Iterator[Reader]:
        """The file's bytes, or a span of them. On entering, before a byte is read, ObjectNotFound is raised where the object
        is gone or has another size than was recorded, Unavailable where the bucket does not answer."""
        with ExitStack() as stack:
            try:
                reader = stack.enter_context(self._opened(file, span))
            except ObjectNotFound:
                rewritten = self._rewritten(file)
                if rewritten is None:
                    raise
                reader = stack.enter_context(self._opened(rewritten, span))
            yield reader

    def exists(self, file: FileRecord) -> bool:
        """Whether the object is there, of the recorded size. Raises Unavailable."""
        if self._is_there(file):
            return True
        rewritten = self._rewritten(file)
        return rewritten is not None and self._is_there(rewritten)

    @contextmanager
    def _opened(self, file: FileRecord, span: Span | None) -> Iterator[Reader]:
        if file.encoding is not None:
            with self._decoded(file, span or Span(0, file.file_size - 1)) as reader:
                yield reader
            return
        wanted = ByteRange(span.first, span.last) if span else None
        with _missing_passes(), self._store.open(file.file_path, byte_range=wanted) as raw:
            _check_size(raw.info.size, file)
            yield raw

    @contextmanager
    def _decoded(self, file: FileRecord, span: Span) -> Iterator[Reader]:
        first, last = span.first // FRAME, span.last // FRAME
        with self._db.connection() as tx:
            bounds = objects.frame_bounds(tx, file.file_path, first=first, last=last)
        if bounds is None:
            raise ObjectNotFound(f"No row tells how {file.file_path} is read.")
        wanted = ByteRange(bounds[0], bounds[1] - 1)
        with _missing_passes(), self._store.open(file.file_path, byte_range=wanted) as raw:
            _check_size(raw.info.size, file)
            yield _Decoding(raw, skip=span.first - first * FRAME, length=span.length)

    def _is_there(self, file: FileRecord) -> bool:
        try:
            with _missing_passes():
                _check_size(self._store.stat(file.file_path).size, file)
        except ObjectNotFound:
            return False
        return True

    def _rewritten(self, file: FileRecord) -> FileRecord | None:
        """The file as it is now, if its object was rewritten since this record was read."""
        with self._db.connection() as tx:
            now = files.get(tx, file.id)
        return now if now is not None and now.file_path != file.file_path else None


class _Decoding:
    def __init__(self, raw: Reader, *, skip: int, length: int):
        source = cast(IO[bytes], raw)  # only read
        self._stream = zstandard.ZstdDecompressor().stream_reader(
            source, read_across_frames=True, closefd=False
        )
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


def _check_size(size: int, file: FileRecord) -> None:
    recorded = file.file_size if file.stored_size is None else file.stored_size
    if size != recorded:
        raise ObjectNotFound(f"{recorded} bytes were recorded, the object has {size}.")


@contextmanager
def _missing_passes() -> Iterator[None]:
    """Like ``bucket_errors``, for those to whom a missing object is a finding."""
    missing: ObjectNotFound | None = None
    with bucket_errors():
        try:
            yield
        except ObjectNotFound as error:
            missing = error
    if missing is not None:
        raise missing
