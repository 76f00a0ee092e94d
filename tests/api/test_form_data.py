from __future__ import annotations

import contextlib
import io
import time
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.form_data import ByteSource, Field, FilePart, FormLimits, FormReader
from core.errors import GatewayError, MalformedUpload, RequestTooLarge, TooManyFiles

BOUNDARY = "----WebKitFormBoundary7MA4YWxk"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
Segment = tuple[str, bytes]


def segment(disposition: str, *headers: str) -> str:
    return "\r\n".join([f"Content-Disposition: form-data; {disposition}", *headers])


def body(*segments: Segment, end: bool = True) -> bytes:
    parts = b"".join(f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + data + b"\r\n" for head, data in segments)
    return parts + (f"--{BOUNDARY}--\r\n".encode() if end else b"")


class Trickle:
    """Returns at most ``step`` bytes a read, like a slow connection."""

    def __init__(self, data: bytes, step: int):
        self.stream, self.step = io.BytesIO(data), step

    def read(self, size: int, /) -> bytes:
        return self.stream.read(min(size, self.step))


def read_all(
    data: bytes | ByteSource, *, length: int | None = -1, content_type: str = TYPE, limits: FormLimits | None = None
) -> list[tuple[str, ...] | tuple[str, str, bytes]]:
    stream: ByteSource = io.BytesIO(data) if isinstance(data, bytes) else data
    if length == -1:
        length = len(data) if isinstance(data, bytes) else None
    found: list[tuple[str, ...] | tuple[str, str, bytes]] = []
    for item in FormReader(stream, content_type, length, limits):
        found.append((item.name, item.value) if isinstance(item, Field) else (item.name, item.filename, item.read(-1)))
    return found


FILE = segment('name="files"; filename="a.txt"', "Content-Type: text/plain")


def test_fields_and_files_keep_their_order() -> None:
    data = body(
        (segment('name="folder_id"'), b"7"), (FILE, b"hello"), (segment('name="tags"'), "größe".encode()), (FILE, b"")
    )
    assert read_all(data) == [
        ("folder_id", "7"),
        ("files", "a.txt", b"hello"),
        ("tags", "größe"),
        ("files", "a.txt", b""),
    ]
    assert read_all(data, length=None) == read_all(data)
    assert read_all(Trickle(data, 1)) == read_all(data)


def test_a_file_is_read_in_pieces_or_skipped() -> None:
    form = FormReader(io.BytesIO(body((FILE, b"0123456789"), (FILE, b"second"))), TYPE, None)
    items = iter(form)
    first = next(items)
    assert isinstance(first, FilePart)
    assert (first.content_type, first.read(0), first.read(4), first.bytes_read) == ("text/plain", b"", b"0123", 4)
    second = next(items)  # the rest of the first is skipped
    assert isinstance(second, FilePart)
    assert first.read() == b""
    assert second.read(100) == b"second"
    assert second.read(100) == second.read(100) == b""
    assert next(items, None) is None


@given(
    st.lists(st.binary(max_size=200).filter(lambda data: BOUNDARY.encode() not in data), max_size=5),
    st.integers(1, 300),
)
def test_any_bytes_arrive_unchanged(files: list[bytes], step: int) -> None:
    data = body(*((FILE, content) for content in files))
    assert [item[-1] for item in read_all(Trickle(data, step))] == files


@given(st.binary(min_size=1, max_size=60))
def test_bytes_like_the_boundary_are_content(noise: bytes) -> None:
    content = b"\r\n--" + BOUNDARY.encode()[:-1] + noise.replace(b"k", b"K") + b"\r\n--\r\n\r"
    assert read_all(body((FILE, content)))[0][-1] == content


