"""The entries of ZIP files, as their directory lists them (APPNOTE.TXT 6.3.10). Python's zipfile refuses whole archives for one
entry that some writer made differently, and hides names as they were written.

A directory is a claim: entries are counted and must not overlap (T95).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO

from parsers import ParserFailed, entry_names

_MAX_DIRECTORY = 64 * 1024 * 1024  # bytes
_MAX_ENDS = 10  # that are tried: a comment may contain more
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_END = struct.Struct("<4s4H2LH")
_UNKNOWN = 0xFFFFFFFF  # 32 bits do not hold it, or it follows the data


class Missing(ParserFailed):
    """There is no directory."""


@dataclass(slots=True)
class Entry:
    """One entry; sizes and offset in bytes."""

    raw_name: bytes
    name: str | None  # if the entry says how it is encoded
    flags: int
    method: int
    modified: str | None  # ISO 8601, in an unknown time zone
    packed: int
    size: int
    offset: int = 0  # of its local header


@dataclass(frozen=True, slots=True)
class Directory:
    """What a ZIP file has."""

    entries: list[Entry]
    complete: bool  # the entries are all


def read(file: BinaryIO, limit: int) -> Directory:
    """The first ``limit`` entries, wherever in the file the archive begins.

    Raises Missing, or ParserFailed if entries overlap."""
    size = file.seek(0, 2)
    start = max(0, size - _END.size - 0xFFFF)
    file.seek(start)
    tail = file.read()
    at = len(tail)
    for _ in range(_MAX_ENDS):
        at = tail.rfind(b"PK\5\6", 0, at)
        if at < 0:
            break
        if at + _END.size <= len(tail) and (found := _read_at(file, start + at, tail[at : at + _END.size], limit)):
            return found
    raise Missing("The archive has no directory; its end may be missing")


def _read_at(file: BinaryIO, end: int, record: bytes, limit: int) -> Directory | None:
    """The directory that this record ends; None if there is none."""
    _, disk, _, _, count, length, offset, _ = _END.unpack(record)
    file.seek(max(0, end - 76))
    large = file.read(76)  # ZIP64: a record of 56 bytes, and one of 20 that points to it
    if large[:4] == b"PK\6\6" and large[56:60] == b"PK\6\7":
        count, length, offset = struct.unpack_from("<3Q", large, 32)
        end -= 76
    for start in (end - length, offset):  # what precedes the archive is not counted in its offsets
        if 0 <= start <= end:
            file.seek(start)
            data = file.read(min(length, _MAX_DIRECTORY))
            if data.startswith(b"PK\1\2") or not count:
                entries, used = _entries(data, start - offset, limit)
                if not disk:  # the last part of a split archive lists entries in others
                    _check_overlap(entries, start)
                return Directory(entries, used >= length)
    return None


def _entries(data: bytes, prefix: int, limit: int) -> tuple[list[Entry], int]:
    """The entries, and the number of bytes that they take."""
    entries: list[Entry] = []
    at = 0
    while len(entries) < limit and data[at : at + 4] == b"PK\1\2" and at + _CENTRAL.size <= len(data):
        header = _CENTRAL.unpack_from(data, at)
        _, _, _, flags, method, time, date, _, packed, size, name, extra, comment, _, _, _, offset = header
        at += _CENTRAL.size
        entry = _entry(data[at : at + name], data[at + name : at + name + extra], flags, method, time, date)
        entry.size, entry.packed, offset = _large(data[at + name : at + name + extra], [size, packed, offset])
        entry.offset = offset + prefix
        entries.append(entry)
        at += name + extra + comment
    return entries, at


def _check_overlap(entries: Sequence[Entry], end: int) -> None:
    for entry in sorted(entries, key=lambda entry: entry.offset, reverse=True):
        if entry.offset + _LOCAL.size + len(entry.raw_name) + entry.packed > end:
            raise ParserFailed("The archive's entries overlap")
        end = entry.offset


def _entry(raw: bytes, extra: bytes, flags: int, method: int, time: int, date: int) -> Entry:
    modified = None
    with suppress(ValueError):
        day = date >> 9, date >> 5 & 15, date & 31
        modified = datetime(1980 + day[0], *day[1:], time >> 11, time >> 5 & 63, 2 * (time & 31)).isoformat()
    name = None
    with suppress(UnicodeDecodeError):
        # Info-ZIP's field with the name in UTF-8 (APPNOTE 4.6.9), or the flag that says so (APPNOTE, appendix D).
        unicode = _field(extra, 0x7075)
        if unicode[:1] == b"\1" and int.from_bytes(unicode[1:5], "little") == zlib.crc32(raw):
            name = unicode[5:].decode()
        elif flags & 0x800:
            name = raw.decode()
    return Entry(raw, name, flags, method, modified, 0, 0)


def _field(extra: bytes, kind: int) -> bytes:
    """An extra field's data; b"" if there is none. Damaged fields are ignored."""
    at = 0
    while at + 4 <= len(extra):
        found, length = struct.unpack_from("<2H", extra, at)
        if found == kind:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return b""


