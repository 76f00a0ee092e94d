"""The parent's side: run one parser on one file in a child process, with limits (T91).

The child gets the file through a pipe, so a hostile file learns no path, and answers through another pipe, where every
length is checked. It has an empty environment, a temporary folder, and a process group that is killed at the wall limit.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Protocol, cast, runtime_checkable

from parsers import ParserFailed, Unsupported, WeakSandbox
from parsers.ranged import MAX_LENGTH, MAX_REQUESTS, RANGE, RANGE_REQUEST

MIB = 1024 * 1024
_ROOT = str(Path(__file__).resolve().parent.parent)
_START = "import sys; sys.path.insert(0, sys.argv.pop()); from parsers.child import main; main()"
_MAX_JSON = 8 * MIB  # bytes


class Source(Protocol):
    """A file's bytes in order: an open file, an object in the bucket, BytesIO."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; b"" at the end."""
        ...


@runtime_checkable
class RangedSource(Source, Protocol):
    """A source that can also be read anywhere, as large videos and archives need."""

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        ...

    def read_at(self, offset: int, size: int, /) -> bytes:
        """Exactly ``size`` bytes within the file, at most 8 MiB."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What one child may use, and how much of the file it gets."""

    wall_seconds: float = 20  # includes reading the source
    cpu_seconds: int = 10
    memory: int = 1024 * MIB  # bytes of address space
    file_size: int = 64 * MIB  # bytes of any file it writes
    open_files: int = 64
    max_input: int = 256 * MIB  # bytes of the file; the child holds them in memory
    max_output: int = 32 * MIB  # bytes of all blobs
    head: int | None = None  # the child gets this many bytes from the beginning; None: all
    ranged_above: int | None = None  # larger RangedSources (bytes) are read where the parser asks


@dataclass(frozen=True, slots=True)
class Answer:
    """What a parser returned: JSON values and blobs."""

    values: dict[str, Any]
    blobs: list[bytes]


def run(
    parser: str, source: Source, arguments: dict[str, Any], *, limits: Limits | None = None, strict: bool = False
) -> Answer:
    """Run ``parsers.<parser>.parse`` on the source.

    Raises Unsupported or ParserFailed, however the child ends. If ``strict``, raises WeakSandbox, with nothing parsed,
    when the child lacks a lock. Errors of the source pass through."""
    limits = limits or Limits()
    ranged = None
    if limits.ranged_above is not None and isinstance(source, RangedSource) and source.size > limits.ranged_above:
        ranged = source
    request = {
        "parser": parser,
        "arguments": arguments,
        "limits": asdict(limits),
        "ranged_size": ranged.size if ranged else 0,
        "parent": os.getpid(),
        "strict": strict,
    }
    folder = tempfile.mkdtemp(prefix="parser-")
    try:
        with _Child(folder, limits) as child:
            child.send(json.dumps(request).encode())
            if ranged is None:
                child.send_file(source)
            return child.answer(ranged)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def missing_locks() -> tuple[str, ...]:
    """The locks of parsers/locks.py that this machine lacks. Raises ParserFailed if no child can be started."""
    try:
        run("locks", BytesIO(), {}, strict=True)
    except WeakSandbox as weak:
        return weak.missing
    return ()


