from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from typing import Any

import pytest
import zstandard

from parsers import ParserFailed, archive
from parsers.entry_names import decode_all
from parsers.reading import read
from tests.parsers.samples import Stream, raw_zip, tarred, zipped


def entries(data: bytes) -> dict[str, Any]:
    """The listing, without a child process."""
    contents: dict[str, Any] = archive.parse(io.BytesIO(data), {"want": ["contents"], "stem": "x"})[0]["contents"]
    return contents


def unicode_path(name: bytes, real: str) -> bytes:
    """Info-ZIP's extra field for an entry with this name."""
    body = b"\1" + struct.pack("<L", zlib.crc32(name)) + real.encode()
    return struct.pack("<2H", 0x7075, len(body)) + body


PARTS = {"a/../b.txt": b"x" * 3000, "é\x1b\n\u202etxt.exe": b""}


def listed(data: bytes, mime: str, name: str = "x") -> dict[str, Any]:
    found = read(io.BytesIO(data), mime, name=name, want=frozenset({"metadata", "contents"})).contents
    assert found is not None
    return found


def test_T95_zip_listing() -> None:
    entry = {"is_directory": False, "modified_at": "2026-11-25T18:30:00"}
    assert listed(zipped({**PARTS, "dir/": b""}), "application/zip") == {
        "entries": [
            {"name": "a/../b.txt", "size": 3000, "compressed_size": 20, **entry},
            {"name": "é\ufffd\ufffd\ufffdtxt.exe", "size": 0, "compressed_size": 2, **entry},
            {"name": "dir/", "size": 0, "compressed_size": 2, **entry, "is_directory": True},
        ],
        "total_entries": 3,
        "total_size": 3000,
        "truncated": False,
    }


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("utf-8", "Rechnungen Ma\u0308rz/U\u0308bersicht.pdf|写真.jpg"),
        ("cp437", "Ärger.txt|Größe/Fußball.txt|résumé.doc"),
        ("cp437", "Ü.txt"),
        ("cp437", "plain.txt|Señor.txt"),
        ("cp850", "Smørrebrød/Åben.txt|À propos.txt"),
        ("cp1252", "Österreich/Verträge.txt"),
        ("cp1252", "Übersicht März.pdf|São Paulo.txt"),
        ("cp866", "Новая папка/Документ.txt|ОТЧЕТ.doc"),
        ("cp1251", "Документы/Отчёт.doc|ИТОГИ.xls"),
        ("koi8_r", "Документы.txt|Привет мир.txt"),
        ("cp852", "Żółw.txt|Zażółć gęślą.doc"),
        ("cp1250", "Příliš žluťoučký kůň.txt"),
        ("cp1253", "Καλημέρα κόσμε.txt"),
        ("shift_jis", "写真.jpg|新しいフォルダー/資料.txt"),
        ("cp932", "表紙.jpg"),
        ("gbk", "新建文本文档.txt"),
        ("gbk", "报告.doc|简历.doc"),
        ("gbk", "图片/学习.jpg"),  # also UTF-8, by chance
        ("big5", "新增資料夾/說明書.txt|測試.doc"),
        ("euc_kr", "새 폴더/문서.txt|보고서.hwp"),
        ("euc_jp", "テスト.txt"),
    ],
)
def test_names_in_any_encoding(encoding: str, names: str) -> None:
    assert decode_all([name.encode(encoding) for name in names.split("|")]) == names.split("|")


def test_names_of_one_archive_share_an_encoding() -> None:
    """One name alone would be read otherwise; few that happen to be UTF-8, or that were cut, change nothing."""
    assert decode_all([b"a.txt", "ОТЧЕТ".encode("cp866"), "Ва".encode("cp866"), b"\xd0\xb0"]) == [
        "a.txt",
        "ОТЧЕТ",
        "Ва",
        "╨░",
    ]
    cut = "Übersicht".encode()[:1]
    assert decode_all(["März".encode(), "Ärger".encode(), b"x" + cut])[:2] == ["März", "Ärger"]


@pytest.mark.parametrize(
    ("name", "options", "shown"),
    [
        ("Ä.txt".encode(), {"flags": 0x800}, "Ä.txt"),
        ("Ä.txt".encode(), {}, "Ä.txt"),
        ("Ärger".encode("cp850"), {"flags": 0x800}, "Ärger"),  # not what the flag says
        (b"?.txt", {"extra": unicode_path(b"?.txt", "写.txt")}, "写.txt"),
        (b"!.txt", {"extra": unicode_path(b"?.txt", "写.txt")}, "!.txt"),  # the entry was renamed
        (b"a.txt", {"extra": b"\x01"}, "a.txt"),
        (b"b.txt", {"extra": b"\x75\x70\xff\xff\x01"}, "b.txt"),
    ],
    ids=["flag", "no flag", "wrong flag", "field", "old field", "cut field", "field beyond the end"],
)
def test_names_with_flags_and_fields(name: bytes, options: dict[str, Any], shown: str) -> None:
    assert [one["name"] for one in entries(raw_zip([name], **options))["entries"]] == [shown]


def test_T95_an_archive_of_more_than_65535_entries() -> None:
    found = entries(raw_zip((b"%d" % n for n in range(66_000)), data=b""))
    assert (found["total_entries"], len(found["entries"]), found["truncated"]) == (66_000, 5_000, True)


