"""Sample data: streams that count what is read and can break off, and small real pictures."""

from __future__ import annotations

import io
from collections.abc import Iterator

from PIL import Image


class Source:
    """A readable stream over bytes. It counts what is read (``taken``) and can fail at an offset."""

    def __init__(self, data: bytes, *, fails_at: int | None = None, error: Exception | None = None):
        self._data = memoryview(data)
        self._fails_at = fails_at
        self._error = error
        self.taken = 0

    def read(self, size: int = -1, /) -> bytes:
        end = len(self._data) if size < 0 else min(self.taken + size, len(self._data))
        if self._fails_at is not None and end > self._fails_at:
            assert self._error is not None
            raise self._error
        piece = bytes(self._data[self.taken : end])
        self.taken = end
        return piece


class Repeated:
    """A stream of ``piece``, ``times`` times, held in memory once."""

    def __init__(self, piece: bytes, times: int):
        self._pieces: Iterator[bytes] = (piece for _ in range(times))
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        rest = self._rest or next(self._pieces, b"")
        piece, self._rest = rest[:size], rest[size:]
        return piece


def picture(
    kind: str, width: int = 40, height: int = 30, color: tuple[int, ...] = (200, 30, 60), mode: str = "RGB"
) -> bytes:
    """A real picture in one of Pillow's formats."""
    out = io.BytesIO()
    Image.new(mode, (width, height), color).save(out, kind)
    return out.getvalue()
