"""What an API key may do: scopes and expiry. tests/api/test_rights.py asks it of every route, test_key_folders.py for folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest

from commands import Call, run
from core.principal import Scope
from db import Database
from services import Services
from settings import Settings
from tests.api.test_upload_tokens import direct, token_of
from tests.client import GatewayClient
from tests.rows import sql
from tests.subtests import with_subtests
from tests.tus import upload as upload_tus

KeyWith = Callable[..., GatewayClient]


@pytest.fixture
def key_with(client: GatewayClient, services: Services) -> KeyWith:
    """Creates another key of alice with these scopes."""
    return lambda *scopes: client.as_(services.keys.create_key("alice", scopes=scopes)[1])


def test_keys_are_created_with_scopes_folder_and_expiry(admin: GatewayClient, client: GatewayClient) -> None:
    folder = client.post("/api/folders", json={"name": "Plans"}).json["id"]
    members = {"scopes": ["read", "write"], "folder_id": folder, "expires_at": "2999-01-01T00:00:00Z"}
    made = admin.post("/api/admin/keys", json={"owner_id": "alice", **members})
    assert made.status == 201 and made.json.items() >= members.items() and made.json["last_used_at"] is None
    key = client.as_(made.json["key"])
    assert key.add("a.txt")["folder_id"] == folder
    listed = {item["id"]: item for item in admin.get("/api/admin/keys").json["items"]}[made.json["id"]]
    used = datetime.fromisoformat(listed["last_used_at"])
    assert timedelta() <= datetime.now(UTC) - used < timedelta(minutes=1)
    assert listed == {name: value for name, value in made.json.items() if name != "key"} | {
        "last_used_at": listed["last_used_at"]
    }


def test_by_default_a_key_has_all_scopes_of_its_role(admin: GatewayClient) -> None:
    for role, scopes in (("user", ["read", "write", "delete"]), ("admin", ["read", "write", "delete", "admin"])):
        made = admin.post("/api/admin/keys", json={"owner_id": "carol", "role": role}).json
        assert (made["scopes"], made["folder_id"], made["expires_at"]) == (scopes, None, None)


@with_subtests(
    ("members", "field"),
    [
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes.0"),
        ({"scopes": "read"}, "scopes"),
        ({"scopes": ["admin"]}, "scopes"),
        ({"role": "admin", "folder_id": 1}, "folder_id"),
        ({"folder_id": 0}, "folder_id"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "tomorrow"}, "expires_at"),
    ],
)
def test_invalid_rights_are_400(admin: GatewayClient, members: dict[str, Any], field: str) -> None:
    answer = admin.post("/api/admin/keys", json={"owner_id": "alice", **members})
    assert (answer.status, answer.json["errors"][0]["field"]) == (400, field), answer.body


def test_T64_a_key_can_only_be_limited_to_its_owners_folder(admin: GatewayClient, other: GatewayClient) -> None:
    theirs = other.post("/api/folders", json={"name": "Theirs"}).json["id"]
    for folder in (theirs, 2**31 - 1):
        answer = admin.post("/api/admin/keys", json={"owner_id": "alice", "folder_id": folder})
        assert (answer.status, answer.code) == (404, "not_found")


def test_commands_create_and_list_keys_with_their_rights(
    settings: Settings,
    services: Services,
    client: GatewayClient,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Call, "services", lambda call: services)  # its own would stay open
    folder = client.post("/api/folders", json={"name": "Plans"}).json["id"]
    options = ["--scopes", "read,write", "--folder", str(folder), "--expires-in", "60", "--json"]
    assert run(["keys", "create", "--owner", "alice", *options], settings) == 0
    made = json.loads(capsys.readouterr().out)
    left = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert (made["scopes"], made["folder_id"]) == (["read", "write"], folder)
    assert timedelta(seconds=50) < left < timedelta(seconds=60)
    assert client.as_(made["key"]).delete(f"/api/files/{folder}").status == 404
    assert run(["keys", "list", "--json"], settings) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {key["id"]: key["scopes"] for key in listed}[made["id"]] == ["read", "write"]
    for wrong in (["--scopes", "root"], ["--scopes", ""], ["--expires-in", "0"], ["--folder", "999"]):
        assert run(["keys", "create", "--owner", "alice", *wrong], settings) == 1, wrong
    for text, status in (("soon", 2), ("9" * 30, 1)):
        assert run(["keys", "create", "--owner", "alice", "--expires-in", text], settings) == status


def test_T63_a_missing_scope_is_named(key_with: KeyWith, client: GatewayClient) -> None:
    answer = key_with("read").upload(("a.txt", b"a"))
    assert (answer.status, answer.code, answer.json["detail"]) == (
        403,
        "not_allowed",
        "The credential lacks the scope write.",
    )
    file = client.add("a.txt")["id"]
    for permanent in ("", "?permanent=true"):
        assert (
            key_with("read", "write").delete(f"/api/files/{file}{permanent}").json["detail"].endswith("scope delete.")
        )


@with_subtests(
    ("action", "scope"),
    [("delete", "delete"), ("purge", "delete"), ("restore", "write"), ("move", "write"), ("tag", "write")],
)
def test_T63_a_batch_needs_the_scope_of_its_action(
    key_with: KeyWith, client: GatewayClient, action: str, scope: Scope
) -> None:
    file = client.add("a.txt")["id"]
    body = {"action": action, "ids": [file], "target_folder_id": None, "add": ["x"]}
    others = [other for other in get_args(Scope) if other not in (scope, "admin")]
    assert key_with(*others).post("/api/files/batch", json=body).status == 403
    assert client.get(f"/api/files/{file}").json["tags"] == []
    assert key_with(scope).post("/api/files/batch", json=body).json["results"][0]["status"] == 200


def test_T63_a_key_that_can_only_write_uploads_in_every_way(key_with: KeyWith, client: GatewayClient) -> None:
    """Also to continue, complete and abort its uploads."""
    writer, content = key_with("write"), b"x" * 10
    assert writer.upload(("form.txt", content)).status == 201
    assert writer.put("/api/upload/raw.txt", data=content).status == 201
    assert direct(writer, content).status == 201
    assert upload_tus(writer, content, chunk=5).headers["Upload-File-Id"]
    multipart = writer.post("/s3/multipart", json={"filename": "a.bin"}).json
    address = f"/s3/multipart/{multipart['uploadId']}?key={multipart['key']}"
    assert writer.get(address).json == [] and writer.delete(address).status == 200
    begun = writer.post("/api/uploads", json={"filename": "a.txt", "size": 5}).json["id"]
    assert [item["id"] for item in writer.get("/api/uploads").json["items"]] == [begun]
    assert writer.delete(f"/api/uploads/{begun}").status == 204
    assert len(client.get("/api/files").json["items"]) == 4
    assert writer.get("/api/files").status == writer.get("/api/search").status == 403


def test_T63_upload_tokens_end_with_their_key_and_need_its_scope(
    key_with: KeyWith, client: GatewayClient, db: Database
) -> None:
    assert key_with("read", "delete").post("/api/upload-tokens", json={"owner_id": "alice"}).status == 403
    token = token_of(client)
    assert token.upload(("a.txt", b"a")).status == 201
    sql(db, "update api_keys set expires_at = now()")
    assert token.upload(("b.txt", b"b")).status == 401


def test_T123_keys_from_before_keep_all_rights(client: GatewayClient, services: Services, db: Database) -> None:
    """As the release before adds them, which knows no scopes."""
    for owner, role in (("alice", "user"), ("root", "admin")):
        services.keys.create_key(owner, role=role, key=f"gw_{role}")  # type: ignore[arg-type]
        sql(db, "update api_keys set scopes = default where role = %s", role)
    user, admin = client.as_("gw_user"), client.as_("gw_admin")
    for key in (user, admin):
        file = key.add("a.txt")["id"]
        assert key.get(f"/api/files/{file}").status == key.delete(f"/api/files/{file}").status == 200
    assert (user.get("/api/admin/keys").status, admin.get("/api/admin/keys").status) == (403, 200)
