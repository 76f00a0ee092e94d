"""tus 1.0 over HTTP, against a real bucket and a real database."""

from __future__ import annotations

import base64
import hashlib
import zlib
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from api.context import EXTENSION
from core.principal import Principal
from db import Database
from services import Services
from tests.client import Answer, GatewayClient
from tests.conftest import NOTHING, Leftovers
from tests.direct_steps import expire
from tests.rows import sql
from tests.tus import BYTES, MIB, TUS, begin, metadata, offset, patch, path, random_bytes, upload


def stored(services: Services, bucket: Any, file_id: str, owner: str = "alice") -> bytes:
    """Verify the file and return its bytes."""
    services.verification.check(UUID(file_id))
    file = services.files.get(Principal(owner), UUID(file_id))
    assert file.status == "ready", file.problem
    with bucket.open(file.file_path) as reader:
        return bytes(reader.read(-1))


def id_of(where: str) -> UUID:
    return UUID(where.rpartition("/")[2])


# -- uploads -----------------------------------------------------------------------------------------------------------


def test_uploads_of_any_size_in_any_chunks(
    client: GatewayClient, services: Services, bucket: Any, leftovers: Leftovers
) -> None:
    cases = [
        (5, None),
        (5, 1),
        (0, None),
        (8 * MIB, None),
        (9 * MIB, 3 * MIB),
        (20 * MIB, 6 * MIB),
        (17 * MIB + 1, None),
    ]
    for size, chunk in cases:
        data = random_bytes(size)
        answer = upload(client, data, chunk=chunk)
        assert stored(services, bucket, answer.headers["Upload-File-Id"]) == data, (size, chunk)
    assert leftovers() == NOTHING


def test_metadata_is_stored(client: GatewayClient, services: Services) -> None:
    folder = client.post("/api/folders", json={"name": "Plans"}).json["id"]
    said = {
        "filename": "Plän.txt",
        "filetype": "text/plain",
        "folder_id": str(folder),
        "visibility": "public",
        "tags": "a,b",
        "camera": "Leica",
        "width": "9999",
    }
    begun = begin(client, 5, name=None, **said)  # type: ignore[arg-type]
    seen = client.head(path(begun), headers=TUS)
    assert seen.headers["Upload-Metadata"] == metadata(**said)
    assert seen.headers["Upload-Length"] == "5" and seen.headers["Upload-Offset"] == "0"
    assert seen.headers["Cache-Control"] == "no-store" and "Upload-Expires" in seen.headers
    done = patch(client, path(begun), 0, b"hello")
    file = client.get(f"/api/files/{done.headers['Upload-File-Id']}").json
    assert (file["original_name"], file["folder_id"], file["visibility"], file["tags"], file["status"]) == (
        "Plän.txt",
        folder,
        "public",
        ["a", "b"],
        "processing",
    )
    assert file["metadata"]["custom"] == {"camera": "Leica", "width": "9999"}
    assert patch(client, path(begun), 5, b"").headers["Upload-File-Id"] == file["id"]  # as after a lost response
    assert patch(client, path(begun), 5, b"more").status == 413
    again = client.head(path(begun), headers=TUS)
    assert again.headers["Upload-File-Id"] == file["id"] and again.headers["Upload-Offset"] == "5"


def test_a_nameless_upload_gets_a_name(client: GatewayClient) -> None:
    done = upload(client, b"hello", name=None)
    assert client.get(f"/api/files/{done.headers['Upload-File-Id']}").json["original_name"] == "upload"
    done = upload(client, b"hello", name=None, filetype="image/png")
    assert client.get(f"/api/files/{done.headers['Upload-File-Id']}").json["original_name"] == "upload.png"


