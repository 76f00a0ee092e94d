"""Idempotency-Key on every creating route: a request and its repeats create one thing, whatever happens to the first."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from math import inf
from typing import Any

import pytest

from api.openapi import operations
from core import heartbeat
from core.errors import Unavailable
from db import Database
from services import Services
from services.access import idempotency
from services.access.idempotency import Claim
from tests.client import Answer, GatewayClient
from tests.conftest import NOTHING, Leftovers
from tests.crash_points import CrashPoint
from tests.direct_steps import direct, let_lease_pass
from tests.rows import sql
from tests.samples import picture
from tests.subtests import with_subtests
from tests.tus import BYTES, MIB, TUS, begin, patch, path

Create = Callable[[GatewayClient, dict[str, str], str], Answer]  # (client, key header, name of the new thing)

LARGE = 20 * MIB  # several parts


def _copy(client: GatewayClient, key: dict[str, str], name: str) -> Answer:
    return client.post(f"/api/files/{_source['id']}/copy", json={"original_name": name}, headers=key)


_source: dict[str, Any] = {}  # the file to copy


CREATES: dict[str, list[Create]] = {
    "POST /api/admin/keys": [
        lambda client, key, name: client.post("/api/admin/keys", json={"owner_id": name}, headers=key)
    ],
    "POST /api/files/<uuid:file_id>/copy": [_copy],
    "POST /api/folders": [lambda client, key, name: client.post("/api/folders", json={"name": name}, headers=key)],
    "POST /api/tus": [
        lambda client, key, name: client.post(
            "/api/tus", data=b"hello", headers={**BYTES, "Upload-Length": "10", **key}
        )
    ],
    "POST /api/upload": [lambda client, key, name: client.upload((name, name.encode()), headers=key)],
    "PUT /api/upload/<path:filename>": [
        lambda client, key, name: client.put(f"/api/upload/{name}", data=name.encode(), headers=key)
    ],
    "POST /api/upload-tokens": [
        lambda client, key, name: client.post("/api/upload-tokens", json={"owner_id": "root"}, headers=key)
    ],
    "POST /api/uploads": [
        lambda client, key, name, size=size: client.post(
            "/api/uploads", json={"filename": name, "size": size}, headers=key
        )
        for size in (5, LARGE)
    ],
    "POST /s3/multipart": [
        lambda client, key, name: client.post("/s3/multipart", json={"filename": name}, headers=key)
    ],
    "POST /s3/sign": [
        lambda client, key, name, body=body: client.post("/s3/sign", json={"key": name, **body}, headers=key)
        for body in ({"method": "PUT"}, {"method": "PUT", "size": 5}, {"method": "POST"})
    ],
}
CASES = [(label, number) for label, creates in CREATES.items() for number in range(len(creates))]
# Idempotent without a key, which only distinguishes two requests.
BY_ITSELF = {"POST /api/uploads/<uuid:upload_id>/complete"}
SECRET = {"key", "token", "endpoints"}  # null in a repeat
# New in each response while the upload is unfinished.
SIGNED = {"url", "headers", "fields", "parts", "urls_expire_at"}


@pytest.fixture
def things(db: Database, admin: GatewayClient) -> Callable[[], int]:
    """The number of all things that a request may create, including uploads that hold quota."""
    _source.update(admin.add("source.txt", b"source"))

    def look() -> int:
        [row] = sql(
            db,
            """select (select count(*) from files) + (select count(*) from folders) + (select count(*) from api_keys)
                + (select count(*) from upload_tokens) + (select count(*) from uploads
                   where protocol not in ('form', 'raw') and status not in ('aborted', 'expired'))""",
        )
        return int(row[0])

    return look


def key_of(label: str, case: int, number: int = 0) -> dict[str, str]:
    return {"Idempotency-Key": f"{label}-{case}-{number}".replace(" ", "")}


def let_leases_pass(db: Database) -> None:
    sql(db, "update idempotency_keys set lease_until = now() - interval '1 second'")


def same(first: Answer, again: Answer) -> bool:
    """Whether both responses are equal, apart from secrets (shown once) and URLs (signed again)."""
    if first.status != again.status or first.headers.get("Location") != again.headers.get("Location"):
        return False
    if not first.body:
        return first.body == again.body
    left_out = SECRET | SIGNED
    return {k: v for k, v in first.json.items() if k not in left_out} == {
        k: v for k, v in again.json.items() if k not in left_out
    }


class Calls:
    """Database connections of the gateway; the ``number``-th fails after its work is committed."""

    def __init__(self, number: int, wrong: Callable[[], BaseException]):
        self.number, self.wrong, self.made = number, wrong, 0

    @contextmanager
    def through(self, real: Any) -> Iterator[Any]:
        with real() as tx:
            yield tx
        self.made += 1
        if self.made == self.number:
            raise self.wrong()


def test_every_route_with_a_key_is_covered(app: Any) -> None:
    taking = {
        f"{method} {rule.rule}"
        for rule, method, operation in operations(app)
        if "Idempotency-Key" in operation.request_headers
    }
    assert taking == CREATES.keys() | BY_ITSELF


@with_subtests(("label", "case"), CASES)
def test_T104_a_retry_succeeds_after_any_lost_database_response(
    admin: GatewayClient, services: Services, things: Callable[[], int], label: str, case: int
) -> None:
    create = CREATES[label][case]
    for number in count(1):
        key, name, before = key_of(label, case, number), f"thing {number}", things()
        calls, real = Calls(number, lambda: Unavailable("The answer was lost.")), services.db.connection
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(services.db, "connection", lambda: calls.through(real))  # noqa: B023
            first = create(admin, key, name)
        assert first.status in (200, 201, 503)
        again = create(admin, key, name)
        if again.status == 409:  # the key was claimed, but the claim's response was lost
            assert again.code == "idempotency_in_progress" and first.status == 503 and things() == before
            let_leases_pass(services.db)
            again = create(admin, key, name)
        assert again.status in (200, 201), (number, again.body)
        assert things() == before + 1, number
        third = create(admin, key, name)
        assert same(again, third), number
        if first.status != 503:
            assert same(first, again), number
        if calls.made < number:
            break
    assert number > 2


@with_subtests(("label", "case"), CASES)
def test_T104_a_killed_requests_key_is_free_after_its_lease(
    admin: GatewayClient, services: Services, things: Callable[[], int], leftovers: Leftovers, label: str, case: int
) -> None:
    create = CREATES[label][case]
    for number in count(1):
        key, name, before = key_of(label, case, number), f"thing {number}", things()
        crash, first, real = CrashPoint(number), None, services.db.connection
        with pytest.MonkeyPatch.context() as patch, crash:
            patch.setattr(services.db, "connection", lambda crash=crash, real=real: (crash.before_call(), real())[1])
            first = create(admin, key, name)
        again = create(admin, key, name)
        if again.status == 409:
            assert again.code == "idempotency_in_progress" and things() == before
            assert 1 <= int(again.headers["Retry-After"]) <= 90
            let_leases_pass(services.db)
            again = create(admin, key, name)
        assert again.status in (200, 201), (number, again.body)
        assert things() == before + 1, number
        if not crash.crashed:
            break
    assert first is not None and number > 2
    # Quota held by the killed requests is free minutes later.
    sql(
        services.db,
        "update uploads set expires_at = expires_at - interval '4 minutes' where protocol in ('form', 'raw')",
    )
    services.janitor.run()
    with services.db.connection() as tx:
        held = tx.execute(
            "select coalesce(sum(reserved_bytes), 0), (select coalesce(sum(reserved), 0) from uploads where status in"
            " ('pending', 'uploading') and protocol not in ('form', 'raw')) from owner_usage"
        ).fetchone()
    assert held is not None and held[0] == held[1]


@with_subtests(("label", "case"), CASES)
def test_T104_a_request_that_lost_its_key_does_nothing(
    admin: GatewayClient, services: Services, things: Callable[[], int], label: str, case: int
) -> None:
    """The first request claims the key, pauses for longer than its lease, and then continues."""
    create, before = CREATES[label][case], things()
    key, stopped, wake = key_of(label, case), threading.Event(), threading.Event()
    real = services.idempotency.under

    @contextmanager
    def stopping(claim: Claim) -> Iterator[None]:
        with real(claim):
            if not stopped.is_set():
                stopped.set()
                assert wake.wait(60)
            yield

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(services.idempotency, "under", stopping)
        first = pool.submit(create, admin, key, "thing")
        assert stopped.wait(60)
        let_leases_pass(services.db)
        second = create(admin, key, "thing")
        wake.set()
        woken = first.result(60)
    assert second.status in (200, 201)
    assert woken.status == 409 and woken.code in ("idempotency_in_progress", "name_conflict"), woken.body
    assert things() == before + 1
    assert same(second, create(admin, key, "thing"))


@with_subtests(("label", "case"), CASES)
def test_T14_concurrent_repeats_create_one_thing(
    admin: GatewayClient, things: Callable[[], int], label: str, case: int
) -> None:
    create, before = CREATES[label][case], things()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: create(admin, key_of(label, case), "thing"), range(4)))
    refused = [answer for answer in answers if answer.status not in (200, 201)]
    assert {answer.code for answer in refused} <= {"idempotency_in_progress"} and len(refused) < 4
    assert things() == before + 1


def test_T104_repeats_wait_for_a_pending_commit(
    client: GatewayClient, services: Services, db: Database, things: Callable[[], int]
) -> None:
    """The first request has recorded its outcome, but its COMMIT is late: its lease has expired, another request claims
    the key, and another call frees it."""
    recorded, commit = threading.Event(), threading.Event()
    real = idempotency.record

    def slow(*given: Any) -> None:
        let_leases_pass(db)
        real(*given)
        recorded.set()
        assert commit.wait(60)

    def waiting() -> int:
        [row] = sql(
            db,
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%idempotency_keys%'"
            " and datname = current_database()",
        )
        return int(row[0])

    create, before = CREATES["POST /api/folders"][0], things()
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(3) as pool:
        patch.setattr(idempotency, "record", slow)
        first = pool.submit(create, client, {"Idempotency-Key": "k"}, "thing")
        assert recorded.wait(60)
        [row] = sql(db, "select created_at from idempotency_keys where key = 'k'")
        second = pool.submit(create, client, {"Idempotency-Key": "k"}, "thing")
        until(lambda: waiting() == 1)
        dropped = pool.submit(services.idempotency.drop, Claim("alice", "k", row[0], hashlib.sha256()))
        until(lambda: waiting() == 2)
        commit.set()
        answers = [first.result(60), second.result(60)]
        dropped.result(60)
    assert [answer.status for answer in answers] == [201, 201] and answers[0].json == answers[1].json
    assert things() == before + 1


def test_T14_a_repeat_gets_the_first_response_after_later_changes(client: GatewayClient) -> None:
    key = {"Idempotency-Key": "k"}
    made = client.add("thumb.png", picture("PNG"))
    assert client.get(f"/api/files/{made['id']}/preview?type=thumbnail").status == 200
    first = client.upload(("again.png", picture("PNG")), ("fake.png", b"<html><script>" * 10), headers=key)
    assert first.status == 207 and first.json["files"][0]["previews"]
    file = f"/api/files/{first.json['files'][0]['id']}"
    copied = client.post(f"{file}/copy", json={"original_name": "copy.png"}, headers={"Idempotency-Key": "copy"})
    folder = client.post("/api/folders", json={"name": "a"}, headers={"Idempotency-Key": "folder"})
    assert client.patch(file, json={"original_name": "renamed.png", "tags": ["x"]}).status == 200
    assert client.patch(f"/api/files/{copied.json['id']}", json={"visibility": "public"}).status == 200
    assert client.patch(f"/api/folders/{folder.json['id']}", json={"name": "b"}).status == 200
    again = [
        client.upload(("again.png", picture("PNG")), ("fake.png", b"<html><script>" * 10), headers=key),
        client.post(f"{file}/copy", json={"original_name": "copy.png"}, headers={"Idempotency-Key": "copy"}),
        client.post("/api/folders", json={"name": "a"}, headers={"Idempotency-Key": "folder"}),
    ]
    for answer, repeat in zip((first, copied, folder), again, strict=True):
        assert repeat.headers["Idempotency-Replayed"] == "true"
        assert (repeat.status, repeat.body) == (answer.status, answer.body)
        for name in ("ETag", "Location", "Upload-Session"):
            assert repeat.headers.get(name) == answer.headers.get(name)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- leases ------------------------------------------------------------------------------------------------------


def test_T104_key_and_uploads_are_leased_while_a_body_arrives(
    client: GatewayClient, db: Database, leftovers: Leftovers
) -> None:
    """A form of three files: one has arrived, one was rejected and one is arriving."""

    def left() -> list[float]:
        """Seconds until the key's lease and the uploads expire."""
        rows = sql(
            db,
            "select extract(epoch from lease_until - now())::float from idempotency_keys"
            " union all (select extract(epoch from expires_at - now())::float from uploads order by id)",
        )
        return [row[0] for row in rows]

    seen: list[list[float]] = []
    size = 9 * MIB  # so that the last file's upload begins before its end arrives
    parts = [
        form_part("a.txt", b"a" * size),
        form_part("fake.png", b"<html><script>" * 10_000),
        form_part("b.txt", b"b" * size)[:-2],
    ]

    def body() -> Iterator[bytes]:
        yield from parts
        until(lambda: len(left()) == 3)
        sql(db, "update idempotency_keys set lease_until = now() + interval '10 seconds'")
        sql(db, "update uploads set expires_at = now() + interval '10 seconds'")
        seen.append(left())
        heartbeat.beat_due(inf)
        seen.append(left())
        yield b"b\r\n--limit--\r\n"

    answer = client.post(
        "/api/upload",
        data=body(),
        headers={"Content-Type": "multipart/form-data; boundary=limit", "Idempotency-Key": "k"},
    )
    assert answer.status == 207, answer.body
    short, renewed = seen
    assert max(short) <= 10
    assert 60 < renewed[0] <= 90 and all(120 < upload <= 180 for upload in renewed[1:])
    assert not heartbeat._beats
    assert leftovers() == NOTHING


