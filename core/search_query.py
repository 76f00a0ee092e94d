"""The search language: text to tree. Every string parses.

A search is terms and operators separated by spaces, all of which must match. ``OR`` joins its two neighbours and binds tighter
than the space: ``type:image cat OR dog`` finds images of either. A leading ``-`` negates. An invalid operator is a word
(``size:big``, ``foo:bar``, ``before:soon``). Length and number of terms are limited first, so that the work of a search is
bounded (T81).

    word          a name that contains it, a text with it or another form of it
    "a phrase"    these words in this order          prefix*       a word that begins so
    name: content:   only in the name, only in the text
    ext:pdf       tag:plans                          type:image type:image/png type:image/* type:pdf
    size:>10mb    also >= < <=, size:1mb..5mb; units of 1,024; size:10mb is what rounds down to it
    before: after:   a year, month, day or time, in UTC: before it begins; from its beginning on
    is:deleted    search the trash instead
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal

from core.names import name_key
from core.tokenizer import phrase, tokens

MAX_TEXT = 1_024  # characters
MAX_TERMS = 16
_MAX_SIZE = 2**62
_UNREADABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
_TOKEN = re.compile(r'\s*(-*)(?:([A-Za-z]+):)?(?:"([^"]*)"?|(\S+))')
_BARE = re.compile(r"\s*-*(\S+)")
_SIZE = re.compile(r"(>=|<=|>|<|=|)(\d{1,20}(?:\.\d{1,3})?)([kmgt]?)(?:i?b)?", re.ASCII)
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_DATE = re.compile(r"\d{4}(-\d\d)?(-\d\d)?", re.ASCII)

Where = Literal["any", "name", "content"]


@dataclass(frozen=True)
class Term:
    """Text to search for, as typed, in NFKC. Derived values are cached."""

    text: str
    kind: Literal["part", "prefix", "phrase"] = "part"
    where: Where = "any"
    negated: bool = False

    @cached_property
    def key(self) -> str:
        """The text folded as names are; of ``*.pdf`` it is ``.pdf``."""
        return name_key(self.text if self.kind == "phrase" else self.text.lstrip("*") or self.text)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The words of the folded text, so that pLAN is one word."""
        return tuple(phrase(self.key))

    @cached_property
    def token(self) -> str | None:
        """The text, if it is one token of several words, as report2026 is."""
        found = list(tokens(self.key))
        return found[0][0] if len(found) == 1 and len(found[0][1]) > 1 else None


@dataclass(frozen=True, slots=True)
class Is:
    """``type:`` (a family, a MIME type, image/*, or a word such as pdf), ``ext:`` (with or without the dot) or ``tag:``."""

    what: Literal["type", "ext", "tag"]
    value: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Within:
    """``size:`` in bytes, ``before:`` and ``after:``: a half-open interval with at least one bound."""

    what: Literal["size", "uploaded"]
    low: Any  # int or datetime; None if there is no bound
    high: Any
    negated: bool = False


Leaf = Term | Is | Within


@dataclass(frozen=True, slots=True)
class SearchTree:
    """All groups must match, each by at least one leaf."""

    groups: tuple[tuple[Leaf, ...], ...] = ()
    deleted: bool = False

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms that match names, to be highlighted."""
        leaves = [leaf for group in self.groups for leaf in group]
        return tuple(t for t in leaves if isinstance(t, Term) and not t.negated and t.where != "content")


def parse(text: str) -> SearchTree:
    """Parse any string; what exceeds the limits is ignored."""
    text = unicodedata.normalize("NFKC", _UNREADABLE.sub(" ", text[:MAX_TEXT]))[:MAX_TEXT]
    groups: list[list[Leaf]] = []
    deleted = joined = False
    count = at = 0
    while found := _TOKEN.match(text, at):
        dashes, name, quoted, bare = found.groups()
        at = found.end()
        if found.group().strip() == "OR":
            joined = bool(groups)
            continue
        name = (name or "").lower()
        if name == "is" and (bare if quoted is None else quoted).lower() == "deleted":
            deleted = deleted or not dashes
            continue
        leaf = _operation(bool(dashes), name, quoted, bare) if name else None
        if name and leaf is None:  # not an operator: a word, up to the next space
            whole = _BARE.match(text, found.start())
            assert whole is not None
            at, quoted, bare = whole.end(), None, whole[1]
        leaf = leaf or _term(bare, quoted, bool(dashes), "any")
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


def _operation(negated: bool, name: str, quoted: str | None, bare: str | None) -> Leaf | None:
    """The leaf of ``name:value``; None if it is invalid."""
    value = (quoted if quoted is not None else bare or "").strip()
    if not value:
        return None
    match name:
        case "name" | "content":
            return _term(bare, quoted, negated, name)
        case "type" | "tag":
            return Is(name, value, negated)
        case "ext" if value.strip("."):
            return Is(name, value, negated)
        case "size" if within := _sizes(value.lower().replace(" ", "")):
            return Within("size", *within, negated)
        case "before" if instant := _instant(value):
            return Within("uploaded", None, instant, negated)
        case "after" if instant := _instant(value):
            return Within("uploaded", instant, None, negated)
    return None


def _term(bare: str | None, quoted: str | None, negated: bool, where: Where) -> Term | None:
    """The term; None if it has no text, as a dash or an empty phrase."""
    if quoted is not None:
        text = quoted.strip()
        return Term(text, "phrase", where, negated) if text else None
    text = bare or ""
    if not text.strip("-"):
        return None
    stem = text.rstrip("*")
    return Term(stem, "prefix", where, negated) if stem not in ("", text) else Term(text, "part", where, negated)


def _sizes(value: str) -> tuple[int | None, int | None] | None:
    low, dots, high = value.partition("..")
    if dots:
        first, last = _SIZE.fullmatch(low), _SIZE.fullmatch(high)
        if first is None or last is None or first[1] or last[1]:
            return None
        return _capped(_bytes(first)[0]), _capped(_bytes(last)[0] + 1)
    found = _SIZE.fullmatch(value)
    if found is None:
        return None
    size, step = _bytes(found)
    match found[1]:
        case ">":
            return _capped(size + 1), None
        case ">=":
            return _capped(size), None
        case "<":
            return None, _capped(size)
        case "<=":
            return None, _capped(size + 1)
    return _capped(size), _capped(size + step)


def _capped(size: int) -> int:
    return min(size, _MAX_SIZE)


def _bytes(found: re.Match[str]) -> tuple[int, int]:
    """The size, and the value of its last digit."""
    number, unit = Decimal(found[2]), _UNITS[found[3]]
    exponent = number.as_tuple().exponent
    step = Decimal(10) ** (exponent if isinstance(exponent, int) else 0)
    return int(number * unit), max(1, int(step * unit))


def parse_size(text: str) -> int:
    """The bytes of a size such as 10mb, as in ``size:``. Raises ValueError."""
    found = _SIZE.fullmatch(text.lower())
    if found is None or found[1]:
        raise ValueError("no size")
    return _bytes(found)[0]


def _instant(value: str) -> datetime | None:
    try:
        if _DATE.fullmatch(value):
            year, month, day = [*value.split("-"), "1", "1"][:3]
            return datetime(int(year), int(month), int(day), tzinfo=UTC)
        instant = datetime.fromisoformat(value.upper())
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
