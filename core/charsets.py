"""The encoding of text that does not name it.

What is certain comes first: a byte order mark, valid UTF-8, UTF-16 by its characters. Only what is left is guessed.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from encodings import normalize_encoding
from encodings.aliases import aliases

_SAMPLE = 65_536  # bytes that are looked at, except for UTF-8
_GUESSED = 8_192  # bytes that a legacy encoding is guessed from

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is its beginning
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Legacy encodings that are still common in files: among all ninety, a guess is as often wrong as right. Each by chardet's name,
# with the name of its common subset, and the label that browsers know (WHATWG Encoding) or, if they know none, IANA's.
_LEGACY = {
    **{f"cp{page}": (f"cp{page}", f"windows-{page}") for page in (874, *range(1250, 1258))},
    "cp932": ("shift_jis", "shift_jis"),
    "cp949": ("euc_kr", "euc-kr"),
    "big5hkscs": ("big5", "big5"),
    "euc_jis_2004": ("euc_jp", "euc-jp"),
    "gb18030": ("gb18030", "gb18030"),
    "koi8-r": ("koi8_r", "koi8-r"),
    "iso8859-2": ("iso8859_2", "iso-8859-2"),
    "iso8859-15": ("iso8859_15", "iso-8859-15"),
    "cp866": ("cp866", "ibm866"),
    "cp850": ("cp850", "ibm850"),
    "cp437": ("cp437", "ibm437"),
    "mac-roman": ("mac_roman", "macintosh"),
}
_WINDOWS = {"iso8859-15": "cp1252", "iso8859-2": "cp1250"}  # commoner where both fit
_LABELS = {name: label for superset, (subset, label) in _LEGACY.items() for name in (superset, subset)}
_LABELS |= {"utf-16-le": "utf-16le", "utf-16-be": "utf-16be", "utf-32-le": "utf-32le", "utf-32-be": "utf-32be"}
_LABELS |= {"iso2022_jp": "iso-2022-jp", "utf-8": "utf-8"}
# What browsers read for a label, since senders mean it so; by Python's names.
_SUPERSETS = {subset: superset for superset, (subset, _) in _LEGACY.items()}
_SUPERSETS |= {"ascii": "utf-8"}  # whatever browsers do: programs say so of UTF-8
_SUPERSETS |= {"iso8859-1": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874"}
_SUPERSETS |= {"gb2312": "gb18030", "gbk": "gb18030"}
# Codecs for text; not UTF-7, punycode, base64 and the like.
_CHARSETS = re.compile(
    r"ascii|latin_1|utf_(8|16|16_[bl]e)|cp\d{3,4}|iso8859_\d\d?|koi8_[rtu]|mac_(roman|cyrillic|greek|turkish|latin2)|gb2312|gbk"
    r"|gb18030|hz|big5|big5hkscs|euc_(jp|kr|jis_2004)|shift_jis|shift_jis_2004|iso2022_(jp|jp_[123]|kr)|johab|tis_620"
)
_ISO_2022_JP = re.compile(rb"\x1b\$[@B]")  # Japanese in seven bits: ASCII to all who don't look for it

# What the wrong encoding makes of words: Latin letters beside those of other scripts or lines of a box, a capital or a symbol
# within a word, a low quotation mark at its end.
_LINES, _OTHERS = "\u2500-\u259f", "\u0370-\u06ff\u0e00-\u0e7f"
_CAPITALS = "\u00c0-\u00d6\u00d8-\u00de\u0152\u0160\u0178\u017d"
_SYMBOLS = "\u0192\u02c6\u02dc\u201c-\u201e\u2020-\u2022\u2030\u20ac\u2122"
_SYMBOLS += "\u00a2-\u00a9\u00ac-\u00b6\u00b8-\u00b9\u00bc-\u00be\u00d7\u00f7"
_ODD = re.compile(
    f"[A-Za-z][{_LINES}{_OTHERS}]|[{_LINES}{_OTHERS}][A-Za-z]|[{_LINES}][{_OTHERS}]|[{_OTHERS}][{_LINES}]"
    f"|[a-z][{_CAPITALS}]|[A-Z][{_CAPITALS}](?=[a-z])|[A-Za-z][{_SYMBOLS}](?=[A-Za-z])|[A-Za-z][\u201a\u201e]|[\x80-\x9f\ufffd]"
)

_PAIR = re.compile(rb"[\x80-\xff]{2}")
_BOX = re.compile(rb"\xc4{3}|\xcd{3}")  # a line drawn in DOS
_DOS_WORD = re.compile(rb"[\x80-\xaf\xe0-\xef]{4}")  # only Cyrillic has so many such letters together

_ASCII = bytes(range(0x80))
_NO_LETTERS = bytes(byte for byte in range(0x100) if not chr(byte).isascii() or not chr(byte).isalpha())
_CONTROLS = bytes({*range(0x20), 0x7F} - set(b"\a\b\t\n\v\f\r\x1b"))  # that text does not have
# What most texts in UTF-16 consist of: letters and punctuation of living scripts, and the halves of other characters.
_COMMON = re.compile(
    "[\t\n\f\r -~\u00a0-\u024f\u0370-\u06ff\u0900-\u0e7f\u10a0-\u10ff\u1e00-\u1eff\u2010-\u2027\u2030-\u203a\u20a0-\u20bf"
    "\u3000-\u30ff\u4e00-\u9fff\uac00-\ud7a3\uff01-\uff9f\U0001f300-\U0001faff]+"
)


def named(label: str) -> str | None:
    """The codec of a label, as in ``charset=``, or the superset that browsers take; None if it is unknown or no encoding of text.
    Python's own look-up would remember each unknown name."""
    name = normalize_encoding(re.sub("^windows-", "cp", label.strip().lower().removeprefix("x-").removesuffix("-i")))
    name = aliases.get(name, name)
    try:
        name = codecs.lookup(name).name if _CHARSETS.fullmatch(name) else ""
    except LookupError:
        return None
    return _SUPERSETS.get(name, name) or None


