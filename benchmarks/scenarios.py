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

from benchmarks.harness import MIB, Stack
from benchmarks.load import Address, Buffer, Connection, Operation, repeated, request

SMALL = 10_000  # bytes
CHUNK = 8 * MIB
_BOUNDARY = "benchmark-boundary-7d3f"
_BYTES = {"Content-Type": "application/octet-stream"}
_JSON = {"Content-Type": "application/json"}


@dataclass
class Context:
    """What a round is about."""

    stack: Stack
    rows: int  # seeded files
    size: int  # bytes of a large file
    seconds: float
    photos: int
    content: memoryview  # ``size`` random bytes

    @property
    def owner(self) -> str:
        """The owner of the seeded files, which are made when they are first needed."""
        owner = f"rows-{self.rows}"
        command = ["seed-demo", f"--files={self.rows}", f"--objects={min(20, self.rows)}", f"--owner={owner}"]
        self.stack.once(owner, lambda: self.stack.command(*command))
        return owner


@dataclass
class Work:
    """What the clients of one round do: ``requests`` if none needs the answer to another, else ``steps``."""

    address: Address
    requests: Sequence[bytes] = ()
    once: bool = False  # each request only once
    steps: Callable[[int, int], Operation] | None = None
    factor: float = 1  # operations in each step

    def connect(self, number: int, connections: int) -> Operation:
        return (self.steps or repeated(self.address, self.requests, once=self.once))(number, connections)


Prepare = Callable[[Context], Work]
Pieces = Callable[[Context, int], tuple[Buffer, ...]]  # a request with a new file of so many bytes


@dataclass
class Scenario:
    name: str
    title: str
    targets: dict[str, Prepare]
    connections: int = 16
    large: bool = False  # an operation moves a large file
    quick: bool = True  # part of `make bench-quick`


def server(context: Context, target: str, owner: str = "uploads") -> tuple[Address, dict[str, str]]:
    """The target's address, and the credentials in headers."""
    stack = context.stack
    if target == "gateway":
        return stack.address, stack.key(owner)
    return (stack.bucket_address, {}) if target == "bare" else (stack.others[target][0], {})


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
        address, headers = server(context, target, context.owner if seeded else "uploads")
        where = context.stack.signed("PUT", str(uuid4())) if target == "bare" else f"/api/upload/{uuid4()}.bin"
        body = context.content[:size]
        return request(address, "PUT", where, headers | _BYTES, body) + distinct(), body[16:]

    return make


