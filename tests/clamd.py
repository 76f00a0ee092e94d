"""A real clamd with our own signatures, and a proxy before it that injects faults."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.servers import free_port

# In pieces, so that no scanner takes this file for the test virus itself.
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTI" + b"VIRUS-TEST-FILE!$H+H*"
STREAM_LIMIT = 4 * 1024 * 1024  # bytes; clamd's StreamMaxLength here
PATIENCE = 60.0  # seconds


def clamd_binary() -> str:
    """Its path. Without it the test is skipped, or fails if GATEWAY_TESTS_STRICT is set."""
    found = shutil.which("clamd") or shutil.which("clamd", path="/usr/sbin")
    if found is None:
        if os.environ.get("GATEWAY_TESTS_STRICT") == "1":
            pytest.fail("clamd is missing (Debian: apt install clamav-daemon)")
        pytest.skip("virus scans need clamd to be tried (Debian: apt install clamav-daemon)")
    return found


class Clamd:
    """Can be started and stopped repeatedly; the port stays."""

    def __init__(self, directory: Path, **config: object):
        self._binary = clamd_binary()
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        (directory / "signatures").mkdir(parents=True)
        self._signatures = {"Test.Eicar": b"EICAR-STANDARD-ANTI" + b"VIRUS-TEST-FILE"}
        self._write_signatures()
        self.socket = directory / "socket"
        config = {
            "DatabaseDirectory": directory / "signatures",
            "TemporaryDirectory": directory,
            "TCPSocket": self.port,
            "TCPAddr": "127.0.0.1",
            "LocalSocket": self.socket,
            "Foreground": "yes",
            "StreamMaxLength": STREAM_LIMIT,
            "MaxScanSize": 2 * STREAM_LIMIT,
            "MaxFileSize": STREAM_LIMIT,
            "AlertExceedsMax": "yes",
            "AlertEncryptedArchive": "yes",
            "ReadTimeout": 10,
        } | config
        text = "".join(f"{name} {value}\n" for name, value in config.items())
        (directory / "clamd.conf").write_text(text)

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def start(self) -> None:
        if self._process is not None:
            return
        command = [self._binary, "-c", str(self._directory / "clamd.conf")]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._directory / "log").read_text())
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None

    def learn(self, name: str, marker: bytes) -> None:
        """Add a signature and restart."""
        self._signatures[name] = marker
        self._write_signatures()
        self.stop()
        self.start()

    def forget(self) -> None:
        """Remove all signatures but the first."""
        if len(self._signatures) > 1:
            self._signatures = {"Test.Eicar": self._signatures["Test.Eicar"]}
            self._write_signatures()
            self.stop()
            self.start()

    def _write_signatures(self) -> None:
        lines = [f"{name}:0:*:{marker.hex()}\n" for name, marker in self._signatures.items()]
        (self._directory / "signatures" / "local.ndb").write_text("".join(lines))

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(b"nPING\n")
                return connection.recv(64) == b"PONG\n"
        except OSError:
            return False


class Proxy:
    """Passes bytes on to clamd, and stalls or closes after ``stall_after`` or ``cut_after`` bytes from the gateway."""

    def __init__(self, target: int):
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.stall_after: int | None = None
        self.cut_after: int | None = None
        self.stalled, self.released = threading.Event(), threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self.released.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as server:
            threading.Thread(target=self._back, args=(server, client), daemon=True).start()
            passed = 0
            while data := client.recv(65536):
                passed += len(data)
                if self.cut_after is not None and passed > self.cut_after:
                    return
                if self.stall_after is not None and passed > self.stall_after:
                    self.stalled.set()
                    self.released.wait(PATIENCE)
                    return
                server.sendall(data)

    @staticmethod
    def _back(server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
