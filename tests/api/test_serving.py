"""Downloads: safe headers, ranges, and access to public files."""

from __future__ import annotations

import hashlib
import io
import time
import zipfile
from collections.abc import Callable
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
import requests
from PIL import Image
from werkzeug.http import http_date

from db import Database
from services import Services
from tests.client import SANDBOX, Answer, GatewayClient
from tests.rows import sql
from tests.subtests import with_subtests

CONTENT = bytes(range(256)) * 40


def picture(exif: bool = False, size: tuple[int, int] = (640, 480)) -> bytes:
    buffer = io.BytesIO()
    made = Image.new("RGB", size, (200, 30, 30))
    if exif:
        tags = Image.Exif()
        tags[0x010F] = "SecretCam"
        made.save(buffer, "JPEG", exif=tags)
    else:
        made.save(buffer, "JPEG")
    return buffer.getvalue()


def proxied(
    client: GatewayClient, file: dict[str, Any], *, method: str = "GET", query: str = "", **headers: str
) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.request(method, f"/api/files/{file['id']}/download?mode=proxy{query}", headers=named)


# -- headers -------------------------------------------------------------------------------------------------


def safe(answer: Answer) -> None:
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == SANDBOX
    assert answer.headers["Cross-Origin-Resource-Policy"] in ("same-origin", "cross-origin")
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] in ("private, no-store", "private, no-cache")


def test_T31_responses_with_user_bytes_have_safe_headers(client: GatewayClient) -> None:
    file, photo = client.add("a.txt", CONTENT), client.add("p.jpg", picture())
    answers = [
        proxied(client, file),
        proxied(client, file, Range="bytes=5-9"),
        proxied(client, file, method="HEAD"),
        proxied(client, file, If_None_Match="*"),
        client.get(f"/api/files/{file['id']}/download"),
        client.get(f"/api/files/{photo['id']}/preview"),
        client.get(f"/api/files/archive?ids={file['id']}"),
    ]
    assert [answer.status for answer in answers] == [200, 206, 200, 304, 302, 200, 200]
    for answer in answers:
        safe(answer)
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