def form(target: str) -> Pieces:
    def make(context: Context, size: int) -> tuple[Buffer, ...]:
        address, headers = server(context, target)
        part = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{uuid4()}.bin"\r\n'
        begin, end = (
            f"{part}Content-Type: application/octet-stream\r\n\r\n".encode(),
            f"\r\n--{_BOUNDARY}--\r\n".encode(),
        )
        headers = headers | {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
        headers["Content-Length"] = str(len(begin) + size + len(end))
        where = "/api/upload" if target == "gateway" else "/upload"
        return request(address, "POST", where, headers) + begin + distinct(), context.content[16:size], end

    return make


def begin_direct(context: Context, size: int) -> tuple[Buffer, ...]:
    address, headers = server(context, "gateway", "direct")
    body = json.dumps({"filename": f"{uuid4()}.bin", "size": size}).encode()
    return (request(address, "POST", "/api/uploads", headers | _JSON, body),)


def many(target: str, pieces: Pieces, size: int = SMALL) -> Prepare:
    """More distinct requests than a round needs."""
    a_second = 4_000 if target == "bare" else 1_500

    def prepare(context: Context) -> Work:
        made = [b"".join(pieces(context, size)) for _ in range(round(context.seconds * a_second))]
        return Work(server(context, target)[0], made, once=True)

    return prepare


def one_large(target: str, pieces: Pieces) -> Prepare:
    return lambda context: steps(
        server(context, target)[0], lambda connection: connection.exchange(*pieces(context, context.size))
    )


def tus(target: str) -> Prepare:
    """In requests of CHUNK bytes."""

    def prepare(context: Context) -> Work:
        address, headers = server(context, target)
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
    address, headers = server(context, "gateway", "direct")

    def upload(connection: Connection) -> None:
        begun = json.loads(connection.exchange(*begin_direct(context, context.size), keep=True).body)
        _put_parts(context, [part["url"] for part in begun["parts"]], begun["part_size"])
        connection.exchange(request(address, "POST", f"/api/uploads/{begun['id']}/complete", headers | _JSON, b"{}"))

    return steps(address, upload)


def bare_parts(context: Context) -> Work:
    stack, address = context.stack, context.stack.bucket_address

    def upload(connection: Connection) -> None:
        key, numbers = str(uuid4()), range(1, -(-context.size // CHUNK) + 1)
        begun = connection.exchange(request(address, "POST", stack.signed("POST", key, uploads=""), {}, b""), keep=True)
        upload_id = begun.body.decode().partition("<UploadId>")[2].partition("</")[0]
        urls = [stack.signed("PUT", key, partNumber=str(number), uploadId=upload_id) for number in numbers]
        etags = _put_parts(context, urls, CHUNK)
        parts = "".join(
            f"<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>"
            for n, etag in zip(numbers, etags, strict=True)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        connection.exchange(request(address, "POST", stack.signed("POST", key, uploadId=upload_id), {}, body))

    return steps(address, upload)


def _put_parts(context: Context, urls: Sequence[str], size: int) -> list[str]:
    """Send the parts one after the other; returns their ETags."""
    address, bucket, etags = context.stack.bucket_address, Connection(context.stack.bucket_address), []
    for number, url in enumerate(urls):
        parts, piece = urlsplit(url), context.content[number * size : (number + 1) * size]
        first = distinct() if number == 0 else b""
        head = request(address, "PUT", f"{parts.path}?{parts.query}", {}, piece)
        etags.append(bucket.exchange(head + first, piece[len(first) :]).headers["etag"])
    return etags


# -- downloads -------------------------------------------------------------------------------------------------------


def _large_file(context: Context, target: str) -> str:
    """Path and query of a large file on this target."""

    def upload() -> str:
        make = form(target) if target == "flask" else raw(target)
        pieces = make(context, context.size)
        answer = Connection(server(context, target)[0]).exchange(*pieces, keep=True)
        if target == "bare":
            key = bytes(pieces[0]).split(b"?")[0].rpartition(b"/")[2].decode()
            return context.stack.signed("GET", key)
        if target == "flask":
            return f"/files/{json.loads(answer.body)['files'][0]['id']}/download"
        return f"/api/files/{json.loads(answer.body)['id']}/download?mode=proxy"

    return context.stack.once(f"large file {target}", upload)


def download(target: str) -> Prepare:
    def prepare(context: Context) -> Work:
        address, headers = server(context, target)
        head = request(address, "GET", _large_file(context, target), headers)
        return steps(address, lambda connection: connection.exchange(head))

    return prepare


def ranges(target: str) -> Prepare:
    """Of 1 MiB at random places."""

    def prepare(context: Context) -> Work:
        (address, headers), path = server(context, target), _large_file(context, target)
        places = [random.randrange(context.size // MIB) * MIB for _ in range(200)]
        fields = [headers | {"Range": f"bytes={place}-{place + MIB - 1}"} for place in places]
        return Work(address, [request(address, "GET", path, own) for own in fields])

    return prepare


# -- reads of metadata -----------------------------------------------------------------------------------------------


def gets(context: Context, targets: Sequence[str], owner: str = "", **headers: str) -> Work:
    """GETs from the gateway with a key of the seeded owner, or another, in turn."""
    address, own = server(context, "gateway", owner or context.owner)
    return Work(address, [request(address, "GET", target, own | headers) for target in targets])


def of_owner(*targets: str) -> Prepare:
    return lambda context: gets(context, targets)


def _files(context: Context, query: str, owner: str) -> list[Any]:
    return json.loads(context.stack.ask("GET", f"/api/files?limit=200{query}", owner))["items"]


def _seeded(context: Context) -> list[str]:
    """Ids of some seeded files."""
    return context.stack.once(
        f"ids {context.rows}", lambda: [file["id"] for file in _files(context, "", context.owner)]
    )


def metadata(context: Context) -> Work:
    return gets(context, [f"/api/files/{file_id}" for file_id in _seeded(context)])


def url(context: Context) -> Work:
    _large_file(context, "gateway")
    return gets(context, [f"/api/files/{file['id']}/url" for file in _files(context, "", "uploads")], "uploads")


def deep_page(context: Context) -> Work:
    """The page after the first nine tenths."""

    def walk() -> str:
        cursor, skip = "", context.rows * 9 // 10
        while skip > 0:
            page = context.stack.ask("GET", f"/api/files?limit={min(200, skip)}{cursor}", context.owner)
            cursor, skip = f"&cursor={quote(json.loads(page)['next_cursor'])}", skip - 200
        return cursor

    return gets(context, [f"/api/files?limit=100{context.stack.once(f'deep {context.rows}', walk)}"])


def bare_rows(statement: str) -> Prepare:
    """The statement on PostgreSQL, by connections of their own."""

    def prepare(context: Context) -> Work:
        ids, owner = _seeded(context), context.owner

        def connect(number: int, connections: int) -> Operation:
            cursor = psycopg.connect(context.stack.database, autocommit=True).cursor(binary=True)
            values = [{"id": file_id, "owner": owner} for file_id in ids]
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
                    " now() - n * interval '1 minute' from generate_series(1, %s) n",
                    [context.rows],
                )
                connection.execute("vacuum analyze bench_flask_files")

        context.stack.once("flask rows", fill)
        address = server(context, "flask")[0]
        return Work(address, [request(address, "GET", target(context)) for _ in range(count)])

    return prepare


def flask_file(suffix: str = "") -> Prepare:
    return flask(lambda context: f"/files/{random.randint(1, context.rows)}{suffix}", 200)


def search(name: str, title: str, *queries: str, quick: bool = False, **parameters: str) -> Scenario:
    targets = ["/api/search?" + urlencode({"query": query, **parameters}) for query in queries]
    return Scenario(f"search-{name}", f"Search: {title}", {"gateway": of_owner(*targets)}, connections=8, quick=quick)


# -- thumbnails ------------------------------------------------------------------------------------------------------


def _photo() -> bytes:
    """A JPEG of 2 megapixels that no other is equal to."""
    picture = Image.effect_mandelbrot((480, 270), (-2, -1.5, 1, 1.5), 60).resize((1920, 1080)).convert("RGB")
    picture.paste(Image.frombytes("RGB", (64, 64), os.urandom(3 * 64 * 64)))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=88)
    return out.getvalue()


def _with_previews(context: Context) -> list[Any]:
    return [file for file in _files(context, "", "photos") if file["previews"]]


def make_thumbnails(context: Context) -> Work:
    """Upload photos, and wait until the worker has made the previews of all."""
    photos, before = [_photo() for _ in range(context.photos)], len(_with_previews(context))
    address, headers = server(context, "gateway", "photos")

    def upload(connection: Connection) -> None:
        for photo in photos:
            connection.exchange(request(address, "PUT", f"/api/upload/{uuid4()}.jpg", headers, photo))
        until = time.monotonic() + 120
        while len(_with_previews(context)) < before + len(photos):
            if time.monotonic() > until:
                raise TimeoutError("the worker made no previews")
            time.sleep(0.2)

    return steps(address, upload, factor=len(photos))


def thumbnails(context: Context) -> Work:
    context.stack.once("photos", lambda: _with_previews(context) or make_thumbnails(context).connect(0, 1)())
    paths = [f"/api/files/{file['id']}/preview?size=256" for file in _with_previews(context)]
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
_FILTERED = (
    "report type:pdf",
    "invoice after:2024-01-01",
    "garden size:>1mb",
    "Vertrag tag:work",
    "museum before:2023",
)
GATEWAY_BARE, WITH_FLASK = ("gateway", "bare"), ("gateway", "bare", "flask")
SCENARIOS = [
    Scenario("upload-raw", "Upload of 10 KB, raw body", {to: many(to, raw(to)) for to in GATEWAY_BARE}),
    Scenario("upload-form", "Upload of 10 KB, form", {to: many(to, form(to)) for to in ("gateway", "flask")}),
    Scenario(
        "upload-full",
        "Upload of 10 KB into the seeded library",
        {"gateway": many("gateway", raw("gateway", seeded=True))},
        quick=False,
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
    Scenario("list-tag", "Page of 100, of a tag", {"gateway": of_owner(f"{_PAGE}&tag=family")}, quick=False),
    Scenario("list-time", "Page of 100, of 60 days", {"gateway": of_owner(f"{_PAGE}&{_days(120, 60)}")}, quick=False),
    Scenario("url", "Download URL", {"gateway": url, "flask": flask_file("/url")}),
    Scenario(
        "direct-start",
        "Start of a direct upload, 1 GiB, 64 part URLs",
        {"gateway": many("gateway", begin_direct, 1024 * MIB)},
    ),
    search("words", "words", *_WORDS, quick=True),
    search("phrase", "phrases", '"of the"', '"meeting agenda"', '"Rechnung Garten"'),
    search("prefix", "prefixes", "rep*", "invo*", "Vertr*", "библ*"),
    search("misspelt", "misspellings", "invocie", "reciept", "Rechnnug", "certifcate"),
    search("filter", "words with filters", *_FILTERED),
    search("facets", "words with facets", *_WORDS, facets="file_type,folder,month"),
    Scenario("ranges", "Ranges of 1 MiB", {to: ranges(to) for to in WITH_FLASK}),
    Scenario("download", "Download", {to: download(to) for to in WITH_FLASK}, 1, large=True),
    Scenario("large-raw", "Raw body", {to: one_large(to, raw(to)) for to in GATEWAY_BARE}, 1, large=True),
    Scenario(
        "large-form",
        "Form",
        {to: one_large(to, raw(to) if to == "bare" else form(to)) for to in WITH_FLASK},
        connections=1,
        large=True,
        quick=False,
    ),
    Scenario(
        "large-tus",
        "tus in chunks of 8 MiB",
        {"gateway": tus("gateway"), "bare": bare_parts, "tus": tus("tus")},
        connections=1,
        large=True,
    ),
    Scenario(
        "large-four",
        "Raw body, four at once",
        {to: one_large(to, raw(to)) for to in GATEWAY_BARE},
        connections=4,
        large=True,
        quick=False,
    ),
    Scenario("direct", "Direct upload in parts", {"gateway": direct, "bare": bare_parts}, 1, large=True, quick=False),
    Scenario("thumbnails-made", "Photo of 2 megapixels: upload, thumbnails", {"gateway": make_thumbnails}, 1),
    Scenario("thumbnails", "Thumbnail of 256 pixels, served", {"gateway": thumbnails}),
]
