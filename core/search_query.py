"""The search language: text -> tree, and what belongs to reading it (near words, marks). Every string parses.

A query is terms and tests separated by spaces. All must hold; ``OR`` joins its two neighbours and binds tighter than
the space, so ``type:image cat OR dog`` asks for images of either; ``-`` in front negates. What looks like an operator
but is not one that makes sense (``size:big``, ``foo:bar``, ``before:soon``) is a word like any other. Length and number
of terms are capped first, so that the work a query can cause is bounded (THREATS T81).

    word          a name that contains it              "a phrase"   its words in that order, or the text as it stands
    prefix*       a name with a word that begins so    name: content:          only in the name, only in the text
    ext:pdf       tag:plans                            type:image type:image/png type:image/* type:pdf
    size:>10mb    >= < <= too, size:1mb..5mb; units of 1,024; size:10mb is what rounds down to it
    before: after:   a year, month, day or time, in UTC: before it begins; from its beginning on
    is:deleted    search the trash instead
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

from core.names import name_key

MAX_TEXT = 1_024            # characters
MAX_TERMS = 16
_MAX_SIZE = 2**63 - 1
_UNREADABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]+")
_TOKEN = re.compile(r'(-*)(?:([A-Za-z]+):)?(?:"([^"]*)"?|(\S+))')
_SIZE = re.compile(r"(>=|<=|>|<|=|)(\d{1,15}(?:\.\d{1,3})?)([kmgt]?)(?:i?b)?", re.ASCII)
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_DATE = re.compile(r"\d{4}(-\d\d)?(-\d\d)?", re.ASCII)
_WORDS = re.compile(r"[^\W_]+")
_BETWEEN_WORDS = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Term:
    """Text to be found; folded, so that it compares with the names' keys."""

    text: str
    kind: Literal["part", "prefix", "phrase"] = "part"
    where: Literal["any", "name", "content"] = "any"
    negated: bool = False


@dataclass(frozen=True, slots=True)
class TypeIs:
    value: str                      # a family, a MIME type, image/*, or a word such as pdf
    negated: bool = False


@dataclass(frozen=True, slots=True)
class ExtensionIs:
    value: str                      # folded, without the dot
    negated: bool = False


@dataclass(frozen=True, slots=True)
class HasTag:
    value: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class SizeWithin:
    """Bytes, half open."""

    low: int | None
    high: int | None
    negated: bool = False


@dataclass(frozen=True, slots=True)
class UploadedWithin:
    """Half open."""

    start: datetime | None
    end: datetime | None
    negated: bool = False


Leaf = Term | TypeIs | ExtensionIs | HasTag | SizeWithin | UploadedWithin


@dataclass(frozen=True, slots=True)
class SearchTree:
    """All groups must hold; of each group, one leaf."""

    groups: tuple[tuple[Leaf, ...], ...] = ()
    deleted: bool = False
    terms: tuple[Term, ...] = field(init=False)         # what a name is ranked and marked by
    plain: str | None = field(init=False)               # the whole text, where it is words and nothing else

    def __post_init__(self) -> None:
        leaves = [leaf for group in self.groups for leaf in group]
        terms = tuple(t for t in leaves if isinstance(t, Term) and not t.negated and t.where != "content")
        words = [t.text for t in terms if t.kind == "part" and t.where == "any"]
        only_words = len(words) == len(leaves) == len(self.groups) and bool(words)
        object.__setattr__(self, "terms", terms)
        object.__setattr__(self, "plain", " ".join(words) if only_words else None)


def parse(text: str) -> SearchTree:
    """The tree of any string whatever; what exceeds the caps is left out."""
    groups: list[list[Leaf]] = []
    deleted = joined = False
    count = 0
    for found in _TOKEN.finditer(_UNREADABLE.sub(" ", text[:MAX_TEXT])):
        if found.group() == "OR":
            joined = bool(groups)
            continue
        dashes, name, quoted, bare = found.groups()
        if (name or "").lower() == "is" and (quoted or bare or "").lower() == "deleted":
            deleted = deleted or not dashes
            continue
        leaf = _leaf(bool(dashes), (name or "").lower(), quoted, bare, found.group())
        if leaf is None:
            continue
        count += 1
        if count > MAX_TERMS:
            break
        if joined:
            groups[-1].append(leaf)
        else:
            groups.append([leaf])
        joined = False
    return SearchTree(tuple(map(tuple, groups)), deleted)


def _leaf(negated: bool, name: str, quoted: str | None, bare: str | None, token: str) -> Leaf | None:
    """One token's leaf; None for what has no text in it: a dash, an empty phrase."""
    value = (quoted if quoted is not None else bare or "").strip()
    match name:
        case "name" | "content" if value:
            return _term(value, quoted is not None, negated, "name" if name == "name" else "content")
        case "type" if value:
            return TypeIs(value.lower(), negated)
        case "ext" if value.strip("."):
            return ExtensionIs(name_key(value.lstrip(".")), negated)
        case "tag" if value:
            return HasTag(value, negated)
        case "size":
            within = _sizes(value.lower().replace(" ", ""))
            if within is not None:
                return SizeWithin(*within, negated)
        case "before" | "after":
            instant = _instant(value)
            if instant is not None:
                start, end = (None, instant) if name == "before" else (instant, None)
                return UploadedWithin(start, end, negated)
    if name:
        return _term(token.lstrip("-").replace('"', ""), False, negated, "any")
    return _term(value, quoted is not None, negated, "any")


