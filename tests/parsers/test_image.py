from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageCms

from parsers import ParserFailed, Unsupported
from parsers.reading import Reading, read
from tests.parsers.samples import BLUE, GREEN, RED, WHITE, corners, encoded
from tests.parsers.samples import png_of as png


def make(data: bytes, *sizes: int, format: Any = "png") -> Reading:
    return read(
        io.BytesIO(data),
        "image/png",
        name="x.png",
        want=frozenset({"metadata", "picture"}),
        sizes=sizes or (128,),
        format=format,
    )


def picture(result: Reading, index: int = 0) -> Image.Image:
    made = result.pictures[index]
    image = Image.open(io.BytesIO(made.data))
    assert image.size == (made.width, made.height)
    assert image.get_format_mimetype() == made.mime_type
    return image


def close(pixel: Any, expected: tuple[int, ...], tolerance: int = 24) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(pixel[:3], expected[:3], strict=True))


def colours(image: Image.Image) -> list[Any]:
    image, (w, h) = image.convert("RGBA"), image.size
    return [
        image.getpixel(at)
        for at in ((w // 8, h // 8), (w - w // 8, h // 8), (w // 8, h - h // 8), (w - w // 8, h - h // 8))
    ]


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {}),
        ("PNG", {}),
        ("GIF", {}),
        ("WEBP", {}),
        ("AVIF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
    ],
)
def test_T92_supported_formats(format: str, options: dict[str, Any]) -> None:
    result = make(encoded(corners(), format, **options))
    assert (result.metadata["width"], result.metadata["height"], result.metadata["format"]) == (400, 300, format)
    assert result.pictures[0].size == 128
    assert all(close(*pair) for pair in zip(colours(picture(result)), (RED, GREEN, BLUE, WHITE), strict=True))


def test_icons() -> None:
    assert make(encoded(corners(64, 64), "ICO", sizes=[(64, 64)])).metadata["format"] == "ICO"


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.new("RGB", (9, 9)), format)
        for format in ("EPS", "TGA", "PPM", "SGI", "PCX", "ICNS", "JPEG2000", "DDS")
    ]
    + [
        b"",
        b"hello",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"8BPS\0\1" + bytes(40),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
)
def test_T92_other_formats_are_unsupported(data: bytes) -> None:
    with pytest.raises(Unsupported):
        make(data)


@pytest.mark.parametrize("format", ["webp", "jpeg", "png"])
def test_all_sizes_come_from_one_decode_without_enlarging(format: str) -> None:
    result = make(encoded(corners(600, 400), "JPEG"), 128, 256, 512, 1024, format=format)
    assert [(t.size, t.width, t.height) for t in result.pictures] == [
        (128, 128, 85),
        (256, 256, 171),
        (512, 512, 341),
        (1024, 600, 400),
    ]
    assert {t.mime_type for t in result.pictures} == {f"image/{format}"}
    assert all(close(colours(picture(result, index))[1], GREEN) for index in range(4))


