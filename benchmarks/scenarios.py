"""What is measured. Each scenario has targets, each with a function that prepares the work of one round.

gateway    this project
bare       the same bytes to and from the bucket with presigned URLs, or the same rows from PostgreSQL
flask      flask_app.py
tus        @tus/server with @tus/s3-store
"""

from __future__ import annotations

import base64
import io
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from uuid import uuid4

import psycopg
from PIL import Image

from benchmarks.harness import JSON, MIB, Stack
from benchmarks.load import Address, Buffer, Connection, Operation, request

SMALL = 10_000  # bytes
CHUNK = 8 * MIB
_BYTES = {"Content-Type": "application/octet-stream"}


@dataclass
class Context:
    """What a round is about."""

    stack: Stack
    rows: int  # files of the owner ``rows-…``
    size: int  # bytes of a large file
    seconds: float
    photos: int
    content: memoryview  # ``size`` random bytes

    @property
    def owner(self) -> str:
        """The owner of the seeded files."""
        return f"rows-{self.rows}"

    def server(self, target: str, owner: str = "uploads") -> tuple[Address, dict[str, str]]:
        """The target's address, and the credentials in headers."""
        if target == "gateway":
            return self.stack.address, self.stack.key(owner)
        return (self.stack.bucket_address, {}) if target == "bare" else (self.stack.others[target][0], {})


@dataclass
class Work:
    """What the clients of a round do: send ``requests`` again and again, or each that ``unique`` makes once, or ``steps`` that
    need the answers to earlier ones."""

    address: Address
    requests: Sequence[bytes] = ()
    unique: Callable[[], bytes] | None = None
    steps: Callable[[int, int], Operation] | None = None
    factor: float = 1  # operations in each step


Prepare = Callable[[Context], Work]
Pieces = Callable[[Context, int], tuple[Buffer, ...]]  # a request with a new file of so many bytes


@dataclass
class Scenario:
    name: str
    title: str
    targets: dict[str, Prepare]
    connections: int = 16
    large: bool = False  # an operation moves a large file


def distinct() -> bytes:
    """The first 16 bytes of a file: no other file begins so, and no file type."""
    return b"\x93\x01\x02" + os.urandom(13)


def steps(address: Address, operation: Callable[[Connection], object], *, factor: int = 1) -> Work:
    """Every connection does it once."""

    def connect(number: int, connections: int) -> Operation:
        connection, rest = Connection(address), iter([operation])
        return lambda: next(rest)(connection)

    return Work(address, steps=connect, factor=factor)


# -- uploads ---------------------------------------------------------------------------------------------------------


def raw(target: str, *, seeded: bool = False) -> Pieces:
    def make(context: Context, size: int) -> tuple[Buffer, ...]:
        address, headers = context.server(target, context.owner if seeded else "uploads")
        where = context.stack.signed("PUT", str(uuid4())) if target == "bare" else f"/api/upload/{uuid4()}.bin"
        body = context.content[:size]
        return request(address, "PUT", where, headers | _BYTES, body) + distinct(), body[16:]

    return make


def form(target: str) -> Pieces:
    def make(context: Context, size: int) -> tuple[Buffer, ...]:
        address, headers = context.server(target)
        begin = f'--7d3f\r\nContent-Disposition: form-data; name="files"; filename="{uuid4()}.bin"\r\n\r\n'.encode()
        end = b"\r\n--7d3f--\r\n"
        headers = headers | {"Content-Type": "multipart/form-data; boundary=7d3f"}
        headers["Content-Length"] = str(len(begin) + size + len(end))
        where = "/api/upload" if target == "gateway" else "/upload"
        return request(address, "POST", where, headers) + begin + distinct(), context.content[16:size], end

    return make


def begin_direct(context: Context, size: int) -> tuple[Buffer, ...]:
    address, headers = context.server("gateway", "direct")
    body = json.dumps({"filename": f"{uuid4()}.bin", "size": size}).encode()
    return (request(address, "POST", "/api/uploads", headers | JSON, body),)


def many(target: str, pieces: Pieces, size: int = SMALL) -> Prepare:
    return lambda context: Work(context.server(target)[0], unique=lambda: b"".join(pieces(context, size)))


def one_large(target: str, pieces: Pieces) -> Prepare:
    return lambda context: steps(
        context.server(target)[0], lambda connection: connection.exchange(*pieces(context, context.size))
    )


