"""HEIC images: parsers/image.py with a decoder that not every installation has."""

from __future__ import annotations

from typing import Any

import pillow_heif

from parsers import Partly, image

THREADS = True  # the HEVC decoder works in a thread of its own
pillow_heif.options.THUMBNAILS = False
pillow_heif.options.DECODE_THREADS = 1
pillow_heif.register_heif_opener()


def parse(data: bytes, arguments: dict[str, Any]) -> Partly:
    """As for other images. The decoder turns the picture upright."""
    return image.parse(data, {**arguments, "formats": ["HEIF", *image.FORMATS]})
