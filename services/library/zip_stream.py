"""A ZIP of files as a stream of bytes. Members are stored uncompressed."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

from core import names


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A file in a ZIP. ``read`` is called when its turn comes."""

    name: str  # with folders
    modified: datetime
    read: Callable[[], Generator[bytes]]


def zip_stream(members: Sequence[ZipMember], *, left_out: Sequence[str]) -> Iterator[bytes]:
    """The bytes of a ZIP. ``left_out`` are names to list in a text file inside."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w") as archive:  # type: ignore[call-overload]
        for member, name in zip(members, _unique(member.name for member in members), strict=True):
            entry = zipfile.ZipInfo(name, member.modified.astimezone(UTC).timetuple()[:6])
            entry.external_attr = 0o644 << 16
            with closing(member.read()) as pieces, archive.open(entry, "w", force_zip64=True) as target:
                for piece in pieces:
                    target.write(piece)
                    yield from sink.taken()
        if left_out:
            text = "Not ready or damaged when this ZIP was made:\n" + "\n".join(left_out) + "\n"
            archive.writestr("NOT INCLUDED.txt", text)
    yield from sink.taken()


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


def _unique(entries: Iterable[str]) -> Iterator[str]:
    """Entry names made distinct, ignoring case, by numbering (T36)."""
    taken: set[str] = set()
    for name in entries:
        path, slash, last = name.rpartition("/")
        candidate, n = name, 0
        while names.name_key(candidate) in taken:
            n += 1
            candidate = path + slash + names.numbered(last, n)
        taken.add(names.name_key(candidate))
        yield candidate
