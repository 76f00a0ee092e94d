"""``python app.py`` without a command: starts everything on this machine, and stops it in reverse order.

Unless DATABASE_URL and S3_ENDPOINT are set, PostgreSQL and SeaweedFS start first. Then ``bootstrap`` runs (migrations, bucket,
first key), then the worker and the server, each as a child process that gets its settings in environment variables. The running
deployment is described in DATA_DIR/run.json (0600), for ``python app.py env`` and for the next start after a crash. A lock on
DATA_DIR/lock tells whether it is running.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from embedded import postgres, seaweedfs
from embedded.child import (
    Child,
    EmbeddedError,
    end_leftover,
    kept_secret,
    last_lines,
    port_is_free,
    read_json,
    wait_until_ready,
    write_private,
)
from settings import Settings

APP = Path(__file__).resolve().parent.parent / "app.py"
START_TIMEOUT = 90  # seconds until the server must answer /healthz
STOP_TIMEOUT = 40  # seconds for the server to finish its requests; more than web_server.GRACE_SECONDS
_NAMES = {name.upper(): name for name in Settings.model_fields if name != "admin_api_key"}  # which only bootstrap needs
RESTARTS, RESTART_WINDOW = 5, 60  # a worker that ends more often within so many seconds is not restarted


class _Stopped(Exception):
    """A signal arrived."""


def run(settings: Settings) -> int:
    """Start all parts, print their addresses, and watch them until a signal arrives or a part ends; returns the exit status.

    SIGTERM, SIGINT and SIGHUP end it with status 0. A second signal does not wait for requests in progress."""
    try:
        with ExitStack() as parts:
            _Deployment(settings, parts).run()
        return 0
    except _Stopped:
        _say("Stopped.")
        return 0
    except EmbeddedError as error:
        print(f"upload-gateway: {error}", file=sys.stderr, flush=True)
        return 1


def environment(settings: Settings) -> dict[str, str]:
    """The settings of the running deployment by name: ours if they are complete, else the supervisor's.

    Raises EmbeddedError if no supervisor is running with this DATA_DIR."""
    if settings.is_complete:
        return _as_variables(settings)
    data_dir = settings.data_dir.absolute()
    run = read_json(data_dir / "run.json")
    if not run or not _is_locked(data_dir / "lock"):
        raise EmbeddedError(
            f"No gateway is running with its data in {data_dir}: start it with 'make run', or set DATA_DIR, or set "
            "DATABASE_URL and S3_ENDPOINT."
        )
    return dict(run["settings"])


@contextmanager
def servers(settings: Settings) -> Iterator[Settings]:
    """PostgreSQL and SeaweedFS alone, as far as the settings name none: for a restore, while no gateway runs. Yields the
    completed settings. Raises EmbeddedError if a gateway is running with this DATA_DIR."""
    with ExitStack() as parts:
        deployment = _Deployment(settings, parts)
        deployment.data_dir.mkdir(parents=True, exist_ok=True)
        _lock(deployment.data_dir, parts)
        deployment._end_leftovers()
        variables = deployment._start_servers()
        yield Settings(**{_NAMES[name]: value for name, value in variables.items() if name in _NAMES})  # type: ignore[arg-type]


class _Deployment:
    """One run. ``parts`` stops all children in reverse order, however it ends."""

    def __init__(self, settings: Settings, parts: ExitStack):
        self.settings, self.parts = settings, parts
        self.data_dir = settings.data_dir.absolute()
        self.children: list[Child] = []
        self.stopping = threading.Event()

    def run(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        _lock(self.data_dir, self.parts)
        self._end_leftovers()
        _check_port(self.settings)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        try:
            environ = {**os.environ, **self._start_servers()}
            key = self._bootstrap(environ)
            worker = self._start_app("worker", environ)
            server = self._start_app("serve", environ, stop_timeout=STOP_TIMEOUT)
            self._write_run(environ)
            if not wait_until_ready(server, lambda: _answers(self.settings), timeout=START_TIMEOUT):
                raise EmbeddedError("the server ended while starting; the reason is above.")
            self._announce(key)
            self._watch(worker, environ)
        finally:
            self.stopping.set()  # further signals must not interrupt the stopping

    def _start_servers(self) -> dict[str, str]:
        """Start the embedded servers that are needed; returns the application's variables."""
        variables = {"DATA_DIR": str(self.data_dir), "PYTHONUNBUFFERED": "1"}
        if self.settings.secret_key is None:
            variables["SECRET_KEY"] = kept_secret(self.data_dir / "secret-key")
        if self.settings.database_url is None:
            database = postgres.start(self.data_dir / "postgres", report=_say)
            self._add(database.child, database.stop)
            variables["DATABASE_URL"] = database.url
        if self.settings.s3_endpoint is None:
            bucket = seaweedfs.start(self.data_dir / "seaweedfs")
            self._add(bucket.child, bucket.stop)
            variables |= {
                "S3_ENDPOINT": bucket.endpoint,
                "S3_ACCESS_KEY": bucket.access_key,
                "S3_SECRET_KEY": bucket.secret_key,
                "S3_LOCAL_PATH": str(self.data_dir / "seaweedfs"),
            }
        return variables

    def _bootstrap(self, environ: dict[str, str]) -> str | None:
        """Run bootstrap; returns the admin key if it created one."""
        command = [sys.executable, str(APP), "bootstrap"]
        done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            reason = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-8:])
            raise EmbeddedError(f"the database or the bucket could not be prepared:\n{reason}")
        print(done.stderr, end="", file=sys.stderr, flush=True)  # its warnings
        keys = [line for line in done.stdout.splitlines() if line.startswith("ADMIN_API_KEY=")]
        return shlex.split(keys[0].partition("=")[2])[0] if keys else None

    def _start_app(self, command: str, environ: dict[str, str], *, stop_timeout: float = 15) -> Child:
        child = Child.start(command, [sys.executable, str(APP), command], environ=environ, stop_timeout=stop_timeout)
        self._add(child, child.stop)
        return child

    def _add(self, child: Child, stop: Callable[[], None]) -> None:
        self.children.append(child)
        self.parts.callback(stop)

    def _write_run(self, environ: dict[str, str]) -> None:
        variables = _as_variables(self.settings)
        variables |= {name: value for name, value in environ.items() if name in _NAMES and value}
        variables.setdefault("S3_PUBLIC_ENDPOINT", variables["S3_ENDPOINT"])
        run = {
            "pid": os.getpid(),
            "started_at": int(time.time()),
            "children": [{"name": child.name, "pid": child.process.pid} for child in self.children],
            "settings": variables,
        }
        write_private(self.data_dir / "run.json", json.dumps(run, indent=1))

    def _end_leftovers(self) -> None:
        """End processes of a run that was killed; the embedded servers end their own when they start."""
        for child in (read_json(self.data_dir / "run.json") or {}).get("children", []):
            if child["name"] in ("worker", "serve"):
                end_leftover(child["pid"], command=[str(APP), child["name"]], stop_timeout=5)

    def _announce(self, new_key: str | None) -> None:
        address = self.settings.base_url
        _say(f"\nThe gateway is at {address}   (Ctrl-C ends it; its data is in {self.data_dir})")
        if new_key:
            _say(f"Admin key, shown this once: {new_key}")
        elif not self.settings.admin_api_key:
            python = os.path.relpath(sys.executable) if Path(sys.executable).is_relative_to(Path.cwd()) else "python"
            usual = Settings.model_fields["data_dir"].default.absolute() == self.data_dir
            where = "" if usual else f"DATA_DIR={shlex.quote(str(self.data_dir))} "
            another = f"{where}{python} {os.path.relpath(APP)} keys create --owner me --role admin"
            _say(f"Its admin key was shown when it was created. To create another: {another}")
        authorization = shlex.quote(f"Authorization: Bearer {new_key or 'YOUR_KEY'}")
        _say(f"Try it:\n  curl -H {authorization} -F 'files=Hello!;filename=hello.txt' {address}/api/upload\n")

    def _watch(self, worker: Child, environ: dict[str, str]) -> None:
        """Restart the worker if it ends. Raises EmbeddedError if another part ends."""
        restarts: list[float] = []
        while True:
            self.stopping.wait(0.5)
            for child in [child for child in self.children if not child.running]:
                now = time.monotonic()
                restarts = [moment for moment in restarts if now - moment < RESTART_WINDOW]
                ended = f"{child.name} ended by itself (status {child.process.returncode})"
                if child is not worker or len(restarts) >= RESTARTS:
                    raise EmbeddedError(f"{ended}; the rest was stopped.\n{last_lines(child.log)}".rstrip())
                restarts.append(now)
                print(f"upload-gateway: {ended}; restarting it.", file=sys.stderr, flush=True)
                self.children.remove(child)
                worker = self._start_app("worker", environ)
                self._write_run(environ)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.stopping.is_set():
            self.stopping.set()
            raise _Stopped
        for child in self.children:  # a second signal: don't wait for requests, only for the data
            if child.name in ("worker", "serve") and child.running:
                child.process.kill()