def tus(target: str) -> Prepare:
    """In requests of CHUNK bytes."""

    def prepare(context: Context) -> Work:
        address, headers = context.server(target)
        headers = headers | {"Tus-Resumable": "1.0.0"}

        def upload(connection: Connection) -> None:
            name = base64.b64encode(f"{uuid4()}.bin".encode()).decode()
            own = {"Upload-Length": str(context.size), "Upload-Metadata": f"filename {name}"}
            where = "/api/tus" if target == "gateway" else "/files"
            created = connection.exchange(request(address, "POST", where, headers | own, b""))
            where = urlsplit(created.headers["location"]).path
            for at in range(0, context.size, CHUNK):
                first, piece = distinct() if at == 0 else b"", context.content[at : at + CHUNK]
                own = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": str(at)}
                connection.exchange(request(address, "PATCH", where, headers | own, piece) + first, piece[len(first) :])

        return steps(address, upload)

    return prepare


def direct(context: Context) -> Work:
    """Ask for part URLs, send the parts to the bucket, complete."""
    address, headers = context.server("gateway", "direct")

    def upload(connection: Connection) -> None:
        begun = json.loads(connection.exchange(*begin_direct(context, context.size), keep=True).body)
        _put_parts(context, [part["url"] for part in begun["parts"]], begun["part_size"])
        connection.exchange(request(address, "POST", f"/api/uploads/{begun['id']}/complete", headers | JSON, b"{}"))

    return steps(address, upload)