@with_subtests(
    ("name", "content", "inline"),
    [
        ("a.txt", b"plain", True),
        ("p.jpg", picture(), True),
        ("page.html", b"<!doctype html><script>1</script>", False),
        ("v.svg", b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>", False),
        ("d.pdf", b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF", False),
        ("report.xls", b"<html><table></table></html>", False),
        ("page.csv", b"<!doctype html><script>1</script>", False),
        ("u.bin", b"\0\1\2\3" * 9, False),
    ],
)
def test_T32_only_types_without_script_are_inline(
    client: GatewayClient, name: str, content: bytes, inline: bool
) -> None:
    file = client.add(name, content)
    assert proxied(client, file).headers["Content-Disposition"].startswith("attachment")
    asked = proxied(client, file, query="&disposition=inline")
    assert asked.headers["Content-Disposition"].startswith("inline" if inline else "attachment")
    signed = client.get(f"/api/files/{file['id']}/url?disposition=inline").json["url"]
    assert (
        requests.get(signed, timeout=30).headers["Content-Disposition"].startswith("inline" if inline else "attachment")
    )


@with_subtests(
    ("text", "encoding", "charset"),
    [
        ("ü", "utf-8", "utf-8"),
        ("Grüße aus München", "cp1252", "windows-1252"),
        ("Grüße aus München", "utf-16", "utf-16le"),
        ("Добрый день, высылаю документы", "koi8_r", "koi8-r"),
        ("<!doctype html><script>1</script>", "utf-8", "utf-8"),
        ("", "utf-8", "utf-8"),
    ],
)
def test_T32_text_is_served_as_plain_text_with_its_charset(
    client: GatewayClient, services: Services, text: str, encoding: str, charset: str
) -> None:
    """Before its processing and after it, by whatever way."""
    file = client.add("a.txt", text.encode(encoding))
    wanted = f"text/plain; charset={charset}"
    for _ in "before", "after":
        assert proxied(client, file).headers["Content-Type"] == wanted
        assert client.head(f"/api/files/{file['id']}/download").headers["Content-Type"] == wanted
        for signed in (
            client.get(f"/api/files/{file['id']}/download").headers["Location"],
            client.get(f"/api/files/{file['id']}/url").json["url"],
        ):
            assert requests.get(signed, timeout=30).headers["Content-Type"] == wanted
        services.pipeline.process(UUID(file["id"]))


# -- redirects -----------------------------------------------------------------------------------------------


def test_downloads_redirect_to_the_bucket(client: GatewayClient) -> None:
    file = client.add("Plan ü.txt", CONTENT)
    answer = client.get(f"/api/files/{file['id']}/download")
    assert (answer.status, answer.body) == (302, b"")
    assert answer.headers["Cache-Control"] == "private, no-store"
    fetched = requests.get(answer.headers["Location"], timeout=30)
    assert fetched.content == CONTENT
    assert "filename*=UTF-8''Plan%20%C3%BC.txt" in fetched.headers["Content-Disposition"]


def test_head_is_never_redirected(client: GatewayClient) -> None:
    file = client.add("a.txt", CONTENT)
    answer = client.head(f"/api/files/{file['id']}/download")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Length"] == str(len(CONTENT))


@pytest.mark.settings(download_mode="proxy")
def test_streaming_can_be_the_default(client: GatewayClient) -> None:
    file = client.add("a.txt", CONTENT)
    assert client.get(f"/api/files/{file['id']}/download").body == CONTENT
    assert client.get(f"/api/files/{file['id']}/download?mode=redirect").status == 302


@pytest.mark.settings(download_url_max_ttl=3600)
def test_urls_expire_as_requested_within_limits(client: GatewayClient) -> None:
    file = client.add("a.txt", CONTENT)
    for asked, status in (("60", 200), ("9223372036854775807", 200), ("0", 400), ("-1", 400), ("1.5", 400), ("x", 400)):
        answer = client.get(f"/api/files/{file['id']}/url?expires_in={asked}")
        assert answer.status == status
        if status == 200:
            address = answer.json["url"]
            if asked == "60":
                assert "/d/" not in address  # a presigned URL of the bucket suffices
            else:
                address = client.get(address.removeprefix("http://gateway.test")).headers["Location"]
            assert requests.get(address, timeout=30).content == CONTENT


# -- ranges --------------------------------------------------------------------------------------------------


@with_subtests(
    ("header", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-", 0, 10239),
        ("bytes=100-199", 100, 199),
        ("bytes=-1", 10239, 10239),
        ("bytes=10000-99999", 10000, 10239),
        ("bytes=-99999", 0, 10239),
        ("bytes=10239-", 10239, 10239),
    ],
)
def test_T33_one_range(client: GatewayClient, header: str, first: int, last: int) -> None:
    answer = proxied(client, client.add("a.bin", CONTENT), Range=header)
    assert answer.status == 206
    assert answer.body == CONTENT[first : last + 1]
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/10240"
    assert answer.headers["Content-Length"] == str(last - first + 1)


@with_subtests("header", ["bytes=10240-", "bytes=99999-100000", "bytes=-0", f"bytes={'9' * 900}-"])
def test_T33_a_range_past_the_end(client: GatewayClient, header: str) -> None:
    answer = proxied(client, client.add("a.bin", CONTENT), Range=header)
    assert (answer.status, answer.code) == (416, "range_not_satisfiable")
    assert answer.headers["Content-Range"] == "bytes */10240"


@with_subtests(
    "header",
    [
        "bytes=5-1",
        "bytes=a-b",
        "bytes=",
        "bytes",
        "lines=1-2",
        "bytes=1-2,4-5",
        "bytes=0-0," * 1000,
        "bytes=1--2",
        "bytes=1.0-2",
        "bytes=" + "1" * 8000,
        "bytes=-",
        "=",
    ],
)
def test_T33_invalid_ranges_are_ignored(client: GatewayClient, header: str) -> None:
    file = client.add("a.bin", CONTENT)
    started = time.monotonic()
    answer = proxied(client, file, Range=header)
    assert time.monotonic() - started < 5
    assert answer.status in (200, 416)
    assert answer.status == 416 or answer.body == CONTENT


def test_T33_if_range(client: GatewayClient) -> None:
    file = client.add("a.bin", CONTENT)
    etag = f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    assert proxied(client, file).headers["ETag"] == etag
    assert proxied(client, file, Range="bytes=0-9", If_Range=etag).status == 206
    for stale in ('"other"', "W/" + etag, "Mon, 01 Jan 2001 00:00:00 GMT", "nonsense"):
        answer = proxied(client, file, Range="bytes=0-9", If_Range=stale)
        assert (answer.status, answer.body) == (200, CONTENT)


def test_T33_conditional_get(client: GatewayClient) -> None:
    file = client.add("a.bin", CONTENT)
    etag = proxied(client, file).headers["ETag"]
    answer = proxied(client, file, If_None_Match=f'"x", W/{etag}')
    assert (answer.status, answer.body, answer.headers["ETag"]) == (304, b"", etag)
    assert proxied(client, file, If_None_Match='"x"').status == 200
    assert proxied(client, file, If_Match='"x"').status == 412


def test_T33_conditions_by_date(client: GatewayClient) -> None:
    file = client.add("a.bin", CONTENT)
    full = proxied(client, file)
    etag, date = full.headers["ETag"], full.headers["Last-Modified"]
    uploaded = datetime.fromisoformat(file["uploaded_at"]).replace(microsecond=0)
    assert parsedate_to_datetime(date) == uploaded
    before, after = (http_date(uploaded + timedelta(seconds=step)) for step in (-1, 1))
    for headers, status in (
        ({"If_Modified_Since": date}, 304),
        ({"If_Modified_Since": after}, 304),
        ({"If_Modified_Since": before}, 200),
        ({"If_Modified_Since": "yesterday"}, 200),
        ({"If_Modified_Since": date, "If_None_Match": '"x"'}, 200),  # RFC 9110 §13.1.3: the ETag decides
        ({"If_Modified_Since": before, "If_None_Match": etag}, 304),
        ({"If_Modified_Since": date, "Range": "bytes=0-9"}, 304),
        ({"If_Unmodified_Since": date}, 200),
        ({"If_Unmodified_Since": before}, 412),
        ({"If_Unmodified_Since": before, "If_Match": etag}, 200),
        ({"Range": "bytes=0-9", "If_Range": date}, 206),
        ({"Range": "bytes=0-9", "If_Range": after}, 200),
    ):
        for method in ("GET", "HEAD"):
            answer = proxied(client, file, method=method, **headers)
            assert answer.status == (200 if (method, status) == ("HEAD", 206) else status), headers
            assert status == 412 or answer.headers["ETag"] == etag
            assert status in (304, 412) or answer.headers["Last-Modified"] == date


def test_conditions_by_date_are_the_buckets_where_it_serves_the_bytes(client: GatewayClient) -> None:
    """A file on an object that was stored before has another date there than here."""
    file = client.add("a.bin", CONTENT)
    long_ago = {"If-Unmodified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"}
    assert client.get(f"/api/files/{file['id']}/download", headers=long_ago).status == 302
    assert client.head(f"/api/files/{file['id']}/download", headers=long_ago).status == 412


def test_T33_head_is_get_without_body(client: GatewayClient) -> None:
    file = client.add("a.bin", CONTENT)
    get, head = proxied(client, file), proxied(client, file, method="HEAD")
    assert head.body == b""
    varying = {"x-request-id", "date"}
    assert {k.lower(): v for k, v in dict(head.headers).items() if k.lower() not in varying} == {
        k.lower(): v for k, v in dict(get.headers).items() if k.lower() not in varying
    }


def test_T11_an_empty_file_is_served(client: GatewayClient) -> None:
    file = client.add("empty.txt", b"")
    answer = proxied(client, file)
    assert (answer.status, answer.headers["Content-Length"], answer.body) == (200, "0", b"")
    for path in ("/download", "/download?mode=proxy"):  # the bucket would answer 416
        for wanted in ("bytes=0-", "bytes=0-1", "bytes=-5", "bytes=0-0,2-3"):
            answer = client.get(f"/api/files/{file['id']}{path}", headers={"Range": wanted})
            assert (answer.status, answer.body) == (200, b"")
    assert client.get(f"/api/files/{file['id']}/preview").code == "preview_unsupported"


def test_downloads_are_counted_once(client: GatewayClient) -> None:
    file = client.add("a.bin", CONTENT)
    etag = proxied(client, file).headers["ETag"]  # 1
    proxied(client, file, method="HEAD")
    proxied(client, file, If_None_Match=etag)
    proxied(client, file, Range="bytes=5-9")
    proxied(client, file, Range="bytes=0-4")  # 2
    client.get(f"/api/files/{file['id']}/download")  # 3
    assert client.get(f"/api/files/{file['id']}").json["download_count"] == 3


@with_subtests(
    ("method", "way"),
    [
        ("GET", "download"),
        ("GET", "download?mode=proxy"),
        ("HEAD", "download"),
        ("GET", "url"),
        ("GET", "preview?type=text"),
        ("POST", "copy"),
    ],
)
def test_T34_changed_content_is_410_until_uploaded_again(
    client: GatewayClient, bucket: Any, method: str, way: str
) -> None:
    data = f"{method} {way}".encode()
    file = client.add("a.txt", data)
    bucket.put(file["file_path"], data.swapcase(), content_type="text/plain")
    address = f"/api/files/{file['id']}/{way}"
    answer = client.request(method, address, json={} if method == "POST" else None)
    assert answer.status == 410
    assert method == "HEAD" or (answer.code, "again" in answer.json["detail"]) == ("content_missing", True)
    integrity = client.get(f"/api/files/{file['id']}").json["integrity"]
    assert (integrity["exists"], integrity["checksum"]) == (True, "mismatch")
    assert client.upload(("b.txt", data)).status == 201
    assert proxied(client, file).body == data


def test_T34_a_missing_object_is_410(client: GatewayClient, bucket: Any) -> None:
    file = client.add("a.bin", CONTENT)
    bucket.delete(file["file_path"])
    for method in ("GET", "HEAD"):
        answer = proxied(client, file, method=method)
        assert answer.status == 410
    assert proxied(client, file).code == "content_missing"


# -- previews ------------------------------------------------------------------------------------------------


@with_subtests(
    ("accept", "mime_type"),
    [
        ("*/*", "image/webp"),
        ("image/jpeg", "image/jpeg"),
        ("image/png, image/webp;q=0.5", "image/png"),
        ("text/html", "image/webp"),
        ("", "image/webp"),
        ("image/*", "image/webp"),
    ],
)
def test_previews_by_accept(client: GatewayClient, accept: str, mime_type: str) -> None:
    file = client.add("p.jpg", picture())
    answer = client.get(f"/api/files/{file['id']}/preview?size=128", headers={"Accept": accept})
    assert (answer.status, answer.headers["Content-Type"]) == (200, mime_type)
    assert "Accept" in answer.headers["Vary"]
    with Image.open(io.BytesIO(answer.body)) as shown:
        assert shown.size == (128, 96)


def test_previews_are_revalidated_by_etag(client: GatewayClient) -> None:
    address = f"/api/files/{client.add('p.jpg', picture())['id']}/preview"
    etag = client.get(address).headers["ETag"]
    assert client.get(address).headers["ETag"] == etag
    assert client.get(address, headers={"If-None-Match": etag}).status == 304


@with_subtests("query", ["size=100", "size=x", "size=256.0", "type=movie", "page=0"])
def test_invalid_preview_queries(client: GatewayClient, query: str) -> None:
    answer = client.get(f"/api/files/{client.add('p.jpg', picture())['id']}/preview?{query}")
    assert (answer.status, answer.code) == (400, "invalid_input")


@with_subtests("query", ["", "type=text", "type=page&page=2", "type=contents"])
def test_unsupported_previews_are_415(client: GatewayClient, query: str) -> None:
    answer = client.get(f"/api/files/{client.add('u.bin', CONTENT)['id']}/preview?{query}")
    assert (answer.status, answer.code) == (415, "preview_unsupported")


# -- public files --------------------------------------------------------------------------------------------


def test_T37_a_public_file_is_served_without_private_metadata(
    client: GatewayClient, anonymous: GatewayClient, other: GatewayClient
) -> None:
    file = client.add("p.jpg", picture(exif=True), visibility="public")
    client.get(f"/api/files/{file['id']}/preview")  # reads the EXIF
    mine = client.get(f"/api/files/{file['id']}").json
    assert "SecretCam" in str(mine["metadata"]["exif"])
    assert {"statistics", "access_history", "integrity", "owner_id", "file_path"} <= set(mine)
    for stranger in (anonymous, other):
        answer = stranger.get(f"/api/files/{file['id']}")
        assert answer.status == 200
        assert b"SecretCam" not in answer.body
        assert answer.json["previews"]
        download = proxied(stranger, file)
        assert hashlib.sha256(download.body).hexdigest() == file["file_hash"]
        assert stranger.get(f"/api/files/{file['id']}/preview").status == 200
        assert stranger.get(f"/api/files/{file['id']}/url").status == 200
        assert stranger.head(f"/api/files/{file['id']}/download").status == 200


def test_public_files_may_be_embedded_anywhere(client: GatewayClient, anonymous: GatewayClient) -> None:
    file = client.add("p.jpg", picture(), visibility="public")
    assert proxied(anonymous, file).headers["Cross-Origin-Resource-Policy"] == "cross-origin"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/history"), ("PATCH", ""), ("DELETE", ""), ("PUT", "/move"), ("POST", "/copy"), ("POST", "/restore")],
)
def test_a_public_file_can_not_be_changed_by_others(
    client: GatewayClient, anonymous: GatewayClient, other: GatewayClient, method: str, path: str
) -> None:
    file = client.add("a.txt", b"a", visibility="public")
    body = {"target_folder_id": None} if path in ("/move", "/copy") else {}
    assert anonymous.request(method, f"/api/files/{file['id']}{path}", json=body).status == 401
    assert other.request(method, f"/api/files/{file['id']}{path}", json=body).status == 404


def test_private_and_trashed_files_are_401_without_a_credential(
    client: GatewayClient, anonymous: GatewayClient
) -> None:
    private = client.add("a.txt", b"a")["id"]
    trashed = client.add("b.txt", b"b", visibility="public")["id"]
    client.delete(f"/api/files/{trashed}")
    for file_id in (private, trashed, str(uuid4())):
        for path in ("", "/download", "/url", "/preview"):
            assert anonymous.get(f"/api/files/{file_id}{path}").status == 401


def test_a_bad_credential_is_401_even_for_a_public_file(client: GatewayClient) -> None:
    file = client.add("a.txt", b"a", visibility="public")
    assert client.as_("gw_wrong").get(f"/api/files/{file['id']}").status == 401


@pytest.mark.parametrize("status", ["processing", "rejected", "infected"])
def test_R2_files_that_are_not_ready_are_409(client: GatewayClient, db: Database, status: str) -> None:
    file = client.add("p.jpg", picture())
    sql(db, "update files set status = %s", status)
    for path in ("/download", "/url", "/preview"):
        answer = client.get(f"/api/files/{file['id']}{path}")
        assert (answer.status, answer.code) == (409, "file_not_ready")
    assert client.get(f"/api/files/{file['id']}").json["status"] == status


def test_trashed_files_are_409(client: GatewayClient) -> None:
    file = client.add("p.jpg", picture())
    client.delete(f"/api/files/{file['id']}")
    for path in ("/download", "/url", "/preview"):
        answer = client.get(f"/api/files/{file['id']}{path}")
        assert (answer.status, answer.code) == (409, "file_in_trash")


# -- archives ------------------------------------------------------------------------------------------------


def test_T36_a_zip_of_files_and_of_a_folder(client: GatewayClient) -> None:
    folder = client.post("/api/folders", json={"name": "Fotos ü"}).json["id"]
    below, empty = (
        client.post("/api/folders", json={"name": name, "parent_folder_id": folder}).json["id"]
        for name in ("below", "empty: yet")
    )
    one, two = (client.add("a.txt", b"one", folder_id=str(folder)), client.add("a.txt", b"two", folder_id=str(below)))
    path = "/api/files/archive"
    ids = [one["id"], two["id"]]
    for by_ids in (client.get(path, params={"ids": ",".join(ids)}), client.post(path, json={"ids": ids})):
        assert by_ids.headers["Content-Type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(by_ids.body)) as archive:
            assert {name: archive.read(name) for name in archive.namelist()} == {"a.txt": b"one", "a (1).txt": b"two"}
    for by_folder in (client.get(path, params={"folder": folder}), client.post(path, json={"folder": folder})):
        assert "Fotos%20%C3%BC.zip" in by_folder.headers["Content-Disposition"]
        with zipfile.ZipFile(io.BytesIO(by_folder.body)) as archive:
            found = {name: archive.read(name) for name in archive.namelist()}
        assert found == {"a.txt": b"one", "below/a.txt": b"two", "empty_ yet/": b""}
    nothing = client.get(path, params={"folder": empty})
    assert (nothing.status, zipfile.ZipFile(io.BytesIO(nothing.body)).namelist()) == (200, [])


@with_subtests(
    ("query", "status"),
    [
        ("", 400),
        ("ids=", 400),
        ("ids=x", 404),
        (f"ids={uuid4()}", 404),
        ("folder=999999", 404),
        ("folder=x", 400),
        (f"ids={uuid4()}&folder=1", 400),
    ],
)
def test_T36_invalid_archive_requests(client: GatewayClient, query: str, status: int) -> None:
    assert client.get(f"/api/files/archive?{query}").status == status
    named = dict(part.split("=") for part in query.split("&") if part)
    body = {
        name: text.split(",") if name == "ids" else int(text) if text.isdigit() else text
        for name, text in named.items()
    }
    assert client.post("/api/files/archive", json={} if query == "ids=" else body).status == status


@pytest.mark.settings(max_zip_files=2, max_zip_bytes=10)
def test_T36_archives_are_limited(client: GatewayClient) -> None:
    folder = client.post("/api/folders", json={"name": "a"}).json["id"]
    files = [
        client.add(f"{n}.txt", content, folder_id=str(folder))["id"] for n, content in enumerate((b"1", b"2", bytes(9)))
    ]
    for body, status in (
        ({"ids": files[:2]}, 200),
        ({"ids": files[1:]}, 200),
        ({"ids": files}, 413),
        ({"folder": folder}, 413),
    ):
        assert client.post("/api/files/archive", json=body).status == status
    big = client.add("big.txt", bytes(11))["id"]
    assert client.get(f"/api/files/archive?ids={big}").status == 413


def test_T36_an_archive_with_another_owners_file_is_404(
    client: GatewayClient, other: GatewayClient, client_for: Callable[..., GatewayClient]
) -> None:
    theirs, mine = other.add()["id"], client.add()["id"]
    assert client.get(f"/api/files/archive?ids={mine},{theirs}").status == 404


def test_T34_an_archive_whose_first_file_is_missing_is_410(client: GatewayClient, bucket: Any) -> None:
    file = client.add("a.txt", b"hello")
    bucket.delete(file["file_path"])
    answer = client.get("/api/files/archive", params={"ids": file["id"]})
    assert (answer.status, answer.code) == (410, "content_missing")
