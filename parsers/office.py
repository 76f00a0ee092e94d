"""Office documents and books: text, title and author of docx, xlsx, pptx, odt, ods, odp and EPUB.

All are ZIP files of XML, read as events, so no document is held as a tree. Nothing is calculated, no macro is run, and no
external reference is followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, BinaryIO

from parsers import PROTECTED, ParserFailed, Unsupported, mail, plain_text, sheets
from parsers.html_text import without_tags
from parsers.packages import Enough, Handler, Package, Relationships, resolved

SEEKS = True
_MAX_TEXT = 2 * plain_text.MAX_BYTES  # characters; blanks are removed later
_MAX_PARTS = 10  # of a kind beside the main part
_MAX_FIELD = 500  # characters of a title or author, before cleaning

_MAIN_ELEMENTS = {"document": "docx", "workbook": "xlsx", "presentation": "pptx"}
_MAIN_PARTS = ("word/document.xml", "xl/workbook.xml", "ppt/presentation.xml")  # in most files
_OPEN_DOCUMENT = re.compile(r"application/vnd\.oasis\.opendocument\.(text|spreadsheet|presentation)(?:-template)?")
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_SEARCHED = 4 * 1024 * 1024  # bytes at each end of an OLE file, whose directory can be anywhere


def parse(file: BinaryIO, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """Metadata (format, title, author, pages), ``text`` for search, ``document`` with the text or the first sheet."""
    want = arguments["want"]
    _refuse_ole(file)
    package = Package(file)
    kind, main = _main_part(package)
    values: dict[str, Any] = {"metadata": {"format": kind.upper(), **_properties(package, kind, main)}}
    if "text" not in want and "document" not in want:
        return values, []
    rows: list[list[str]] | None = None
    if kind in ("xlsx", "ods"):
        text, rows = (sheets.xlsx if kind == "xlsx" else sheets.ods)(package, main, _MAX_TEXT)
    else:
        text = _capped(_READERS[kind](package, main))
    if package.incomplete and not text.strip():
        raise ParserFailed("The document is broken")
    if "text" in want:
        values |= plain_text.search_values(text)
    if "document" in want:
        shown = re.sub(r"\n\s*\n\s*", "\n\n", plain_text.clean(text)).strip()
        values["document"] = plain_text.document(shown, complete=not package.incomplete)
        if rows is not None:
            values["document"]["table"] = [[plain_text.clean(cell) for cell in row] for row in rows]
    return values, []


def _refuse_ole(file: BinaryIO) -> None:
    """An Office document under a password is an OLE file with a stream of this name: MS-OFFCRYPTO, 2.3.4.4."""
    if file.read(len(_OLE)) == _OLE:
        start = file.read(_SEARCHED)
        file.seek(max(0, file.seek(0, 2) - _SEARCHED))
        is_protected = "EncryptedPackage".encode("utf-16-le") in start + file.read()
        raise Unsupported(PROTECTED if is_protected else "Documents of Office 97-2003 have no preview")


# -- which document ----------------------------------------------------------------------------------------------------


class _First(Handler):
    """The first element's name."""

    tag = ""

    def start(self, tag: str, attributes: Any) -> None:
        self.tag = tag
        raise Enough


