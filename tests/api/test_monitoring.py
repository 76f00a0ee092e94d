"""Who sees /metrics, /readyz, /docs and /openapi.json with OPS_ACCESS=admin."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import Unavailable
from db import Database
from services import Services
from tests.client import GatewayClient

TOKEN = "metrics-Zk4Jw8Tq2Xv6Lp1Rn9"
pytestmark = [pytest.mark.memory_store, pytest.mark.settings(ops_access="admin", metrics_token=TOKEN)]


@pytest.mark.parametrize("path", ["/metrics", "/docs", "/openapi.json"])
def test_T141_closed_routes_need_the_token_or_an_admin(app: Any, admin: GatewayClient, path: str) -> None:
    upload_token = admin.post("/api/upload-tokens", json={"owner_id": "alice"}).json["token"]
    user = admin.post("/api/admin/keys", json={"owner_id": "alice", "role": "user"}).json["key"]
    expected = {None: 401, "wrong": 401, TOKEN[:-1]: 401, upload_token: 403, user: 403, admin.key: 200, TOKEN: 200}
    found = {key: GatewayClient(app, key, check=False).get(path).status for key in expected}
    assert found == expected


def test_T141_the_metrics_token_opens_nothing_else(app: Any) -> None:
    prometheus = GatewayClient(app, TOKEN, check=False)
    for path in ("/api/files", "/api/admin/keys", "/api/storage/stats", "/s3/multipart"):
        assert prometheus.get(path).status == 401, path


def test_T141_without_access_readyz_tells_its_status_only(
    app: Any, client: GatewayClient, admin: GatewayClient, monkeypatch: pytest.MonkeyPatch, services: Services
) -> None:
    outsiders = [GatewayClient(app, key, check=False) for key in (None, "wrong", client.key)]
    prometheus = GatewayClient(app, TOKEN, check=False)
    for outsider in outsiders:
        assert outsider.get("/readyz").json == {"status": "ready"}
    assert prometheus.get("/readyz").json == admin.get("/readyz").json
    assert admin.get("/readyz").json["checks"]["database"] is True

    def refuse(self: Any) -> Any:
        raise Unavailable()

    monkeypatch.setattr(Database, "connection", refuse)
    for outsider in outsiders:
        answer = outsider.get("/readyz")
        assert (answer.status, answer.json["detail"]) == (503, "Not ready.")
        assert "database" not in answer.body.decode()
    assert prometheus.get("/readyz").json["checks"]["database"] is False
