"""What a word is: the same in names, in texts and in what is searched for. No language's rules, those of scripts only.

A token is a run of letters, digits and marks. ``AnnualReport2026_final.pdf`` has the tokens annualreport2026, final, pdf,
and of the first the words annual, report, 2026: tokens are split at camelCase and where letters meet digits. Where a
script writes no spaces (Chinese, Japanese, Thai, Lao, Khmer, Myanmar) every two neighbouring characters are a word, and the
last one alone: 東京都 is 東京, 京都, 都. So 京都 is found in it as a phrase of one word, and a single character as the
beginning of a word. The database has its own ``name_words`` for names, held to this one by a test.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from core.names import name_key

MAX_WORD = 64  # characters; what follows is not compared
_MAX_PIECES = 8  # of a token; one with more is a hash or an id, and not split

# Scripts without spaces: Thai, Lao, Myanmar, Khmer, kana, Han. Marks that are inside of words but no letters.
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
    """Each token with its pieces, all folded; a run of a script without spaces is one piece."""
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
    """The words of a text that is searched for: as ``words``, without a last character that a longer run ends in."""
    found = words(text)
    if len(found) > 1 and len(found[-1]) == 1 and is_run(found[-1]) and found[-2].endswith(found[-1]):
        found.pop()
    return found


def parts(text: str) -> list[str]:
    """The pieces of a text in order, runs whole: what is marked in a name."""
    return [piece for _, pieces in tokens(text) for piece in pieces]


def is_run(text: str) -> bool:
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
    """Is it long enough that a near word is likely to be meant?"""
    return 4 <= len(word) <= 32 and not word.isdecimal() and not is_run(word)


def swapped(word: str) -> list[str]:
    """The word with two neighbours swapped, in every place: what trigrams see badly in a short word."""
    return [word[:at] + word[at + 1] + word[at] + word[at + 2 :] for at in range(len(word) - 1)]


def is_near(word: str, other: str) -> bool:
    """May one be the other misspelt: accents aside, one slip in words of 4 to 7 letters, two in longer ones.

    A slip is a letter left out, added, replaced, or swapped with its neighbour; numbers are never near."""
    word, other = without_marks(word), without_marks(other)
    allowed = 1 if len(word) < 8 else 2
    if abs(len(word) - len(other)) > allowed or word.isdecimal() or other.isdecimal():
        return False
    if len(set(word) ^ set(other)) > 2 * allowed:  # a slip takes one letter away and brings another at most
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
    if word.isascii():
        return word
    return "".join(char for char in unicodedata.normalize("NFD", word) if not unicodedata.combining(char))


# -- texts ----------------------------------------------------------------------------------------------------

MAX_LEXEME_BYTES = 500_000  # of all distinct words of a text; a tsvector has to stay below 1 MiB (THREATS T83)
_MAX_POSITION = 16_383  # PostgreSQL's own limits of a tsvector
_MAX_PLACES = 255


def text_vector(content: str, *, mark: str = "") -> tuple[str, list[str]]:
    """A text as a tsvector literal, of lexemes that begin with ``mark``, and its distinct words. The vector has words and tokens
    with their positions, and each two neighbouring words as one ("net profit"), so that a phrase is looked up and not tried on
    each text with its words.

    Beyond ``MAX_LEXEME_BYTES`` of words and their positions the rest of the text is not indexed."""
    places: dict[str, list[int]] = {}
    pairs: dict[str, None] = {}
    room, position, before = MAX_LEXEME_BYTES, 0, ""

    def add(word: str, place: int) -> None:
        nonlocal room
        known = places.get(word)
        if known is None:
            places[word] = [place]
            room -= len(word.encode()) + 8
        elif len(known) < _MAX_PLACES and place < _MAX_POSITION:
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
    words = [f"'{mark}{word}':{','.join(map(str, at))}" for word, at in places.items()]
    return " ".join(words + [f"'{mark}{pair}'" for pair in pairs]), list(places)
