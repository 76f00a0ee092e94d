from __future__ import annotations

import io
import json
from typing import Any

import pytest

from core.content_types import canonical
from parsers import ParserFailed, Unsupported
from parsers.reading import Reading, kinds, read
from tests.parsers import hostile, samples

EVERYTHING: frozenset[Any] = frozenset({"metadata", "picture", "text", "document", "contents"})
EXTENSIONS = {"application/json": "json", "text/x-python": "py", "text/x-perl": "pl", "text/html": "html"}


def attempt(data: bytes, mime: str) -> tuple[str, Reading | None]:
    if mime.partition("/")[0] in ("video", "audio") and not kinds(mime):
        pytest.skip("the [media] packages are not installed")
    try:
        reading = read(io.BytesIO(data), mime, name=f"x.{EXTENSIONS.get(mime, 'bin')}", want=EVERYTHING, sizes=(256,))
    except Unsupported:
        return "unsupported", None
    except ParserFailed:
        return "failed", None
    assert "\\u0000" not in json.dumps([reading.metadata, reading.text, reading.document, reading.contents])
    assert all(0 < max(shown.width, shown.height) <= 256 for shown in reading.pictures)
    return "measured" if reading.failed else "read", reading


def files(*families: str) -> pytest.MarkDecorator:
    """Test parameters: the files whose type starts with one of the families."""
    found = [one for one in hostile.FILES if one[1].startswith(families)]
    return pytest.mark.parametrize(
        ("mime", "maker", "outcome"), [one[1:] for one in found], ids=[one[0] for one in found]
    )


@files("image/")
def test_T92_hostile_images(mime: str, maker: hostile.Maker, outcome: str) -> None:
    assert attempt(maker(), mime)[0] == outcome


@files("application/pdf")
def test_T94_hostile_documents(mime: str, maker: hostile.Maker, outcome: str) -> None:
    assert attempt(maker(), mime)[0] == outcome


@files("application/vnd", "application/zip", "application/gzip", "application/x-tar")
def test_T95_hostile_packages(mime: str, maker: hostile.Maker, outcome: str) -> None:
    assert attempt(maker(), mime)[0] == outcome


@files("text/", "application/json", "video/", "audio/")
def test_T91_hostile_text_and_recordings(mime: str, maker: hostile.Maker, outcome: str) -> None:
    assert attempt(maker(), mime)[0] == outcome


def test_T95_entities_are_not_read_and_entries_not_extracted() -> None:
    assert attempt(hostile.docx(**{"word/document.xml": f"{hostile.ENTITY}<w><t>&e;</t></w>"}), hostile.DOCX)[1] is None
    _, reading = attempt(hostile.lying_tar(), "application/x-tar")
    assert reading and reading.contents
    assert [one["name"] for one in reading.contents["entries"]] == ["huge"]
    assert reading.contents["truncated"]


def test_T95_decompression_stops_at_the_limit() -> None:
    _, reading = attempt(hostile.gzip_bomb(), "application/gzip")
    assert reading and reading.contents
    assert reading.contents["truncated"]
    assert reading.contents["total_size"] < 600_000_000


TRUNCATED = [
    ("application/pdf", lambda: samples.pdf()),
    (hostile.DOCX, lambda: samples.docx()),
    (hostile.XLSX, lambda: samples.xlsx()),
    ("application/vnd.oasis.opendocument.text", lambda: samples.odf()),
    ("application/epub+zip", lambda: samples.epub()),
    ("application/zip", lambda: samples.zipped({"a": b"a" * 999, "b": b"b"})),
    ("application/x-tar", lambda: samples.tarred({"a": b"a" * 999, "b": b"b"})),
    ("application/gzip", lambda: samples.tarred({"a": b"a" * 999, "b": b"b"}, "w:gz")),
    ("application/x-xz", lambda: samples.tarred({"a": b"a" * 999, "b": b"b"}, "w:xz")),
    ("image/svg+xml", lambda: hostile.svg("<rect/>")),
    ("video/mp4", lambda: samples.video(seconds=0.5)),
    ("audio/mpeg", lambda: samples.audio(seconds=0.5)),
]


@pytest.mark.parametrize(("mime", "maker"), TRUNCATED, ids=[canonical(mime) for mime, _ in TRUNCATED])
def test_T91_half_a_file_gives_a_reading_or_parser_failed(mime: str, maker: hostile.Maker) -> None:
    if mime.startswith(("video", "audio")) and not kinds(mime):
        pytest.skip("the [media] packages are not installed")
    whole = maker()
    assert attempt(whole, mime)[0] == "read"
    assert attempt(whole[: len(whole) // 2], mime)[0] in ("read", "failed", "unsupported")
    assert attempt(whole[:20], mime)[0] in ("read", "failed", "unsupported")
