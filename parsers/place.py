"""Remove the location from a picture's bytes, by patches of equal length: nothing else moves, and no pixel changes.

The location is in EXIF's GPS directory, in XMP's GPS properties, and in the film that telephones append to a picture. The
whole file is searched, whatever its format: JPEG, HEIC, AVIF, PNG, WebP, GIF, TIFF, raw pictures, embedded pictures and
appended data. In PNG, compressed texts are read too, and checksums corrected. Locations in a camera's proprietary notes, and
place names that somebody typed, are not searched for.

The result is read again, by this module and by Pillow. If a location can still be found, parsing fails.
"""

from __future__ import annotations

import contextlib
import re
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any

from PIL import Image

from parsers import ParserFailed, exif

with contextlib.suppress(ImportError):  # optional: the search works without it
    import pillow_heif

    pillow_heif.register_heif_opener()

_TIFF = re.compile(rb"II\*\0|MM\0\*")
_GPS, _EXIF, _SUB_IFDS = 0x8825, 0x8769, 0x014A
_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4)  # bytes of a value, by its type (TIFF 6.0 §2)
_POINTERS = (4, 13)  # LONG, IFD
_MAX_ENTRIES = 1000  # of a directory
_MAX_DIRECTORIES = 100  # of one TIFF structure
_MAX_VALUE = 64 * 1024  # bytes of one GPS value
_MAX_TEXT = 16 * 1024 * 1024  # bytes of a compressed text
_XMP_NAME = re.compile(rb":(?:GPS|Latitude|Longt?itude)", re.IGNORECASE)  # one maker of drones misspells it
_XMP_LEFT = re.compile(rb":(?:GPS(?:Lat|Lon|Pos|Coord)\w*|Latitude|Longt?itude)\s*[=>/]", re.IGNORECASE)
_XMP = re.compile(
    rb"""[\w.-]{1,64}:(?:GPS\w{1,64}|Latitude|Longt?itude)\s*=\s*(?:"[^"<]{0,4096}"|'[^'<]{0,4096}')"""
    rb"|<([\w.-]{1,64}:(?:GPS\w{1,64}|Latitude|Longt?itude))(?:\s[^<>]{0,4096})?>.{0,4096}?</\1\s*>",
    re.DOTALL | re.IGNORECASE,
)
_FILM = re.compile(rb"\xa9xyz..\x15\xc7[+-][0-9.]{1,16}[+-][0-9.]{1,16}(?:[+-][0-9.]{1,16})?/?", re.DOTALL)
# in other films
_ISO_6709 = re.compile(rb"[+-]\d{2}\.\d{4,16}[+-]\d{3}\.\d{4,16}(?:[+-]\d{1,8}(?:\.\d{1,16})?)?/")
_PNG = b"\x89PNG\r\n\x1a\n"
_RAW_PROFILE = re.compile(rb"Raw profile type \w+\0\s*\w+\s+\d+\s+([0-9a-fA-F\s]*)", re.DOTALL)  # ImageMagick's


