"""The servers that are measured: starting them, and their processor time and memory, read from /proc (Linux only)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from benchmarks.load import Address, Connection, Load, Refused, request
from embedded.child import Child, free_port, last_lines, read_json
from storage_backends.presign import Presigner

ROOT = Path(__file__).resolve().parents[1]
KEY = "benchmark-admin-key"
MIB = 1024 * 1024
QUIET = 0.03  # seconds of processor time within half a second: less is not work
# What the supervisor calls its children, and what the report calls them.
_GROUPS = {"serve": "server", "PostgreSQL": "postgres", "SeaweedFS": "bucket"}
_TICK = 1 / os.sysconf("SC_CLK_TCK")
Groups = dict[str, list[int]]  # the first process of each part of a group


# -- /proc -----------------------------------------------------------------------------------------------------------


def family(root: int, groups: Groups) -> list[int]:
    """The process and its descendants, without those that are roots of a group themselves."""
    found, roots = [root], {pid for pids in groups.values() for pid in pids}
    for pid in found:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [child for child in map(int, children.read_text().split()) if child not in roots]
    return found


def processor(groups: Groups) -> dict[str, float]:
    """Seconds that each group has used, with those of its processes that ended: their parents have inherited them."""

    def used(pid: int) -> float:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0  # it ended just now
        return sum(map(int, fields[11:15])) * _TICK

    return {name: sum(used(pid) for root in roots for pid in family(root, groups)) for name, roots in groups.items()}


def busy() -> float:
    """Seconds that all processors together have worked."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:])
    return (user + nice + system + irq + softirq) * _TICK


def memory(groups: Groups) -> dict[str, float]:
    """MiB resident in each group. What its processes share counts once: pages since a fork, the program and its libraries (as
    in the process that has most of them), PostgreSQL's buffers."""

    def resident(pid: int) -> tuple[int, int, int]:
        lines = dict[str, int]()
        with contextlib.suppress(OSError):
            for file in ("status", "smaps_rollup"):
                for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
                    name, _, value = line.partition(":")
                    if name in ("Pss_Anon", "RssFile", "RssShmem"):
                        lines[name] = int(value.split()[0])
        return lines.get("Pss_Anon", 0), lines.get("RssFile", 0), lines.get("RssShmem", 0)

    sizes = dict[str, float]()
    for name, roots in groups.items():
        each = [resident(pid) for root in roots for pid in family(root, groups)]
        own, files, buffers = zip(*each, strict=True)
        sizes[name] = (sum(own) + max(files) + max(buffers)) / 1024
    return sizes


# -- what is started -------------------------------------------------------------------------------------------------


