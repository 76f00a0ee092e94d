"""ZIPs as readers of streams and Windows need them."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from services.library.zip_stream import ZipMember, zip_stream

TIME = datetime(2026, 11, 23, 4, 15, 1, tzinfo=UTC)


def file(path: str, data: bytes = b"x", modified: datetime = TIME) -> ZipMember:
    return ZipMember(path, modified, len(data), lambda: (piece for piece in [data[:3], data[3:]] if piece))


def folder(path: str) -> ZipMember:
    return ZipMember(path, TIME)


def made(*members: ZipMember, left_out: tuple[str, ...] = ()) -> bytes:
    return b"".join(zip_stream(members, left_out=left_out))


def paths(*members: ZipMember) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(made(*members))).namelist()


def streamed(data: bytes) -> Iterator[tuple[str, bytes]]:
    """As Java's ZipInputStream reads: without the directory at the end, sizes of deflated members only after them."""
    while data[:4] == b"PK\3\4":
        flags, method, crc, compressed, size, name_size, extra_size = struct.unpack("<2xHH4xLLLHH", data[4:30])
        name, data = data[30 : 30 + name_size].decode(), data[30 + name_size + extra_size :]
        assert flags & ~0x808 == 0
        if method == zipfile.ZIP_STORED:
            assert (flags & 8, crc, compressed, size) == (0, 0, 0, 0)
            yield name, b""
            continue
        assert (method, flags & 8, crc, compressed, size) == (zipfile.ZIP_DEFLATED, 8, 0, 0, 0)
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        content = inflater.decompress(data)
        taken = len(data) - len(inflater.unused_data)
        assert inflater.eof
        descriptor = struct.pack("<4sLLL", b"PK\7\10", zlib.crc32(content), taken, len(content))
        assert inflater.unused_data.startswith(descriptor)
        data = inflater.unused_data[len(descriptor) :]
        yield name, content


def test_members_can_be_read_from_a_stream() -> None:
    data = made(file("a.txt", b"hello"), folder("empty/"), file("ü/b", b""), file("c", bytes(200_000)), left_out=("d",))
    note = b"Not ready or damaged when this ZIP was made:\nd\n"
    assert list(streamed(data)) == [
        ("a.txt", b"hello"),
        ("empty/", b""),
        ("ü/b", b""),
        ("c", bytes(200_000)),
        ("NOT INCLUDED.txt", note),
    ]
    assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None


def test_large_members_have_sizes_of_64_bits() -> None:
    """Their header says so before a byte is read."""
    head = next(zip_stream([ZipMember("a", TIME, 5 * 2**30, lambda: (b"" for _ in [0]))], left_out=()))
    assert head[4:6] == b"\x2d\0" and head[18:26] == b"\xff" * 8 and b"\1\0\x10\0" + bytes(16) in head


def test_an_empty_zip_can_be_opened() -> None:
    assert made() == b"PK\5\6" + bytes(18)


def test_what_is_known_of_a_member() -> None:
    archive = zipfile.ZipFile(
        io.BytesIO(made(file("ü.txt"), folder("f/"), file("old", modified=datetime.fromtimestamp(0, UTC))))
    )
    one, two, old = archive.infolist()
    assert (one.flag_bits & 0x800, one.date_time, one.external_attr >> 16) == (
        0x800,
        (2026, 11, 23, 4, 15, 0),
        0o100644,
    )
    assert one.extra == struct.pack("<HHBL", 0x5455, 5, 1, int(TIME.timestamp()))  # UTC, and odd seconds
    assert (two.is_dir(), two.external_attr) == (True, 0o40755 << 16 | 0x10)
    assert old.date_time == (1980, 1, 1, 0, 0, 0)


@pytest.mark.parametrize(
    ("path", "written"),
    [
        ("Plan (final) ü 日本.pdf", "Plan (final) ü 日本.pdf"),
        ("Screenshot 12:30:05.png", "Screenshot 12_30_05.png"),
        ('<a>"b"|c?*.txt', "_a__b__c__.txt"),
        ("back\\slash.txt", "back_slash.txt"),
        ("a\x1b\x7f.txt", "a__.txt"),
        ("trailing dot.", "trailing dot"),
        ("trailing . . ", "trailing"),
        ("...", "_"),
        ("a:/b?/c*.txt", "a_/b_/c_.txt"),
        ("aux/CON.txt", "_aux/_CON.txt"),
        ("nul", "_nul"),
        ("Lpt9.tar.gz", "_Lpt9.tar.gz"),
        ("com¹.txt", "_com¹.txt"),
        ("CONIN$", "_CONIN$"),
        ("con .txt", "_con .txt"),
        ("prn.", "_prn"),
        ("console.txt", "console.txt"),
        ("COM10.txt", "COM10.txt"),
        ("..", "_"),
        ("../../x", "_/_/x"),
        ("con." + "x" * 251, "_con." + "x" * 250),
    ],
)
def test_T36_T25_windows_can_write_every_path(path: str, written: str) -> None:
    assert paths(file(path)) == [written]
    assert paths(folder(path + "/")) == [written + "/"]


def test_T36_paths_are_distinct_whatever_their_case() -> None:
    assert paths(file("a:"), file("A?"), file("a_"), file("b.txt"), file("B.TXT")) == [
        "a_",
        "A_ (1)",
        "a_ (2)",
        "b.txt",
        "B (1).TXT",
    ]


def test_T36_a_folder_stays_together_and_apart_from_files_and_other_folders() -> None:
    members = [
        file("x"),
        file("x/1"),
        file("y:/1"),
        file("y?/1"),
        file("y:/2"),
        folder("y?/z./"),
        file("NOT INCLUDED.txt"),
    ]
    assert paths(*members) == ["x", "x (1)/1", "y_/1", "y_ (1)/1", "y_/2", "y_ (1)/z/", "NOT INCLUDED.txt"]
    assert "NOT INCLUDED (1).txt" in zipfile.ZipFile(io.BytesIO(made(*members, left_out=("a",)))).namelist()


def test_T36_thousands_of_equal_names() -> None:
    found = paths(*(file("a?.txt") for _ in range(3_000)))
    assert found == ["a_.txt", *(f"a_ ({n}).txt" for n in range(1, 3_000))]
