"""Mail files: headers and bodies as people read them, with attached messages and the names of attachments.

The standard library splits a message into its parts. Its modern policy raises errors for malformed headers, so headers are taken
as they stand, and words and bodies are decoded here: by the charset they name if it fits, else by a guess.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from email.policy import Compat32
from itertools import chain, takewhile
from typing import Any

from core import charsets, encoded_words
from parsers import plain_text
from parsers.cpu_timer import CpuTimeExceeded, cpu_timer
from parsers.html_text import text_of

_SECONDS = 4.0  # of processor time: boundaries can make a message of a million parts
_MAX_DEPTH = 20
_MAX_MESSAGES = 100  # of a mailbox
_MAX_TEXT = 2 * plain_text.MAX_BYTES  # characters
_MAX_HEADER = 10_000  # characters
_SHOWN = frozenset({"text/plain", "text/html", "text/calendar"})
_HEADERS = ("From", "To", "Cc", "Date", "Subject")
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError)  # what the library raises for nonsense

_MAILBOX = re.compile(rb"^From [^\n]*\n", re.MULTILINE)  # the line before each message (RFC 4155)
_BASE64 = re.compile(r"[A-Za-z0-9+/ ]*[= ]*")


class _Raw(Compat32):
    """Gives headers as they stand; their bytes that are not ASCII are surrogates."""

    def header_fetch_parse(self, name: str, value: str) -> str:
        """The value."""
        return value


def parse(data: bytes, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """Metadata (format, title, author), ``text`` for search, ``document`` with the headers and texts."""
    want, cut = arguments["want"], len(data) >= arguments["head"]
    if mark := charsets.mark(data):
        data = charsets.decoded(data, mark[1]).encode(errors="replace")
    metadata, pieces, size = {"format": "EML"}, list[str](), 0
    try:
        with cpu_timer(_SECONDS):
            messages = _messages(data.lstrip(), mailbox=arguments["mime_type"] == "application/mbox")
            tags = {"title": _header(messages[0], "Subject"), "author": _header(messages[0], "From")}
            metadata |= {name: title for name, text in tags.items() if (title := plain_text.title(text))}
            for piece in chain.from_iterable(map(_readable, messages)):
                pieces.append(piece)
                size += len(piece)
                if size > _MAX_TEXT:
                    cut = True
                    break
    except (CpuTimeExceeded, RecursionError):
        cut = True
    text = plain_text.clean("\n".join(pieces)).strip() or plain_text.decode(data, cut=True)[0]
    values: dict[str, Any] = {"metadata": metadata}
    if "text" in want:
        values |= plain_text.search_values(text)
    if "document" in want:
        values["document"] = plain_text.document(re.sub(r"\n\s*\n\s*", "\n\n", text), complete=not cut)
    return values, []


def text(data: bytes) -> str:
    """The text of a message within another document."""
    values, _ = parse(data, {"want": ["text"], "head": len(data) + 1, "mime_type": "message/rfc822"})
    found: str = values["text"]
    return found


def _messages(data: bytes, *, mailbox: bool) -> list[Message]:
    parts = _MAILBOX.split(data, _MAX_MESSAGES)[1:] if mailbox else []
    return [message_from_bytes(part, policy=_Raw()) for part in parts or [data]]


def _readable(message: Message, depth: int = 0) -> Iterator[str]:
    """The headers that people read, the texts, and the names of what is attached."""
    attached = list[str]()
    yield "\n".join(f"{name}: {value}" for name in _HEADERS if (value := _header(message, name))) + "\n"
    yield from _texts(message, attached, depth)
    if attached:
        yield "\nAttachments: " + ", ".join(attached)


def _texts(part: Message, attached: list[str], depth: int) -> Iterator[str]:
    """The texts of a part in their order. The names of its attachments are added to ``attached``."""
    kind = part.get_content_type()
    children: Any = part.get_payload() if part.is_multipart() and depth < _MAX_DEPTH else ()
    if name := _name(part):
        attached.append(name)
    if kind == "multipart/alternative" and children:
        # Of the alternatives the first that is plain text, else the first that has text; attachments of all.
        found = [(child.get_content_type(), list(_texts(child, attached, depth + 1))) for child in children]
        found = [(kind, texts) for kind, texts in found if "".join(texts).strip()]
        yield from min(found, key=lambda each: each[0] != "text/plain", default=("", []))[1]
    elif kind == "message/rfc822":
        for child in children:
            yield "\n"
            yield from _readable(_unpacked(child) if _is_base64(part) else child, depth + 1)
    elif kind == "message/delivery-status":
        for child in children:
            yield "\n" + "\n".join(f"{name}: {_words(value)}" for name, value in child.items())
    elif children:
        for child in children:
            yield from _texts(child, attached, depth + 1)
    elif part.get_content_disposition() != "attachment" and (kind in _SHOWN or kind.startswith("multipart/")):
        yield _text(part, kind)


def _text(part: Message, kind: str) -> str:
    """The text of a body; a multipart without a boundary is one, too."""
    try:
        data = (_is_base64(part) and _decoded_base64(part)) or part.get_payload(decode=True)
        label = part.get_content_charset()
    except _MALFORMED:
        return ""
    if not isinstance(data, bytes):
        return ""
    is_html = kind == "text/html"
    text = _decoded(data, label or (plain_text.declared(data, markup=True) if is_html else None))
    return text_of(text) if is_html else text


def _unpacked(message: Message) -> Message:
    """An attached message that is base64 itself, as Exchange writes it in spite of RFC 2046 §5.2.1."""
    return message if message.keys() else _messages(_decoded_base64(message), mailbox=False)[0]


def _is_base64(part: Message) -> bool:
    return str(part.get("Content-Transfer-Encoding", "")).strip().lower() == "base64"


def _decoded_base64(part: Message) -> bytes:
    """A body in base64 up to what is not, as mailing lists add it; b"" if that is all."""
    payload = part.get_payload()
    lines = payload.splitlines() if isinstance(payload, str) else ()
    data = "".join(takewhile(_BASE64.fullmatch, lines)).translate({ord("="): "", ord(" "): ""})
    return b64decode(data[: len(data) - (len(data) % 4 == 1)] + "===")


def _name(part: Message) -> str:
    try:
        return _words(part.get_filename() or "")
    except _MALFORMED:
        return ""


def _header(message: Message, name: str) -> str:
    return _words(str(message.get(name, "")))


def _words(value: str) -> str:
    """A header without folding and encoded words."""
    value = re.sub(r"[\r\n]+[ \t]*", " ", value[:_MAX_HEADER])
    return "".join(_decoded(data, label) for label, data in encoded_words.runs(value, strict=False)).strip()


def _decoded(data: bytes, label: str | None) -> str:
    return charsets.decoded(data, charsets.detect(data, declared=label) or "cp1252")