def test_creation_with_upload(client: GatewayClient, services: Services, bucket: Any) -> None:
    sent = {**BYTES, "Upload-Length": "10"}
    begun = client.post("/api/tus", data=b"hello", headers=sent)
    assert begun.status == 201 and begun.headers["Upload-Offset"] == "5"
    assert begun.headers["Location"].startswith("http://gateway.test/api/tus/")
    done = patch(client, path(begun), 5, b"world")
    assert stored(services, bucket, done.headers["Upload-File-Id"]) == b"helloworld"
    whole = client.post("/api/tus", data=b"helloworld", headers=sent)
    assert whole.status == 201 and whole.headers["Upload-Offset"] == "10" and whole.headers["Upload-File-Id"]
    other_type = client.post("/api/tus", data=b"hello", headers={**sent, "Content-Type": "text/plain"})
    assert other_type.status == 201 and other_type.headers["Upload-Offset"] == "0"


def test_a_deferred_length(client: GatewayClient, services: Services, bucket: Any, leftovers: Leftovers) -> None:
    data = random_bytes(9 * MIB)
    where = path(begin(client, None))
    assert client.head(where, headers=TUS).headers["Upload-Defer-Length"] == "1"
    assert patch(client, where, 0, data[: 2 * MIB]).status == 204
    assert patch(client, where, 2 * MIB, data[2 * MIB : 8 * MIB]).status == 204
    assert leftovers()["reservations"] == ["alice"]
    assert patch(client, where, 8 * MIB, b"", **{"Upload-Length": str(7 * MIB)}).status == 400
    done = patch(client, where, 8 * MIB, data[8 * MIB :], **{"Upload-Length": str(len(data))})
    assert stored(services, bucket, done.headers["Upload-File-Id"]) == data
    # the length is declared after all bytes, by an empty PATCH
    where = path(begin(client, None))
    assert patch(client, where, 0, b"hello").status == 204
    done = patch(client, where, 5, b"", **{"Upload-Length": "5"})
    assert stored(services, bucket, done.headers["Upload-File-Id"]) == b"hello"
    assert leftovers() == NOTHING


def sums(data: bytes) -> dict[str, bytes]:
    found = {name: hashlib.new(name, data).digest() for name in ("sha1", "sha256", "md5")}
    return {**found, "crc32": zlib.crc32(data).to_bytes(4, "big")}


def test_T12_bytes_with_a_wrong_checksum_are_discarded(
    client: GatewayClient, services: Services, bucket: Any, leftovers: Leftovers
) -> None:
    data = random_bytes(18 * MIB)
    where = path(begin(client, len(data)))
    wrong = base64.b64encode(sums(data[:-1])["sha1"]).decode()
    refused = patch(client, where, 0, data[: 17 * MIB], **{"Upload-Checksum": f"sha1 {wrong}"})
    assert refused.status == 460 and refused.code == "checksum_mismatch"
    assert offset(client, where) == 0
    right = base64.b64encode(sums(data[: 17 * MIB])["sha256"]).decode()
    assert patch(client, where, 0, data[: 17 * MIB], **{"Upload-Checksum": f"sha256 {right}"}).status == 204
    at = 17 * MIB
    for algorithm in ("md5", "crc32", "sha1"):
        piece = data[at : at + 1000]
        value = base64.b64encode(sums(piece)[algorithm]).decode()
        assert patch(client, where, at, piece, **{"Upload-Checksum": f"{algorithm} {value}"}).status == 204
        at += 1000
    done = patch(client, where, at, data[at:])
    assert stored(services, bucket, done.headers["Upload-File-Id"]) == data
    for bad in ("sha1", "sha1 !", "sha512 AAAA", "crc32 AAAA="):
        assert patch(client, path(begin(client, 5)), 0, b"hello", **{"Upload-Checksum": bad}).status == 400


# -- T51 ---------------------------------------------------------------------------------------------------------------


