"""The parent's side: start a child for one file, feed it, limit it, read its answer (THREATS T91).

The bytes go to the child through a pipe, so a hostile file never has a path of ours, and the answer comes back
through another with every length checked against a cap. The child has an empty environment, a folder of its own
that is removed afterwards, and a process group of its own that is killed at the wall limit. However it ends, the
caller sees an answer, ``Unsupported`` or ``ParserFailed``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

from core import previewable
from core.content_types import canonical
from core.names import extension as extension_of
from core.previewable import Family, Kind
from parsers import ParserFailed, Unsupported, WeakSandbox
from parsers.plain_text import MAX_BYTES
from parsers.ranged import ASK, MAX_ASKS, MAX_LENGTH, SPAN

__all__ = [
    "Answer",
    "Limits",
    "ParserFailed",
    "RangedSource",
    "Reading",
    "Thumbnail",
    "Unsupported",
    "WeakSandbox",
    "kinds",
    "missing_locks",
    "read",
    "run",
]

MIB = 1024 * 1024
_ROOT = str(Path(__file__).resolve().parent.parent)
_START = "import sys; sys.path.insert(0, sys.argv.pop()); from parsers.child import main; main()"
_MAX_VALUES = 8 * MIB  # bytes of JSON
_CHILDS = ("cpu_seconds", "memory", "file_size", "open_files", "max_input")


class Source(Protocol):
    """``read(n)`` gives up to n bytes and b"" at the end: a file, an open object, BytesIO."""

    def read(self, size: int, /) -> bytes: ...


@runtime_checkable
class RangedSource(Source, Protocol):
    """A source that may be read anywhere: large videos and archives need it, everything else does without."""

    @property
    def size(self) -> int: ...

    def read_at(self, offset: int, size: int, /) -> bytes:
        """Exactly ``size`` bytes, all of them within the file; at most 8 MiB are asked for at a time."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    wall_seconds: float = 20  # includes the time that the source takes
    cpu_seconds: int = 10
    memory: int = 1024 * MIB  # bytes of address space
    file_size: int = 64 * MIB  # bytes of any file it writes
    open_files: int = 64
    max_input: int = 256 * MIB  # bytes; the child holds them in memory
    max_output: int = 32 * MIB


@dataclass(frozen=True, slots=True)
class Answer:
    values: dict[str, Any]
    blobs: list[bytes]


@dataclass(frozen=True, slots=True)
class Thumbnail:
    size: int  # what was asked for: the box it fits in
    width: int  # pixels; never more than the original's
    height: int
    mime_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Reading:
    """What one child made of one file. Everything is safe as JSON and for PostgreSQL: no NUL, no lone surrogate.

    What was not wanted, or what files of this type don't have, is empty or None."""

    # width, height (pixels upright; of PDF and SVG their own units), format, exif, gps, placeholder (ThumbHash, base64),
    # pages, title, author, duration (s), audio, video
    metadata: dict[str, Any]
    pictures: tuple[Thumbnail, ...]  # one for each of ``sizes``
    text: str | None  # for search: cleaned and capped (THREATS T83)
    text_language: str | None  # ISO 639-1
    document: dict[str, Any] | None  # content, language, encoding, truncated; html, table
    contents: dict[str, Any] | None  # entries, total_entries, total_size, truncated


Want = Literal["metadata", "picture", "text", "document", "contents"]


@dataclass(frozen=True, slots=True)
class _Reader:
    """Which parser reads a family, and how much of a file it is given."""

    parser: str
    limits: Limits = Limits()
    head: int | None = None  # bytes from the beginning that are enough; None: all
    ranges: int | None = None  # it seeks: a RangedSource of more bytes than that is read where it asks
    needs: str = "PIL"  # a module; what is not installed is not offered


_READERS: dict[Family, _Reader] = {
    "image": _Reader("image"),
    "heif": _Reader("heif", needs="pillow_heif"),
    "svg": _Reader("svg", Limits(max_input=8 * MIB)),
    "pdf": _Reader("pdf", ranges=64 * MIB),  # drawing jumps about in it: whole is quicker
    "office": _Reader("office", ranges=4 * MIB),
    "text": _Reader("text", head=4 * MIB),
    "archive": _Reader("archive", ranges=4 * MIB),
    "media": _Reader("media", ranges=4 * MIB, needs="av"),
}


@cache
def _reader(family: Family | None) -> _Reader | None:
    reader = _READERS.get(family) if family else None
    return reader if reader and find_spec(reader.needs) else None


