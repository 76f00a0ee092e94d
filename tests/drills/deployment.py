"""A whole deployment of real processes, with a proxy on each line on which an answer may be lost:

    clients -- web (2 groups of gunicorn processes) --+-- database line -- PostgreSQL
       |                                  worker(s) --+
       |               the janitor, again and again --+-- bucket line -- SeaweedFS
       +-------------- presigned URLs -------------------------+

Everything has its own ports and its data in one folder. What the drill itself looks at, it reaches directly."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import requests

from app import wire
from core.origin import ORIGIN, SYSTEM
from embedded import postgres, seaweedfs
from services import Services
from settings import Settings, storage_settings
from storage_backends.base import MultipartRef, ObjectInfo
from storage_backends.s3 import S3Store
from tests.clamd import Clamd, Proxy
from tests.client import GatewayClient
from tests.fault_proxy import FaultProxy
from tests.live import Program
from tests.servers import SIGNING_KEY, free_port, small_disk

_AGE = timedelta(days=3)
SMALL = "400m"  # of a disk that is to be filled; as much memory
UNLIMITED = {"StreamMaxLength": "128M", "MaxScanSize": "128M", "MaxFileSize": "128M"}
WAIT = 120.0  # seconds until something that was started must answer
# Time limits that a drill would otherwise mostly wait for; what depends on them is the same.
SHORT_LEASES = """
from datetime import timedelta
import core.heartbeat, services.access.idempotency
core.heartbeat.INTERVAL, services.access.idempotency.LEASE = 2.0, timedelta(seconds=6)
core.heartbeat.beating.__wrapped__.__kwdefaults__["every"] = 2.0
"""


@dataclass
class Web(Program):
    """One of the web servers: gunicorn's master and its workers."""

    port: int = 0

    def __init__(self, port: int, **options: Any):
        super().__init__("serve", **options)
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def ready(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{self.url}/readyz", timeout=5).status_code == 200
        return False

    def workers(self) -> list[int]:
        return children(self.process.pid) if self.process else []


class _AgedStore(S3Store):
    def list_objects(self, prefix: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        for info in super().list_objects(prefix, after=after):
            yield replace(info, last_modified=info.last_modified - _AGE)

    def list_multiparts(self, prefix: str) -> Iterator[MultipartRef]:
        for ref in super().list_multiparts(prefix):
            yield replace(ref, started_at=ref.started_at and ref.started_at - _AGE)


def children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return found


def memory(pid: int) -> int:
    """Bytes resident."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


@dataclass
class Servers:
    """PostgreSQL and bucket, which a drill may end and start again; ``None`` where the servers are somebody else's."""

    database_url: str
    endpoint: str
    access_key: str
    secret_key: str
    postgres: postgres.Postgres | None = None
    postgres_dir: Path | None = None
    weed: seaweedfs.SeaweedFS | None = None
    weed_dir: Path | None = None
    disk: Path | None = None  # the small one, on which one of the two has its data
    clamd: Clamd | None = None
    scanner_line: Proxy | None = None  # before clamd
    settings: dict[str, str] = field(default_factory=dict)  # that the gateway needs for them


@contextlib.contextmanager
def own_servers(directory: Path, *, small: str | None = None, scanner: bool = False) -> Iterator[Servers]:
    """A PostgreSQL that loses no COMMIT and a SeaweedFS, for one drill. ``small``: "postgres" or "bucket" has a disk of its own
    that can be filled. ``scanner``: with a clamd. Raises pytest's Skipped if this machine can't provide that."""
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(small_disk(directory / "disk", SMALL)) if small else None
        folders = {name: (disk if disk and name == small else directory) / name for name in ("postgres", "bucket")}
        clamd = Clamd(directory / "clamd", **UNLIMITED) if scanner else None
        started, weed = postgres.start(folders["postgres"]), seaweedfs.start(folders["bucket"])
        servers = Servers(started.url, weed.endpoint, weed.access_key, weed.secret_key, started, folders["postgres"])
        servers.weed, servers.weed_dir, servers.disk = weed, folders["bucket"], disk
        if small == "bucket":
            # As on a larger disk that is nearly full: a gateway that keeps the usual GiB free would not get so far.
            servers.settings |= {"S3_LOCAL_PATH": str(disk), "CAPACITY_FULL": "0"}
        if clamd is not None:
            clamd.start()
            stack.callback(clamd.stop)
            servers.clamd, servers.scanner_line = clamd, Proxy(clamd.port)
            stack.callback(servers.scanner_line.close)
            servers.settings |= {"CLAMD_URL": servers.scanner_line.url, "SCAN_TIMEOUT": "5"}
        try:
            yield servers
        finally:
            servers.weed.kill()
            assert servers.postgres is not None
            servers.postgres.child.process.send_signal(signal.SIGQUIT)
            servers.postgres.child.process.wait(60)


def _host(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None
    return parts.hostname, parts.port


@dataclass
class Deployment:
    directory: Path
    servers: Servers
    database_line: FaultProxy
    bucket_line: FaultProxy
    environment: dict[str, str]
    webs: list[Web] = field(default_factory=list)
    workers: list[Program] = field(default_factory=list)
    janitor: Program | None = None
    janitor_every: float = 5.0  # seconds between two runs by command

    def __post_init__(self) -> None:
        self._stopped, self._watching = threading.Event(), threading.Event()
        self._watching.set()
        self.admin_key = self.environment["ADMIN_API_KEY"]
        self._janitor_runs = 0

    # -- processes -----------------------------------------------------------------------------------------------------

    def program(self, *command: str, log: str, first: str = "", **environ: str) -> Program:
        options: dict[str, Any] = {"environment": {**self.environment, **environ}, "log": self.directory / log}
        return Program(*command, first=SHORT_LEASES + first, **options)

    def start(self) -> None:
        """Bootstrap, start everything and wait until it is ready."""
        bootstrap = self.program("bootstrap", log="bootstrap.log")
        if bootstrap.launch().wait(WAIT) != 0:
            raise RuntimeError(bootstrap.log.read_text(errors="replace")[-3000:])
        for number in range(2):
            port = free_port()
            self.webs.append(
                Web(
                    port,
                    environment={**self.environment, "PORT": str(port)},
                    log=self.directory / f"web-{number}.log",
                    first=SHORT_LEASES,
                )
            )
        self.workers.append(self.program("worker", log="worker.log"))
        self.restart_ended()
        self.wait_until_ready()
        threading.Thread(target=self._watch, daemon=True).start()
        threading.Thread(target=self._clean, daemon=True).start()

    def restart_ended(self) -> None:
        """Start what is not running, as a process manager does."""
        for program in (*self.webs, *self.workers):
            if not program.running and not (isinstance(program, Web) and listens(program.port)):
                program.kill()  # and what is left of its group
                program.launch()

    def _watch(self) -> None:
        while not self._stopped.wait(0.3):
            if self._watching.is_set():
                self.restart_ended()

    def _clean(self) -> None:
        while not self._stopped.wait(self.janitor_every):
            if self._watching.is_set():
                self.janitor = self.program("janitor", log="janitor.log")
                self.janitor.launch().wait()
                self._janitor_runs += 1

    @contextlib.contextmanager
    def unattended(self) -> Iterator[None]:
        """In this block nothing is restarted but by the drill."""
        self._watching.clear()
        time.sleep(0.5)  # for a restart in progress
        try:
            yield
        finally:
            self._watching.set()

    def wait_until_ready(self) -> None:
        """Raises TimeoutError."""
        deadline = time.monotonic() + WAIT
        while not all(web.ready() for web in self.webs):
            if time.monotonic() > deadline:
                raise TimeoutError("the web servers are not ready: " + self.webs[0].log.read_text()[-2000:])
            time.sleep(0.1)

    def stop(self) -> None:
        self._stopped.set()
        self._watching.clear()
        for program in (*self.webs, *self.workers, *([self.janitor] if self.janitor else [])):
            program.kill()

    # -- servers -------------------------------------------------------------------------------------------------------

    def start_postgres(self) -> None:
        """Again, with the data that it has."""
        assert self.servers.postgres_dir is not None
        self.servers.postgres = postgres.start(self.servers.postgres_dir)
        self.servers.database_url = self.servers.postgres.url
        self.database_line.target = _host(self.servers.postgres.url)

    def start_bucket(self) -> None:
        """Again, with the data that it has."""
        assert self.servers.weed_dir is not None
        self.servers.weed = seaweedfs.start(self.servers.weed_dir)
        self.servers.endpoint = self.servers.weed.endpoint
        self.bucket_line.target = _host(self.servers.endpoint)

    def heal(self) -> None:
        self.database_line.heal()
        self.bucket_line.heal()

    # -- looking -------------------------------------------------------------------------------------------------------

    def admin(self) -> GatewayClient:
        return GatewayClient(self.webs[0].url, self.admin_key, check=False)

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.servers.database_url, autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def services(self, *, aged: bool = False) -> Iterator[Services]:
        """Services of this process, which reach both servers directly. ``aged``: all in the bucket seems to be three days old."""
        values: dict[str, Any] = {name.lower(): value for name, value in self.environment.items()}
        values |= {"database_url": self.servers.database_url, "s3_endpoint": self.servers.endpoint}
        before = ORIGIN.get()
        settings = Settings(_env_file=None, **values)
        wired = wire(settings, store=_AgedStore(storage_settings(settings)) if aged else None)
        ORIGIN.set(SYSTEM)
        try:
            yield wired
        finally:
            ORIGIN.set(before)
            wired.db.close()

    def store(self) -> S3Store:
        values: dict[str, Any] = {name.lower(): value for name, value in self.environment.items()}
        return S3Store(storage_settings(Settings(_env_file=None, **{**values, "s3_endpoint": self.servers.endpoint})))

    def resident(self) -> dict[str, int]:
        """Bytes of the largest process of each kind."""
        webs = [memory(pid) for web in self.webs for pid in web.workers()]
        workers = [memory(worker.process.pid) for worker in self.workers if worker.process]
        return {"web": max(webs, default=0), "worker": max(workers, default=0)}

    def connections(self) -> int:
        """Of the gateway to PostgreSQL."""
        sql = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        return int(self.sql(sql)[0][0])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def deployed(directory: Path, servers: Servers, **environ: str) -> Iterator[Deployment]:
    """Start a deployment on these servers."""
    with FaultProxy(*_host(servers.database_url)) as database_line, FaultProxy(*_host(servers.endpoint)) as bucket_line:
        behind_line = re.sub(r"@[^/]*/", f"@{urlsplit(database_line.url).netloc}/", servers.database_url)
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        given = {
            "HOST": "127.0.0.1",
            "PUBLIC_URL": "http://gateway.test",
            "DATA_DIR": str(directory / "var"),
            "DATABASE_URL": behind_line,
            "S3_ENDPOINT": bucket_line.url,
            "S3_ACCESS_KEY": servers.access_key,
            "S3_SECRET_KEY": servers.secret_key,
            "S3_BUCKET": f"drill-{uuid4().hex[:8]}",
            "SECRET_KEY": SIGNING_KEY,
            "ADMIN_API_KEY": "drill-" + uuid4().hex,
            "WEB_WORKERS": "1",
            "WEB_THREADS": "8",
            "WORKER_LEASE": "6",
            "RATE_LIMITS": "off",
        }
        deployment = Deployment(
            directory, servers, database_line, bucket_line, {**kept, **given, **servers.settings, **environ}
        )
        try:
            deployment.start()
            yield deployment
        finally:
            deployment.stop()
