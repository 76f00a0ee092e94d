"""What every parser with a picture ends in: the sizes asked for, encoded, and a placeholder.

A picture is new pixels, in sRGB and modes RGB or RGBA, and nothing else of the original (THREATS T93)."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401 the encoders
from PIL.Image import Resampling

MAX_SIZE = 4_096  # pixels of the largest box that can be asked for

_OUTPUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "webp": ("image/webp", {"quality": 80, "method": 4}),
    "jpeg": ("image/jpeg", {"quality": 82, "optimize": True, "progressive": True}),
    "png": ("image/png", {"optimize": True}),
}


def sizes_of(arguments: dict[str, Any]) -> list[int]:
    """The boxes to make pictures for; [] where none is wanted."""
    sizes = [int(size) for size in arguments["sizes"]] if "picture" in arguments["want"] else []
    if not all(1 <= size <= MAX_SIZE for size in sizes):
        raise ValueError("size")
    return sizes


def fit(width: float, height: float, box: int, *, enlarge: bool = False) -> tuple[int, int]:
    """Width and height within a box, in proportion; never more than they were, and never 0."""
    scale = box / max(width, height)
    if not enlarge:
        scale = min(1.0, scale)
    return max(1, round(width * scale)), max(1, round(height * scale))


def encode_all(
    image: Image.Image, sizes: Sequence[int], format: str, full: tuple[int, int]
) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Pictures for each of ``sizes`` from one that is at least as large as the largest of them.

    ``full`` is the size of the original: what is smaller than a box stays as it is."""
    mime_type, options = _OUTPUTS[format]
    made: dict[tuple[int, int], bytes] = {}
    listed, blobs = [], []
    for size in sizes:
        fitted = fit(*full, size)
        if fitted not in made:
            small = image
            if small.size != fitted:
                small = small.resize(fitted, Resampling.LANCZOS, reducing_gap=3.0)
            made[fitted] = _encode(small, format, options)
        listed.append({"size": size, "width": fitted[0], "height": fitted[1], "mime_type": mime_type})
        blobs.append(made[fitted])
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
