"""Names of files and folders.

A name is stored, listed and sent back; it never becomes a path or an object key. So almost everything is allowed, in every
script. Removed are characters that could misrepresent the name (bidi controls), break a header, a log line or a file system
(controls, separators), or can't be stored (lone surrogates). The same rules hold for forms, JSON, tus metadata, renaming and
folders (T21, T22, T25). Whoever parses the request decodes percent-encoding; it is never decoded here.
"""

from __future__ import annotations

import re
import unicodedata

from core.errors import InvalidName

MAX_NAME_BYTES = 255  # of UTF-8, as in common file systems
_MAX_RAW = 4_096  # characters; NFC takes quadratic time for runs of combining marks
_MAX_SUFFIX_BYTES = 64
_MAX_DIGITS = 10  # of the number that makes a name unique

_BREAKS = re.compile("[\t-\r\x85\u2028\u2029]+")  # whitespace that separates words
_REMOVED = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidi controls: "gpj.exe" shown as "exe.jpg"
    "\ufeff]"  # byte order mark
)
_SEPARATORS = re.compile(r"[/\\]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_SUFFIX = re.compile(r"(?:\.tar)?\.\w{1,16}[. ]*$", re.IGNORECASE)
_EXTENSION = re.compile(r"\.([a-z0-9]{1,16})$")


def clean_name(raw: str) -> str:
    """The name to store: at most 255 bytes of UTF-8 in NFC, of a path the last segment (RFC 7578 §4.2, RFC 6266 §4.3).

    Raises InvalidName if nothing visible remains, or the name is not Unicode or longer than 4,096 characters."""
    if len(raw) > _MAX_RAW:
        raise InvalidName("The name is too long")
    if _SURROGATES.search(raw):
        raise InvalidName("The name is not valid Unicode")
    name = _SEPARATORS.split(raw.rstrip("/\\"))[-1]
    name = _REMOVED.sub("", _BREAKS.sub(" ", name))
    name = unicodedata.normalize("NFC", name).strip()
    name = "".join(_split(name, 0))
    if all(char == "." or unicodedata.category(char) in ("Zs", "Cf") for char in name):
        raise InvalidName("The name is empty, or only dots and spaces")
    return name


def extension(name: str) -> str:
    """The last extension without its dot, case-folded, or "": 1 to 16 ASCII letters and digits (T10).

    Compatibility forms count as what they look like. Trailing dots and spaces are ignored, as in Windows."""
    found = _EXTENSION.search(name_key(name).rstrip(". "))
    return found.group(1) if found else ""


def numbered(name: str, n: int) -> str:
    """Number a name: ``Plan.pdf`` becomes ``Plan (1).pdf``, at most 255 bytes."""
    number = f" ({n})"
    stem, suffix = _split(name, len(number))
    return stem + number + suffix


def numbered_parts(name: str) -> tuple[list[str], str]:
    """What surrounds the number in numbered names: the stem for numbers of 1, 2 ... 10 digits, and the extension."""
    stem, suffix = _split(name, len(" ()") + _MAX_DIGITS)
    if stem + suffix == name:
        return [stem] * _MAX_DIGITS, suffix
    return [_split(name, len(" ()") + digits)[0] for digits in range(1, _MAX_DIGITS + 1)], suffix


def name_key(name: str) -> str:
    """Equal for names that differ in case or Unicode form only. The database has an equivalent."""
    return unicodedata.normalize("NFKC", name).casefold()


def _split(name: str, room: int) -> tuple[str, str]:
    """Stem and extension, the stem shortened between characters so that ``room`` bytes are left of 255."""
    found = _SUFFIX.search(name, 1)  # from 1: ".htaccess" has no extension
    suffix = found.group() if found and len(found.group().encode()) <= _MAX_SUFFIX_BYTES else ""
    stem = name[: len(name) - len(suffix)]
    room = MAX_NAME_BYTES - room - len(suffix.encode())
    if len(stem.encode()) > room:
        stem = stem.encode()[:room].decode("utf-8", "ignore")
        if not suffix:
            stem = stem.rstrip()
    return stem, suffix
