"""What benchmarks/previews.py measures: a file of each kind, made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.parsers import samples

OFFICE = "application/vnd.openxmlformats-officedocument."
PROSE = (samples.GERMAN + "\n") * 2_000


def photo(width: int, height: int) -> Image.Image:
    return (
        Image.effect_mandelbrot((width // 4, height // 4), (-2, -1.5, 1, 1.5), 60)
        .resize((width, height))
        .convert("RGB")
    )


def docx() -> bytes:
    return samples.docx("".join(f"<w:p><w:r><w:t>{line}</w:t></w:r></w:p>" for line in PROSE.splitlines()))


def xlsx() -> bytes:
    cells = "".join(f"<c><v>{n}.5</v></c>" for n in range(10))
    return samples.xlsx("<worksheet>" + f"<row>{cells}</row>" * 5_000 + "</worksheet>")


def heic(width: int, height: int) -> bytes:
    from pillow_heif import register_heif_opener

    register_heif_opener()
    return samples.encoded(photo(width, height), "HEIF", quality=60)


# name, MIME type, extension, what is wanted, how to make one
FILES: list[tuple[str, str, str, set[str], Callable[[], bytes]]] = [
    (
        "JPEG, 12 megapixels, four sizes",
        "image/jpeg",
        "jpg",
        {"metadata", "picture"},
        lambda: samples.encoded(photo(4000, 3000), "JPEG", quality=88),
    ),
    (
        "JPEG, 50 megapixels, four sizes",
        "image/jpeg",
        "jpg",
        {"metadata", "picture"},
        lambda: samples.encoded(photo(8660, 5774), "JPEG", quality=80),
    ),
    (
        "PNG, 2 megapixels, four sizes",
        "image/png",
        "png",
        {"metadata", "picture"},
        lambda: samples.encoded(photo(1920, 1080), "PNG"),
    ),
    (
        "WebP, 2 megapixels, four sizes",
        "image/webp",
        "webp",
        {"metadata", "picture"},
        lambda: samples.encoded(photo(1920, 1080), "WEBP"),
    ),
    (
        "AVIF, 2 megapixels, four sizes",
        "image/avif",
        "avif",
        {"metadata", "picture"},
        lambda: samples.encoded(photo(1920, 1080), "AVIF", speed=10),
    ),
    (
        "HEIC, 12 megapixels, four sizes",
        "image/heic",
        "heic",
        {"metadata", "picture"},
        lambda: heic(4000, 3000),
    ),
    (
        "SVG, four sizes",
        "image/svg+xml",
        "svg",
        {"metadata", "picture"},
        lambda: (
            b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 99 99">'
            + b'<path d="M1 1L98 50L1 98"/>' * 99
            + b"</svg>"
        ),
    ),
    ("PDF, first page, four sizes", "application/pdf", "pdf", {"metadata", "picture"}, lambda: samples.pdf()),
    (
        "MP4, poster, four sizes",
        "video/mp4",
        "mp4",
        {"metadata", "picture"},
        lambda: samples.video(width=1280, height=720),
    ),
    (
        "MP3, waveform of a minute",
        "audio/mpeg",
        "mp3",
        {"metadata", "picture"},
        lambda: samples.audio(seconds=60),
    ),
    (
        "PDF, text of 50 pages",
        "application/pdf",
        "pdf",
        {"text"},
        lambda: samples.pdf([f"page {n} of many, with some words on it" for n in range(50)]),
    ),
    ("docx, text of 200 KB", OFFICE + "wordprocessingml.document", "docx", {"metadata", "text"}, docx),
    ("xlsx, 50,000 cells", OFFICE + "spreadsheetml.sheet", "xlsx", {"metadata", "text"}, xlsx),
    ("plain text of 200 KB", "text/plain", "txt", {"text"}, PROSE.encode),
    (
        "Python of 60 KB, coloured",
        "text/x-python",
        "py",
        {"text", "document"},
        lambda: Path(__file__).read_bytes() * 10,
    ),
    (
        "ZIP of 1,000 entries, listed",
        "application/zip",
        "zip",
        {"contents"},
        lambda: samples.zipped({f"folder/{n}.txt": b"x" * 99 for n in range(1_000)}),
    ),
]
