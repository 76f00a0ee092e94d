"""EXIF tags of an image as JSON values, of bounded size."""

from __future__ import annotations

import math
from typing import Any

from PIL import ExifTags, Image

_MAX_TAGS = 250
_MAX_TEXT = 500  # characters of one value
_MAX_NUMBERS = 16  # of one value; longer ones are tables
_POINTERS = {0x8769, 0x8825, 0xA005, 0x927C, 0x014A, 0x02BC, 0x83BB, 0x8649, 0x8773}


def tags(image: Image.Image) -> tuple[dict[str, Any], dict[str, Any]]:
    """The camera's tags, and the GPS tags (T37); {} if they can't be read.

    Damaged EXIF raises a dozen kinds of error, and none matters for the picture."""
    try:
        exif = image.getexif()
        camera = _named(exif, ExifTags.TAGS) | _named(exif.get_ifd(ExifTags.IFD.Exif), ExifTags.TAGS)
        return camera, _named(exif.get_ifd(ExifTags.IFD.GPSInfo), ExifTags.GPSTAGS)
    except Exception:
        return {}, {}


def orientation(image: Image.Image) -> int:
    """1 to 8; 1 is upright."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # as above
        return 1


def _named(tags: Any, names: dict[int, str]) -> dict[str, Any]:
    known = [(names[tag], raw) for tag, raw in list(tags.items())[:_MAX_TAGS] if tag in names and tag not in _POINTERS]
    return {name: value for name, raw in known if (value := _plain(raw)) is not None}


def _plain(raw: Any) -> Any:
    if isinstance(raw, bytes):
        text = raw[: _MAX_TEXT + 1].rstrip(b"\0").decode("latin-1")
        return _plain(text) if len(text) <= _MAX_TEXT and text.isascii() and text.isprintable() else None
    if isinstance(raw, str):
        return "".join(char for char in raw[:_MAX_TEXT] if char.isprintable()).strip() or None
    if isinstance(raw, int):
        return raw if abs(raw) < 1 << 53 else None
    if isinstance(raw, tuple | list):
        values = [_plain(value) for value in raw[:_MAX_NUMBERS]]
        return values if len(raw) <= _MAX_NUMBERS and None not in values else None
    try:
        number = float(raw)  # IFDRational; 0/0 often means "unknown"
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return round(number, 9) if math.isfinite(number) else None