class _ContentTypes(Handler):
    """The parts that are main parts by their type (ISO/IEC 29500-2, 7.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.main: list[str] = []

    def start(self, tag: str, attributes: Any) -> None:
        if tag == "Override" and ".main+xml" in attributes.get("ContentType", ""):
            self.main.append(resolved(attributes.get("PartName", "")))


class _Manifest(Handler):
    """The type of an OpenDocument, and whether it is encrypted (OpenDocument 1.3 part 2, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.mime_type, self.encrypted = "", False

    def start(self, tag: str, attributes: Any) -> None:
        self.encrypted |= tag == "encryption-data"
        if tag == "file-entry" and attributes.get("manifest:full-path") == "/":
            self.mime_type = attributes.get("manifest:media-type", "")


def _main_part(package: Package) -> tuple[str, str]:
    """The kind of document, and the name of the part that has its content or, of a book, lists it."""
    types, manifest = _ContentTypes(), _Manifest()
    for name, handler in (("[Content_Types].xml", types), ("META-INF/manifest.xml", manifest)):
        if name in package:
            with suppress(ParserFailed):  # there are other ways to find the main part
                package.parse_xml(name, handler)
    for part in [*Relationships(package).of_kind("officeDocument"), *types.main[:1], *_MAIN_PARTS]:
        first = _First()
        if part in package:
            with suppress(Enough):
                package.parse_xml(part, first)
            if kind := _MAIN_ELEMENTS.get(first.tag):
                return kind, part
    if manifest.encrypted:
        raise Unsupported(PROTECTED)
    if "mimetype" in package:
        with package.open("mimetype") as file:
            manifest.mime_type = file.read(200).decode("ascii", "replace").strip()
    match = _OPEN_DOCUMENT.fullmatch(manifest.mime_type)
    if match and "content.xml" in package:
        return {"text": "odt", "spreadsheet": "ods", "presentation": "odp"}[match[1]], "content.xml"
    if index := _book_index(package):
        return "epub", index
    raise ParserFailed("The document has no main part")


# -- title, author, number of pages ------------------------------------------------------------------------------------

_ELEMENTS = {"title": "title", "creator": "author", "initial-creator": "author", "Pages": "pages", "Slides": "pages"}


class _Properties(Handler):
    """Dublin Core's title and creator, and the number of pages or slides."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Any] = {}
        self._key, self._text = "", ""

    def start(self, tag: str, attributes: Any) -> None:
        self._key, self._text = _ELEMENTS.get(tag, ""), ""
        if tag == "document-statistic" and (count := attributes.get("meta:page-count", "")).isdecimal():
            self.values["pages"] = int(count[:7])

    def characters(self, content: str) -> None:
        if self._key and len(self._text) < _MAX_FIELD:
            self._text += content

    def end(self, tag: str) -> None:
        text = plain_text.title(self._text)
        if self._key and text and self._key not in self.values:
            if self._key != "pages":
                self.values[self._key] = text
            elif text.isdecimal() and int(text[:7]):
                self.values["pages"] = int(text[:7])
        self._key = ""


def _properties(package: Package, kind: str, main: str) -> dict[str, Any]:
    if kind == "epub":
        parts = [main]
    elif main == "content.xml":
        parts = [part for part in ["meta.xml"] if part in package]
    else:
        relations = Relationships(package)
        parts = relations.of_kind("core-properties", "docProps/core.xml")
        if kind != "xlsx":
            parts += relations.of_kind("extended-properties", "docProps/app.xml")
    properties = _Properties()
    for part in parts[:_MAX_PARTS]:
        with suppress(ParserFailed):  # they are optional
            package.parse_xml(part, properties)
    return properties.values


# -- text --------------------------------------------------------------------------------------------------------------


class _Text(Handler):
    """Text, with the line breaks and tabs that elements stand for.

    Text counts inside ``text`` elements, except in ``skipped`` ones; ``starts`` and ``ends`` of elements add characters."""

    def __init__(self, *, text: set[str], starts: dict[str, str], ends: dict[str, str], skipped: set[str]):
        super().__init__()
        self.pieces: list[str] = []
        self._text, self._starts, self._ends, self._skipped = text, starts, ends, skipped
        self._open: list[str] = []  # text and skipped elements
        self._size = 0

    def start(self, tag: str, attributes: Any) -> None:
        if tag in self._text or tag in self._skipped:
            self._open.append(tag)
        if tag in self._starts and not self._skipped.intersection(self._open):
            self._add(self._starts[tag])

    def end(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()
        self._add(self._ends.get(tag, ""))

    def characters(self, content: str) -> None:
        if self._open and not self._skipped.intersection(self._open):
            self._add(content)

    def _add(self, content: str) -> None:
        if content:
            self.pieces.append(content)
            self._size += len(content)
            if self._size > _MAX_TEXT:
                raise Enough


def _part_text(package: Package, name: str, handler: _Text) -> str:
    with suppress(Enough):
        package.parse_xml(name, handler)
    return "".join(handler.pieces)


def _ooxml_text(package: Package, names: Iterable[str]) -> Iterator[str]:
    breaks = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
    # Text boxes are there twice, moved text is also where it was, tabs are also positions, and ruby is a pronunciation.
    skipped = {"Fallback", "moveFrom", "tabs", "rt"}
    for name in names:
        yield _part_text(package, name, _Text(text={"t"}, starts=breaks, ends={"p": "\n", "tc": "\t"}, skipped=skipped))


def _docx(package: Package, main: str) -> Iterator[str]:
    relations = Relationships(package, main)
    kinds = ("footnotes", "endnotes", "comments", "header", "footer")
    others = [relations.of_kind(kind, f"{kind}.xml")[:_MAX_PARTS] for kind in kinds]
    return chain(_ooxml_text(package, chain([main], *others)), _foreign(package, relations.of_kind("aFChunk")))


def _foreign(package: Package, parts: Sequence[str]) -> Iterator[str]:
    """Pages and mails that take the place of text, as programs insert them that write HTML: ECMA-376 part 1, 17.17.2.1."""
    for part in parts[:_MAX_PARTS]:
        with suppress(Unsupported), package.open(part) as file:
            data = file.read()
            yield mail.text(data) if data.lstrip()[:13].lower() == b"mime-version:" else _page(data)


class _Slides(Handler):
    """The identifiers of slides, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.identifiers: dict[str, None] = {}

    def start(self, tag: str, attributes: Any) -> None:
        if tag == "sldId":
            self.identifiers[sheets.relation(attributes)] = None


def _pptx(package: Package, main: str) -> Iterator[str]:
    relations, slides = Relationships(package, main).parts, _Slides()
    package.parse_xml(main, slides)
    parts = dict.fromkeys(relations[one] for one in slides.identifiers if one in relations)
    return _ooxml_text(package, parts or sheets.numbered(package, r"ppt/slides/slide(\d{1,5})\.xml"))


def _odf(package: Package, main: str) -> Iterator[str]:
    breaks = {"tab": "\t", "line-break": "\n", "s": " "}
    skipped = {"tracked-changes", "annotation"}
    yield _part_text(package, main, _Text(text={"p", "h"}, starts=breaks, ends={"p": "\n", "h": "\n"}, skipped=skipped))


def _epub(package: Package, main: str) -> Iterator[str]:
    index = _BookIndex()
    package.parse_xml(main, index)
    for name in index.chapters(main):
        if name in package:
            with suppress(Unsupported), package.open(name) as part:
                yield _page(part.read())


def _page(data: bytes) -> str:
    """The text of an HTML page. Raises Unsupported if it is none."""
    return without_tags(plain_text.decode(data, declared=plain_text.declared(data, markup=True))[0])


_READERS = {"docx": _docx, "pptx": _pptx, "odt": _odf, "odp": _odf, "epub": _epub}


def _capped(pieces: Iterator[str]) -> str:
    kept, size = [], 0
    for piece in pieces:
        kept.append(piece)
        size += len(piece)
        if size > _MAX_TEXT:
            break
    return "\n".join(kept)


# -- books -------------------------------------------------------------------------------------------------------------


class _BookIndex(Handler):
    """The package document's name, from container.xml; the chapters in order, from the package document."""

    def __init__(self) -> None:
        super().__init__()
        self.name = ""
        self._items: dict[str, str] = {}
        self._spine: dict[str, None] = {}

    def start(self, tag: str, attributes: Any) -> None:
        if tag == "rootfile":
            self.name = self.name or resolved(attributes.get("full-path", ""))
        elif tag == "item":
            is_page = "html" in attributes.get("media-type", "html")
            if is_page and "nav" not in attributes.get("properties", "").split():
                self._items[attributes.get("id", "")] = attributes.get("href", "")
        elif tag == "itemref":
            self._spine[attributes.get("idref", "")] = None

    def chapters(self, source: str) -> Iterable[str]:
        return dict.fromkeys(resolved(self._items[item], source) for item in self._spine if item in self._items)


def _book_index(package: Package) -> str | None:
    """The package document, which has title, author and the list of chapters."""
    container = _BookIndex()
    if "META-INF/container.xml" in package:
        with suppress(ParserFailed):
            package.parse_xml("META-INF/container.xml", container)
    if container.name in package:
        return container.name
    return next((name for name in package.names if name.casefold().endswith(".opf")), None)
