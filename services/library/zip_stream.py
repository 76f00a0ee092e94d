"""A ZIP of files as a stream of bytes, for readers that read it as a stream, and for Windows.

Members are not compressed, but written by "deflate" in level 0: Java's ZipInputStream refuses stored members whose size follows
them. ZIP64 is used only for members that need it, since older Java expects it for no other.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

from core import names

_LEFT_OUT = "NOT INCLUDED.txt"
_FIRST_TIME = datetime(1980, 1, 1, tzinfo=UTC)  # in a ZIP
_FORBIDDEN = re.compile(r'[\0-\x1f\x7f<>:"\\|?*]')  # in names on Windows
# Also with an extension.
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\.|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A file in a ZIP, or an empty folder. ``read`` is called when its turn comes."""

    path: str  # with folders; that of a folder ends with a slash
    modified: datetime
    size: int = 0  # bytes
    read: Callable[[], Generator[bytes]] | None = None  # None: a folder


def zip_stream(members: Sequence[ZipMember], *, left_out: Sequence[str]) -> Iterator[bytes]:
    """The bytes of a ZIP. ``left_out`` are names to list in a text file inside."""
    sink, paths = _Sink(), _Paths()
    if left_out:
        text = "\n".join(["Not ready or damaged when this ZIP was made:", *left_out, ""]).encode()
        members = [*members, ZipMember(_LEFT_OUT, datetime.now(UTC), len(text), lambda: (piece for piece in [text]))]
    with zipfile.ZipFile(sink, "w") as archive:  # type: ignore[call-overload]
        for member in members:
            entry = _entry(member, paths.of(member.path))
            if member.read is None:
                archive.mkdir(entry)
                continue
            with closing(member.read()) as pieces, archive.open(entry, "w") as target:
                for piece in pieces:
                    target.write(piece)
                    yield from sink.taken()
    yield from sink.taken()


def _entry(member: ZipMember, path: str) -> zipfile.ZipInfo:
    modified = max(member.modified.astimezone(UTC), _FIRST_TIME)
    entry = zipfile.ZipInfo(path, modified.timetuple()[:6])
    # The field above is local time to most readers; this one is UTC (Info-ZIP's extended timestamp).
    entry.extra = struct.pack("<HHBL", 0x5455, 5, 1, int(modified.timestamp()))
    if member.read is None:
        entry.external_attr = 0o40755 << 16 | 0x10
        entry.CRC = entry.compress_size = 0  # mkdir needs them
    else:
        entry.external_attr = 0o100644 << 16
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry._compresslevel = 0  # type: ignore[attr-defined]  # compress_level from Python 3.13 on
        entry.file_size = member.size  # decides whether it is ZIP64
    return entry


class _Sink:
    """A write-only file for zipfile that keeps what was written until it is taken."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def taken(self) -> list[bytes]:
        pieces, self._pieces = self._pieces, []
        return pieces


class _Paths:
    """Gives members paths that Windows can write, made distinct, ignoring case, by numbering (T36)."""

    def __init__(self) -> None:
        self._folders = {"": ""}  # path as people know it: path in the ZIP
        self._taken: dict[str, int] = {}  # the last number given to this path, ignoring case

    def of(self, path: str) -> str:
        """The path in the ZIP. What lies in one folder stays together; a file may have the name of a folder."""
        if path in self._folders:
            return self._folders[path]
        parent, slash, name = path.removesuffix("/").rpartition("/")
        found = self._free(self.of(parent + slash), _writable(name))
        if path.endswith("/"):
            found = self._folders[path] = found + "/"
        return found

    def _free(self, folder: str, name: str) -> str:
        path = folder + name
        key = first = names.name_key(path)
        while key in self._taken:
            self._taken[first] += 1
            path = folder + names.numbered(name, self._taken[first])
            key = names.name_key(path)
        self._taken[key] = 0
        return path


def _writable(name: str) -> str:
    name = _FORBIDDEN.sub("_", name).rstrip(". ") or "_"
    return names.clean_name(f"_{name}") if _RESERVED.match(name) else name
