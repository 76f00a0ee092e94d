"""Responses and response times while the bucket or the database hangs, refuses connections, or is full."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from pydantic import SecretStr

import db as database
from app import create_app, wire
from core import breaker
from core.errors import Unavailable
from db import Database
from embedded import postgres
from services import Services
from settings import Settings, database_url
from storage_backends import faults, signed_http, transfers
from tests.client import Answer, GatewayClient
from tests.fault_proxy import Fault, FaultProxy
from tests.servers import small_disk
from tests.tus import begin, patch, path

WITHIN = 6.0  # seconds per response: more than five times the sum of the limits below


class Line:
    """The connection to the bucket or the database. With a fault, time limits are a fraction of the real ones; before it, and on
    the other connection, they are the real ones, since the machine may be loaded."""

    def __init__(self, proxy: FaultProxy, shorten: Callable[[], None]):
        self.proxy, self._shorten = proxy, shorten

    def stall(self) -> None:
        self._shorten()
        self.proxy.arm(Fault("stall", times=1_000_000))

    def stall_once(self) -> None:
        """Stall one connection; the others work."""
        self._shorten()
        self.proxy.arm(Fault("stall"))

    def refuse(self) -> None:
        self._shorten()
        self.proxy.close()


@pytest.fixture
def bucket_proxy(settings: Settings) -> Iterator[FaultProxy]:
    where = urlsplit(str(settings.s3_endpoint))
    with FaultProxy(str(where.hostname), int(where.port or 0)) as proxy:
        yield proxy


@pytest.fixture
def database_proxy(settings: Settings) -> Iterator[FaultProxy]:
    where = urlsplit(database_url(settings))
    with FaultProxy(str(where.hostname), int(where.port or 0)) as proxy:
        yield proxy


@pytest.fixture
def beyond_proxies(settings: Settings, bucket_proxy: FaultProxy, database_proxy: FaultProxy) -> Settings:
    url = re.sub(r"@[^/]*/", f"@{urlsplit(database_proxy.url).netloc}/", database_url(settings))
    return settings.model_copy(update={"s3_endpoint": bucket_proxy.url, "database_url": SecretStr(url)})


@pytest.fixture
def services(beyond_proxies: Settings, bucket: Any, database_proxy: FaultProxy) -> Iterator[Services]:
    wired = wire(beyond_proxies)
    yield wired
    database_proxy.heal()
    wired.db.close()


@pytest.fixture
def app(services: Services, settings: Settings) -> Any:
    return create_app(settings, services)


@pytest.fixture
def bucket_line(services: Services, bucket_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Line:
    def shorten() -> None:
        for module, name, seconds in (
            (signed_http, "STALL_TIMEOUT", 0.25),
            (signed_http, "CONNECT_TIMEOUT", 0.25),
            (transfers, "PROBE_TIME", 0.15),
            (faults, "RETRY_WITHIN", 0.1),
            (breaker, "OPEN_SECONDS", 0.1),
        ):
            monkeypatch.setattr(module, name, seconds)
        store: Any = services.health._store
        store._client._made = store._http.pool._made = None  # so that new clients are made, with these limits

    return Line(bucket_proxy, shorten)


@pytest.fixture
def database_line(services: Services, database_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Line:
    def shorten() -> None:
        monkeypatch.setattr(breaker, "OPEN_SECONDS", 0.1)
        monkeypatch.setattr(database, "_CHECK", 0.15)
        monkeypatch.setattr(database, "_IDLE", 0.0)  # as if a second had passed
        monkeypatch.setattr(services.db._pool, "timeout", 0.25)

    return Line(database_proxy, shorten)


both_backends = pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=pytest.mark.settings(storage_backend=name)) for name in ("s3", "minio")]
)


Requests = dict[str, Callable[[], Answer]]
MIB = 1024 * 1024


@pytest.fixture
def with_bucket(client: GatewayClient) -> Requests:
    """Requests that need the bucket."""
    file = client.add("a.txt", b"hello")["id"]
    unfinished = path(begin(client, 5))
    direct = client.post("/api/uploads", json={"filename": "d.bin", "size": 20 * MIB}).json["id"]
    return {
        "form": lambda: client.upload(("b.txt", b"some bytes")),
        "large form": lambda: client.upload(("c.bin", b"\x93\x01" * (9 * MIB // 2))),
        "raw": lambda: client.put("/api/upload/d.bin", data=b"\x93" * MIB),
        "tus": lambda: patch(client, unfinished, 0, b"12345"),
        "download": lambda: client.get(f"/api/files/{file}/download?mode=proxy"),
        "multipart begins": lambda: client.post("/api/uploads", json={"filename": "e.bin", "size": 20 * MIB}),
        "multipart's parts": lambda: client.post(f"/api/uploads/{direct}/complete", json={}),
        "readyz": lambda: client.get("/readyz"),
    }


@pytest.fixture
def without_bucket(client: GatewayClient) -> Requests:
    """Requests that must work without it."""
    file, old = client.add("f.txt", b"hello too")["id"], client.add("g.txt", b"bye")["id"]
    return {
        "healthz": lambda: client.get("/healthz"),
        "list": lambda: client.get("/api/files"),
        "file": lambda: client.get(f"/api/files/{file}"),
        "search": lambda: client.get("/api/search?query=f"),
        "statistics": lambda: client.get("/api/storage/stats"),
        "folder": lambda: client.post("/api/folders", json={"name": "Plans"}),
        "small direct upload begins": lambda: client.post("/api/uploads", json={"filename": "h.bin", "size": 5}),
        "delete": lambda: client.delete(f"/api/files/{old}?permanent=true"),
    }


def answered(name: str, request: Callable[[], Answer]) -> Answer:
    started = time.monotonic()
    answer = request()
    assert time.monotonic() - started < WITHIN, name
    return answer


def refused(name: str, request: Callable[[], Answer]) -> None:
    answer = answered(name, request)
    assert (answer.status, answer.headers.get("Retry-After", "")) == (503, "5"), (name, answer.status, answer.body)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@both_backends
@pytest.mark.parametrize("fault", [Line.stall, Line.refuse])
def test_T103_responses_are_in_time_without_the_bucket(
    backend: str, fault: Callable[[Line], None], bucket_line: Line, with_bucket: Requests, without_bucket: Requests
) -> None:
    fault(bucket_line)
    for name, request in with_bucket.items():
        refused(name, request)
        time.sleep(breaker.OPEN_SECONDS)  # so that the breaker lets the next request through
    for name, request in without_bucket.items():
        answer = answered(name, request)
        assert answer.status < 300, (name, answer.status, answer.body)


@both_backends
def test_T103_a_recovered_bucket_is_used_again(
    backend: str, client: GatewayClient, bucket_line: Line, with_bucket: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket_line.stall()
    with monkeypatch.context() as patched:
        patched.setattr(breaker, "OPEN_SECONDS", 60.0)
        refused("form", with_bucket["form"])
    struck = bucket_line.proxy.struck
    refused("raw", with_bucket["raw"])
    assert bucket_line.proxy.struck == struck  # nothing was sent
    monkeypatch.setattr(breaker, "monotonic", lambda: time.monotonic() + 60)
    bucket_line.proxy.heal()
    until(lambda: client.upload(("a.txt", b"again")).status == 201)
    until(lambda: client.get("/readyz").status == 200)


@both_backends
def test_T103_a_request_waits_for_the_bucket_once(
    backend: str, services: Services, bucket_line: Line, with_bucket: Requests
) -> None:
    """Even if other requests succeed meanwhile, which keeps the breaker closed."""
    services.health._store._breaker._last_answer = float("inf")  # type: ignore[attr-defined]
    bucket_line.stall()
    for name, request in with_bucket.items():
        struck = bucket_line.proxy.struck
        refused(name, request)
        assert bucket_line.proxy.struck == struck + 1, name


def test_T102_responses_are_in_time_without_the_database(
    database_line: Line, with_bucket: Requests, without_bucket: Requests
) -> None:
    database_line.stall()
    for name, request in (with_bucket | without_bucket).items():
        if name == "healthz":
            assert answered(name, request).status == 200
        else:
            refused(name, request)
        time.sleep(breaker.OPEN_SECONDS)


@pytest.mark.parametrize("fault", [Line.stall, Line.stall_once])
def test_T102_a_recovered_database_is_used_again(
    fault: Callable[[Line], None], client: GatewayClient, services: Services, database_line: Line
) -> None:
    client.add("a.txt", b"a")
    fault(database_line)
    answered("list", lambda: client.get("/api/files"))
    database_line.proxy.heal()
    until(lambda: client.get("/api/files").status == 200)
    until(lambda: client.get("/readyz").status == 200)


def test_T102_a_statement_times_out(database_proxy: FaultProxy, beyond_proxies: Settings) -> None:
    """Even on an open connection in the middle of a transaction."""
    gone = Database(database_url(beyond_proxies), statement=1)

    def hang() -> None:
        with gone.transaction() as tx:
            tx.execute("select 1")
            database_proxy.arm(Fault("stall", times=1_000_000))
            tx.execute("select 1")

    started = time.monotonic()
    with pytest.raises(Unavailable):
        hang()
    assert time.monotonic() - started < 10
    database_proxy.heal()
    gone.close()


def test_T102_a_vanished_peer_is_detected(db: Database) -> None:
    with db.connection() as tx, socket.socket(fileno=os.dup(tx.fileno())) as line:
        assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
        assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10


def test_a_statement_may_have_a_longer_timeout(settings: Settings) -> None:
    hasty = Database(database_url(settings), statement=0.5)
    with hasty.transaction() as tx:
        database.set_timeout(tx, 60)
        tx.execute("select pg_sleep(1)")
    with pytest.raises(Unavailable), hasty.transaction() as tx:
        tx.execute("select pg_sleep(2)")
    hasty.close()


@pytest.fixture
def small_database(settings: Settings, postgres_server: postgres.Postgres) -> Iterator[Path]:
    """Move the test's database to a small disk and return its folder."""
    with tempfile.TemporaryDirectory(prefix="gateway-full-") as above, small_disk(Path(above) / "disk", "64m") as disk:
        Path(above).chmod(0o755)
        place = disk / "place"
        place.mkdir(mode=0o700)
        shutil.chown(place, "nobody")  # PostgreSQL's user if this process may mount
        with psycopg.connect(postgres_server.admin_url, autocommit=True) as admin:
            admin.execute(f"create tablespace small location '{place}'")
            admin.execute("alter database gateway_test set tablespace small")
            yield disk
            admin.execute("drop database gateway_test with (force)")
            admin.execute("drop tablespace small")


def test_T105_T124_a_database_on_a_full_disk_is_not_ready(
    small_database: Path, client: GatewayClient, anonymous: GatewayClient
) -> None:
    client.add("a.txt", b"a")
    assert anonymous.get("/readyz").status == 200
    ballast = small_database / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    answer = anonymous.get("/readyz")
    assert answer.status == 503
    assert {name for name, fine in answer.json["checks"].items() if not fine} == {"database"}
    assert client.get("/api/files").status == 200
    ballast.unlink()
    assert anonymous.get("/readyz").status == 200