class _Child:
    """A parser's process and its pipes. It is killed with its process group at the wall limit, and on exit."""

    def __init__(self, folder: str, limits: Limits):
        self._limits = limits
        self._process = subprocess.Popen(  # noqa: S603 our own interpreter, no shell
            [sys.executable, "-I", "-c", _START, _ROOT],  # all users can read these
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            start_new_session=True,
            # One malloc arena: otherwise each thread of a library reserves 64 MiB of address space.
            env={"TMPDIR": folder, "HOME": folder, "LANG": "C.UTF-8"}
            | {"MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        self._input, self._output = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        self._timed_out = False
        self._requests = self._sent = 0  # ranges, and their bytes
        self._timer = threading.Timer(limits.wall_seconds, self._time_out)
        self._timer.daemon = True
        self._timer.start()

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()  # a late kill would hit whoever gets the process id after it is reaped below
        self._kill()
        for pipe in (self._input, self._output):
            with suppress(OSError):
                pipe.close()
        self._process.wait()

    def _time_out(self) -> None:
        self._timed_out = True
        self._kill()

    def _kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # macOS refuses if only zombies are left
            os.killpg(self._process.pid, signal.SIGKILL)

    def send(self, data: bytes) -> None:
        """Send the length and the data. The child may have died; reading its answer will show that."""
        with suppress(BrokenPipeError):
            self._input.write(struct.pack(">I", len(data)) + data)
            self._input.flush()

    def send_file(self, source: Source) -> None:
        """Send the source, or its head. The child answers only after the last byte, so neither side waits forever."""
        sent, head = 0, self._limits.head
        while chunk := source.read(MIB if head is None else min(MIB, head - sent)):
            sent += len(chunk)
            if sent > self._limits.max_input:
                raise ParserFailed(f"The file is larger than {self._limits.max_input // MIB} MiB")
            try:
                self._input.write(chunk)
            except BrokenPipeError:
                return
            if sent == head:
                break
        with suppress(BrokenPipeError):
            self._input.close()

    def answer(self, source: RangedSource | None) -> Answer:
        """Send the ranges that the child asks for, then read its answer: its last word, or what it had told before it failed."""
        so_far: tuple[dict[str, Any], str] | None = None  # values, and the part that comes next
        try:
            while "so_far" in (answer := self._message(source)):
                so_far = dict(answer["so_far"]), str(answer["part"])
            if "missing" in answer:
                raise WeakSandbox([str(lock) for lock in answer["missing"]])
            if "unsupported" in answer:
                raise Unsupported(str(answer["unsupported"]))
            if "failed" in answer:
                raise ParserFailed(str(answer["failed"]))
            values, sizes = answer["values"], [int(size) for size in answer["blobs"]]
            if any(size < 0 for size in sizes) or sum(sizes) > self._limits.max_output:
                raise ParserFailed("The parser's answer is too large")
            return Answer(values, [self._read(size) for size in sizes])
        except ParserFailed as failed:
            if so_far is None:
                raise
            values, part = so_far
            return Answer(values | {"failed": {part: failed.reason}}, [])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ParserFailed("The parser's answer can't be read") from error

    def _message(self, source: RangedSource | None) -> dict[str, Any]:
        """The child's next message, after the ranges that it asks for."""
        while (length := self._read(4)) == RANGE_REQUEST and source is not None:
            offset, size = RANGE.unpack(self._read(RANGE.size))
            self._requests, self._sent = self._requests + 1, self._sent + size
            inside = 0 < size <= MAX_LENGTH and offset + size <= source.size
            if not inside or self._requests > MAX_REQUESTS or self._sent > self._limits.max_input:
                raise ParserFailed("The parser asked for too much of the file")
            self.send(source.read_at(offset, size))
        if (size := int.from_bytes(length)) > _MAX_JSON:
            raise ParserFailed("The parser's answer is too large")
        message: dict[str, Any] = json.loads(self._read(size))
        return message

    def _read(self, length: int) -> bytes:
        data = self._output.read(length)
        if len(data) < length:
            raise ParserFailed(self._cause_of_death())
        return data

    def _cause_of_death(self) -> str:
        """Why there is no answer. The process is not reaped, so that its group can still be killed."""
        ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT) if hasattr(os, "waitid") else None
        if self._timed_out:
            return f"Reading the file took longer than {self._limits.wall_seconds:g} seconds"
        if ended is None or ended.si_code not in (os.CLD_KILLED, os.CLD_DUMPED):
            return "The parser ended unexpectedly"
        if ended.si_status in (signal.SIGXCPU, signal.SIGKILL):
            return "Reading the file took too much processor time or memory"
        return "The parser crashed"
