from __future__ import annotations

import bz2
import gzip
import io
import lzma
from typing import Any

import pytest
import zstandard

from parsers.reading import read
from tests.parsers.samples import tarred, zipped

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
    assert [(one["name"], one["size"]) for one in found["entries"]] == [("notes.txt", 100_000)]


def test_T95_a_truncated_tar_lists_the_entries_before_the_cut() -> None:
    data = gzip.compress(tarred({f"{n}": bytes(range(256)) * 40 for n in range(50)}))
    found = listed(data[: len(data) // 2], "application/gzip")
    assert 0 < len(found["entries"]) < 50
    assert found["truncated"]
