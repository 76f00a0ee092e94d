"""Text as database and search accept it: decoded, cleaned, capped (T83), with its language."""

from __future__ import annotations

import re
from typing import Any

from core import charsets
from parsers import Unsupported, language

MAX_BYTES = 1024 * 1024  # of a text for search, in UTF-8
SHOWN = 64 * 1024  # of a preview: bytes of a text file, characters of other documents
# PostgreSQL refuses a tsvector whose words and positions take more than 1 MB. A word costs its own length and some eight
# bytes, a hyphenated one its parts too; positions stop counting at 16,383.
_MAX_INDEX = 800_000
_POSITIONS = 2 * 16_383 * 2

_UNWANTED = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_WORD = re.compile(r"\S{1,256}")  # a file without blanks is not one word


def decode(data: bytes, *, cut: bool = False, declared: str | None = None) -> tuple[str, str]:
    """Bytes as text, and the encoding's name (``core.charsets``). ``cut``: they may end within a character.

    Raises Unsupported if it is not text."""
    encoding = charsets.detect(data, cut=cut, declared=declared)
    if encoding is None:
        raise Unsupported("This is not text")
    return charsets.decoded(data, encoding), encoding


# Where a file says its encoding: HTML, XML (which may be HTML too), and source code for Emacs, Python (PEP 263) and Ruby.
_META = re.compile(rb"<meta\b[^>]{0,500}?\bcharset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)
_XML = re.compile(rb"\s*<\?xml\b[^>]{0,500}?\bencoding\s*=\s*[\"']([\w.:-]{1,40})")
_SOURCE = re.compile(rb"(?:#!?[^\n]*\n)?[ \t\f]*#[^\n]{0,200}?coding[:=][ \t]*([\w.-]{1,40})")
_DECLARED = 4096  # bytes in which a declaration is looked for


def declared(data: bytes, *, markup: bool = False) -> str | None:
    """The label of the encoding that a file gives itself. ``markup``: it is HTML or XML."""
    head = data[:_DECLARED]
    found = (_XML.match(head) or _META.search(head)) if markup else _SOURCE.match(head)
    return found[1].decode() if found else None


def clean(text: str) -> str:
    """Without NUL, surrogates and controls (except tab and newline), which PostgreSQL, JSON or terminals don't take."""
    return _UNWANTED.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def title(text: str | None) -> str:
    """A title, an author or another tag: clean, without blanks at its ends, at most 500 characters."""
    return clean(text or "").strip()[:500]


def search_values(text: str) -> dict[str, Any]:
    """``text`` for search, and ``text_language``."""
    text = for_search(text)
    return {"text": text, "text_language": language.detect(text)}


def document(text: str, *, complete: bool = True) -> dict[str, Any]:
    """A preview of a document's text. ``complete``: ``text`` is all of it."""
    truncated = len(text) > SHOWN or not complete
    return {"content": text[:SHOWN], "language": None, "encoding": None, "truncated": truncated}


def for_search(text: str) -> str:
    """Clean, with each run of blanks made one, and cut at a word so that its tsvector stays under 1 MB."""
    text = re.sub(r"[^\S\n]+", " ", clean(text))
    text = re.sub(r" ?\n[ \n]*", "\n", text).strip()
    text = text.encode()[:MAX_BYTES].decode(errors="ignore")
    seen: set[str] = set()
    cost = _POSITIONS
    for match in _WORD.finditer(text):
        if (word := match[0]) in seen:
            continue
        seen.add(word)
        size = len(word.encode())
        # A word of letters alone is one entry; of another, each piece can be one, and the whole another.
        cost += size + 8 if word.isalnum() else 2 * size + 8 * (2 + len(word) - sum(map(str.isalnum, word)))
        if cost > _MAX_INDEX:
            return text[: match.start()].rstrip()
    return text