def bare_parts(context: Context) -> Work:
    """A multipart upload to the bucket, without the gateway."""
    stack, address = context.stack, context.stack.bucket_address

    def upload(connection: Connection) -> None:
        key = str(uuid4())
        begun = connection.exchange(request(address, "POST", stack.signed("POST", key, uploads=""), {}, b""), keep=True)
        own = {"uploadId": begun.body.decode().partition("<UploadId>")[2].partition("</")[0]}
        count = -(-context.size // CHUNK)
        urls = [stack.signed("PUT", key, partNumber=str(number), **own) for number in range(1, count + 1)]
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
            for number, etag in enumerate(_put_parts(context, urls, CHUNK), 1)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        connection.exchange(request(address, "POST", stack.signed("POST", key, **own), {}, body))

    return steps(address, upload)


def _put_parts(context: Context, urls: Sequence[str], size: int) -> list[str]:
    """Send the parts one after the other; returns their ETags."""
    address, etags, first = context.stack.bucket_address, list[str](), distinct()
    bucket = Connection(address)
    for at, url in enumerate(map(urlsplit, urls)):
        piece = context.content[at * size : (at + 1) * size]
        head = request(address, "PUT", f"{url.path}?{url.query}", {}, piece)
        etags.append(bucket.exchange(head + first, piece[len(first) :]).headers["etag"])
        first = b""
    return etags


# -- downloads -------------------------------------------------------------------------------------------------------


def _large_file(context: Context, target: str) -> str:
    """Path and query of a large file on this target."""

    def upload() -> str:
        make = form(target) if target == "flask" else raw(target)
        pieces = make(context, context.size)
        answer = Connection(context.server(target)[0]).exchange(*pieces, keep=True)
        if target == "bare":
            return context.stack.signed("GET", bytes(pieces[0]).split(b"?")[0].rpartition(b"/")[2].decode())
        if target == "flask":
            return f"/files/{json.loads(answer.body)['files'][0]['id']}/download"
        return f"/api/files/{json.loads(answer.body)['id']}/download?mode=proxy"

    return context.stack.once(f"large file {target}", upload)


def download(target: str) -> Prepare:
    def prepare(context: Context) -> Work:
        address, headers = context.server(target)
        head = request(address, "GET", _large_file(context, target), headers)
        return steps(address, lambda connection: connection.exchange(head))

    return prepare


def ranges(target: str) -> Prepare:
    """Of 1 MiB at random places."""

    def prepare(context: Context) -> Work:
        (address, headers), path = context.server(target), _large_file(context, target)
        places = [random.randrange(context.size // MIB) * MIB for _ in range(200)]
        fields = [headers | {"Range": f"bytes={place}-{place + MIB - 1}"} for place in places]
        return Work(address, [request(address, "GET", path, own) for own in fields])

    return prepare


# -- reads of metadata -----------------------------------------------------------------------------------------------


def gets(context: Context, targets: Sequence[str], owner: str = "", **headers: str) -> Work:
    """GETs from the gateway with a key of the seeded owner, or another, in turn."""
    address, own = context.server("gateway", owner or context.owner)
    return Work(address, [request(address, "GET", target, own | headers) for target in targets])


def of_owner(*targets: str) -> Prepare:
    return lambda context: gets(context, targets)


def _ids(context: Context, owner: str) -> list[str]:
    """Ids of some of the owner's files."""
    return [file["id"] for file in context.stack.ask("/api/files?limit=200", owner)["items"]]


def metadata(context: Context) -> Work:
    return gets(context, [f"/api/files/{file_id}" for file_id in _ids(context, context.owner)])


def url(context: Context) -> Work:
    _large_file(context, "gateway")
    return gets(context, [f"/api/files/{file_id}/url" for file_id in _ids(context, "uploads")], "uploads")


def deep_page(context: Context) -> Work:
    """The page after the first nine tenths: the cursors of the pages before lead there."""

    def walk() -> str:
        cursor, skip = "", context.rows * 9 // 10
        while skip > 0:
            page = context.stack.ask(f"/api/files?limit={min(200, skip)}{cursor}", context.owner)
            cursor, skip = f"&cursor={quote(page['next_cursor'])}", skip - 200
        return cursor

    return gets(context, [f"{_PAGE}{context.stack.once(f'deep {context.rows}', walk)}"])


def bare_rows(statement: str) -> Prepare:
    """The statement on PostgreSQL, by connections of their own."""

    def prepare(context: Context) -> Work:
        values = [{"id": file_id, "owner": context.owner} for file_id in _ids(context, context.owner)]

        def connect(number: int, connections: int) -> Operation:
            cursor = psycopg.connect(context.stack.database, autocommit=True).cursor(binary=True)
            return lambda: cursor.execute(statement, random.choice(values), prepare=True).fetchall()

        return Work(context.stack.address, steps=connect)

    return prepare


def flask(target: Callable[[Context], str], count: int = 1) -> Prepare:
    """GETs from the Flask application, whose table gets as many rows as are seeded."""

    def prepare(context: Context) -> Work:
        def fill() -> None:
            with psycopg.connect(context.stack.database, autocommit=True) as connection:
                connection.execute(
                    "insert into bench_flask_files (name, size, key, uploaded_at) select 'file ' || n, n, 'key ' || n,"
                    " now() - n * interval '1 minute' from generate_series("
                    "(select count(*) + 1 from bench_flask_files where name like 'file %%'), %s) n",
                    [context.rows],
                )
                connection.execute("vacuum analyze bench_flask_files")

        context.stack.once(f"flask {context.rows}", fill)
        address = context.server("flask")[0]
        return Work(address, [request(address, "GET", target(context)) for _ in range(count)])

    return prepare


def flask_file(suffix: str = "") -> Prepare:
    return flask(lambda context: f"/files/{random.randint(1, context.rows)}{suffix}", 200)


def search(name: str, title: str, *queries: str, **parameters: str) -> Scenario:
    targets = ["/api/search?" + urlencode({"query": query, **parameters}) for query in queries]
    return Scenario(f"search-{name}", f"Search: {title}", {"gateway": of_owner(*targets)}, connections=8)


def large(name: str, title: str, targets: dict[str, Prepare], connections: int = 1) -> Scenario:
    return Scenario(name, title, targets, connections, large=True)


# -- thumbnails ------------------------------------------------------------------------------------------------------


def _photo() -> bytes:
    """A JPEG of 2 megapixels."""
    out = io.BytesIO()
    picture = Image.effect_mandelbrot((480, 270), (-2, -1.5, 1, 1.5), 60)
    picture.resize((1920, 1080)).convert("RGB").save(out, "JPEG", quality=88)
    return out.getvalue()


def make_thumbnails(context: Context) -> Work:
    """Upload photos that differ in their last bytes, and wait until the worker has made the previews of all."""
    (address, headers), photo = context.server("gateway", "photos"), _photo()

    def upload(connection: Connection) -> None:
        def ask(*arguments: Any) -> Any:
            return json.loads(connection.exchange(request(address, *arguments), keep=True).body)

        targets = [f"/api/upload/{uuid4()}.jpg" for _ in range(context.photos)]
        files = [ask("PUT", target, headers, photo + distinct()) for target in targets]
        until = time.monotonic() + 120
        while any(not ask("GET", f"/api/files/{file['id']}", headers)["previews"] for file in files):
            if time.monotonic() > until:
                raise TimeoutError("the worker made no previews")
            time.sleep(0.1)

    return steps(address, upload, factor=context.photos)


def thumbnails(context: Context) -> Work:
    make = make_thumbnails(context).steps
    assert make is not None
    context.stack.once("photos", make(0, 1))
    paths = [f"/api/files/{file_id}/preview?size=256" for file_id in _ids(context, "photos")]
    return gets(context, paths, "photos", Accept="image/webp")


# -- all of them -----------------------------------------------------------------------------------------------------


def _days(first: int, last: int) -> str:
    begin, end = (f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%d}" for days in (first, last))
    return f"date_from={begin}&date_to={end}"


_PAGE = "/api/files?limit=100"
_NEWEST = (
    "select * from files where owner_id = %(owner)s and not is_deleted order by uploaded_at desc, id desc limit 100"
)
_WORDS = ("report", "invoice", "garden", "Rechnung", "Vertrag", "facture", "договор", "請求書", "summary", "museum")
_FILTERED = ("report type:pdf", "invoice after:2024", "garden size:>1mb", "Vertrag tag:work", "museum before:2023")
GATEWAY_BARE, WITH_FLASK = ("gateway", "bare"), ("gateway", "bare", "flask")
SCENARIOS = [
    Scenario("upload-raw", "Upload of 10 KB, raw body", {to: many(to, raw(to)) for to in GATEWAY_BARE}),
    Scenario("upload-form", "Upload of 10 KB, form", {to: many(to, form(to)) for to in ("gateway", "flask")}),
    Scenario(
        "upload-full",
        "Upload of 10 KB into the seeded library",
        {"gateway": many("gateway", raw("gateway", seeded=True))},
    ),
    Scenario(
        "metadata",
        "Metadata of one file",
        {"gateway": metadata, "bare": bare_rows("select * from files where id = %(id)s"), "flask": flask_file()},
    ),
    Scenario(
        "list",
        "Page of 100, the first",
        {"gateway": of_owner(_PAGE), "bare": bare_rows(_NEWEST), "flask": flask(lambda context: "/files?limit=100")},
    ),
    Scenario(
        "list-deep",
        "Page of 100, after nine tenths of the rows",
        {"gateway": deep_page, "flask": flask(lambda context: f"/files?limit=100&page={context.rows * 9 // 1000 + 1}")},
    ),
    Scenario("list-tag", "Page of 100, of a tag", {"gateway": of_owner(f"{_PAGE}&tag=family")}),
    Scenario("list-time", "Page of 100, of 60 days", {"gateway": of_owner(f"{_PAGE}&{_days(120, 60)}")}),
    Scenario("url", "Download URL", {"gateway": url, "flask": flask_file("/url")}),
    search("words", "words", *_WORDS),
    search("phrase", "phrases", '"of the"', '"meeting agenda"', '"Rechnung Garten"'),
    search("prefix", "prefixes", "rep*", "invo*", "Vertr*", "библ*"),
    search("misspelt", "misspellings", "invocie", "reciept", "Rechnnug", "certifcate"),
    search("filter", "words with filters", *_FILTERED),
    search("facets", "words with facets", *_WORDS, facets="file_type,folder,month"),
    Scenario("ranges", "Ranges of 1 MiB", {to: ranges(to) for to in WITH_FLASK}),
    Scenario("thumbnails-made", "Photo of 2 megapixels: upload, thumbnails", {"gateway": make_thumbnails}, 1),
    Scenario("thumbnails", "Thumbnail of 256 pixels, served", {"gateway": thumbnails}),
    large("download", "Download", {to: download(to) for to in WITH_FLASK}),
    large("large-raw", "Raw body", {to: one_large(to, raw(to)) for to in GATEWAY_BARE}),
    large("large-form", "Form", {to: one_large(to, raw(to) if to == "bare" else form(to)) for to in WITH_FLASK}),
    large("large-tus", "tus in chunks of 8 MiB", {"gateway": tus("gateway"), "bare": bare_parts, "tus": tus("tus")}),
    large("large-four", "Raw body, four at once", {to: one_large(to, raw(to)) for to in GATEWAY_BARE}, 4),
    large("direct", "Direct upload in parts", {"gateway": direct, "bare": bare_parts}),
    # The last, since the worker watches the parts of the uploads that it leaves open.
    Scenario(
        "direct-start",
        "Start of a direct upload, 1 GiB, 64 part URLs",
        {"gateway": many("gateway", begin_direct, 1024 * MIB)},
    ),
]
QUICK = (
    "upload-raw,upload-form,metadata,list,list-deep,url,search-words,ranges,thumbnails-made,thumbnails,"
    "download,large-raw,large-tus,direct-start"
)
GROWTH = "upload-full,metadata,list,list-deep,list-tag,search-words,search-filter"
