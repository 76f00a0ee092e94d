"""HTML made of text: coloured source code, rendered Markdown. Both are given up where they take too long."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlsplit

from parsers.cpu_timer import CpuTimeExceeded, cpu_timer

_SECONDS = 1.5  # of processor time: lexers are expressions, and some text makes expressions slow
_MAX_HTML = 2 * 1024 * 1024  # characters
_MAX_PRETTY = 256 * 1024
_MAX_DEPTH = 100
_LINKS = frozenset({"http", "https", "mailto"})


def highlighted(text: str, mime_type: str, extension: str) -> tuple[str | None, str | None]:
    """The language's short name, and the text as HTML with pygments' classes; None where it is no known language.

    The extension decides, else the type. JSON is indented first."""
    from pygments import highlight  # late, as everything here that takes its time to load
    from pygments.formatters.html import HtmlFormatter
    from pygments.lexers import get_lexer_for_filename, get_lexer_for_mimetype
    from pygments.util import ClassNotFound

    try:
        if not extension or extension == "txt":
            raise ClassNotFound
        lexer = get_lexer_for_filename(f"x.{extension}", stripnl=False)
    except ClassNotFound:
        try:
            lexer = get_lexer_for_mimetype(mime_type, stripnl=False)
        except ClassNotFound:
            return None, None
    name = lexer.aliases[0] if lexer.aliases else lexer.name.lower()
    if name == "text":
        return None, None
    try:
        with cpu_timer(_SECONDS):
            shown = indented(text) if name == "json" else text
            html = highlight(shown, lexer, HtmlFormatter(cssclass="highlight"))
    except (CpuTimeExceeded, RecursionError):
        return name, None
    return name, html if len(html) <= _MAX_HTML else None


_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]\s*[\]}]|[\[\]{},:]|[^\s"\[\]{},:]+')


def indented(text: str) -> str:
    """JSON with a line for each value; as it was where it is no JSON, or too deep. Numbers and names are not touched."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    out, size, depth = [], 0, 0
    for piece in _JSON_TOKEN.findall(text):
        if piece in "]}":
            depth -= 1
            piece = _line(depth) + piece
        elif piece in "[{":
            depth += 1
            piece += _line(depth)
        elif piece == ",":
            piece += _line(depth)
        elif piece == ":":
            piece += " "
        size += len(piece)
        if depth > _MAX_DEPTH or size > _MAX_PRETTY:
            return text
        out.append(piece)
    return "".join(out)


def _line(depth: int) -> str:
    return "\n" + "  " * depth


def rendered(text: str) -> str | None:
    """Markdown as HTML: tables and strikethrough, no raw HTML, pictures by their words alone, links marked as foreign."""
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("js-default", {"html": False, "linkify": False, "typographer": False})
    markdown.validateLink = _is_web  # type: ignore[method-assign]
    markdown.add_render_rule("image", _in_words)
    markdown.add_render_rule("link_open", _foreign)
    try:
        with cpu_timer(_SECONDS):
            html = str(markdown.render(text))
    except (CpuTimeExceeded, RecursionError):
        return None
    return html if len(html) <= _MAX_HTML else None


def _is_web(url: str) -> bool:
    try:
        return urlsplit(url.strip()).scheme.lower() in _LINKS
    except ValueError:
        return False


def _in_words(renderer: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    """A picture from elsewhere would tell its server who looks at this preview."""
    from html import escape

    return escape(renderer.renderInlineAsText(tokens[index].children, options, env))


def _foreign(renderer: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    tokens[index].attrSet("rel", "noopener noreferrer nofollow")
    tokens[index].attrSet("target", "_blank")
    return str(renderer.renderToken(tokens, index, options, env))
