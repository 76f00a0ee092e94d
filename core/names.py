"""Names that people give to files and folders, and what we let through.

A name is data: it is stored, listed and sent back, and never becomes a path or an object key. So almost
everything passes, in every script; what is taken out could lie about the name (bidi controls), break a header,
a log line or a file system (controls, separators), or can't be stored (lone surrogates). The same function
serves the form, JSON, tus metadata, rename and folders (THREATS T21, T22, T25). Percent-decoding is done once,
by whoever parsed the request, never here.
"""

from __future__ import annotations

import re
import unicodedata

from core.errors import InvalidName

MAX_NAME_BYTES = 255  # of UTF-8: what common file systems hold
_MAX_RAW = 4_096  # characters; NFC is quadratic in runs of combining marks
_MAX_SUFFIX_BYTES = 64

_BREAKS = re.compile("[\t-\r\x85\u2028\u2029]+")  # whitespace controls: they separated words
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
    """The name as it will be stored: at most 255 bytes of UTF-8 in NFC.

    Of a path the last segment is kept (RFC 7578 §4.2, RFC 6266 §4.3). InvalidName where nothing is left that a
    person could see, where it is not Unicode, or where it is longer than 4,096 characters."""
    if len(raw) > _MAX_RAW:
        raise InvalidName("The name is too long")
    if _SURROGATES.search(raw):
        raise InvalidName("The name is not valid Unicode")
    name = _SEPARATORS.split(raw.rstrip("/\\"))[-1]
    name = _REMOVED.sub("", _BREAKS.sub(" ", name))
    name = unicodedata.normalize("NFC", name).strip()
    name = _cut(name, "")
    if all(char == "." or unicodedata.category(char) in ("Zs", "Cf") for char in name):
        raise InvalidName("The name is empty, or only dots and spaces")
    return name


def clean_folder_name(raw: str) -> str:
    """Folders follow the rule of files, so that no way of naming is a way round."""
    return clean_name(raw)


def extension(name: str) -> str:
    """The last extension without its dot, case-folded, or "". This is what type rules see (THREATS T10).

    Compatibility forms count as what they look like, and trailing dots and spaces are passed over, as Windows
    does. Only 1 to 16 ASCII letters and digits are an extension."""
    found = _EXTENSION.search(name_key(name).rstrip(". "))
    return found.group(1) if found else ""


def numbered(name: str, n: int) -> str:
    """``Plan (final).pdf`` -> ``Plan (final) (1).pdf``, still within 255 bytes."""
    return _cut(name, f" ({n})")


def name_key(name: str) -> str:
    """Equal for names that count as the same, whatever their case or Unicode form; the database has its own."""
    return unicodedata.normalize("NFKC", name).casefold()


def _cut(name: str, insert: str) -> str:
    """Put ``insert`` before the extension and shorten what precedes it to fit, at a character's end."""
    found = _SUFFIX.search(name, 1)  # from 1: in ".htaccess" the dot begins the name
    suffix = found.group() if found and len(found.group().encode()) <= _MAX_SUFFIX_BYTES else ""
    stem = name[: len(name) - len(suffix)]
    room = MAX_NAME_BYTES - len(insert) - len(suffix.encode())
    if len(stem.encode()) > room:
        stem = stem.encode()[:room].decode("utf-8", "ignore")
        if not suffix:
            stem = stem.rstrip()
    return stem + insert + suffix
