"""What clients are told, and how soon, while the bucket or the database hangs, refuses connections, or is full."""

from __future__ import annotations

import re
import shutil
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
from embedded import postgres
from services import Services
from settings import Settings
from storage_backends import faults, signed_http, transfers
from tests.client import Answer, GatewayClient
from tests.faults import Fault, FaultProxy
from tests.servers import small_disk
from tests.tus import begin, patch, path

WITHIN = 6.0  # seconds for each answer: five times what the limits below add up to


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """About a twentieth of the real ones."""
    for module, name, seconds in (
        (signed_http, "STALL_TIMEOUT", 0.5),
        (signed_http, "CONNECT_TIMEOUT", 0.5),
        (transfers, "PROBE_TIME", 0.3),
        (faults, "RETRY_WITHIN", 0.1),
        (breaker, "PAUSE", 0.2),
        (breaker, "QUEUE", 0.1),
        (database, "CHECK_OUT", 0.5),
        (database, "_CHECK", 0.3),
        (database, "_GRACE", 0.2),
    ):
        monkeypatch.setattr(module, name, seconds)


@pytest.fixture
def bucket_line(settings: Settings) -> Iterator[FaultProxy]:
    where = urlsplit(str(settings.s3_endpoint))
    with FaultProxy(str(where.hostname), int(where.port or 0)) as proxy:
        yield proxy


@pytest.fixture
def database_line(settings: Settings) -> Iterator[FaultProxy]:
    assert settings.database_url is not None
    where = urlsplit(settings.database_url.get_secret_value())
    with FaultProxy(str(where.hostname), int(where.port or 0)) as proxy:
        yield proxy


@pytest.fixture
def services(
    settings: Settings, bucket: Any, bucket_line: FaultProxy, database_line: FaultProxy
) -> Iterator[Services]:
    assert settings.database_url is not None
    beyond = re.sub(r"@[^/]*/", f"@{urlsplit(database_line.url).netloc}/", settings.database_url.get_secret_value())
    changed = {"s3_endpoint": bucket_line.url, "database_url": SecretStr(beyond)}
    wired = wire(settings.model_copy(update=changed), statement=0.6)
    yield wired
    database_line.heal()
    wired.db.close()


@pytest.fixture
def app(services: Services, settings: Settings) -> Any:
    return create_app(settings, services)


both_backends = pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=pytest.mark.settings(storage_backend=name)) for name in ("s3", "minio")]
)


def all_stall(line: FaultProxy) -> None:
    line.arm(Fault("stall", times=1_000_000))


def nobody_listens(line: FaultProxy) -> None:
    line.close()


def one_stalls(line: FaultProxy) -> None:
    """One connection alone; who tries another is served."""
    line.arm(Fault("stall"))


Requests = dict[str, Callable[[], Answer]]
MIB = 1024 * 1024


@pytest.fixture
def with_bucket(client: GatewayClient) -> Requests:
    """What can't be done without the bucket."""
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
    """What must go on without it."""
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
@pytest.mark.parametrize("fault", [all_stall, nobody_listens])
def test_T103_without_the_bucket_all_is_answered_in_time(
    backend: str,
    fault: Callable[[FaultProxy], None],
    bucket_line: FaultProxy,
    with_bucket: Requests,
    without_bucket: Requests,
) -> None:
    fault(bucket_line)
    for name, request in with_bucket.items():
        refused(name, request)
        time.sleep(breaker.PAUSE)  # so that the next is let through and waits itself
    for name, request in without_bucket.items():
        answer = answered(name, request)
        assert answer.status < 300, (name, answer.status, answer.body)


@both_backends
def test_T103_a_bucket_that_hung_is_used_again(
    backend: str, client: GatewayClient, bucket_line: FaultProxy, with_bucket: Requests
) -> None:
    all_stall(bucket_line)
    refused("form", with_bucket["form"])
    struck = bucket_line.struck
    refused("raw", with_bucket["raw"])
    assert bucket_line.struck == struck  # nothing was sent
    bucket_line.heal()
    until(lambda: client.upload(("a.txt", b"again")).status == 201)
    assert client.get("/readyz").status == 200


@both_backends
def test_T103_a_request_waits_for_the_bucket_once(
    backend: str, services: Services, bucket_line: FaultProxy, with_bucket: Requests
) -> None:
    """Also where others are answered all the while, so that the breaker stays closed."""
    services.stats._store._breaker._heard = float("inf")  # type: ignore[attr-defined]
    all_stall(bucket_line)
    for name, request in with_bucket.items():
        struck = bucket_line.struck
        refused(name, request)
        assert bucket_line.struck == struck + 1, name


def test_T102_without_the_database_all_is_answered_in_time(
    database_line: FaultProxy, with_bucket: Requests, without_bucket: Requests
) -> None:
    all_stall(database_line)
    for name, request in (with_bucket | without_bucket).items():
        if name == "healthz":
            assert answered(name, request).status == 200
        else:
            refused(name, request)
        time.sleep(breaker.PAUSE)


@pytest.mark.parametrize("fault", [all_stall, one_stalls])
def test_T102_a_database_that_hung_is_used_again(
    fault: Callable[[FaultProxy], None], client: GatewayClient, services: Services, database_line: FaultProxy
) -> None:
    client.add("a.txt", b"a")
    fault(database_line)
    answered("list", lambda: client.get("/api/files"))
    database_line.heal()
    until(lambda: client.get("/api/files").status == 200)
    assert client.get("/readyz").status == 200


def test_T102_a_statement_is_given_up(services: Services, database_line: FaultProxy) -> None:
    """Also where the connection was there already, and in the middle of a transaction."""


    def hang() -> None:
        with services.db.transaction() as tx:
            tx.execute("select 1")
            all_stall(database_line)
            tx.execute("select 1")

    started = time.monotonic()
    with pytest.raises(Unavailable):
        hang()
    assert time.monotonic() - started < WITHIN
    database_line.heal()
    until(lambda: services.health.ready()["database"] is True)


def test_a_statement_may_be_given_time(services: Services) -> None:
    with services.db.transaction() as tx:
        database.take_time(tx, 10)
        tx.execute("select pg_sleep(1)")
    with pytest.raises(Unavailable), services.db.transaction() as tx:
        tx.execute("select pg_sleep(1)")



@pytest.fixture
def small_database(settings: Settings, postgres_server: postgres.Postgres) -> Iterator[Path]:
    """The test's database stands on a small disk; its folder."""
    with tempfile.TemporaryDirectory(prefix="gateway-full-") as above, small_disk(Path(above) / "disk", "64m") as disk:
        Path(above).chmod(0o755)
        place = disk / "place"
        place.mkdir(mode=0o700)
        shutil.chown(place, "nobody")  # whom PostgreSQL runs as, where this process may mount
        with psycopg.connect(postgres_server.admin_url, autocommit=True) as admin:
            admin.execute(f"create tablespace small location '{place}'")  # type: ignore[call-overload]
            admin.execute("alter database gateway_test set tablespace small")
            yield disk
            admin.execute("drop database gateway_test with (force)")
            admin.execute("drop tablespace small")


def test_T124_a_database_on_a_full_disk_is_not_ready(
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
    assert answer.json["checks"] == {"database": False, "bucket": True, "queue": True}
    assert client.get("/api/files").status == 200
    ballast.unlink()
    assert anonymous.get("/readyz").status == 200
