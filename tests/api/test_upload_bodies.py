"""Form and raw uploads that break off, do not match their checksum or are repeated."""

from __future__ import annotations

import base64
import hashlib
import socket
import threading
from collections.abc import Iterator
from itertools import product

import pytest
from flask import Flask

from api import tus_body
from tests.bodies import HTML, Cut, Unread, names, send
from tests.client import Answer, GatewayClient, form_data
from tests.conftest import NOTHING, Leftovers
from tests.subtests import with_subtests

pytestmark = pytest.mark.memory_store

MIB = 1024 * 1024


# -- broken bodies -------------------------------------------------------------------------------------------


@with_subtests(
    ("sent", "error"),
    product(
        [0, 1, 70_000, 9 * MIB],
        [None, ConnectionResetError(104, "reset"), TimeoutError("stalled"), OSError("no more data")],
    ),
)
def test_T3_an_incomplete_raw_body_is_rejected(
    app: Flask, client: GatewayClient, leftovers: Leftovers, sent: int, error: Exception | None
) -> None:
    found = send(app, client, "PUT", "/api/upload/cut.txt", Cut(b"x" * sent, error), 10 * MIB)
    assert found == (400, "malformed_upload")
    assert leftovers() == NOTHING
    assert names(client) == []


@pytest.mark.parametrize("error", [None, ConnectionResetError(104, "reset")])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.97])
def test_T3_an_incomplete_form_leaves_no_files(
    app: Flask, client: GatewayClient, leftovers: Leftovers, share: float, error: Exception | None
) -> None:
    body, content_type = form_data([("a.txt", b"a" * 3 * MIB), ("b.txt", b"b" * 9 * MIB), ("c.txt", b"c" * 3 * MIB)])
    assert send(app, client, "POST", "/api/upload", Cut(body), None, Content_Type=content_type)[0] == 201
    for file in client.get("/api/files").json["items"]:
        client.delete(f"/api/files/{file['id']}?permanent=true")
    for length in (len(body), None):
        cut = Cut(body[: int(len(body) * share)], error)
        assert send(app, client, "POST", "/api/upload", cut, length, Content_Type=content_type) == (
            400,
            "malformed_upload",
        )
    assert leftovers() == NOTHING
    assert names(client) == []


@with_subtests(
    ("body", "content_type"),
    [
        (b"", "multipart/form-data; boundary=b"),
        (b"--b--\r\n", "multipart/form-data; boundary=b"),
        (b"hello", "multipart/form-data; boundary=b"),
        (b"hello", "multipart/form-data"),
        (b"hello", "application/octet-stream"),
        (b"hello", ""),
        (
            b'--b\r\nContent-Disposition: form-data; name="files"\r\n\r\nx\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="files"; filename=""\r\n\r\nx\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="files"; filename="a\xe9.txt"\r\n\r\nx\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nx\r\n',
            "multipart/form-data; boundary=b",
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="tags"\r\n\r\nx\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
        ),
    ],
)
def test_T4_malformed_forms(client: GatewayClient, leftovers: Leftovers, body: bytes, content_type: str) -> None:
    answer = client.post("/api/upload", data=body, headers={"Content-Type": content_type})
    assert (answer.status, answer.code) == (400, "malformed_upload")
    assert leftovers() == NOTHING


@with_subtests("encoding", ["gzip", "br", "identity, gzip", "x-unknown"])
def test_T13_encoded_bodies_are_rejected(client: GatewayClient, leftovers: Leftovers, encoding: str) -> None:
    headers = {"Content-Encoding": encoding}
    for answer in (
        client.upload(("a.txt", b"a"), headers=headers),
        client.put("/api/upload/a.txt", data=b"a", headers=headers),
    ):
        assert (answer.status, answer.code) == (415, "encoding_not_allowed")
    assert client.put("/api/upload/a.txt", data=b"a", headers={"Content-Encoding": "identity"}).status == 201


@with_subtests("length", ["-1", "1.0", "5x", "9" * 5000, "99999999999999999999", "+5", "٥"])
def test_T16_invalid_content_lengths(app: Flask, client: GatewayClient, length: str) -> None:
    assert send(app, client, "PUT", "/api/upload/a.txt", Unread(), length)[0] in (400, 413)


# -- checksums -----------------------------------------------------------------------------------------------


def digest_headers(data: bytes) -> list[dict[str, str]]:
    sha256 = base64.b64encode(hashlib.sha256(data).digest()).decode()
    return [
        {"Content-MD5": base64.b64encode(hashlib.md5(data).digest()).decode()},
        {"Content-Digest": f"sha-256=:{sha256}:"},
        {"Repr-Digest": f"sha-512=:AAAA:, sha-256=:{sha256}:"},
    ]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_T12_body_checksums(client: GatewayClient, leftovers: Leftovers, which: int) -> None:
    raw = b"hello"
    form, content_type = form_data([("form.txt", b"hi")])
    for right in (True, False):
        for path, method, body in (("/api/upload/raw.txt", "PUT", raw), ("/api/upload", "POST", form)):
            headers = digest_headers(body if right else body + b"!")[which]
            answer = client.request(method, path, data=body, headers=headers | {"Content-Type": content_type})
            if right:
                assert answer.status == 201
            else:
                assert (answer.status, answer.code) == (400, "checksum_mismatch")
    assert leftovers() == NOTHING
    assert len(names(client)) == 2


