"""Text as the database and the search take it: decoded, cleaned, capped (THREATS T83), and in which language it is."""

from __future__ import annotations

import codecs
import re
from contextlib import suppress

from parsers import Unsupported

MAX_BYTES = 1024 * 1024  # of a text for search, in UTF-8
# PostgreSQL refuses a tsvector whose words and positions take more than 1 MB. A word costs its own length and some
# eight bytes, a hyphenated one its parts besides; positions stop counting at 16,383.
_MAX_INDEX = 800_000
_POSITIONS = 2 * 16_383 * 2

_UNWANTED = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_WORD = re.compile(r"\S{1,256}")  # a file without blanks is not one word
_SAMPLE = 65_536  # bytes that an encoding is guessed from

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins like UTF-16's
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Those that files in the wild still have; of all ninety, a guess is as often wrong.
_LEGACY = [
    "cp1252",
    "cp1250",
    "cp1251",
    "cp1253",
    "cp1254",
    "cp1255",
    "cp1256",
    "cp1257",
    "koi8_r",
    "cp866",
    "cp437",
    "shift_jis",
    "euc_jp",
    "iso2022_jp",
    "gb18030",
    "big5",
    "euc_kr",
]


def decode(data: bytes, *, cut: bool = False) -> tuple[str, str]:
    """Bytes as text, and the encoding's name. ``cut``: they end anywhere, perhaps within a character.

    By its byte order mark, else UTF-8, else UTF-16 by where its zeros are, else the likeliest legacy encoding.
    Raises Unsupported for what is no text."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _clean_end(data[len(mark) :], encoding), encoding
    with suppress(UnicodeDecodeError):
        text = codecs.getincrementaldecoder("utf-8")().decode(data, final=not cut)
        if "\0" not in text[:_SAMPLE]:
            return text, "utf-8"
    if utf16 := _utf16(data[:_SAMPLE]):
        return _clean_end(data, utf16), utf16
    if b"\0" in data[:_SAMPLE]:
        raise Unsupported("This is not text")
    encoding = _legacy(data[:_SAMPLE])
    return data.decode(encoding, "replace"), encoding


def _clean_end(data: bytes, encoding: str) -> str:
    return codecs.getincrementaldecoder(encoding)("replace").decode(data)


def _utf16(sample: bytes) -> str | None:
    """UTF-16 without a mark: of most scripts' text, every other byte is often zero and the ones between never are."""
    pairs = len(sample) // 2
    if not pairs:
        return None
    even, odd = sample[0 : 2 * pairs : 2].count(0), sample[1 : 2 * pairs : 2].count(0)
    for zeros, others, encoding in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if zeros > pairs * 0.15 and others < pairs * 0.01:
            return encoding
    return None


def _legacy(sample: bytes) -> str:
    if len(_UNWANTED.findall(sample.decode("latin-1").translate(_HIGH))) > len(sample) * 0.02:
        raise Unsupported("This is not text")
    from charset_normalizer import from_bytes  # only now: most text is UTF-8

    best = from_bytes(sample, cp_isolation=_LEGACY, threshold=0.3).best()
    return best.encoding if best else "cp1252"


_HIGH = dict.fromkeys(range(0x80, 0xA0), " ")  # controls in Latin-1, letters elsewhere


def clean(text: str) -> str:
    """Without what PostgreSQL or JSON refuse or a terminal obeys: NUL, controls but tab and newline, surrogates."""
    return _UNWANTED.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def for_search(text: str) -> str:
    """Clean, with runs of blanks made one, and cut at a word so that a tsvector of it stays under 1 MB."""
    text = re.sub(r"[^\S\n]+", " ", clean(text))
    text = re.sub(r" ?\n[ \n]*", "\n", text).strip()
    text = text.encode()[:MAX_BYTES].decode(errors="ignore")
    seen: set[str] = set()
    cost = _POSITIONS
    for word in _WORD.finditer(text):
        if (found := word[0]) in seen:
            continue
        seen.add(found)
        size = len(found.encode())
        # A word of letters alone is one entry; of another, each piece can be one, and the whole another.
        cost += size + 8 if found.isalnum() else 2 * size + 8 * (2 + len(found) - sum(map(str.isalnum, found)))
        if cost > _MAX_INDEX:
            return text[: word.start()].rstrip()
    return text
