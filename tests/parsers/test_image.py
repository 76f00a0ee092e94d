from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageCms

from parsers import ParserFailed, Unsupported
from parsers.reading import Reading, read
from tests.parsers.hostile import webp_bomb
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


@pytest.mark.parametrize(
    ("size", "made"), [((6000, 1), (128, 1)), ((1, 6000), (1, 128)), ((1, 1), (1, 1)), ((129, 128), (128, 127))]
)
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_T92_narrow_and_tiny_images(size: tuple[int, int], made: tuple[int, int], format: str) -> None:
    assert picture(make(encoded(Image.new("RGB", size, RED), format))).size == made


@pytest.mark.parametrize("size", [(0, 0), (0, 10), (10, 0)])
def test_T92_images_without_pixels_fail(size: tuple[int, int]) -> None:
    with pytest.raises(ParserFailed):
        make(png(*size))


def jpeg_sized(width: int, height: int) -> bytes:
    """A JPEG of few bytes that claims this size."""
    data = encoded(corners(), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">2H", height, width) + data[at + 4 :]


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (png(8001, 8000), (8001, 8000)),
        (png(20_000, 20_000), (20_000, 20_000)),
        (png(2**31 - 1, 2**31 - 1), (2**31 - 1, 2**31 - 1)),
        (webp_bomb(12_000), (12_000, 12_000)),
        (webp_bomb(16_384), (16_384, 16_384)),
        (b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(50), (65_535, 65_535)),
        (encoded(corners(), "BMP")[:18] + struct.pack("<2i", 30_000, -20_000) + bytes(28), (30_000, 20_000)),
        (encoded(Image.new("1", (8100, 8000)), "TIFF", compression="group4"), (8100, 8000)),
    ],
)
def test_T92_width_and_height_are_told_of_what_is_too_large(data: bytes, size: tuple[int, int]) -> None:
    result = make(data)
    assert (result.metadata["width"], result.metadata["height"]) == size
    assert result.failed == {"picture": "The image has more than 64 megapixels"}
    assert not result.pictures


@pytest.mark.parametrize(("width", "height"), [(20_000, 10_000), (65_500, 4_000), (1_000, 65_500), (40_000, 30_000)])
def test_T92_a_jpeg_of_any_size_is_shrunk_while_it_is_decoded(width: int, height: int) -> None:
    result = make(jpeg_sized(width, height), 64)
    assert (result.metadata["width"], result.metadata["height"]) == (width, height)
    assert max(picture(result).size) == 64


def test_a_jpeg_that_tells_its_height_at_its_end() -> None:
    data = jpeg_sized(400, 0)
    assert picture(make(data[:-2] + b"\xff\xdc\0\4" + struct.pack(">H", 300) + data[-2:])).size == (128, 96)
    with pytest.raises(ParserFailed):
        make(data)


def test_T92_a_progressive_jpeg_is_limited_by_memory() -> None:
    data = encoded(corners(), "JPEG", progressive=True)
    at = data.index(b"\xff\xc2") + 5
    assert picture(make(data[:at] + struct.pack(">2H", 9_000, 12_000) + data[at + 4 :])).size == (128, 96)
    result = make(data[:at] + struct.pack(">2H", 20_000, 20_000) + data[at + 4 :])
    assert result.failed == {"picture": "The image is progressive, and too large to be decoded"}
    assert result.metadata["width"] == 20_000


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


DAMAGED = "The image is damaged or incomplete, or of a kind that can't be decoded"


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
    ],
)
def test_of_a_truncated_image_is_drawn_what_is_there(format: str, options: dict[str, Any]) -> None:
    image = corners(300, 600)
    image.paste(Image.effect_noise((300, 300), 90).convert("RGB"), (0, 300))
    if format == "GIF":
        image = image.quantize(palette=corners().quantize(16))
    data = encoded(image, format, **options)
    result = make(data[: len(data) * 3 // 4])
    assert (result.metadata["width"], result.metadata["height"], result.failed) == (300, 600, {})
    assert close(colours(picture(result))[0], RED, 60)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP"])
def test_T91_the_first_bytes_of_an_image_tell_its_size(format: str) -> None:
    data = encoded(Image.effect_noise((300, 200), 90).convert("RGB"), format)
    reading = make(data[:350])
    assert (reading.metadata["width"], reading.metadata["height"]) == (300, 200)
    if format not in ("JPEG", "PNG", "BMP"):  # of which this is a part of the pixels
        assert reading.failed == {"picture": DAMAGED}


def test_a_black_image_is_not_taken_for_a_damaged_one() -> None:
    for format, colour in (
        ("PNG", "black"),
        ("JPEG", "black"),
        ("JPEG", "#808080"),
        ("GIF", "black"),
        ("BMP", "black"),
    ):
        assert picture(make(encoded(Image.new("RGB", (50, 50), colour), format))).size == (50, 50)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "BMP"])
def test_bytes_behind_the_end_do_no_harm(format: str) -> None:
    """A telephone's film, for example."""
    assert close(colours(picture(make(encoded(corners(), format) + bytes(5000) + b"ftypmp42" * 9)))[1], GREEN)


@pytest.mark.parametrize("major", [b"mif1", b"miaf", b"msf1", b"MA1B", b"heic"])
def test_avif_is_known_by_its_compatible_brands(major: bytes) -> None:
    data = encoded(corners(), "AVIF")
    assert close(colours(picture(make(data[:8] + major + data[12:])))[0], RED)


