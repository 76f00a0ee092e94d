"""ZIP files, and documents that are ZIP files, within limits (T95).

A ZIP's directory is a claim: entries are counted and must not overlap, and the bytes read from them are counted again.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import IO, BinaryIO
from xml.sax import SAXException
from xml.sax.handler import ContentHandler

import defusedxml.sax
from defusedxml import DefusedXmlException

from parsers import PROTECTED, ParserFailed, Unsupported

_MIB = 1024 * 1024
_MAX_ENTRIES = 10_000
_MAX_ENTRY = 64 * _MIB  # bytes read of one entry
_MAX_TOTAL = 192 * _MIB  # bytes read of all
_MAX_RATIO = 250  # of an entry over 4 MiB
_MAX_DEPTH = 256
_LOCAL_HEADER = 30  # bytes, without the name
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError)


def open_zip(file: BinaryIO) -> zipfile.ZipFile:
    """The archive. Raises ParserFailed, also for entries that overlap."""
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, ValueError, OverflowError):
        raise ParserFailed("The archive is broken") from None
    end = archive.start_dir
    for entry in sorted(archive.infolist(), key=lambda entry: entry.header_offset, reverse=True):
        # CPython checks this only since 3.11.8 and 3.12.2.
        if entry.header_offset + _LOCAL_HEADER + len(entry.orig_filename) + entry.compress_size > end:
            raise ParserFailed("The archive's entries overlap")
        end = entry.header_offset
    return archive


class Package:
    """A document that consists of parts in a ZIP file."""

    def __init__(self, file: BinaryIO):
        self._archive = open_zip(file)
        if len(self._archive.infolist()) > _MAX_ENTRIES:
            raise ParserFailed("The document has too many parts")
        self._left = _MAX_TOTAL
        self.names = self._archive.namelist()

    def __contains__(self, name: str) -> bool:
        return name in self._archive.NameToInfo

    def open(self, name: str) -> IO[bytes]:
        """A part's bytes. Opening or reading raises ParserFailed if there are too many."""
        entry = self._archive.getinfo(name)
        if entry.flag_bits & 1:
            raise Unsupported(PROTECTED)
        if entry.file_size > _MAX_ENTRY:
            raise ParserFailed("A part of the document is too large")
        if entry.file_size > 4 * _MIB and entry.file_size > _MAX_RATIO * entry.compress_size:
            raise ParserFailed("A part of the document is packed too densely")
        try:
            return io.BufferedReader(_CountedEntry(self, self._archive.open(entry)))
        except _BROKEN:
            raise ParserFailed("The document is broken") from None

    def spend(self, count: int) -> None:
        """Count bytes read. Raises ParserFailed if they are too many."""
        self._left -= count
        if self._left < 0:
            raise ParserFailed("The document is too large")

    def parse_xml(self, name: str, handler: ContentHandler) -> None:
        """Pass the events of an XML part to the handler. No DTD, no entities, nothing external."""
        parser = defusedxml.sax.make_parser()
        parser.forbid_dtd = True
        parser.setContentHandler(handler)
        try:
            with self.open(name) as part:
                parser.parse(part)
        except DefusedXmlException:
            raise ParserFailed("The document declares entities") from None
        except (SAXException, *_BROKEN):
            raise ParserFailed("The document is broken") from None


class _CountedEntry(io.RawIOBase):
    """An entry's bytes, counted as they are read."""

    def __init__(self, package: Package, entry: IO[bytes]):
        self._package, self._entry, self._count = package, entry, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            data = self._entry.read(len(buffer))
        except _BROKEN:
            raise ParserFailed("The document is broken") from None
        self._count += len(data)
        self._package.spend(len(data))
        if self._count > _MAX_ENTRY:
            raise ParserFailed("A part of the document is too large")
        buffer[: len(data)] = data
        return len(data)


class Enough(Exception):
    """A handler has all it wants."""


class Handler(ContentHandler):
    """Calls ``start`` and ``end`` with names without prefixes, and limits nesting."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def startElement(self, name: str, attrs: object) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ParserFailed("The document is nested too deeply")
        self.start(name.rpartition(":")[2], attrs)

    def endElement(self, name: str) -> None:
        self._depth -= 1
        self.end(name.rpartition(":")[2])

    def start(self, tag: str, attributes: object) -> None: ...

    def end(self, tag: str) -> None: ...
