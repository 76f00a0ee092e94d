"""Highlights: matches in a name or text, as escaped HTML with ``<mark>`` (T82)."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from functools import lru_cache

from core.names import name_key
from core.tokenizer import is_run

AROUND = 90  # characters before and after the first match
_SPACE = re.compile(r"\s+")
_MARKUP = re.compile("[&<>\"']")


def mark(text: str, terms: Sequence[Sequence[str]], *, at_words: bool = False) -> str | None:
    """The text with all matches marked; None if there are none. A term is the folded pieces of a word or phrase, with any
    non-word characters between them. ``at_words``: match whole words by their beginning, except in scripts without spaces."""
    folded, origin = _folded(text)
    matches: list[tuple[int, int]] = []
    for pieces in filter(any, terms):
        for match in _pattern(tuple(pieces), at_words).finditer(folded):
            start, end = match.span()
            matches.append((start, end) if origin is None else (origin[start], origin[end - 1] + 1))
    if not matches:
        return None
    marked: list[tuple[int, int]] = []
    for start, end in sorted(matches):
        if marked and start <= marked[-1][1]:
            start, end = marked[-1][0], max(end, marked.pop()[1])
        marked.append((start, end))
    shown: list[str] = []
    shown_to = 0
    for start, end in marked:
        shown += [text[shown_to:start], "<mark>", text[start:end], "</mark>"]
        shown_to = end
    shown.append(text[shown_to:])
    if _MARKUP.search(text):
        shown[::2] = map(html.escape, shown[::2])
    return "".join(shown)


@lru_cache(256)
def _pattern(pieces: tuple[str, ...], at_words: bool) -> re.Pattern[str]:
    pattern = r"[\W_]*".join(map(re.escape, pieces))
    return re.compile(rf"(?<![^\W_]){pattern}[^\W_]*" if at_words and not is_run(pieces[0]) else pattern)


def _folded(text: str) -> tuple[str, Sequence[int] | None]:
    """The text folded as names are, and for each folded character the index of its original, unless they are the same."""
    if text.isascii():
        return text.lower(), None
    keys = [_key(char) for char in text]
    return "".join(keys), [index for index, key in enumerate(keys) for _ in key]


@lru_cache(4096)
def _key(char: str) -> str:
    return name_key(char)


def snippet(content: str, needles: Sequence[str]) -> str | None:
    """The text around the first word that begins with one of the folded needles, marked; None if there is none.

    In scripts without spaces a needle may match anywhere. Takes linear time."""
    folded = content.casefold()
    if len(folded) != len(content):  # a folded character has another length: keep it unfolded
        longer = "".join(char for char in set(content) if len(char.casefold()) != 1)
        pieces = re.split(f"([{re.escape(longer)}])", content)
        folded = "".join(piece if at % 2 else piece.casefold() for at, piece in enumerate(pieces))
    first: int | None = None
    for needle in needles:
        at = _word_at(folded, needle)
        if at is not None and (first is None or at < first):
            first = at
    if first is None:
        return None
    start, end = max(0, first - AROUND), min(len(content), first + AROUND)
    line = content[start:end]
    if start > 0 and " " in content[start:first]:  # start and end at whole words
        line = line[line.index(" ") + 1 :]
    if end < len(content) and " " in content[first:end]:
        line = line[: line.rindex(" ")]
    line = _SPACE.sub(" ", line).strip()
    marked = mark(line, [[needle] for needle in needles], at_words=True) or html.escape(line)
    return ("… " if start > 0 else "") + marked + (" …" if end < len(content) else "")


def _word_at(folded: str, needle: str) -> int | None:
    at = folded.find(needle)
    if is_run(needle):
        return at if at >= 0 else None
    for _ in range(1_000):  # bounded, for a needle that occurs often inside of words
        if at < 0 or at == 0 or not folded[at - 1].isalnum():
            return at if at >= 0 else None
        at = folded.find(needle, at + 1)
    return None