@pytest.mark.parametrize(
    ("disposition", "filename"),
    [
        ('name="files"; filename="Plan (final).pdf"', "Plan (final).pdf"),
        ('name="files"; filename="日本語.pdf"', "日本語.pdf"),
        ('name="files"; filename="a%22b%0D%0Ac.txt"', 'a"b\r\nc.txt'),  # as browsers escape; T21 covers cleaning
        ('name="files"; filename="100%25.txt"', "100%25.txt"),  # nothing else is decoded
        ('name="files"; filename="../../x"', "../../x"),
        ("name=files; filename=plain.txt", "plain.txt"),
        ("name=\"files\"; filename*=UTF-8''a%0d%0aX-Evil%3A%201", "a\r\nX-Evil: 1"),
        ('name="files"; filename="x"; filename*=UTF-8\'\'%E2%82%AC.txt', "€.txt"),
        ("name=\"files\"; filename*=iso-8859-1'en'%A3.txt", "£.txt"),
        ('name="files"; filename="b; filename*=UTF-8\'\'evil.exe"', "b; filename*=UTF-8''evil.exe"),
        ("name=\"files\"; filename*=windows-1252''%80.txt", "€.txt"),
        ('name="files"; filename*="utf-8\'\'a%20b.txt"', "a b.txt"),
        ("name=files; filename=\"=?utf-8?B?4oKsLnR4dA==?=\"; filename*=utf-8''%E2%82%AC.txt", "€.txt"),  # .NET
        ("name=files; filename*0*=utf-8''%E2%82; filename*1*=%AC; filename*2=\"5%41.txt\"; filename*4=x", "€5%41.txt"),
        ('name=files; filename*1=".txt"; filename=x; filename*0="€5"', "€5.txt"),
        ("name=files; filename=my photo (1).jpg", "my photo (1).jpg"),
        ("name=files; filename=C:\\My files\\a.txt; size=1", "C:\\My files\\a.txt"),
        ('name="files"; filename="C:\\new\\a.txt"', "C:\\new\\a.txt"),
        ('name="files"; filename="a\\"b\\".txt"', 'a"b".txt'),
        ('name="files"; filename="a\\"', "a\\"),
        ('name="files";filename="a;b=c.txt" ; x', "a;b=c.txt"),
    ],
)
def test_T22_file_names_are_decoded_once(disposition: str, filename: str) -> None:
    assert read_all(body((segment(disposition), b"x")))[0][:2] == ("files", filename)


@pytest.mark.parametrize(
    ("filename", "meant"),
    [
        ("=?utf-8?B?0J7RgtGH0ZHRgi50eHQ=?=", "Отчёт.txt"),
        ("=?UTF-8?b?0J7RgtGH0ZHRgi50eHQ?=", "Отчёт.txt"),  # without its padding
        ("=?utf-8?B?w7/Dvn5+w7/Dvy50eHQ=?=", "ÿþ~~ÿÿ.txt"),  # with a slash
        ("=?windows-1251?Q?=CE=F2=F7=B8=F2_1.txt?=", "Отчёт 1.txt"),
        ("=?koi8-r?B?79TexdQ=?= 1.txt", "Отчет 1.txt"),
        ("Final =?iso-8859-1?q?gr=FC=DFe?=.txt", "Final grüße.txt"),
        ("=?utf-8?B?0J7R?= =?UTF-8?B?gtGH0ZHRgg==?=\t=?utf-8?Q?.txt?=", "Отчёт.txt"),  # split in a character
        ("=?iso-2022-jp?B?GyRCRnxLXBsoQg==?= =?utf-8*ja?Q?=E8=AA=9E.txt?=", "日本語.txt"),
        ("=?utf-8?B?not base64?=", None),
        ("=?utf-8?B?gtGH?=.txt", None),  # not UTF-8
        ("=?rot13?Q?abc?=", None),
        ("=?utf-8?X?abc?=", None),
        ("=?utf-8?Q?abc", None),
        ("a=?b?.txt", None),
    ],
)
def test_encoded_words_in_file_names(filename: str, meant: str | None) -> None:
    for quoted in (f'"{filename}"', filename):
        found = read_all(body((segment(f"name=files; filename={quoted}"), b"x")))
        assert found == [("files", filename if meant is None else meant, b"x")]


@pytest.mark.parametrize(
    ("charset", "encoding"),
    [
        ("ISO-8859-1", "latin-1"),
        ('"windows-1252"', "cp1252"),
        ("US-ASCII", "utf-8"),
        ("utf8", "utf-8"),
        ("utf-16", "utf-16"),
        ("UTF-16BE", "utf-16-be"),
        ("Cp850", "cp850"),
    ],
)
def test_a_field_has_the_charset_that_it_names(charset: str, encoding: str) -> None:
    field = segment('name="tags"', f"Content-Type: text/plain; charset={charset}", "Content-Transfer-Encoding: 8bit")
    assert read_all(body((field, "Grüße".encode(encoding)))) == [("tags", "Grüße")]