def _say(line: str) -> None:
    print(line, flush=True)


def _lock(data_dir: Path, parts: ExitStack) -> None:
    """Lock the data until this process ends; children don't inherit the lock."""
    file: IO[str] = parts.enter_context((data_dir / "lock").open("w"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = (read_json(data_dir / "run.json") or {}).get("pid", "?")
        raise EmbeddedError(f"another gateway (process {pid}) is running with its data in {data_dir}.") from None


def _is_locked(path: Path) -> bool:
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _check_port(settings: Settings) -> None:
    try:
        host = str(socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise EmbeddedError(f"HOST={settings.host} is not an address of this machine: {error}") from error
    if not port_is_free(settings.port, host):
        raise EmbeddedError(
            f"port {settings.port} on {settings.host} is used by another program (or can't be used): "
            "set PORT to another one, as in 'PORT=8081 make run'."
        )


def _answers(settings: Settings) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 compared, not bound
    connection = http.client.HTTPConnection(host, settings.port, timeout=2)
    try:
        connection.request("GET", "/healthz", headers={"Host": urlsplit(settings.base_url).netloc})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _as_variables(settings: Settings) -> dict[str, str]:
    """All settings that have a value, as environment variables."""
    variables = {name: _as_text(getattr(settings, field)) for name, field in _NAMES.items()}
    variables["DATA_DIR"] = str(settings.data_dir.absolute())
    variables["PUBLIC_URL"] = settings.base_url
    variables["S3_PUBLIC_ENDPOINT"] = variables["S3_PUBLIC_ENDPOINT"] or variables["S3_ENDPOINT"]
    return {name: value for name, value in variables.items() if value}


def _as_text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(value)
    return "" if value is None else str(value)
