"""The gateway's HTTP server and worker in processes of their own, beside the services of the test."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from settings import Settings
from tests.client import GatewayClient
from tests.paths import ROOT
from tests.servers import SIGNING_KEY, free_port


class Live:
    """A server process, or a worker. ``first`` is Python code to run before it starts, for example to shorten limits."""

    def __init__(self, settings: Settings, log: Path, *, first: str = "", command: str = "serve", **environ: str):
        self._command = command
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._log = log
        assert settings.database_url is not None and settings.s3_secret_key is not None
        self._environment = {
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
        self._script = f"{first}\nimport sys, commands\nsys.exit(commands.main(['{command}']))"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", self._script],
                cwd=ROOT,
                env=self._environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        if self._command == "worker":
            return
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise RuntimeError(self._log.read_text()[-2000:])

    def stop(self) -> int:
        """SIGTERM, as a supervisor sends it; the exit status."""
        assert self.process is not None
        self.process.terminate()
        status = self.process.wait(timeout=90)
        self.process = None
        return status

    def kill(self) -> None:
        """kill -9 of master and workers."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
            with contextlib.suppress(OSError):  # until the last worker has released the port
                while True:
                    socket.create_connection(("127.0.0.1", self.port), 1).close()
                    time.sleep(0.02)

    def restarted(self, user: GatewayClient) -> GatewayClient:
        """Kill and start the server; a client without old connections."""
        self.kill()
        self.start()
        return user.as_(user.key)
