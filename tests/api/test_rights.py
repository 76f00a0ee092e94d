"""Every route, asked by every kind of caller (T61), and every id of another owner (T64). The rules are in tests/rights.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from api.openapi import operations
from core.principal import Scope
from db import Database
from services import Services
from tests.browser import Browser
from tests.client import GatewayClient
from tests.paths import ROOT
from tests.rights import CALLERS, OUTSIDE, ROUTES, World, document, expected
from tests.rows import sql

# Logins through a provider are routes too, which need no provider to be refused.
pytestmark = pytest.mark.settings(rate_limits="off", jwt_issuer="http://127.0.0.1:9", oidc_client_id="gateway")

Callers = dict[str, GatewayClient | Browser]


@pytest.fixture
def world(client: GatewayClient, admin: GatewayClient) -> World:
    return World(client, admin)


@pytest.fixture
def callers(
    app: Flask, world: World, other: GatewayClient, anonymous: GatewayClient, services: Services, db: Database
) -> Callers:
    def key(*scopes: Scope, owner: str = "alice", **rights: Any) -> GatewayClient:
        return anonymous.as_(services.keys.create_key(owner, scopes=scopes or None, **rights)[1])

    revoked, revoked_key = services.keys.create_key("alice")
    services.keys.revoke_key(revoked.id)
    expired = key(name="expired")
    sql(db, "update api_keys set expires_at = now() where name = 'expired'")
    browser = Browser(app)
    browser.sign_in(world.owner.key)
    token = world.owner.post("/api/upload-tokens", json={"owner_id": "alice"}).json["token"]
    return {
        "anonymous": anonymous,
        "owner": world.owner,
        "session": browser,
        "other": other,
        "token": anonymous.as_(token),
        "read": key("read"),
        "write": key("write"),
        "delete": key("delete"),
        "folder": key(folder_id=world.folder),
        "elsewhere": key(folder_id=world.elsewhere),
        "expired": expired,
        "revoked": anonymous.as_(revoked_key),
        "admin-": key("read", "write", "delete", owner="root", role="admin"),
        "admin": world.admin,
    }


def test_T61_each_route_answers_each_caller_as_the_rules_say(
    world: World, callers: Callers, services: Services, subtests: pytest.Subtests
) -> None:
    """And tells nobody what is outside of the caller's reach."""
    assert callers.keys() == CALLERS.keys()
    services.search.index()
    for route, cases in ROUTES.items():
        for case in cases:
            with subtests.test(route=route, note=case.note):
                method = case.method or route.partition(" ")[0]
                request = None
                got, wanted, told = {}, {}, set[str]()
                for name, caller in callers.items():
                    path, options = request = request or case.request(world)
                    wanted[name] = expected(case, name)
                    answer = caller.request(method, path, **options)
                    got[name] = answer.status
                    told |= {name} if OUTSIDE.encode() in answer.body else set()
                    if got[name] == case.ok and method not in ("GET", "HEAD"):
                        request = None  # it has used up what was prepared
                assert got == wanted and told.isdisjoint({"anonymous", "other", "token", "folder", "elsewhere"})


def test_T61_every_route_has_rules(app: Flask) -> None:
    assert {f"{method} {rule.rule}" for rule, method, _ in operations(app)} == ROUTES.keys()


def test_T61_the_page_of_rights_is_up_to_date() -> None:
    """If it is not: .venv/bin/python -m tests.rights > docs/rights.md"""
    assert (ROOT / "docs" / "rights.md").read_text() == document()


