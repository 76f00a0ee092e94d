"""Plain text, source code, Markdown, CSV and JSON: text for search, and previews that are safe to show.

The child gets as much of a file's beginning as search keeps. HTML made here is safe by construction: pygments escapes what it
highlights, and the Markdown renderer makes no raw HTML, no images, and no links but web links (parsers/markup.py).
"""

from __future__ import annotations

from typing import Any

from parsers import markup, plain_text, table
from parsers.html_text import without_tags
from parsers.plain_text import SHOWN

_TABLES = {"text/csv": "csv", "text/tab-separated-values": "tsv"}
_HTML = frozenset({"text/html", "application/xhtml+xml"})


def parse(data: bytes, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """``text`` for search, and ``document``: content, language, encoding, truncated, and html or table."""
    mime_type, want, head = arguments["mime_type"], arguments["want"], arguments["head"]
    text, encoding = plain_text.decode(data, cut=head is not None and len(data) >= head)
    values: dict[str, Any] = {"metadata": {"format": "text", "encoding": encoding}}
    if "text" in want:
        values |= plain_text.search_values(without_tags(text) if mime_type in _HTML else text)
    if "document" in want:
        values["document"] = _document(text, mime_type, arguments["extension"])
        values["document"] |= {"encoding": encoding, "truncated": len(data) > SHOWN}
    return values, []


def _document(text: str, mime_type: str, extension: str) -> dict[str, Any]:
    shown = plain_text.clean(text[:SHOWN].encode(errors="replace")[:SHOWN].decode(errors="ignore"))
    if mime_type in _TABLES:
        return {"content": shown, "language": _TABLES[mime_type], "table": table.rows(shown, mime_type)}
    if mime_type == "text/markdown":
        return {"content": shown, "language": "markdown", "html": markup.rendered(shown)}
    language, html = markup.highlighted(shown, mime_type, extension)
    return {"content": shown, "language": language, "html": html}
