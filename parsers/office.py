"""Office documents and books: text, title and author of docx, xlsx, pptx, odt, ods, odp and EPUB.

All are ZIP files of XML, read as events, so that no document is ever held as a tree. Nothing is calculated, no macro is
looked at, and what a document refers to elsewhere stays there.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO
from urllib.parse import unquote

from parsers import ParserFailed, language, plain_text, sheets
from parsers.html_text import without_tags
from parsers.packages import Enough, Handler, Package

SEEKS = True
_SHOWN = 64 * 1024  # characters of a preview
_MAX_TEXT = 2 * plain_text.MAX_BYTES  # characters; what is blank is taken out later
_MAX_TOLD = 500  # characters of a title


def parse(file: BinaryIO, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """Metadata (format, title, author, pages), ``text`` for search, ``document`` with the text or the first sheet."""
    want = arguments["want"]
    package = Package(file)
    kind = _kind(package)
    values: dict[str, Any] = {"metadata": {"format": kind.upper(), **_told(package, kind)}}
    if "text" not in want and "document" not in want:
        return values, []
    rows: list[list[str]] | None = None
    if kind in ("xlsx", "ods"):
        found, rows = (sheets.xlsx if kind == "xlsx" else sheets.ods)(package, _MAX_TEXT)
    else:
        found = _capped(_READERS[kind](package))
    if "text" in want:
        values["text"] = plain_text.for_search(found)
        values["text_language"] = language.of(values["text"])
    if "document" in want:
        text = re.sub(r"\n\s*\n\s*", "\n\n", plain_text.clean(found)).strip()
        shown = {
            "content": text[:_SHOWN],
            "language": None,
            "encoding": None,
            "truncated": len(text) > _SHOWN,
        }
        values["document"] = shown if rows is None else {**shown, "table": sheets.cleaned(rows)}
    return values, []


def _kind(package: Package) -> str:
    for name, kind in (
        ("word/document.xml", "docx"),
        ("xl/workbook.xml", "xlsx"),
        ("ppt/presentation.xml", "pptx"),
    ):
        if name in package:
            return kind
    if "mimetype" in package:
        with package.open("mimetype") as part:
            named = part.read(200).decode("ascii", "replace").strip()
        if named == "application/epub+zip":
            return "epub"
        found = re.fullmatch(
            r"application/vnd\.oasis\.opendocument\.(text|spreadsheet|presentation)(?:-template)?", named
        )
        if found and "content.xml" in package:
            return {"text": "odt", "spreadsheet": "ods", "presentation": "odp"}[found[1]]
    raise ParserFailed("The document has no main part")


# What a document says of itself -------------------------------------------------------------------------------------

_FACTS = {
    "docx": ("docProps/core.xml", "docProps/app.xml"),
    "xlsx": ("docProps/core.xml",),
    "pptx": ("docProps/core.xml", "docProps/app.xml"),
    "odt": ("meta.xml",),
    "ods": ("meta.xml",),
    "odp": ("meta.xml",),
}


_KEYS = {
    "title": "title",
    "creator": "author",
    "initial-creator": "author",
    "Pages": "pages",
    "Slides": "pages",
}


class _Facts(Handler):
    """Dublin Core's title and creator, and a count of pages or slides."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Any] = {}
        self._key, self._text = "", ""

    def start(self, tag: str, attributes: Any) -> None:
        self._key, self._text = _KEYS.get(tag, ""), ""
        if tag == "document-statistic" and (count := attributes.get("meta:page-count", "")).isdecimal():
            self.found["pages"] = int(count[:7])

    def characters(self, content: str) -> None:
        if self._key and len(self._text) < _MAX_TOLD:
            self._text += content

    def end(self, tag: str) -> None:
        text = plain_text.clean(self._text).strip()[:_MAX_TOLD]
        if self._key and text and self._key not in self.found:
            if self._key != "pages":
                self.found[self._key] = text
            elif text.isdecimal() and int(text[:7]):
                self.found["pages"] = int(text[:7])
        self._key = ""


def _told(package: Package, kind: str) -> dict[str, Any]:
    facts = _Facts()
    names = _FACTS.get(kind) or tuple(_book_index(package)[:1])
    for name in names:
        if name in package:
            with suppress(ParserFailed):  # a document without its facts is still one
                package.events(name, facts)
    return facts.found


