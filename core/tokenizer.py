"""Splits names, texts and searches into words, by the rules of scripts, not of languages.

A token is a run of letters, digits and marks. ``AnnualReport2026_final.pdf`` has the tokens annualreport2026, final and pdf. A
token is split at camelCase and between letters and digits: annual, report, 2026. In scripts without spaces (Chinese, Japanese,
Thai, Lao, Khmer, Myanmar) each pair of neighbouring characters is a word, and so is the last character: 東京都 is 東京, 京都,
都. So 京都 is found as a phrase of one word, and a single character as the start of a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from core.names import name_key

MAX_WORD = 64  # characters; the rest of a word is ignored
_MAX_PIECES = 8  # of a token; with more it is a hash or an id, and stays whole

# Scripts without spaces: Thai, Lao, Myanmar, Khmer, kana, Han. Then marks that are part of words, but not letters.
RUN = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3007\u3040-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uaa60-\uaa7f\uf900-\ufaff\U00020000-\U0003ffff"
)
MARKS = (
    "\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u0963\u0966-\u0dff"
)
_TOKEN = re.compile(f"[{RUN}]+|(?:[^\\W_{RUN}]|[{MARKS}])+")
_IS_RUN = re.compile(f"[{RUN}]")
_IS_MARK = re.compile(f"[{MARKS}]")
_PLAIN = re.compile(r"[a-z]+|[0-9]+")


def tokens(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each token and its pieces, all folded. A run of a script without spaces is one piece."""
    for found in _TOKEN.finditer(unicodedata.normalize("NFKC", text)):
        token = found.group()
        if _PLAIN.fullmatch(token):
            yield token, [token]
        else:
            pieces = [token] if is_run(token) else _pieces(token)
            yield name_key(token), [name_key(piece) for piece in pieces]


def words(text: str) -> list[str]:
    """The words of a text in order."""
    return [word for _, pieces in tokens(text) for piece in pieces for word in _pairs(piece)]


def phrase(text: str) -> list[str]:
    """The words of a search phrase: as ``words``, without the single character at the end of a run."""
    found = words(text)
    if len(found) > 1 and len(found[-1]) == 1 and is_run(found[-1]) and found[-2].endswith(found[-1]):
        found.pop()
    return found


def parts(text: str) -> list[str]:
    """The pieces of a text in order, with whole runs: what highlights mark in a name."""
    return [piece for _, pieces in tokens(text) for piece in pieces]


def is_run(text: str) -> bool:
    """Whether the text begins in a script without spaces between words."""
    return bool(_IS_RUN.match(text))


def _pairs(piece: str) -> list[str]:
    return [piece[at : at + 2] for at in range(len(piece))] if is_run(piece) else [piece]


def _pieces(token: str) -> list[str]:
    pieces: list[str] = []
    start = 0
    for at in range(1, len(token)):
        before, here = token[at - 1], token[at]
        starts_capital = here.isupper() and (
            before.islower() or (before.isupper() and at + 1 < len(token) and token[at + 1].islower())
        )
        meets_digit = before.isdecimal() != here.isdecimal() and not _IS_MARK.search(before + here)
        if starts_capital or meets_digit:
            pieces.append(token[start:at])
            start = at
    pieces.append(token[start:])
    return pieces if len(pieces) <= _MAX_PIECES else [token]


# -- near words -----------------------------------------------------------------------------------------------


def misspellable(word: str) -> bool:
    """Whether the word is long enough for corrections."""
    return 4 <= len(word) <= 32 and not word.isdecimal() and not is_run(word)


def swapped(word: str) -> list[str]:
    """All words with two neighbouring letters swapped, which trigrams find badly in short words."""
    return [word[:at] + word[at + 1] + word[at] + word[at + 2 :] for at in range(len(word) - 1)]


def is_near(word: str, other: str) -> bool:
    """Whether the words differ, accents aside, by one edit, or by two if they have 8 letters or more.

    An edit omits, adds or replaces a letter, or swaps two neighbours. Numbers are never near."""
    word, other = without_marks(word), without_marks(other)
    allowed = 1 if len(word) < 8 else 2
    if abs(len(word) - len(other)) > allowed or word.isdecimal() or other.isdecimal():
        return False
    if len(set(word) ^ set(other)) > 2 * allowed:  # an edit removes one letter and adds one at most
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


def without_marks(word: str) -> str:
    """The word without accents and other combining marks."""
    if word.isascii():
        return word
    return "".join(char for char in unicodedata.normalize("NFD", word) if not unicodedata.combining(char))


# -- texts ----------------------------------------------------------------------------------------------------

MAX_LEXEME_BYTES = 500_000  # of the distinct words of a text; a tsvector must be smaller than 1 MiB (T83)
_MAX_POSITION = 16_383  # PostgreSQL's limits of a tsvector
_MAX_POSITIONS = 255


def text_vector(content: str, *, mark: str = "") -> tuple[str, list[str]]:
    """A text as a tsvector literal, whose lexemes begin with ``mark``, and its distinct words. The vector has words and tokens
    with their positions, and each pair of neighbouring words ("net profit"), so that the index finds phrases.

    After ``MAX_LEXEME_BYTES`` the rest of the text is not indexed."""
    positions: dict[str, list[int]] = {}
    pairs: dict[str, None] = {}
    room, position, before = MAX_LEXEME_BYTES, 0, ""

    def add(word: str, place: int) -> None:
        nonlocal room
        known = positions.get(word)
        if known is None:
            positions[word] = [place]
            room -= len(word.encode()) + 8
        elif len(known) < _MAX_POSITIONS and place < _MAX_POSITION:
            known.append(place)
            room -= 2

    for token, pieces in tokens(content):
        if len(pieces) > 1:
            add(token[:MAX_WORD], min(position + 1, _MAX_POSITION))
        for piece in pieces:
            for word in _pairs(piece):
                word = word[:MAX_WORD]
                position += 1
                add(word, min(position, _MAX_POSITION))
                pair = f"{before} {word}"
                if before and pair not in pairs:
                    pairs[pair] = None
                    room -= len(pair.encode()) + 2
                before = word
        if room <= 0:
            break
    words = [f"'{mark}{word}':{','.join(map(str, at))}" for word, at in positions.items()]
    return " ".join(words + [f"'{mark}{pair}'" for pair in pairs]), list(positions)