def test_T51_other_protocol_versions_are_412(client: GatewayClient) -> None:
    where = path(begin(client, 5))
    for sent in ({}, {"Tus-Resumable": "0.2.2"}, {"Tus-Resumable": ""}):
        for answer in (
            client.post("/api/tus", headers={**sent, "Upload-Length": "5"}),
            client.head(where, headers=sent),
            client.patch(where, data=b"x", headers={**BYTES, **sent, "Tus-Resumable": "9"}),
            client.delete(where, headers=sent),
        ):
            assert answer.status == 412 and answer.headers["Tus-Version"] == "1.0.0", sent
            assert answer.headers["Tus-Resumable"] == "1.0.0"
    assert offset(client, where) == 0


def test_T51_wrong_types_and_offsets_change_nothing(client: GatewayClient) -> None:
    where = path(begin(client, 5))
    for wrong in ("text/plain", "", "application/partial-upload"):
        answer = client.patch(where, data=b"hello", headers={**TUS, "Content-Type": wrong, "Upload-Offset": "0"})
        assert answer.status == 415, wrong
    for at in (1, 5, 4000):
        answer = patch(client, where, at, b"hello")
        assert answer.status == 409 and answer.code == "offset_mismatch"
        assert answer.json["expected-offset"] == 0 and answer.headers["Tus-Resumable"] == "1.0.0"
    for bad in ("", "-1", "1.0", "x", "9" * 5000, str(2**63)):
        sent = {**BYTES, "Upload-Offset": bad}
        assert client.patch(where, data=b"hello", headers=sent).status == 400, bad[:20]
    assert offset(client, where) == 0


@pytest.mark.settings(max_file_size=1000)
def test_T51_options_needs_no_credential(anonymous: GatewayClient, client: GatewayClient) -> None:
    for where in ("/api/tus", "/api/tus/", f"/api/tus/{uuid4()}"):
        answer = anonymous.options(where)
        assert answer.status == 204 and answer.headers["Tus-Version"] == "1.0.0"
        assert answer.headers["Tus-Max-Size"] == "1000" and answer.headers["Tus-Resumable"] == "1.0.0"
        assert answer.headers["Upload-Limit"] == "max-size=1000, min-size=0"
        assert set(answer.headers["Tus-Checksum-Algorithm"].split(",")) == {"sha1", "sha256", "md5", "crc32"}
        assert "concatenation" in answer.headers["Tus-Extension"].split(",")
    assert begin(client, 1001).status == 413 and begin(client, 1000).status == 201


def test_T51_cors_allows_every_header(anonymous: GatewayClient, client: GatewayClient) -> None:
    origin = {"Origin": "http://app.test"}
    asked = "authorization, content-type, tus-resumable, upload-length, upload-metadata, upload-offset, upload-checksum"
    preflight = anonymous.options(
        "/api/tus",
        headers={**origin, "Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": asked},
    )
    allowed = preflight.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert set(asked.split(", ")) <= set(allowed)
    assert "PATCH" in preflight.headers["Access-Control-Allow-Methods"]
    begun = begin(client, 5, headers=origin)
    exposed = begun.headers["Access-Control-Expose-Headers"].split(", ")
    named = [name for name in dict(begun.headers) if name.startswith(("Upload-", "Tus-")) or name == "Location"]
    assert set(named) <= set(exposed)
    assert {"Upload-Offset", "Upload-Length", "Upload-Expires", "Upload-File-Id", "Tus-Resumable"} <= set(exposed)