def _large(extra: bytes, values: list[int]) -> list[int]:
    """Sizes and offset, those that need 64 bits from the extra field (APPNOTE 4.5.3)."""
    field = _field(extra, 1)
    for at, value in enumerate(values):
        if value == _UNKNOWN and len(field) >= 8:
            values[at], field = int.from_bytes(field[:8], "little"), field[8:]
    return values


def names(entries: Sequence[Entry]) -> list[str]:
    """The entries' names. Those without a declared encoding share one."""
    return entry_names.decode_all([entry.raw_name if entry.name is None else entry.name for entry in entries])


def local_entries(file: BinaryIO) -> Iterator[Entry]:
    """The entries up to any damage, by their own headers, for an archive whose directory is missing."""
    end = file.seek(0, 2)
    file.seek(0)
    at = 4 if file.read(4) == b"PK\7\x08" else 0  # the first part of a split archive
    while at + _LOCAL.size <= end:
        file.seek(at)
        header = file.read(_LOCAL.size)
        if header[:4] != b"PK\3\4":
            return
        _, _, flags, method, time, date, _, packed, size, name, extra = _LOCAL.unpack(header)
        raw, fields = file.read(name), file.read(extra)
        if len(raw) < name:
            return
        entry = _entry(raw, fields, flags, method, time, date)
        entry.size, entry.packed = _large(fields, [size, packed])
        entry.offset = at
        at += _LOCAL.size + name + extra
        if flags & 8 and not entry.packed:  # the sizes follow the data, before the next header: APPNOTE 4.3.9
            at = _find(file, at)
            file.seek(max(0, at - 24))
            descriptor = file.read(24)
            if descriptor[8:12] == b"PK\7\x08":
                entry.packed, entry.size = struct.unpack_from("<2L", descriptor, 16)
            elif descriptor[:4] == b"PK\7\x08":
                entry.packed, entry.size = struct.unpack_from("<2Q", descriptor, 8)
        else:
            at += entry.packed
        yield entry


def _find(file: BinaryIO, at: int) -> int:
    """Where the next local header is, or the end."""
    file.seek(at)
    before = b""
    while chunk := file.read(1024 * 1024):
        if (found := (before + chunk).find(b"PK\3\4")) >= 0:
            return at - len(before) + found
        at += len(chunk)
        before = chunk[-3:]
    return at


def data_offset(file: BinaryIO, entry: Entry) -> int:
    """Where an entry's data begins. Raises ParserFailed if it is not there."""
    file.seek(max(0, entry.offset))
    header = file.read(_LOCAL.size)
    if entry.offset < 0 or len(header) < _LOCAL.size or header[:4] != b"PK\3\4":
        raise ParserFailed("The archive is broken")
    *_, name, extra = _LOCAL.unpack(header)
    return entry.offset + _LOCAL.size + int(name) + int(extra)
