"""Fuzz what clients send:  python tests/fuzz/run.py [SECONDS [TARGET…]]

Each target of targets.py runs for SECONDS (60) in a process of its own. With atheris (``pip install atheris``) the runs are
guided by coverage, without it hypothesis draws the inputs. A crash prints the input and fails the run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
try:
    import atheris
except ImportError:
    atheris = None


def guided(name: str, seconds: int) -> None:
    with atheris.instrument_imports(include=["api", "core", "parsers", "services", "multipart", "http_sf"]):
        from tests.fuzz import targets

    target, examples = next(item for item in targets.TARGETS.items() if item[0].__name__ == name)
    with tempfile.TemporaryDirectory() as corpus:
        for number, example in enumerate(examples):
            Path(corpus, str(number)).write_bytes(example)
        limits = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=10", "-rss_limit_mb=2048", "-verbosity=0"]
        warnings.simplefilter("ignore")
        atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", corpus], target)
        atheris.Fuzz()


def drawn(name: str, seconds: int) -> None:
    from hypothesis import given, settings
    from hypothesis import strategies as st

    from tests.fuzz import targets

    target, examples = next(item for item in targets.TARGETS.items() if item[0].__name__ == name)
    end, count = time.monotonic() + seconds, 0
    pieces = st.lists(st.binary(max_size=64) | st.sampled_from(examples), max_size=6).map(b"".join)
    while time.monotonic() < end:
        settings(max_examples=1000, deadline=None, database=None)(given(pieces)(target))()
        count += 1000
    print(f"{name}: {count} inputs")


def main(arguments: list[str]) -> int:
    seconds, *names = arguments or ["60"]
    from tests.fuzz import targets

    failed = []
    for name in names or [target.__name__ for target in targets.TARGETS]:
        print(f"== {name}", flush=True)
        child = subprocess.run([sys.executable, __file__, "--one", name, seconds], check=False)
        failed += [name] if child.returncode else []
    print(f"failed: {', '.join(failed) or 'none'}")
    return bool(failed)


if __name__ == "__main__":
    if sys.argv[1:2] != ["--one"]:
        sys.exit(main(sys.argv[1:]))
    os.chdir(tempfile.gettempdir())  # where atheris leaves the input of a crash
    (guided if atheris else drawn)(sys.argv[2], int(sys.argv[3]))
