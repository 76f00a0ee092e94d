"""A gateway for resumable uploads: two web processes and a worker, which a test may kill and restart, between two
proxies that can inject faults:

    client -- front (PUBLIC_URL) -- gateway -- back (S3_ENDPOINT) -- bucket

The worker and the checks of a test connect to the bucket directly."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg

from app import wire
from settings import Settings
from storage_backends import open_store
from tests.client import GatewayClient
from tests.e2e.conftest import Live, Owner, _stop, _wait
from tests.fault_proxy import FaultProxy
from tests.paths import ROOT
from tests.servers import SIGNING_KEY, S3Server, free_port

BUCKET = "tus-uploads"


@dataclass
class Gateway(Live):
    """``url`` is the gateway itself; clients use ``front.url``, which is also its public address."""

    front: FaultProxy
    back: FaultProxy
    directory: Path
    environ: dict[str, str]
    direct_s3: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def tus(self) -> str:
        return f"{self.front.url}/api/tus"

    def start(self, name: str = "serve", **environ: str) -> subprocess.Popen[bytes]:
        """Start a command of the gateway in its own process group, logging to ``NAME.log``."""
        with (self.directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, str(ROOT / "app.py"), name],
                env={**self.environ, **environ},
                cwd=self.directory,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def serve(self) -> None:
        self.process = self.start()
        self.admin = GatewayClient(self.url, self.environ["ADMIN_API_KEY"])  # on new connections
        _wait(f"{self.url}/readyz", self.directory / "serve.log")

    def kill(self) -> None:
        """kill -9 of all web processes at once."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def empty(self) -> None:
        """Empty the bucket without regard to the database."""
        for info in list(self.store.list_objects("")):
            self.store.delete(info.key)
        for ref in list(self.store.list_multiparts("")):
            self.store.abort_multipart(ref)

    def janitor(self) -> None:
        """Run the janitor once, with its command."""
        values: dict[str, Any] = {name.lower(): value for name, value in self.environ.items()}
        services = wire(Settings(_env_file=None, **{**values, "s3_endpoint": self.direct_s3}))
        try:
            services.janitor.run()
        finally:
            services.db.close()


@contextlib.contextmanager
def running(directory: Path, admin_url: str, template: str, server: S3Server) -> Iterator[Gateway]:
    """Start a gateway with a database cloned from ``template`` and its own bucket on ``server``."""
    database, port = "gateway_tus", free_port()
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(f"drop database if exists {database} with (force)")
        connection.execute(f"create database {database} template {template}")
    address = admin_url.partition("?")
    s3 = urlsplit(server.endpoint)
    assert s3.hostname is not None
    assert s3.port is not None
    with (
        FaultProxy("127.0.0.1", port) as front,
        FaultProxy(s3.hostname, s3.port) as back,
        contextlib.ExitStack() as parts,
    ):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("S3_", "DATABASE_"))}
        given = {
            "PORT": str(port),
            "PUBLIC_URL": front.url,
            "DATA_DIR": str(directory / "var"),
            "DATABASE_URL": address[0].rsplit("/", 1)[0] + "/" + database + "".join(address[1:]),
            "S3_ENDPOINT": back.url,
            "S3_ACCESS_KEY": server.access_key,
            "S3_SECRET_KEY": server.secret_key,
            "SECRET_KEY": SIGNING_KEY,
            "S3_BUCKET": BUCKET,
            "ADMIN_API_KEY": "e2e-" + uuid4().hex,
            "WEB_WORKERS": "2",
            "WEB_THREADS": "8",
            "RATE_LIMITS": "off",
        }
        own = S3Server(server.endpoint, server.access_key, server.secret_key, BUCKET)
        gateway = Gateway(
            "seaweedfs",
            f"http://127.0.0.1:{port}",
            "",
            directory,
            GatewayClient(f"http://127.0.0.1:{port}", given["ADMIN_API_KEY"]),
            given["DATABASE_URL"],
            open_store(own.settings()),
            front,
            back,
            directory,
            {**kept, **given},
            server.endpoint,
        )
        if gateway.start("bootstrap").wait(60) != 0:
            raise RuntimeError((directory / "bootstrap.log").read_text(errors="replace")[-3000:])
        parts.callback(_stop, gateway.start("worker", S3_ENDPOINT=server.endpoint))
        gateway.serve()
        parts.callback(lambda: gateway.process and _stop(gateway.process))
        yield gateway


def all_written(owner: Owner) -> None:
    """Wait until no request writes to an upload of the owner: an interrupted one may still store bytes."""
    deadline = time.monotonic() + 60
    while owner.live.sql(
        "select from resumable_uploads join uploads on id = upload_id where owner_id = %s and leased_until > now()",
        owner.name,
    ):
        assert time.monotonic() < deadline, "a request is still writing"
        time.sleep(0.02)


def expire(owner: Owner) -> None:
    """Expire the owner's unfinished uploads."""
    all_written(owner)
    owner.live.sql(
        "update uploads set expires_at = now() - interval '1 minute' where owner_id = %s and status <> 'done' returning id",
        owner.name,
    )
