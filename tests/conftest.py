"""Fixtures: one PostgreSQL and one SeaweedFS per test process, a fresh database per test."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql
from werkzeug.routing import Rule

from app import create_app, wire
from core.origin import ORIGIN, SYSTEM
from core.principal import Principal
from db import Database
from db.migrate import migrate
from embedded import postgres
from services import Services
from settings import Settings
from storage_backends import open_store
from tests.client import GatewayClient
from tests.crash_points import CrashingGateway
from tests.lost_commits import LossyGateway
from tests.memory_store import MemoryStore
from tests.servers import SIGNING_KEY, S3Server, start_minio, start_weed

TEMPLATE = "gateway_template"
EMPTY = "template template0 locale_provider builtin builtin_locale 'C.UTF-8' lc_ctype 'C.UTF-8' encoding utf8"
Leftovers = Callable[[], dict[str, list[str]]]


# What `make test-quick` leaves out: crash tests (T101, T104), which try every step, and whatever takes seconds a test, beside
# tests that are marked themselves. Each room keeps tests that are quick. Durations: `make test ARGS=--durations=50`.
SLOW = re.compile(
    r"_T(57|72|101|104|107|138)_"
    r"|tests/(drills|e2e|embedded|jobs|parsers|storage_backends)/"
    r"|tests/api/test_(any_input|crowds|jobs|lost_answers|numbers|outages|over_quota|public_files|renamed_types)\.py"
    r"|tests/api/test_(rights|s3_uploads|token_rules|tus|tus_live|upload_bodies|upload_tokens)\.py"
    r"|tests/services/(objects|processing/scanning|recovery|upkeep/doctor)/"
    r"|tests/services/\w+/test_(completion|compression|compression_faults|demo|direct|duplicates|intake|resumable|sweep)\.py"
    r"|tests/db/test_many_rows\.py"
    r"|tests/test_(benchmarks|compose|nginx|rolling_restart|telemetry|tracing|watching|web_server)\.py"
)


@pytest.hookimpl(tryfirst=True)  # before -m looks at the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SLOW.search(item.nodeid):
            item.add_marker(pytest.mark.slow)
    # A file is run by one process: those that take minutes come first, so that all processes end at about the same time.
    items.sort(key=lambda item: ("/e2e/" not in item.nodeid, item.get_closest_marker("slow") is None))


# werkzeug compiles the URL builders of all rules for each application, which takes a third of a test's preparation.
_compile_builder = Rule._compile_builder
_builders: dict[tuple[str, bool], Any] = {}


def _compile_once(rule: Rule, append_unknown: bool = True) -> Any:
    key = (rule.rule, append_unknown)
    if key not in _builders:
        _builders[key] = _compile_builder(rule, append_unknown)
    return _builders[key]


Rule._compile_builder = _compile_once  # type: ignore[assignment, method-assign]


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Not the bytes of a file: packed ones have the time in them, and each process must find the same tests."""
    return argname if isinstance(val, bytes) and len(val) > 30 else None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "settings(**values): settings of the gateway for this test")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Postgres]:
    # Not in pytest's own directory: if root runs the tests, PostgreSQL's user may not enter it.
    with tempfile.TemporaryDirectory(prefix="gateway-postgres-", dir=_memory()) as directory:
        server = postgres.start(Path(directory), fsync=False)
        password = sql.Literal(urlsplit(server.admin_url).password)
        # Each new connection would hash the password 4,096 times.
        _admin(server, "set scram_iterations = 1", sql.SQL("alter role postgres password {}").format(password))
        yield server
        server.stop()


def _memory() -> str | None:
    """A file system in memory, if there is room: a database per test means 300 files created and removed."""
    memory = "/dev/shm"
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 * 1024**3:
        return memory
    return None


@pytest.fixture(scope="session")
def database_template(postgres_server: postgres.Postgres) -> str:
    """The address of a migrated database; tests get clones of it."""
    _admin(postgres_server, f"create database {TEMPLATE} {EMPTY}")
    url = _address(postgres_server.admin_url, TEMPLATE)
    migrate(url)
    return url


@pytest.fixture
def database_url(postgres_server: postgres.Postgres, database_template: str) -> str:
    ORIGIN.set(SYSTEM)  # the last test's requests came from somebody, who would be in this test's events
    _admin(
        postgres_server,
        "drop database if exists gateway_test with (force)",
        f"create database gateway_test template {TEMPLATE} strategy file_copy",  # half the work of writing WAL
    )
    return _address(postgres_server.admin_url, "gateway_test")


