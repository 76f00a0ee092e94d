"""Audit events of requests, and how admins read them."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest

from api.openapi import operations
from db import Database
from db import jobs as queue
from services import Services
from services.access.upload_tokens import PREFIX
from services.upkeep.audit import Audit
from tests import tus
from tests.client import Answer, GatewayClient, form_data
from tests.presigned import put
from tests.rows import sql

Sent = tuple[str, str, dict[str, Any]]  # method, path, options
Step = Callable[["Caller"], Sent]
SECRET = "correct-horse"  # in every name, tag and body that is sent


class Caller:
    """A client that leaves what a step needs, and then sends it."""

    def __init__(self, client: GatewayClient, admin: GatewayClient, services: Services, db: Database):
        self.client, self.admin, self.services, self.db = client, admin, services, db

    def file(self, *, trashed: bool = False) -> str:
        file: str = self.client.add(f"{secrets.token_hex(4)}.txt")["id"]
        if trashed:
            self.client.delete(f"/api/files/{file}")
        return file

    def folder(self) -> int:
        folder: int = self.client.post("/api/folders", json={"name": secrets.token_hex(4)}).json["id"]
        return folder

    def begun(self, *, sent: bool = False) -> str:
        begun = self.client.post("/api/uploads", json={"filename": "a.bin", "size": 5}).json
        if sent:
            put(begun["url"], b"hello", begun["headers"])
        return begun["id"]

    def tus(self) -> str:
        return tus.path(tus.begin(self.client, 5))

    def multipart(self) -> tuple[str, str]:
        made = self.client.post("/s3/multipart", json={"filename": "a.bin", "type": "a/b", "metadata": {}}).json
        return made["uploadId"], made["key"]

    def address(self) -> str:
        """An address of the XML routes, which needs no other credential."""
        upload_id, key = self.multipart()
        signed = self.client.post("/s3/sign", json={"method": "DELETE", "key": key, "uploadId": upload_id}).json
        parts = urlsplit(signed["url"])
        return f"{parts.path}?{parts.query}"

    def part(self) -> tuple[str, str, list[dict[str, Any]]]:
        upload_id, key = self.multipart()
        url = self.client.get(f"/s3/multipart/{upload_id}/1?key={key}").json["url"]
        return upload_id, key, [{"PartNumber": 1, "ETag": put(url, b"hello", {})}]

    def completed(self) -> Sent:
        upload_id, key, parts = self.part()
        return "POST", f"/s3/multipart/{upload_id}/complete?key={key}", {"json": {"parts": parts}}

    def signed_in(self) -> dict[str, str]:
        """Headers of a browser's request."""
        answer = self.client.post("/api/session", json={"key": self.client.key})
        return {"Cookie": answer.headers["Set-Cookie"].partition(";")[0], "Sec-Fetch-Site": "same-origin"}

    def token(self) -> str:
        return self.client.post("/api/upload-tokens", json={"owner_id": "alice"}).json["id"]

    def key(self) -> UUID:
        return self.services.keys.create_key("bob")[0].id

    def job(self) -> int:
        with self.db.transaction() as tx:
            queue.enqueue(tx, "process_file", owner_id="alice", file_id=secrets.token_hex(4))
        sql(self.db, "update procrastinate_jobs set status = 'doing'")
        sql(self.db, "update procrastinate_jobs set status = 'failed'")
        return sql(self.db, "select max(id) from procrastinate_jobs")[0][0]


def _form() -> Sent:
    body, content_type = form_data([("note.txt", SECRET.encode())])
    return "POST", "/api/upload", {"data": body, "headers": {"Content-Type": content_type}}


_TUS = {"headers": {**tus.TUS, "Upload-Length": "5"}}
_APPENDED = {"data": b"hello", "headers": {**tus.BYTES, "Upload-Offset": "0"}}
_S3_BODY = {"json": {"filename": "a.bin", "type": "a/b", "metadata": {}}}
_SIGN = {"json": {"method": "PUT", "key": "a.bin", "size": 5}}

