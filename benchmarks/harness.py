"""The servers that are measured: starting them, and their processor time and memory, read from /proc (Linux only)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from benchmarks.load import Address, Connection, Load, Refused, request
from embedded.child import Child, free_port, last_lines
from storage_backends.presign import Presigner

ROOT = Path(__file__).resolve().parents[1]
KEY = "benchmark-admin-key"
MIB = 1024 * 1024
JSON = {"Content-Type": "application/json"}
_STEP, _QUIET = 0.3, 0.02  # processes that use less than 0.02 s of processor time in 0.3 s have nothing left to do
# What the supervisor calls its children, and what the report calls them.
_GROUPS = {"serve": "server", "PostgreSQL": "postgres", "SeaweedFS": "bucket"}
_BEHIND = ("postgres", "bucket")
_TICK = 1 / os.sysconf("SC_CLK_TCK")
Groups = dict[str, int]  # the first process of each group


# -- /proc -----------------------------------------------------------------------------------------------------------


def _family(root: int, groups: Groups) -> list[int]:
    """The process and its descendants, without those that are roots of a group themselves."""
    found = [root]
    for pid in found:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += set(map(int, children.read_text().split())) - set(groups.values())
    return found


def processor(groups: Groups) -> dict[str, float]:
    """Seconds that each group has used, with those of its processes that ended: their parents have inherited them."""

    def used(pid: int) -> float:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0  # it ended just now
        return sum(map(int, fields[11:15])) * _TICK

    return {name: sum(map(used, _family(root, groups))) for name, root in groups.items()}


def _busy() -> float:
    """Seconds that all processors together have worked."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:])
    return (user + nice + system + irq + softirq) * _TICK


def memory(groups: Groups) -> dict[str, float]:
    """MiB resident in each group. A page that several processes share counts once, in parts (PSS)."""

    def resident(pid: int) -> int:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    return int(line.split()[1])
        return 0

    return {name: sum(resident(pid) for pid in _family(root, groups)) / 1024 for name, root in groups.items()}


def settle(groups: Groups, *, at_most: float = 30) -> None:
    """Wait until these processes have nothing left to do, such as jobs of files that were just uploaded."""
    deadline, before = time.monotonic() + at_most, sum(processor(groups).values())
    while time.monotonic() < deadline:
        time.sleep(_STEP)
        now = sum(processor(groups).values())
        if now - before <= _QUIET:
            return
        before = now


# -- what is started -------------------------------------------------------------------------------------------------


