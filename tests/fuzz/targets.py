"""What is read from clients, each as a function of arbitrary bytes that raises AssertionError where a promise is broken.

``make fuzz`` runs them for minutes (run.py), and test_targets.py for a moment in each test run."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO

from api.form_data import Field, FormLimits, FormReader
from core import ietf, strict_json, structured_fields, tus
from core.content_types import canonical, may_inline, resolve, served_type
from core.cursors import Cursors
from core.disposition import content_disposition
from core.errors import (
    GatewayError,
    InvalidCursor,
    InvalidInput,
    InvalidName,
    MalformedUpload,
    RangeNotSatisfiable,
    TypeMismatch,
)
from core.names import clean_name, extension, name_key, numbered
from core.ranges import etag_matches, if_range_matches, parse_range
from core.search_query import MAX_TERMS, parse
from core.tokenizer import text_vector
from parsers import ParserFailed, place
from services.library.sniff import detect

BOUNDARY = "b"
_LIMITS = FormLimits(max_files=4, max_segments=8, max_field_size=64, max_fields_size=128, max_header_size=256)
_CURSORS = Cursors([b"fuzz"])


class _Pieces(BytesIO):
    """A body of which each read returns a few bytes only."""

    def __init__(self, data: bytes, step: int):
        super().__init__(data)
        self._step = step

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(self._step, size) if size and size > 0 else self._step)


def _form(data: bytes, step: int, *, known: bool) -> object:
    """The parts of a form, or the error that ends it."""
    parts: list[object] = []
    try:
        for part in FormReader(
            _Pieces(data, step), f"multipart/form-data; boundary={BOUNDARY}", len(data) if known else None, _LIMITS
        ):
            parts.append(part if isinstance(part, Field) else (part.name, part.filename, part.read(-1)))
    except GatewayError as error:
        return type(error)
    return parts


def form(data: bytes) -> None:
    """A form is the same form however it arrives. A bare line break in a header may end it, since the parser sees it only at
    the end of a read."""
    whole = _form(data, 1 << 20, known=True)
    assert _form(data, 1 << 20, known=False) == whole
    if isinstance(whole, list):
        assert _form(data, 1 + len(data) % 7, known=True) in (whole, MalformedUpload)
        assert sum(len(part[2]) for part in whole if isinstance(part, tuple)) <= len(data)


def name(data: bytes) -> None:
    """A clean name obeys every rule, and cleaning it again changes nothing."""
    try:
        clean = clean_name(data.decode("utf-8", "surrogatepass"))
    except (InvalidName, UnicodeDecodeError):
        return
    assert clean == clean_name(clean)
    for made in (clean, numbered(clean, 7)):
        assert 0 < len(made.encode()) <= 255
        assert unicodedata.is_normalized("NFC", made)
        assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or char in "/\\" for char in made)
    assert extension(clean) == extension(clean.upper()) or not clean.isascii()
    assert name_key(clean) == name_key(name_key(clean))
    header = content_disposition("attachment", clean)
    assert header.isascii()
    assert header.isprintable()
    assert header.count('"') == 2


def ranges(data: bytes) -> None:
    """A range lies inside the file."""
    size, header = int.from_bytes(data[:4], "big"), data[4:].decode("latin-1")
    with suppress(RangeNotSatisfiable):
        found = parse_range(header, size)
        assert found is None or 0 <= found.first <= found.last < size
    if_range_matches(header, '"a"')
    etag_matches(header, '"a"', weak=bool(size & 1))


def search(data: bytes) -> None:
    """Every string is a query, of bounded size; every text has an index entry that PostgreSQL can take."""
    text = data.decode("utf-8", "surrogatepass") if _is_text(data) else data.decode("latin-1")
    tree = parse(text)
    assert sum(map(len, tree.groups)) <= MAX_TERMS
    for term in tree.terms:
        assert term.text
        assert "\0" not in term.key + "".join(term.words) + (term.token or "")
    vector, words = text_vector(text.replace("\0", " "))
    assert len(vector.encode("utf-8", "surrogatepass")) < 1 << 20 or len(words) > 1


def tus_headers(data: bytes) -> None:
    """A header of tus is a value or InvalidInput, and metadata can be stored as JSON."""
    text = data.decode("latin-1")
    with suppress(InvalidInput):
        assert 0 <= tus.length(text, "Upload-Length") < 2**63
    with suppress(InvalidInput):
        json.dumps(tus.custom(tus.metadata(text)), ensure_ascii=False).encode()
    with suppress(InvalidInput):
        tus.checksum(text)
    with suppress(InvalidInput):
        tus.concat(text)


def digest_headers(data: bytes) -> None:
    """A structured field is a value of its type, or absent."""
    text = data.decode("latin-1")
    assert structured_fields.boolean(text) in (None, True, False)
    assert (structured_fields.natural(text) or 0) >= 0
    assert set(map(len, structured_fields.digests(text).values())) <= {32, 64}
    assert ietf.version(text) in ietf.VERSIONS
    for version in ietf.VERSIONS:
        ietf.completes(version, text, text)


def content(data: bytes) -> None:
    """What is detected is a type; nothing active is shown by a browser, whatever the name says."""
    end, head = data[:1].decode("latin-1"), data[1:]
    found = detect(head)
    assert canonical(found.mime) == found.mime
    for ending in ("png", "txt", "html", "svg", "csv", "docx", end):
        with suppress(TypeMismatch):
            mime = resolve(ending, found)
            assert "\n" not in served_type(mime)
            assert not may_inline(mime) or not any(word in mime for word in ("html", "svg", "script", "xml"))


def json_body(data: bytes) -> None:
    """What is accepted is what every JSON parser reads."""
    with suppress(ValueError):
        value = strict_json.loads(data)
        assert value == json.loads(data)


def cursor(data: bytes) -> None:
    """Nobody can make a cursor."""
    with suppress(InvalidCursor):
        raise AssertionError(_CURSORS.open(data.decode("latin-1"), scope="fuzz"))


def location(data: bytes) -> None:
    """Patches have equal length, and after them nothing is left to remove."""
    try:
        found, blobs = place.parse(data, {})
    except ParserFailed:
        return
    clean = bytearray(data)
    for at, blob in zip(found["offsets"], blobs, strict=True):
        assert at + len(blob) <= len(data)
        clean[at : at + len(blob)] = blob
    assert place.parse(bytes(clean), {})[1] == []


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


_HEAD = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nx\r\n--b--\r\n'
_TIFF = b"II*\0\x08\0\0\0\x01\0\x25\x88\x04\0\x01\0\0\0\x1a\0\0\0\0\0\0\0\x01\0\x01\0\x02\0\x02\0\0\0N\0\0\0\0\0\0\0"
TARGETS: dict[Callable[[bytes], None], tuple[bytes, ...]] = {  # with examples of what clients send
    form: (
        _HEAD,
        _HEAD.replace(b'; filename="a.txt"', b""),
        _HEAD.replace(b'"a.txt"', b"x; filename*=UTF-8''%e2%82%ac"),
    ),
    name: (b"Plan (final).tar.gz", "e\u0301 \u202egpj.exe".encode(), b"../a\\b.txt", "日本語.pdf".encode()),
    ranges: (
        b"\0\0\1\0bytes=0-5",
        b"\0\0\0\1bytes=-1",
        b'\0\0\0\0W/"a", "a"',
        b"\0\0\0\1Sat, 28 Nov 2026 00:00:00 GMT",
    ),
    search: (b'"a phrase" -not OR prefix* name:x', b"type:image/* size:1mb..5mb before:2026-01-02", "naïve ﬁ".encode()),
    tus_headers: (
        b"filename YQ==,filetype",
        b"sha1 2jmj7l5rSw0yVb/vlWAYkK/YBwk=",
        b"final;/api/tus/a /api/tus/b",
        b"12",
    ),
    digest_headers: (b"sha-256=:RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o=:", b"?1", b"12;a=b", b"a=(1 2);q"),
    content: (b"p<svg xmlns=''>", b"h#!/usr/bin/env python", b"xPK\3\4\x14\0\0\0\0\0", b"\xff\xfe<\0h\0t\0m\0l\0>\0"),
    json_body: (b'{"a": [1, 2.5, null, "\\ud83d\\ude00"]}', b"1e400", b"9223372036854775808"),
    cursor: (_CURSORS.sign(["a", 1], scope="another").encode(),),
    location: (_TIFF, b"\xff\xd8\xff\xe1\0\x3aExif\0\0" + _TIFF, b"<x:xmpmeta exif:GPSLatitude='1'/>"),
}