@with_subtests(
    "headers",
    [
        {"Content-MD5": "x"},
        {"Content-MD5": ""},
        {"Content-MD5": "AAAA"},
        {"Content-Digest": "sha-256=:AAAA:"},
        {"Content-Digest": "sha-256=abc"},
        {"Content-Digest": "sha-256=:!:"},
        digest_headers(b"a")[1] | {"Repr-Digest": digest_headers(b"b")[1]["Content-Digest"]},
    ],
)
def test_invalid_checksums(client: GatewayClient, headers: dict[str, str]) -> None:
    answer = client.put("/api/upload/a.txt", data=b"a", headers=headers)
    assert (answer.status, answer.code) == (400, "invalid_input")


# -- idempotency ---------------------------------------------------------------------------------------------

KEY = {"Idempotency-Key": "0199-abc"}


def test_T14_a_repeated_form_is_one_upload(client: GatewayClient) -> None:
    first = client.upload(("a.txt", b"one"), ("b.txt", b"x" * 9 * MIB), tags="t", headers=KEY)
    again = client.upload(("a.txt", b"one"), ("b.txt", b"x" * 9 * MIB), tags="t", headers=KEY)  # with another boundary
    assert (first.status, again.status) == (201, 201)
    assert again.json == first.json
    assert again.headers["Upload-Session"] == first.headers["Upload-Session"]
    assert names(client) == ["a.txt", "b.txt"]


def test_T14_a_repeated_raw_body_is_one_upload(client: GatewayClient) -> None:
    answers = [client.put("/api/upload/a.txt?tags=x", data=b"one", headers=KEY) for _ in range(2)]
    assert [answer.status for answer in answers] == [201, 201]
    assert answers[0].json == answers[1].json
    assert {name: answers[0].headers[name] for name in ("ETag", "Location", "Upload-Session")} == {
        name: answers[1].headers[name] for name in ("ETag", "Location", "Upload-Session")
    }
    assert names(client) == ["a.txt"]


@pytest.mark.parametrize("change", ["bytes", "name", "field", "more", "route", "query"])
def test_T14_another_request_with_the_key_is_422(client: GatewayClient, leftovers: Leftovers, change: str) -> None:
    assert client.upload(("a.txt", b"one"), headers=KEY).status == 201
    answer = {
        "bytes": lambda: client.upload(("a.txt", b"two"), headers=KEY),
        "name": lambda: client.upload(("b.txt", b"one"), headers=KEY),
        "field": lambda: client.upload(("a.txt", b"one"), visibility="public", headers=KEY),
        "more": lambda: client.upload(("a.txt", b"one"), ("b.txt", b"one"), headers=KEY),
        "route": lambda: client.put("/api/upload/a.txt", data=b"one", headers=KEY),
        "query": lambda: client.post("/api/folders", json={"name": "a"}, headers=KEY),
    }[change]()
    assert (answer.status, answer.code) == (422, "idempotency_conflict")
    assert names(client) == ["a.txt"]
    assert leftovers() == NOTHING


def test_T14_a_key_in_use_is_409(client: GatewayClient) -> None:
    inside: list[Answer] = []

    def body() -> Iterator[bytes]:
        yield b"a"
        second = threading.Thread(
            target=lambda: inside.append(client.put("/api/upload/a.txt", data=b"ab", headers=KEY))
        )
        second.start()
        second.join(30)
        yield b"b"

    assert client.put("/api/upload/a.txt", data=body(), headers=KEY).status == 201
    assert (inside[0].status, inside[0].code) == (409, "idempotency_in_progress")


def test_T14_a_failed_upload_may_be_repeated_with_its_key(app: Flask, client: GatewayClient) -> None:
    cut = send(app, client, "PUT", "/api/upload/a.txt", Cut(b"hel"), 5, Idempotency_Key=KEY["Idempotency-Key"])
    assert cut == (400, "malformed_upload")
    assert client.upload(("fake.png", HTML), headers=KEY).status == 415
    assert client.put("/api/upload/a.txt", data=b"hello", headers=KEY).status == 201


def test_T14_keys_are_separate_per_owner(client: GatewayClient, other: GatewayClient) -> None:
    assert client.put("/api/upload/a.txt", data=b"one", headers=KEY).status == 201
    assert other.put("/api/upload/b.txt", data=b"two", headers=KEY).status == 201


@with_subtests("key", ["", "x" * 256, "a b", "é"])
def test_invalid_keys(client: GatewayClient, key: str) -> None:
    headers = {"Idempotency-Key": key.encode().decode("latin-1")}
    assert client.put("/api/upload/a.txt", data=b"one", headers=headers).status == 400
    assert client.post("/api/folders", json={"name": "a"}, headers=headers).status == 400


def test_interim_answers_are_at_most_one_a_second_and_only_whole_ones(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that does not read them is not waited for."""
    server, client = socket.socketpair()
    with server, client, app.test_request_context("/", data=b"x", environ_overrides={"gunicorn.socket": server}):
        body = tus_body.ArrivingBody(progress=lambda offset: b"%09d\n" % offset)
        body.acknowledge(1)
        monkeypatch.setattr(tus_body, "TELL_AFTER", 0.0)
        for offset in range(100_000):
            body.acknowledge(offset)
        server.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as told:
            lines = told.read().splitlines()
    assert 0 < len(lines) < 100_000 and lines == [b"%09d" % offset for offset in range(len(lines))]
