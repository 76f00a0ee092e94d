"""The bucket accepts no more than the reserved quota: by URLs with a signed length, or by checking what has arrived."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from core.parts import PART_SIZE
from db import Database
from services import Services
from services.uploads.direct import MAX_OUTSTANDING, DirectUploads
from tests import tus
from tests.api.test_direct_uploads import _wait_for, worker
from tests.api.test_s3_uploads import MIB, PIECE, Multipart, Signed, checked, post_form
from tests.api.test_upload_tokens import token_of
from tests.client import GatewayClient
from tests.conftest import NOTHING, Leftovers
from tests.direct_steps import incoming
from tests.presigned import put, send
from tests.rows import sql
from tests.servers import KEEPS_EACH_PART

__all__ = ["worker"]


def direct(services: Services) -> DirectUploads:
    assert services.direct is not None
    return services.direct


def measure(services: Services, db: Database) -> None:
    sql(db, "update uploads set measured_at = '-infinity'")
    direct(services).watch()


def life(url: str) -> int:
    return int(parse_qs(urlsplit(url).query)["X-Amz-Expires"][0])


def reserved(db: Database) -> int:
    [row] = sql(db, "select coalesce(sum(reserved_bytes), 0)::bigint from owner_usage")
    return int(row[0])


# -- parts of undeclared length ----------------------------------------------------------------------------------------


@pytest.mark.settings(quota_bytes=12 * MIB, max_file_size=18 * MIB)
@pytest.mark.parametrize(
    ("budget", "size", "code"),
    [
        (None, 13 * MIB, "quota_exceeded"),
        (None, 19 * MIB, "file_too_large"),
        ({"max_size": 1000}, 1001, "file_too_large"),
        ({"max_total_size": 1000}, 1001, "quota_exceeded"),
    ],
)
def test_T135_uploads_beyond_quota_budget_or_file_limit_are_aborted(
    client: GatewayClient,
    services: Services,
    db: Database,
    leftovers: Leftovers,
    budget: dict[str, int] | None,
    size: int,
    code: str,
) -> None:
    sender = client if budget is None else token_of(client, **budget)
    upload = Multipart(sender)
    url = sender.get(upload.at("/1")).json["url"]
    assert 0 < life(url) <= 600
    put(url, bytes(size))
    measure(services, db)
    ended = client.get(f"/api/uploads/{upload.id}").json
    assert (ended["status"], ended["problem"]["code"]) == ("aborted", code)
    assert send(url, b"more").status_code == 404
    again = sender.get(upload.at("/1"))
    assert (again.status, again.json["detail"]) == (410, ended["problem"]["detail"])
    assert leftovers() == NOTHING


@pytest.mark.settings(quota_bytes=12 * MIB)
def test_T135_quota_is_reserved_for_received_bytes_only(
    client: GatewayClient, services: Services, db: Database, leftovers: Leftovers
) -> None:
    first, second = Multipart(client, "a.bin"), Multipart(client, "b.bin")
    etag = first.put(1, bytes(8 * MIB))
    second_etag = second.put(1, bytes(4 * MIB))
    direct(services).watch()  # not due yet
    assert reserved(db) == 0
    measure(services, db)
    assert reserved(db) == 12 * MIB
    assert client.post("/api/uploads", json={"filename": "c", "size": 1}).code == "quota_exceeded"
    put(second.client.get(second.at("/1")).json["url"], bytes(4 * MIB + 1))
    direct(services).watch()  # not due again yet
    measure(services, db)
    assert client.get(f"/api/uploads/{second.id}").json["status"] == "aborted"
    assert first.complete(etag).status == 200 and second.complete(second_etag).status == 410
    assert client.get("/api/storage/stats").json["quota"]["used"] == 8 * MIB
    assert leftovers() == NOTHING


@pytest.mark.settings(quota_bytes=20 * MIB)
@KEEPS_EACH_PART
def test_T135_a_part_sent_repeatedly_counts_each_time(
    client: GatewayClient, services: Services, db: Database, leftovers: Leftovers
) -> None:
    unmeasured = Multipart(client)
    url = client.get(unmeasured.at("/1")).json["url"]
    measured = client.post("/api/uploads", json={"filename": "b.bin", "size": PART_SIZE + 1}).json
    known = measured["parts"][0]["url"]
    for number in range(2):  # as a client does whose response was lost
        put(url, bytes([number]) * MIB)
        put(known, bytes([number]) * PART_SIZE)
    measure(services, db)
    for upload_id in (unmeasured.id, measured["id"]):
        assert client.get(f"/api/uploads/{upload_id}").json["status"] == "uploading"
    for number in range(2, 5):
        put(url, bytes([number]) * (7 * MIB))
        put(known, bytes([number]) * PART_SIZE)
    measure(services, db)
    for upload_id in (unmeasured.id, measured["id"]):
        assert client.get(f"/api/uploads/{upload_id}").json["status"] == "aborted"
    assert leftovers() == NOTHING


def test_T135_parts_beyond_the_declared_size_are_detected(
    client: GatewayClient, services: Services, db: Database, bucket: Any, leftovers: Leftovers
) -> None:
    begun = client.post("/api/uploads", json={"filename": "b.bin", "size": PART_SIZE + 1}).json
    for part, size in zip(begun["parts"], (PART_SIZE, 1), strict=True):
        put(part["url"], bytes(size))
    [ref] = list(bucket.list_multiparts(""))
    bucket.put_part(ref, 3, memoryview(b"x"))  # bypasses the gateway
    measure(services, db)
    assert client.get(f"/api/uploads/{begun['id']}").json["problem"]["code"] == "file_too_large"
    assert leftovers() == NOTHING


def test_T135_outstanding_parts_of_unknown_length_are_limited(client: GatewayClient, leftovers: Leftovers) -> None:
    upload = Multipart(client)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: client.get(upload.at(f"/{n}")), range(1, MAX_OUTSTANDING + 9)))
    given = [n for n, answer in enumerate(answers, 1) if answer.status == 200]
    assert len(given) == MAX_OUTSTANDING
    refused = next(answer for answer in answers if answer.status != 200)
    assert (refused.status, refused.code) == (429, "rate_limited") and refused.headers["Retry-After"]
    again = client.get(upload.at(f"/{given[0]}"))  # the same part again does not count
    put(again.json["url"], PIECE)
    assert client.get(upload.at("/100")).status == 200  # one part has arrived
    assert client.get(upload.at("/101")).status == 429
    assert client.get(upload.at("/batch", partNumbers=",".join(map(str, range(200, 217))))).status == 429
    client.delete(upload.at())
    assert leftovers()["multiparts"] == []


# -- declared lengths --------------------------------------------------------------------------------------------------


def test_T135_signRequest_with_a_size_signs_part_lengths(
    client: GatewayClient, services: Services, leftovers: Leftovers
) -> None:
    signed, data = Signed(client), os.urandom(5 * MIB + 7)
    created = signed(method="POST", key="film.bin", size=len(data))
    assert client.get(f"/api/uploads/{created['id']}").json["size"] == len(data)
    at: dict[str, Any] = {"key": created["key"], "uploadId": created["id"]}
    for number, piece in enumerate((data[: 5 * MIB], data[5 * MIB :]), 1):
        url = signed(method="PUT", **at, partNumber=number)["url"]
        assert send(url, piece + b"!").status_code == 403
        put(url, piece)
    assert client.post("/s3/sign", json={"method": "PUT", **at, "partNumber": 3}).status == 400
    file = client.post(f"/api/uploads/{created['id']}/complete", json={}).json
    assert checked(services, client, file["id"])["file_size"] == len(data)
    assert leftovers() == NOTHING


@pytest.mark.settings(quota_bytes=1000)
def test_T135_a_form_is_limited_by_free_quota_and_reserves_none(
    client: GatewayClient, services: Services, db: Database, leftovers: Leftovers
) -> None:
    def form(sender: GatewayClient) -> dict[str, Any]:
        answer = sender.get("/s3/params", params={"filename": "a.txt", "type": "text/plain"})
        assert answer.status == 200
        return answer.json

    client.add("a.txt", b"x" * 400)
    six = [form(client) for _ in range(6)]
    assert reserved(db) == 0
    assert post_form(six[0], bytes(601)).status_code == 400
    small = token_of(client, max_total_size=90)
    assert post_form(form(small), bytes(91)).status_code == 400
    for params in six:
        assert post_form(params, b"x" * 100).ok
    assert direct(services).sweep() == 6
    full = client.get("/s3/params", params={"filename": "a.txt", "type": "text/plain"})
    assert (full.status, full.json["code"]) == (413, "quota_exceeded")
    assert client.get("/api/uploads").json["items"][1:] == []  # only the token's is left
    sql(db, "update uploads set expires_at = now() - interval '1 second' where status = 'pending'")
    services.janitor.run()
    assert leftovers() == NOTHING


def test_T135_the_sweep_removes_bytes_sent_after_the_end(
    client: GatewayClient, services: Services, bucket: Any, leftovers: Leftovers
) -> None:
    form = client.get("/s3/params", params={"filename": "a.txt", "type": "text/plain"}).json
    assert post_form(form, b"hello").ok
    begun = client.post("/api/uploads", json={"filename": "b.txt", "size": 5}).json
    put(begun["url"], b"world", begun["headers"])
    gone = client.post("/api/uploads", json={"filename": "c.txt", "size": 5}).json
    client.delete(f"/api/uploads/{gone['id']}")
    assert direct(services).sweep() == 2
    assert post_form(form, b"again").ok
    put(begun["url"], b"again", begun["headers"])
    put(gone["url"], b"after", gone["headers"])
    assert len(incoming(bucket)) == 3
    assert direct(services).sweep() == 0
    assert leftovers() == NOTHING


# -- lifetime ----------------------------------------------------------------------------------------------------------


@pytest.mark.settings(upload_ttl=3600)
@pytest.mark.parametrize("way", ["direct", "s3", "tus"])
def test_T135_renewing_does_not_extend_the_maximum_lifetime(
    client: GatewayClient, services: Services, db: Database, way: str, leftovers: Leftovers
) -> None:
    if way == "direct":
        begun = client.post("/api/uploads", json={"filename": "a.bin", "size": 2 * PART_SIZE}).json
        upload_id, numbers = begun["id"], {"part_numbers": [1]}
        renew = lambda: client.post(f"/api/uploads/{upload_id}/parts", json=numbers)  # noqa: E731
    elif way == "s3":
        upload = Multipart(client)
        upload_id, renew = upload.id, lambda: client.get(upload.at("/1"))
    else:
        where = tus.path(tus.begin(client, 1000))
        sent = iter(range(1000))
        upload_id = where.rpartition("/")[2]
        renew = lambda: tus.patch(client, where, next(sent), b"x")  # noqa: E731

    def ends_in() -> float:
        shown = client.get(f"/api/uploads/{upload_id}").json
        ends, began = (datetime.fromisoformat(shown[name]) for name in ("expires_at", "created_at"))
        return (ends - began).total_seconds()

    sql(db, "update uploads set created_at = now() - interval '6 hours'")
    assert renew().status in (200, 204) and ends_in() > 6.9 * 3600
    sql(
        db,
        "update uploads set created_at = now() - interval '6 hours 59 minutes 55 seconds', expires_at = now()"
        " + interval '2 seconds'",
    )
    answer = renew()
    assert answer.status in (200, 204) and ends_in() <= 7 * 3600
    if way != "tus":
        url = answer.json["url"] if way == "s3" else answer.json["parts"][0]["url"]
        assert life(url) <= 6
    sql(db, "update uploads set created_at = now() - interval '8 hours', expires_at = now() - interval '1 second'")
    assert renew().status == 410
    services.janitor.run()
    assert leftovers() == NOTHING


# -- with a real worker ------------------------------------------------------------------------------------------------


@pytest.mark.settings(quota_bytes=12 * MIB)
def test_T135_a_worker_aborts_an_upload_over_its_budget(
    client: GatewayClient, worker: subprocess.Popen[bytes], leftovers: Leftovers
) -> None:
    upload = Multipart(token_of(client, max_size=1000))
    upload.put(1, PIECE)
    _wait_for(lambda: client.get(f"/api/uploads/{upload.id}").json["status"] == "aborted")
    _wait_for(lambda: leftovers() == NOTHING)
    assert worker.poll() is None