# Each operation that changes something, a request for it, and the action that is recorded. Those of admins end with "!".
STEPS: dict[str, tuple[Step, str | None]] = {
    "POST /api/upload": (lambda _: _form(), "uploaded"),
    "PUT /api/upload/<path:filename>": (lambda _: ("PUT", "/api/upload/a.txt", {"data": b"hello"}), "uploaded"),
    "PATCH /api/files/<uuid:file_id>": (
        lambda c: ("PATCH", f"/api/files/{c.file()}", {"json": {"visibility": "public"}}),
        "updated",
    ),
    "DELETE /api/files/<uuid:file_id>": (lambda c: ("DELETE", f"/api/files/{c.file()}?permanent=true", {}), "purged"),
    "POST /api/files/<uuid:file_id>/restore": (
        lambda c: ("POST", f"/api/files/{c.file(trashed=True)}/restore", {}),
        "restored",
    ),
    "PUT /api/files/<uuid:file_id>/move": (
        lambda c: ("PUT", f"/api/files/{c.file()}/move", {"json": {"target_folder_id": c.folder()}}),
        "moved",
    ),
    "POST /api/files/<uuid:file_id>/copy": (lambda c: ("POST", f"/api/files/{c.file()}/copy", {"json": {}}), "copied"),
    "POST /api/files/archive": (lambda c: ("POST", "/api/files/archive", {"json": {"ids": [c.file()]}}), "downloaded"),
    "POST /api/files/batch": (
        lambda c: ("POST", "/api/files/batch", {"json": {"action": "delete", "ids": [c.file()]}}),
        "trashed",
    ),
    "POST /api/folders": (lambda _: ("POST", "/api/folders", {"json": {"name": "Plans"}}), "folder_created"),
    "PATCH /api/folders/<folder_id:folder_id>": (
        lambda c: ("PATCH", f"/api/folders/{c.folder()}", {"json": {"parent_folder_id": None}}),
        "folder_updated",
    ),
    "DELETE /api/folders/<folder_id:folder_id>": (
        lambda c: ("DELETE", f"/api/folders/{c.folder()}", {}),
        "folder_deleted",
    ),
    "POST /api/uploads": (
        lambda _: ("POST", "/api/uploads", {"json": {"filename": "a.bin", "size": 5}}),
        "upload_begun",
    ),
    "POST /api/uploads/<uuid:upload_id>/parts": (
        lambda c: ("POST", f"/api/uploads/{c.begun()}/parts", {"json": {"part_numbers": [1]}}),
        None,
    ),
    "POST /api/uploads/<uuid:upload_id>/complete": (
        lambda c: ("POST", f"/api/uploads/{c.begun(sent=True)}/complete", {}),
        "uploaded",
    ),
    "DELETE /api/uploads/<uuid:upload_id>": (lambda c: ("DELETE", f"/api/uploads/{c.begun()}", {}), "upload_aborted"),
    "POST /api/tus": (lambda _: ("POST", "/api/tus", _TUS), "upload_begun"),
    "PATCH /api/tus/<string:upload_id>": (lambda c: ("PATCH", c.tus(), _APPENDED), "uploaded"),
    "DELETE /api/tus/<string:upload_id>": (lambda c: ("DELETE", c.tus(), {"headers": tus.TUS}), "upload_aborted"),
    "POST /api/tus/<string:upload_id>": (
        lambda c: ("POST", c.tus(), {"headers": {**tus.TUS, "X-HTTP-Method-Override": "DELETE"}}),
        "upload_aborted",
    ),
    "POST /s3/multipart": (lambda _: ("POST", "/s3/multipart", _S3_BODY), "upload_begun"),
    "POST /s3/multipart/<string:upload_id>/complete": (lambda c: c.completed(), "uploaded"),
    "DELETE /s3/multipart/<string:upload_id>": (
        lambda c: ("DELETE", "/s3/multipart/{}?key={}".format(*c.multipart()), {}),
        "upload_aborted",
    ),
    "POST /s3/sign": (lambda _: ("POST", "/s3/sign", _SIGN), "upload_begun"),
    "POST /s3/objects/<uuid:upload_id>": (lambda c: ("POST", f"{c.address()}&uploads", {}), None),
    "DELETE /s3/objects/<uuid:upload_id>": (lambda c: ("DELETE", c.address(), {}), "upload_aborted"),
    "POST /api/upload-tokens": (
        lambda _: ("POST", "/api/upload-tokens", {"json": {"owner_id": "alice"}}),
        "token_created",
    ),
    "DELETE /api/upload-tokens/<uuid:token_id>": (
        lambda c: ("DELETE", f"/api/upload-tokens/{c.token()}", {}),
        "token_revoked",
    ),
    "POST /api/session": (lambda c: ("POST", "/api/session", {"json": {"key": c.client.key}}), "signed_in"),
    "DELETE /api/session": (lambda c: ("DELETE", "/api/session", {"headers": c.signed_in()}), "signed_out"),
    "POST /api/admin/keys": (lambda _: ("POST", "/api/admin/keys", {"json": {"owner_id": "bob"}}), "key_created!"),
    "DELETE /api/admin/keys/<uuid:key_id>": (lambda c: ("DELETE", f"/api/admin/keys/{c.key()}", {}), "key_revoked!"),
    "PUT /api/admin/quotas/<path:owner_id>": (
        lambda _: ("PUT", "/api/admin/quotas/bob", {"json": {"max_bytes": 5}}),
        "quota_set!",
    ),
    "POST /api/admin/janitor": (lambda _: ("POST", "/api/admin/janitor", {"json": {}}), "janitor_run!"),
    "POST /api/admin/scrub": (lambda _: ("POST", "/api/admin/scrub", {}), "scrub_begun!"),
    "POST /api/admin/jobs/<job_id:job_id>/retry": (
        lambda c: ("POST", f"/api/admin/jobs/{c.job()}/retry", {}),
        "job_retried!",
    ),
    "DELETE /api/admin/jobs/<job_id:job_id>": (lambda c: ("DELETE", f"/api/admin/jobs/{c.job()}", {}), "job_removed!"),
}
UNTRIED = {"POST /api/admin/rescan", "POST /api/admin/backups"}  # they need a scanner, and a place