# -- T52 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.settings(max_file_size=100, quota_bytes=150)
def test_T52_lengths_and_limits(client: GatewayClient, leftovers: Leftovers) -> None:
    for sent in (
        {},
        {"Upload-Length": "5", "Upload-Defer-Length": "1"},
        {"Upload-Defer-Length": "2"},
        {"Upload-Length": "-5"},
        {"Upload-Length": "5.0"},
        {"Upload-Length": "NaN"},
        {"Upload-Length": str(2**63)},
        {"Upload-Length": "9" * 5000},
        {"Upload-Length": "5", "Upload-Metadata": "filename !!!"},
        {"Upload-Length": "5", "Upload-Metadata": "a YQ==,a YQ=="},
        {"Upload-Length": "5", "Upload-Metadata": " ,"},
        {"Upload-Length": "5", "Upload-Metadata": "filename /w=="},
        {"Upload-Length": "5", "Upload-Metadata": metadata(folder_id="x")},
        {"Upload-Length": "5", "Upload-Metadata": metadata(visibility="secret")},
    ):
        assert client.post("/api/tus", headers={**TUS, **sent}).status == 400, sent
    assert begin(client, 5, folder_id="4711").status == 404
    assert begin(client, 101).code == "file_too_large"
    assert leftovers() == NOTHING
    where = path(begin(client, 100))
    assert begin(client, 51).code == "quota_exceeded"
    assert patch(client, where, 0, bytes(101)).status == 413 and offset(client, where) == 0
    assert patch(client, where, 0, iter([bytes(60), bytes(41)])).status == 413 and offset(client, where) == 0
    assert client.delete(where, headers=TUS).status == 204
    where = path(begin(client, None))
    assert patch(client, where, 0, bytes(101)).status == 413
    assert client.head(where, headers=TUS).status == 410
    assert leftovers() == NOTHING


@pytest.mark.settings(denied_types=("exe", "application/x-dosexec"))
def test_T52_types_are_checked_by_name_and_by_content(client: GatewayClient, leftovers: Leftovers) -> None:
    assert begin(client, 5, name="a.exe").status == 415
    where = path(begin(client, 100_000, name="a.bin"))
    program = b"MZ" + bytes(58) + b"\x40\0\0\0" + b"PE\0\0" + b"\x4c\x01" + bytes(100_000)
    assert patch(client, where, 0, program[:30_000]).status == 204
    assert patch(client, where, 30_000, program[30_000:70_000]).status == 415
    assert client.head(where, headers=TUS).status == 410
    assert leftovers() == NOTHING


# -- T56 ---------------------------------------------------------------------------------------------------------------


def test_T56_an_upload_belongs_to_its_owner(
    client: GatewayClient, other: GatewayClient, anonymous: GatewayClient
) -> None:
    where = path(begin(client, 5))
    absent = f"/api/tus/{uuid4()}"
    for address in (where, absent, "/api/tus/x", "/api/tus/..%2f..%2fetc", "/api/tus/%2e%2e%2f", f"{where}x"):
        for ask in (
            lambda: other.head(address, headers=TUS),  # noqa: B023
            lambda: patch(other, address, 0, b"hello"),  # noqa: B023
            lambda: other.delete(address, headers=TUS),  # noqa: B023
            lambda: other.post(address, headers={**TUS, "X-HTTP-Method-Override": "DELETE"}),  # noqa: B023
        ):
            assert ask().status == 404, address
        for ask in (lambda: anonymous.head(address, headers=TUS), lambda: patch(anonymous, address, 0, b"")):  # noqa: B023
            assert ask().status == 401
    assert begin(anonymous, 5).status == 401
    assert anonymous.post("/api/tus", headers=TUS).headers["Tus-Resumable"] == "1.0.0"
    assert offset(client, where) == 0


def test_T56_termination(client: GatewayClient, services: Services, bucket: Any, leftovers: Leftovers) -> None:
    where = path(begin(client, 20 * MIB))
    assert patch(client, where, 0, random_bytes(10 * MIB)).status == 204
    assert client.delete(where, headers=TUS).status == 204
    assert leftovers() == NOTHING
    assert client.head(where, headers=TUS).status == 410 and patch(client, where, 0, b"x").status == 410
    assert client.delete(where, headers=TUS).status == 410
    where = path(begin(client, 5))
    done = patch(client, where, 0, b"hello")
    assert client.delete(where, headers=TUS).status == 204
    assert stored(services, bucket, done.headers["Upload-File-Id"]) == b"hello"


