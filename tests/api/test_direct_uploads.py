"""``/api/uploads`` over HTTP: responses are checked against the OpenAPI document, bytes go to a real bucket."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from core.parts import PART_SIZE
from db import Database
from services import Services
from settings import Settings
from tests.client import Answer, GatewayClient
from tests.conftest import NOTHING, Leftovers
from tests.paths import ROOT
from tests.presigned import put, send
from tests.rows import sql
from tests.servers import SIGNING_KEY


def begin(client: GatewayClient, data: bytes, **members: Any) -> dict[str, Any]:
    body = {"filename": "a.bin", "size": len(data), **members}
    answer = client.post("/api/uploads", json=body)
    assert answer.status == 201, answer.body
    begun: dict[str, Any] = answer.json
    return begun


def send_all(begun: dict[str, Any], data: bytes) -> list[dict[str, Any]]:
    if begun["method"] == "PUT":
        return [{"part_number": 1, "etag": put(begun["url"], data, begun["headers"])}]
    return [send_part(part, data) for part in begun["parts"]]


def send_part(part: dict[str, Any], data: bytes) -> dict[str, Any]:
    number = part["part_number"]
    piece = data[(number - 1) * PART_SIZE : number * PART_SIZE]
    return {"part_number": number, "etag": put(part["url"], piece, part["headers"])}


def complete(client: GatewayClient, upload_id: str, **body: Any) -> Answer:
    return client.post(f"/api/uploads/{upload_id}/complete", json=body)


def test_a_small_file(client: GatewayClient, services: Services, leftovers: Leftovers) -> None:
    data = b"hello world"
    folder = client.post("/api/folders", json={"name": "Plans"}).json["id"]
    begun = begin(
        client,
        data,
        filename="../Plän.txt",
        content_type="text/plain",
        folder_id=folder,
        visibility="public",
        tags=["x", "y"],
        metadata={"color": {"deep": [1, None]}},
        session_id="s-1",
        sha256=hashlib.sha256(data).hexdigest().upper(),
    )
    assert begun["method"] == "PUT" and begun["part_count"] == 1 and begun["parts"] == []
    assert {name.lower() for name in begun["headers"]} == {"content-type", "if-none-match", "x-amz-checksum-sha256"}
    progress = client.get(f"/api/uploads/{begun['id']}").json
    assert (progress["status"], progress["protocol"], progress["bytes_received"], progress["missing"]) == (
        "pending",
        "direct",
        0,
        [[1, 1]],
    )
    etags = send_all(begun, data)
    progress = client.get(f"/api/uploads/{begun['id']}").json
    assert (progress["bytes_received"], progress["missing"]) == (11, [])
    assert progress["parts"] == [{"part_number": 1, "size": 11, "etag": etags[0]["etag"].strip('"')}]

    answer = complete(client, begun["id"], parts=etags)
    file = answer.json
    assert answer.status == 201 and answer.headers["Location"] == file["links"]["self"]
    assert (file["status"], file["file_hash"], file["folder_id"], file["tags"]) == (
        "processing",
        None,
        folder,
        ["x", "y"],
    )
    assert file["metadata"]["custom"] == {"color": {"deep": [1, None]}}
    for path in ("download", "url", "preview"):
        assert client.get(f"/api/files/{file['id']}/{path}").code == "file_not_ready"
    services.verification.check(file["id"])
    ready = client.get(f"/api/files/{file['id']}").json
    assert (ready["status"], ready["file_hash"]) == ("ready", hashlib.sha256(data).hexdigest())
    assert client.get(f"/api/files/{file['id']}/download", params={"mode": "proxy"}).body == data
    assert complete(client, begun["id"]).json["id"] == file["id"]
    progress = client.get(f"/api/uploads/{begun['id']}").json
    assert (progress["status"], progress["file_id"], progress["bytes_received"]) == ("done", file["id"], 11)
    assert leftovers() == NOTHING


def test_a_large_file_resumed_in_batches(client: GatewayClient, services: Services, leftovers: Leftovers) -> None:
    data = os.urandom(2 * PART_SIZE + 3)
    begun = begin(client, data)
    assert (begun["method"], begun["part_size"], begun["part_count"], begun.get("url")) == (
        "multipart",
        PART_SIZE,
        3,
        None,
    )
    sent = [send_part(begun["parts"][2], data)]
    (listed,) = client.get("/api/uploads").json["items"]
    assert (listed["id"], listed["filename"], listed["status"]) == (begun["id"], "a.bin", "uploading")
    progress = client.get(f"/api/uploads/{begun['id']}").json
    assert progress["missing"] == [[1, 2]] and progress["bytes_received"] == 3
    early = complete(client, begun["id"])
    assert (early.status, early.code, early.json["missing"]) == (409, "parts_mismatch", [[1, 2]])
    answer = client.post(f"/api/uploads/{begun['id']}/parts", json={"part_numbers": [1, 2]})
    assert answer.status == 200
    sent += [send_part(part, data) for part in answer.json["parts"]]
    wrong = [{**part, "etag": "0" * 32} for part in sent]
    assert complete(client, begun["id"], parts=wrong).code == "parts_mismatch"
    answer = client.post(f"/api/uploads/{begun['id']}/complete")  # without a body
    assert answer.status == 201
    assert client.get("/api/uploads").json["items"] == []
    services.verification.check(answer.json["id"])
    assert client.get(f"/api/files/{answer.json['id']}").json["file_hash"] == hashlib.sha256(data).hexdigest()
    assert leftovers() == NOTHING


def test_100_part_urls_at_first_and_1000_per_call(client: GatewayClient) -> None:
    begun = client.post("/api/uploads", json={"filename": "huge.bin", "size": 20 * 1024**3}).json
    assert len(begun["parts"]) == 100 and begun["part_count"] == 2560
    path = f"/api/uploads/{begun['id']}/parts"
    answer = client.post(path, json={"part_numbers": list(range(101, 1101))})
    assert [part["part_number"] for part in answer.json["parts"]] == list(range(101, 1101))
    for bad in ([], [0], [2561], list(range(1, 1002)), [1.5], ["1"], None, [10**30]):
        assert client.post(path, json={"part_numbers": bad}).status == 400, bad
    assert client.delete(f"/api/uploads/{begun['id']}").status == 204


def test_T44_20_concurrent_completions_make_one_file(client: GatewayClient, leftovers: Leftovers) -> None:
    data = os.urandom(PART_SIZE + 10)
    begun = begin(client, data)
    etags = send_all(begun, data)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: complete(client, begun["id"], parts=etags), range(20)))
    assert [answer.status for answer in answers] == [201] * 20
    assert len({answer.body for answer in answers}) == 1
    assert len(client.get("/api/files").json["items"]) == 1
    assert leftovers() == NOTHING


def test_a_repeated_equal_part_counts_once(
    client: GatewayClient, leftovers: Callable[[], dict[str, list[str]]]
) -> None:
    """As a client does that did not get the response."""
    begun = client.post("/api/uploads", json={"filename": "a.bin", "size": PART_SIZE + 1}).json
    for part, size in zip(begun["parts"], (PART_SIZE, 1), strict=True):
        for _ in range(3):
            put(part["url"], b"\x91" * size)
    progress = client.get(f"/api/uploads/{begun['id']}").json
    assert (progress["bytes_received"], progress["missing"]) == (PART_SIZE + 1, [])
    assert client.post(f"/api/uploads/{begun['id']}/complete", json={}).status == 201
    assert leftovers() == NOTHING


def test_T44_an_abort_leaves_nothing(client: GatewayClient, leftovers: Leftovers) -> None:
    data = os.urandom(PART_SIZE + 10)
    begun = begin(client, data)
    send_all(begun, data)
    assert client.delete(f"/api/uploads/{begun['id']}").status == 204
    assert client.delete(f"/api/uploads/{begun['id']}").status == 204
    again = complete(client, begun["id"])
    assert (again.status, again.code) == (410, "upload_gone")
    assert client.post(f"/api/uploads/{begun['id']}/parts", json={"part_numbers": [1]}).code == "upload_gone"
    assert client.get(f"/api/uploads/{begun['id']}").json["status"] == "aborted"
    assert send(begun["parts"][0]["url"], data[:PART_SIZE]).status_code == 404
    assert leftovers() == NOTHING


def test_T45_another_owners_upload_looks_missing(
    client: GatewayClient, other: GatewayClient, anonymous: GatewayClient
) -> None:
    begun = begin(client, b"hello")
    none = "01a208dd-56e4-7322-819f-29c8c4d08d49"
    for method, path, body in (
        ("GET", "", None),
        ("POST", "/parts", {"part_numbers": [1]}),
        ("POST", "/complete", {}),
        ("DELETE", "", None),
    ):
        foreign = other.request(method, f"/api/uploads/{begun['id']}{path}", json=body)
        absent = other.request(method, f"/api/uploads/{none}{path}", json=body)
        assert foreign.status == absent.status == 404
        assert {**foreign.json, "request_id": 0} == {**absent.json, "request_id": 0}
        assert anonymous.request(method, f"/api/uploads/{begun['id']}{path}", json=body).status == 401
    assert other.get("/api/uploads").json["items"] == []


def test_T14_a_repeat_begins_no_second_upload(client: GatewayClient) -> None:
    headers = {"Idempotency-Key": "abc"}
    body = {"filename": "a.bin", "size": 5}
    first = client.post("/api/uploads", json=body, headers=headers)
    again = client.post("/api/uploads", json=body, headers=headers)
    signed = ("url", "urls_expire_at")  # these differ in a repeat
    assert {k: v for k, v in first.json.items() if k not in signed} == {
        k: v for k, v in again.json.items() if k not in signed
    }
    assert again.headers["Idempotency-Replayed"] == "true"
    other = client.post("/api/uploads", json={**body, "size": 6}, headers=headers)
    assert (other.status, other.code) == (422, "idempotency_conflict")
    assert len(client.get("/api/uploads").json["items"]) == 1
    put(again.json["url"], b"hello", again.json["headers"])
    path = f"/api/uploads/{first.json['id']}/complete"
    done = [client.post(path, json={}, headers={"Idempotency-Key": "def"}) for _ in range(2)]
    assert done[0].status == 201 and done[0].json == done[1].json


def test_T14_a_repeat_gets_new_urls_while_the_upload_is_open(client: GatewayClient, db: Database) -> None:
    headers = {"Idempotency-Key": "abc"}

    def ask() -> dict[str, Any]:
        answer = client.post("/api/uploads", json={"filename": "a.bin", "size": 5}, headers=headers)
        assert answer.status == 201
        return dict(answer.json)

    first = ask()
    sql(db, "update uploads set urls_until = now() - interval '1 hour'")
    again = ask()
    assert again["id"] == first["id"] and again["urls_expire_at"] >= first["urls_expire_at"]
    with db.connection() as tx:  # the object is not deleted before the new URLs expire
        assert tx.execute("select urls_until > now() from uploads").fetchone() == (True,)
    put(again["url"], b"hello", again["headers"])
    assert client.post(f"/api/uploads/{first['id']}/complete").status == 201
    over = ask()
    left = datetime.fromisoformat(over["urls_expire_at"]) - datetime.now(UTC)
    assert over["id"] == first["id"] and left < timedelta(seconds=5)  # nothing is left to send
    headers["Idempotency-Key"] = "def"
    aborted = ask()
    assert client.delete(f"/api/uploads/{aborted['id']}").status == 204
    assert ask()["id"] not in (first["id"], aborted["id"])


@pytest.mark.settings(max_file_size=10_000_000, quota_bytes=5_000_000, denied_types=("exe",))
def test_invalid_uploads_are_rejected_at_the_start(client: GatewayClient, leftovers: Leftovers) -> None:
    for body, status, code in (
        ({"filename": "a.exe", "size": 1}, 415, "type_not_allowed"),
        ({"filename": "a.bin", "size": 10_000_001}, 413, "file_too_large"),
        ({"filename": "a.bin", "size": 6_000_000}, 413, "quota_exceeded"),
        ({"filename": "\u202e", "size": 1}, 400, "invalid_name"),
        ({"filename": "a", "size": 1, "folder_id": 99}, 404, "not_found"),
        ({"filename": "a", "size": -1}, 400, "invalid_input"),
        ({"filename": "a", "size": 1.5}, 400, "invalid_input"),
        ({"filename": "a", "size": "1"}, 400, "invalid_input"),
        ({"filename": "a", "size": 2**63}, 400, "invalid_input"),
        ({"filename": "a", "size": 2**63 - 1}, 413, "file_too_large"),
        ({"filename": "a"}, 400, "invalid_input"),
        ({"size": 1}, 400, "invalid_input"),
        ([], 400, "invalid_input"),
        ({"filename": "a", "size": 1, "sha256": "x"}, 400, "invalid_input"),
        ({"filename": "a", "size": 1, "session_id": "a b"}, 400, "invalid_input"),
        ({"filename": "a", "size": 1, "metadata": {"a": "\x00"}}, 400, "invalid_input"),
        ({"filename": "a", "size": 1, "metadata": {"\x00": 1}}, 400, "invalid_input"),
        ({"filename": "a", "size": 1, "metadata": {"a": "x" * 70_000}}, 400, "invalid_input"),
        ({"filename": "a", "size": 1, "metadata": []}, 400, "invalid_input"),
        ({"filename": "a", "size": 1, "tags": ["\x00"]}, 400, "invalid_input"),
        ({"filename": "a", "size": 1, "content_type": "a\x00"}, 400, "invalid_input"),
        ({"filename": "a", "size": 1, "unknown": 1}, 400, "invalid_input"),
    ):
        answer = client.post("/api/uploads", json=body)
        assert (answer.status, answer.code) == (status, code), (body, answer.body)
    for raw in (
        b'{"filename":"a","size":NaN}',
        b'{"filename":"a","size":1,"metadata":{"a":NaN}}',
        b"",
        b"\xff",
        b"[" * 5000,
        b'{"filename":"a","size":' + b"9" * 5000 + b"}",
        b'{"filename":"\\ud800","size":1}',
        b'{"filename":"a","size":1,"metadata":{"a":' + b"9" * 5000 + b"}}",
    ):
        answer = client.post("/api/uploads", data=raw, headers={"Content-Type": "application/json"})
        assert answer.status == 400, (raw[:50], answer.body)
    assert leftovers() == NOTHING


@pytest.mark.parametrize(
    "content_type", ["text/plain; charset=utf-8", "evil\r\nX: y", "ä/ö", "", "undefined", "a/b" * 60, "text / plain"]
)
def test_any_content_type_can_be_signed_and_sent(client: GatewayClient, content_type: str) -> None:
    answer = client.post("/api/uploads", json={"filename": "a.txt", "size": 5, "content_type": content_type})
    assert answer.status == 201, answer.body
    put(answer.json["url"], b"hello", answer.json["headers"])
    assert complete(client, answer.json["id"]).status == 201


def test_completion_rejects_invalid_part_lists(client: GatewayClient) -> None:
    begun = begin(client, b"hello")
    send_all(begun, b"hello")
    for body in (
        {"parts": [{"part_number": "1", "etag": "a"}]},
        {"parts": [{"part_number": 0, "etag": "a"}]},
        {"parts": 1},
        {"parts": [{"part_number": 1}]},
        {"sha256": "zz"},
        {"x": 1},
        {"parts": [{"part_number": 1, "etag": "a\x00"}]},
    ):
        assert client.post(f"/api/uploads/{begun['id']}/complete", json=body).status == 400, body
    for etag in ("a", "<x/>", "]]>", "'\"", "x" * 200):
        assert complete(client, begun["id"], parts=[{"part_number": 1, "etag": etag}]).code == "parts_mismatch"
    assert complete(client, begun["id"]).status == 201


def test_10_000_parts_fit_into_one_request(client: GatewayClient) -> None:
    begun = client.post("/api/uploads", json={"filename": "huge.bin", "size": 50 * 1024**3}).json
    parts = [{"part_number": n, "etag": f'"{n:032x}"'} for n in range(1, 10_001)]
    assert complete(client, begun["id"], parts=parts).code == "parts_mismatch"


def test_unfinished_uploads_are_paged(client: GatewayClient) -> None:
    ids = [begin(client, b"x")["id"] for _ in range(3)]
    first = client.get("/api/uploads", params={"limit": 2})
    assert [item["id"] for item in first.json["items"]] == ids[:0:-1] and 'rel="next"' in first.headers["Link"]
    rest = client.get("/api/uploads", params={"limit": 2, "cursor": first.json["next_cursor"]}).json
    assert [item["id"] for item in rest["items"]] == ids[:1] and rest["next_cursor"] is None
    assert client.get("/api/uploads", params={"cursor": "AAAA"}).code == "invalid_cursor"


def test_admins_see_and_abort_any_upload(client: GatewayClient, admin: GatewayClient) -> None:
    begun = begin(client, b"hello")
    assert admin.get(f"/api/uploads/{begun['id']}").json["status"] == "pending"
    assert admin.delete(f"/api/uploads/{begun['id']}").status == 204
    assert client.get(f"/api/uploads/{begun['id']}").json["status"] == "aborted"


# -- with a real worker ----------------------------------------------------------------------------------------------------


IMPATIENT_WORKER = (
    "import sys, commands; from jobs import worker; worker.SWEEP_EVERY = 0.3; sys.exit(commands.main(['worker']))"
)


@pytest.fixture
def worker(settings: Settings, services: Services, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``python app.py worker`` with more frequent sweeps, on the same database and bucket."""
    assert settings.database_url is not None and settings.s3_secret_key is not None
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "S3_ENDPOINT": str(settings.s3_endpoint),
        "S3_BUCKET": settings.s3_bucket,
        "S3_ACCESS_KEY": str(settings.s3_access_key),
        "S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
        "SECRET_KEY": SIGNING_KEY,
        "DATA_DIR": str(tmp_path),
    }
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", IMPATIENT_WORKER], cwd=ROOT, env=environment, stdout=output, stderr=output
        )
    yield process
    process.terminate()
    assert process.wait(40) == 0, log.read_text()
    assert b"Traceback" not in log.read_bytes(), log.read_text()


