"""What benchmarks/previews.py measures: a file of each kind, made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.parsers import samples

PROSE = (samples.GERMAN + "\n") * 2_000


def photo(width: int, height: int, format: str, **options: int) -> bytes:
    fractal = Image.effect_mandelbrot((width // 4, height // 4), (-2, -1.5, 1, 1.5), 60)
    return samples.encoded(fractal.resize((width, height)).convert("RGB"), format, **options)


def docx() -> bytes:
    return samples.docx("".join(f"<w:p><w:r><w:t>{line}</w:t></w:r></w:p>" for line in PROSE.splitlines()))


def xlsx() -> bytes:
    cells = "".join(f"<c><v>{n}.5</v></c>" for n in range(10))
    return samples.xlsx("<worksheet>" + f"<row>{cells}</row>" * 5_000 + "</worksheet>")


def heic() -> bytes:
    from pillow_heif import register_heif_opener

    register_heif_opener()
    return photo(4000, 3000, "HEIF", quality=60)


def svg() -> bytes:
    paths = '<path d="M1 1L98 50L1 98"/>' * 99
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 99 99">{paths}</svg>'.encode()


# What it is, its extension, what is read from it, and how to make it. Each picture is made in four sizes.
FILES: list[tuple[str, str, str, Callable[[], bytes]]] = [
    ("JPEG, 12 megapixels", "jpg", "metadata picture", lambda: photo(4000, 3000, "JPEG", quality=88)),
    ("JPEG, 50 megapixels", "jpg", "metadata picture", lambda: photo(8660, 5774, "JPEG", quality=80)),
    ("PNG, 2 megapixels", "png", "metadata picture", lambda: photo(1920, 1080, "PNG")),
    ("WebP, 2 megapixels", "webp", "metadata picture", lambda: photo(1920, 1080, "WEBP")),
    ("AVIF, 2 megapixels", "avif", "metadata picture", lambda: photo(1920, 1080, "AVIF", speed=10)),
    ("HEIC, 12 megapixels", "heic", "metadata picture", heic),
    ("SVG", "svg", "metadata picture", svg),
    ("PDF, first page", "pdf", "metadata picture", samples.pdf),
    ("MP4, poster", "mp4", "metadata picture", lambda: samples.video(width=1280, height=720)),
    ("MP3, waveform of a minute", "mp3", "metadata picture", lambda: samples.audio(seconds=60)),
    (
        "PDF, text of 50 pages",
        "pdf",
        "text",
        lambda: samples.pdf([f"page {n} of many, with some words on it" for n in range(50)]),
    ),
    ("docx, text of 200 KB", "docx", "metadata text", docx),
    ("xlsx, 50,000 cells", "xlsx", "metadata text", xlsx),
    ("plain text of 200 KB", "txt", "text", PROSE.encode),
    ("Python of 60 KB, highlighted", "py", "text document", lambda: (Path(__file__).read_bytes() * 99)[:60_000]),
    (
        "ZIP of 1,000 entries, listed",
        "zip",
        "contents",
        lambda: samples.zipped({f"folder/{n}.txt": b"x" * 99 for n in range(1_000)}),
    ),
]
