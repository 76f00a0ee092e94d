"""Office documents and books: text, title and author of docx, xlsx, pptx, odt, ods, odp and EPUB.

All are ZIP files of XML, read as events, so no document is held as a tree. Nothing is calculated, no macro is run, and no
external reference is followed.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO
from urllib.parse import unquote

from parsers import ParserFailed, plain_text, sheets
from parsers.html_text import without_tags
from parsers.packages import Enough, Handler, Package

SEEKS = True
_MAX_TEXT = 2 * plain_text.MAX_BYTES  # characters; blanks are removed later
_MAX_FIELD = 500  # characters of a title or author, before cleaning

_MAIN_PARTS = {"word/document.xml": "docx", "xl/workbook.xml": "xlsx", "ppt/presentation.xml": "pptx"}
_OPEN_DOCUMENT = re.compile(r"application/vnd\.oasis\.opendocument\.(text|spreadsheet|presentation)(?:-template)?")


def parse(file: BinaryIO, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """Metadata (format, title, author, pages), ``text`` for search, ``document`` with the text or the first sheet."""
    want = arguments["want"]
    package = Package(file)
    kind = _kind(package)
    values: dict[str, Any] = {"metadata": {"format": kind.upper(), **_properties(package, kind)}}
    if "text" not in want and "document" not in want:
        return values, []
    rows: list[list[str]] | None = None
    if kind in ("xlsx", "ods"):
        text, rows = (sheets.xlsx if kind == "xlsx" else sheets.ods)(package, _MAX_TEXT)
    else:
        text = _capped(_READERS[kind](package))
    if "text" in want:
        values |= plain_text.search_values(text)
    if "document" in want:
        values["document"] = plain_text.document(re.sub(r"\n\s*\n\s*", "\n\n", plain_text.clean(text)).strip())
        if rows is not None:
            values["document"]["table"] = [[plain_text.clean(cell) for cell in row] for row in rows]
    return values, []


def _kind(package: Package) -> str:
    for name, kind in _MAIN_PARTS.items():
        if name in package:
            return kind
    if "mimetype" in package:
        with package.open("mimetype") as part:
            mime_type = part.read(200).decode("ascii", "replace").strip()
        if mime_type == "application/epub+zip":
            return "epub"
        match = _OPEN_DOCUMENT.fullmatch(mime_type)
        if match and "content.xml" in package:
            return {"text": "odt", "spreadsheet": "ods", "presentation": "odp"}[match[1]]
    raise ParserFailed("The document has no main part")


# -- title, author, number of pages ------------------------------------------------------------------------------------

_PROPERTY_PARTS = {
    **dict.fromkeys(("docx", "pptx"), ("docProps/core.xml", "docProps/app.xml")),
    "xlsx": ("docProps/core.xml",),
    **dict.fromkeys(("odt", "ods", "odp"), ("meta.xml",)),
}
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


def _properties(package: Package, kind: str) -> dict[str, Any]:
    properties = _Properties()
    for name in _PROPERTY_PARTS.get(kind) or _book_parts(package)[:1]:
        if name in package:
            with suppress(ParserFailed):  # they are optional
                package.parse_xml(name, properties)
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
        self._add(self._starts.get(tag, ""))

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


def _ooxml_text(package: Package, names: list[str]) -> Iterator[str]:
    for name in names:
        breaks = {"tab": "\t", "br": "\n", "cr": "\n"}
        handler = _Text(text={"t"}, starts=breaks, ends={"p": "\n", "tc": "\t"}, skipped={"Fallback"})
        yield _part_text(package, name, handler)


def _docx(package: Package) -> Iterator[str]:
    names = ("word/document.xml", "word/footnotes.xml", "word/endnotes.xml")
    return _ooxml_text(package, [name for name in names if name in package])


def _pptx(package: Package) -> Iterator[str]:
    return _ooxml_text(package, sheets.numbered(package, r"ppt/slides/slide(\d{1,5})\.xml"))


def _odf(package: Package) -> Iterator[str]:
    breaks = {"tab": "\t", "line-break": "\n", "s": " "}
    skipped = {"tracked-changes", "annotation"}
    yield _part_text(
        package, "content.xml", _Text(text={"p", "h"}, starts=breaks, ends={"p": "\n", "h": "\n"}, skipped=skipped)
    )


def _epub(package: Package) -> Iterator[str]:
    for name in _book_parts(package)[1:]:
        with package.open(name) as part:
            yield without_tags(plain_text.decode(part.read())[0])


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
        self._spine: list[str] = []

    def start(self, tag: str, attributes: Any) -> None:
        if tag == "rootfile":
            self.name = self.name or attributes.get("full-path", "")
        elif tag == "item":
            self._items[attributes.get("id", "")] = attributes.get("href", "")
        elif tag == "itemref":
            self._spine.append(attributes.get("idref", ""))

    def chapters(self) -> list[str]:
        folder = posixpath.dirname(self.name)
        names = [self._items[item] for item in dict.fromkeys(self._spine) if item in self._items]
        return [posixpath.normpath(posixpath.join(folder, unquote(name.partition("#")[0]))) for name in names]


def _book_parts(package: Package) -> list[str]:
    """The package document, which has title and author, then the chapters."""
    index = _BookIndex()
    for part in ("META-INF/container.xml", None):
        name = part or index.name
        if name not in package:
            raise ParserFailed("The book has no index")
        package.parse_xml(name, index)
    return [index.name, *(name for name in index.chapters() if name in package)]
