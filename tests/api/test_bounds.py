"""Rows that a caller could make grow without end are bounded, for each owner by itself (T73, T145)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from db import Database
from services import Services
from services.access import keys, upload_tokens
from services.library import tags
from tests.client import GatewayClient
from tests.rows import sql
from tests.tus import begin

Clients = Callable[..., GatewayClient]


def parallel(number: int, do: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(do, range(number)))


def test_T73_keys_of_an_owner_are_bounded(
    services: Services, admin: GatewayClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "MAX_KEYS", 3)
    answers = parallel(12, lambda _: admin.post("/api/admin/keys", json={"owner_id": "alice"}))
    made = [answer.json["id"] for answer in answers if answer.status == 201]
    assert len(made) == 3 and {(answer.status, answer.code) for answer in answers if answer.status != 201} == {
        (409, "limit_reached")
    }
    assert admin.post("/api/admin/keys", json={"owner_id": "bob"}).status == 201
    assert services.keys.create_key("alice", key="gw_configured"), (
        "a key that the operator gives does not stop the start"
    )
    monkeypatch.setattr(keys, "sleep", lambda _: None)
    for key_id in made[:2]:
        admin.delete(f"/api/admin/keys/{key_id}")
    assert admin.post("/api/admin/keys", json={"owner_id": "alice"}).status == 201


def test_T73_valid_upload_tokens_of_an_owner_are_bounded(
    client: GatewayClient, other: GatewayClient, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_tokens, "MAX_CURRENT", 3)
    answers = parallel(12, lambda _: client.post("/api/upload-tokens", json={"owner_id": "alice"}))
    assert sorted(answer.status for answer in answers) == [201] * 3 + [409] * 9
    assert {answer.code for answer in answers if answer.status == 409} == {"limit_reached"}
    assert other.post("/api/upload-tokens", json={"owner_id": "bob"}).status == 201
    first = next(answer.json["id"] for answer in answers if answer.status == 201)
    sql(db, "update upload_tokens set expires_at = now() where id = %s", first)
    assert client.post("/api/upload-tokens", json={"owner_id": "alice"}).status == 201, "one has expired"
    assert client.get("/api/upload-tokens").json["total"] == 3


@pytest.mark.settings(rate_limit_tokens="2/hour")
def test_T145_upload_tokens_created_in_a_time_are_limited(client: GatewayClient, other: GatewayClient) -> None:
    body = {"owner_id": "alice", "expires_in": 1}
    assert [client.post("/api/upload-tokens", json=body).status for _ in range(3)] == [201, 201, 429]
    assert other.post("/api/upload-tokens", json={"owner_id": "bob"}).status == 201


@pytest.mark.settings(rate_limit_idempotency_keys="2/day")
def test_T145_kept_answers_are_limited(client: GatewayClient, other: GatewayClient, db: Database) -> None:
    def put(who: GatewayClient, **headers: str) -> int:
        return who.put("/api/upload/a.txt", data=b"a", headers=headers).status

    sent = [put(client, **{"Idempotency-Key": f"key-{n}"}) for n in range(3)]
    assert sent == [201, 201, 429] and put(client) == 201
    assert put(other, **{"Idempotency-Key": "key-0"}) == 201
    assert sql(db, "select owner_id, count(*) from idempotency_keys group by 1 order by 1") == [
        ("alice", 2),
        ("bob", 1),
    ]


def test_T73_different_tags_of_an_owner_are_bounded(
    client: GatewayClient, other: GatewayClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tags, "MAX_TAGS_OF_OWNER", 3)
    file_id = client.add("a.txt", b"a", tags="one,two")["id"]
    assert client.patch(f"/api/files/{file_id}", json={"tags": ["one", "two", "three"]}).status == 200
    refused = [
        client.upload(("b.txt", b"b"), tags="four"),
        client.put("/api/upload/b.txt?tags=four", data=b"b"),
        client.post("/api/uploads", json={"filename": "b.txt", "size": 1, "tags": ["four"]}),
        begin(client, 1, tags="four"),
        client.post("/s3/sign", json={"method": "PUT", "key": "b.txt", "size": 1, "metadata": {"tags": "four"}}),
        client.patch(f"/api/files/{file_id}", json={"tags": ["three", "four"]}),
    ]
    assert [(answer.status, answer.code) for answer in refused] == [(409, "limit_reached")] * 6
    batch = {"action": "tag", "ids": [file_id], "add": ["four"]}
    assert client.post("/api/files/batch", json=batch).json["results"][0]["problem"]["code"] == "limit_reached"
    assert client.put("/api/upload/b.txt?tags=one,three", data=b"b").status == 201, "known ones"
    assert other.put("/api/upload/b.txt?tags=four", data=b"b").status == 201
    assert client.patch(f"/api/files/{file_id}", json={"tags": ["one"]}).status == 200
    assert client.put("/api/upload/c.txt?tags=four", data=b"c").status == 201, "nothing has the second any more"


def test_T73_the_same_job_waits_once(client: GatewayClient, db: Database) -> None:
    file_id = client.add("a.txt", b"name,size\na,1\n")["id"]
    for name in ("a.csv", "a.txt", "b.csv", "b.txt"):
        assert client.patch(f"/api/files/{file_id}", json={"original_name": name}).status == 200
    waiting = sql(db, "select count(*) from procrastinate_jobs where status = 'todo' and task_name = 'process_file'")
    assert waiting == [(1,)]


def test_T145_the_janitor_forgets_what_is_over(services: Services, client: GatewayClient, db: Database) -> None:
    client.post("/api/upload-tokens", json={"owner_id": "alice"})
    client.put("/api/upload/a.txt", data=b"a")
    revoked, expired = (services.keys.create_key("alice")[0].id for _ in range(2))
    sql(db, "update upload_tokens set expires_at = now() - interval '25 hours'")
    sql(db, "update upload_sessions set completed_at = now() - interval '8 days'")
    sql(db, "update api_keys set revoked_at = now() - interval '31 days' where id = %s", revoked)
    sql(db, "update api_keys set expires_at = now() - interval '31 days' where id = %s", expired)
    services.janitor.run(full=False)
    assert sql(db, "select from upload_tokens") == sql(db, "select from upload_sessions") == []
    assert sql(db, "select count(*) from api_keys where owner_id = 'alice'") == [(1,)]