def strictly_decoded(data: bytes, encoding: str | None) -> str:
    """The text. Raises ValueError, with a message for the client, if ``named`` does not know the encoding or it is another."""
    if encoding is None:
        raise ValueError("A text has a charset that is not known.")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise ValueError(f"Text that should be in {encoding} is not.") from None


def mark(data: bytes) -> tuple[bytes, str] | None:
    """The byte order mark that the data begin with, and its encoding."""
    return next((found for found in _MARKS if data.startswith(found[0])), None)


def is_text(data: bytes, *, cut: bool = False) -> bool:
    """Whether ``detect`` finds an encoding, without the time to guess which it is."""
    return _may_be_legacy(data) or _certain(data, cut) is not None  # the quicker one first


def label(encoding: object) -> str | None:
    """What ``charset=`` says for an encoding of ``detect``; None for anything else."""
    return _LABELS.get(encoding) if isinstance(encoding, str) else None


def decoded(data: bytes, encoding: str, *, cut: bool = True) -> str:
    """The text in an encoding of ``detect``, without a byte order mark. ``cut``: an incomplete last character is left out."""
    found = mark(data)
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    return decoder.decode(data[len(found[0]) :] if found and found[1] == encoding else data, final=not cut)


def detect(data: bytes, *, cut: bool = False, declared: str | None = None) -> str | None:
    """The codec's name; None if this is not text. ``cut``: the data may end within a character. ``declared`` is the label that
    a page or mail gives itself, which counts where the bytes leave a doubt and don't contradict it.

    Some bytes that are not UTF-8 among many that are don't change the answer. NULs before and after a text do not count: a log
    has them after a crash or a rotation."""
    found = _certain(data, cut)
    if found is None and not _may_be_legacy(data):
        return None
    if found is None or (found == "utf-8" and data.isascii()):
        known = named(declared or "")  # UTF-16 without a mark is nearly always wrong
        if known and not known.startswith("utf-16") and "\ufffd" not in decoded(data, known, cut=cut):
            return known
    return found or _legacy(data, cut)


