"""A running gateway (server and worker processes), a bucket, and a page on a third origin.

Everything listens on loopback ports. If a program is missing, the tests that need it are skipped, or fail if
GATEWAY_TESTS_STRICT=1."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
import requests
from playwright.sync_api import sync_playwright

from embedded import postgres
from storage_backends import open_store
from tests.client import GatewayClient
from tests.conftest import TEMPLATE
from tests.paths import ROOT
from tests.servers import SIGNING_KEY, S3Server, free_port, minio_binary, start_minio, start_weed

if TYPE_CHECKING:
    from tests.e2e.gateway import Gateway

pytest.register_assert_rewrite("tests.e2e.tus_run")

UPPY = Path(__file__).parent / "uppy"
PACKAGES = {"chromium": "chromium", "npm": "npm", "node": "nodejs", "curl": "curl"}  # program -> Debian package
PATIENCE = 60.0  # seconds until a file must be ready; it usually takes one to four


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What MinIO does otherwise than SeaweedFS, two clients meet as well as four."""
    items[:] = [item for item in items if not item.name.endswith(("[minio-uppy 6 sign]", "[minio-uppy 5 companion]"))]


def needs(program: str) -> str:
    """The path of a program. Without it the test is skipped, or fails if GATEWAY_TESTS_STRICT is set."""
    found = shutil.which(program)
    if found is None:
        reason = f"{program.upper()} IS MISSING, tests of clients do not run: apt install {PACKAGES[program]}"
        if os.environ.get("GATEWAY_TESTS_STRICT") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return found


# -- the gateway -------------------------------------------------------------------------------------------------------


@dataclass
class Live:
    """A gateway at ``url``, with access to its bucket and database."""

    server: str
    url: str
    page: str  # the origin of the page
    site: Path  # what it serves
    admin: GatewayClient
    database_url: str
    store: Any

    def owner(self) -> Owner:
        """A new owner with a key and, for browsers, an upload token."""
        name = f"e2e-{uuid4().hex[:12]}"
        key = self.admin.post("/api/admin/keys", json={"owner_id": name}).json["key"]
        client = self.admin.as_(key)
        token = client.post("/api/upload-tokens", json={"owner_id": name}).json["token"]
        return Owner(name, self, client, key, token)

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            return connection.execute(statement, values).fetchall()


