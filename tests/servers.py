"""Real S3 servers for tests, on free loopback ports, with their data in a given directory."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from embedded import seaweedfs
from embedded.child import free_port
from storage_backends import StorageSettings, open_store
from tests.paths import ROOT

ACCESS_KEY, SECRET_KEY = "test-access-key", secrets.token_hex(20)  # production refuses weak ones
BUCKET = "uploads"
KEEPS_EACH_PART = pytest.mark.skipif(os.environ.get("TEST_BUCKET") == "minio", reason="MinIO keeps each part once")
SIGNING_KEY = "test-Kx7Qm2Vw9Rt4Zb8Nc3Hj6Lp5Ds-key"  # SECRET_KEY
START_TIMEOUT = 60.0  # seconds


@dataclass
class S3Server:
    endpoint: str
    access_key: str
    secret_key: str
    bucket: str
    process: subprocess.Popen[bytes] | None = None
    weed: seaweedfs.SeaweedFS | None = None

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
        """Kill the server: SeaweedFS takes up to ten seconds to end by itself, and its data is not kept."""
        if self.weed is not None:
            self.weed.kill()  # and its sockets go
        elif self.process is not None:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    """A file system of this size, such as ``64m``. The test is skipped if this process may not mount one."""
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(directory)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("a small disk can't be mounted here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def minio_binary() -> str | None:
    return shutil.which("minio")


def start_weed(directory: Path) -> S3Server:
    """SeaweedFS as ``make run`` starts it, with one bucket. Raises EmbeddedError if it does not start."""
    server = seaweedfs.start(directory)
    found = S3Server(server.endpoint, server.access_key, server.secret_key, BUCKET, server.child.process, server)
    store: Any = open_store(found.settings())
    store.ensure_bucket()
    return found


def start_minio(directory: Path) -> S3Server:
    """MinIO without a bucket. Raises RuntimeError if the binary is missing or does not start."""
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
    log = directory / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT, cwd=directory
        )
    server = S3Server(f"http://127.0.0.1:{port}", ACCESS_KEY, SECRET_KEY, BUCKET, process)
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        if seaweedfs.answers_us(server.endpoint, ACCESS_KEY, SECRET_KEY):
            return server
        time.sleep(0.1)
    server.stop()
    raise RuntimeError(f"{command[0]} did not come up:\n{log.read_text(errors='replace')[-3000:]}")


@contextlib.contextmanager
def nginx(directory: Path, *upstreams: int) -> Iterator[int]:
    """The port of an nginx with the project's configuration before these ports, which logs to nginx.log in the directory.
    Raises FileNotFoundError without nginx."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise FileNotFoundError("the proxy's configuration needs nginx to be tried (Debian: apt install nginx-light)")
    port, text = free_port(), (ROOT / "deploy" / "nginx.conf").read_text()
    temporary = "".join(f" {kind}_temp_path {directory}/temp/{kind};" for kind in ("client_body", "proxy"))
    for theirs, ours in (
        (
            "gateway:8080 max_fails=0;",
            " max_fails=0; server ".join(f"127.0.0.1:{port}" for port in upstreams) + " max_fails=0;",
        ),
        ("listen 8080;", f"listen 127.0.0.1:{port};"),
        ("pid /tmp/nginx.pid;", f"pid {directory}/nginx.pid;"),
        ("http {", f"http {{{temporary}"),
    ):
        assert text.count(theirs) == 1
        text = text.replace(theirs, ours)
    (directory / "temp").mkdir()
    (directory / "nginx.conf").write_text(text)
    command = [program, "-p", str(directory), "-c", str(directory / "nginx.conf"), "-g", "daemon off;"]
    with (directory / "nginx.log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while not _listens(port):
            assert process.poll() is None, "nginx refuses the configuration"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(START_TIMEOUT)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