def _wait_for(look: Callable[[], Any], seconds: float = 50) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.2)
    return found


@pytest.mark.slow
def test_a_worker_checks_files_and_completes_abandoned_uploads(
    client: GatewayClient, worker: subprocess.Popen[bytes], leftovers: Leftovers
) -> None:
    def ready(name: str) -> dict[str, Any] | None:
        items = client.get("/api/files", params={"status": "ready"}).json["items"]
        return next((item for item in items if item["original_name"] == name), None)

    large, small, bad = os.urandom(PART_SIZE + 10), b"hello", b"<!DOCTYPE html><script>1</script>"
    begun = begin(client, large, filename="large.bin")
    complete(client, begun["id"], parts=send_all(begun, large))
    send_all(begin(client, small, filename="closed tab.txt"), small)  # without completing it
    lie = begin(client, bad, filename="lie.png")
    send_all(lie, bad)
    file_id = complete(client, lie["id"]).json["id"]
    assert _wait_for(lambda: ready("large.bin"))["file_hash"] == hashlib.sha256(large).hexdigest()
    assert _wait_for(lambda: ready("closed tab.txt"))["file_hash"] == hashlib.sha256(small).hexdigest()
    _wait_for(lambda: client.get(f"/api/files/{file_id}").json["status"] == "rejected")
    assert worker.poll() is None
    assert leftovers() | {"retired": []} == NOTHING  # a job that ran again has replaced its preview


@pytest.mark.slow
def test_the_sweep_does_not_wait_for_long_checks(
    client: GatewayClient, db: Database, worker: subprocess.Popen[bytes]
) -> None:
    with db.connection() as tx:
        tx.execute(
            "create function wait() returns trigger language plpgsql as"
            " $$ begin perform pg_advisory_xact_lock_shared(1); return new; end $$"
        )
        tx.execute("create trigger wait before update of status on files for each row execute function wait()")
    with db.transaction() as tx:
        tx.execute("select pg_advisory_xact_lock(1)")  # every check waits for this transaction
        for _ in range(4):  # more than the worker runs at once
            begun = begin(client, b"hello")
            send_all(begun, b"hello")
            complete(client, begun["id"])
        begun = begin(client, b"hello", filename="closed tab.txt")
        send_all(begun, b"hello")
        _wait_for(lambda: client.get(f"/api/uploads/{begun['id']}").json["status"] == "done", 25)
        assert client.get("/api/files", params={"status": "ready"}).json["items"] == []