@pytest.mark.parametrize(
    ("charset", "text"),
    [("windows-1252", "Grüße"), ("Shift_JIS", "表 ソ"), ("gb2312", "汉字"), ("UTF-16", "ü"), ("", "ü")],
)
def test_a_form_may_name_its_charset(charset: str, text: str) -> None:
    encoding = charset if charset not in ("", "UTF-16") else "utf-8"
    utf_8 = segment('name="tags"', "Content-Type: text/plain; charset=utf-8")
    named = segment('name="_charset_"'), charset.encode()
    data = body(named, (segment('name="tags"'), text.encode(encoding)), end=False)
    data += body((segment('name="files"; filename="NAME.txt"'), b"x"), (utf_8, "ü".encode()))
    data = data.replace(b"NAME", text.encode(encoding))
    assert read_all(data)[1:] == [("tags", text), ("files", f"{text}.txt", b"x"), ("tags", "ü")]


@pytest.mark.parametrize(
    "content_type",
    [
        f'multipart/form-data; boundary="{BOUNDARY}"',
        f"Multipart/Form-Data;charset=utf-8;Boundary={BOUNDARY}",
        f"multipart/form-data; boundary= {BOUNDARY} ; x",
    ],
)
def test_content_types(content_type: str) -> None:
    assert read_all(body((FILE, b"x")), content_type=content_type) == [("files", "a.txt", b"x")]
    odd = content_type.replace(BOUNDARY, "=_a b/c:d?")
    assert read_all(body((FILE, b"x")).replace(BOUNDARY.encode(), b"=_a b/c:d?"), content_type=odd)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        body((FILE, b"x"), end=False),  # no final boundary
        body((FILE, b"x"))[:-6],  # cut inside the final boundary
        body((FILE, b"x"))[:60],  # cut in a header
        body((segment('name="files"'), b"x")),  # a file field without a file name
        body((segment('name="files"; filename=""'), b"x")),
        body(("X-Other: 1", b"x")),  # no Content-Disposition
        body(("Content-Disposition: attachment; filename=x", b"x")),
        body((FILE + "\r\n" + FILE, b"x")),  # two Content-Disposition headers
        body((FILE + "\r\nContent-Transfer-Encoding: base64", b"eA==")),
        body((FILE + "\r\nContent-Length: 5", b"x")),
        body((FILE, b"x"), (segment('name="x"', "Content-Type: multipart/mixed; boundary=y"), b"--y--\r\n")),
        body((segment("name=\"files\"; filename*=UTF-8''%FF"), b"x")),
        body((segment("name=\"files\"; filename*=rot13''x"), b"x")),
        body((segment("name=\"files\"; filename*=''x"), b"x")),
        body((segment('name="tags"'), b"\xff\xfe")),  # a field that isn't UTF-8
        *(
            body((segment('name="tags"', f"Content-Type: text/plain; charset={charset}"), b"\xff"))
            for charset in ("utf-8", "rot13", "idna", "hex", "unicode_escape", "zip", "undefined", "x" * 999)
        ),
        body((segment('name="_charset_"'), b"rot13"), (FILE, b"x")),
        body((segment('name="_charset_"'), b"shift_jis"), (segment('name="tags"'), b"\x81")),
        body((FILE, b"x")).replace(b"a.txt", b"\xe4.txt"),  # a raw Latin-1 name
        body((FILE, b"x")).replace(b"\r\n", b"\n"),
        b"x" * 200_000 + body((FILE, b"x")),  # a long preamble
        body((FILE, b"x")) + b"x" * 2_000_000,  # a long epilogue
    ],
)
def test_T4_malformed_bodies(data: bytes) -> None:
    for length in (None, len(data)):
        with pytest.raises(MalformedUpload):
            read_all(data, length=length)
    with pytest.raises(MalformedUpload):
        read_all(Trickle(data, 100))


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=; x=y",
        "multipart/form-data; boundary=" + "x" * 201,
        "multipart/mixed; boundary=x",
        "application/x-www-form-urlencoded",
        'multipart/form-data; boundary="a\nb"',
    ],
)
def test_T4_invalid_content_types(content_type: str) -> None:
    with pytest.raises(MalformedUpload):
        FormReader(io.BytesIO(), content_type, None)


def test_T4_empty_file_inputs_are_ignored() -> None:
    empty = segment('name="files"; filename=""', "Content-Type: application/octet-stream")
    assert read_all(body((empty, b""))) == []
    assert read_all(body((empty, b""), (FILE, b"x"))) == [("files", "a.txt", b"x")]
    assert read_all(body()) == []


