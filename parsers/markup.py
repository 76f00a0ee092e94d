"""Text as HTML: highlighted source code and rendered Markdown, within a limit of processor time."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from html import escape
from typing import Any
from urllib.parse import urlsplit

from parsers.cpu_timer import CpuTimeExceeded, cpu_timer

_SECONDS = 1.5  # of processor time: lexers are regular expressions, and some text makes them slow
_MAX_HTML = 2 * 1024 * 1024  # characters
_MAX_INDENTED = 256 * 1024  # characters of indented JSON
_MAX_DEPTH = 100
_LINK_SCHEMES = frozenset({"http", "https", "mailto"})


def highlighted(text: str, mime_type: str, extension: str) -> tuple[str | None, str | None]:
    """The language's short name, and the text as HTML with pygments' classes; None for an unknown language.

    The extension decides, otherwise the type. JSON is indented first."""
    from pygments import highlight  # here, since it loads slowly
    from pygments.formatters.html import HtmlFormatter
    from pygments.lexers import get_lexer_for_filename, get_lexer_for_mimetype
    from pygments.util import ClassNotFound

    filename = "" if extension == "txt" else f"x.{extension}"
    basis = re.sub(r".*\+", "application/", mime_type)  # JSON, XML (RFC 6839)
    by_type = get_lexer_for_mimetype
    for find, key in ((get_lexer_for_filename, filename), (by_type, mime_type), (by_type, basis)):
        with suppress(ClassNotFound):
            lexer = find(key, stripnl=False)
            break
    else:
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
    """JSON with one value a line, numbers and names untouched; the text as it is if it is no JSON, or too deep."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    out, size, depth = [], 0, 0
    for piece in _JSON_TOKEN.findall(text):
        if piece in "]}":
            depth -= 1
            piece = _newline(depth) + piece
        elif piece in "[{":
            depth += 1
            piece += _newline(depth)
        elif piece == ",":
            piece += _newline(depth)
        elif piece == ":":
            piece += " "
        size += len(piece)
        if depth > _MAX_DEPTH or size > _MAX_INDENTED:
            return text
        out.append(piece)
    return "".join(out)


def _newline(depth: int) -> str:
    return "\n" + "  " * depth


_FRONT_MATTER = re.compile(r"\A---\n(.*?\n)(?:---|\.\.\.)[ \t]*\n", re.DOTALL)


def rendered(text: str) -> str | None:
    """Markdown as HTML: with tables and strikethrough, without raw HTML and images; links open in a new window. YAML before it
    is shown as code."""
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("js-default", {"html": False, "linkify": False, "typographer": False})
    markdown.validateLink = _is_web_link  # type: ignore[method-assign]
    markdown.add_render_rule("image", _alternative_text)
    markdown.add_render_rule("link_open", _foreign_link)
    try:
        with cpu_timer(_SECONDS):
            html = str(markdown.render(_FRONT_MATTER.sub(r"~~~~~yaml\n\1~~~~~\n", text)))
    except (CpuTimeExceeded, RecursionError):
        return None
    return html if len(html) <= _MAX_HTML else None


def _is_web_link(url: str) -> bool:
    try:
        return urlsplit(url.strip()).scheme.lower() in _LINK_SCHEMES
    except ValueError:
        return False


def _alternative_text(renderer: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    """Loading an image would tell its server who looks at this preview."""
    return escape(renderer.renderInlineAsText(tokens[index].children, options, env))


def _foreign_link(renderer: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    tokens[index].attrSet("rel", "noopener noreferrer nofollow")
    tokens[index].attrSet("target", "_blank")
    return str(renderer.renderToken(tokens, index, options, env))
