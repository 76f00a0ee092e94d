"""What can be shown of a file, by its type: pictures, text, pages, an archive's contents.

``family`` names who reads the type (a module of parsers/), and everything else follows from it. The type is the
stored one, which came from the bytes; the extension counts only where the bytes told nothing. Video, audio and HEIC
need libraries that not every installation has: ``parsers.run.kinds`` is this module's ``kinds`` less what they would
have made.
"""

from __future__ import annotations

from typing import Literal

from core.content_types import OCTET_STREAM, PICTURES, canonical, file_type, mime_for_extension

Kind = Literal["thumbnail", "text", "page", "contents"]
Family = Literal["image", "heif", "svg", "pdf", "office", "text", "archive", "media"]

_FAMILIES: dict[str, Family] = {
    **dict.fromkeys(PICTURES | {"image/apng", "image/vnd.microsoft.icon"}, "image"),
    **dict.fromkeys(("image/heic", "image/heif", "image/heic-sequence", "image/heif-sequence"), "heif"),
    "image/svg+xml": "svg",
    "application/pdf": "pdf",
    **dict.fromkeys(
        (
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            "application/vnd.openxmlformats-officedocument.wordprocessingml.template",
            "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
            "application/vnd.openxmlformats-officedocument.spreadsheetml.template",
            "application/vnd.openxmlformats-officedocument.presentationml.presentation",
            "application/vnd.openxmlformats-officedocument.presentationml.slideshow",
            "application/vnd.openxmlformats-officedocument.presentationml.template",
            "application/vnd.ms-word.document.macroenabled.12",
            "application/vnd.ms-excel.sheet.macroenabled.12",
            "application/vnd.ms-powerpoint.presentation.macroenabled.12",
            "application/vnd.oasis.opendocument.text",
            "application/vnd.oasis.opendocument.text-template",
            "application/vnd.oasis.opendocument.spreadsheet",
            "application/vnd.oasis.opendocument.presentation",
            "application/epub+zip",
        ),
        "office",
    ),
    **dict.fromkeys(
        (
            "application/zip",
            "application/java-archive",
            "application/vnd.android.package-archive",
            "application/vnd.google-earth.kmz",
            "application/x-tar",
            "application/gzip",
            "application/x-bzip2",
            "application/x-xz",
            "application/zstd",
        ),
        "archive",
    ),
}
_KINDS: dict[Family, frozenset[Kind]] = {
    "image": frozenset({"thumbnail"}),
    "heif": frozenset({"thumbnail"}),
    "svg": frozenset({"thumbnail"}),
    "pdf": frozenset({"thumbnail", "page", "text"}),
    "office": frozenset({"text"}),
    "text": frozenset({"text"}),
    "archive": frozenset({"contents"}),
    "media": frozenset({"thumbnail"}),
}


def family(mime_type: str, extension: str = "") -> Family | None:
    """Who reads files of this type; None where nobody does. ``extension``: without its dot, case-folded."""
    mime = canonical(mime_type)
    if mime == OCTET_STREAM:  # text in a legacy encoding can look like nothing at all
        named = mime_for_extension(extension)
        return "text" if named and file_type(named) == "text" else None
    if mime in _FAMILIES:
        return _FAMILIES[mime]
    kind = file_type(mime)
    if kind in ("video", "audio"):
        return "media" if mime not in ("audio/midi", "audio/x-mpegurl") else None
    return "text" if kind == "text" else None


def kinds(mime_type: str, extension: str = "") -> frozenset[Kind]:
    """The kinds of preview (``?type=``) that a file of this type has, all libraries being there."""
    found = family(mime_type, extension)
    return _KINDS[found] if found else frozenset()
