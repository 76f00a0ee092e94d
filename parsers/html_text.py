"""The text of an HTML page, without tags and scripts."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from parsers.cpu_timer import CpuTimeExceeded, cpu_timer

_SECONDS = 1.0  # of processor time: unfinished comments make the parser start over and over
_SKIPPED = frozenset({"script", "style", "template", "noscript", "svg", "title"})
_INLINE = frozenset({"a", "abbr", "b", "code", "em", "font", "i", "mark", "small", "span", "strong", "sub", "sup", "u"})


def without_tags(html: str) -> str:
    """The text, each block on a line of its own. If that takes too long, the HTML as it is."""
    try:
        with cpu_timer(_SECONDS):
            return text_of(html)
    except CpuTimeExceeded:
        return html


def text_of(html: str) -> str:
    """The same, for callers with a timer of their own."""
    parser = _Text()
    parser.feed(html)
    parser.close()
    return "".join(parser.pieces)


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self._skipped = ""  # the element whose end is awaited

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if not self._skipped and tag in _SKIPPED:
            self._skipped = tag
        self._break(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == self._skipped:
            self._skipped = ""
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self.pieces.append(data)

    def _break(self, tag: str) -> None:
        if tag not in _INLINE:
            self.pieces.append("\n")
