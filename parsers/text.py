"""Plain text, source code, Markdown, CSV and JSON: text for search, and previews that are safe to show.

The child gets as much of a file's beginning as search keeps. HTML made here is safe by construction: pygments escapes what it
highlights, and the Markdown renderer makes no raw HTML, no images, and no links but web links (parsers/markup.py).
"""

from __future__ import annotations

import quopri
import re
from typing import Any

from core import charsets
from parsers import markup, plain_text, table
from parsers.html_text import without_tags
from parsers.plain_text import SHOWN

_TABLES = {"text/csv": "csv", "text/tab-separated-values": "tsv"}
_HTML = frozenset({"text/html", "application/xhtml+xml"})
_TERMINAL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")  # colours and other control sequences (ECMA-48)

# A line of a vCard 2.1, as older phones export them; it may go on after a "=".
_QUOTED = re.compile(
    r"^([^:\n]{0,200};(?:ENCODING=)?QUOTED-PRINTABLE\b[^:\n]{0,200}):((?:.*=\n)*.*)", re.IGNORECASE | re.MULTILINE
)


def parse(data: bytes, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """``text`` for search, and ``document``: content, language, encoding, truncated, and html or table."""
    mime_type, want, head = arguments["mime_type"], arguments["want"], arguments["head"]
    cut = head is not None and len(data) >= head
    label = plain_text.declared(data, markup="xml" in mime_type or mime_type in _HTML)
    text, encoding = plain_text.decode(data, cut=cut, declared=None if mime_type == "text/plain" else label)
    text = _TERMINAL.sub("", text)
    if mime_type == "text/vcard":
        text = _QUOTED.sub(_unquoted, plain_text.clean(text))
    values: dict[str, Any] = {"metadata": {"format": "text", "encoding": encoding}}
    if "text" in want:
        values |= plain_text.search_values(without_tags(text) if mime_type in _HTML else text)
    if "document" in want:
        shown = text[:SHOWN].encode(errors="replace")[:SHOWN].decode(errors="ignore")
        truncated = cut or len(shown) < len(text)
        values["document"] = _document(plain_text.clean(shown), mime_type, arguments["extension"], truncated)
        values["document"] |= {"encoding": encoding, "truncated": truncated}
    return values, []


def _unquoted(line: re.Match[str]) -> str:
    head, value = line[1], quopri.decodestring(line[2].encode())
    charset = re.search(r";CHARSET=([\w-]+)", head, re.IGNORECASE)
    encoding = charsets.detect(value, declared=charset[1] if charset else None) or "utf-8"
    return f"{head}:{charsets.decoded(value, encoding)}"


def _document(shown: str, mime_type: str, extension: str, truncated: bool) -> dict[str, Any]:
    if mime_type in _TABLES:
        rows = table.rows(shown, mime_type, truncated=truncated)
        return {"content": shown, "language": _TABLES[mime_type], "table": rows}
    if mime_type == "text/markdown":
        return {"content": shown, "language": "markdown", "html": markup.rendered(shown)}
    language, html = markup.highlighted(shown, mime_type, extension)
    return {"content": shown, "language": language, "html": html}
