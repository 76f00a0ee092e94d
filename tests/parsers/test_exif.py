"""EXIF as cameras and editors write it, whole or damaged."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from tests.parsers.samples import RED, corners, encoded
from tests.parsers.samples import png_of as png
from tests.parsers.test_image import chunk, close, colours, make, picture, with_chunk


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


Directory = Sequence[tuple[int, bytes | int | tuple[int, bytes]]]


def exif_of(tags: Directory, *pointers: tuple[int, Directory | int], order: str = "<") -> bytes:
    """EXIF without its prefix: tags of text, number, or (type, bytes), and pointers to directories, or to offsets."""
    directories = [tags, *(one for _, one in pointers if not isinstance(one, int))]
    starts, end = [], 8
    for at, directory in enumerate(directories):
        starts.append(end)
        end += 6 + 12 * (len(directory) + (len(pointers) if at == 0 else 0))
    out, values = b"", b""
    offsets = iter(starts[1:])
    for at, directory in enumerate(directories):
        linked = [(tag, next(offsets) if not isinstance(to, int) else to) for tag, to in pointers] if at == 0 else []
        out += struct.pack(order + "H", len(directory) + len(linked))
        for tag, value in directory:
            if isinstance(value, int):
                out += struct.pack(order + "HHIHH", tag, 3, 1, value, 0)
                continue
            kind, data = value if isinstance(value, tuple) else (2, value)
            count = len(data) // 8 if kind == 5 else len(data)
            where = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack(order + "I", end + len(values))
            values += b"" if len(data) <= 4 else data
            out += struct.pack(order + "HHI", tag, kind, count) + where
        out += b"".join(struct.pack(order + "HHII", tag, 4, 1, to) for tag, to in linked) + bytes(4)
    return (b"II*\0\x08\0\0\0" if order == "<" else b"MM\0*\0\0\0\x08") + out + values


def exif_in(tags: bytes, format: str = "JPEG") -> dict[str, Any]:
    return make(encoded(corners(), format, exif=(b"Exif\0\0" if format == "JPEG" else b"") + tags)).metadata


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Défense à Nîmes 写真", "utf-8"),
        ("Défense à Nîmes", "latin-1"),
        ("Фотограф Иван", "cp1251"),
        ("写真 東京タワー", "shift_jis"),
    ],
)
def test_texts_of_exif_in_any_encoding(text: str, encoding: str) -> None:
    kind = 129 if encoding == "utf-8" else 2  # ASCII; Exif 3.0 has a type of its own for UTF-8
    tags = exif_of([(0x010E, (2, text.encode(encoding) + b"\0")), (0x013B, (kind, text.encode(encoding) + b"\0"))])
    assert exif_in(tags)["exif"] == {"ImageDescription": text, "Artist": text}


@pytest.mark.parametrize(
    ("prefix", "encoding", "order"),
    [
        (b"UNICODE\0", "utf-16-le", "<"),
        (b"UNICODE\0", "utf-16-be", "<"),
        (b"UNICODE\0", "utf-16-be", ">"),
        (b"UNICODE\0", "utf-16", ">"),
        (b"UNICODE\0", "utf-8", "<"),
        (b"ASCII\0\0\0", "utf-8", "<"),
        (b"JIS\0\0\0\0\0", "iso2022_jp", "<"),
        (bytes(8), "cp1252", "<"),
    ],
)
def test_comments_of_exif_name_their_encoding(prefix: bytes, encoding: str, order: str) -> None:
    text = "写真 a comment" if encoding == "iso2022_jp" else "A cömment"
    tags = exif_of([], (0x8769, [(0x9286, (7, prefix + text.encode(encoding)))]), order=order)
    assert exif_in(tags)["exif"] == {"UserComment": text}


def test_windows_tags_of_exif_are_utf_16() -> None:
    names = {0x9C9B: "XPTitle", 0x9C9C: "XPComment", 0x9C9D: "XPAuthor", 0x9C9E: "XPKeywords", 0x9C9F: "XPSubject"}
    tags = exif_of([(tag, (1, f"Ünï {name} 写真\0".encode("utf-16-le"))) for tag, name in names.items()])
    assert exif_in(tags)["exif"] == {name: f"Ünï {name} 写真" for name in names.values()}


def test_what_is_wrong_in_exif_leaves_the_rest() -> None:
    dated = (0x8769, [(0x9003, b"0000:00:00 00:00:00\0")])
    located: Directory = [(1, b"N\0"), (2, (5, bytes(24)))]
    for gps in (located, 60_000, 3):
        told = exif_in(exif_of([(0x010F, b"Maker\0"), (0x0112, 6)], dated, (0x8825, gps)))
        assert told["exif"]["DateTimeOriginal"] == "0000:00:00 00:00:00" and told["exif"]["Make"] == "Maker"
        assert (told["width"], told["height"]) == (300, 400)
        assert told["gps"] == ({"GPSLatitudeRef": "N"} if gps is located else {})
    told = exif_in(exif_of([(0x010F, b"Maker\0"), (0x0112, 9)], (0x8769, 60_000), (0x8825, [(1, b"N\0")])))
    assert (told["exif"]["Make"], told["gps"], told["width"]) == ("Maker", {"GPSLatitudeRef": "N"}, 400)


@pytest.mark.parametrize(("format", "order"), [("JPEG", ">"), ("PNG", "<"), ("WEBP", ">"), ("AVIF", "<")])
def test_exif_is_read_in_every_format(format: str, order: str) -> None:
    tags = exif_of([(0x010F, b"Maker\0")], (0x8769, [(0x9003, b"2026:11:23 04:15:00\0")]), order=order)
    assert exif_in(tags, format)["exif"] == {"Make": "Maker", "DateTimeOriginal": "2026:11:23 04:15:00"}
    damaged = encoded(corners(), format, exif=b"Exif\0\0" + tags).replace(tags[:4], b"XX*\0")
    assert close(colours(picture(make(damaged)))[0], RED)


@pytest.mark.parametrize("kind", [b"exif", b"APP1"])
@pytest.mark.parametrize("packed", [False, True])
def test_exif_in_a_text_of_a_png(kind: bytes, packed: bool) -> None:
    digits = (b"Exif\0\0" + exif_of([(0x010F, b"Maker\0")])).hex().encode()
    text = b"\n%s\n%8d\n" % (kind, len(digits) // 2) + b"\n".join(
        digits[at : at + 72] for at in range(0, len(digits), 72)
    )
    keyword = b"Raw profile type " + kind + b"\0"
    data = with_chunk(b"zTXt", keyword + b"\0" + zlib.compress(text)) if packed else with_chunk(b"tEXt", keyword + text)
    assert make(data).metadata["exif"] == {"Make": "Maker"}


def test_exif_behind_the_pixels_of_a_png() -> None:
    data = encoded(corners(), "PNG")
    told = make(data[:-12] + chunk(b"eXIf", exif_of([(0x0112, 6)])) + data[-12:]).metadata
    assert (told["width"], told["height"]) == (300, 400)


def test_T92_exif_is_told_of_what_is_too_large() -> None:
    tags, image = exif_of([(0x010F, b"Maker\0"), (0x0112, 6)]), png(9000, 8000)
    webp = bytearray(encoded(corners(), "WEBP", exif=tags))
    webp[24:30] = (8999).to_bytes(3, "little") + (7999).to_bytes(3, "little")
    jpeg = bytearray(encoded(corners(), "JPEG", exif=b"Exif\0\0" + tags))
    at = jpeg.index(b"\xff\xc0") + 4
    jpeg[at : at + 5] = struct.pack(">BHH", 12, 8000, 9000)  # bits of a sample, which can't be decoded
    for data in (image[:33] + chunk(b"eXIf", tags) + image[33:], bytes(webp), bytes(jpeg)):
        result = make(data)
        told = result.metadata
        assert (told["exif"]["Make"], told["width"], told["height"]) == ("Maker", 8000, 9000)
        assert result.failed == {"picture": "The image has more than 64 megapixels"}
