"""What is read from a file, and by which parser: metadata, pictures, text, listings. Checks every answer of a child."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal, get_args

from core import previewable
from core.content_types import canonical
from core.names import extension as extension_of
from core.previewable import Family, Kind
from parsers import ParserFailed, Unsupported, run
from parsers.plain_text import MAX_BYTES
from parsers.run import MIB, Limits, Source

Want = Literal["metadata", "picture", "text", "document", "contents"]


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """One picture of a file."""

    size: int  # pixels of the box it fits in, as requested
    width: int  # pixels; never more than the original's
    height: int
    mime_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Reading:
    """What one child read from one file, safe as JSON and for PostgreSQL: no NUL, no lone surrogate.

    What was not wanted, or does not exist for the file's type, is empty or None."""

    # width, height (pixels upright; of PDF and SVG their own units), format, exif, gps, placeholder (ThumbHash, base64),
    # pages, title, author, duration (s), audio, video
    metadata: dict[str, Any] = field(default_factory=dict)
    text: str | None = None  # for search: cleaned and capped (T83)
    text_language: str | None = None  # ISO 639-1
    document: dict[str, Any] | None = None  # content, language, encoding, truncated; html, table
    contents: dict[str, Any] | None = None  # entries, total_entries, total_size, truncated
    pictures: tuple[Thumbnail, ...] = ()  # one for each of ``sizes``
    failed: dict[Want, str] = field(default_factory=dict)  # what could not be read, and why; the rest could


_TYPES: dict[str, Any] = {"metadata": dict, "text": str | None, "text_language": str | None}
_TYPES |= {"document": dict | None, "contents": dict | None, "failed": dict}


@dataclass(frozen=True, slots=True)
class _Reader:
    parser: str  # a module of this package
    limits: Limits = field(default_factory=Limits)
    needs: str = "PIL"  # a library; the family is not offered without it


_READERS: dict[Family, _Reader] = {
    "image": _Reader("image"),
    "heif": _Reader("heif", needs="pillow_heif"),
    "svg": _Reader("svg", Limits(max_input=8 * MIB)),
    "pdf": _Reader("pdf", Limits(ranged_above=64 * MIB)),  # drawing seeks much: a whole file is quicker
    "office": _Reader("office", Limits(ranged_above=4 * MIB)),
    "text": _Reader("text", Limits(head=4 * MIB)),
    "mail": _Reader("mail", Limits(head=16 * MIB)),
    "archive": _Reader("archive", Limits(ranged_above=4 * MIB)),
    "media": _Reader("media", Limits(ranged_above=4 * MIB), needs="av"),
}


@cache
def _reader(family: Family | None) -> _Reader | None:
    reader = _READERS.get(family) if family else None
    return reader if reader and find_spec(reader.needs) else None


def kinds(mime_type: str, extension: str = "") -> frozenset[Kind]:
    """The types of preview that this installation makes for such a file (``core.previewable``)."""
    readable = _reader(previewable.family(mime_type, extension))
    return previewable.kinds(mime_type, extension) if readable else frozenset()


def read(
    source: Source,
    mime_type: str,
    *,
    name: str,
    want: frozenset[Want],
    sizes: Sequence[int] = (),
    format: Literal["webp", "jpeg", "png"] = "webp",
    page: int = 1,
    strict: bool = False,
) -> Reading:
    """Read a file in one child process, decoding it once.

    ``mime_type`` is the stored type; ``name`` is the file's, whose extension distinguishes plain texts. ``sizes`` are the
    boxes in pixels for "picture", ``page`` the page that is drawn. Raises Unsupported for a type without a parser, an
    encrypted file or a missing page, ParserFailed for a broken, too large or hostile file, and, if ``strict``, WeakSandbox
    when a lock is missing. Errors of the source pass through."""
    extension = extension_of(name)
    reader = _reader(previewable.family(mime_type, extension))
    if reader is None:
        raise Unsupported("Files of this type have no preview")
    arguments = {
        "mime_type": canonical(mime_type),
        "extension": extension if previewable.read_by_extension(mime_type) else "",
        "want": sorted(want),
        "sizes": list(sizes),
        "format": format,
        "page": page,
        "head": reader.limits.head,
    }
    answer = run.run(reader.parser, source, arguments, limits=reader.limits, strict=strict)
    try:
        values = _storable(answer.values)
        pictures = zip(values.pop("pictures", ()), answer.blobs, strict=True)
        reading = Reading(**values, pictures=tuple(Thumbnail(**picture, data=data) for picture, data in pictures))
        if not all(isinstance(getattr(reading, name), type_) for name, type_ in _TYPES.items()):
            raise TypeError
        if len((reading.text or "").encode()) > MAX_BYTES:
            raise ValueError
        if not all(part in get_args(Want) and isinstance(reason, str) for part, reason in reading.failed.items()):
            raise ValueError
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise ParserFailed("The parser's answer can't be read") from error
    return reading


_REFUSED = re.compile("[\0\ud800-\udfff]")


def _storable(value: Any) -> Any:
    """The value without characters that PostgreSQL refuses."""
    if isinstance(value, str):
        return _REFUSED.sub("", value)
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    return value