def _term(value: str, quoted: bool, negated: bool, where: Literal["any", "name", "content"]) -> Term | None:
    if quoted:
        return Term(name_key(value), "phrase", where, negated) if value else None
    stem = value.rstrip("*")
    text = stem.lstrip("*") or value                    # "*.pdf" means what ends so; "*" alone is a star
    if not text.strip("-"):
        return None
    return Term(name_key(text), "prefix" if stem and stem != value else "part", where, negated)


def _sizes(value: str) -> tuple[int | None, int | None] | None:
    low, dots, high = value.partition("..")
    if dots:
        first, last = _SIZE.fullmatch(low), _SIZE.fullmatch(high)
        if first is None or last is None or first[1] or last[1]:
            return None
        return _bytes(first)[0], _bytes(last)[0] + 1
    found = _SIZE.fullmatch(value)
    if found is None:
        return None
    size, step = _bytes(found)
    match found[1]:
        case ">":
            return size + 1, None
        case ">=":
            return size, None
        case "<":
            return None, size
        case "<=":
            return None, size + 1
    return size, size + step


def _bytes(found: re.Match[str]) -> tuple[int, int]:
    """The size, and what one more in its last digit would be."""
    number, unit = Decimal(found[2]), _UNITS[found[3]]
    exponent = number.as_tuple().exponent
    step = Decimal(10) ** (exponent if isinstance(exponent, int) else 0)
    size = min(int(number * unit), _MAX_SIZE // 2)
    return size, max(1, min(int(step * unit), _MAX_SIZE // 2))


def _instant(value: str) -> datetime | None:
    try:
        if _DATE.fullmatch(value):
            year, month, day = [*value.split("-"), "1", "1"][:3]
            return datetime(int(year), int(month), int(day), tzinfo=UTC)
        instant = datetime.fromisoformat(value.upper())
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


# -- words ----------------------------------------------------------------------------------------------------

def spaced(text: str) -> str:
    """The words of a folded text with one space between them, as the column ``name_words`` has those of a name."""
    return _BETWEEN_WORDS.sub(" ", text).strip()


def words_of(text: str) -> list[str]:
    return _WORDS.findall(text)


def misspellable(term: Term) -> bool:
    """Is it one word, long enough that a near word is likely to be meant?"""
    return term.kind == "part" and 4 <= len(term.text) <= 32 and words_of(term.text) == [term.text]


def is_near(word: str, other: str) -> bool:
    """May one be the other misspelt: accents aside, one slip in words of 4 to 7 letters, two in longer ones.

    A slip is a letter left out, added, replaced, or swapped with its neighbour; numbers are never near."""
    word, other = _without_marks(word), _without_marks(other)
    allowed = 1 if len(word) < 8 else 2
    if abs(len(word) - len(other)) > allowed or word.isdecimal() or other.isdecimal():
        return False
    before: list[int] = []
    above = list(range(len(other) + 1))
    for i, a in enumerate(word):
        row = [i + 1]
        for j, b in enumerate(other):
            best = min(above[j] + (a != b), above[j + 1] + 1, row[j] + 1)
            if i and j and a == other[j - 1] and b == word[i - 1]:
                best = min(best, before[j - 1] + 1)
            row.append(best)
        if min(row) > allowed:
            return False
        before, above = above, row
    return above[-1] <= allowed


def _without_marks(word: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFD", word) if not unicodedata.combining(char))


def highlight(name: str, texts: Sequence[str]) -> str | None:
    """The name as HTML, escaped, with ``<mark>`` around what matched (THREATS T82); None where nothing did."""
    folded, origin = "", []                             # origin[i]: which character of the name folded[i] came from
    for index, char in enumerate(name):
        key = name_key(char)
        folded += key
        origin += [index] * len(key)
    marked: set[int] = set()
    for text in texts:
        # Between the words of a text anything may stand that is not of a word.
        words = _BETWEEN_WORDS.sub(" ", text).split()
        apart = r"[\W_]+".join(map(re.escape, words)) if len(words) > 1 else re.escape(text)
        for match in re.finditer(f"{re.escape(text)}|{apart}", folded) if text else ():
            marked.update(origin[match.start():match.end()])
    if not marked:
        return None
    pieces: list[str] = []
    for index, char in enumerate(name):
        if index in marked and index - 1 not in marked:
            pieces.append("<mark>")
        pieces.append(html.escape(char))
        if index in marked and index + 1 not in marked:
            pieces.append("</mark>")
    return "".join(pieces)
