"""A large file that the child reads through its parent, range by range.

The poster of a film with its index at the end, or the listing of an archive, costs a few MiB of a file of any size. The
child writes ``RANGE_REQUEST``, offset and length to its answer, and reads length and bytes from its input. parsers/run.py
checks every request.
"""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

RANGE_REQUEST = b"\xff\xff\xff\xff"  # in place of an answer's length
RANGE = struct.Struct(">QI")  # offset, length
MAX_REQUESTS = 400
MAX_LENGTH = 8 * 1024 * 1024  # bytes of one range
_FIRST_LENGTH = 256 * 1024  # doubled with each range that follows the one before
_MAX_RANGES = 8  # kept in memory


class Exhausted(OSError):
    """The parser reached a limit; it goes on with what it has read."""


class Seekable(io.RawIOBase):
    """A file of ``_size`` bytes that is read at ``_position``."""

    _size: int
    _position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError("negative position")
        self._position = start + offset
        return self._position


class RangedFile(Seekable):
    """A file whose ranges are fetched from the parent process when they are read."""

    def __init__(self, size: int, budget: int, reader: BinaryIO, writer: int):
        """``size``: bytes of the file; ``budget``: bytes that may be fetched in all; ``writer``: a file descriptor."""
        self._size, self._budget, self._requests = size, budget, 0
        self._reader, self._writer = reader, io.FileIO(writer, "w", closefd=False)
        self._ranges: list[tuple[int, bytes]] = []
        self._next = (-1, 0)  # the end of the last range, and its length

    def readinto(self, buffer: memoryview | bytearray) -> int:  # type: ignore[override]
        if self._position >= self._size or not len(buffer):
            return 0
        start, data = self._range()
        at = self._position - start
        count = min(len(buffer), len(data) - at)
        buffer[:count] = data[at : at + count]
        self._position += count
        return count

    def _range(self) -> tuple[int, bytes]:
        """The kept or fetched range that holds the current position."""
        for start, data in self._ranges:
            if start <= self._position < start + len(data):
                return start, data
        end, last = self._next
        length = min(2 * last, MAX_LENGTH) if end == self._position else _FIRST_LENGTH
        length = min(length, self._size - self._position)
        data = self._fetch(self._position, length)
        self._next = (self._position + length, length)
        self._ranges = [*self._ranges[1 - _MAX_RANGES :], (self._position, data)]
        return self._ranges[-1]

    def _fetch(self, offset: int, length: int) -> bytes:
        self._requests += 1
        self._budget -= length
        if self._requests > MAX_REQUESTS or self._budget < 0:
            raise Exhausted("too much of the file was requested")
        self._writer.write(RANGE_REQUEST + RANGE.pack(offset, length))
        sent = int.from_bytes(self._reader.read(4))
        data = self._reader.read(sent)
        if sent != length or len(data) != length:
            raise OSError("the file is shorter than it was")
        return data
