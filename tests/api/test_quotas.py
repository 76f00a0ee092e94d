"""Quotas in bytes and files: exact on every way in, by owner, claim, deployment and upload session (T71, T73)."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import pytest

import commands
from core.errors import QuotaExceeded
from core.placement import Placement
from core.principal import Principal, Quota
from db import Database, counters, uploads
from services import Services
from settings import Settings
from tests.client import Answer, GatewayClient
from tests.conftest import NOTHING, Leftovers
from tests.direct_steps import begin, direct, send_all
from tests.rows import sql
from tests.tus import BYTES, TUS, patch, path

Clients = Callable[..., GatewayClient]
WAYS: dict[str, Callable[[GatewayClient, str], Answer]] = {
    "form": lambda c, name: c.upload((name, os.urandom(10))),
    "raw": lambda c, name: c.put(f"/api/upload/{name}", data=os.urandom(10)),
    "direct": lambda c, name: c.post("/api/uploads", json={"filename": name, "size": 10}),
    "tus": lambda c, name: c.post("/api/tus", headers={**TUS, "Upload-Length": "10"}),
    "tus with bytes": lambda c, name: c.post("/api/tus", headers={**BYTES, "Upload-Length": "10"}, data=os.urandom(10)),
    "ietf": lambda c, name: c.post(
        "/api/tus",
        headers={"Upload-Draft-Interop-Version": "8", "Upload-Complete": "?0", "Upload-Length": "10"},
        data=b"",
    ),
    "s3": lambda c, name: c.post("/s3/sign", json={"method": "PUT", "key": name, "size": 10}),
}


def set_quota(admin: GatewayClient, owner: str, **limits: int) -> dict[str, Any]:
    answer = admin.put(f"/api/admin/quotas/{owner}", json=limits)
    assert answer.status == 200
    return answer.json


def no_counter_differs(db: Database) -> None:
    with db.connection() as tx:
        assert counters.differences(tx) == []


@pytest.mark.parametrize("limits", [{"max_files": 12}, {"max_bytes": 129}], ids=["files", "bytes"])
def test_T71_all_ways_at_once_accept_no_more_than_the_quota(
    client: GatewayClient, other: GatewayClient, admin: GatewayClient, db: Database, limits: dict[str, int]
) -> None:
    file_id = client.add("first.bin", os.urandom(10))["id"]
    set_quota(admin, "alice", **limits)
    token = client.as_(client.post("/api/upload-tokens", json={"owner_id": "alice"}).json["token"])
    tries = [(way, who) for way in WAYS.values() for who in (client, client, client, token)]
    tries += [(lambda c, _: c.post(f"/api/files/{file_id}/copy", json={}), client)] * 4
    random.shuffle(tries)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: tries[n][0](tries[n][1], f"{n}.bin"), range(len(tries))))
    accepted = [answer for answer in answers if answer.status in (200, 201)]
    assert len(accepted) == 11, "beside the first one"
    assert {answer.code for answer in answers if answer not in accepted} == {"quota_exceeded"}
    assert {answer.status for answer in answers if answer not in accepted} == {413}
    used = "select file_count + reserved_files, used_bytes + reserved_bytes from owner_usage where owner_id = 'alice'"
    assert sql(db, used) == [(12, 120)]
    no_counter_differs(db)
    assert all(way(other, "a.bin").status in (200, 201) for way in WAYS.values()), "another owner is not bound by it"


def test_T71_room_that_is_made_before_the_refusal_is_explained_is_used(
    client: GatewayClient, admin: GatewayClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_quota(admin, "alice", max_files=0)
    explain = uploads.refusal

    def make_room(*arguments: Any, **options: Any) -> str | None:
        set_quota(admin, "alice", max_files=1)
        return explain(*arguments, **options)

    monkeypatch.setattr(uploads, "refusal", make_room)
    assert client.post("/api/uploads", json={"filename": "a.bin", "size": 10}).status == 201
    assert client.post("/api/uploads", json={"filename": "b.bin", "size": 10}).code == "quota_exceeded"


@pytest.mark.settings(quota_files=2)
def test_T73_the_trash_counts(client: GatewayClient, db: Database) -> None:
    first, second = client.add("a.txt", b"a"), client.add("b.txt", b"b")
    client.delete(f"/api/files/{first['id']}")
    assert client.put("/api/upload/c.txt", data=b"c").code == "quota_exceeded"
    assert client.post(f"/api/files/{second['id']}/copy", json={}).code == "quota_exceeded"
    assert client.post(f"/api/files/{first['id']}/restore").status == 200
    assert client.get("/api/storage/stats").json["quota"] == {"used": 2, "limit": None, "files": 2, "max_files": 2}
    client.delete(f"/api/files/{first['id']}?permanent=true")
    no_counter_differs(db)
    assert client.put("/api/upload/c.txt", data=b"c").status == 201


def test_an_abandoned_upload_gives_its_file_back(
    client: GatewayClient, admin: GatewayClient, leftovers: Leftovers
) -> None:
    set_quota(admin, "alice", max_files=1)
    begun = client.post("/api/uploads", json={"filename": "a.bin", "size": 10})
    assert client.put("/api/upload/b.bin", data=b"b").code == "quota_exceeded"
    assert client.delete(f"/api/uploads/{begun.json['id']}").status == 204
    assert leftovers() == NOTHING
    assert client.put("/api/upload/b.bin", data=b"b").status == 201


def test_an_upload_keeps_what_it_has_reserved(
    client: GatewayClient, admin: GatewayClient, services: Services, alice: Principal
) -> None:
    """A quota that is lowered below what is used ends nothing."""
    data = os.urandom(10)
    begun = client.post("/api/tus", headers={**TUS, "Upload-Length": "10"})
    plan = begin(services, alice, data)
    set_quota(admin, "alice", max_bytes=5, max_files=1)
    send_all(plan, data)
    assert direct(services).complete(alice, plan.upload.id).file_size == 10
    assert patch(client, path(begun), 0, data).headers["Upload-Offset"] == "10"
    assert client.put("/api/upload/a.bin", data=b"a").code == "quota_exceeded"


@pytest.mark.settings(quota_bytes=100, quota_files=10)
def test_an_admin_sets_and_reads_quotas(client: GatewayClient, other: GatewayClient, admin: GatewayClient) -> None:
    assert client.put("/api/upload/a.bin", data=os.urandom(200)).code == "quota_exceeded"
    own = set_quota(admin, "alice", max_bytes=1_000)
    assert own == {
        "owner_id": "alice",
        "used_bytes": 0,
        "used_files": 0,
        "quota_bytes": 1_000,
        "quota_files": None,
        "max_bytes": 1_000,
        "max_files": 10,
    }
    assert client.put("/api/upload/a.bin", data=os.urandom(200)).status == 201, "more than the deployment's"
    assert other.put("/api/upload/a.bin", data=os.urandom(200)).code == "quota_exceeded"
    set_quota(admin, "a/b ü", max_files=0)
    page = admin.get("/api/admin/quotas?limit=1").json
    rest = admin.get("/api/admin/quotas", params={"cursor": page["next_cursor"]}).json
    assert [item["owner_id"] for item in page["items"] + rest["items"]] == ["a/b ü", "alice"]
    assert (rest["items"][0]["used_bytes"], rest["items"][0]["used_files"]) == (200, 1)
    assert set_quota(admin, "alice")["max_bytes"] == 100, "an empty body removes it"
    assert client.put("/api/upload/b.bin", data=b"b").code == "quota_exceeded"
    assert client.get("/api/admin/quotas").status == client.put("/api/admin/quotas/alice", json={}).status == 403
    for wrong in ({"max_bytes": -1}, {"max_files": "5"}, {"max_files": 2**63}, {"bytes": 5}):
        assert admin.put("/api/admin/quotas/alice", json=wrong).status == 400
    assert admin.put(f"/api/admin/quotas/{'a' * 256}", json={}).status == 400


def test_quotas_by_command(
    settings: Settings, services: Services, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(commands.Call, "services", lambda _: services)
    assert commands.run(["quotas", "set", "alice", "--bytes", "5", "--json"], settings) == 0
    assert commands.run(["quotas", "list", "--json"], settings) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said[0] == said[1] and said[0]["max_bytes"] == 5 and said[0]["max_files"] is None


def test_T71_a_quota_that_appears_while_bytes_arrive_holds(
    services: Services, db: Database, leftovers: Leftovers
) -> None:
    """Small uploads of owners without a quota reserve none."""
    free = Principal("alice", has_quota=False)
    with services.intake.batch(free, protocol="raw") as batch:
        batch.receive(name="a.bin", claimed_type=None, stream=BytesIO(os.urandom(10)), size=10)
        services.quotas.set_own("alice", Quota(max_bytes=9))
        with pytest.raises(QuotaExceeded):
            batch.commit(Placement())
    assert sql(db, "select from files") == []
    services.quotas.set_own("alice", Quota(max_bytes=10))
    with services.intake.batch(free, protocol="raw") as batch:
        batch.receive(name="a.bin", claimed_type=None, stream=BytesIO(os.urandom(10)), size=10)
        assert len(batch.commit(Placement()).files) == 1
    services.janitor.run()
    assert leftovers() == NOTHING


@pytest.mark.settings(quota_bytes=1_000)
def test_T71_a_claimed_quota_binds_all_credentials_of_the_owner(services: Services, alice: Principal) -> None:
    def upload(who: Principal, size: int) -> None:
        with services.intake.batch(who, protocol="raw") as batch:
            batch.receive(name="a.bin", claimed_type=None, stream=BytesIO(os.urandom(size)), size=size)
            if batch.rejected:
                raise batch.rejected[0].error
            batch.commit(Placement())

    def claiming(**limits: int) -> Principal:
        return Principal("alice", credential="jwt", quota=Quota(**limits))

    upload(claiming(max_bytes=100), 60)
    with pytest.raises(QuotaExceeded):
        upload(claiming(max_bytes=100), 60)
    with pytest.raises(QuotaExceeded):
        upload(alice, 60)
    upload(claiming(max_bytes=5_000), 2_000)  # more than the deployment's
    with pytest.raises(QuotaExceeded):
        upload(claiming(max_files=2), 1)  # and now none of bytes: the deployment's
    services.quotas.set_own("alice", Quota(max_bytes=10_000, max_files=3))
    upload(claiming(max_bytes=0, max_files=0), 1)  # what an admin says comes first
    with pytest.raises(QuotaExceeded):
        upload(alice, 1)
    upload(Principal("bob"), 60)


@pytest.mark.settings(session_quota_files=3, session_quota_bytes=100)
def test_T71_an_upload_session_has_a_quota(client: GatewayClient, other: GatewayClient, db: Database) -> None:
    mine = {"Upload-Session": "trip"}

    def put(who: GatewayClient, size: int, headers: dict[str, str] = mine) -> Answer:
        return who.put(f"/api/upload/{random.random()}.bin", data=os.urandom(size), headers=headers)

    assert put(client, 101).code == "quota_exceeded"
    with ThreadPoolExecutor(6) as pool:
        assert (
            sorted(answer.status for answer in pool.map(lambda _: put(client, 10), range(8))) == [201] * 3 + [413] * 5
        )
    assert sql(db, "select files_uploaded, total_size from upload_sessions where session_id = 'trip'") == [(3, 30)]
    body = {"filename": "a.bin", "size": 10, "session_id": "trip"}
    assert client.post("/api/uploads", json=body).code == "quota_exceeded", "known before a byte moves"
    assert put(other, 10).status == 201, "another owner's session of that name"
    assert put(client, 100, {"Upload-Session": "next"}).status == 201
    assert client.upload(*((f"{n}.txt", b"a") for n in range(4))).code == "quota_exceeded"


@pytest.mark.settings(session_quota_files=1)
def test_T71_of_two_uploads_begun_in_a_session_the_quota_decides_at_the_end(
    services: Services, alice: Principal, leftovers: Leftovers
) -> None:
    data = os.urandom(10)
    first, second = (begin(services, alice, data, session_id="trip") for _ in range(2))
    for begun in (first, second):
        send_all(begun, data)
    assert direct(services).complete(alice, first.upload.id).file_size == 10
    with pytest.raises(QuotaExceeded):
        direct(services).complete(alice, second.upload.id)
    assert direct(services).get(alice, second.upload.id).status == "aborted"
    assert leftovers() == NOTHING
