"""``python app.py`` as a new user runs it: its own process, an empty DATA_DIR, real servers, signals and kills."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedded.child import command_line
from settings import Settings
from tests.listening import listening
from tests.paths import ROOT

APP = ROOT / "app.py"
PATIENCE = 90  # seconds; a start takes about five


class Gateway:
    """``python app.py`` with its data in one folder, started in another, empty folder."""

    def __init__(self, folder: Path):
        self.data_dir, self.cwd, self.log = folder / "data", folder / "cwd", folder / "log"
        self.cwd.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        ours = {name.upper() for name in Settings.model_fields}
        self.environ = {name: value for name, value in os.environ.items() if name not in ours}
        self.environ |= {"DATA_DIR": str(self.data_dir), "PORT": str(self.port), "WEB_WORKERS": "1"}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Start it, wait for its instructions, and return its output."""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(APP)], env=self.environ, cwd=self.cwd, stdout=log, stderr=log
            )
        deadline = time.monotonic() + PATIENCE
        while "/api/upload" not in self.said():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.1)
        return self.said()

    def said(self) -> str:
        return self.log.read_text()

    def command(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(APP), *words],
            env={**self.environ, **environ},
            cwd=self.cwd,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def environment(self) -> dict[str, str]:
        done = self.command("env")
        assert done.returncode == 0, done.stderr
        return dict(word.split("=", 1) for word in shlex.split(done.stdout))

    def children(self) -> dict[str, int]:
        run = json.loads((self.data_dir / "run.json").read_text())
        return {child["name"]: child["pid"] for child in run["children"]}

    def ended_by(self, number: signal.Signals) -> None:
        """Send the signal, and wait until all processes have ended."""
        pids = self.children()
        marks = {name: command_line(pid) for name, pid in pids.items()}
        assert self.process is not None
        self.process.send_signal(number)
        assert self.wait_for_end() == 0
        wait_until_gone(pids, marks)

    def wait_for_end(self) -> int:
        assert self.process is not None
        return self.process.wait(PATIENCE)

    def end(self) -> None:
        """Stop it at any stage. SeaweedFS is killed first, since it takes seconds to end."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(OSError, KeyError):
                os.kill(self.children()["SeaweedFS"], signal.SIGKILL)
            self.process.terminate()
            self.wait_for_end()


def wait_until_gone(pids: dict[str, int], marks: dict[str, str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while alive := [name for name, pid in pids.items() if command_line(pid) == marks[name]]:
        assert time.monotonic() < deadline, f"still running: {alive}"
        time.sleep(0.1)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path)
    yield gateway
    gateway.end()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway for tests that do not stop it."""
    gateway = Gateway(tmp_path_factory.mktemp("running"))
    gateway.start()
    yield gateway
    gateway.end()


def upload(line: str) -> dict[str, Any]:
    """Run the curl line and return its answer."""
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_T144_first_start_upload_end_by_sigterm_restart_with_the_same_data_and_ctrl_c(gateway: Gateway) -> None:
    said = gateway.start()
    assert f"http://127.0.0.1:{gateway.port}" in said
    curl = re.search(r"^ *(curl .*)$", said, re.MULTILINE)
    key = re.search(r"^Admin key, shown this once: (\S+)$", said, re.MULTILINE)
    assert curl, said
    assert key, said
    assert key[1] in curl[1]
    answer = upload(curl[1])
    [file] = answer["files"]
    assert file["original_name"] == "hello.txt"

    environment = gateway.environment()
    assert environment["PORT"] == str(gateway.port)
    with psycopg.connect(environment["DATABASE_URL"]) as connection:
        assert connection.execute("select original_name from files").fetchall() == [("hello.txt",)]
        is_superuser = connection.execute("select rolsuper from pg_roles where rolname = current_user").fetchone()
        assert is_superuser == (False,)
    assert environment["S3_ENDPOINT"].startswith("http://127.0.0.1:")
    assert environment["S3_ACCESS_KEY"]
    assert environment["S3_SECRET_KEY"]
    assert environment["SECRET_KEY"] == (gateway.data_dir / "secret-key").read_text()

    assert set(gateway.children()) == {"PostgreSQL", "SeaweedFS", "worker", "serve"}
    gateway.ended_by(signal.SIGTERM)
    stopped = gateway.command("env")
    assert stopped.returncode == 1
    assert "No gateway is running" in stopped.stderr

    gateway.environ["ADMIN_API_KEY"] = given = secrets.token_hex(32)
    gateway.environ["CLAMD_URL"] = "tcp://127.0.0.1:1"
    said = gateway.start()
    assert "CLAMD_URL is set" in said, "bootstrap's warnings are passed on"
    assert "shown this once" not in said
    again = gateway.environment()
    assert again["DATABASE_URL"] == environment["DATABASE_URL"]
    assert again["S3_SECRET_KEY"] == environment["S3_SECRET_KEY"]
    assert again["SECRET_KEY"] == environment["SECRET_KEY"]
    assert given not in (gateway.data_dir / "run.json").read_text()
    http = HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    http.request("GET", f"/api/files/{file['id']}", headers={"Authorization": f"Bearer {key[1]}"})
    assert http.getresponse().status == 200
    http.close()
    gateway.ended_by(signal.SIGINT)
    lines = gateway.said().splitlines()  # a rescan that finds no scanner logs why, in JSON
    assert not [line for line in lines if "Traceback" in line and not line.startswith("{")]
    assert given not in gateway.said()