def parse(data: bytes, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """``offsets`` of the patches, ascending; the blobs are the bytes to put there. No patches if there is no location."""
    clean = bytearray(data)
    _remove(clean, data)
    again = bytearray(clean)
    _remove(again, clean)
    if again != clean or _XMP_LEFT.search(clean) or _seen_by_pillow(clean):
        raise ParserFailed("The picture's location can't be removed")
    patches = list(_differences(data, clean))
    return {"offsets": [offset for offset, _ in patches]}, [patch for _, patch in patches]


def _remove(data: bytearray, before: bytes | bytearray) -> None:
    """``before``: a copy of the same bytes, to find what was changed."""
    _remove_metadata(data)
    if data.startswith(_PNG):
        _remove_chunks(data, before)


def _remove_metadata(data: bytearray) -> None:
    for base in [match.start() for match in _TIFF.finditer(data)]:
        _Tiff(data, base).remove_gps()
    if names := [match.start() for match in _XMP_NAME.finditer(data)]:
        properties = _XMP.finditer(data, max(0, names[0] - 128), names[-1] + 16 * 1024)
        for span in [match.span() for match in properties]:
            _fill(data, *span, b" ")
    for start, end in [match.span() for match in _FILM.finditer(data)]:
        data[start : start + 4] = b"free"  # QuickTime's atom for padding
        _fill(data, start + 4, end, b"\0")
    for start, end in [match.span() for match in _ISO_6709.finditer(data)]:
        _fill(data, start, end, b" ")


def _fill(data: bytearray, start: int, end: int, byte: bytes) -> None:
    data[start:end] = byte * (end - start)


class _Tiff:
    """A TIFF structure, such as EXIF, at ``base`` in the data (TIFF 6.0 §2). Data that only looks like one stays as it is."""

    def __init__(self, data: bytearray, base: int):
        self._data, self._base = data, base
        self._order = "<" if data[base : base + 1] == b"I" else ">"
        self._seen: set[int] = set()

    def remove_gps(self) -> None:
        """Remove every entry that points to a GPS directory, and overwrite that directory."""
        waiting = [self._number(self._base + 4, "I")]
        while waiting and len(self._seen) < _MAX_DIRECTORIES:
            offset = waiting.pop()
            count = self._count(offset)
            if count is None or offset in self._seen:
                continue
            self._seen.add(offset)
            start = self._base + offset + 2
            kept = bytearray()
            for at in range(start, start + 12 * count, 12):
                tag, kind, values = self._number(at, "H"), self._number(at + 2, "H"), self._number(at + 4, "I")
                if tag == _GPS and kind in _POINTERS and values == 1:
                    self._wipe(self._number(at + 8, "I"))
                    continue
                kept += self._data[at : at + 12]
                if tag in (_EXIF, _SUB_IFDS) and kind in _POINTERS:
                    waiting += self._pointers(at, values)
            end = start + 12 * count + 4
            following = bytes(self._data[end - 4 : end])
            waiting.append(self._number(end - 4, "I"))
            if len(kept) < 12 * count:
                directory = struct.pack(self._order + "H", len(kept) // 12) + kept + following
                self._data[start - 2 : end] = directory.ljust(end - start + 2, b"\0")

    def _count(self, offset: int) -> int | None:
        """The number of entries of the directory at ``offset``; None if there can't be one."""
        start = self._base + offset
        if offset < 8 or start + 2 > len(self._data):
            return None
        count = self._number(start, "H")
        fits = 1 <= count <= _MAX_ENTRIES and start + 2 + 12 * count + 4 <= len(self._data)
        return count if fits else None

    def _pointers(self, at: int, values: int) -> list[int]:
        if values == 1:
            return [self._number(at + 8, "I")]
        start = self._base + self._number(at + 8, "I")
        if not 2 <= values <= _MAX_DIRECTORIES or start + 4 * values > len(self._data):
            return []
        return [self._number(start + 4 * n, "I") for n in range(values)]

    def _wipe(self, offset: int) -> None:
        count = self._count(offset)
        if count is None:
            return
        start = self._base + offset
        for at in range(start + 2, start + 2 + 12 * count, 12):
            kind, values = self._number(at + 2, "H"), self._number(at + 4, "I")
            size = values * (_SIZES[kind] if kind < len(_SIZES) else 0)
            if size > 4:
                first = self._base + self._number(at + 8, "I")
                if size > _MAX_VALUE:
                    raise ParserFailed("The picture's location is too large")
                if first + size <= len(self._data):
                    _fill(self._data, first, first + size, b"\0")
        _fill(self._data, start, start + 2 + 12 * count + 4, b"\0")

    def _number(self, at: int, kind: str) -> int:
        field = self._data[at : at + struct.calcsize(kind)]
        if len(field) < struct.calcsize(kind):
            return 0
        number: int = struct.unpack(self._order + kind, field)[0]
        return number


# -- PNG -------------------------------------------------------------------------------------------------------------


def _remove_chunks(data: bytearray, before: bytes | bytearray) -> None:
    """Replace texts that hold a location by an empty comment, and correct the checksums of changed chunks (PNG, third
    edition, §5.3)."""
    at = len(_PNG)
    while at + 12 <= len(data):
        length = struct.unpack_from(">I", data, at)[0]
        end = at + 8 + length
        if end + 4 > len(data):
            return
        name, body = bytes(data[at + 4 : at + 8]), bytes(data[at + 8 : end])
        if name in (b"tEXt", b"zTXt", b"iTXt") and _has_location(_text_of(name, body)):
            data[at + 4 : end] = b"tEXt" + b"Comment\0".ljust(length)[:length]
        if data[at:end] != before[at:end]:
            data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4


def _text_of(name: bytes, body: bytes) -> bytes:
    """The text of a chunk (§11.3.3), decompressed; the bytes of a profile that is written in hexadecimal."""
    keyword, _, rest = body.partition(b"\0")
    if name == b"iTXt":
        compressed, text = rest[:1] == b"\1", b"\0".join(rest[2:].split(b"\0", 2)[2:])  # after language and translation
    else:
        compressed, text = name == b"zTXt", rest[1:] if name == b"zTXt" else rest
    if compressed:
        inflater = zlib.decompressobj()
        with contextlib.suppress(zlib.error):
            text = inflater.decompress(text, _MAX_TEXT)
        if inflater.unconsumed_tail:
            raise ParserFailed("The picture has too long a text")
    profile = _RAW_PROFILE.match(keyword + b"\0" + text)
    if profile is None:
        return text
    digits = b"".join(profile[1].split())
    return bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii"))


def _has_location(text: bytes) -> bool:
    without = bytearray(text)
    _remove_metadata(without)
    return without != text


# -- the result ------------------------------------------------------------------------------------------------------


def _seen_by_pillow(data: bytes | bytearray) -> bool:
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # only the head is read
    try:
        with Image.open(BytesIO(data)) as image:
            return bool(exif.tags(image)[1])
    except Exception:  # Pillow can't open it, so it shows no location
        return False
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _differences(before: bytes, after: bytearray) -> Iterator[tuple[int, bytes]]:
    """Where two texts of equal length differ: offset and bytes of ``after``, at most 4 KiB each."""
    size = 4096
    for start in range(0, len(before), size):
        old, new = before[start : start + size], after[start : start + size]
        if old != new:
            first = next(n for n in range(len(old)) if old[n] != new[n])
            last = next(n for n in range(len(old) - 1, -1, -1) if old[n] != new[n])
            yield start + first, bytes(new[first : last + 1])