@pytest.fixture
def caller(client: GatewayClient, admin: GatewayClient, services: Services, db: Database) -> Caller:
    return Caller(client, admin, services, db)


def _events(db: Database, request_id: str) -> list[Any]:
    return sql(
        db,
        "select action, actor, credential, credential_id, address, owner_id, outcome, target from audit_events"
        " where request_id = %s order by id",
        request_id,
    )


def _send(client: GatewayClient, sent: Sent) -> tuple[Answer, str]:
    method, path, options = sent
    if "Cookie" in options.get("headers", {}):
        client = client.as_(None)
    request_id = secrets.token_hex(16)
    options = options | {"headers": {**options.get("headers", {}), "X-Request-ID": request_id}}
    return client.request(method, path, **options), request_id


def test_T125_each_route_that_changes_anything_says_what_is_recorded(app: Any) -> None:
    changing = {
        f"{method} {rule.rule}": operation.audit
        for rule, method, operation in operations(app)
        if method not in ("GET", "HEAD", "OPTIONS")
    }
    assert None not in changing.values(), changing
    assert changing.keys() == STEPS.keys() | UNTRIED


def test_T125_each_change_is_recorded_once_with_its_caller(caller: Caller, db: Database) -> None:
    key_of = dict(sql(db, "select owner_id, id::text from api_keys"))
    for name, (step, action) in STEPS.items():
        by_admin = action is not None and action.endswith("!")
        who = "root" if by_admin else "alice"
        answer, request_id = _send(caller.admin if by_admin else caller.client, step(caller))
        assert answer.status < 300, (name, answer.status, answer.body)
        found = _events(db, request_id)
        assert [row[0] for row in found] == ([] if action is None else [action.removesuffix("!")]), name
        for row in found:
            credential = "session" if name == "DELETE /api/session" else "key"
            assert (row[1:5], row[6]) == ((who, credential, key_of[who], "127.0.0.1"), "ok"), name
    recorded = "\n".join(row[0] for row in sql(db, "select e::text from audit_events e"))
    for secret in (caller.client.key, caller.admin.key, PREFIX, "X-Amz", "http", SECRET):
        assert secret is not None and secret not in recorded


def test_T125_downloads_and_urls_are_recorded_but_not_reads(client: GatewayClient, db: Database) -> None:
    file_id = client.add()["id"]
    expected = {
        f"/api/files/{file_id}": [],
        "/api/files": [],
        f"/api/files/{file_id}/preview?type=text": [],
        f"/api/files/{file_id}/history": [],
        f"/api/files/{file_id}/download": ["downloaded"],
        f"/api/files/{file_id}/download?mode=proxy": ["downloaded"],
        f"/api/files/archive?ids={file_id}": ["downloaded"],
        f"/api/files/{file_id}/url": ["url_issued"],
        f"/api/files/{file_id}/url?expires_in=3600": ["url_issued"],
    }
    for path, actions in expected.items():
        answer, request_id = _send(client, ("GET", path, {}))
        assert answer.status < 400, (path, answer.body)
        assert [row[:2] for row in _events(db, request_id)] == [(action, "alice") for action in actions], path