@dataclass
class Stack:
    """One gateway with its PostgreSQL and its bucket, and beside them the servers that use the same two."""

    label: str
    directory: Path
    checkout: Path
    child: Child
    address: Address
    s3: dict[str, str] = field(default_factory=dict)
    database: str = ""
    keys: dict[str, str] = field(default_factory=dict)  # by owner
    others: dict[str, tuple[Address, Child]] = field(
        default_factory=dict
    )  # "flask" and "tus", with the server's process
    made: dict[str, Any] = field(default_factory=dict)  # what scenarios prepared

    def groups(self, target: str) -> Groups:
        """The processes that work for this target: the gateway, the bucket, the database, or a server of ``others``."""
        found = Groups()
        for child in (read_json(self.directory / "run.json") or {}).get("children", []):
            found.setdefault(_GROUPS.get(child["name"], child["name"]), []).append(child["pid"])
        if target == "gateway":
            return {**found, "supervisor": [self.child.process.pid]}
        behind = {name: found[name] for name in ("postgres", "bucket")}
        return {"server": [self.others[target][1].process.pid], **behind} if target in self.others else behind

    def key(self, owner: str) -> dict[str, str]:
        """The header with a key of this owner, who is created on first use."""
        if owner not in self.keys:
            body = json.dumps({"owner_id": owner, "name": "benchmark"}).encode()
            headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
            answer = Connection(self.address).exchange(
                request(self.address, "POST", "/api/admin/keys", headers, body), keep=True
            )
            self.keys[owner] = json.loads(answer.body)["key"]
        return {"Authorization": f"Bearer {self.keys[owner]}"}

    def signed(self, method: str, key: str, **query: str) -> str:
        """Path and query of a presigned request to the bucket that the gateway does not use."""
        signer = Presigner(
            self.s3["S3_ENDPOINT"],
            region="us-east-1",
            bucket="bare",
            access_key=self.s3["S3_ACCESS_KEY"],
            secret_key=self.s3["S3_SECRET_KEY"],
        )
        return signer.url(method, key, expires_in=3600, query=query).removeprefix(signer.origin)

    @property
    def bucket_address(self) -> Address:
        parts = urlsplit(self.s3["S3_ENDPOINT"])
        return str(parts.hostname), parts.port or 80

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` returned for this stack the first time."""
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]

    def ask(self, method: str, target: str, owner: str, body: bytes | None = None) -> bytes:
        """The body of the gateway's answer."""
        headers = self.key(owner) | ({"Content-Type": "application/json"} if body else {})
        return Connection(self.address).exchange(request(self.address, method, target, headers, body), keep=True).body

    def command(self, *arguments: str) -> None:
        """Run ``app.py`` with these arguments."""
        done = subprocess.run(
            [python(self.checkout), str(self.checkout / "app.py"), *arguments],
            env=_environ({"DATA_DIR": str(self.directory)}),
            cwd=self.directory,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(f"app.py {' '.join(arguments)}: {done.stderr[-2_000:]}")

    def settle(self, groups: Groups, *, at_most: float = 30) -> None:
        """Wait until these processes have nothing left to do, such as jobs of files that were just uploaded."""
        deadline, before = time.monotonic() + at_most, sum(processor(groups).values())
        while time.monotonic() < deadline:
            time.sleep(0.5)
            now = sum(processor(groups).values())
            if now - before <= QUIET:
                return
            before = now


def python(checkout: Path) -> str:
    own = checkout / ".venv" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


def _environ(variables: dict[str, str]) -> dict[str, str]:
    """Our environment without settings of a gateway."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ} | variables


def _wait(child: Child, address: Address, method: str, target: str, seconds: float) -> None:
    """Until the server answers. Raises RuntimeError if it ends or does not."""
    deadline, connection = time.monotonic() + seconds, Connection(address)
    while child.running and time.monotonic() < deadline:
        with contextlib.suppress(OSError, Refused):
            connection.exchange(request(address, method, target))
            return
        time.sleep(0.1)
    raise RuntimeError(f"{child.name} did not start:\n{last_lines(child.log, 20)}")


def start_gateway(parts: ExitStack, label: str, checkout: Path, directory: Path, **settings: str) -> Stack:
    """``python app.py`` of this checkout with its data in ``directory``; ``parts`` stops it."""
    directory.mkdir()
    port = free_port()
    variables = {
        "DATA_DIR": str(directory),
        "PORT": str(port),
        "ADMIN_API_KEY": KEY,
        "MAX_OPEN_UPLOADS": "1000000",
        "LOG_LEVEL": "WARNING",
        **settings,
    }
    child = Child.start(
        f"the gateway of {checkout}",
        [python(checkout), str(checkout / "app.py")],
        cwd=directory,
        environ=_environ(variables),
        log=directory / "gateway.log",
        stop_timeout=60,
    )
    parts.callback(child.stop)
    stack = Stack(label, directory, checkout, child, ("127.0.0.1", port))
    _wait(child, stack.address, "GET", "/readyz", 180)
    run = json.loads((directory / "run.json").read_text())["settings"]
    stack.s3, stack.database = {name: run[name] for name in run if name.startswith("S3_")}, run["DATABASE_URL"]
    Connection(stack.bucket_address).exchange(request(stack.bucket_address, "PUT", stack.signed("PUT", "")))
    return stack


def start_flask(parts: ExitStack, stack: Stack) -> None:
    """flask_app.py, served as the gateway is: two processes with 32 threads each."""
    with psycopg.connect(stack.database, autocommit=True) as connection:
        connection.execute(
            "create table bench_flask_files (id bigserial primary key, name text not null, size bigint"
            " not null, key text not null, uploaded_at timestamptz not null default now())"
        )
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--worker-class=gthread", "--workers=2", "--threads=32"]
    command += [f"--bind=127.0.0.1:{port}", "--keep-alive=15", "benchmarks.flask_app:app"]
    environ = _environ({**stack.s3, "DATABASE_URL": stack.database, "S3_BUCKET": "bare"})
    child = Child.start("Flask", command, cwd=ROOT, environ=environ, log=stack.directory / "flask.log")
    parts.callback(child.stop)
    stack.others["flask"] = ("127.0.0.1", port), child
    _wait(child, ("127.0.0.1", port), "GET", "/health", 30)


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
    port = free_port()
    environ = _environ({**stack.s3, "S3_BUCKET": "bare", "PORT": str(port)})
    child = Child.start("@tus/server", [node, "server.mjs"], cwd=packages, environ=environ, log=packages / "log")
    parts.callback(child.stop)
    stack.others["tus"] = ("127.0.0.1", port), child
    _wait(child, ("127.0.0.1", port), "OPTIONS", "/files", 30)
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


def measure(stack: Stack, target: str, run: Callable[[Callable[[], None]], Load], *, factor: float = 1) -> Measured:
    """Run the load and read what each group used for it, until the work that it left behind is done.

    ``factor``: operations in each that the client counts."""
    groups = stack.groups(target)
    stack.settle(groups)
    peak = 0.0

    def tick() -> None:
        nonlocal peak
        peak = max(peak, sum(size for name, size in memory(groups).items() if name not in ("postgres", "bucket")))

    begun, busy_before, before = time.monotonic(), busy(), processor(groups)
    load = run(tick)
    tick()
    stack.settle(groups)
    after, busy_after, seconds = processor(groups), busy(), time.monotonic() - begun
    used = {name: after[name] - before[name] for name in groups}
    foreign = max(0.0, busy_after - busy_before - sum(used.values()) - load.client_cpu) / seconds
    operations = max(1, load.sent) * factor
    return Measured(load, operations, {name: 1_000 * used[name] / operations for name in used}, peak, foreign)


@contextlib.contextmanager
def parts_in(directory: Path) -> Iterator[ExitStack]:
    """What was started is stopped at the end, in reverse order, and the directory removed."""
    try:
        with ExitStack() as parts:
            yield parts
    finally:
        shutil.rmtree(directory, ignore_errors=True)