@dataclass
class Owner:
    name: str
    live: Live
    client: GatewayClient
    key: str
    token: str

    def ready(self, *paths: Path) -> list[dict[str, Any]]:
        """Wait until exactly these files are ready, compare their bytes with the bucket, and check for leftovers."""
        deadline = time.monotonic() + PATIENCE
        while True:
            files = self.client.get("/api/files?sort=original_name").json["items"]
            if len(files) >= len(paths) and all(file["status"] != "processing" for file in files):
                break
            assert time.monotonic() < deadline, files
            time.sleep(0.1)
        assert {file["original_name"]: (file["status"], file["file_hash"]) for file in files} == {
            path.name: ("ready", hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths
        }
        for file in files:
            [path] = [path for path in paths if path.name == file["original_name"]]
            stored = self.client.get(f"/api/files/{file['id']}/download?mode=proxy").body
            assert stored == path.read_bytes()
        self.nothing_left(files=len(paths))
        return list(files)

    def nothing_left(self, *, files: int = 0) -> None:
        """Wait until there is no object without a file, no part and no reserved quota. Cleanup may end after the answer."""
        nothing: tuple[int, list[str], list[str], list[int]] = (files, [], [], [])
        deadline = time.monotonic() + PATIENCE
        while (left := self._left()) != nothing and time.monotonic() < deadline:
            time.sleep(0.1)
        assert left == nothing

    def _left(self) -> tuple[int, list[str], list[str], list[int]]:
        live = self.live
        present = {info.key for info in live.store.list_objects("")}
        wanted = live.sql(
            "select object_key from objects union all select preview_path from file_previews"
            " union all select object_key from deferred_deletions"
        )
        keys = live.sql("select object_key from uploads where owner_id = %s", self.name)
        multiparts = [ref.key for (key,) in keys for ref in live.store.list_multiparts(key)]
        held = live.sql("select reserved_bytes from owner_usage where owner_id = %s", self.name)
        mine = live.sql("select count(*) from files where owner_id = %s", self.name)[0][0]
        return (mine, sorted(present - {key for (key,) in wanted}), multiparts, [size for (size,) in held if size])


@pytest.fixture(scope="session", params=["seaweedfs", "minio"])
def live(
    request: pytest.FixtureRequest,
    postgres_server: postgres.Postgres,
    database_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Live]:
    if request.param == "minio" and minio_binary() is None:
        pytest.skip("MINIO IS MISSING, browser tests run on SeaweedFS alone: put a minio binary on PATH")
    directory = tmp_path_factory.mktemp(request.param)
    with contextlib.ExitStack() as parts:
        page = parts.enter_context(page_server(directory))
        bucket: S3Server = (start_weed if request.param == "seaweedfs" else start_minio)(directory / "s3")
        parts.callback(bucket.stop)
        database = f"gateway_e2e_{request.param}"
        with psycopg.connect(postgres_server.admin_url, autocommit=True) as connection:
            connection.execute(f"drop database if exists {database} with (force)")
            connection.execute(f"create database {database} template {TEMPLATE}")
        address = postgres_server.admin_url.partition("?")
        database_url = address[0].rsplit("/", 1)[0] + "/" + database + "".join(address[1:])
        port = free_port()
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("S3_", "DATABASE_"))},
            "PORT": str(port),
            "PUBLIC_URL": f"http://127.0.0.1:{port}",
            "DATA_DIR": str(directory / "var"),
            "DATABASE_URL": database_url,
            "S3_ENDPOINT": bucket.endpoint,
            "S3_ACCESS_KEY": bucket.access_key,
            "S3_SECRET_KEY": bucket.secret_key,
            "SECRET_KEY": SIGNING_KEY,
            "S3_BUCKET": bucket.bucket,
            "STORAGE_BACKEND": "s3" if request.param == "seaweedfs" else "minio",
            "CORS_ORIGINS": page,
            "ADMIN_API_KEY": "e2e-" + uuid4().hex,
            "WEB_WORKERS": "1",
            "WEB_THREADS": "8",
            "RATE_LIMITS": "off",
        }
        command = [sys.executable, str(ROOT / "app.py")]
        subprocess.run([*command, "bootstrap"], env=environ, cwd=directory, check=True, capture_output=True, timeout=60)
        for name in ("serve", "worker"):
            log = parts.enter_context((directory / f"{name}.log").open("wb"))
            process = subprocess.Popen([*command, name], env=environ, cwd=directory, stdout=log, stderr=log)
            parts.callback(_stop, process)
        url = environ["PUBLIC_URL"]
        _wait(f"{url}/readyz", directory / "serve.log")
        store = open_store(bucket.settings(environ["STORAGE_BACKEND"]))
        yield Live(
            request.param,
            url,
            page,
            directory / "site",
            GatewayClient(url, environ["ADMIN_API_KEY"]),
            database_url,
            store,
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def _wait(url: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(requests.ConnectionError, requests.Timeout):
            if requests.get(url, timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"{url} did not answer:\n{log.read_text(errors='replace')[-3000:]}")


@pytest.fixture
def owner(live: Live) -> Owner:
    return live.owner()


@pytest.fixture(scope="session")
def gateway(
    postgres_server: postgres.Postgres,
    database_template: str,
    s3_server: S3Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    """A gateway for resumable uploads that tests may kill and whose network may fail."""
    from tests.e2e.gateway import running

    with running(tmp_path_factory.mktemp("gateway"), postgres_server.admin_url, TEMPLATE, s3_server) as started:
        yield started


# -- the page ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def page_server(directory: Path) -> Iterator[str]:
    """Serves tests/e2e/site, examples/ and the bundles; the origin."""
    site = directory / "site"
    for source in (Path(__file__).parent / "site", ROOT / "examples"):
        shutil.copytree(source, site, dirs_exist_ok=True)
    handler = functools.partial(_Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def copyfile(self, source: Any, outputfile: Any) -> None:
        with contextlib.suppress(ConnectionError):  # the browser left the page while it loaded
            super().copyfile(source, outputfile)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def bundled(live: Live, bundle: Callable[[int], bytes]) -> Callable[[int], None]:
    """Publishes the bundle of a version on the page's origin."""

    def serve(version: int) -> None:
        module = live.site / "bundle" / f"{version}.js"
        module.parent.mkdir(exist_ok=True)
        module.write_bytes(bundle(version))

    return serve


@pytest.fixture(scope="session")
def bundle() -> Callable[[int], bytes]:
    """The unmodified plugin of a version with all its imports as one module."""

    def build(folder: Path) -> None:
        (folder / "entry.js").write_text(
            "export { default as Uppy } from '@uppy/core'\nexport { default as AwsS3 } from '@uppy/aws-s3'\n"
        )
        options = ["--bundle", "--format=esm", "--outfile=uppy.js", "--log-level=warning"]
        _run(["node_modules/.bin/esbuild", "entry.js", *options], folder)

    @functools.cache
    def made(version: int) -> bytes:
        return (packages(UPPY / f"v{version}", f"uppy/v{version}", build) / "uppy.js").read_bytes()

    return made


def packages(source: Path, name: str, build: Callable[[Path], None] | None = None) -> Path:
    """The folder of the npm packages that ``source`` locks, installed under .venv once per lock file."""
    npm = needs("npm")
    files = [source / name for name in ("package.json", "package-lock.json", ".npmrc")]
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]
    target = ROOT / ".venv" / f"{name}-{digest}"
    target.mkdir(parents=True, exist_ok=True)
    with (target / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test process may install at the same time
        if not (target / "complete").exists():
            for file in files:
                shutil.copy(file, target)
            _run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], target)
            if build is not None:
                build(target)
            (target / "complete").touch()
    return target


def _run(command: list[str], directory: Path) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300)
    if done.returncode == 0:
        return
    reason = f"{command[0]} FAILED, tests of clients do not run (no package registry in reach?): {done.stderr[-500:]}"
    if os.environ.get("GATEWAY_TESTS_STRICT") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


# -- the browser -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One per module: while Playwright runs in this thread, nothing else can run an event loop in it."""
    chromium = needs("chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


def _tell(request: Any) -> None:
    """Print what pytest shows if the test fails."""
    print(request.failure, request.method, request.url.partition("?")[0])


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context()
    context.set_default_timeout(30_000)
    page = context.new_page()
    page.on("requestfailed", _tell)
    yield page
    page.unroute_all(behavior="ignoreErrors")
    context.close()


def made(directory: Path, name: str, size: int) -> Path:
    """Write a text, or bytes of no type, which need no processing. No two parts are equal."""
    path = directory / name
    data = os.urandom(size)
    path.write_bytes((data.hex().encode() if path.suffix == ".txt" else b"no type's bytes\0" * 64 + data)[:size])
    return path
