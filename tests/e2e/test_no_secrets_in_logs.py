"""Every route that takes or gives a secret is called through the proxy, also while database, bucket and gateway are away: no log
and no command line contains one of these secrets (T42, T140)."""

from __future__ import annotations

import itertools
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from flask import Flask

from embedded.postgres import Postgres
from settings import Settings
from tests.fault_proxy import Fault, FaultProxy
from tests.identity_provider import IdentityProvider
from tests.live import Live
from tests.paths import ROOT
from tests.servers import S3Server, nginx

TIMEOUT = 60
# Keys, tokens, sessions; sealed links, tickets and signatures.
GIVEN = re.compile(
    r"\bgw[a-z]?_[\w-]{43}|(?<=/d/)[\w-]{40,}|(?<=ticket=)[\w-]{40,}|(?<=ignature=)[0-9a-f]{64}|(?<=ignature\":\")[0-9a-f]{64}"
)
ID = "0199f000-0000-7000-8000-000000000000"
MALFORMED = (b" HTTP/9.9\r\n\r\n", b" HTTP/1.1\r\nA B: c\r\n\r\n", b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n")


class Caller:
    """Sends requests to the proxy, and keeps each secret that it sends or is given."""

    def __init__(self, address: str, secrets: set[str]):
        self.address, self.secrets = address, secrets
        self.statuses: set[int] = set()

    def ask(self, method: str, path: str, key: str | None = None, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        headers |= options.pop("headers", {})
        url = path if path.startswith("http") else self.address + path
        answer = requests.request(method, url, headers=headers, allow_redirects=False, timeout=TIMEOUT, **options)
        self.statuses.add(answer.status_code)
        self.secrets |= set(GIVEN.findall(f"{answer.text}\n{answer.headers}\n{path}"))
        return answer

    def use_secrets(self, key: str, file: str) -> None:
        """Call the routes that give or take secrets, and the addresses that they answer with."""
        token = self.ask("POST", "/api/upload-tokens", key, json={"owner_id": "alice"})
        if token.ok:
            in_path = f"/t/{token.json()['token']}"
            self.ask("PUT", f"{in_path}/api/upload/a.txt", data=b"hello")
            for path in ("/api/upload", "/api/uploads", "/api/tus", "/s3/multipart", "/nowhere"):
                self.ask("POST", in_path + path, data=b"{", headers={"Content-Type": "application/json"})
        self.ask("POST", "/api/session", json={"key": key}, headers={"Sec-Fetch-Site": "same-origin"})
        redirect = self.ask("GET", f"/api/files/{file}/download", key)
        if redirect.status_code == 302:
            for change in ("", "&changed=1"):
                self.ask("GET", redirect.headers["Location"] + change)
        link = self.ask("GET", f"/api/files/{file}/url?expires_in=3600", key)
        if link.ok:
            self.ask("GET", urlsplit(link.json()["url"]).path)
            self.ask("GET", urlsplit(link.json()["url"]).path + "x")
        for size in (5, 20_000_000):
            begun = self.ask("POST", "/api/uploads", key, json={"filename": "a.txt", "size": size})
            if begun.ok:
                self.ask("POST", f"/api/uploads/{begun.json()['id']}/parts", key, json={"part_numbers": [1]})
                self.ask("POST", f"/api/uploads/{begun.json()['id']}/complete", key)
        self.ask("GET", "/s3/params?filename=a.txt&type=text/plain&size=5", key)
        multipart = self.ask("POST", "/s3/multipart", key, json={"filename": "a.txt", "type": "text/plain"})
        if multipart.ok:
            begun_as = multipart.json()
            self.ask("GET", f"/s3/multipart/{begun_as['uploadId']}/1?key={begun_as['key']}", key)
        signed = self.ask("POST", "/s3/sign", key, json={"method": "POST", "key": "a.txt", "uploads": ""})
        if signed.ok:
            ticket = urlsplit(signed.json()["url"])
            for method in ("POST", "GET", "DELETE"):
                self.ask(method, f"{ticket.path}?{ticket.query}", data=b"<x")


@dataclass
class Deployment:
    caller: Caller
    server: Live
    admin: str  # the given admin key
    jwt: str
    broken: tuple[FaultProxy, FaultProxy]  # before the bucket and before the database


@pytest.fixture
def deployment(
    settings: Settings, postgres_server: Postgres, s3_server: S3Server, tmp_path: Path
) -> Iterator[Deployment]:
    """nginx, server and worker at LOG_LEVEL=DEBUG. All logs are in ``tmp_path``."""
    assert settings.database_url is not None and settings.s3_secret_key is not None
    database = urlsplit(settings.database_url.get_secret_value())
    admin, metrics_token = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    with ExitStack() as parts:
        provider = parts.enter_context(IdentityProvider())
        bucket = parts.enter_context(FaultProxy("127.0.0.1", urlsplit(s3_server.endpoint).port or 0))
        postgres = parts.enter_context(FaultProxy("127.0.0.1", database.port or 0))
        netloc = f"{database.username}:{database.password}@{urlsplit(postgres.url).netloc}"
        environment = {
            "ADMIN_API_KEY": admin,
            "METRICS_TOKEN": metrics_token,
            "DATABASE_URL": database._replace(netloc=netloc).geturl(),
            "S3_ENDPOINT": bucket.url,
            "LOG_LEVEL": "DEBUG",
            "RATE_LIMITS": "off",
            "DATA_DIR": str(tmp_path / "data"),
            **{name.upper(): str(value) for name, value in provider.settings.items()},
        }
        server = Live(settings, tmp_path / "gateway.log", **environment)
        with (tmp_path / "worker.log").open("wb") as log:
            for name in ("bootstrap", "worker"):
                command = [sys.executable, str(ROOT / "app.py"), name]
                process = subprocess.Popen(command, env=server.environment, cwd=tmp_path, stdout=log, stderr=log)
                if name == "bootstrap":
                    assert process.wait(TIMEOUT) == 0
                else:
                    parts.callback(process.wait)
                    parts.callback(process.terminate)
        server.start()
        parts.callback(server.kill)
        known = {admin, metrics_token, str(database.password), settings.s3_secret_key.get_secret_value()}
        known |= {server.environment["SECRET_KEY"], jwt := provider.token(sub="alice")}
        caller = Caller(f"http://127.0.0.1:{parts.enter_context(nginx(tmp_path, server.port))}", known)
        yield Deployment(caller, server, admin, jwt, (bucket, postgres))


def command_lines() -> str:
    """Of all processes of this machine."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(process.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
        except OSError:  # it has ended
            continue
    return "\n".join(found)


def test_T140_no_secret_is_in_a_log_or_a_command_line(
    app: Flask, deployment: Deployment, postgres_server: Postgres, s3_server: S3Server, tmp_path: Path
) -> None:
    caller, server, admin = deployment.caller, deployment.server, deployment.admin
    key = caller.ask("POST", "/api/admin/keys", admin, json={"owner_id": "alice"}).json()["key"]
    file = caller.ask("PUT", "/api/upload/a.txt", key, data=b"hello").json()["id"]
    caller.use_secrets(key, file)
    running = command_lines()
    for broken in deployment.broken:
        broken.arm(Fault("reset", times=10_000))
        broken.drop_all()
        caller.use_secrets(key, file)
        broken.heal()
    others = itertools.cycle([key, deployment.jwt, f"{deployment.jwt}x", f"{key}x"])
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:\w+:)?(\w+)>", lambda name: ID if name[1].endswith("id") else "1", rule.rule)
        for method in sorted((rule.methods or set()) - {"OPTIONS", "HEAD"}):
            for credential in (admin, next(others)):
                caller.ask(method, path, credential, data=b"{", headers={"Content-Type": "application/json"})
    token_in_path = f"/t/{next(secret for secret in caller.secrets if secret.startswith('gwt_'))}/api/uploads"
    for port in (server.port, urlsplit(caller.address).port):
        for rest in MALFORMED:
            with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as raw:
                raw.sendall(f"GET {token_in_path}".encode() + rest)
                assert raw.recv(65536).startswith(b"HTTP/1.1 4")
    running += command_lines()
    server.kill()
    caller.use_secrets(key, file)
    assert caller.ask("GET", token_in_path).status_code == 503

    assert s3_server.weed is not None
    logs = [*tmp_path.rglob("*.log"), s3_server.weed.child.log, postgres_server.child.log]
    texts = {log: log.read_text(errors="replace") for log in logs if log is not None}
    assert {200, 201, 302, 400, 401, 403, 404, 503} <= caller.statuses
    for event in ("bucket_unavailable", "request_failed", "error connecting in"):
        assert event in texts[tmp_path / "gateway.log"]
    assert '"status":503' in texts[tmp_path / "nginx.log"]
    assert "app.py worker" in running and "nginx" in running
    for kind in ("gw_", "gwt_", "gws_", "eyJ"):
        assert any(secret.startswith(kind) for secret in caller.secrets), kind
    assert sum(re.fullmatch("[0-9a-f]{64}", secret) is not None for secret in caller.secrets) >= 8  # signatures
    for secret in caller.secrets:
        assert secret not in running
        for text in texts.values():
            assert secret not in text, next(line for line in text.splitlines() if secret in line)[:2000]
