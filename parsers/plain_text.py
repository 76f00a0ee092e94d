"""Text as database and search accept it: decoded, cleaned, capped (T83), with its language."""

from __future__ import annotations

import codecs
import re
from contextlib import suppress
from typing import Any

from parsers import Unsupported, language

MAX_BYTES = 1024 * 1024  # of a text for search, in UTF-8
SHOWN = 64 * 1024  # of a preview: bytes of a text file, characters of other documents
# PostgreSQL refuses a tsvector whose words and positions take more than 1 MB. A word costs its own length and some eight
# bytes, a hyphenated one its parts too; positions stop counting at 16,383.
_MAX_INDEX = 800_000
_POSITIONS = 2 * 16_383 * 2

_UNWANTED = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_WORD = re.compile(r"\S{1,256}")  # a file without blanks is not one word
_SAMPLE = 65_536  # bytes that an encoding is guessed from

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is its beginning
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Those still common in files; guessing among all ninety is as often wrong as right.
_LEGACY = ["cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "koi8_r", "cp866", "cp437"]
_LEGACY += ["shift_jis", "euc_jp", "iso2022_jp", "gb18030", "big5", "euc_kr"]
_C1 = dict.fromkeys(range(0x80, 0xA0), " ")  # controls in Latin-1, letters in other encodings


def decode(data: bytes, *, cut: bool = False) -> tuple[str, str]:
    """Bytes as text, and the encoding's name. ``cut``: they may end within a character.

    Tries the byte order mark, UTF-8, UTF-16 by where its zeros are, then the likeliest legacy encoding. Raises Unsupported
    if it is not text."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _decode_whole(data[len(mark) :], encoding), encoding
    with suppress(UnicodeDecodeError):
        text = codecs.getincrementaldecoder("utf-8")().decode(data, final=not cut)
        if "\0" not in text[:_SAMPLE]:
            return text, "utf-8"
    if utf16 := _utf16(data[:_SAMPLE]):
        return _decode_whole(data, utf16), utf16
    if b"\0" in data[:_SAMPLE]:
        raise Unsupported("This is not text")
    encoding = _legacy(data[:_SAMPLE])
    return data.decode(encoding, "replace"), encoding


def _decode_whole(data: bytes, encoding: str) -> str:
    """Without an incomplete last character."""
    return codecs.getincrementaldecoder(encoding)("replace").decode(data)


def _utf16(sample: bytes) -> str | None:
    """UTF-16 without a mark: in most scripts one byte of each pair is often zero, and the other never."""
    pairs = len(sample) // 2
    if not pairs:
        return None
    even, odd = sample[0 : 2 * pairs : 2].count(0), sample[1 : 2 * pairs : 2].count(0)
    for zeros, others, encoding in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if zeros > pairs * 0.15 and others < pairs * 0.01:
            return encoding
    return None


def _legacy(sample: bytes) -> str:
    if len(_UNWANTED.findall(sample.decode("latin-1").translate(_C1))) > len(sample) * 0.02:
        raise Unsupported("This is not text")
    from charset_normalizer import from_bytes  # here, since most text is UTF-8

    best = from_bytes(sample, cp_isolation=_LEGACY, threshold=0.3).best()
    return best.encoding if best else "cp1252"


def clean(text: str) -> str:
    """Without NUL, surrogates and controls (except tab and newline), which PostgreSQL, JSON or terminals don't take."""
    return _UNWANTED.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def title(text: str | None) -> str:
    """A title, an author or another tag: clean, without blanks at its ends, at most 500 characters."""
    return clean(text or "").strip()[:500]


def search_values(text: str) -> dict[str, Any]:
    """``text`` for search, and ``text_language``."""
    text = for_search(text)
    return {"text": text, "text_language": language.detect(text)}


def document(text: str, *, complete: bool = True) -> dict[str, Any]:
    """A preview of a document's text. ``complete``: ``text`` is all of it."""
    truncated = len(text) > SHOWN or not complete
    return {"content": text[:SHOWN], "language": None, "encoding": None, "truncated": truncated}


def for_search(text: str) -> str:
    """Clean, with each run of blanks made one, and cut at a word so that its tsvector stays under 1 MB."""
    text = re.sub(r"[^\S\n]+", " ", clean(text))
    text = re.sub(r" ?\n[ \n]*", "\n", text).strip()
    text = text.encode()[:MAX_BYTES].decode(errors="ignore")
    seen: set[str] = set()
    cost = _POSITIONS
    for match in _WORD.finditer(text):
        if (word := match[0]) in seen:
            continue
        seen.add(word)
        size = len(word.encode())
        # A word of letters alone is one entry; of another, each piece can be one, and the whole another.
        cost += size + 8 if word.isalnum() else 2 * size + 8 * (2 + len(word) - sum(map(str.isalnum, word)))
        if cost > _MAX_INDEX:
            return text[: match.start()].rstrip()
    return text