def kinds(mime_type: str, extension: str = "") -> frozenset[Kind]:
    """The kinds of preview that a file of this type has in this installation (``core.previewable``)."""
    readable = _reader(previewable.family(mime_type, extension))
    return previewable.kinds(mime_type, extension) if readable else frozenset()


def read(
    source: Source,
    mime_type: str,
    *,
    name: str,
    want: frozenset[Want],
    sizes: Sequence[int] = (),
    format: Literal["webp", "jpeg", "png"] = "webp",
    page: int = 1,
    strict: bool = False,
) -> Reading:
    """What a file shows, says and is about: one child process, one decode.

    ``mime_type`` is the stored type, ``name`` the file's name, whose extension tells one plain text from another.
    ``sizes`` are the boxes, in pixels, that "picture" is made for; ``page`` is for documents that have pages.
    Unsupported for a type that nobody reads, an encrypted file, a page that is not there; ParserFailed where the file is
    broken, too large or hostile; if ``strict``, WeakSandbox where a lock can't be had. Errors that the source raises pass
    through."""
    extension = extension_of(name)
    reader = _reader(previewable.family(mime_type, extension))
    if reader is None:
        raise Unsupported("Files of this type have no preview")
    arguments = {
        "mime_type": canonical(mime_type),
        "extension": extension,
        "stem": name.rpartition(".")[0],
        "want": sorted(want),
        "sizes": list(sizes),
        "format": format,
        "page": page,
        "head": reader.head,
    }
    answer = run(
        reader.parser,
        source,
        arguments,
        limits=reader.limits,
        head=reader.head,
        ranges=reader.ranges,
        strict=strict,
    )
    try:
        values = _plain(answer.values)
        made = zip(values.pop("pictures", ()), answer.blobs, strict=True)
        shown = tuple(Thumbnail(**one, data=data) for one, data in made)
        told = {name: _of_type(kind, values.pop(name, None)) for name, kind in _TOLD.items()}
        if values or len((told["text"] or "").encode()) > MAX_BYTES:
            raise ValueError("unknown or too much")
        return Reading(**{**told, "metadata": told["metadata"] or {}}, pictures=shown)
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise ParserFailed("The parser's answer can't be read") from error


@cache
def missing_locks() -> tuple[str, ...]:
    """The locks of parsers/locks.py that a child can't have on this machine, found out once by starting one.

    ParserFailed where none can be started."""
    try:
        run("locks", BytesIO(), {}, strict=True)
    except WeakSandbox as weak:
        return weak.missing
    return ()


_TOLD = {"metadata": dict, "text": str, "text_language": str, "document": dict, "contents": dict}


def _of_type(kind: type, value: Any) -> Any:
    if value is not None and not isinstance(value, kind):
        raise TypeError(kind.__name__)
    return value


_REFUSED = re.compile("[\0\ud800-\udfff]")


def _plain(value: Any) -> Any:
    """Without the characters that PostgreSQL refuses, whatever the child let through."""
    if isinstance(value, str):
        return _REFUSED.sub("", value)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {_plain(key): _plain(one) for key, one in value.items()}
    return value