@dataclass
class Stack:
    """One gateway with its PostgreSQL and its bucket, and beside them the servers that use the same two."""

    label: str
    directory: Path
    checkout: Path
    child: Child
    address: Address
    others: dict[str, tuple[Address, Child]] = field(default_factory=dict)  # "flask" and "tus"
    made: dict[str, Any] = field(default_factory=dict)  # what scenarios prepared

    def groups(self, target: str) -> Groups:
        """The processes that work for this target: the gateway, the bucket, the database, or a server of ``others``."""
        children = json.loads((self.directory / "run.json").read_text())["children"]
        found = {_GROUPS.get(child["name"], child["name"]): child["pid"] for child in children}
        if target == "gateway":
            return {**found, "supervisor": self.child.process.pid}
        server = {"server": self.others[target][1].process.pid} if target in self.others else {}
        return server | {name: found[name] for name in _BEHIND}

    @cached_property
    def settings(self) -> dict[str, str]:
        """Those of the gateway's database and bucket, but with a bucket that it does not use."""
        found: dict[str, str] = json.loads((self.directory / "run.json").read_text())["settings"]
        return {name: found[name] for name in found if name.startswith(("S3_", "DATABASE_"))} | {"S3_BUCKET": "bare"}

    @property
    def database(self) -> str:
        return self.settings["DATABASE_URL"]

    @cached_property
    def bucket_address(self) -> Address:
        parts = urlsplit(self.settings["S3_ENDPOINT"])
        return str(parts.hostname), parts.port or 80

    @cached_property
    def _signer(self) -> Presigner:
        keys = {"access_key": self.settings["S3_ACCESS_KEY"], "secret_key": self.settings["S3_SECRET_KEY"]}
        return Presigner(self.settings["S3_ENDPOINT"], region="us-east-1", bucket="bare", **keys)

    def signed(self, method: str, key: str, **query: str) -> str:
        """Path and query of a presigned request to the bucket that the gateway does not use."""
        return self._signer.url(method, key, expires_in=3600, query=query).removeprefix(self._signer.origin)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` returned for this stack the first time."""
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]

    def key(self, owner: str) -> dict[str, str]:
        """The header with a key of this owner, who is created on first use."""

        def make() -> str:
            headers = {"Authorization": f"Bearer {KEY}"} | JSON
            body = json.dumps({"owner_id": owner, "name": "benchmark"}).encode()
            return str(fetch(self.address, "POST", "/api/admin/keys", headers, body)["key"])

        return {"Authorization": f"Bearer {self.once(f'key of {owner}', make)}"}

    def ask(self, target: str, owner: str) -> Any:
        """The JSON that the gateway answers."""
        return fetch(self.address, "GET", target, self.key(owner))

    def end(self) -> None:
        """End the servers at once, since their data is thrown away; the supervisor then ends by itself."""
        with contextlib.suppress(ProcessLookupError):
            for name, pid in self.groups("gateway").items():
                if name != "supervisor":
                    os.kill(pid, signal.SIGKILL if name in ("worker", "bucket") else signal.SIGQUIT)
            self.child.process.wait(30)

    def seed(self, owner: str, rows: int) -> None:
        """Make an owner with so many files, which have no bytes."""
        command = [python(self.checkout), str(self.checkout / "app.py"), "seed-demo", f"--owner={owner}"]
        command += [f"--files={rows}", "--objects=0"]
        environ = _environ({"DATA_DIR": str(self.directory)})
        done = subprocess.run(command, env=environ, cwd=self.directory, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"app.py seed-demo: {done.stderr[-2_000:]}")
        settle(self.groups("gateway"), at_most=120)


def database_size(stack: Stack) -> int:
    """Bytes, with indexes."""
    with psycopg.connect(stack.database) as connection:
        row = connection.execute("select pg_database_size(current_database())").fetchone()
    return int(row[0]) if row else 0


def fetch(address: Address, method: str, target: str, headers: dict[str, str], body: bytes | None = None) -> Any:
    """The JSON of one response."""
    return json.loads(Connection(address).exchange(request(address, method, target, headers, body), keep=True).body)


def python(checkout: Path) -> str:
    own = checkout / ".venv" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


def _environ(variables: dict[str, str]) -> dict[str, str]:
    """Our environment without settings of a gateway."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ} | variables


def _start(
    parts: ExitStack, name: str, command: list[str], directory: Path, health: str, **variables: str
) -> tuple[Address, Child]:
    """Start a server on a free PORT, and wait until it answers. ``parts`` stops it. Raises RuntimeError if it ends or does
    not answer."""
    address, log = ("127.0.0.1", free_port()), directory / f"{name}.log"
    command = [part.replace("{port}", str(address[1])) for part in command]
    environ = _environ({**variables, "PORT": str(address[1])})
    child = Child.start(name, command, cwd=directory, environ=environ, log=log, stop_timeout=60)
    parts.callback(child.stop)
    deadline, connection = time.monotonic() + 180, Connection(address)
    while child.running and time.monotonic() < deadline:
        with contextlib.suppress(OSError, Refused):
            connection.exchange(request(address, "OPTIONS" if name == "tus" else "GET", health))
            return address, child
        time.sleep(0.1)
    raise RuntimeError(f"{name} did not start:\n{last_lines(log, 20)}")


def start_gateway(parts: ExitStack, label: str, checkout: Path, directory: Path) -> Stack:
    """``python app.py`` of this checkout with its data in ``directory``."""
    directory.mkdir()
    settings = {"DATA_DIR": str(directory), "ADMIN_API_KEY": KEY, "MAX_OPEN_UPLOADS": "1000000", "LOG_LEVEL": "WARNING"}
    rates = ("UPLOADS", "PREVIEWS", "SEARCH")  # counted, and never reached
    settings |= {f"RATE_LIMIT_{name}": "900000000/minute" for name in rates}
    command = [python(checkout), str(checkout / "app.py")]
    address, child = _start(parts, "gateway", command, directory, "/readyz", **settings)
    stack = Stack(label, directory, checkout, child, address)
    parts.callback(stack.end)
    Connection(stack.bucket_address).exchange(request(stack.bucket_address, "PUT", stack.signed("PUT", "")))
    return stack


def start_flask(parts: ExitStack, stack: Stack) -> None:
    """flask_app.py, served as the gateway is: two processes with 32 threads each."""
    with psycopg.connect(stack.database, autocommit=True) as connection:
        connection.execute(
            "create table bench_flask_files (id bigserial primary key, name text not null, size bigint"
            " not null, key text not null, uploaded_at timestamptz not null default now())"
        )
    command = [sys.executable, "-m", "gunicorn", "--worker-class=gthread", "--workers=2", "--threads=32"]
    command += ["--bind=127.0.0.1:{port}", "--keep-alive=15", f"--pythonpath={ROOT}", "benchmarks.flask_app:app"]
    stack.others["flask"] = _start(parts, "flask", command, stack.directory, "/health", **stack.settings)


def start_tus(parts: ExitStack, stack: Stack) -> str:
    """@tus/server with @tus/s3-store; returns why it could not be started, or ''."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        return "node and npm are not installed"
    packages = stack.directory / "tus"
    shutil.copytree(Path(__file__).parent / "tus_server", packages)
    try:
        subprocess.run([npm, "ci", "--ignore-scripts"], cwd=packages, check=True, capture_output=True, timeout=120)
    except (subprocess.SubprocessError, OSError) as error:
        return f"its npm packages could not be installed: {error}"
    stack.others["tus"] = _start(parts, "tus", [node, "server.mjs"], packages, "/files", **stack.settings)
    return ""


# -- one measurement -------------------------------------------------------------------------------------------------


@dataclass
class Measured:
    """One round of one scenario on one target."""

    load: Load
    operations: float  # what the processor time is divided by
    cpu: dict[str, float]  # milliseconds of each group for an operation
    peak: float  # MiB resident in all groups but the bucket and the database
    foreign: float  # cores that other programs on this machine kept busy meanwhile


def measure(groups: Groups, run: Callable[[Callable[[], None]], Load], *, factor: float = 1) -> Measured:
    """Run the load and read what each group used for it, until the work that it left behind is done.

    ``factor``: operations in each that the client counts."""
    peaks = []

    def tick() -> None:
        peaks.append(sum(size for name, size in memory(groups).items() if name not in _BEHIND))

    begun, busy_before, before = time.monotonic(), _busy(), processor(groups)
    load = run(tick)
    tick()
    settle(groups)
    after, busy_after, seconds = processor(groups), _busy(), time.monotonic() - begun
    used = {name: after[name] - before[name] for name in groups}
    foreign = max(0.0, busy_after - busy_before - sum(used.values()) - load.client_cpu) / seconds
    operations = max(1, load.sent) * factor
    return Measured(load, operations, {name: 1_000 * used[name] / operations for name in used}, max(peaks), foreign)