def test_T56_method_override_needs_post(client: GatewayClient) -> None:
    where = path(begin(client, 10))

    def by(method: str) -> Answer:
        return client.post(where, headers={**BYTES, "X-HTTP-Method-Override": method})

    seen = by("HEAD")
    assert seen.status == 200 and seen.headers["Upload-Offset"] == "0" and not seen.body
    answer = client.post(
        where, data=b"hello", headers={**BYTES, "X-HTTP-Method-Override": "PATCH", "Upload-Offset": "0"}
    )
    assert answer.status == 204 and answer.headers["Upload-Offset"] == "5"
    for refused in ("GET", "PUT", "", "patch/delete"):
        assert by(refused).status == 405
    for method in ("GET", "HEAD", "PATCH", "PUT"):
        client.request(method, where, headers={**BYTES, "Upload-Offset": "7", "X-HTTP-Method-Override": "DELETE"})
    assert offset(client, where) == 5
    assert client.get(where, headers=TUS).status == 405
    collection = client.post("/api/tus", headers={**TUS, "X-HTTP-Method-Override": "DELETE", "Upload-Length": "1"})
    assert collection.status == 405
    assert by("DELETE").status == 204 and client.head(where, headers=TUS).status == 410


# -- T57 ---------------------------------------------------------------------------------------------------------------


def partial(client: GatewayClient, data: bytes) -> str:
    begun = begin(client, len(data), name=None, headers={"Upload-Concat": "partial"})
    assert begun.status == 201
    if data:
        answer = patch(client, path(begun), 0, data)
        assert answer.status == 204 and "Upload-File-Id" not in answer.headers
    return path(begun)


def final(client: GatewayClient, *where: str, **pairs: str) -> Answer:
    sent = {
        **TUS,
        "Upload-Concat": f"final;{' '.join(where)}",
        "Upload-Metadata": metadata(**{"filename": "all.bin", **pairs}),
    }
    return client.post("/api/tus", headers=sent)


def test_T57_partial_uploads_become_one_file(
    client: GatewayClient, services: Services, bucket: Any, leftovers: Leftovers
) -> None:
    large, medium, small = random_bytes(13 * MIB), random_bytes(6 * MIB), random_bytes(700)
    for pieces in ([large, medium], [small, large, small, medium], [small, small[:300]], [large, b"", small], [medium]):
        addresses = [partial(client, piece) for piece in pieces]
        assert client.head(addresses[0], headers=TUS).headers["Upload-Concat"] == "partial"
        answer = final(client, "http://gateway.test" + addresses[0], *addresses[1:], camera="x")
        assert answer.status == 201, answer.body
        data = b"".join(pieces)
        assert stored(services, bucket, answer.headers["Upload-File-Id"]) == data
        seen = client.head(path(answer), headers=TUS).headers
        assert seen["Upload-Offset"] == seen["Upload-Length"] == str(len(data))
        assert seen["Upload-Concat"].startswith("final;http://gateway.test/api/tus/")
        assert patch(client, path(answer), len(data), b"more").status == 403
        assert patch(client, path(answer), 0, b"more").status == 403
        assert [client.head(address, headers=TUS).status for address in addresses] == [410] * len(addresses)
    assert leftovers() == NOTHING


def test_T57_a_partial_upload_may_be_used_twice(client: GatewayClient, services: Services, bucket: Any) -> None:
    data = random_bytes(6 * MIB)
    where = partial(client, data)
    assert stored(services, bucket, final(client, where, where).headers["Upload-File-Id"]) == data + data


