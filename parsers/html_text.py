"""What a page of HTML says, without what its tags and scripts do."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from parsers.cpu_timer import CpuTimeExceeded, cpu_timer

_SECONDS = 1.0  # of processor time: unfinished comments make the parser start over and over
_SILENT = frozenset({"script", "style", "template", "noscript", "svg", "head"})
_INLINE = frozenset({"a", "abbr", "b", "code", "em", "font", "i", "mark", "small", "span", "strong", "sub", "sup", "u"})


def without_tags(html: str) -> str:
    """The text, each block on a line of its own; markup that takes too long to read is left as it is."""
    reader = _Text()
    try:
        with cpu_timer(_SECONDS):
            reader.feed(html)
            reader.close()
    except CpuTimeExceeded:
        return html
    return "".join(reader.found)


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._silent = ""  # the element that says nothing until its end

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if not self._silent and tag in _SILENT:
            self._silent = tag
        self._break(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == self._silent:
            self._silent = ""
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.found.append(data)

    def _break(self, tag: str) -> None:
        if tag not in _INLINE:
            self.found.append("\n")
