"""A large file in the child that stays with the parent: what is read of it is asked for, span by span.

So the poster of a film with its index at the end, or the listing of an archive, costs a few MiB of a file of any size. The
child writes ``ASK``, offset and length to its answer and reads length and bytes from its input; parsers/run.py checks
every figure.
"""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

ASK = b"\xff\xff\xff\xff"  # in place of an answer's length
SPAN = struct.Struct(">QI")  # offset, length
MAX_ASKS = 400
MAX_LENGTH = 8 * 1024 * 1024
_LENGTH = 256 * 1024  # what a first read fetches; reading on doubles it
_KEPT = 8  # spans


class Exhausted(OSError):
    """The parser asked too often, or for too much; what it knows by now has to do."""


class RangedFile(io.RawIOBase):
    def __init__(self, size: int, budget: int, reader: BinaryIO, writer: int):
        """``size`` of the file, ``budget`` of all that may be fetched, both in bytes; ``writer`` is a descriptor."""
        self._size, self._budget, self._asks = size, budget, 0
        self._reader, self._writer = reader, io.FileIO(writer, "w", closefd=False)
        self._position = 0
        self._spans: list[tuple[int, bytes]] = []
        self._next = (-1, 0)  # where reading on would begin, and how much the last fetch was

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

    def readinto(self, buffer: memoryview | bytearray) -> int:  # type: ignore[override]
        if self._position >= self._size or not len(buffer):
            return 0
        start, data = self._span()
        at = self._position - start
        count = min(len(buffer), len(data) - at)
        buffer[:count] = data[at : at + count]
        self._position += count
        return count

    def _span(self) -> tuple[int, bytes]:
        for span in self._spans:
            if span[0] <= self._position < span[0] + len(span[1]):
                return span
        following, last = self._next
        length = min(2 * last, MAX_LENGTH) if following == self._position else _LENGTH
        length = min(length, self._size - self._position)
        data = self._fetch(self._position, length)
        self._next = (self._position + length, length)
        self._spans = [*self._spans[1 - _KEPT :], (self._position, data)]
        return self._spans[-1]

    def _fetch(self, offset: int, length: int) -> bytes:
        self._asks += 1
        self._budget -= length
        if self._asks > MAX_ASKS or self._budget < 0:
            raise Exhausted("too much of the file was asked for")
        self._writer.write(ASK + SPAN.pack(offset, length))
        (given,) = struct.unpack(">I", self._reader.read(4))
        data = self._reader.read(given)
        if given != length or len(data) != length:
            raise OSError("the file is shorter than it was")
        return data
