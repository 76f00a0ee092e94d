"""Uploads whose multipart the bucket has dropped, as MinIO does with one that is older than a day."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import sleep
from typing import Any

import pytest

from core.parts import PART_SIZE
from db import Database
from services import Services
from storage_backends.base import MultipartRef
from tests.client import Answer, GatewayClient
from tests.conftest import NOTHING, Leftovers
from tests.direct_steps import direct
from tests.rows import sql

SIZE = 2 * PART_SIZE
Ask = Callable[[GatewayClient, str], Answer]


def multiparts(db: Database) -> list[MultipartRef]:
    """Those of all uploads. MinIO does not list them by prefix."""
    found = sql(db, "select object_key, multipart_id from uploads where multipart_id is not null")
    return [MultipartRef(*row) for row in found]


def drop_all(bucket: Any, db: Database) -> None:
    for ref in multiparts(db):
        bucket.abort_multipart(ref)


DIRECT: dict[str, Ask] = {
    "progress": lambda client, id_: client.get(f"/api/uploads/{id_}"),
    "parts": lambda client, id_: client.post(f"/api/uploads/{id_}/parts", json={"part_numbers": [1]}),
    "complete": lambda client, id_: client.post(f"/api/uploads/{id_}/complete", json={}),
}
S3: dict[str, Ask] = {
    "list": lambda client, at: client.get(at.format("")),
    "sign": lambda client, at: client.get(at.format("/1")),
    "sign several": lambda client, at: client.get(at.format("/batch") + "&partNumbers=1,2"),
    "complete": lambda client, at: client.post(
        at.format("/complete"), json={"parts": [{"PartNumber": 1, "ETag": "0" * 32}]}
    ),
}


def begin(client: GatewayClient) -> Answer:
    body = {"filename": "a.bin", "size": SIZE}
    return client.post("/api/uploads", json=body, headers={"Idempotency-Key": "once"})


def begin_s3(client: GatewayClient) -> Answer:
    return client.post("/s3/multipart", json={"filename": "a.bin", "type": "application/octet-stream", "metadata": {}})


@pytest.mark.settings(quota_bytes=SIZE)
@pytest.mark.parametrize("first", DIRECT)
def test_T44_whatever_is_asked_first_of_a_dropped_upload_ends_it(
    client: GatewayClient, bucket: Any, db: Database, leftovers: Leftovers, first: str
) -> None:
    upload_id = begin(client).json["id"]
    drop_all(bucket, db)
    for ask in (DIRECT[first], *DIRECT.values()):
        answer = ask(client, upload_id)
        assert (answer.status, answer.code) == (410, "upload_gone"), answer.body
    assert client.get("/api/uploads").json["items"] == []
    assert leftovers() == NOTHING
    again = client.post("/api/uploads", json={"filename": "a.bin", "size": SIZE})  # the quota is free
    assert again.status == 201, again.body


@pytest.mark.parametrize("first", S3)
def test_T44_whatever_the_plugin_asks_first_of_a_dropped_upload_ends_it(
    client: GatewayClient, bucket: Any, db: Database, leftovers: Leftovers, first: str
) -> None:
    begun = begin_s3(client).json
    address = f"/s3/multipart/{begun['uploadId']}{{}}?key={begun['key']}"
    drop_all(bucket, db)
    for ask in (S3[first], *S3.values()):
        answer = ask(client, address)
        assert (answer.status, answer.code) == (410, "upload_gone"), answer.body
    assert leftovers() == NOTHING


@pytest.mark.parametrize("start", [begin, begin_s3])
def test_T46_a_dropped_upload_ends_although_nobody_asks(
    client: GatewayClient, bucket: Any, services: Services, leftovers: Leftovers, start: Any, db: Database
) -> None:
    start(client)
    drop_all(bucket, db)
    with db.connection() as tx:
        tx.execute("update uploads set created_at = created_at - interval '1 minute'")  # it is time to measure it
    direct(services).watch()
    assert client.get("/api/uploads").json["items"] == []
    assert leftovers() == NOTHING


def test_T14_a_repeated_begin_of_a_dropped_upload_begins_another(
    client: GatewayClient, bucket: Any, db: Database
) -> None:
    first = begin(client).json
    drop_all(bucket, db)
    second = begin(client)
    assert second.status == 201 and second.json["id"] != first["id"]
    assert [item["id"] for item in client.get("/api/uploads").json["items"]] == [second.json["id"]]


def test_an_assembled_upload_is_not_taken_for_a_dropped_one(client: GatewayClient, bucket: Any, db: Database) -> None:
    """Its completer died after the last step."""
    begun, data = begin(client).json, bytes(SIZE)
    (ref,) = multiparts(db)
    parts = [bucket.put_part(ref, number, data[:PART_SIZE]) for number in (1, 2)]
    bucket.complete_multipart(ref, parts)
    assert client.get(f"/api/uploads/{begun['id']}").json["bytes_received"] == SIZE
    assert DIRECT["parts"](client, begun["id"]).status == 200
    assert DIRECT["complete"](client, begun["id"]).status == 201


@pytest.mark.parametrize("size", [SIZE + 1, 3 * PART_SIZE])  # it is noticed by the last part, by completion
def test_T103_a_raw_upload_whose_multipart_is_dropped_is_gone(
    client: GatewayClient, bucket: Any, db: Database, leftovers: Leftovers, size: int
) -> None:
    def body() -> Iterator[bytes]:
        yield bytes(size - 1)
        sleep(0.3)  # the parts before are sent meanwhile
        drop_all(bucket, db)
        yield b"1"

    answer = client.put("/api/upload/a.bin", data=body())
    assert (answer.status, answer.code) == (410, "upload_gone"), answer.body
    assert leftovers() == NOTHING
