"""Who sees /metrics, /readyz, /docs and /openapi.json with OPS_ACCESS=admin."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest

from core.errors import Unavailable
from core.principal import Quota
from db import Database
from services import Services
from tests.client import GatewayClient
from tests.rows import sql

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


class TestGauges:
    """What rows tell, measured when /metrics is asked."""

    def metrics(self, app: Any) -> dict[str, float]:
        answer = GatewayClient(app, TOKEN, check=False).get("/metrics")
        assert answer.status == 200
        lines = [line.rpartition(" ") for line in answer.body.decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    def test_owners_near_their_quota_are_a_number(self, app: Any, services: Services) -> None:
        before = self.metrics(app)["gateway_quota_near_owners"]
        for owner, size, limit in (("near-1", 95, 100), ("near-2", 90, 100), ("far", 89, 100), ("none", 10**6, None)):
            services.quotas.set_own(owner, Quota(limit, None))
            GatewayClient(app, services.keys.create_key(owner)[1], check=False).add("a.txt", b"x" * size)
        assert self.metrics(app)["gateway_quota_near_owners"] == before + 2

    def test_uploads_in_progress_are_counted_by_protocol(self, app: Any, services: Services) -> None:
        for status in ("pending", "uploading", "done", "expired"):
            row = """
            insert into uploads (owner_id, protocol, status, object_key, original_name, content_type, created_at, expires_at)
            values ('alice', 'tus', %s, %s, 'a', 'text/plain', now() - interval '1 hour', now())
            """
            sql(services.db, row, status, status)
        found = self.metrics(app)
        assert found['gateway_open_uploads{protocol="tus"}'] == 2
        assert 3600 <= found['gateway_open_upload_oldest_seconds{protocol="tus"}'] < 3900

    def test_a_source_that_fails_hides_no_other(self, app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails() -> Any:
            raise RuntimeError("a bug")

        def unavailable(*_: Any) -> Any:
            raise Unavailable()

        monkeypatch.setattr("services.library.stats.stats.count", lambda *_: fails())
        monkeypatch.setattr("services.upkeep.jobs.jobs.queues", unavailable)
        names = {name.partition("{")[0] for name in self.metrics(app)}
        assert "gateway_files" not in names and "gateway_queue_jobs" not in names
        assert {"gateway_database_bytes", "gateway_workers"} <= names

    def test_the_database_and_the_workers_are_told(self, app: Any, services: Services) -> None:
        sql(
            services.db,
            "insert into procrastinate_workers (last_heartbeat) select now() - n * interval '50 s' from generate_series(0, 2) n",
        )
        found = self.metrics(app)
        assert found["gateway_workers"] == 2
        assert found["gateway_database_bytes"] > 1e6
        assert 1 <= found['gateway_database_connections{state="active"}'] < found["gateway_database_connections_limit"]


@pytest.mark.settings(ops_access="public")
def test_T124_health_and_metrics_name_nothing(app: Any, services: Services) -> None:
    """A gateway with odd names in everything that a client can name, asked by somebody without a credential."""
    record, key = services.keys.create_key("secret-owner")
    client = GatewayClient(app, key, check=False)
    folder = client.post("/api/folders", json={"name": "secret-folder"}).json["id"]
    file = client.add('secret\n"name"} 1.txt', b"secret text", tags="secret-tag", folder_id=str(folder))
    client.get(f"/api/files/{file['id']}/download?mode=proxy")
    for method, path in (
        ("SECRET", "/"),
        ("GET", "/secret-path"),
        ("GET", "/api/search?q=secret"),
        ("GET", "/d/secret"),
    ):
        client.request(method, path, headers={"X-Request-ID": "secret-request", "User-Agent": "secret-agent"})
    GatewayClient(app, "gw_secret-credential", check=False).get("/api/files")
    [stored] = [row[0] for row in sql(services.db, "select file_path from files")]
    anonymous = GatewayClient(app, None, check=False)
    for path in ("/healthz", "/readyz", "/metrics"):
        answer = anonymous.get(path)
        text = answer.body.decode() + str(dict(answer.headers))
        assert answer.status == 200
        for word in ("secret", "SECRET", key, str(record.id), file["id"], stored, sys.version.split()[0]):
            assert word not in text, (path, word)
        assert not re.search(r"\b\d+\.\d+\.\d+\b", answer.body.decode().replace(".0.1", "")), path


def test_T124_health_needs_nothing_and_readiness_tells_a_full_disk(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prometheus = GatewayClient(app, TOKEN, check=False)
    monkeypatch.setattr("services.upkeep.health._DISK", 10**18)
    assert (prometheus.get("/readyz").status, prometheus.get("/readyz").json["checks"]["disk"]) == (503, False)

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("used")

    monkeypatch.setattr(Database, "connection", refuse)
    monkeypatch.setattr("services.upkeep.health.Health.ready", refuse)
    assert GatewayClient(app, None, check=False).get("/healthz").json == {"status": "ok"}