@pytest.mark.settings(max_file_size=10 * MIB, quota_bytes=10 * MIB)
def test_T57_uploads_that_can_not_be_concatenated(
    client: GatewayClient, other: GatewayClient, leftovers: Leftovers
) -> None:
    one, two = partial(client, bytes(6 * MIB)), partial(client, bytes(3 * MIB))
    unfinished = path(begin(client, 5, headers={"Upload-Concat": "partial"}))
    whole = path(begin(client, 5))
    patch(client, whole, 0, b"hello")
    assert final(other, one, two).status == 404
    assert (
        final(client, one, f"/api/tus/{uuid4()}").status == 404 and final(client, one, "http://x.test/y").status == 404
    )
    assert final(client, one, unfinished).status == 400 and final(client, one, whole).status == 400
    assert final(client, one, one).code == "file_too_large"
    assert final(client, two, two, two).code == "quota_exceeded"
    for bad in ("final", "final;", "partial;x", "whole"):
        assert client.post("/api/tus", headers={**TUS, "Upload-Concat": bad, "Upload-Length": "5"}).status == 400
    sent = {**TUS, "Upload-Concat": f"final;{one}", "Upload-Length": "5"}
    assert client.post("/api/tus", headers=sent).status == 400
    assert client.delete(unfinished, headers=TUS).status == 204
    assert final(client, one, two).status == 201  # uploads and quota are unchanged by all that
    assert leftovers() == NOTHING


# -- T58 ---------------------------------------------------------------------------------------------------------------


def test_T58_an_expired_upload_is_gone(
    client: GatewayClient, services: Services, db: Database, leftovers: Leftovers
) -> None:
    addresses = []
    for size, sent in ((20 * MIB, 9 * MIB), (20, 0), (None, 10)):
        begun = begin(client, size)
        assert begun.headers["Upload-Expires"].endswith(" GMT")
        addresses.append(path(begun))
        answer = patch(client, path(begun), 0, random_bytes(sent))
        assert answer.status == 204 and answer.headers["Upload-Expires"] >= begun.headers["Upload-Expires"]
        expire(db, id_of(path(begun)))
    for _ in range(2):
        for address in addresses:
            assert client.head(address, headers=TUS).status == 410
            assert patch(client, address, 0, b"x").status == 410
        services.janitor.run()
    assert leftovers() == NOTHING
    sql(db, "update uploads set updated_at = now() - interval '8 days'")
    services.janitor.run()
    assert client.head(addresses[0], headers=TUS).status == 404


# -- with other interfaces ---------------------------------------------------------------------------------------------


def test_an_upload_is_listed_with_its_progress(client: GatewayClient, leftovers: Leftovers) -> None:
    where = path(begin(client, 20 * MIB))
    patch(client, where, 0, random_bytes(9 * MIB + 5))
    (shown,) = client.get("/api/uploads").json["items"]
    assert shown["protocol"] == "tus" and shown["id"] == where.rpartition("/")[2]
    progress = client.get(f"/api/uploads/{shown['id']}").json
    assert progress["bytes_received"] == 9 * MIB + 5 and progress["size"] == 20 * MIB
    assert client.delete(f"/api/uploads/{shown['id']}").status == 204
    assert client.head(where, headers=TUS).status == 410
    assert leftovers() == NOTHING


def test_an_upload_token_works_in_the_path_and_in_the_header(app: Any, client: GatewayClient) -> None:
    anonymous = GatewayClient(app, None, check=False)  # the OpenAPI document has no paths below /t
    made = client.post("/api/upload-tokens", json={"owner_id": "alice", "max_size": 10}).json
    prefix = f"/t/{made['token']}"
    assert made["endpoints"]["tus"] == f"http://gateway.test{prefix}/api/tus"
    begun = begin(anonymous.as_(made["token"]), 5)
    in_path = anonymous.post(f"{prefix}/api/tus", headers={**TUS, "Upload-Length": "5"})
    assert in_path.status == 201 and in_path.headers["Location"].startswith(f"http://gateway.test{prefix}/api/tus/")
    slash_at_end = anonymous.post(f"{prefix}/api/tus/", headers={**TUS, "Upload-Length": "5"})
    assert slash_at_end.status == 201
    assert patch(anonymous, path(in_path), 0, b"hello").status == 204
    assert patch(anonymous, prefix + path(begun), 0, b"hello").status == 204
    assert anonymous.post(f"{prefix}/api/tus", headers={**TUS, "Upload-Length": "11"}).status == 413
    of_owner = path(begin(client, 5))
    assert anonymous.head(prefix + of_owner, headers=TUS).status == 404


