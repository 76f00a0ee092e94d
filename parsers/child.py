"""The child's side of parsers/run.py: give up every power, then parse.

Before it reads the first untrusted byte, the process limits its memory, CPU time, files and descriptors, and locks itself
in (parsers/locks.py), so that a decoder taken over by a hostile file can't reach the gateway's credentials or data. The
resource limits and the empty environment hold everywhere; if a lock is missing, a ``strict`` request is refused.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import resource
import struct
import sys
from collections.abc import Generator, Sequence
from contextlib import suppress
from typing import Any

from parsers import ParserFailed, Unsupported, locks
from parsers.ranged import RangedFile


def main() -> None:
    """Read the request (its length, then JSON), then the file, from standard input; write the answer."""
    output = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is not part of the answer
    request = json.loads(sys.stdin.buffer.read(int.from_bytes(sys.stdin.buffer.read(4))))
    locks.die_with(request["parent"])
    _limit(request["limits"])
    module = importlib.import_module(f"parsers.{request['parser']}")  # before the locks: imports read many files
    missing = locks.lock(threads=getattr(module, "THREADS", False))
    blobs: list[bytes] = []
    if missing and request["strict"]:
        answer: dict[str, Any] = {"missing": missing}
    else:
        answer, blobs = _parse(module, request["arguments"], _file(module, request, output), output)
    _send(output, answer | {"blobs": [len(blob) for blob in blobs]}, blobs)


def _send(output: int, answer: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
    body = json.dumps(answer, allow_nan=False, ensure_ascii=False).encode(errors="surrogatepass")
    with os.fdopen(output, "wb", closefd=False) as out:
        out.write(struct.pack(">I", len(body)) + body)
        out.writelines(blobs)


def _file(module: Any, request: dict[str, Any], output: int) -> Any:
    """The file's bytes; a file object for a parser that ``SEEKS``."""
    if size := request["ranged_size"]:
        file = RangedFile(size, request["limits"]["max_input"], sys.stdin.buffer, output)
        return io.BufferedReader(file, 64 * 1024)
    data = sys.stdin.buffer.read()
    return io.BytesIO(data) if getattr(module, "SEEKS", False) else data


def _parse(module: Any, arguments: dict[str, Any], file: Any, output: int) -> tuple[dict[str, Any], list[bytes]]:
    # A library's message can hold addresses and paths (T35): the answer has only our own texts.
    try:
        result = module.parse(file, arguments)
        while isinstance(result, Generator):
            try:
                values, part = next(result)
                _send(output, {"so_far": values, "part": part})
            except StopIteration as end:
                result = end.value
        values, blobs = result
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
        with suppress(ValueError, OSError, AttributeError):  # macOS refuses some of them
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (soft, hard))
