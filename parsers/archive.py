"""What is in an archive: names, sizes and times of ZIP, tar and packed tar, and of a single packed file.

Nothing is extracted: names are data that is listed (THREATS T22, T95). Of a packed tar all bytes must be unpacked to find
its entries, so that stops at a limit, and what was found by then is the listing. 7z and RAR have no small reader (py7zr
brings six compiled packages), so they have no listing.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import tarfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, BinaryIO, cast

from parsers import ParserFailed, Unsupported
from parsers.packages import open_zip
from parsers.ranged import Exhausted

SEEKS = True
_MAX_LISTED = 5_000
_MAX_COUNTED = 200_000
_MAX_NAME = 1_024  # characters
_MAX_UNPACKED = 512 * 1024 * 1024  # bytes
_SECONDS = 6.0  # of processor time
_BLOCK = tarfile.BLOCKSIZE
# Controls, directions that make a name look like another, and what is no character.
_UNSEEN = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MAX_SIZE = 1 << 53  # what JSON's readers take for a whole number


def _zstd(file: BinaryIO) -> BinaryIO:
    import zstandard

    return cast("BinaryIO", zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file))


_PACKED: tuple[tuple[bytes, str, Callable[[BinaryIO], Any]], ...] = (
    (b"\x1f\x8b", "GZIP", lambda file: gzip.GzipFile(fileobj=file)),
    (b"BZh", "BZIP2", bz2.BZ2File),
    (b"\xfd7zXZ\0", "XZ", lzma.LZMAFile),
    (b"\x28\xb5\x2f\xfd", "ZSTD", _zstd),
)
_BROKEN = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)


def parse(file: BinaryIO, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """``contents``: entries, total_entries, total_size, truncated."""
    magic = file.read(_BLOCK)
    file.seek(0)
    if "contents" not in arguments["want"]:
        return {"metadata": {}}, []
    if magic.startswith(b"PK"):
        return {"metadata": {"format": "ZIP"}, "contents": _zip(file)}, []
    for prefix, format, opened in _PACKED:
        if magic.startswith(prefix):
            return {"metadata": {"format": format}, "contents": _unpacked(opened(file), arguments, magic)}, []
    if _is_tar(magic):
        return {"metadata": {"format": "TAR"}, "contents": _tar(file, "r:")}, []
    raise Unsupported("This is not an archive whose contents can be listed")


class _Listing:
    def __init__(self) -> None:
        self._entries: list[dict[str, Any]] = []
        self._count = self._size = 0
        self.complete = True
        self._until = time.process_time() + _SECONDS

    def add(self, name: str, size: int, packed: int | None, modified: str | None, is_directory: bool) -> None:
        """Exhausted where there are too many to go on."""
        size = max(0, min(size, _MAX_SIZE))
        self._count += 1
        self._size = min(self._size + size, _MAX_SIZE)
        if len(self._entries) < _MAX_LISTED:
            self._entries.append(
                {
                    "name": _UNSEEN.sub("\ufffd", name[:_MAX_NAME]),
                    "size": size,
                    "compressed_size": packed,
                    "is_directory": is_directory,
                    "modified_at": modified,
                }
            )
        if self._count >= _MAX_COUNTED or time.process_time() > self._until:
            raise Exhausted("too many entries")

    def shown(self) -> dict[str, Any]:
        """``total_entries`` and ``total_size`` are of what was found; if ``truncated``, there may be more."""
        return {
            "entries": self._entries,
            "total_entries": self._count,
            "total_size": self._size,
            "truncated": not self.complete or self._count > len(self._entries),
        }


def _zip(file: BinaryIO) -> dict[str, Any]:
    listing = _Listing()
    with suppress(Exhausted):
        for entry in open_zip(file).infolist():
            modified = None
            with suppress(ValueError):
                modified = datetime(*entry.date_time).isoformat()
            packed = min(entry.compress_size, _MAX_SIZE)
            listing.add(entry.filename, entry.file_size, packed, modified, entry.is_dir())
        return listing.shown()
    listing.complete = False
    return listing.shown()


def _is_tar(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _tar(file: Any, mode: Any) -> dict[str, Any]:
    """What lies before damage, or a limit, is listed."""
    listing = _Listing()
    try:
        with tarfile.open(fileobj=file, mode=mode, errorlevel=0) as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined] # it would keep them all
                modified = None
                with suppress(ValueError, OverflowError, OSError):
                    modified = datetime.fromtimestamp(member.mtime, UTC).isoformat().replace("+00:00", "Z")
                listing.add(member.name, member.size, None, modified, member.isdir())
    except _BROKEN:
        listing.complete = False
    return listing.shown()


class _Limited(io.RawIOBase):
    """What a packed file unpacks to, as far as that is worth while."""

    def __init__(self, file: Any):
        self._file, self.given = file, 0
        self._until = time.process_time() + _SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._file.read1(min(len(buffer), 1024 * 1024))  # what comes before damage is given
        self.given += len(data)
        if self.given > _MAX_UNPACKED or time.process_time() > self._until:
            raise Exhausted("too much to unpack")
        buffer[: len(data)] = data
        return len(data)


def _unpacked(file: Any, arguments: dict[str, Any], magic: bytes) -> dict[str, Any]:
    limited = _Limited(file)
    stream = io.BufferedReader(limited, 1024 * 1024)
    try:
        first = stream.peek(_BLOCK)[:_BLOCK]
    except _BROKEN:
        raise ParserFailed("The archive is broken") from None
    if _is_tar(first):
        return _tar(stream, "r|")
    listing = _Listing()
    try:
        while stream.read(1024 * 1024):
            pass
    except _BROKEN:
        listing.complete = False
    with suppress(Exhausted):
        listing.add(_packed_name(magic) or arguments["stem"], limited.given, None, None, False)
    return listing.shown()


def _packed_name(magic: bytes) -> str | None:
    """The name that gzip's header holds (RFC 1952 section 2.3), where nothing stands before it."""
    if magic[:2] == b"\x1f\x8b" and len(magic) > 10 and magic[3] & 0b11100 == 0b01000:
        name, end, _ = magic[10:].partition(b"\0")
        return name.decode("latin-1") if end and name else None
    return None
