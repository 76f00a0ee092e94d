"""EXIF tags of an image as JSON values, of bounded size."""

from __future__ import annotations

import codecs
import math
from contextlib import suppress
from typing import Any

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from core import charsets

_MAX_TAGS = 250
_MAX_TEXT = 500  # characters of one value
_MAX_NUMBERS = 16  # of one value; longer ones are tables
_POINTERS = {0x8769, 0x8825, 0xA005, 0x927C, 0x014A, 0x02BC, 0x83BB, 0x8649, 0x8773}
_COMMENTS = ("UserComment", "GPSProcessingMethod", "GPSAreaInformation")  # begin with the name of their encoding
_GUESSES = ("cp1250", "cp1254", "cp1257", "cp437")  # not to be told from cp1252 in so short texts

ImageFileDirectory_v2._load_dispatch.setdefault(129, ImageFileDirectory_v2._load_dispatch[2])  # UTF-8 (Exif 3.0)


def tags(image: Image.Image) -> tuple[dict[str, Any], dict[str, Any]]:
    """The camera's tags, and the GPS tags (T37): what can be read of them."""
    if profile := image.info.get("Raw profile type APP1"):  # ImageMagick's; Pillow knows "exif" only
        image.info.setdefault("Raw profile type exif", profile)
    main, camera, gps = (_directory(image, pointer) for pointer in (None, ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo))
    encoding = _encoding([*main.values(), *camera.values()])
    return _named(main | camera, ExifTags.TAGS, encoding), _named(gps, ExifTags.GPSTAGS, encoding)


def orientation(image: Image.Image) -> int:
    """1 to 8; 1 is upright."""
    value = _directory(image, None).get(ExifTags.Base.Orientation, 1)
    return value if isinstance(value, int) else 1


def _directory(image: Image.Image, pointer: int | None) -> dict[int, Any]:
    """Damaged EXIF raises a dozen kinds of error, and none matters for the picture or another directory."""
    try:
        exif = Image.Image.getexif(image)  # the method of a PNG decodes the whole picture
        return dict(exif.get_ifd(pointer) if pointer else exif)
    except Exception:
        return {}


def _encoding(values: list[Any]) -> str:
    """What texts are encoded in that are not UTF-8: so short, they are guessed all at once."""
    guess = charsets.detect(b" ".join(_bytes(value) for value in values if isinstance(value, str)))
    return "cp1252" if guess is None or guess in _GUESSES else guess


def _bytes(text: str) -> bytes:
    return text.encode("latin-1", "replace")  # as Pillow decoded them


def _named(tags: dict[int, Any], names: dict[int, str], encoding: str) -> dict[str, Any]:
    known = [(names[tag], raw) for tag, raw in list(tags.items())[:_MAX_TAGS] if tag in names and tag not in _POINTERS]
    read = ((name, _plain(_decoded(name, raw, encoding))) for name, raw in known)
    return {name: value for name, value in read if value is not None}


def _decoded(name: str, raw: Any, encoding: str) -> Any:
    """The value with its texts decoded; in ASCII tags, common cameras and editors write UTF-8, and older ones anything."""
    if isinstance(raw, str):
        raw, encodings = _bytes(raw), ["utf-8", encoding]
    elif isinstance(raw, bytes) and name.startswith("XP"):
        encodings = ["utf-16-le"]
    elif isinstance(raw, bytes) and name in _COMMENTS:
        kind, raw = raw[:8].rstrip(b"\0 "), raw[8:]
        guess = charsets.detect(raw[: 4 * _MAX_TEXT], cut=True) or encoding
        named = {b"UNICODE": [guess if guess.startswith("utf-16") else "utf-16"], b"JIS": ["iso2022_jp"]}
        encodings = [*named.get(kind, []), "utf-8", encoding]
    else:
        return raw
    for one in encodings:
        with suppress(UnicodeError):
            return codecs.getincrementaldecoder(one)().decode(raw[: 4 * _MAX_TEXT])
    return raw.decode("latin-1")


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
