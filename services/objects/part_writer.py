"""Write an object through one buffer of a part's size: whole if it fits, else as a multipart upload.

The caller fills the buffer, and sends a part when there is no ``room``. Parts and whole objects carry a checksum that the
bucket enforces. Memory is bounded by one part, and by a second one for a few uploads at a time, which fill it while the first is
sent."""

from __future__ import annotations

import zlib
from base64 import b64encode
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass
from mmap import mmap
from threading import BoundedSemaphore
from time import monotonic

from services.objects.bucket import bucket_errors
from storage_backends.base import Checksum, MultipartRef, MultipartStore, ObjectInfo, OutcomeUnknown, Part

_Buffer = bytearray | mmap
_SECOND_BUFFERS = 4  # of all uploads in a process: with more uploads at once, one reads while another sends
_second_buffers = BoundedSemaphore(_SECOND_BUFFERS)
_senders = ThreadPoolExecutor(_SECOND_BUFFERS, "part-sender")
_KEPT = 2.0  # seconds from the start of sending that a second buffer is kept for the next part


@dataclass(frozen=True, slots=True)
class _Sending:
    """A part that is being sent."""

    future: Future[Part]
    buffer: _Buffer
    began: float

    def is_over(self) -> bool:
        """Whether it failed, or is stored and the next part takes long to arrive."""
        return self.future.done() and (self.future.exception() is not None or monotonic() - self.began > _KEPT)


class PartWriter:
    """The writer of one object."""

    def __init__(self, store: MultipartStore, part_size: int, *, capacity: int = 0):
        """``capacity``: bytes to allocate with the first piece, if their number is known."""
        self._store = store
        self._capacity = min(capacity, part_size)
        self._buffer: _Buffer = bytearray()
        self.filled = 0  # bytes in the buffer
        self.room = part_size  # bytes until the part is full
        self.ref: MultipartRef | None = None  # the multipart upload, once it has begun
        self.parts: list[Part] = []  # those stored so far
        self._sending: _Sending | None = None  # by send_behind

    def add(self, data: bytes | memoryview) -> memoryview:
        """Add as much as there is room for. Returns the rest. Raises what the part failed with that is being sent."""
        if self._sending is not None and self._sending.is_over():
            self.settle()  # another upload may have the second buffer
        if not self._buffer:
            # A whole part has pages of its own, which go back to the system at once.
            self._buffer = mmap(-1, self.room) if self._capacity == self.room else bytearray(self._capacity)
        view = memoryview(data)
        fits = view[: self.room]
        self._buffer[self.filled : self.filled + len(fits)] = fits  # in place, or growing the buffer
        self.filled += len(fits)
        self.room -= len(fits)
        return view[len(fits) :]

    def head(self, size: int) -> bytes:
        """The first ``size`` bytes of the buffer."""
        return bytes(self._buffer[: min(size, self.filled)])

    def begin(self, key: str, content_type: str, *, checksums: bool = True) -> MultipartRef:
        """Begin the multipart upload. Part copies inside the bucket have no checksums, so such an upload has none."""
        with bucket_errors():
            self.ref = self._store.create_multipart(
                key, content_type=content_type, checksums="crc32" if checksums else None
            )
        return self.ref

    def send(self, number: int | None = None, *, checksum: bool = True) -> Part:
        """Store the buffer as a part, by default the next one. Raises UploadGone if the bucket has dropped the
        multipart upload."""
        with self._contents() as data:
            part = self._put_part(number or len(self.parts) + 1, data, checksum)
        self.parts.append(part)
        self.room += self.filled
        self.filled = 0
        return part

    def send_behind(self) -> None:
        """Send the buffer as the next part while the caller fills a second one; a later call raises what it raises. If other
        uploads have all second buffers, it is ``send``."""
        second = self.settle()
        if not _second_buffers.acquire(blocking=False):
            self.send()
            return
        data = memoryview(self._buffer)[: self.filled]
        future = _senders.submit(copy_context().run, self._put_part, len(self.parts) + 1, data)
        self._sending = _Sending(future, self._buffer, monotonic())
        self._buffer = mmap(-1, self.filled) if second is None else second
        self.room += self.filled
        self.filled = 0

    def settle(self) -> _Buffer | None:
        """Wait for the part that is being sent, if any; its buffer. Must be called before the upload is aborted, which would miss
        a part that is stored afterwards."""
        if self._sending is None:
            return None
        sending, self._sending = self._sending, None
        try:
            self.parts.append(sending.future.result())
            return sending.buffer
        finally:
            del sending  # its error's traceback holds this frame: a cycle would keep the buffers until it is collected
            _second_buffers.release()

    def _put_part(self, number: int, data: memoryview, checksum: bool = True) -> Part:
        assert self.ref is not None
        with bucket_errors():
            return self._store.put_part(self.ref, number, data, checksum=crc32_of(data) if checksum else None)

    def put(self, key: str, content_type: str, *, checksum: Checksum | None = None) -> ObjectInfo:
        """Store the buffer as an object, with its CRC32 unless another checksum is given. The buffer keeps its bytes."""
        with self._contents() as data, bucket_errors():
            return self._store.put(
                key, data, content_type=content_type, size=len(data), checksum=checksum or crc32_of(data)
            )

    def finish(self, key: str, content_type: str, *, checksum: Checksum | None = None) -> ObjectInfo:
        """Store what is left, and complete the object. ``checksum`` is of an object that fits into the buffer."""
        if self.ref is None:
            return self.put(key, content_type, checksum=checksum)
        self.settle()
        if self.filled:
            self.send()
        with bucket_errors():
            return complete(self._store, self.ref, self.parts)

    @contextmanager
    def _contents(self) -> Iterator[memoryview]:
        with memoryview(self._buffer) as buffer, buffer[: self.filled] as data:
            yield data


def complete(store: MultipartStore, ref: MultipartRef, parts: Sequence[Part]) -> ObjectInfo:
    """Join the parts, and stat the object, which decides if the answer was lost: ObjectNotFound means that the parts were not
    joined."""
    with suppress(OutcomeUnknown):
        store.complete_multipart(ref, parts)
    return store.stat(ref.key)


def crc32_of(data: bytes | memoryview) -> Checksum:
    """The CRC32 as S3's headers carry it."""
    return Checksum("crc32", b64encode(zlib.crc32(data).to_bytes(4, "big")).decode())