def _certain(data: bytes, cut: bool) -> str | None:
    if found := mark(data):
        return found[1]
    if not data:
        return "utf-8"
    text = data.strip(b"\0\x1a")
    if b"\0" not in text[:_SAMPLE] and _is_utf8(text, cut):
        return "iso2022_jp" if _ISO_2022_JP.search(text) and text.isascii() else "utf-8"
    return _utf16(data[:_SAMPLE])


def _is_utf8(data: bytes, cut: bool) -> bool:
    if len(data[:_SAMPLE].translate(None, _CONTROLS)) <= 0.7 * len(data[:_SAMPLE]):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, final=not cut)
        return True
    except UnicodeDecodeError as error:
        sample = data[max(0, error.start - _SAMPLE // 2) :][:_SAMPLE]
    high = len(sample.translate(None, _ASCII))
    right = len(sample.decode("utf-8", "ignore").encode().translate(None, _ASCII))
    return right >= 4 * (high - right)


def _utf16(sample: bytes) -> str | None:
    """UTF-16 without a mark: bytes that no other text has, which make common characters in pairs. Latin letters between NULs do
    so too, but are more than every other byte."""
    letters, allowed = (len(sample.translate(None, others)) for others in (_NO_LETTERS, _CONTROLS))
    if letters > 0.6 * len(sample) or allowed == len(sample):
        return None
    best, most = None, 0.9
    for encoding in ("utf-16-le", "utf-16-be"):
        text = codecs.getincrementaldecoder(encoding)("replace").decode(sample)
        share = sum(map(len, _COMMON.findall(text))) / max(1, len(text))
        if share > most:
            best, most = encoding, share
    return best


def _may_be_legacy(data: bytes) -> bool:
    sample = data[:_SAMPLE].strip(b"\0\x1a")
    return len(sample.translate(None, _CONTROLS)) > 0.98 * len(sample) and b"\0" not in sample


def _legacy(data: bytes, cut: bool) -> str:
    """The first guess that makes no odd words, by the name of the common subset if that is enough."""
    first = len(data) - len(data.lstrip(_ASCII))
    lines = data[max(0, first - 512) :][:_SAMPLE].split(b"\n")
    sample = b"\n".join(line for line in lines if not line.isascii())
    cut, sample = cut or len(sample) > _GUESSED, sample[:_GUESSED]
    unfit = list[str]()
    for guess in _guesses(sample):
        if _fits(decoded(sample, guess, cut=cut)):
            break
        unfit.append(guess)
    else:
        guess = [*unfit, "cp1252"][0]
    windows = _WINDOWS.get(guess, guess)
    if decoded(data, windows, cut=cut) == decoded(data, guess, cut=cut):
        guess = windows
    subset = _LEGACY[guess][0]
    return guess if "\ufffd" in decoded(data, subset, cut=cut) else subset


def _fits(text: str) -> bool:
    return len(_ODD.findall(text)) <= 0.2 * sum(character > "\x7f" for character in text)


def _guesses(sample: bytes) -> Iterator[str]:
    """DOS, if a line is drawn. The commonest, if there is little to guess from: at most four bytes, each alone. Then chardet's
    guess, the commonest, and chardet's guesses among the others."""
    import chardet  # here, since most text is UTF-8

    if _BOX.search(sample):
        yield "cp866" if _DOS_WORD.search(sample) else "cp437"
    if not _PAIR.search(sample) and len(sample.translate(None, _ASCII)) <= 4:
        yield "cp1252"
    left = set(_LEGACY)
    while left:
        guess = chardet.detect(sample, include_encodings=left, compat_names=False)["encoding"]
        if guess not in left:  # its answer for no match
            return
        yield guess
        if len(left) == len(_LEGACY):
            yield "cp1252"
        left -= {guess, "cp1252"}
