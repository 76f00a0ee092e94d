"""Marks: what matched in a name or a text, as HTML that is escaped but for its ``<mark>`` (THREATS T82)."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from functools import lru_cache

from core.names import name_key
from core.tokenizer import is_run

AROUND = 90  # characters of a text before and after its first match
_SPACE = re.compile(r"\s+")
_MARKUP = re.compile("[&<>\"']")


def mark(text: str, sought: Sequence[Sequence[str]], *, at_words: bool = False) -> str | None:
    """The text with marks around each of ``sought``, the folded pieces of a word or phrase, between which anything may stand
    that is of no word; None where nothing is found. ``at_words``: only where a word begins, and then to its end, but in
    scripts without spaces anywhere."""
    folded, origin = _folded(text)
    found: list[tuple[int, int]] = []
    for pieces in sought:
        pattern = r"[\W_]*".join(map(re.escape, pieces))
        if at_words and pattern and not is_run(pieces[0]):
            pattern = rf"(?<![^\W_]){pattern}[^\W_]*"
        for match in re.finditer(pattern, folded) if pattern else ():
            found.append((origin[match.start()], origin[match.end() - 1] + 1))
    if not found:
        return None
    marked: list[tuple[int, int]] = []
    for start, end in sorted(found):
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


def _folded(text: str) -> tuple[str, Sequence[int]]:
    """The text as names are compared, and for each of its characters which one of the text it came from."""
    if text.isascii():
        return text.lower(), range(len(text))
    keys = [_key(char) for char in text]
    return "".join(keys), [index for index, key in enumerate(keys) for _ in key]


@lru_cache(4096)
def _key(char: str) -> str:
    return name_key(char)


def snippet(content: str, needles: Sequence[str]) -> str | None:
    """A line of the text around the first place where a word begins with one of the folded needles; None where none does.

    Needles of scripts without spaces may stand anywhere. Linear in the text, without a pattern of the caller's."""
    folded = content.casefold()
    if len(folded) != len(content):  # one character became several: look where they were
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
    if start > 0 and " " in content[start:first]:  # begin and end with whole words
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
    for _ in range(1_000):  # a needle inside of words all over: given up
        if at < 0 or at == 0 or not folded[at - 1].isalnum():
            return at if at >= 0 else None
        at = folded.find(needle, at + 1)
    return None
