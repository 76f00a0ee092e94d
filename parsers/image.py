"""Images: size, EXIF, and small pictures.

Only the formats named here are opened, whatever Pillow supports (T92). A picture is upright, in sRGB, and of the first frame
(T93). To save memory the decoder shrinks first if it can (JPEG's ``draft``), then the pixels are reduced, and only the rest
is turned and converted.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import Any, cast

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    IcoImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from PIL.Image import Resampling, Transpose

from parsers import ParserFailed, Unsupported, exif, pictures

# Importing these plugins spares Pillow loading all forty to find them.
FORMATS = (
    JpegImagePlugin.JpegImageFile.format,
    PngImagePlugin.PngImageFile.format,
    GifImagePlugin.GifImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
    AvifImagePlugin.AvifImageFile.format,
    TiffImagePlugin.TiffImageFile.format,
    BmpImagePlugin.BmpImageFile.format,
    IcoImagePlugin.IcoImageFile.format,
)
MAX_PIXELS = 64_000_000  # before decoding
_STRIP_PIXELS = 4_000_000
_MAX_ICC = 4 * 1024 * 1024  # bytes; press profiles have 2 MB

_UPRIGHT = {  # EXIF orientation -> how to turn it
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_SIDEWAYS = (Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90)
# Warnings about metadata, which common cameras and editors cause. All other warnings are errors.
_HARMLESS = (
    "Corrupt EXIF|Possibly corrupt|Truncated File Read|Metadata Warning|Tag data larger|Tag offset too large"
    "|Image appears to be a malformed MPO|Invalid APNG|Palette images with Transparency"
)

Image.MAX_IMAGE_PIXELS = MAX_PIXELS
# By default a thread for each core: on a large machine their stacks alone exceed RLIMIT_AS.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def parse(data: bytes, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """Metadata (width, height, format, exif, gps, placeholder) and pictures of the first frame."""
    sizes = pictures.sizes_of(arguments)
    with _strict_warnings():
        image = _open(data, tuple(arguments.get("formats", FORMATS)))
        width, height = image.size
        camera, gps = exif.tags(image)
        # Pillow turns TIFF itself
        turn = None if image.format == "TIFF" else _UPRIGHT.get(exif.orientation(image))
        if turn in _SIDEWAYS:
            width, height = height, width
        format = "JPEG" if image.format == "MPO" else image.format
        metadata = {"width": width, "height": height, "exif": camera, "gps": gps, "format": format}
        if not sizes:
            return {"metadata": metadata}, []
        largest = _shrink(image, max(sizes), turn, (width, height))
        return pictures.result(metadata, largest, sizes, arguments["format"], (width, height))


def first_frame(data: bytes, box: int) -> Image.Image:
    """A picture embedded in another file, as stored (not turned), within a box."""
    with _strict_warnings():
        image = _open(data, FORMATS)
        return _shrink(image, box, None, image.size)


@contextmanager
def _strict_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", _HARMLESS)
        yield


def _open(data: bytes, formats: tuple[str, ...]) -> ImageFile.ImageFile:
    try:
        image = Image.open(BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        raise Unsupported("This is not an image in a format that can be shown") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ParserFailed(f"The image has more than {MAX_PIXELS // 1_000_000} megapixels") from None
    if min(image.size) < 1:
        raise ParserFailed("The image has no pixels")
    return image


def _shrink(image: ImageFile.ImageFile, box: int, turn: Transpose | None, upright: tuple[int, int]) -> Image.Image:
    """The first frame, upright, at most ``box`` pixels wide and high, as sRGB in mode RGB or RGBA."""
    image.draft(None, (2 * box, 2 * box))  # twice as large, so that the resampling below looks good
    image.load()
    target = pictures.fit(*upright, box)
    if turn in _SIDEWAYS:
        target = target[::-1]  # turned only after it was shrunk
    pixels = _reduce(image, int(min(image.width / target[0], image.height / target[1]) / 2))
    if pixels.size != target:
        pixels = pixels.resize(target, Resampling.LANCZOS)
    pixels = _to_srgb(pixels, image.info.get("icc_profile"))
    return pixels if turn is None else pixels.transpose(turn)


def _reduce(image: Image.Image, factor: int) -> Image.Image:
    """The image in 8 bits, each ``factor`` x ``factor`` pixels averaged into one.

    Strip by strip: there is no memory for a second copy of 64 megapixels with transparency."""
    convert = _converter(image)
    if factor < 2:
        return convert(image)
    rows = factor * max(1, _STRIP_PIXELS // (image.width * factor))
    reduced = None
    for top in range(0, image.height, rows):
        strip = convert(image.crop((0, top, image.width, min(top + rows, image.height)))).reduce(factor)
        if reduced is None:
            reduced = Image.new(strip.mode, (strip.width, -(-image.height // factor)))
        reduced.paste(strip, (0, top // factor))
    assert reduced is not None
    return reduced


def _converter(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Converts the image, or a strip of it, to a mode that can be resampled: L, RGB, RGBA, CMYK or LAB."""
    if image.mode.startswith("I;16"):
        return lambda strip: strip.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode in ("I", "F"):
        low, high = cast("tuple[float, float]", image.getextrema())  # of one band
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ParserFailed("The image's values are not finite")
        if image.mode == "I" and low >= 0 and high <= 0xFFFF:
            low, high = 0, 0xFFFF if high > 0xFF else 0xFF
        scale = 255 / ((high - low) or 1)
        return lambda strip: strip.point(lambda value: value * scale - low * scale).convert("L")
    if image.has_transparency_data:
        mode = "RGBA"
    elif image.mode in ("L", "RGB", "CMYK", "LAB"):
        mode = image.mode
    else:
        mode = "L" if image.mode == "1" else "RGB"
    return lambda strip: strip if strip.mode == mode else strip.convert(mode)


def _to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    colours = image.convert("RGB") if alpha else image
    profile: Any = ImageCms.createProfile("LAB") if colours.mode == "LAB" else None
    if icc and len(icc) <= _MAX_ICC:
        try:
            profile = ImageCms.ImageCmsProfile(BytesIO(icc))
            space = profile.profile.xcolor_space.strip()
            if {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}.get(space) != colours.mode:
                profile = None
        except (OSError, ImageCms.PyCMSError):
            profile = None  # a broken profile is as good as none
    if profile:
        with suppress(OSError, ValueError, ImageCms.PyCMSError):
            srgb = ImageCms.createProfile("sRGB")
            colours = ImageCms.profileToProfile(colours, profile, srgb, outputMode="RGB") or colours
    if colours.mode != "RGB":
        colours = colours.convert("RGB")
    if alpha:
        colours.putalpha(alpha)
    return colours
