"""Draws many previews in one picture, for looking at: ``python -m benchmarks.contact_sheet OUT.png [FILE…]``.

It shows each FILE as the gateway would, then files made here that are easily shown wrongly: rotated, CMYK, 16 bits,
transparent, with a colour profile. A file with text and no picture is shown by the beginning of its text. A chequered
background is transparency; a red cell is a file that could not be read."""

from __future__ import annotations

import io
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageCms, ImageDraw, ImageFont

from core.content_types import mime_for_extension
from core.names import extension
from parsers import ParserFailed
from parsers.reading import Reading, kinds, read
from tests.parsers import samples
from tests.parsers.samples import corners, encoded

CELL, LABEL, COLUMNS = 160, 26, 10
WANT: frozenset[Any] = frozenset({"metadata", "picture", "document", "contents"})


def exchanged_profile() -> bytes:
    """sRGB with red and green exchanged: a reader that ignores it shows the wrong colours."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


def made() -> Iterator[tuple[str, bytes]]:
    turned = Image.Exif()
    turned[0x0112] = 6
    sideways = corners().transpose(Image.Transpose.ROTATE_90)
    yield "turned.jpg", encoded(sideways, "JPEG", exif=turned)
    yield "turned.webp", encoded(sideways, "WEBP", exif=turned)
    yield "cmyk.tif", encoded(corners().convert("CMYK"), "TIFF")
    ramp = b"".join(struct.pack("<H", x * 257) for x in range(256)) * 128
    yield "gray16.png", encoded(Image.frombytes("I;16", (256, 128), ramp), "PNG")
    yield "float.tif", encoded(Image.linear_gradient("L").convert("F"), "TIFF")
    yield "bits.png", encoded(Image.effect_noise((80, 80), 99).convert("1"), "PNG")
    glass = Image.new("RGBA", (300, 200), (0, 0, 255, 0))
    ImageDraw.Draw(glass).ellipse((50, 20, 250, 180), fill=(255, 120, 0, 150))
    yield "alpha.png", encoded(glass, "PNG")
    yield "alpha palette.png", encoded(glass.quantize(), "PNG")
    yield "profile (red is green).png", encoded(corners(), "PNG", icc_profile=exchanged_profile())
    yield "narrow.png", encoded(Image.new("RGB", (6000, 40), "purple"), "PNG")
    yield (
        "first of three.gif",
        encoded(corners(), "GIF", save_all=True, append_images=[Image.new("RGB", (400, 300))] * 2),
    )
    yield "avif.avif", encoded(corners(), "AVIF")
    yield "page turned.pdf", samples.pdf(rotate=90)
    if kinds("image/heic"):
        from pillow_heif import register_heif_opener

        register_heif_opener()
        yield "turned.heic", encoded(sideways, "HEIF", exif=turned.tobytes())
    if kinds("video/mp4"):
        yield "upright.mp4", samples.video()
        yield "turned.mp4", samples.video(turned=90)
        yield "film.webm", samples.video("webm", "libvpx")
        yield "tone.mp3", samples.audio()
        yield "cover.mp3", samples.audio(cover=encoded(corners(300, 300), "JPEG"))
    yield "letter.docx", samples.docx()
    yield "sheet.xlsx", samples.xlsx()
    yield "slides.pptx", samples.pptx()
    yield "text.odt", samples.odf()
    yield "book.epub", samples.epub()
    yield "table.csv", b"name;amount;due\nAda;1,50;2026-11-25\nGrace;2,75;2026-12-01\n"
    yield "data.json", b'{"a": [1, 2.50, {"b": null}], "c": "d"}'
    yield "latin.txt", samples.GERMAN.encode("cp1252")
    yield "archive.tar.gz", samples.tarred({"read me.txt": b"x" * 3000, "../../etc/passwd": b"y"}, "w:gz")


def text_of(reading: Reading) -> str:
    if reading.contents:
        return "\n".join(f"{one['size']:>6} {one['name']}" for one in reading.contents["entries"][:9])
    if reading.document is None:
        return json.dumps(reading.metadata)
    if table := reading.document.get("table"):
        return "\n".join(" | ".join(row) for row in table[:9])
    return str(reading.document["content"])


def _font() -> Any:
    try:
        return ImageFont.truetype("DejaVuSans.ttf", 10)
    except OSError:
        return ImageFont.load_default(11)


def cell(name: str, data: bytes) -> Image.Image:
    image = Image.new("RGB", (CELL, CELL + LABEL), "white")
    draw, font = ImageDraw.Draw(image), _font()
    for x in range(0, CELL, 10):
        for y in range(0, CELL, 10):
            draw.rectangle((x, y, x + 9, y + 9), fill="#f4f4f4" if (x + y) // 10 % 2 else "#dcdcdc")
    about = ""
    try:
        mime = mime_for_extension(extension(name)) or "application/octet-stream"
        reading = read(io.BytesIO(data), mime, name=name, want=WANT, sizes=(CELL - 8,), format="png")
        told = reading.metadata
        about = " ".join(str(told[key]) for key in ("format", "width", "height", "pages", "duration") if key in told)
        if reading.pictures:
            shown = Image.open(io.BytesIO(reading.pictures[0].data)).convert("RGBA")
            image.paste(shown, ((CELL - shown.width) // 2, (CELL - shown.height) // 2), shown)
        else:
            draw.rectangle((3, 3, CELL - 4, CELL - 4), fill="white")
            lines = [
                line[at : at + 26] for line in text_of(reading).split("\n") for at in range(0, max(1, len(line)), 26)
            ]
            draw.multiline_text((7, 6), "\n".join(lines[:11]), fill="black", font=font, spacing=2)
    except ParserFailed as failed:
        draw.rectangle((0, 0, CELL, CELL), fill="#c33")
        draw.text((5, 5), failed.reason[:26], fill="white", font=font)
    draw.text((3, CELL), name[:28], fill="black", font=font)
    draw.text((3, CELL + 12), about[:30], fill="#666", font=font)
    return image


def main() -> None:
    out, paths = sys.argv[1], [Path(one) for one in sys.argv[2:]]
    cells = [cell(path.name, path.read_bytes()) for path in paths]
    cells += [cell(name, data) for name, data in made()]
    rows = -(-len(cells) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (CELL + 6) + 6, rows * (CELL + LABEL + 6) + 6), "#aaa")
    for at, one in enumerate(cells):
        sheet.paste(one, (6 + at % COLUMNS * (CELL + 6), 6 + at // COLUMNS * (CELL + LABEL + 6)))
    sheet.save(out, optimize=True)
    print(f"{len(cells)} previews in {out}, {Path(out).stat().st_size // 1000} KB")


if __name__ == "__main__":
    main()
