"""How fast files are read, and with how much memory: ``python benchmarks/previews.py [FILES_EACH]``.

Each kind is read over and over by one thread, then by two, each read in a child process of its own, as the worker does it;
the figure is files per second. Memory is the largest resident set of any child of that kind. Takes about two minutes."""

from __future__ import annotations

import io
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from PIL import Image

from parsers.run import kinds, read
from tests.parsers import samples

OFFICE = "application/vnd.openxmlformats-officedocument."
SIZES = (128, 256, 512, 1024)
SECONDS = 20.0  # at most, of each measurement
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


# name, MIME type, extension, what is wanted, how to make one
FILES: list[tuple[str, str, str, set[str], Callable[[], bytes]]] = [
    ("JPEG, 12 megapixels, four sizes", "image/jpeg", "jpg", {"metadata", "picture"},
     lambda: samples.encoded(photo(4000, 3000), "JPEG", quality=88)),
    ("JPEG, 50 megapixels, four sizes", "image/jpeg", "jpg", {"metadata", "picture"},
     lambda: samples.encoded(photo(8660, 5774), "JPEG", quality=80)),
    ("PNG, 2 megapixels, four sizes", "image/png", "png", {"metadata", "picture"},
     lambda: samples.encoded(photo(1920, 1080), "PNG")),
    ("WebP, 2 megapixels, four sizes", "image/webp", "webp", {"metadata", "picture"},
     lambda: samples.encoded(photo(1920, 1080), "WEBP")),
    ("AVIF, 2 megapixels, four sizes", "image/avif", "avif", {"metadata", "picture"},
     lambda: samples.encoded(photo(1920, 1080), "AVIF", speed=10)),
    ("HEIC, 12 megapixels, four sizes", "image/heic", "heic", {"metadata", "picture"}, lambda: heic(4000, 3000)),
    ("SVG, four sizes", "image/svg+xml", "svg", {"metadata", "picture"},
     lambda: b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 99 99">' + b'<path d="M1 1L98 50L1 98"/>' * 99 + b"</svg>"),
    ("PDF, first page, four sizes", "application/pdf", "pdf", {"metadata", "picture"}, lambda: samples.pdf()),
    ("MP4, poster, four sizes", "video/mp4", "mp4", {"metadata", "picture"},
     lambda: samples.video(width=1280, height=720)),
    ("MP3, waveform of a minute", "audio/mpeg", "mp3", {"metadata", "picture"}, lambda: samples.audio(seconds=60)),
    ("PDF, text of 50 pages", "application/pdf", "pdf", {"text"},
     lambda: samples.pdf([f"page {n} of many, with some words on it" for n in range(50)])),
    ("docx, text of 200 KB", OFFICE + "wordprocessingml.document", "docx", {"metadata", "text"}, docx),
    ("xlsx, 50,000 cells", OFFICE + "spreadsheetml.sheet", "xlsx", {"metadata", "text"}, xlsx),
    ("plain text of 200 KB", "text/plain", "txt", {"text"}, PROSE.encode),
    ("Python of 60 KB, coloured", "text/x-python", "py", {"text", "document"}, lambda: Path(__file__).read_bytes() * 10),
    ("ZIP of 1,000 entries, listed", "application/zip", "zip", {"contents"},
     lambda: samples.zipped({f"folder/{n}.txt": b"x" * 99 for n in range(1_000)})),
]  # fmt: skip


def heic(width: int, height: int) -> bytes:
    from pillow_heif import register_heif_opener

    register_heif_opener()
    return samples.encoded(photo(width, height), "HEIF", quality=60)


def once(data: bytes, mime: str, extension: str, want: set[str]) -> None:
    read(io.BytesIO(data), mime, name=f"x.{extension}", want=frozenset(want), sizes=SIZES)  # type: ignore[arg-type]


def rate(data: bytes, mime: str, extension: str, want: set[str], workers: int, count: int) -> float:
    """Files per second."""
    until = time.monotonic() + SECONDS

    def work(share: int) -> int:
        done = 0
        while done < share and time.monotonic() < until:
            once(data, mime, extension, want)
            done += 1
        return done

    begun = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        done = sum(pool.map(work, [count // workers] * workers))
    return done / (time.monotonic() - begun)


def peak(data: bytes, mime: str, extension: str, want: set[str]) -> float:
    """MiB of the child; in a process of its own, since the kernel keeps the maximum of all children that there were."""
    pipe, end = get_context("fork").Pipe()
    process = get_context("fork").Process(target=_peak, args=(end, data, mime, extension, want))
    process.start()
    answer = float(pipe.recv())
    process.join()
    return answer


def _peak(end: object, data: bytes, mime: str, extension: str, want: set[str]) -> None:
    once(data, mime, extension, want)
    end.send(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)  # type: ignore[attr-defined]


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    print(f"{'':36}{'file, KB':>10}{'1 worker':>10}{'2 workers':>11}{'memory, MiB':>13}")
    for name, mime, extension, want, make in FILES:
        if not kinds(mime, extension):
            print(f"{name:36} not installed")
            continue
        data = make()
        one, two = (rate(data, mime, extension, want, workers, count) for workers in (1, 2))
        print(
            f"{name:36}{len(data) // 1000:10}{one:10.1f}{two:11.1f}{peak(data, mime, extension, want):13.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
