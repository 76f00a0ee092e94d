"""Plain text, source code, Markdown, CSV and JSON: decoded, shown safely, ready for search.

The child is given the beginning of a file, as much as search keeps of it; a preview shows the first 64 KiB. HTML that is
made here is safe by construction: pygments escapes what it colours, and the Markdown renderer knows no raw HTML, no
images from elsewhere and no links but those of the web (parsers/markup.py).
"""

from __future__ import annotations

from typing import Any

from parsers import language, markup, plain_text, table
from parsers.html_text import without_tags

SHOWN = 64 * 1024  # bytes of the file that a preview shows
_TABLES = {"text/csv": "csv", "text/tab-separated-values": "tsv"}
_MARKDOWN = frozenset({"text/markdown"})
_MARKED_UP = frozenset({"text/html", "application/xhtml+xml"})


def parse(data: bytes, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """``text`` for search, and ``document``: content, language, encoding, truncated, and html or table."""
    mime, want, head = arguments["mime_type"], arguments["want"], arguments["head"]
    text, encoding = plain_text.decode(data, cut=head is not None and len(data) >= head)
    values: dict[str, Any] = {"metadata": {"format": "text", "encoding": encoding}}
    if "text" in want:
        values["text"] = plain_text.for_search(without_tags(text) if mime in _MARKED_UP else text)
        values["text_language"] = language.of(values["text"])
    if "document" in want:
        values["document"] = _document(text, mime, arguments["extension"])
        values["document"] |= {"encoding": encoding, "truncated": len(data) > SHOWN}
    return values, []


def _document(text: str, mime: str, extension: str) -> dict[str, Any]:
    shown = plain_text.clean(text[:SHOWN].encode(errors="replace")[:SHOWN].decode(errors="ignore"))
    if mime in _TABLES:
        return {"content": shown, "language": _TABLES[mime], "table": table.rows(shown, mime)}
    if mime in _MARKDOWN:
        return {"content": shown, "language": "markdown", "html": markup.rendered(shown)}
    name, html = markup.highlighted(shown, mime, extension)
    return {"content": shown, "language": name, "html": html}