# What it says -------------------------------------------------------------------------------------------------------


class _Words(Handler):
    """Text, with the line breaks and tabs that elements stand for."""

    def __init__(self, *, text: frozenset[str], blocks: dict[str, str], marks: dict[str, str], silent: frozenset[str]):
        super().__init__()
        self.found: list[str] = []
        self._text, self._blocks, self._marks, self._silent = text, blocks, marks, silent
        self._open: list[str] = []  # of the elements that decide whether text counts
        self._size = 0

    def start(self, tag: str, attributes: Any) -> None:
        if tag in self._text or tag in self._silent:
            self._open.append(tag)
        if tag in self._marks:
            self._add(self._marks[tag])

    def end(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()
        if tag in self._blocks:
            self._add(self._blocks[tag])

    def characters(self, content: str) -> None:
        if self._open and not self._silent.intersection(self._open):
            self._add(content)

    def _add(self, content: str) -> None:
        self.found.append(content)
        self._size += len(content)
        if self._size > _MAX_TEXT:
            raise Enough


def _office_words() -> _Words:
    return _Words(
        text=frozenset({"t"}),
        blocks={"p": "\n", "tc": "\t"},
        marks={"tab": "\t", "br": "\n", "cr": "\n"},
        silent=frozenset({"Fallback"}),
    )


def _odf_words() -> _Words:
    return _Words(
        text=frozenset({"p", "h"}),
        blocks={"p": "\n", "h": "\n"},
        marks={"tab": "\t", "line-break": "\n", "s": " "},
        silent=frozenset({"tracked-changes", "annotation"}),
    )


def _said(package: Package, name: str, handler: _Words) -> str:
    with suppress(Enough):
        package.events(name, handler)
    return "".join(handler.found)


def _docx(package: Package) -> Iterator[str]:
    for name in ("word/document.xml", "word/footnotes.xml", "word/endnotes.xml"):
        if name in package:
            yield _said(package, name, _office_words())


def _pptx(package: Package) -> Iterator[str]:
    for name in sheets.numbered(package, r"ppt/slides/slide(\d{1,5})\.xml"):
        yield _said(package, name, _office_words())


def _odf(package: Package) -> Iterator[str]:
    yield _said(package, "content.xml", _odf_words())


def _epub(package: Package) -> Iterator[str]:
    for name in _book_index(package)[1:]:
        with package.open(name) as part:
            yield without_tags(plain_text.decode(part.read())[0])


_READERS = {"docx": _docx, "pptx": _pptx, "odt": _odf, "odp": _odf, "epub": _epub}


def _capped(pieces: Iterator[str]) -> str:
    found, size = [], 0
    for piece in pieces:
        found.append(piece)
        size += len(piece)
        if size > _MAX_TEXT:
            break
    return "\n".join(found)


# Books --------------------------------------------------------------------------------------------------------------


class _Index(Handler):
    """Of container.xml the name of the index; of the index the chapters in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.index = ""
        self._items: dict[str, str] = {}
        self._spine: list[str] = []

    def start(self, tag: str, attributes: Any) -> None:
        if tag == "rootfile":
            self.index = self.index or attributes.get("full-path", "")
        elif tag == "item":
            self._items[attributes.get("id", "")] = attributes.get("href", "")
        elif tag == "itemref":
            self._spine.append(attributes.get("idref", ""))

    def chapters(self) -> list[str]:
        folder = posixpath.dirname(self.index)
        names = [self._items[item] for item in dict.fromkeys(self._spine) if item in self._items]
        return [posixpath.normpath(posixpath.join(folder, unquote(name.partition("#")[0]))) for name in names]


def _book_index(package: Package) -> list[str]:
    """The index, which holds title and author, then the chapters."""
    index = _Index()
    if "META-INF/container.xml" not in package:
        raise ParserFailed("The book has no index")
    package.events("META-INF/container.xml", index)
    if index.index not in package:
        raise ParserFailed("The book has no index")
    package.events(index.index, index)
    return [index.index, *(name for name in index.chapters() if name in package)]