# Where a request may name a folder, file or upload besides its path, with alice's id. Fields of forms and metadata of tus and /s3
# are in test_foreign_folders.py.
Named = Callable[[World], tuple[str, dict[str, Any]]]
FOREIGN: dict[tuple[str, str], Named] = {
    ("GET /api/files", "folder"): lambda w: (f"/api/files?folder={w.folder}", {}),
    ("GET /api/search", "folder"): lambda w: (f"/api/search?folder={w.folder}", {}),
    ("GET /api/files/archive", "folder"): lambda w: (f"/api/files/archive?folder={w.folder}", {}),
    ("GET /api/files/archive", "ids"): lambda w: (f"/api/files/archive?ids={w.id()}", {}),
    ("POST /api/files/archive", "folder"): lambda w: ("/api/files/archive", {"json": {"folder": w.folder}}),
    ("POST /api/files/archive", "ids"): lambda w: ("/api/files/archive", {"json": {"ids": [w.id()]}}),
    ("PUT /api/files/<uuid:file_id>/move", "target_folder_id"): lambda w: (
        "{file}/move",
        {"json": {"target_folder_id": w.folder}},
    ),
    ("POST /api/files/<uuid:file_id>/copy", "target_folder_id"): lambda w: (
        "{file}/copy",
        {"json": {"target_folder_id": w.folder}},
    ),
    ("POST /api/folders", "parent_folder_id"): lambda w: (
        "/api/folders",
        {"json": {"name": "x", "parent_folder_id": w.folder}},
    ),
    ("PATCH /api/folders/<folder_id:folder_id>", "parent_folder_id"): lambda w: (
        "{folder}",
        {"json": {"parent_folder_id": w.folder}},
    ),
    ("PUT /api/upload/<path:filename>", "folder_id"): lambda w: (f"/api/upload/a?folder_id={w.folder}", {"data": b"a"}),
    ("POST /api/uploads", "folder_id"): lambda w: (
        "/api/uploads",
        {"json": {"filename": "a", "size": 1, "folder_id": w.folder}},
    ),
    ("POST /api/tus", "folder_id"): lambda w: (
        f"/api/tus?folder_id={w.folder}",
        {"headers": {"Tus-Resumable": "1.0.0", "Upload-Length": "1"}},
    ),
    ("POST /api/upload-tokens", "folder_id"): lambda w: (
        "/api/upload-tokens",
        {"json": {"owner_id": "bob", "folder_id": w.folder}},
    ),
    ("POST /s3/sign", "uploadId"): lambda w: (
        "/s3/sign",
        {"json": {"method": "PUT", "key": "a", "partNumber": 1, "uploadId": w.multipart().split("/")[3].split("?")[0]}},
    ),
    ("POST /api/files/batch", "ids"): lambda w: ("/api/files/batch", {"json": {"action": "delete", "ids": [w.id()]}}),
    ("POST /api/files/batch", "target_folder_id"): lambda w: (
        "/api/files/batch",
        {"json": {"action": "move", "ids": ["{id}"], "target_folder_id": w.folder}},
    ),
}
_NAMES_A_THING = re.compile(r"folder|(.*_)?folder_id|ids|file_id|upload_?id", re.IGNORECASE)


def test_T64_every_id_of_another_owner_is_404(world: World, other: GatewayClient) -> None:
    """Ids in paths: the rules' caller ``other``."""
    mine = other.add("mine.txt")["id"]
    folder = other.post("/api/folders", json={"name": "Mine"}).json["id"]
    for (route, name), named in FOREIGN.items():
        path, options = named(world)
        path = path.format(file=f"/api/files/{mine}", folder=f"/api/folders/{folder}")
        if options.get("json", {}).get("ids") == ["{id}"]:
            options["json"]["ids"] = [mine]
        answer = other.request(route.partition(" ")[0], path, **options)
        status = answer.json["results"][0]["status"] if route == "POST /api/files/batch" else answer.status
        assert status == 404, (route, name, answer.body)


def test_T64_every_field_that_names_something_is_tried(app: Flask) -> None:
    named = {
        (f"{method} {rule.rule}", name)
        for rule, method, operation in operations(app)
        if operation.access != "admin"
        for model in (operation.query, operation.body)
        for name in (model.model_fields if model is not None else ())
        if _NAMES_A_THING.fullmatch(name)
    }
    assert named == FOREIGN.keys()