@given(st.integers(0, 10_000), st.booleans())
def test_T3_a_body_cut_anywhere_is_never_complete(cut: int, length_known: bool) -> None:
    data = body((FILE, b"first"), (segment('name="tags"'), b"a"), (FILE, b"\r\n--second"))
    cut %= len(data) - 2  # without the last CRLF it would be complete, if the length is unknown
    with pytest.raises(MalformedUpload):
        read_all(io.BytesIO(data[:cut]), length=len(data) if length_known else None)


def test_T3_a_body_shorter_than_its_length() -> None:
    data = body((FILE, b"x"))
    with pytest.raises(MalformedUpload):
        read_all(data, length=len(data) + 1)
    with pytest.raises(MalformedUpload):
        read_all(data, length=len(data) - 3)  # inside the last boundary


@pytest.mark.parametrize("error", [ConnectionResetError, TimeoutError, OSError])
def test_T3_reading_on_after_a_lost_connection_raises(error: type[OSError]) -> None:
    class Broken(Trickle):
        def read(self, size: int, /) -> bytes:
            return super().read(size) or self.fail()

        def fail(self) -> bytes:
            raise error

    form = FormReader(Broken(body((FILE, b"x" * 500), end=False)[:400], 300), TYPE, 10_000)
    part = next(iter(form))
    assert isinstance(part, FilePart)
    assert part.read(1000)
    for _ in range(3):  # reading on must not look like the end of the form
        with pytest.raises(MalformedUpload):
            part.read(-1)
    with pytest.raises(MalformedUpload):
        next(iter(form))


def test_T6_many_parts() -> None:
    field, file = (segment('name="tags"'), b"x"), (FILE, b"x")
    with pytest.raises(RequestTooLarge):
        read_all(body(*[field] * 5000))
    with pytest.raises(TooManyFiles):
        read_all(body(*[file] * 5000))
    assert len(read_all(body(*[file] * 200))) == 200
    with pytest.raises(TooManyFiles):
        read_all(body(*[file] * 201))
    assert len(read_all(body(*[file] * 3), limits=FormLimits(max_files=3, max_segments=3))) == 3


def test_T6_large_fields_and_headers() -> None:
    with pytest.raises(RequestTooLarge):
        read_all(body((segment('name="tags"'), b"x" * 1_000_000)))
    with pytest.raises(RequestTooLarge):
        read_all(body(*[(segment('name="tags"'), b"x" * 60_000)] * 50))
    with pytest.raises(RequestTooLarge):
        read_all(body((segment('name="tags"', "X-Long: " + "x" * 300_000), b"x")))
    with pytest.raises(RequestTooLarge):
        read_all(body((segment('name="tags"', *["X-Many: 1"] * 1000), b"x")))
    assert read_all(body((segment('name="tags"'), b"x" * 65_536))) == [("tags", "x" * 65_536)]


@pytest.mark.parametrize(
    "unit", ['"\\', '"', ";a=", "; ", "\\", ";filename*", "*=';", ";filename==?a?q?", " =?a?q?b?="]
)
def test_T6_no_header_is_parsed_slowly(unit: str) -> None:
    header = "name=x; filename=" + (unit * 8000)[:8000] + "\\"
    start = time.process_time()
    with contextlib.suppress(GatewayError):
        read_all(body(*[(segment(header), b"x")] * 20))
    assert time.process_time() - start < 5  # quadratic parsing would take minutes


class Endless:
    """A file of ``count`` MiB that is never in memory as a whole."""

    def __init__(self, count: int):
        self.parts: Iterator[bytes] = iter(
            [body((FILE, b""), end=False)[:-2], *[b"\0" * 1024 * 1024] * count, f"\r\n--{BOUNDARY}--\r\n".encode()]
        )

    def read(self, size: int, /) -> bytes:
        return next(self.parts, b"")


def test_T7_memory_does_not_grow_with_the_file() -> None:
    form = FormReader(Endless(256), TYPE, None)
    tracemalloc.start()
    try:
        for part in form:
            assert isinstance(part, FilePart)
            while part.read(64 * 1024):
                pass
            assert part.bytes_read == 256 * 1024 * 1024
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=300))
def test_T4_hostile_bytes_raise_only_known_errors(noise: bytes) -> None:
    for data in (
        noise,
        body((FILE, b"x"))[:40] + noise,
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; ".encode() + noise + body((FILE, b"x")),
    ):
        with contextlib.suppress(MalformedUpload, RequestTooLarge):
            read_all(data)
