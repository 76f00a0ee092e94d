"""How fast files are read, and with how much memory: ``python -m benchmarks.previews [FILES_EACH]``.

Each kind is read repeatedly by one thread, then by two, each time in a child process, as the worker does. The figures are
files per second, the processor time of one child, which other load on the machine changes little, and its largest
resident set. Each measurement ends after 20 s."""

from __future__ import annotations

import io
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from core.content_types import mime_for_extension
from parsers.reading import kinds, read

SIZES = (128, 256, 512, 1024)
SECONDS = 20.0  # at most, of each measurement


def once(data: bytes, extension: str, want: str) -> None:
    mime = mime_for_extension(extension) or ""
    read(io.BytesIO(data), mime, name=f"x.{extension}", want=frozenset(want.split()), sizes=SIZES)  # type: ignore[arg-type]


def rate(data: bytes, extension: str, want: str, workers: int, count: int) -> float:
    """Files per second."""
    until = time.monotonic() + SECONDS

    def work(share: int) -> int:
        done = 0
        while done < share and time.monotonic() < until:
            once(data, extension, want)
            done += 1
        return done

    begun = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        done = sum(pool.map(work, [count // workers] * workers))
    return done / (time.monotonic() - begun)


def processor() -> float:
    """Seconds that all children so far have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def peak(data: bytes, extension: str, want: str) -> float:
    """MiB of the child, measured from a small process: the kernel counts what a child was before it started its program,
    and keeps the largest of all children."""
    command = [sys.executable, "-m", "benchmarks.previews", "--peak", extension, want]
    return float(subprocess.run(command, input=data, capture_output=True, check=True).stdout)


def main() -> None:
    if sys.argv[1:2] == ["--peak"]:
        once(sys.stdin.buffer.read(), *sys.argv[2:])
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
        return
    from benchmarks.preview_files import FILES  # not in the small process

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    print(f"{'':36}{'KB':>8}{'1 worker':>10}{'2 workers':>11}{'CPU, ms':>9}{'MiB':>6}")
    for name, extension, want, make in FILES:
        if not kinds(mime_for_extension(extension) or "", extension):
            print(f"{name:36} not installed")
            continue
        data, before = make(), processor()
        once(data, extension, want)
        used = processor() - before
        one, two = (rate(data, extension, want, workers, count) for workers in (1, 2))
        memory = peak(data, extension, want)
        print(f"{name:36}{len(data) // 1000:8}{one:10.1f}{two:11.1f}{used * 1000:9.0f}{memory:6.0f}", flush=True)


if __name__ == "__main__":
    main()
