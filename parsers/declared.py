"""Format, width, height and EXIF as a file states them, for pictures that can't be opened."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG_SEGMENT = re.compile(rb"\xff+([\x01-\xfe])")
_SIZE_OF_ITEM = re.compile(rb"\0\0\0\x14ispe\0\0\0\0(.{8})", re.DOTALL)  # ISO/IEC 23008-12 §6.5.3.2


def size(data: bytes) -> tuple[str, int, int] | None:
    """Format, width and height in pixels, not turned; None if they are not in these bytes."""
    try:
        found = _size(data)
    except struct.error:
        return None
    return found if found and min(found[1:]) > 0 else None


def exif(data: bytes) -> bytes | None:
    """The EXIF of a PNG, also behind the pixels (PNG, third edition, §5.6), WebP or JPEG."""
    if data.startswith(_PNG):
        return next((body for name, body in _chunks(data, 8, ">I4s", 4) if name == b"eXIf"), None)
    if _is_webp(data):
        return next((body for name, body in _chunks(data, 12, "<4sI", 0) if name == b"EXIF"), None)
    segments = _segments(data) if data.startswith(b"\xff\xd8") else iter(())
    return next((body for marker, body in segments if marker == 0xE1 and body.startswith(b"Exif\0\0")), None)


def _size(data: bytes) -> tuple[str, int, int] | None:
    if data.startswith(_PNG):
        return "PNG", *struct.unpack_from(">2I", data, 16)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF", *struct.unpack_from("<2H", data, 6)
    if data.startswith(b"BM"):
        width, height = struct.unpack_from("<2H" if data[14:15] == b"\x0c" else "<2i", data, 18)
        return "BMP", width, abs(height)
    if _is_webp(data):
        return "WEBP", *_webp(data)
    if data.startswith(b"\xff\xd8"):
        for marker, body in _segments(data):
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # SOF (ITU-T T.81, table B.1)
                height, width = struct.unpack_from(">2H", body, 1)
                return "JPEG", width, height
    if data[4:8] == b"ftyp":
        sizes = [struct.unpack(">2I", match[1]) for match in _SIZE_OF_ITEM.finditer(data[:65_536])]
        width, height = max(sizes, default=(0, 0), key=lambda one: one[0] * one[1])
        return "AVIF" if re.search(b"avi[fs]", data[8:64]) else "HEIF", width, height
    return None


def _is_webp(data: bytes) -> bool:
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<2H", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and body of each segment of a JPEG, up to its pixels."""
    at = 2
    while (segment := _JPEG_SEGMENT.match(data, at)) and segment[1] != b"\xda":
        start = segment.end()
        at = start + int.from_bytes(data[start : start + 2])
        yield segment[1][0], data[start + 2 : at]


def _chunks(data: bytes, at: int, head: str, behind: int) -> Iterator[tuple[bytes, bytes]]:
    """Name and body of each chunk; ``head``: the order of its length and name, ``behind``: bytes after its body."""
    while at + 8 <= len(data):
        fields = struct.unpack_from(head, data, at)
        name, length = fields if head.endswith("I") else fields[::-1]
        yield name, data[at + 8 : at + 8 + length]
        at += 8 + length + (behind or length % 2)
