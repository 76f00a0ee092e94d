"""Images: size, EXIF, and small pictures.

Only the formats named here are opened, whatever Pillow supports (T92). A picture is upright, in sRGB, and of the first frame
(T93). To save memory the decoder shrinks first if it can (JPEG's ``draft``), then the pixels are reduced, and only the rest
is turned and converted. Of a truncated image what is there is drawn; what can't be drawn at all still has its metadata.
"""

from __future__ import annotations

import math
import re
import struct
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
    WebPImagePlugin,
)
from PIL.Image import Resampling, Transpose

from parsers import ParserFailed, Partly, Unsupported, declared, exif, pictures

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

_UNKNOWN = "This is not an image in a format that can be shown"
_NO_PICTURE = "The image is damaged or incomplete, or of a kind that can't be decoded"
_MAX_COEFFICIENTS = 448 * 1024 * 1024  # bytes; a progressive JPEG needs all of them in memory
_MAX_SCANS = 100  # of a progressive JPEG; each passes over the whole picture
_JPEG_SEGMENT = re.compile(rb"\xff[^\0\xd0-\xd7\xff]")  # between compressed data
_NO_HEIGHT = re.compile(rb"\xff\xd8\xff.*?\xff[\xc0-\xc2]\0.\x08(\0\0)", re.DOTALL)
_HEIGHT = re.compile(rb"\xff\xdc\0\x04(..)", re.DOTALL)  # DNL (ITU-T T.81, B.2.5)
_MAX_ICONS = 64  # of one file
_BRANDS = {"AVIF": (b"avif", b"avis"), "HEIF": (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs")}

Image.MAX_IMAGE_PIXELS = MAX_PIXELS
ImageFile.LOAD_TRUNCATED_IMAGES = True  # what is there is drawn
PngImagePlugin.MAX_TEXT_CHUNK = _MAX_ICC
# By default a thread for each core: on a large machine their stacks alone exceed RLIMIT_AS.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


class _Chunks(PngImagePlugin.PngStream):
    """The chunks of a PNG, without animation, and without texts that are not read here: these may be of any size."""

    _TEXTS = (b"XML:com.adobe.xmp", b"Raw profile type exif", b"Raw profile type APP1")

    def call(self, cid: bytes, pos: int, length: int) -> bytes:
        assert self.fp
        keyword = self.fp.read(min(32, length)).partition(b"\0")[0]
        self.fp.seek(pos)
        unread = keyword not in self._TEXTS or keyword.decode() in self.im_text
        if cid in (b"acTL", b"fcTL", b"fdAT") or (cid in (b"tEXt", b"zTXt", b"iTXt") and unread):
            return ImageFile._safe_read(self.fp, length)
        return super().call(cid, pos, length)


PngImagePlugin.PngStream = _Chunks  # type: ignore[misc]


def parse(data: bytes, arguments: dict[str, Any]) -> Partly:
    """Metadata (width, height, format, exif, gps, placeholder) and pictures of the first frame."""
    sizes = pictures.sizes_of(arguments)
    formats = tuple(arguments.get("formats", FORMATS))
    with _strict_warnings():
        failure = None
        try:
            image = _open(data, formats)
        except ParserFailed as failed:
            if (known := declared.size(data)) is None:
                raise
            image = Image.new("1", (1, 1))  # stands for the one that can't be opened
            image.format, image._size = known[0], known[1:]
            failure = ParserFailed(_too_large(*image.size) or failed.reason)
        if "exif" not in image.info and (found := declared.exif(data)):
            image.info["exif"] = found
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
        yield {"metadata": metadata}, "picture"
        if failure:
            raise failure
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


def _too_large(width: int, height: int) -> str | None:
    return f"The image has more than {MAX_PIXELS // 1_000_000} megapixels" if width * height > MAX_PIXELS else None


def _open(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    """The image, with its metadata. Its pixels are not decoded yet, and may be too many."""
    if "ICO" in formats and data.startswith((b"\0\0\1\0", b"\0\0\2\0")):
        return _icon(data)
    Image.MAX_IMAGE_PIXELS = None
    try:
        image = Image.open(BytesIO(_readable(data, formats)), formats=formats)
    except Exception:  # Pillow raises a dozen kinds
        if data[4:8] == b"ftyp" and b"Exif" in data:  # Pillow refuses an AVIF with damaged EXIF
            return _open(data.replace(b"Exif", b"free"), formats)
        if any(accept and accept(data[:16]) for _, accept in map(Image.OPEN.__getitem__, formats)):
            raise ParserFailed(_NO_PICTURE) from None
        raise Unsupported(_UNKNOWN) from None
    finally:
        Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    if min(image.size) < 1:
        raise ParserFailed("The image has no pixels")
    return image


def _readable(data: bytes, formats: tuple[str, ...]) -> bytes:
    """What Pillow opens: a truncated WebP filled up with zeros, a JPEG's height before its pixels, and a coding brand among the
    compatible ones made the major brand, since only that is looked at."""
    if data.startswith(b"RIFF"):
        return data.ljust(min(8 + int.from_bytes(data[4:8], "little"), 2 * len(data)), b"\0")
    if (frame := _NO_HEIGHT.match(data, 0, 65_536)) and (height := _HEIGHT.search(data, frame.end())):
        return data[: frame.start(1)] + height[1] + data[frame.end(1) :]
    if data[4:8] == b"ftyp":
        compatible = data[16 : min(int.from_bytes(data[:4]), 512)]
        brands = [compatible[at : at + 4] for at in range(0, len(compatible), 4)]
        for brand in (brand for format in formats for brand in _BRANDS.get(format, ())):
            if brand in brands:
                return data[:8] + brand + data[12:]
    return data


def _icon(data: bytes) -> Image.Image:
    """The best picture of an icon or cursor that can be decoded, by the pictures' own sizes: the directory's are often wrong."""
    count = max(0, min(int.from_bytes(data[4:6], "little"), _MAX_ICONS, (len(data) - 6) // 16))
    icon = IcoImagePlugin.IcoFile(BytesIO(b"\0\0\1\0" + struct.pack("<H", count) + data[6:]))
    found = []
    for entry in icon.entry:
        head = data[entry.offset : entry.offset + 41]
        if len(head) < 41:
            continue
        if head.startswith(b"\x89PNG"):
            (width, height), bits = struct.unpack_from(">2I", head, 16), 32
        else:  # a bitmap and its mask, one upon the other (BITMAPINFOHEADER)
            _, width, height, _, bits, _, _, _, _, colours, _ = struct.unpack_from("<I2i2H6I", head)
            palette = 4 * (colours or (1 << bits if bits <= 8 else 0))
            row = ((width * bits + 31) // 32 + (width + 31) // 32) * 4
            entry = entry._replace(bpp=bits, size=40 + palette + row * (height // 2))
        found.append((width * height, bits, entry))
    found.sort(key=lambda one: one[:2], reverse=True)
    icon.entry = [entry for _, _, entry in found]
    for at in range(len(found)):
        with suppress(Exception):  # as above
            image = icon.frame(at)
            image.load()
            if image.mode == "RGBA" and image.format is None and image.getchannel("A").getextrema() == (0, 0):
                image.putalpha(255)  # a bitmap whose fourth byte means nothing
            image.format = "ICO"
            return image
    raise ParserFailed(_NO_PICTURE) if count else Unsupported(_UNKNOWN)


def _shrink(image: Image.Image, box: int, turn: Transpose | None, upright: tuple[int, int]) -> Image.Image:
    """The first frame, upright, at most ``box`` pixels wide and high, as sRGB in mode RGB or RGBA."""
    _load(image, box)
    target = pictures.fit(*upright, box)
    if turn in _SIDEWAYS:
        target = target[::-1]  # turned only after it was shrunk
    pixels = _reduce(image, int(min(image.width / target[0], image.height / target[1]) / 2))
    if pixels.size != target:
        pixels = pixels.resize(target, Resampling.LANCZOS)
    pixels = _to_srgb(pixels, image.info.get("icc_profile"))
    return pixels if turn is None else pixels.transpose(turn)


def _load(image: Image.Image, box: int) -> None:
    """Decode the image. What is missing at its end stays black, grey or transparent, but there must be something."""
    file = getattr(image, "fp", None)
    _decode(image, box)
    extrema: Any = image.getextrema()  # of one band, or of each
    if file is None or extrema[:2] not in ((0, 0), (128, 128), ((0, 0), (0, 0)), ((128, 128), (128, 128))):
        return
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        _decode(_open(file.getvalue(), ("HEIF",) if image.format == "HEIF" else FORMATS), box)
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = True


def _decode(image: Image.Image, box: int) -> None:
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        if image.info.get("progressive"):
            sampled = [across * down for _, across, down, _ in image.layer]
            if 2 * image.width * image.height * sum(sampled) / max(*sampled, 1) > _MAX_COEFFICIENTS:
                raise ParserFailed("The image is progressive, and too large to be decoded")
            if _scans(cast("BytesIO", image.fp).getvalue()) > _MAX_SCANS:
                raise ParserFailed("The image is progressive, with too many scans")
        image.draft(None, pictures.fit(*image.size, 2 * box))  # twice as large, so that resampling looks good
    elif reason := _too_large(*image.size):
        raise ParserFailed(reason)
    try:
        image.load()
    except MemoryError:
        raise
    except Exception:  # as above
        if not ImageFile.LOAD_TRUNCATED_IMAGES or image._im is None:
            raise ParserFailed(_NO_PICTURE) from None
        image.tile = []  # type: ignore[attr-defined]  # what was decoded before is there


def _scans(data: bytes) -> int:
    """How many scans a JPEG has; counting ends when they are too many."""
    count, at = 0, 2
    while count <= _MAX_SCANS and (segment := _JPEG_SEGMENT.search(data, at)) and segment[0] != b"\xff\xd9":
        count += segment[0] == b"\xff\xda"
        at = segment.end() + int.from_bytes(data[segment.end() : segment.end() + 2])
    return count


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