@pytest.fixture
def empty_url(postgres_server: postgres.Postgres, database_template: str) -> Iterator[str]:
    """The address of a second database, migrated and without rows, to restore a backup into."""
    _admin(
        postgres_server,
        "drop database if exists gateway_restored with (force)",
        f"create database gateway_restored template {TEMPLATE} strategy file_copy",
    )
    yield _address(postgres_server.admin_url, "gateway_restored")
    _admin(postgres_server, "drop database if exists gateway_restored with (force)")


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS, or MinIO if TEST_BUCKET=minio."""
    server = (start_minio if os.environ.get("TEST_BUCKET") == "minio" else start_weed)(tmp_path_factory.mktemp("s3"))
    open_store(server.settings()).ensure_bucket()  # type: ignore[attr-defined]
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_store(s3_server: S3Server) -> Any:
    """The store that tests use to look into the bucket."""
    return open_store(s3_server.settings())


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> Any:
    """The bucket, empty at the start of the test; one in memory for tests marked ``memory_store``."""
    if request.node.get_closest_marker("memory_store"):
        return MemoryStore()
    store = request.getfixturevalue("shared_store")
    _empty(store)
    return store


def _empty(store: Any) -> None:
    for info in list(store.list_objects("")):
        store.delete(info.key)
    for ref in list(store.list_multiparts("")):
        store.abort_multipart(ref)


@pytest.fixture
def settings(request: pytest.FixtureRequest, database_url: str, s3_server: S3Server, tmp_path: Path) -> Settings:
    values: dict[str, Any] = {
        "database_url": database_url,
        "s3_endpoint": s3_server.endpoint,
        "s3_access_key": s3_server.access_key,
        "s3_secret_key": s3_server.secret_key,
        "s3_bucket": s3_server.bucket,
        "secret_key": SIGNING_KEY,
        "data_dir": tmp_path / "var",
        "public_url": "http://gateway.test",
        "cors_origins": ("http://app.test",),
        "web_threads": 8,
    }
    for marker in reversed(list(request.node.iter_markers("settings"))):
        values |= marker.kwargs
    return Settings(_env_file=None, **values)


@pytest.fixture
def services(settings: Settings, bucket: Any) -> Iterator[Services]:
    wired = wire(settings, store=bucket if isinstance(bucket, MemoryStore) else None)
    yield wired
    wired.db.close()


@pytest.fixture
def crashing(settings: Settings, bucket: Any) -> Iterator[CrashingGateway]:
    gateway = CrashingGateway(settings)
    yield gateway
    gateway.services.db.close()


@pytest.fixture
def lossy(settings: Settings, bucket: Any) -> Iterator[LossyGateway]:
    gateway = LossyGateway(settings)
    yield gateway
    gateway.services.db.close()


@pytest.fixture
def app(services: Services, settings: Settings) -> Any:
    application = create_app(settings, services)
    application.testing = False  # errors become responses, as in production
    return application


@pytest.fixture
def alice() -> Principal:
    return Principal("alice")


@pytest.fixture
def bob() -> Principal:
    return Principal("bob")


@pytest.fixture
def root() -> Principal:
    return Principal("root", "admin")


@pytest.fixture
def client_for(app: Any, services: Services) -> Callable[..., GatewayClient]:
    """Creates a client with a new key."""

    def make(owner: str, role: str = "user") -> GatewayClient:
        return GatewayClient(app, services.keys.create_key(owner, role=role)[1])  # type: ignore[arg-type]

    return make


@pytest.fixture
def client(client_for: Callable[..., GatewayClient]) -> GatewayClient:
    return client_for("alice")


@pytest.fixture
def other(client_for: Callable[..., GatewayClient]) -> GatewayClient:
    return client_for("bob")


@pytest.fixture
def admin(client_for: Callable[..., GatewayClient]) -> GatewayClient:
    return client_for("root", "admin")


@pytest.fixture
def anonymous(app: Any) -> GatewayClient:
    return GatewayClient(app, None)


@pytest.fixture
def leftovers(bucket: Any, db: Database) -> Leftovers:
    """Objects without rows, rows without objects, and unfinished work: equal to NOTHING if nothing was lost or leaked."""

    def promised() -> set[str]:
        with db.connection() as tx:
            rows = tx.execute(
                "select object_key from objects where status = 'stored' union all select preview_path from file_previews"
                " union all select public_key from objects where public_key is not null"
            )
            return {row[0] for row in rows}

    def look() -> dict[str, list[str]]:
        before = promised()  # a worker may be running: count only rows that exist before and after the listing
        keys = [info.key for info in bucket.list_objects("")]
        multiparts = [ref.key for ref in bucket.list_multiparts("")]
        with db.connection() as tx:
            retired = {row[0] for row in tx.execute("select object_key from deferred_deletions")}
            uploads = [
                str(row[0]) for row in tx.execute("select id from uploads where status <> 'done' and not cleaned")
            ]
            reserving = "select owner_id from owner_usage where (reserved_bytes, reserved_files) <> (0, 0)"
            held = [row[0] for row in tx.execute(reserving)]
        after = promised()
        return {
            "objects without a row": sorted(set(keys) - after - retired),
            "rows without an object": sorted((before & after) - set(keys)),
            "multiparts": multiparts,
            "retired": sorted(retired),
            "uploads": uploads,
            "reservations": held,
        }

    return look


NOTHING: dict[str, list[str]] = {
    "objects without a row": [],
    "rows without an object": [],
    "multiparts": [],
    "retired": [],
    "uploads": [],
    "reservations": [],
}


def _admin(server: postgres.Postgres, *statements: str | sql.Composed) -> None:
    with contextlib.closing(psycopg.connect(server.admin_url, autocommit=True)) as connection:
        for statement in statements:
            connection.execute(statement)


def _address(url: str, database: str) -> str:
    head, _, query = url.partition("?")
    return head.rsplit("/", 1)[0] + "/" + database + (f"?{query}" if query else "")
