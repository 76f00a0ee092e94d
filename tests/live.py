"""The gateway's commands in their own processes, beside the services of the test."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from settings import Settings
from tests.client import GatewayClient
from tests.paths import ROOT
from tests.servers import SIGNING_KEY, free_port


class Program:
    """A command of the gateway in a process group of its own. ``first`` is Python code to run before it starts, for example to
    shorten limits."""

    def __init__(self, *command: str, environment: Mapping[str, str], log: Path, first: str = ""):
        self.command, self.environment, self.log, self.first = command, dict(environment), log, first
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> subprocess.Popen[bytes]:
        """Start it, and do not wait."""
        script = f"{self.first}\nimport sys, commands\nsys.exit(commands.main({list(self.command)!r}))"
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", script],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self.process

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """kill -9 of it and its children."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def stop(self, seconds: float = 60) -> int | None:
        """SIGTERM; the exit status, or None if it had to be killed."""
        if self.process is None:
            return 0
        self.process.terminate()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.kill()


class Live(Program):
    """A server process, or a worker."""

    def __init__(self, settings: Settings, log: Path, *, first: str = "", command: str = "serve", **environ: str):
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        assert settings.database_url is not None and settings.s3_secret_key is not None
        environment = {
            **os.environ,
            "DATABASE_URL": settings.database_url.get_secret_value(),
            "S3_ENDPOINT": str(settings.s3_endpoint),
            "S3_ACCESS_KEY": str(settings.s3_access_key),
            "S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
            "SECRET_KEY": SIGNING_KEY,
            "S3_BUCKET": settings.s3_bucket,
            "PUBLIC_URL": self.address,
            "PORT": str(self.port),
            "HOST": "127.0.0.1",
            "WEB_WORKERS": "2",
            "WEB_THREADS": "8",
            **environ,
        }
        super().__init__(command, environment=environment, log=log, first=first)

    def start(self) -> None:
        self.launch()
        if self.command == ("worker",):
            return
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise RuntimeError(self.log.read_text()[-2000:])

    def kill(self) -> None:
        """kill -9 of master and workers."""
        super().kill()
        with contextlib.suppress(OSError):  # until the last worker has released the port
            while True:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                time.sleep(0.02)

    def restarted(self, user: GatewayClient) -> GatewayClient:
        """Kill and start the server; a client without old connections."""
        self.kill()
        self.start()
        return user.as_(user.key)