def test_other_brands_are_unsupported() -> None:
    data = encoded(corners(), "AVIF")
    result = make(data[:8] + b"heic" + data[12:].replace(b"avif", b"heix", 1))
    assert result.failed["picture"] == "This is not an image in a format that can be shown"


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunk(name: bytes, data: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    image = encoded(corners(), "PNG")
    return image[:33] + chunk(name, data) + image[33:]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (b"zTXt", b"workflow\0\0" + zlib.compress(bytes(50_000_000))),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(50_000_000))),
        (b"zTXt", b"x\0\1no deflate"),
        (b"tEXt", b"workflow\0" + b"x" * 3_000_000),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"x" * 3_000_000),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 3_000_000)),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(50_000_000))),
        (b"iCCP", b"p\0\0" + zlib.compress(bytes(50_000_000))),
        (b"acTL", bytes(8)),
        (b"fcTL", b"\0\0\0\7" + bytes(22)),
    ],
)
def test_T92_no_chunk_of_a_png_prevents_its_picture(name: bytes, data: bytes) -> None:
    assert close(colours(picture(make(with_chunk(name, data))))[0], RED)


def test_T92_large_texts_of_a_png_are_not_kept() -> None:
    bomb = zlib.compress(bytes(4_000_000))
    texts = b"".join(chunk(b"zTXt", b"text %d\0\0" % n + bomb) for n in range(400))
    image = encoded(corners(), "PNG")
    assert close(colours(picture(make(image[:33] + texts + image[33:-12] + texts + image[-12:])))[0], RED)


def test_T93_a_large_colour_profile_is_applied() -> None:
    profile = zlib.compress(swapped_profile() + bytes(1_500_000))
    assert close(colours(picture(make(with_chunk(b"iCCP", b"p\0\0" + profile))))[0], (30, 220, 30), 60)


def icon(*entries: tuple[int, int, int, bytes | int], kind: int = 1) -> bytes:
    """Width, height, bits as in the directory, and the picture, or the offset that is claimed."""
    out, at = b"", 6 + 16 * len(entries)
    pictures = b"".join(one for *_, one in entries if isinstance(one, bytes))
    for width, height, bits, one in entries:
        size, offset = (len(one), at) if isinstance(one, bytes) else (1000, one)
        out += struct.pack("<BBBBHHII", width, height, 0, 0, 1, bits, size, offset)
        at += size if isinstance(one, bytes) else 0
    return struct.pack("<3H", 0, kind, len(entries)) + out + pictures


def bitmap(image: Image.Image, mask: bytes | None = None) -> bytes:
    """A picture as icons store it: without a file's header, of double height, with its mask below."""
    data = bytearray(encoded(image, "DIB"))
    struct.pack_into("<i", data, 8, 2 * image.height)
    return bytes(data) + (bytes((image.width + 31) // 32 * 4 * image.height) if mask is None else mask)


def small(side: int, format: str = "PNG") -> bytes:
    return encoded(corners(side, side), format)


@pytest.mark.parametrize(
    ("data", "side"),
    [
        (icon((32, 64, 32, small(32))), 32),
        (icon((0, 0, 32, small(512))), 512),
        (icon((16, 16, 0, small(48)), (48, 48, 32, small(16))), 48),
        (icon((64, 64, 32, 9_999_999), (32, 32, 32, small(32)), (48, 48, 32, b"neither")), 32),
        (icon((32, 32, 24, bitmap(corners(32, 32)))), 32),
        (icon((20, 20, 8, bitmap(corners(20, 20).quantize(16)))), 20),
        (
            icon((32, 32, 0, bitmap(corners(32, 32))))[:14]
            + b"\1\0\0\0"
            + icon((1, 1, 0, bitmap(corners(32, 32))))[18:],
            32,
        ),
        (icon((32, 32, 32, bitmap(Image.merge("RGBA", (*corners(32, 32).split(), Image.new("L", (32, 32))))))), 32),
        (icon((32, 32, 24, bitmap(corners(32, 32))), kind=2), 32),
        (icon((32, 32, 1, small(32)), kind=2), 32),
        (b"\0\0\1\0\xff\xff" + icon((32, 32, 32, small(32)))[6:], 32),
        (small(32), 32),
    ],
)
def test_icons_and_cursors_whose_directory_is_wrong(data: bytes, side: int) -> None:
    result = make(data, 1024)
    assert (result.metadata["width"], result.metadata["height"]) == (side, side)
    assert all(close(*pair) for pair in zip(colours(picture(result)), (RED, GREEN, BLUE, WHITE), strict=True))
    assert colours(picture(result))[0][3] == 255


def test_the_mask_of_an_icon_is_applied() -> None:
    right_half = b"\0\0\xff\xff" * 32
    shown = colours(picture(make(icon((32, 32, 24, bitmap(corners(32, 32), right_half))))))
    assert [pixel[3] for pixel in shown] == [255, 0, 255, 0]


@pytest.mark.parametrize("data", [icon(), b"\0\0\1\0\xff\xff", icon((16, 16, 1, b"x" * 50)), icon((1, 1, 1, 0))])
def test_icons_without_a_picture_fail(data: bytes) -> None:
    with pytest.raises(ParserFailed):
        make(data)
