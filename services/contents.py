"""Reading stored objects: the bytes that were uploaded, however they are stored.

Downloads, checks, scans and previews all read through here, so that none of them knows of encodings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from core.ranges import Span
from db.files import FileRecord
from services.bucket import bucket_errors
from storage_backends.base import ByteRange, ObjectNotFound, ObjectStore


class Reader(Protocol):
    """``read(n)`` gives up to n bytes, b"" at the end; a break midway raises StorageUnavailable."""

    def read(self, size: int = -1, /) -> bytes: ...


class Contents:
    def __init__(self, store: ObjectStore):
        self._store = store

    @contextmanager
    def open(self, file: FileRecord, span: Span | None = None) -> Iterator[Reader]:
        """The file's bytes, or a span of them. On entering, before a byte is read, ObjectNotFound is raised where the object
        is gone or has another size than was recorded, Unavailable where the bucket does not answer."""
        wanted = ByteRange(span.first, span.last) if span else None
        with _missing_passes(), self._store.open(file.file_path, byte_range=wanted) as reader:
            if reader.info.size != file.file_size:
                raise ObjectNotFound(f"{file.file_size} bytes were recorded, the object has {reader.info.size}.")
            yield reader

    def exists(self, file: FileRecord) -> bool:
        """Whether the object is there, of the recorded size. Raises Unavailable."""
        try:
            with _missing_passes():
                return self._store.stat(file.file_path).size == file.file_size
        except ObjectNotFound:
            return False


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