def form_part(name: str, content: bytes) -> bytes:
    head = f'--limit\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n"


def test_heartbeats_continue_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[int] = []
    enough = threading.Event()

    def beat() -> None:
        beats.append(len(beats))
        if len(beats) == 3:
            enough.set()
        raise Unavailable()

    monkeypatch.setattr(heartbeat, "TICK", 0.01)
    monkeypatch.setattr(heartbeat, "_process", None)
    with heartbeat.beating(beat, every=0.01):
        assert enough.wait(30)


def test_a_lease_lasts_three_heartbeats_and_at_most_100_seconds() -> None:
    assert timedelta(seconds=3 * heartbeat.INTERVAL) <= idempotency.LEASE <= timedelta(seconds=100)


# -- final uploads ----------------------------------------------------------------------------------------------------


def test_T104_a_final_upload_is_made_once(client: GatewayClient, services: Services, db: Database) -> None:
    """Whichever response of the database is lost while partial uploads are concatenated."""
    for number in count(1):
        partials = []
        for _ in range(2):
            begun = begin(client, 5, name=None, headers={"Upload-Concat": "partial"})
            assert patch(client, path(begun), 0, b"hello").status == 204
            partials.append(path(begun))
        headers = {**TUS, "Upload-Concat": "final;" + " ".join(partials), "Idempotency-Key": f"{number}"}
        before = client.get("/api/files").json["total"]
        calls, real = Calls(number, lambda: Unavailable("The answer was lost.")), services.db.connection
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(services.db, "connection", lambda: calls.through(real))  # noqa: B023
            first = client.post("/api/tus", headers=headers)
        assert first.status in (201, 503)
        again = client.post("/api/tus", headers=headers)
        if again.status == 409:
            let_leases_pass(db)
            sql(db, "update resumable_uploads set leased_until = now()")
            again = client.post("/api/tus", headers=headers)
        assert again.status == 201, (number, again.body)
        if "Upload-File-Id" not in client.head(path(again), headers=TUS).headers:
            let_lease_pass(db)  # the response was lost during completion
            assert direct(services).sweep() == 1
        assert client.get("/api/files").json["total"] == before + 1, number
        if calls.made < number:
            break
