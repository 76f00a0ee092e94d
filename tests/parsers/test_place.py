"""Locations in pictures are removed in place, in every format; everything else stays unchanged."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from parsers import ParserFailed, place
from parsers import run as parsers
from tests.parsers.samples import corners, encoded

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:exif="http://ns.adobe.com/exif/1.0/" xmp:CreatorTool="SecretCam"'
    b" exif:GPSLatitude=\"48,8.1234N\" drone-dji:GpsLongitude='11.5678'>"
    b"<exif:GPSLongitude>11,34.5678E</exif:GPSLongitude></rdf:Description></rdf:RDF></x:xmpmeta>"
)
DIGITS, SWAPPED = (struct.pack(f"{order}2I", 123_457, 1_009) for order in "<>")  # of the latitude, in EXIF


def exif(order: str = "<", *, gps: bool = True) -> Image.Exif:
    tags = Image.Exif()
    tags.endian = order
    tags[0x010F], tags[0x0112] = "SecretCam", 6
    tags.get_ifd(0x8769)[0x9003] = "2026:11:25 18:30:00"
    if gps:
        tags.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 123_457 / 1_009), 3: "E", 4: (11.0, 34.0, 0.5)})
    return tags


def heic(**options: Any) -> bytes:
    pytest.importorskip("pillow_heif").register_heif_opener()
    return encoded(corners(), "HEIF", **options)


def png_with(keyword: str, text: bytes, *, compressed: bool) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text(keyword, text.decode("latin-1"), zip=compressed)
    return encoded(corners(), "PNG", pnginfo=info)


def raw_profile(kind: str) -> bytes:
    tiff = exif().tobytes()
    return f"\n{kind}\n{len(tiff):>8}\n{tiff.hex()}\n".encode()


def film() -> bytes:
    return b"\0\0\0\x1e\xa9xyz\0\x12\x15\xc7+48.1234+011.5678/"


def with_exif(format: str, order: str = "<") -> bytes:
    return encoded(corners(), format, exif=exif(order).tobytes())


SAMPLES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: with_exif("JPEG"),
    "jpeg in big-endian": lambda: with_exif("JPEG", ">"),
    "png": lambda: with_exif("PNG"),
    "webp": lambda: with_exif("WEBP"),
    "avif": lambda: with_exif("AVIF"),
    "heic": lambda: heic(exif=exif().tobytes()),
    "jpeg with XMP": lambda: encoded(corners(), "JPEG", xmp=XMP),
    "webp with XMP": lambda: encoded(corners(), "WEBP", xmp=XMP),
    "png with XMP": lambda: png_with("XML:com.adobe.xmp", XMP, compressed=False),
    "png with compressed XMP": lambda: png_with("XML:com.adobe.xmp", XMP, compressed=True),
    "png with a written-out profile": lambda: png_with("Raw profile type exif", raw_profile("exif"), compressed=True),
    "png with a plain profile": lambda: png_with("Raw profile type APP1", raw_profile("APP1"), compressed=False),
    "jpeg with a picture behind it": lambda: encoded(corners(), "JPEG") + with_exif("JPEG"),
    "jpeg with a film behind it": lambda: encoded(corners(), "JPEG") + film(),
    "jpeg with another film behind it": lambda: encoded(corners(), "JPEG") + b"data\0\0\0\1+48.1234+011.5678+035.000/",
    "jpeg of a drone": lambda: encoded(corners(), "JPEG", xmp=XMP.replace(b"GpsLongitude", b"Longitude")),
    "tiff": lambda: with_exif("TIFF"),
}


def cut(data: bytes) -> bytes:
    """The picture after the patches of a child process."""
    answer = parsers.run("place", io.BytesIO(data), {})
    patched = bytearray(data)
    for offset, patch in zip(answer.values["offsets"], answer.blobs, strict=True):
        patched[offset : offset + len(patch)] = patch
    assert len(patched) == len(data)
    return bytes(patched)


def pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        return image.tobytes()


def texts(data: bytes) -> bytes:
    """A PNG's texts, decompressed."""
    found = [match.start() for match in re.finditer(b"zTXt|iTXt", data)]
    starts = [data.index(b"x\x9c", at) for at in found if b"x\x9c" in data[at : at + 60]]
    return b"".join(zlib.decompressobj().decompress(data[start:]) for start in starts)