def test_T143_secrets_are_readable_by_their_owner_only(running: Gateway) -> None:
    for name in ("run.json", "secret-key", "postgres/password", "postgres/superuser-password", "seaweedfs/secret-key"):
        assert stat.S_IMODE((running.data_dir / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE((running.data_dir / "postgres" / "cluster").stat().st_mode) == 0o700
    assert not (running.data_dir / "postgres").stat().st_mode & (stat.S_IROTH | stat.S_IWOTH)
    hba = (running.data_dir / "postgres" / "cluster" / "pg_hba.conf").read_text()
    rules = [line for line in hba.splitlines() if line.strip() and not line.startswith("#")]
    assert rules
    assert all(rule.endswith("scram-sha-256") for rule in rules), rules


def test_the_doctor_checks_what_runs_what_is_given_or_nothing(running: Gateway, gateway: Gateway) -> None:
    def examined(asked: Gateway, **environ: str) -> tuple[int, dict[str, bool | None]]:
        done = asked.command("doctor", "--json", **environ)
        return done.returncode, {check["name"]: check["ok"] for check in json.loads(done.stdout)}

    status, found = examined(running, STORAGE_BACKEND="minio")
    assert (status, found["write"], found["CORS"]) == (0, True, True)
    given = {"S3_ENDPOINT": "http://127.0.0.1:1", "S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "b"}
    for asked in (running, gateway):  # without a database
        status, found = examined(asked, **given)
        assert (status, found["write"], found["read"]) == (1, False, None)
    status, found = examined(gateway)
    assert (status, found["bucket"], found["sandbox: seccomp"]) == (0, None, True)


def test_every_port_is_on_loopback(running: Gateway) -> None:
    found = [
        address
        for name, pid in running.children().items()
        for address in listening(pid, at_least=10 if name == "SeaweedFS" else 0)
    ]
    # PostgreSQL, ten ports of SeaweedFS and, if its process may be inspected, the gateway
    assert len(found) >= (12 if os.getuid() == 0 else 11)
    assert {address.partition(":")[0] for address in found} == {"0100007F"}, "127.0.0.1 as the kernel writes it"


def test_T101_a_killed_parent_does_not_block_the_next_start_which_a_dead_server_ends(gateway: Gateway) -> None:
    gateway.start()
    before = gateway.environment()["DATABASE_URL"]
    assert gateway.process is not None
    gateway.process.kill()
    gateway.process.wait()
    assert "keys create" in gateway.start()  # at once, on the same port
    after = gateway.environment()
    with psycopg.connect(after["DATABASE_URL"]) as connection:
        assert connection.execute("select count(*) from files").fetchone() == (0,)
    assert before.split("@")[0] == after["DATABASE_URL"].split("@")[0]

    pids = gateway.children()
    marks = {name: command_line(pid) for name, pid in pids.items()}
    os.kill(pids["SeaweedFS"], signal.SIGKILL)
    assert gateway.wait_for_end() == 1
    assert "SeaweedFS ended by itself" in gateway.said()
    wait_until_gone(pids, marks)


def test_a_dead_worker_is_restarted(running: Gateway) -> None:
    first = running.children()["worker"]
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while running.children()["worker"] == first:
        assert time.monotonic() < deadline, running.said()
        time.sleep(0.1)
    assert command_line(running.children()["worker"])


def test_a_port_in_use_is_reported_in_one_line(gateway: Gateway) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", gateway.port))
        other.listen()
        done = gateway.command()
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert f"port {gateway.port} on 127.0.0.1 is used by another program" in line
    assert "PORT" in line


def test_a_second_gateway_on_the_same_data_is_refused(running: Gateway) -> None:
    done = running.command(PORT=str(running.port + 1))
    assert done.returncode == 1
    assert "another gateway" in done.stderr


def test_a_configured_database_is_not_embedded_and_its_failure_is_reported(gateway: Gateway) -> None:
    done = gateway.command(DATABASE_URL="postgresql://nobody:x@127.0.0.1:1/none")
    assert done.returncode == 1
    assert "could not be prepared" in done.stderr
    assert not (gateway.data_dir / "postgres").exists()