def test_T14_a_repeated_creation_is_the_same_upload(client: GatewayClient) -> None:
    sent = {**BYTES, "Upload-Length": "10", "Idempotency-Key": "one"}
    first = client.post("/api/tus", data=b"hello", headers=sent)
    again = client.post("/api/tus", data=b"hello", headers=sent)
    assert (first.status, again.status) == (201, 201)
    assert first.headers["Location"] == again.headers["Location"] and again.headers["Upload-Offset"] == "5"
    assert again.headers["Idempotency-Replayed"] == "true"
    assert client.post("/api/tus", headers={**sent, "Upload-Length": "11"}).status == 422
    refused = {**TUS, "Upload-Length": "x", "Idempotency-Key": "two"}
    assert client.post("/api/tus", headers=refused).status == 400
    assert client.post("/api/tus", headers={**refused, "Upload-Length": "5"}).status == 201


def test_an_upload_with_lost_bytes_is_410(client: GatewayClient, bucket: Any, leftovers: Leftovers) -> None:
    for size in (100, 9 * MIB):  # only a tail; parts
        where = path(begin(client, 20 * MIB))
        assert patch(client, where, 0, random_bytes(size)).status == 204
        for info in list(bucket.list_objects("tails/")):
            bucket.delete(info.key)
        for ref in list(bucket.list_multiparts("files/")):
            bucket.abort_multipart(ref)
        lost = client.head(where, headers=TUS)
        assert lost.status == 410 and "Upload-Offset" not in lost.headers
        assert client.head(where, headers=TUS).status == 410
    assert leftovers() == NOTHING


def proxied(app: Any, changed: dict[str, Any], key: str | None, peer: str, **said: str) -> str:
    """The base URL of an upload that was begun through a proxy."""
    gateway = app.extensions[EXTENSION]
    app.extensions[EXTENSION] = replace(gateway, settings=gateway.settings.model_copy(update=changed))
    headers = {**TUS, "Upload-Length": "5", "Authorization": f"Bearer {key}"}
    headers |= {f"X-Forwarded-{name}": value for name, value in said.items()}
    try:
        answer = app.test_client().post("/api/tus", headers=headers, environ_base={"REMOTE_ADDR": peer})
    finally:
        app.extensions[EXTENSION] = gateway
    return str(answer.headers["Location"]).partition("/api/")[0]


def test_T38_T74_locations_use_the_public_url_or_a_trusted_proxys(app: Any, client: GatewayClient) -> None:
    unset = {"host": "0.0.0.0", "port": 8080, "public_url": None, "trusted_proxies": ("10.0.0.0/8", "::1")}
    says = {"Proto": "https", "Host": "files.example.com:8443"}
    cases = [
        (unset, "10.1.2.3", says, "https://files.example.com:8443"),
        (unset, "::1", says, "https://files.example.com:8443"),
        (unset, "192.0.2.1", says, "http://localhost:8080"),
        (unset, "10.1.2.3", {}, "http://localhost:8080"),
        (unset, "10.1.2.3", {**says, "Host": "evil.test/x"}, "http://localhost:8080"),
        (unset, "10.1.2.3", {**says, "Proto": "javascript"}, "http://localhost:8080"),
        # values from the client precede those that our proxies add
        (
            unset,
            "10.1.2.3",
            {"For": "192.0.2.9", "Proto": "http, https", "Host": "evil.test, a.test"},
            "https://a.test",
        ),
        (
            unset,
            "10.1.2.3",
            {"For": "192.0.2.9, 10.9.9.9", "Proto": "x, https, http", "Host": "e, a.test, inner"},
            "https://a.test",
        ),
        ({**unset, "public_url": "http://localhost:8080"}, "10.1.2.3", says, "http://localhost:8080"),
    ]
    for changed, peer, said, expected in cases:
        assert proxied(app, changed, client.key, peer, **said) == expected, (peer, said)
