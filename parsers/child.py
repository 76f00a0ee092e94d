"""The child's side of parsers/run.py: give up every power, then parse.

Before the first untrusted byte is read, the process limits its memory, CPU time, files and descriptors, and locks
itself in (parsers/locks.py), so that a decoder with a hole in it can neither fetch the gateway's credentials nor touch
what belongs to it. Where a lock is missing it parses only if it may (not ``strict``): the resource limits and the empty
environment hold everywhere.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import resource
import struct
import sys
from typing import Any

from parsers import ParserFailed, Unsupported, locks
from parsers.ranged import RangedFile


def main() -> None:
    """Our parent's words come first on standard input: a length, then JSON; the file after them."""
    answer = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no part of the answer
    (length,) = struct.unpack(">I", sys.stdin.buffer.read(4))
    told = json.loads(sys.stdin.buffer.read(length))
    locks.die_with(told["parent"])
    _limit(told["limits"])
    module = importlib.import_module(f"parsers.{told['parser']}")  # before the locks: imports read many files
    missing = locks.lock(threads=getattr(module, "THREADS", False))
    if missing and told["strict"]:
        answered: tuple[dict[str, Any], list[bytes]] = {"missing": missing}, []
    else:
        answered = _parse(module, told["arguments"], _input(module, told["limits"], answer))
    said, blobs = answered
    body = json.dumps({**said, "blobs": [len(blob) for blob in blobs]}, allow_nan=False, ensure_ascii=False).encode(
        errors="surrogatepass"
    )
    with os.fdopen(answer, "wb") as out:
        out.write(struct.pack(">I", len(body)) + body)
        out.writelines(blobs)


def _input(module: Any, limits: dict[str, int], answer: int) -> Any:
    """The file's bytes; for a parser that ``SEEKS`` a file, which may be the parent's."""
    if size := limits.get("ranged"):
        file = RangedFile(size, limits["max_input"], sys.stdin.buffer, answer)
        return io.BufferedReader(file, 64 * 1024)
    data = sys.stdin.buffer.read()
    return io.BytesIO(data) if getattr(module, "SEEKS", False) else data


def _parse(module: Any, arguments: dict[str, Any], given: Any) -> tuple[dict[str, Any], list[bytes]]:
    # Only our own words go into the answer: a library's message can hold addresses and paths (THREATS T35).
    try:
        values, blobs = module.parse(given, arguments)
    except Unsupported as error:
        return {"unsupported": error.reason}, []
    except ParserFailed as error:
        return {"failed": error.reason}, []
    except MemoryError:
        return {"failed": "The file needs too much memory"}, []
    except Exception as error:
        return {"failed": f"The file can't be read ({type(error).__name__})"}, []
    return {"values": values}, blobs


def _limit(limits: dict[str, int]) -> None:
    for name, soft, hard in (
        ("CORE", 0, 0),
        ("AS", limits["memory"], limits["memory"]),
        ("CPU", limits["cpu_seconds"], limits["cpu_seconds"] + 1),
        ("FSIZE", limits["file_size"], limits["file_size"]),
        ("NOFILE", limits["open_files"], limits["open_files"]),
    ):
        with contextlib.suppress(ValueError, OSError, AttributeError):  # macOS refuses some of them
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (soft, hard))
