"""Documents that are ZIP files of XML parts, within limits (T95): the bytes that parts unpack to are counted as they are read."""

from __future__ import annotations

import io
import posixpath
import unicodedata
import zlib
from contextlib import suppress
from itertools import islice
from typing import Any, BinaryIO
from urllib.parse import unquote
from xml.sax import SAXException
from xml.sax.handler import ContentHandler

import defusedxml.sax
from defusedxml import DefusedXmlException

from parsers import PROTECTED, ParserFailed, Unsupported, zip_directory

_MIB = 1024 * 1024
_MAX_ENTRIES = 10_000
_MAX_ENTRY = 64 * _MIB  # bytes read of one entry
_MAX_TOTAL = 192 * _MIB  # bytes read of all
_MAX_RATIO = 250  # of an entry over 4 MiB
_MAX_DEPTH = 256
_BROKEN = (zlib.error, OSError, ValueError)


class Package:
    """A document that consists of parts in a ZIP file.

    Parts are found whatever the case of their names, percent-encoded or not, with slashes or backslashes (ISO/IEC 29500-2, 6.2.2
    wants the first, and not all writers follow the rest)."""

    def __init__(self, file: BinaryIO):
        self.incomplete = False  # something was read only as far as it could be
        try:
            entries = zip_directory.read(file, _MAX_ENTRIES + 1).entries
        except zip_directory.Missing:
            entries, self.incomplete = list(islice(zip_directory.local_entries(file), _MAX_ENTRIES + 1)), True
            if not entries:
                raise
        if len(entries) > _MAX_ENTRIES:
            raise ParserFailed("The document has too many parts")
        self._file, self._left = file, _MAX_TOTAL
        self.names = [_normal(name) for name in zip_directory.names(entries)]
        self._entries = {name.casefold(): entry for name, entry in zip(self.names, entries, strict=True)}
        self._entries |= dict(zip(self.names, entries, strict=True))

    def __contains__(self, name: str) -> bool:
        return name in self._entries or name.casefold() in self._entries

    def open(self, name: str) -> io.BufferedReader:
        """A part's first 64 MiB. Opening or reading raises ParserFailed if it is packed too densely or lies about its size."""
        entry = self._entries.get(name) or self._entries[name.casefold()]
        if entry.flags & 1:
            raise Unsupported(PROTECTED)
        if entry.size > 4 * _MIB and entry.size > _MAX_RATIO * entry.packed:
            raise ParserFailed("A part of the document is packed too densely")
        return io.BufferedReader(_Part(self, self._file, entry))

    def spend(self, count: int) -> None:
        """Count bytes read. Raises ParserFailed if they are too many."""
        self._left -= count
        if self._left < 0:
            raise ParserFailed("The document is too large")

    def parse_xml(self, name: str, handler: ContentHandler) -> None:
        """Pass the events of an XML part to the handler, up to any damage. No entities, nothing external."""
        parser = defusedxml.sax.make_parser()
        parser.forbid_external = False  # a DOCTYPE may name its DTD, which is not read
        parser.setContentHandler(handler)
        try:
            with self.open(name) as part:
                parser.parse(part)
        except DefusedXmlException:
            raise ParserFailed("The document declares entities") from None
        except (SAXException, LookupError, ValueError):  # LookupError: an encoding that Python does not know
            self.incomplete = True


def resolved(target: str, source: str = "") -> str:
    """The name of the part that ``source`` refers to by ``target``, a URI."""
    return _normal(target.partition("#")[0], posixpath.dirname(source))


def _normal(name: str, folder: str = "") -> str:
    path = posixpath.normpath(posixpath.join("/", folder, unquote(name).replace("\\", "/")))
    return unicodedata.normalize("NFC", path.lstrip("/"))


class _Part(io.RawIOBase):
    """A part's bytes, unpacked and counted as they are read. Damage ends them."""

    def __init__(self, package: Package, file: BinaryIO, entry: zip_directory.Entry):
        self._package, self._file, self._entry = package, file, entry
        self._at, self._left, self._count = zip_directory.data_offset(file, entry), entry.packed, 0
        if entry.method not in (0, 8):
            raise Unsupported("The document is packed by a method that can't be read")
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS) if entry.method else None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            data = self._read(len(buffer)) if self._count < _MAX_ENTRY else b""
            self._package.incomplete |= self._count >= _MAX_ENTRY
        except _BROKEN:
            self._package.incomplete, data = True, b""
        self._count += len(data)
        self._package.spend(len(data))
        if self._count > self._entry.size:
            raise ParserFailed("A part of the document is larger than it claims")
        buffer[: len(data)] = data
        return len(data)

    def _read(self, count: int) -> bytes:
        while self._inflater is None or not self._inflater.eof:
            packed = self._inflater.unconsumed_tail if self._inflater else b""
            if not packed:
                self._file.seek(self._at)
                packed = self._file.read(min(count, self._left))
                self._at, self._left = self._at + len(packed), self._left - len(packed)
            data = self._inflater.decompress(packed, count) if self._inflater else packed
            if data or self._inflater is None:
                return data
            if not packed:
                raise ValueError
        return b""


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


class Relationships(Handler):
    """How a part refers to others: ISO/IEC 29500-2, 6.5. ``source`` is the part; "" is the document."""

    def __init__(self, package: Package, source: str = ""):
        super().__init__()
        self._source, self._names = source, package
        self.parts: dict[str, str] = {}  # by identifier
        self._kinds: dict[str, list[str]] = {}
        folder, name = posixpath.split(source)
        if (relations := posixpath.join(folder, "_rels", f"{name}.rels")) in package:
            with suppress(Enough, ParserFailed):
                package.parse_xml(relations, self)

    def start(self, tag: str, attributes: Any) -> None:
        if tag == "Relationship" and attributes.get("TargetMode") != "External":
            part = resolved(attributes.get("Target", ""), self._source)
            if part in self._names:
                self.parts[attributes.get("Id", "")] = part
                self._kinds.setdefault(attributes.get("Type", "").rpartition("/")[2], []).append(part)
            if len(self.parts) > _MAX_ENTRIES:
                raise Enough

    def of_kind(self, kind: str, usual: str = "") -> list[str]:
        """The parts of a kind: the last word of its URI, which strict and transitional documents share. If there is none, the
        part ``usual``, named from the source."""
        usual = resolved(usual, self._source)
        return self._kinds.get(kind) or [part for part in [usual] if part in self._names]
