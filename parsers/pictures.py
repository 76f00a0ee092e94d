"""The last step of every parser that makes pictures: the requested sizes, encoded, and a placeholder.

A picture consists of new pixels in sRGB, mode RGB or RGBA, and nothing else of the original (T93)."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401 the encoders
from PIL.Image import Resampling

from parsers.thumbhash import placeholder

MAX_SIZE = 4_096  # pixels of the largest box
_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "webp": ("image/webp", {"quality": 80, "method": 4}),
    "jpeg": ("image/jpeg", {"quality": 82, "optimize": True, "progressive": True}),
    "png": ("image/png", {"optimize": True}),
}


def sizes_of(arguments: dict[str, Any]) -> list[int]:
    """The boxes to make pictures for; [] if no picture is wanted."""
    sizes = [int(size) for size in arguments["sizes"]] if "picture" in arguments["want"] else []
    if not all(1 <= size <= MAX_SIZE for size in sizes):
        raise ValueError("size")
    return sizes


def fit(width: float, height: float, box: int, *, enlarge: bool = False) -> tuple[int, int]:
    """Width and height within a box, in proportion: at least 1, and no more than they were unless ``enlarge``."""
    scale = box / max(width, height)
    if not enlarge:
        scale = min(1.0, scale)
    return max(1, round(width * scale)), max(1, round(height * scale))


def result(
    metadata: dict[str, Any],
    image: Image.Image,
    sizes: Sequence[int],
    format: str,
    original: tuple[int, int] | None = None,
) -> tuple[dict[str, Any], list[bytes]]:
    """What a parser returns that makes nothing but pictures: ``encode_all`` with a placeholder."""
    listed, blobs = encode_all(image, sizes, format, original or image.size)
    return {"metadata": {**metadata, "placeholder": placeholder(image)}, "pictures": listed}, blobs


def encode_all(
    image: Image.Image, sizes: Sequence[int], format: str, original: tuple[int, int]
) -> tuple[list[dict[str, Any]], list[bytes]]:
    """A picture for each of ``sizes``, made of an image that is at least as large as the largest.

    An ``original`` smaller than a box keeps its size."""
    mime_type, options = _FORMATS[format]
    encoded: dict[tuple[int, int], bytes] = {}
    listed, blobs = [], []
    for size in sizes:
        fitted = fit(*original, size)
        if fitted not in encoded:
            small = image
            if small.size != fitted:
                small = small.resize(fitted, Resampling.LANCZOS, reducing_gap=3.0)
            encoded[fitted] = _encode(small, format, options)
        listed.append({"size": size, "width": fitted[0], "height": fitted[1], "mime_type": mime_type})
        blobs.append(encoded[fitted])
    return listed, blobs


def _encode(image: Image.Image, format: str, options: dict[str, Any]) -> bytes:
    if format == "jpeg" and image.mode == "RGBA":
        paper = Image.new("RGB", image.size, "white")
        paper.paste(image, mask=image.getchannel("A"))
        image = paper
    image.info.clear()  # save() would copy profile, comment and XMP from here
    out = BytesIO()
    image.save(out, format, **options)
    return out.getvalue()