def tells_a_place(data: bytes) -> bool:
    """Whether Pillow, or a search for the numbers of the samples, finds a location."""
    with Image.open(io.BytesIO(data)) as image:
        seen = bool(image.getexif().get_ifd(0x8825))
    said = data + texts(data)
    numbers = (DIGITS, SWAPPED, DIGITS.hex().encode(), b"48,8.12", b"11.5678", b"11,34.5", b"+48.1234")
    return seen or any(number in said for number in numbers)


@pytest.mark.parametrize("name", SAMPLES)
def test_T139_the_location_is_removed_and_the_picture_unchanged(name: str) -> None:
    data = SAMPLES[name]()
    assert tells_a_place(data)
    patched = cut(data)
    assert not tells_a_place(patched)
    assert pixels(patched) == pixels(data)
    assert cut(patched) == patched  # nothing is left to remove


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_T139_other_metadata_is_kept(format: str) -> None:
    with Image.open(io.BytesIO(cut(with_exif(format)))) as image:
        found = image.getexif()
        assert found[0x010F] == "SecretCam"
        assert 0x8825 not in found
        assert found.get_ifd(0x8769)[0x9003] == "2026:11:25 18:30:00"


def test_T139_other_xmp_properties_are_kept() -> None:
    patched = cut(SAMPLES["jpeg with XMP"]())
    assert b'xmp:CreatorTool="SecretCam"' in patched
    assert b"</rdf:Description></rdf:RDF>" in patched


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_a_picture_without_location_is_not_changed(format: str) -> None:
    for data in (encoded(corners(), format), encoded(corners(), format, exif=exif(gps=False).tobytes())):
        assert cut(data) == data
        assert cut(data[: len(data) // 2]) == data[: len(data) // 2]


def test_a_wrong_checksum_stays_wrong() -> None:
    data = bytearray(encoded(corners(), "PNG"))
    data[-1] ^= 1
    assert cut(bytes(data)) == data


@pytest.mark.parametrize(
    "spoilt",
    [
        XMP.replace(b"48,8.1234N", b"48,8.1234N" + b"x" * 5000),  # longer than any value
        XMP.replace(b"</exif:GPSLongitude>", b"</exif:Other>"),
    ],
)
def test_T139_parsing_fails_if_the_location_remains_readable(spoilt: bytes) -> None:
    with pytest.raises(ParserFailed):
        cut(encoded(corners(), "JPEG", xmp=spoilt))


def test_T139_parsing_fails_if_pillow_still_reads_a_location(monkeypatch: pytest.MonkeyPatch) -> None:
    data = with_exif("JPEG")
    monkeypatch.setattr(place, "_GPS", 0x7777)
    with pytest.raises(ParserFailed):
        place.parse(data, {})


@pytest.mark.parametrize("seed", range(6))
def test_damaged_exif_gives_patches_or_parser_failed(seed: int) -> None:
    """Each byte of the EXIF is changed once. No other exception is raised."""
    data = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG", exif=exif().tobytes()))
    start = data.index(b"Exif")
    for at in range(start, start + 300):
        spoilt = bytearray(data)
        spoilt[at] = (0, 1, 0x7F, 0xFF, 0x88, 0x25)[seed]
        try:
            values, blobs = place.parse(bytes(spoilt), {})
        except ParserFailed:
            continue
        assert all(
            offset >= 0 and offset + len(blob) <= len(spoilt)
            for offset, blob in zip(values["offsets"], blobs, strict=True)
        )
