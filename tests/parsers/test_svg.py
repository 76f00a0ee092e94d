from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from parsers import ParserFailed, Unsupported
from parsers.reading import Reading, read
from tests.parsers.hostile import svg
from tests.parsers.samples import RED, encoded


def show(data: bytes, size: int = 100) -> Reading:
    want: frozenset[Any] = frozenset({"metadata", "picture"})
    return read(io.BytesIO(data), "image/svg+xml", name="x.svg", want=want, sizes=(size,), format="png")


def drawn(data: bytes, size: int = 100) -> Image.Image:
    return Image.open(io.BytesIO(show(data, size).pictures[0].data)).convert("RGBA")


def picture_file(folder: Path) -> str:
    path = folder / "secret.png"
    path.write_bytes(encoded(Image.new("RGB", (10, 10), RED), "PNG"))
    return str(path)


def data_address(image: bytes, mime: str) -> str:
    import base64

    return f"data:{mime};base64,{base64.b64encode(image).decode()}"


def test_a_drawing() -> None:
    data = svg('<title>A drawing</title><rect width="50" height="100" fill="#f00"/>', 200)
    reading = show(data)
    assert reading.metadata.pop("placeholder")
    assert reading.metadata == {"format": "SVG", "width": 200, "height": 200, "title": "A drawing"}
    image = drawn(data)
    assert (image.getpixel((10, 10)), image.getpixel((90, 90))) == ((255, 0, 0, 255), (0, 0, 0, 0))


def test_text_is_drawn_if_its_font_is_missing() -> None:
    image = drawn(svg('<text x="5" y="60" font-size="40" font-family="No Such Font">Hm</text>'))
    assert image.getchannel("A").getextrema()[1] > 200  # type: ignore[operator]


@pytest.mark.parametrize("link", ["href", "xlink:href"])
@pytest.mark.parametrize("prefix", ["", "file://", "./../../../../../../../.."])
def test_T91_local_files_are_not_drawn(tmp_path: Path, prefix: str, link: str) -> None:
    """Neither directly nor through styles or an embedded drawing."""
    path = prefix + picture_file(tmp_path)
    image = f'<image {link}="{path}" width="100" height="100"/>'
    inner = data_address(svg(image), "image/svg+xml")
    for content in (
        image,
        f'<image {link}="{inner}" width="100" height="100"/>',
        f'<filter id="f"><feImage {link}="{path}"/></filter><rect width="90" height="90" filter="url(#f)"/>',
        f'<style>image {{ href: url({path}) }} @import "{path}";</style><image width="100" height="100"/>',
        f'<use {link}="{path}#x"/>',
    ):
        shown = drawn(svg(content))
        pixels: Any = shown.get_flattened_data()
        assert not any(pixel[0] > 100 and pixel[3] > 0 for pixel in pixels)


def test_embedded_pictures_are_drawn() -> None:
    inner = data_address(encoded(Image.new("RGB", (10, 10), RED), "PNG"), "image/png")
    image: Any = drawn(svg(f'<image href="{inner}" width="100" height="100"/>')).getpixel((50, 50))
    assert image == (*RED, 255)
    assert drawn(
        svg('<g id="a"><rect width="9" height="9" fill="#00f"/></g><use xlink:href="#a" x="50" y="50"/>')
    ).getpixel((55, 55)) == (0, 0, 255, 255)


@pytest.mark.parametrize(
    ("root", "size", "shown"),
    [
        ('viewBox="0 0 30 10"', (30, 10), (100, 33)),
        ('width="1in" height="72pt"', (96, 96), (100, 100)),
        ('width="50%" height="50%" viewBox="0 0 10 40"', (10, 40), (25, 100)),
        ('width="200" viewBox="0 0 10 5"', (200, 100), (100, 50)),
        ('width="100000" height="1"', (100_000, 1), (100, 1)),
        ("", (300, 150), (100, 50)),
    ],
)
def test_T92_the_requested_size_is_drawn(root: str, size: tuple[int, int], shown: tuple[int, int]) -> None:
    reading = show(f'<svg xmlns="http://www.w3.org/2000/svg" {root}><rect width="1e6" height="1e6"/></svg>'.encode())
    assert (reading.metadata["width"], reading.metadata["height"]) == size
    assert (reading.pictures[0].width, reading.pictures[0].height) == shown


def test_other_xml_is_unsupported() -> None:
    with pytest.raises(Unsupported):
        show(b"<html/>")
    with pytest.raises(ParserFailed):
        show(b"<svg")
    with pytest.raises(ParserFailed):
        show(svg("", 0))