@pytest.mark.parametrize("before", [b"", b"MZ" + bytes(900)], ids=["alone", "self-extracting"])
@pytest.mark.parametrize("after", [b"", b"\0\0", b"PK\5\6" * 3], ids=["alone", "junk", "more ends"])
def test_T95_bytes_around_an_archive(before: bytes, after: bytes) -> None:
    found = entries(before + zipped({"a.txt": b"a", "b/": b""}) + after)
    assert [(one["name"], one["size"], one["is_directory"]) for one in found["entries"]] == [
        ("a.txt", 1, False),
        ("b/", 0, True),
    ]
    assert not found["truncated"]


def test_T95_sizes_of_64_bits() -> None:
    with zipfile.ZipFile(out := io.BytesIO(), "w") as zipped_file, zipped_file.open("a", "w", force_zip64=True) as file:
        file.write(b"x" * 70)
    data = out.getvalue()
    at, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    field = struct.pack("<2H3Q", 1, 24, 5 << 30, 70, 0)
    entry = (
        data[at : at + 20]
        + b"\xff" * 8
        + struct.pack("<2H", 1, len(field))
        + data[at + 32 : at + 42]
        + b"\xff" * 4
        + b"a"
    )
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(entry + field), at)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at + len(entry + field), 1)
    data = data[:at] + entry + field + record + locator + b"PK\5\6" + bytes(4) + b"\xff" * 12 + data[end + 20 :]
    [found] = entries(data)["entries"]
    assert (found["size"], found["compressed_size"]) == (5 << 30, 70)


@pytest.mark.parametrize(
    ("target", "start", "large"),
    [(io.BytesIO, b"", False), (Stream, b"", False), (Stream, b"", True), (io.BytesIO, b"PK\7\x08", False)],
    ids=["sizes before", "sizes after", "large sizes", "first part"],
)
def test_T95_an_unfinished_download_lists_what_has_arrived(target: type[io.BytesIO], start: bytes, large: bool) -> None:
    with zipfile.ZipFile(out := target(), "w", zipfile.ZIP_DEFLATED) as zipped_file:
        for n in range(9):
            with zipped_file.open(f"{n}.txt", "w", force_zip64=large) as file:
                file.write(b"%d" % n * 5_000)
    found = entries(start + out.getvalue()[:300])
    assert [one["name"] for one in found["entries"]] == [f"{n}.txt" for n in range(len(found["entries"]))]
    assert (len(found["entries"]) > 2, found["entries"][0]["size"], found["truncated"]) == (True, 5_000, True)


@pytest.mark.parametrize("data", [b"PK\3\4", b"PK\x07\x08" + bytes(99), zipped({"a": b"a"})[:20]])
def test_T95_a_zip_of_which_nothing_is_left(data: bytes) -> None:
    with pytest.raises(ParserFailed, match="its end may be missing"):
        entries(data)


@pytest.mark.parametrize(
    ("format", "encoding"),
    [
        (tarfile.GNU_FORMAT, "shift_jis"),
        (tarfile.GNU_FORMAT, "cp1252"),
        (tarfile.USTAR_FORMAT, "cp1251"),
        (tarfile.PAX_FORMAT, "utf-8"),
    ],
)
def test_names_in_tars(format: int, encoding: str) -> None:
    names = {
        "shift_jis": "写真/新しい.txt",
        "cp1252": "Müller.txt",
        "cp1251": "Отчёт.doc",
        "utf-8": f"{'é' * 150}/写.txt",
    }
    with tarfile.open(fileobj=(out := io.BytesIO()), mode="w", format=format, encoding=encoding) as zipped_file:
        zipped_file.addfile(tarfile.TarInfo(names[encoding]))
    assert [one["name"] for one in entries(out.getvalue())["entries"]] == [names[encoding]]


@pytest.mark.parametrize(
    ("mime", "pack"),
    [
        ("application/x-tar", bytes),
        ("application/gzip", gzip.compress),
        ("application/x-bzip2", bz2.compress),
        ("application/x-xz", lzma.compress),
        ("application/zstd", zstandard.compress),
    ],
)
def test_T95_tar_listing(mime: str, pack: Any) -> None:
    found = listed(pack(tarred(PARTS)), mime)
    assert [(one["name"], one["size"], one["is_directory"]) for one in found["entries"]] == [
        ("folder", 0, True),
        ("a/../b.txt", 3000, False),
        ("é\ufffd\ufffd\ufffdtxt.exe", 0, False),
    ]
    assert found["entries"][0]["modified_at"] == "2025-11-24T16:00:00Z"
    assert (found["total_entries"], found["total_size"], found["truncated"]) == (3, 3000, False)


def test_a_single_compressed_file() -> None:
    packed = io.BytesIO()
    with gzip.GzipFile("inner.log", "wb", fileobj=packed) as file:
        file.write(b"x" * 100_000)
    assert [one["name"] for one in listed(packed.getvalue(), "application/gzip", "y.gz")["entries"]] == ["inner.log"]
    found = listed(bz2.compress(b"x" * 100_000), "application/x-bzip2", "notes.txt.bz2")
    assert [(one["name"], one["size"]) for one in found["entries"]] == [(None, 100_000)]  # it has its file's


def test_T95_a_truncated_tar_lists_the_entries_before_the_cut() -> None:
    data = gzip.compress(tarred({f"{n}": bytes(range(256)) * 40 for n in range(50)}))
    found = listed(data[: len(data) // 2], "application/gzip")
    assert 0 < len(found["entries"]) < 50
    assert found["truncated"]