def test_metadata_without_pictures() -> None:
    source = io.BytesIO(encoded(corners(), "PNG"))
    result = read(source, "image/png", name="", want=frozenset({"metadata"}), sizes=(128,))
    assert result.metadata == {"width": 400, "height": 300, "format": "PNG", "exif": {}, "gps": {}}
    assert result.pictures == ()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_T93_exif_orientation_is_applied(format: str, orientation: int) -> None:
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Transpose that undoes the orientation (FLIP_LEFT_RIGHT is 0)
    image = corners()
    if orientation in inverse:
        image = image.transpose(Image.Transpose(inverse[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"tiffinfo": {0x0112: orientation}} if format == "TIFF" else {"exif": exif}
    result = make(encoded(image, format, **options))
    assert (result.metadata["width"], result.metadata["height"]) == (400, 300)
    assert picture(result).size == (128, 96)
    assert all(close(*pair) for pair in zip(colours(picture(result)), (RED, GREEN, BLUE, WHITE), strict=True))


def gray16() -> Image.Image:
    return Image.frombytes("I;16", (2, 1), struct.pack("<2H", 0x4000, 0xC000)).resize(
        (64, 32), Image.Resampling.NEAREST
    )


@pytest.mark.parametrize(
    ("data", "left", "right"),
    [
        (encoded(gray16(), "PNG"), (64,) * 3, (192,) * 3),
        (encoded(gray16(), "TIFF"), (64,) * 3, (192,) * 3),
        (encoded(gray16().convert("F"), "TIFF"), (0,) * 3, (255,) * 3),
        (encoded(corners().convert("CMYK"), "JPEG"), RED, GREEN),
        (encoded(corners().convert("CMYK"), "TIFF"), RED, GREEN),
        (encoded(corners().convert("YCbCr"), "JPEG"), RED, GREEN),
        (encoded(corners().convert("P", palette=Image.Palette.ADAPTIVE), "PNG"), RED, GREEN),
        (encoded(corners().convert("L"), "PNG"), (87,) * 3, (104,) * 3),
        (encoded(Image.new("1", (40, 40), 1), "PNG"), (255,) * 3, (255,) * 3),
    ],
)
@pytest.mark.parametrize("size", [16, 128])
def test_T93_pixel_formats(data: bytes, left: tuple[int, ...], right: tuple[int, ...], size: int) -> None:
    shown = colours(picture(make(data, size)))
    assert close(shown[0], left), shown
    assert close(shown[1], right), shown


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_T93_transparency_is_kept_or_put_on_white(mode: str) -> None:
    image = Image.new("RGBA", (300, 300), (255, 0, 0, 0))
    image.paste((0, 0, 0, 255), (150, 0, 300, 300))
    data = encoded(image.quantize() if mode == "P" else image.convert(mode), "PNG")
    shown = colours(picture(make(data, 64)))
    assert shown[0][3] == 0
    assert close(shown[1], (0, 0, 0)) and shown[1][3] == 255
    on_paper = colours(picture(make(data, 64, format="jpeg")))
    assert close(on_paper[0], (255, 255, 255)) and close(on_paper[1], (0, 0, 0))


def test_T93_unusable_profiles_are_ignored() -> None:
    """A profile of a LAB image, or of another colour space than the pixels."""
    lab = ImageCms.profileToProfile(
        corners(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    assert close(colours(picture(make(encoded(lab, "TIFF"))))[0], RED)
    lab_profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (lab_profile, b"no profile", bytes(5_000_000)):
        assert close(colours(picture(make(encoded(corners(), "TIFF", icc_profile=profile))))[0], RED)


def swapped_profile() -> bytes:
    """sRGB with red and green exchanged: without it the colours are wrong."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_T93_the_colour_profile_is_applied_and_removed(mode: str) -> None:
    data = encoded(Image.new(mode, (300, 300), (220, 30, 30)), "PNG", icc_profile=swapped_profile())
    for format in ("webp", "jpeg", "png"):
        made = picture(make(data, format=format))
        assert close(colours(made)[0], (30, 220, 30), 40)
        assert "icc_profile" not in made.info


def test_T93_pictures_contain_no_metadata_of_the_original() -> None:
    exif = Image.Exif()
    exif[0x010E] = "SECRET description"
    exif.get_ifd(0x8825)[1] = "N"
    data = encoded(
        corners(), "JPEG", exif=exif, comment=b"SECRET comment", icc_profile=swapped_profile(), xmp=b"<x>SECRET</x>"
    )
    assert data.count(b"SECRET") == 3
    for format in ("webp", "jpeg", "png"):
        for made in make(data, 128, 1024, format=format).pictures:
            assert b"SECRET" not in made.data
            image = Image.open(io.BytesIO(made.data))
            assert not dict(image.getexif())
            assert not set(image.info) & {"exif", "icc_profile", "comment", "xmp", "Software"}


def test_T37_exif_becomes_json() -> None:
    exif = Image.Exif()
    exif[0x010F] = "Camera\0 Maker\x1b"
    exif[0x0131] = "x" * 5000
    inner = exif.get_ifd(0x8769)
    inner[0x9003] = "2026:11:23 04:15:00"
    inner[0x829A] = (1, 125)
    inner[0x927C] = bytes(range(256)) * 50  # MakerNote
    inner[0x9286] = b"ASCII\0\0\0a comment"
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2], gps[3], gps[4] = "N", (59.0, 26.0, 13.8), "E", (24.0, 44.0, 42.72)
    told = make(encoded(corners(), "JPEG", exif=exif)).metadata
    found = told["exif"]
    assert found["Make"] == "Camera Maker"
    assert found["DateTimeOriginal"] == "2026:11:23 04:15:00"
    assert told["gps"]["GPSLatitude"] == [59.0, 26.0, 13.8]
    assert told["gps"]["GPSLatitudeRef"] == "N"
    assert "GPS" not in json.dumps(found)
    assert len(found["Software"]) == 500
    assert "MakerNote" not in found
    assert len(json.dumps(found, allow_nan=False)) < 4000


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03\xff\xff\xff\xff" * 50,
    ],
)
def test_T93_damaged_exif_does_not_prevent_a_picture(exif: bytes) -> None:
    result = make(encoded(corners(), "JPEG", exif=exif))
    assert close(colours(picture(result))[0], RED)


@pytest.mark.parametrize(
    ("size", "made"), [((6000, 1), (128, 1)), ((1, 6000), (1, 128)), ((1, 1), (1, 1)), ((129, 128), (128, 127))]
)
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_T92_narrow_and_tiny_images(size: tuple[int, int], made: tuple[int, int], format: str) -> None:
    assert picture(make(encoded(Image.new("RGB", size, RED), format))).size == made


@pytest.mark.parametrize("size", [(0, 0), (0, 10), (10, 0), (8001, 8000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_T92_images_without_or_with_too_many_pixels_fail(size: tuple[int, int]) -> None:
    with pytest.raises(ParserFailed):
        make(png(*size))


def test_T92_pixels_are_limited_before_decoding() -> None:
    with pytest.raises(ParserFailed, match="64 megapixels"):
        make(png(9000, 9000))  # the file has no pixel data, so decoding would have failed differently
    # 40 bytes of WebP that claim 16,384 x 16,384 pixels
    with pytest.raises(ParserFailed):
        make(b"RIFF\x20\0\0\0WEBPVP8L\x14\0\0\0\x2f\xff\xff\xff\x0f" + bytes(15))


def test_T92_a_camera_jpeg_of_50_megapixels(tmp_path: Path) -> None:
    data = encoded(corners(8660, 5774), "JPEG", quality=50)
    result = make(data, 128, 1024)
    assert (result.metadata["width"], result.metadata["height"]) == (8660, 5774)
    assert all(close(*pair) for pair in zip(colours(picture(result, 1)), (RED, GREEN, BLUE, WHITE), strict=True))


def test_T92_a_large_image_with_transparency_fits_into_memory() -> None:
    image = corners(8000, 7900).convert("RGBA")
    assert close(colours(picture(make(encoded(image, "PNG", compress_level=1), 256)))[2], BLUE)


def test_T92_only_the_first_frame() -> None:
    frames = [Image.new("RGB", (50, 50), colour) for colour in (RED, GREEN, BLUE)]
    for format in ("GIF", "WEBP", "PNG", "TIFF"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        assert close(colours(picture(make(data)))[0], RED)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "BMP"])
def test_T91_a_truncated_image_fails(format: str) -> None:
    data = encoded(Image.effect_noise((300, 300), 90).convert("RGB"), format)
    with pytest.raises(ParserFailed) as failed:
        make(data[: len(data) // 2])
    assert "0x" not in failed.value.reason and "/" not in failed.value.reason
