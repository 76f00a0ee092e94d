"""Listings of archives: names, sizes and times in ZIP, tar and compressed tar files, and of single compressed files.

Nothing is extracted, and names are only data (T22, T95). A compressed tar must be decompressed to find its entries; that
stops at a limit, and the entries found by then are listed. 7z and RAR are not listed, for want of a small reader (py7zr
needs six compiled packages).
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
from itertools import chain
from typing import Any, BinaryIO, cast

from parsers import ParserFailed, Unsupported, entry_names, zip_directory
from parsers.ranged import Exhausted

SEEKS = True
_MAX_LISTED = 5_000
_MAX_COUNTED = 200_000
_MAX_NAME = 1_024  # characters
_MAX_UNPACKED = 512 * 1024 * 1024  # bytes
_SECONDS = 6.0  # of processor time
_BLOCK = tarfile.BLOCKSIZE
# Controls, marks of direction that make a name look like another, and surrogates.
_INVISIBLE = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MAX_SIZE = 1 << 53  # the largest integer that JSON readers take exactly


def _zstd(file: BinaryIO) -> BinaryIO:
    import zstandard

    return cast("BinaryIO", zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file))


_COMPRESSED: tuple[tuple[bytes, str, Callable[[BinaryIO], Any]], ...] = (
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
    for prefix, format, open_stream in _COMPRESSED:
        if magic.startswith(prefix):
            return {"metadata": {"format": format}, "contents": _list_compressed(open_stream(file), magic)}, []
    if _is_tar(magic):
        return {"metadata": {"format": "TAR"}, "contents": _list_tar(file, "r:")}, []
    return {"metadata": {"format": "ZIP"}, "contents": _list_zip(file, starts=magic.startswith(b"PK"))}, []


class _Listing:
    """Entries, whose names are decoded together at the end."""

    def __init__(self) -> None:
        self._entries: list[dict[str, Any]] = []
        self._count = self._size = 0
        self.complete = True
        self._until = time.process_time() + _SECONDS

    def add(
        self, name: str | bytes | None, size: int, compressed: int | None, modified: str | None, is_directory: bool
    ) -> None:
        """Add an entry; without a name, it has its file's. Raises Exhausted if there are too many."""
        size = max(0, min(size, _MAX_SIZE))
        self._count += 1
        self._size = min(self._size + size, _MAX_SIZE)
        if len(self._entries) < _MAX_LISTED:
            entry = {"name": name, "size": size, "compressed_size": compressed}
            self._entries.append(entry | {"is_directory": is_directory, "modified_at": modified})
        if self._count >= _MAX_COUNTED or time.process_time() > self._until:
            raise Exhausted("too many entries")

    def contents(self, usual: str = "cp437") -> dict[str, Any]:
        """If ``truncated``, there may be more entries than were counted. ``usual``: the encoding of names that is assumed if no
        other fits better."""
        named = [entry for entry in self._entries if entry["name"] is not None]
        names = entry_names.decode_all([entry["name"] for entry in named], usual=usual)
        for entry, name in zip(named, names, strict=True):
            entry["name"] = _INVISIBLE.sub("\ufffd", name[:_MAX_NAME])
        return {
            "entries": self._entries,
            "total_entries": self._count,
            "total_size": self._size,
            "truncated": not self.complete or self._count > len(self._entries),
        }


def _list_zip(file: BinaryIO, *, starts: bool) -> dict[str, Any]:
    """The directory's entries; if it is missing, those that the file ``starts`` with."""
    listing = _Listing()
    try:
        directory = zip_directory.read(file, _MAX_COUNTED)
        entries, listing.complete = iter(directory.entries), directory.complete
    except zip_directory.Missing as missing:
        if not starts:
            raise Unsupported("This is not an archive whose contents can be listed") from None
        entries, listing.complete = zip_directory.local_entries(file), False
        if (first := next(entries, None)) is None:
            raise missing
        entries = chain([first], entries)
    try:
        for entry in entries:
            name = entry.raw_name if entry.name is None else entry.name
            is_directory = entry.raw_name.endswith(b"/")
            listing.add(name, entry.size, min(entry.packed, _MAX_SIZE), entry.modified, is_directory)
    except OSError:  # also Exhausted
        listing.complete = False
    return listing.contents()


def _is_tar(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _list_tar(file: Any, mode: Any) -> dict[str, Any]:
    """Lists the entries before any damage or limit."""
    listing = _Listing()
    try:
        with tarfile.open(fileobj=file, mode=mode, errorlevel=0) as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined] # or it keeps them all
                modified = None
                with suppress(ValueError, OverflowError, OSError):
                    modified = datetime.fromtimestamp(member.mtime, UTC).isoformat().replace("+00:00", "Z")
                name = member.name.encode("utf-8", "surrogateescape")
                listing.add(name, member.size, None, modified, member.isdir())
    except _BROKEN:
        listing.complete = False
    return listing.contents("cp1252")


class _Limited(io.RawIOBase):
    """The decompressed bytes, within limits."""

    def __init__(self, file: Any):
        self._file, self.size = file, 0
        self._until = time.process_time() + _SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._file.read1(min(len(buffer), 1024 * 1024))  # read1 returns what comes before damage
        self.size += len(data)
        if self.size > _MAX_UNPACKED or time.process_time() > self._until:
            raise Exhausted("too much to decompress")
        buffer[: len(data)] = data
        return len(data)


def _list_compressed(file: Any, magic: bytes) -> dict[str, Any]:
    limited = _Limited(file)
    stream = io.BufferedReader(limited, 1024 * 1024)
    try:
        first = stream.peek(_BLOCK)[:_BLOCK]
    except _BROKEN:
        raise ParserFailed("The archive is broken") from None
    if _is_tar(first):
        return _list_tar(stream, "r|")
    listing = _Listing()
    try:
        while stream.read(1024 * 1024):
            pass
    except _BROKEN:
        listing.complete = False
    with suppress(Exhausted):
        listing.add(_gzip_name(magic), limited.size, None, None, False)
    return listing.contents()


def _gzip_name(magic: bytes) -> bytes | None:
    """The name in a gzip header (RFC 1952 section 2.3), if no extra field precedes it."""
    if magic[:2] == b"\x1f\x8b" and len(magic) > 10 and magic[3] & 0b11100 == 0b01000:
        name, end, _ = magic[10:].partition(b"\0")
        return name if end and name else None
    return None
