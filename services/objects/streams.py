"""Streams between the bucket and something else: hashed as they pass, and stored whole or in parts."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from threading import Event
from typing import Any, cast

import zstandard

from core.parts import plan
from services.objects.object_reader import WINDOW, Damaged, Reader
from services.objects.part_writer import PartWriter
from storage_backends.base import Checksum, ChecksumMismatch, MultipartStore, ObjectInfo

PIECE = 1024 * 1024  # bytes; larger reads are three times faster than 64 KiB ones


class Stopped(Exception):
    """The work was broken off."""


class Stoppable:
    """A stream that ends with ``Stopped`` once ``stopping`` is set."""

    def __init__(self, reader: Reader, stopping: Event):
        self._reader = reader
        self._stopping = stopping

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes, b"" at the end."""
        if self._stopping.is_set():
            raise Stopped("broken off")
        return self._reader.read(size)


class Hashed:
    """A stream whose SHA-256 and length are known when it has been read. ``read`` raises Damaged at the end if they are not
    those expected."""

    def __init__(self, reader: Reader, *, sha256: str | None = None, size: int | None = None):
        """``sha256``, ``size``: what is expected, if that is known."""
        self._reader = reader
        self._expected = sha256, size
        self._digest = hashlib.sha256()
        self.length = 0  # bytes so far

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes, b"" at the end."""
        data = self._reader.read(size)
        self._take(data)
        if not data and size:
            sha256, length = self._expected
            if sha256 not in (None, self.sha256) or length not in (None, self.length):
                raise Damaged(f"The bytes are not those expected: {self.length} with the SHA-256 {self.sha256}.")
        return data

    def _take(self, data: bytes) -> int:
        self._digest.update(data)
        self.length += len(data)
        return len(data)

    def read_to_end(self) -> None:
        """Read what is left."""
        while self.read(PIECE):
            pass

    @property
    def digest(self) -> bytes:
        """SHA-256 of what was read."""
        return self._digest.digest()

    @property
    def sha256(self) -> str:
        """The same in hexadecimal."""
        return self._digest.hexdigest()


class HashedOriginal(Hashed):
    """Passes on a compressed object as it is stored; SHA-256 and length are those of its original. ``read`` raises Damaged also
    if it can't be decompressed."""

    def __init__(self, reader: Reader, *, sha256: str | None = None, size: int | None = None):
        super().__init__(reader, sha256=sha256, size=size)
        decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW)
        self._decoder = decompressor.stream_writer(cast(Any, _Writer(super()._take)), closefd=False)

    def _take(self, data: bytes) -> int:
        try:
            return self._decoder.write(data)
        except zstandard.ZstdError as error:
            raise Damaged("The object can't be decompressed.") from error


class _Writer:
    def __init__(self, write: Callable[[bytes], int]):
        self.write = write


def store_stream(store: MultipartStore, key: str, stream: Hashed, *, size: int, content_type: str) -> ObjectInfo:
    """Store ``size`` bytes under a key that has nothing else to hold; with an error nothing is left of it, or an object of the
    same bytes. Memory is bounded by one part, or two.

    The bucket has confirmed a checksum of the bytes, or they were read back. Raises ChecksumMismatch if it did not store them,
    Damaged if the stream has another length."""
    writer = PartWriter(store, plan(size).part_size, capacity=size)
    try:
        while piece := stream.read(min(PIECE, writer.room)):
            writer.add(piece)
            if not writer.room and stream.length < size:
                if writer.ref is None:
                    writer.begin(key, content_type)
                writer.send_behind()
        stream.read(1)
        if stream.length != size:
            raise Damaged(f"{key} has {stream.length} bytes instead of {size}")
        checksum = Checksum("sha256", b64encode(stream.digest).decode())
        info = writer.finish(key, content_type, checksum=checksum)
    except BaseException:
        with suppress(Exception):
            writer.settle()
        if writer.ref is not None:
            with suppress(Exception):
                store.abort_multipart(writer.ref)
        raise
    confirmed = info.checksum if writer.ref is None else all(part.checksum for part in writer.parts)
    if info.size != size or not (confirmed or _sha256_of(store, info) == stream.sha256):
        raise ChecksumMismatch(f"The bucket did not store what was sent as {key}.")
    return info


def _sha256_of(store: MultipartStore, info: ObjectInfo) -> str:
    with store.open(info.key, if_match=info.etag) as reader:
        hashed = Hashed(reader)
        hashed.read_to_end()
    return hashed.sha256
