from __future__ import annotations

import gzip
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
        ('width="100%" height="100%"', (300, 150), (100, 50)),
        ('width="auto" height="auto" viewBox="0,0,30,10"', (30, 10), (100, 33)),
        ('width="2em" height="1REM"', (32, 16), (100, 50)),
    ],
)
def test_T92_the_requested_size_is_drawn(root: str, size: tuple[int, int], shown: tuple[int, int]) -> None:
    reading = show(f'<svg xmlns="http://www.w3.org/2000/svg" {root}><rect width="1e6" height="1e6"/></svg>'.encode())
    assert (reading.metadata["width"], reading.metadata["height"]) == size
    assert (reading.pictures[0].width, reading.pictures[0].height) == shown


RECTANGLE = '<rect width="100" height="100" fill="#f00"/>'
TITLED = svg(f"<title>Tïtle</title>{RECTANGLE}").decode()
ILLUSTRATOR = """<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd" [
  <!ENTITY ns_svg "http://www.w3.org/2000/svg">
  <!ENTITY ns_ai "http://ns.adobe.com/AdobeIllustrator/10.0/">
  <!ENTITY st0 "fill:#f00">
]>
<svg xmlns="&ns_svg;" xmlns:i="&ns_ai;" width="100" height="100"><title>Tïtle</title>
<switch><foreignObject requiredExtensions="&ns_ai;"/><g i:extraneous="self"><rect style="&st0;" width="100" height="100"/></g>
</switch></svg>"""


@pytest.mark.parametrize(
    "data",
    [
        ILLUSTRATOR.encode(),
        gzip.compress(TITLED.encode()),
        b"\n\n" + TITLED.encode(),
        TITLED.encode("utf-8-sig"),
        TITLED.encode("utf-16"),
        f'<?xml version="1.0" encoding="utf-16"?>{TITLED}'.encode("utf-16-be"),
        f'<?xml version="1.0" encoding="ISO-8859-1"?>{TITLED}'.encode("latin-1"),
        f'<!DOCTYPE svg SYSTEM "http://127.0.0.1:9/svg.dtd">{TITLED}'.encode(),
        TITLED.removesuffix("</svg>").encode() + b"<rec",
        gzip.compress(TITLED.replace("</svg>", "<text>&nbsp;</text></svg>").encode())[:-9],
        TITLED.replace("<rect", '<style>@import "http://127.0.0.1:9/x.css"; .a { fill: red }</style><rect').encode(),
    ],
)
def test_drawings_as_programs_write_them(data: bytes) -> None:
    reading = show(data)
    assert reading.metadata["title"] == "Tïtle"
    assert Image.open(io.BytesIO(reading.pictures[0].data)).convert("RGB").getpixel((50, 50)) == (255, 0, 0)


@pytest.mark.parametrize(
    "entities",
    [
        '<!ENTITY e SYSTEM "file:///etc/passwd">',
        '<!ENTITY e PUBLIC "x" "file:///etc/passwd">',
        "<!ENTITY % p \"<!ENTITY e 'x'>\"> %p;",
        '<!ENTITY a "x"><!ENTITY e "&a;&a;">',
        '<!ENTITY a "x"><!ENTITY e "&#38;a;">',
        f'<!ENTITY a "{"x" * 200}">',
    ],
)
def test_T91_entities_that_are_not_plain_or_too_many_are_refused(entities: str) -> None:
    text = "<desc>" + "&a;" * 50_000 + "</desc>" if entities.endswith('xx">') else ""
    with pytest.raises(ParserFailed, match="entities"):
        show(f"<!DOCTYPE svg [{entities}]>".encode() + svg(text))


def test_T91_a_drawing_unpacks_to_a_limit() -> None:
    with pytest.raises(ParserFailed, match="too large"):
        show(gzip.compress(b"<svg>" + bytes(20_000_000)))
    with pytest.raises(ParserFailed):
        show(b"\x1f\x8bno deflate")


def test_other_xml_is_unsupported() -> None:
    with pytest.raises(Unsupported):
        show(b"<html/>")
    with pytest.raises(ParserFailed):
        show(b"<svg")
    with pytest.raises(ParserFailed):
        show(svg("", 0))
