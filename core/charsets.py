"""The encoding of text that does not name it.

What is certain comes first: a byte order mark, valid UTF-8, UTF-16 by its characters. Only what is left is guessed.
"""

from __future__ import annotations

import codecs
import re

_SAMPLE = 65_536  # bytes that are looked at, except for UTF-8
_GUESSED = 8_192  # bytes that a legacy encoding is guessed from

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

_ASCII = bytes(range(0x80))
_CONTROLS = bytes({*range(0x20), 0x7F} - set(b"\a\b\t\n\v\f\r\x1b"))  # that text does not have
# What most texts in UTF-16 consist of: letters and punctuation of living scripts, and the halves of other characters.
_COMMON = re.compile(
    "[\t\n\f\r -~\u00a0-\u024f\u0370-\u06ff\u0900-\u0e7f\u10a0-\u10ff\u1e00-\u1eff\u2010-\u2027\u2030-\u203a\u20a0-\u20bf"
    "\u3000-\u30ff\u4e00-\u9fff\uac00-\ud7a3\uff01-\uff9f\U0001f300-\U0001faff]"
)


def mark(data: bytes) -> tuple[bytes, str] | None:
    """The byte order mark that the data begin with, and its encoding."""
    return next((found for found in _MARKS if data.startswith(found[0])), None)


def is_text(data: bytes, *, cut: bool = False) -> bool:
    """Whether ``detect`` finds an encoding, in a millisecond: which legacy encoding is not asked."""
    return _certain(data, cut) is not None or _may_be_legacy(data)


def detect(data: bytes, *, cut: bool = False) -> str | None:
    """The codec's name; None if this is not text. ``cut``: the data may end within a character.

    Some bytes that are not UTF-8 among many that are don't change the answer. NULs before and after a text do not count: a log
    has them after a crash or a rotation."""
    return _certain(data, cut) or (_legacy(data) if _may_be_legacy(data) else None)


def _certain(data: bytes, cut: bool) -> str | None:
    if found := mark(data):
        return found[1]
    text = data.strip(b"\0\x1a")
    if b"\0" not in text[:_SAMPLE] and _is_utf8(text, cut):
        return "utf-8"
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
    """UTF-16 without a mark: bytes that no other text has, which make common characters in pairs."""
    if len(sample.translate(None, _CONTROLS)) == len(sample):
        return None
    best, most = None, 0.9
    for encoding in ("utf-16-le", "utf-16-be"):
        text = codecs.getincrementaldecoder(encoding)("replace").decode(sample)
        share = len(_COMMON.findall(text)) / max(1, len(text))
        if share > most:
            best, most = encoding, share
    return best


def _may_be_legacy(data: bytes) -> bool:
    sample = data[:_SAMPLE].strip(b"\0\x1a")
    return len(sample.translate(None, _CONTROLS)) > 0.98 * len(sample) and b"\0" not in sample


def _legacy(data: bytes) -> str:
    from charset_normalizer import from_bytes  # here, since most text is UTF-8

    first = len(data) - len(data.lstrip(_ASCII))
    best = from_bytes(data[max(0, first - _GUESSED // 4) :][:_GUESSED], cp_isolation=_LEGACY, threshold=0.3).best()
    return best.encoding if best else "cp1252"
