"""Which previews a type has: thumbnails, text, pages, an archive's contents.

A type's ``family`` names the module of parsers/ that reads it. The stored type counts (``core.content_types.resolve``); the
extension counts only for application/octet-stream. Video, audio and HEIC need libraries that are optional:
``parsers.run.kinds`` returns the kinds that this installation can make.
"""

from __future__ import annotations

from typing import Literal

from core.content_types import OCTET_STREAM, PICTURES, canonical, file_type, mime_for_extension

Kind = Literal["thumbnail", "text", "page", "contents"]
Family = Literal["image", "heif", "svg", "pdf", "office", "text", "mail", "archive", "media"]

_OFFICE = "docx dotx docm dotm xlsx xltx xlsm xltm pptx ppsx potx pptm ppsm potm odt ott ods ots odp otp epub"
_ARCHIVES = "zip jar apk kmz tar gz bz2 xz zst"
_FAMILIES: dict[str, Family] = {
    **dict.fromkeys(PICTURES | {"image/apng", "image/vnd.microsoft.icon"}, "image"),
    **dict.fromkeys(("image/heic", "image/heif"), "heif"),
    "image/svg+xml": "svg",
    "application/pdf": "pdf",
    **dict.fromkeys(("application/x-pem-file", "model/obj", "audio/x-mpegurl"), "text"),
    **dict.fromkeys(("message/rfc822", "application/mbox"), "mail"),
    **dict.fromkeys((str(mime_for_extension(extension)) for extension in _OFFICE.split()), "office"),
    **dict.fromkeys((str(mime_for_extension(extension)) for extension in _ARCHIVES.split()), "archive"),
}
_KINDS: dict[Family, frozenset[Kind]] = {
    "image": frozenset({"thumbnail"}),
    "heif": frozenset({"thumbnail"}),
    "svg": frozenset({"thumbnail"}),
    "pdf": frozenset({"thumbnail", "page", "text"}),
    "office": frozenset({"text"}),
    "text": frozenset({"text"}),
    "mail": frozenset({"text"}),
    "archive": frozenset({"contents"}),
    "media": frozenset({"thumbnail"}),
}


def family(mime_type: str, extension: str = "") -> Family | None:
    """The parser of this type; None if there is none. ``extension``: without its dot, case-folded."""
    mime = canonical(mime_type)
    if mime == OCTET_STREAM:  # text in a legacy encoding may be detected as this
        named = mime_for_extension(extension)
        return "text" if named and file_type(named) == "text" else None
    if mime in _FAMILIES:
        return _FAMILIES[mime]
    kind = file_type(mime)
    if kind in ("video", "audio"):
        return "media" if mime != "audio/midi" else None
    return "text" if kind == "text" else None


def read_by_extension(mime_type: str) -> bool:
    """Whether a parser of this type is told the extension. ``files.read_as`` has it for just these."""
    mime = canonical(mime_type)
    return mime == OCTET_STREAM or file_type(mime) == "text"


def kinds(mime_type: str, extension: str = "") -> frozenset[Kind]:
    """The kinds of preview (``?type=``) of this type, if all libraries are installed."""
    found = family(mime_type, extension)
    return _KINDS[found] if found else frozenset()