def run(
    parser: str,
    source: Source,
    arguments: dict[str, Any],
    *,
    limits: Limits | None = None,
    head: int | None = None,
    ranges: int | None = None,
    strict: bool = False,
) -> Answer:
    """What ``parsers.<parser>.parse`` made of the source's bytes, or ParserFailed.

    With ``head`` it is given that many bytes from the beginning, and the rest is not read. With ``ranges`` it is given
    what it asks for of a RangedSource of more bytes than that. ``strict``: WeakSandbox where the child can't have every
    lock, and nothing was parsed. Errors that the source raises pass through."""
    limits = limits or Limits()
    folder = tempfile.mkdtemp(prefix="parser-")
    try:
        seeks = isinstance(source, RangedSource) and ranges is not None and source.size > ranges
        ranged = cast("RangedSource", source) if seeks else None
        with _Child(parser, arguments, limits, folder, ranged, strict) as child:
            if ranged is None:
                child.feed(source, head)
            return child.answer()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Child:
    def __init__(
        self,
        parser: str,
        arguments: dict[str, Any],
        limits: Limits,
        folder: str,
        ranged: RangedSource | None,
        strict: bool,
    ):
        own = {name: getattr(limits, name) for name in _CHILDS}
        own["ranged"] = ranged.size if ranged else 0
        self._ranged = ranged
        words = {
            "parser": parser,
            "arguments": arguments,
            "limits": own,
            "parent": os.getpid(),
            "strict": strict,
        }
        body = json.dumps(words).encode()
        self._limits = limits
        self._process = subprocess.Popen(  # noqa: S603 our own interpreter and our own words, no shell
            [sys.executable, "-I", "-c", _START, _ROOT],  # everybody on the machine can read these
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            start_new_session=True,
            # One arena: otherwise each of a library's threads reserves 64 MiB of the address space.
            env={
                "TMPDIR": folder,
                "HOME": folder,
                "LANG": "C.UTF-8",
                "MALLOC_ARENA_MAX": "1",
                "OPENBLAS_NUM_THREADS": "1",
            },
        )
        self._late = False
        self._over = threading.Lock()  # held while the group is killed, and for ever once it was reaped
        self._timer = threading.Timer(limits.wall_seconds, self._time_is_up)
        self._timer.daemon = True
        self._timer.start()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(struct.pack(">I", len(body)) + body)
            self._process.stdin.flush()

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._kill()
        self._over.acquire()  # from here on the number may be another process's
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        self._process.wait()

    def feed(self, source: Source, head: int | None) -> None:
        """All bytes of the source; the child answers only after the last, so neither waits for the other.

        It may die before the end."""
        pipe, sent = self._process.stdin, 0
        assert pipe is not None
        while chunk := source.read(MIB if head is None else min(MIB, head - sent)):
            sent += len(chunk)
            if sent > self._limits.max_input:
                raise ParserFailed(f"The file is larger than {self._limits.max_input // MIB} MiB")
            try:
                pipe.write(chunk)
            except BrokenPipeError:
                return
            if sent == head:
                break
        with contextlib.suppress(BrokenPipeError):
            pipe.close()

    def answer(self) -> Answer:
        head = self._read(4)
        if self._ranged:
            head = self._serve(self._ranged, head)
        length = struct.unpack(">I", head)[0]
        if length > _MAX_VALUES:
            raise ParserFailed("The parser's answer is too large")
        try:
            values = json.loads(self._read(length))
            if "missing" in values:
                raise WeakSandbox([str(lock) for lock in values["missing"]])
            if "unsupported" in values:
                raise Unsupported(str(values["unsupported"]))
            if "failed" in values:
                raise ParserFailed(str(values["failed"]))
            lengths = [int(length) for length in values["blobs"]]
            answered = values["values"]
        except (
            ValueError,
            TypeError,
            KeyError,
            RecursionError,
        ) as error:  # as trustworthy as the bytes it read
            raise ParserFailed("The parser's answer can't be read") from error
        if any(length < 0 for length in lengths) or sum(lengths) > self._limits.max_output:
            raise ParserFailed("The parser's answer is too large")
        return Answer(answered, [self._read(length) for length in lengths])

    def _serve(self, source: RangedSource, head: bytes) -> bytes:
        """Give the spans that are asked for, until the answer begins, whose first bytes are returned."""
        assert self._process.stdin is not None
        asks = sent = 0
        while head == ASK:
            offset, length = SPAN.unpack(self._read(SPAN.size))
            asks += 1
            sent += length
            within = 0 < length <= MAX_LENGTH and offset + length <= source.size
            if not within or asks > MAX_ASKS or sent > self._limits.max_input:
                raise ParserFailed("The parser asked for too much of the file")
            data = source.read_at(offset, length)
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(struct.pack(">I", len(data)) + data)
                self._process.stdin.flush()
            head = self._read(4)
        return head

    def _read(self, length: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(length)
        if len(data) < length:
            raise ParserFailed(self._cause_of_death())
        return data

    def _cause_of_death(self) -> str:
        """Words for an end without an answer. The process is left unreaped, so that its group can still be killed."""
        if self._late:
            return f"Reading the file took longer than {self._limits.wall_seconds:g} seconds"
        if not hasattr(os, "waitid"):
            return "The parser ended unexpectedly"
        ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        code = ended.si_status if ended and ended.si_code in (os.CLD_KILLED, os.CLD_DUMPED) else 0
        if self._late:
            return f"Reading the file took longer than {self._limits.wall_seconds:g} seconds"
        if code == signal.SIGXCPU or (code == signal.SIGKILL and not self._late):
            return "Reading the file took too much processor time or memory"
        return "The parser crashed" if code else "The parser ended unexpectedly"

    def _time_is_up(self) -> None:
        self._late = True
        self._kill()

    def _kill(self) -> None:
        if self._over.acquire(blocking=False):
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass  # macOS says so of a group of which only the dead are left
            finally:
                self._over.release()
