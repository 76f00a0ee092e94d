"""Form and raw uploads with a real bucket: fields, rejected files, limits."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from tests.bodies import HTML, Unread, names, send
from tests.client import GatewayClient, form_data
from tests.conftest import NOTHING, Leftovers
from tests.subtests import with_subtests

pytestmark = pytest.mark.memory_store

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
MIB = 1024 * 1024


# -- stored files --------------------------------------------------------------------------------------------


def test_a_form_stores_its_files_with_its_fields(client: GatewayClient) -> None:
    folder = client.post("/api/folders", json={"name": "Plans"}).json["id"]
    answer = client.upload(
        ("Plan (final).txt", b"one"),
        ("日本語.png", PNG, "image/png"),
        folder_id=str(folder),
        visibility="public",
        tags=["a, b", "c", "a"],
    )
    assert answer.status == 201
    first, second = answer.json["files"]
    assert (first["original_name"], second["original_name"]) == ("Plan (final).txt", "日本語.png")
    assert (first["mime_type"], second["mime_type"]) == ("text/plain", "image/png")
    assert {first["folder_id"], second["folder_id"]} == {folder}
    assert first["visibility"] == "public"
    assert first["tags"] == ["a", "b", "c"]
    assert first["status"] == "ready"
    assert first["file_hash"] == hashlib.sha256(b"one").hexdigest()
    assert first["owner_id"] == "alice"
    assert answer.json["rejected"] == []
    session = answer.json["session"]
    assert (session["files_uploaded"], session["total_size"]) == (2, 3 + len(PNG))
    assert answer.headers["Upload-Session"] == session["session_id"]


def test_fields_may_follow_files(client: GatewayClient) -> None:
    body, content_type = form_data([("a.txt", b"a")], {"visibility": "public"}, fields_last=True)
    answer = client.post("/api/upload", data=body, headers={"Content-Type": content_type})
    assert answer.json["files"][0]["visibility"] == "public"


@with_subtests("field", ["files", "files[]", "file"])
def test_file_field_names(client: GatewayClient, field: str) -> None:
    body, content_type = form_data([("a.txt", b"a")], field=field)
    assert client.post("/api/upload", data=body, headers={"Content-Type": content_type}).status == 201


def test_files_in_other_fields_are_rejected(client: GatewayClient, leftovers: Leftovers) -> None:
    body, content_type = form_data([("a.txt", b"a")], field="avatar")
    answer = client.post("/api/upload", data=body, headers={"Content-Type": content_type})
    assert (answer.status, answer.code) == (400, "invalid_input")
    assert answer.json["errors"] == [{"field": "avatar", "message": "not a field for files"}]
    assert leftovers() == NOTHING


def test_T64_read_only_fields_are_ignored(client: GatewayClient) -> None:
    file = client.add(owner_id="bob", status="infected", file_size="0", file_hash="0" * 64, id="1")
    assert (file["owner_id"], file["status"], file["file_size"]) == ("alice", "ready", 5)


def test_a_raw_body_is_one_file(client: GatewayClient) -> None:
    answer = client.put("/api/upload/notes%20%C3%BC.txt?tags=a,b&visibility=public", data=b"hello")
    assert answer.status == 201
    assert answer.json["original_name"] == "notes ü.txt"
    assert answer.json["tags"] == ["a", "b"]
    assert answer.headers["Location"] == answer.json["links"]["self"]
    assert answer.headers["ETag"] == client.get(f"/api/files/{answer.json['id']}").headers["ETag"]
    assert answer.headers["Upload-Session"]


@with_subtests(
    "path",
    [
        "/api/upload/a%FFb.txt",
        "/api/upload/%ED%A0%80.txt",  # a surrogate
        "/api/upload/a.txt?tags=%FF",
        "/api/upload/a.txt?tags=%ED%A0%80",
        "/api/files?tag=%FF",
        "/api/files?cursor=%FF",
        "/api/files/%FF",
        "/d/%FF",
        "/nothing/%FF",
    ],
)
def test_T22_addresses_that_are_not_utf_8_are_400(client: GatewayClient, leftovers: Leftovers, path: str) -> None:
    answer = client.put(path, data=b"x") if "upload" in path else client.get(path)
    assert (answer.status, answer.code) == (400, "invalid_input")
    assert leftovers() == NOTHING


def test_a_chunked_raw_body(client: GatewayClient) -> None:
    answer = client.put("/api/upload/big.txt", data=iter([b"x" * MIB] * 9))
    assert (answer.status, answer.json["file_size"]) == (201, 9 * MIB)
    assert answer.json["file_hash"] == hashlib.sha256(b"x" * 9 * MIB).hexdigest()


def test_T11_empty_files_are_stored(client: GatewayClient) -> None:
    for answer in (client.put("/api/upload/empty.csv", data=b""), client.put("/api/upload/empty2.csv")):
        assert (answer.status, answer.json["file_size"]) == (201, 0)


def test_sessions_group_requests(client: GatewayClient) -> None:
    first = client.upload(("a.txt", b"aa"))
    session = first.headers["Upload-Session"]
    second = client.upload(("b.txt", b"bbb"), headers={"Upload-Session": session})
    assert second.json["session"]["session_id"] == session
    assert (second.json["session"]["files_uploaded"], second.json["session"]["total_size"]) == (2, 5)
    client.put("/api/upload/c.txt", data=b"c", headers={"Upload-Session": session})
    third = client.upload(("d.txt", b"d"), headers={"Upload-Session": session})
    assert third.json["session"]["files_uploaded"] == 4


@with_subtests("session", ["", "a b", "x" * 65, "../x", "é"])
def test_invalid_session_ids(client: GatewayClient, session: str) -> None:
    answer = client.upload(("a.txt", b"a"), headers={"Upload-Session": session.encode().decode("latin-1")})
    assert (answer.status, answer.code) == (400, "invalid_input")


@with_subtests(
    ("field", "value"),
    [
        ("folder_id", "x"),
        ("folder_id", "-1"),
        ("folder_id", "1.0"),
        ("folder_id", "9" * 5000),
        ("folder_id", "9223372036854775808"),
        ("visibility", "secret"),
        ("on_duplicate", "maybe"),
        ("tags", ",".join(map(str, range(51)))),
        ("tags", "x" * 101),
        ("tags", "a\0b"),
        ("visibility", ["private", "public"]),
    ],
)
def test_T16_invalid_fields(client: GatewayClient, leftovers: Leftovers, field: str, value: Any) -> None:
    for answer in (
        client.upload(("a.txt", b"a"), **{field: value}),
        client.put("/api/upload/a.txt", data=b"a", params={field: value}),
    ):
        assert (answer.status, answer.code) == (400, "invalid_input")
        assert answer.json["errors"][0]["field"].startswith(field)
    assert leftovers() == NOTHING
    assert names(client) == []


def test_another_owners_folder_is_404(client: GatewayClient, other: GatewayClient, leftovers: Leftovers) -> None:
    folder = str(other.post("/api/folders", json={"name": "Theirs"}).json["id"])
    for answer in (
        client.upload(("a.txt", b"a"), folder_id=folder),
        client.put(f"/api/upload/a.txt?folder_id={folder}", data=b"a"),
    ):
        assert (answer.status, answer.code) == (404, "not_found")
    assert leftovers() == NOTHING


# -- limits --------------------------------------------------------------------------------------------------


@pytest.mark.settings(max_file_size=1000)
def test_T1_a_declared_size_over_the_limit_is_rejected_unread(
    app: Flask, client: GatewayClient, leftovers: Leftovers
) -> None:
    assert send(app, client, "PUT", "/api/upload/a.bin", Unread(), 1001) == (413, "file_too_large")
    assert leftovers() == NOTHING


@pytest.mark.settings(quota_bytes=1000)
def test_T1_a_declared_size_over_the_quota_is_rejected_unread(
    app: Flask, client: GatewayClient, leftovers: Leftovers
) -> None:
    assert send(app, client, "PUT", "/api/upload/a.bin", Unread(), 1001) == (413, "quota_exceeded")
    assert leftovers() == NOTHING


@pytest.mark.settings(max_file_size=1000, max_files_per_request=3)
def test_T1_a_form_over_the_request_limit_is_rejected_unread(
    app: Flask, client: GatewayClient, leftovers: Leftovers
) -> None:
    status = send(
        app, client, "POST", "/api/upload", Unread(), 10 * MIB, Content_Type="multipart/form-data; boundary=b"
    )
    assert status == (413, "request_too_large")
    assert leftovers() == NOTHING


@pytest.mark.settings(max_file_size=10 * MIB)
def test_T2_an_endless_raw_body_is_cut_off(client: GatewayClient, leftovers: Leftovers) -> None:
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += MIB
            yield b"x" * MIB

    answer = client.put("/api/upload/endless.txt", data=endless())
    assert (answer.status, answer.code) == (413, "file_too_large")
    assert read <= 20 * MIB
    assert leftovers() == NOTHING


@pytest.mark.settings(max_file_size=2 * MIB)
def test_T2_an_endless_form_is_cut_off(client: GatewayClient, leftovers: Leftovers) -> None:
    body, content_type = form_data([("a.txt", b"")])
    head = body[: body.index(b"\r\n\r\n") + 4]

    def endless() -> Iterator[bytes]:
        yield head
        for _ in range(64):
            yield b"x" * MIB
        raise AssertionError("read on and on")

    answer = client.post("/api/upload", data=endless(), headers={"Content-Type": content_type})
    assert (answer.status, answer.code) == (413, "file_too_large"), answer.json
    assert leftovers() == NOTHING


@pytest.mark.settings(max_file_size=1000)
def test_T5_files_are_rejected_one_by_one(client: GatewayClient, leftovers: Leftovers) -> None:
    answer = client.upload(
        ("good.txt", b"good"), ("big.txt", b"x" * 1001), ("fake.png", HTML), ("..", b"x"), ("also good.txt", b"fine")
    )
    assert answer.status == 207
    assert [file["original_name"] for file in answer.json["files"]] == ["good.txt", "also good.txt"]
    assert [(item["original_name"], item["problem"]["code"]) for item in answer.json["rejected"]] == [
        ("big.txt", "file_too_large"),
        ("fake.png", "type_mismatch"),
        ("..", "invalid_name"),
    ]
    assert answer.json["session"]["files_uploaded"] == 2
    assert leftovers() == NOTHING


@pytest.mark.settings(max_file_size=1000)
def test_T5_if_all_files_are_rejected_the_first_sets_the_status(client: GatewayClient, leftovers: Leftovers) -> None:
    answer = client.upload(("fake.png", HTML), ("big.txt", b"x" * 1001))
    assert (answer.status, answer.code) == (415, "type_mismatch")
    assert [item["problem"]["code"] for item in answer.json["rejected"]] == ["type_mismatch", "file_too_large"]
    assert leftovers() == NOTHING


@pytest.mark.settings(max_files_per_request=3)
def test_too_many_files_are_413(client: GatewayClient, leftovers: Leftovers) -> None:
    answer = client.upload(*((f"{number}.txt", b"%d" % number) for number in range(4)))
    assert (answer.status, answer.code) == (413, "too_many_files")
    assert client.upload(*((f"{number}.txt", b"%d" % number) for number in range(3))).status == 201
    assert leftovers() == NOTHING


def test_a_raw_body_with_a_type_mismatch(client: GatewayClient, leftovers: Leftovers) -> None:
    answer = client.put("/api/upload/fake.png", data=HTML)
    assert (answer.status, answer.code) == (415, "type_mismatch")
    assert leftovers() == NOTHING


def test_duplicates(client: GatewayClient, leftovers: Leftovers) -> None:
    first = client.add("a.txt", b"same")
    linked = client.add("b.txt", b"same")
    copied = client.add("c.txt", b"same", on_duplicate="copy")
    assert linked["file_path"] == first["file_path"]
    assert copied["file_path"] != first["file_path"]
    for answer in (
        client.upload(("d.txt", b"same"), on_duplicate="reject"),
        client.put("/api/upload/d.txt?on_duplicate=reject", data=b"same"),
    ):
        assert (answer.status, answer.code) == (409, "duplicate_file")
    assert leftovers() == NOTHING


def test_upload_needs_a_credential(anonymous: GatewayClient) -> None:
    assert anonymous.upload(("a.txt", b"a")).status == 401
    assert anonymous.put("/api/upload/a.txt", data=b"a").status == 401
