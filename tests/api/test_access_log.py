"""The access log of a server process: who, what, from where, and no secret."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

import web_server
from services import Services
from settings import Settings
from tests.client import GatewayClient
from tests.live import Live


@pytest.fixture
def live(settings: Settings, bucket: Any, tmp_path: Path) -> Iterator[Live]:
    running = Live(settings, tmp_path / "log")
    running.start()
    yield running
    running.kill()


def test_T125_T140_the_access_log_names_the_caller_and_no_secret(
    live: Live, services: Services, tmp_path: Path
) -> None:
    record, key = services.keys.create_key("alice")
    client = GatewayClient(live.address, key)
    file = client.add("secret-name.txt", b"x" * 5000)
    sent: list[str] = []

    def last(count: int = 1) -> dict[str, Any]:
        """The last line of the access log, once there are ``count`` more."""
        sent.extend("" for _ in range(count))
        deadline = time.monotonic() + 10
        while True:
            lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
            found = [line for line in lines if line["event"] == "request"]
            if len(found) >= len(sent) or time.monotonic() > deadline:
                return found[-1]
            time.sleep(0.02)

    line = last(1 + 1)  # the OpenAPI document, and the upload
    client.get(f"/api/files/{file['id']}", headers={"X-Request-ID": "my-request-1"})
    line = last()
    assert {name: line[name] for name in ("method", "route", "status", "file_id", "request_id")} == {
        "method": "GET",
        "route": "/api/files/<uuid:file_id>",
        "status": 200,
        "file_id": file["id"],
        "request_id": "my-request-1",
    }
    assert (line["actor"], line["credential"], line["credential_id"]) == ("alice", "key", str(record.id))
    assert line["address"] == "127.0.0.1"
    client.get(f"/api/files/{file['id']}/download?mode=proxy&note=secret-query")
    assert 5000 < last()["bytes_sent"] < 6000
    url = client.get(f"/api/files/{file['id']}/url?expires_in=3600").json["url"]
    link = urlsplit(url).path
    assert last()["route"] == "/api/files/<uuid:file_id>/url"
    token = client.post("/api/upload-tokens", json={"owner_id": "alice"}).json
    last()
    anonymous = GatewayClient(live.address, None, check=False)
    anonymous.get(link)
    assert (last()["route"], last(0)["actor"]) == ("/d/<string:token>", "anonymous")
    anonymous.get(f"/t/{token['token']}/api/uploads")
    assert (last()["actor"], last(0)["credential_id"]) == ("alice", token["id"])
    anonymous.get(f"/t/{token['token']}/elsewhere/secret-path")
    assert (last()["status"], last(0)["route"]) == (401, None)
    requests.get(f"{live.address}/api/files", headers={"Authorization": f"Bearer {key}x"}, timeout=10)
    assert (last()["status"], last(0)["actor"]) == (401, "anonymous")
    log = (tmp_path / "log").read_text()
    for secret in (key, token["token"], link.rpartition("/")[2], "secret-", "X-Amz"):
        assert secret not in log


def test_requests_are_answered_although_no_log_can_be_written(settings: Settings, bucket: Any) -> None:
    """The disk is full, or the process that reads standard error has ended."""
    running = Live(settings, Path("/dev/full"), WEB_WORKERS="1")
    running.start()
    try:
        with requests.Session() as session:
            for path, status in {"/readyz": 200, "/nothing": 401, "/healthz": 200, "/": 200}.items():
                assert session.get(running.address + path, timeout=10).status_code == status
    finally:
        running.kill()


def test_the_access_log_can_be_turned_off(settings: Settings) -> None:
    given = [settings.model_copy(update={"access_log": state}) for state in ("on", "off")]
    assert [web_server.options(values)["accesslog"] is not None for values in given] == [True, False]
