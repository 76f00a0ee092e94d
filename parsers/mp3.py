"""MP3 files that FFmpeg refuses: behind zeros, as interrupted downloads have them, or behind a tag of a wrong length."""

from __future__ import annotations

import io
import re
from itertools import islice
from typing import BinaryIO, cast

from parsers.ranged import Seekable

_SEARCHED = 8 * 1024 * 1024  # bytes
_TRIED = 100_000  # possible headers
# The header of a frame of layer III (ISO/IEC 11172-3, 2.4.1.3; 13818-3; MPEG 2.5)
_FRAME = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][\x10-\xef]")
_BIT_RATES = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)  # kbit/s
_LOW_BIT_RATES = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # of MPEG 2 and 2.5


def without_zeros(file: BinaryIO) -> BinaryIO:
    """The file from its first byte that is not 0, if it begins with at least 16 zeros."""
    file.seek(0)
    at = 0
    while chunk := file.read(16 if at == 0 else 1024 * 1024):
        if content := chunk.lstrip(b"\0"):
            if at:
                return cast("BinaryIO", _Spliced(b"", file, at + len(chunk) - len(content)))
            break
        at += len(chunk)
    file.seek(0)
    return file


def has_wrong_tag(file: BinaryIO) -> bool:
    """Whether a tag's length leads to what can't follow it, perhaps into the sound, of which FFmpeg would skip a part."""
    file.seek(0)
    head = file.read(10)
    file.seek(10 + sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=False)))
    behind = file.read(4)
    file.seek(0)
    return (
        head.startswith(b"ID3") and behind[:1] not in b"\0\xffIRFOf"
    )  # zeros, frames, a tag, or what begins another format


def from_first_frame(file: BinaryIO) -> BinaryIO | None:
    """The file from the first of three frames in a row, behind its tag if it has one; None if there are none."""
    file.seek(0)
    data = file.read(_SEARCHED)
    for match in islice(_FRAME.finditer(data), _TRIED):
        at = match.start()
        second = at + _length(data, at)
        third = second + _length(data, second)
        if data[at : at + 2] == data[second : second + 2] == data[third : third + 2]:
            size = bytes(at - 10 >> shift & 127 for shift in (21, 14, 7, 0))
            tag = data[:6] + size + data[10:at] if data.startswith(b"ID3") else b""
            return cast("BinaryIO", _Spliced(tag, file, at))
    return None


def _length(data: bytes, at: int) -> int:
    """Bytes of the frame whose header is there."""
    _, version, rates = data[at : at + 3].ljust(3, b"\0")
    low = version < 0xF8
    sampling = (44_100, 48_000, 32_000, 1)[rates >> 2 & 3] >> (0 if not low else 1 if version > 0xF0 else 2)
    kbits = (*(_LOW_BIT_RATES if low else _BIT_RATES), 0)[rates >> 4]
    return (72_000 if low else 144_000) * kbits // max(1, sampling) + (rates >> 1 & 1)


class _Spliced(Seekable):
    """Other bytes in place of a file's beginning."""

    def __init__(self, head: bytes, file: BinaryIO, start: int):
        self._head, self._file, self._start = head, file, start
        self._size = len(head) + file.seek(0, io.SEEK_END) - start

    def readinto(self, buffer: memoryview | bytearray) -> int:  # type: ignore[override]
        if self._position < len(self._head):
            data = self._head[self._position : self._position + len(buffer)]
        else:
            self._file.seek(self._start + self._position - len(self._head))
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