@pytest.mark.memory_store
def test_T125_an_upload_token_is_named(client: GatewayClient, db: Database) -> None:
    made = client.post("/api/upload-tokens", json={"owner_id": "alice"}).json
    _, request_id = _send(client.as_(made["token"]), ("PUT", "/api/upload/a.txt", {"data": b"x"}))
    [event] = _events(db, request_id)
    assert event[:4] == ("uploaded", "alice", "token", made["id"])


@pytest.mark.memory_store
def test_T125_T145_refusals_of_known_callers_are_recorded_once_a_minute(
    client: GatewayClient, anonymous: GatewayClient, db: Database
) -> None:
    for _ in range(3):
        assert client.get("/api/admin/keys").status == 403
        assert client.get("/api/audit").status == 403
        assert client.get("/api/files?owner=bob").status == 403
        assert anonymous.get("/api/files").status == 401
        assert client.get("/api/nothing").status == 404
    rows = sql(db, "select actor, target, outcome, request_id is not null from audit_events where action = 'refused'")
    assert sorted(rows) == [
        ("alice", f"GET {route}", "not_allowed", True) for route in ("/api/admin/keys", "/api/audit", "/api/files")
    ]


@pytest.mark.memory_store
def test_T125_a_request_for_the_allowed_methods_is_no_event(app: Any, anonymous: GatewayClient, db: Database) -> None:
    """Anyone may send one, as browsers do before a request to another origin."""
    for rule, _, operation in operations(app):
        if operation.audit:
            assert anonymous.options(re.sub("<[^>]+>", "1", rule.rule)).status == 200, rule
    assert sql(db, "select action from audit_events where actor = 'anonymous'") == []


@pytest.mark.memory_store
def test_T145_invented_methods_are_one_kind_of_refusal(client: GatewayClient, db: Database) -> None:
    token = client.post("/api/upload-tokens", json={"owner_id": "alice"}).json["token"]
    for number in range(5):
        for path in ("/api/files", "/api/nothing"):
            assert client.as_(token).request(f"METHOD{number}", path).status == 403
    rows = sql(db, "select distinct target from audit_events where action = 'refused'")
    assert rows == [("unmatched",)]


@pytest.mark.memory_store
def test_T145_other_processes_do_not_record_a_refusal_again(services: Services, db: Database) -> None:
    for _ in range(3):
        Audit(db, services.audit._cursors).record_refusal(route="GET /api/audit", code="not_allowed")
    [(count, minutes)] = sql(
        db, "select count(*), count(distinct at) from audit_events where action = 'refused' and actor = 'system'"
    )
    assert count == minutes  # two if a minute ended meanwhile


@pytest.mark.memory_store
def test_admins_read_the_log_by_filters_and_pages(client: GatewayClient, admin: GatewayClient) -> None:
    files = [client.add(f"{n}.txt", f"{n}".encode())["id"] for n in range(5)]
    client.delete(f"/api/files/{files[0]}")
    admin.patch(f"/api/files/{files[1]}", json={"visibility": "public"})

    def actions(**params: Any) -> list[tuple[str, str]]:
        found = admin.get("/api/audit", params=params).json
        assert found["total"] == len(found["items"]), params
        return [(event["action"], event["actor"]) for event in found["items"]]

    assert actions(actor="alice") == [("trashed", "alice"), *[("uploaded", "alice")] * 5]
    assert actions(owner="alice", action="updated") == [("updated", "root")]
    assert actions(file_id=files[0]) == [("trashed", "alice"), ("uploaded", "alice")]
    assert actions(outcome="not_allowed") == []
    assert actions(actor="alice", date_to="2020-01-01") == []
    assert len(actions(actor="alice", date_from="2020-01-01")) == 6
    newest = admin.get("/api/audit?limit=1").json["items"][0]
    assert (newest["details"], newest["file_id"]) == ({"visibility": "public"}, files[1])
    assert actions(request_id=newest["request_id"]) == [("updated", "root")]
    first = admin.get("/api/audit?actor=alice&limit=4").json
    second = admin.get(f"/api/audit?actor=alice&limit=4&cursor={first['next_cursor']}").json
    assert [event["file_id"] for event in first["items"] + second["items"]] == [files[0], *reversed(files)]
    assert second["next_cursor"] is None
    assert admin.get(f"/api/audit?actor=bob&cursor={first['next_cursor']}").code == "invalid_cursor"
    assert admin.get("/api/audit?file_id=x").status == 400
