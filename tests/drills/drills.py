"""The drills: each does harm to a deployment under load, at moments that its seed decides, and then lets it recover."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.drills.deployment import Deployment, Web, children
from tests.fault_proxy import Rule


@dataclass
class Field:
    """Where a drill takes place."""

    deployment: Deployment
    random: random.Random
    until: float  # of the monotonic clock
    faults: int = 0  # so far

    def moments(self, low: float, high: float) -> Iterator[None]:
        """Random moments, this many seconds apart, until the drill is over."""
        while True:
            pause = self.random.uniform(low, high)
            if time.monotonic() + pause > self.until:
                time.sleep(max(0.0, self.until - time.monotonic()))
                return
            time.sleep(pause)
            self.faults += 1
            yield

    def wait(self, low: float, high: float) -> None:
        time.sleep(min(self.random.uniform(low, high), max(0.1, self.until - time.monotonic())))


Drill = Callable[[Field], None]
DRILLS: dict[str, Drill] = {}
NEEDS: dict[str, dict[str, Any]] = {}


def drill(function: Drill) -> Drill:
    DRILLS[function.__name__] = function
    return function


def needs(**what: Any) -> Callable[[Drill], Drill]:
    """Arguments of own_servers()."""

    def noted(function: Drill) -> Drill:
        NEEDS[function.__name__] = what
        return function

    return noted


def _kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


# -- processes ---------------------------------------------------------------------------------------------------------


def _kill_web(field: Field, web: Web) -> None:
    """A worker process, the master alone, or all of them."""
    what = field.random.choice(["worker", "worker", "master", "all"])
    if web.process is None:
        return
    if what == "all":
        web.kill()
    elif what == "master":
        _kill(web.process.pid)
    else:
        for pid in web.workers():
            _kill(pid)


@drill
def kill_web(field: Field) -> None:
    """kill -9 of web processes."""
    for _ in field.moments(0.3, 3.0):
        _kill_web(field, field.random.choice(field.deployment.webs))


@drill
def kill_worker(field: Field) -> None:
    """kill -9 of workers with their parsers, or of a parser alone."""
    for _ in field.moments(0.5, 4.0):
        worker = field.random.choice(field.deployment.workers)
        if worker.process is None:
            continue
        if field.random.random() < 0.3:
            for pid in children(worker.process.pid):
                _kill(pid)
        else:
            worker.kill()


@drill
def kill_janitor(field: Field) -> None:
    """kill -9 of the janitor's command, which begins again at once."""
    field.deployment.janitor_every = 0.1
    for _ in field.moments(0.8, 4.0):
        if (janitor := field.deployment.janitor) is not None and janitor.process is not None:
            _kill(janitor.process.pid)
    field.deployment.janitor_every = 5.0


@drill
def kill_all(field: Field) -> None:
    """kill -9 of every process of the gateway at once (T101)."""
    for _ in field.moments(3.0, 8.0):
        with field.deployment.unattended():
            for program in (*field.deployment.webs, *field.deployment.workers):
                program.kill()
            if (janitor := field.deployment.janitor) is not None and janitor.process is not None:
                _kill(janitor.process.pid)


@drill
def rolling_restart(field: Field) -> None:
    """SIGTERM and a new start, one process after another: no request fails that was begun (T109)."""
    for _ in field.moments(0.5, 2.0):
        with field.deployment.unattended():
            for program in (*field.deployment.webs, *field.deployment.workers):
                if program.stop(60) is None:
                    raise AssertionError(f"{program.command} did not end within its grace period")
                program.launch()
                if isinstance(program, Web):
                    deadline = time.monotonic() + 60
                    while not program.ready() and time.monotonic() < deadline:
                        time.sleep(0.1)


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


def _postmaster(field: Field) -> int:
    server = field.deployment.servers.postgres
    assert server is not None
    return server.child.process.pid


def _ended(field: Field) -> None:
    server = field.deployment.servers.postgres
    assert server is not None
    server.child.process.wait(60)


@drill
def postgres_killed(field: Field) -> None:
    """kill -9 of PostgreSQL's main process, or of one of its backends, which makes it restart itself (T102)."""
    for _ in field.moments(3.0, 8.0):
        backends = children(_postmaster(field))
        if backends and field.random.random() < 0.3:
            _kill(field.random.choice(backends))
            continue
        _kill(_postmaster(field))
        _ended(field)
        field.wait(0.0, 4.0)
        field.deployment.start_postgres()


@drill
def postgres_stopped(field: Field) -> None:
    """A fast shutdown, as at an upgrade or a failover (T102)."""
    for _ in field.moments(3.0, 8.0):
        _kill(_postmaster(field), signal.SIGINT)
        _ended(field)
        field.wait(0.0, 6.0)
        field.deployment.start_postgres()


@drill
def postgres_frozen(field: Field) -> None:
    """PostgreSQL stops to answer, and goes on where it was (T102)."""
    for _ in field.moments(4.0, 10.0):
        frozen = [_postmaster(field), *children(_postmaster(field))]
        for pid in frozen:
            _kill(pid, signal.SIGSTOP)
        field.wait(1.0, 15.0)
        for pid in reversed(frozen):
            _kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def _full_disk(field: Field) -> Iterator[None]:
    """In this block not even a byte more can be stored."""
    assert field.deployment.servers.disk is not None
    ballast = field.deployment.servers.disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(2**20)) == 2**20:
            pass
        while file.write(bytes(4096)):
            pass
    try:
        yield
    finally:
        ballast.unlink()


@drill
@needs(small="postgres")
def database_disk_full(field: Field) -> None:
    """No space for PostgreSQL, and space again. Without any for its log it ends, and is started again (T105)."""
    for _ in field.moments(1.0, 4.0):
        with _full_disk(field):
            field.wait(1.0, 8.0)
        server = field.deployment.servers.postgres
        assert server is not None
        deadline = time.monotonic() + 60
        while server.child.running and time.monotonic() < deadline:  # it may be about to end
            with contextlib.suppress(psycopg.Error):
                field.deployment.sql("create temporary table space as select 1")
                break
            time.sleep(0.1)
        else:
            field.deployment.start_postgres()


# -- the bucket --------------------------------------------------------------------------------------------------------


def _weed(field: Field) -> int:
    weed = field.deployment.servers.weed
    assert weed is not None
    return weed.child.process.pid


@drill
def bucket_killed(field: Field) -> None:
    """kill -9 of the bucket's server (T103)."""
    for _ in field.moments(4.0, 10.0):
        weed = field.deployment.servers.weed
        assert weed is not None
        weed.kill()
        field.wait(0.0, 4.0)
        field.deployment.start_bucket()


@drill
def bucket_frozen(field: Field) -> None:
    """The bucket stops to answer, and goes on where it was (T103)."""
    for _ in field.moments(4.0, 10.0):
        _kill(_weed(field), signal.SIGSTOP)
        field.wait(1.0, 15.0)
        _kill(_weed(field), signal.SIGCONT)


def error(status: str, code: str) -> bytes:
    """A bucket's answer."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


_REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) /[^ ]* HTTP/1\.1\r\n")
_STORING = re.compile(rb"(PUT /|POST /[^ ]*uploads)[^ ]* HTTP/1\.1\r\n")
_CHANGING = re.compile(rb"(PUT|POST|DELETE) /[^ ]* HTTP/1\.1\r\n")


def _refuse(field: Field, pattern: re.Pattern[bytes], answer: bytes | None, share: float) -> None:
    line, chance = field.deployment.bucket_line, field.random.random
    line.obey(Rule(lambda data: pattern.match(data) is not None and chance() < share, answer))


@drill
def bucket_refusing(field: Field) -> None:
    """503 SlowDown to many requests, or to all for a while (T103)."""
    before = field.deployment.bucket_line.struck
    for _ in field.moments(0.5, 3.0):
        _refuse(field, _REQUEST, error("503 Slow Down", "SlowDown"), field.random.choice([0.1, 0.5, 1.0]))
        field.wait(1.0, 8.0)
        field.deployment.bucket_line.heal()
    field.faults = field.deployment.bucket_line.struck - before


@drill
def bucket_full(field: Field) -> None:
    """507 to all that stores bytes (T105)."""
    before = field.deployment.bucket_line.struck
    for _ in field.moments(0.5, 3.0):
        _refuse(field, _STORING, error("507 Insufficient Storage", "InsufficientStorage"), 1.0)
        field.wait(1.0, 8.0)
        field.deployment.bucket_line.heal()
    field.faults = field.deployment.bucket_line.struck - before


def lose_answers(field: Field, share: float) -> None:
    """The bucket does what it is asked, and the answer does not arrive."""
    _refuse(field, _CHANGING, None, share)


@drill
def answers_lost(field: Field) -> None:
    """Every tenth answer to a request that changes something in the bucket."""
    before = field.deployment.bucket_line.struck
    lose_answers(field, 0.1)
    field.wait(field.until, field.until)
    field.deployment.bucket_line.heal()
    field.faults = field.deployment.bucket_line.struck - before


_COMMIT = re.compile(rb"COMMIT\0", re.IGNORECASE)
_STATEMENT = re.compile(rb"\b(insert into|update|delete from)\b", re.IGNORECASE)


@drill
def commits_lost(field: Field) -> None:
    """PostgreSQL commits, and the answer does not arrive; now and then that of another statement (T104)."""
    line, chance = field.deployment.database_line, field.random.random

    def applies(data: bytes) -> bool:
        if _COMMIT.search(data):
            return chance() < 0.1
        return _STATEMENT.search(data) is not None and chance() < 0.02

    before = line.struck
    line.obey(Rule(applies))
    field.wait(field.until, field.until)
    line.heal()
    field.faults = line.struck - before


SHIFTED = """
import datetime as _datetime, time as _time
_shift, _real_time, _real = {hours} * 3600, _time.time, _datetime.datetime
class _Either(type):
    def __instancecheck__(cls, value): return isinstance(value, _real)
class _Shifted(_real, metaclass=_Either):
    __slots__ = ()
    @classmethod
    def __get_pydantic_core_schema__(cls, source, handler):
        from pydantic_core.core_schema import datetime_schema
        return datetime_schema()
    @classmethod
    def now(cls, tz=None): return _real.now(tz) + _datetime.timedelta(seconds=_shift)
    @classmethod
    def utcnow(cls): return _real.utcnow() + _datetime.timedelta(seconds=_shift)
_time.time = lambda: _real_time() + _shift
_datetime.datetime = _Shifted
"""


@drill
def clocks_apart(field: Field) -> None:
    """One web server's clock is an hour ahead, the other's or the worker's an hour behind, in turn; then the bucket refuses all
    for its clock (T108)."""
    programs = [*field.deployment.webs, *field.deployment.workers]
    normal = programs[0].first
    for _ in field.moments(0.5, 2.0):
        program, hours = field.random.choice(programs), field.random.choice([-1, 1])
        with field.deployment.unattended():
            program.first = normal + SHIFTED.format(hours=hours)
            program.kill()
            program.launch()
        field.wait(5.0, 15.0)
        with field.deployment.unattended():
            program.first = normal
            program.kill()
            program.launch()
        _refuse(field, _REQUEST, error("403 Forbidden", "RequestTimeTooSkewed"), 1.0)
        field.wait(1.0, 4.0)
        field.deployment.bucket_line.heal()


@drill
@needs(small="bucket")
def bucket_disk_full(field: Field) -> None:
    """No space for the bucket's server, and space again, and it is restarted: its index does not recover without (T105)."""
    for _ in field.moments(1.0, 4.0):
        with _full_disk(field):
            field.wait(1.0, 8.0)
        weed = field.deployment.servers.weed
        assert weed is not None
        weed.kill()
        field.deployment.start_bucket()


# -- scanner, clients --------------------------------------------------------------------------------------------------


@drill
@needs(scanner=True)
def scanner_down(field: Field) -> None:
    """kill -9 of clamd, and a new start: no file is ready without a verdict (T97)."""
    clamd = field.deployment.servers.clamd
    assert clamd is not None
    for _ in field.moments(0.5, 3.0):
        clamd.stop()
        field.wait(0.0, 6.0)
        clamd.start()


@drill
@needs(scanner=True)
def scanner_stalling(field: Field) -> None:
    """clamd falls silent, or ends the connection, at any byte of a scan (T97)."""
    line = field.deployment.servers.scanner_line
    assert line is not None
    for _ in field.moments(0.5, 3.0):
        after = int(10 ** field.random.uniform(0, 5))
        line.stall_after, line.cut_after = field.random.choice([(after, None), (after, None), (None, after)])
        field.wait(1.0, 8.0)
        line.stall_after = line.cut_after = None
        if field.random.random() < 0.5:  # else the gateway waits until SCAN_TIMEOUT
            line.released.set()
            line.released.clear()
    line.released.set()


_PARTS = (
    b"POST /api/upload",
    b"PUT /api/upload/dying.bin",
    b"POST /api/tus",
    b"POST /api/files/batch",
    b"GET /api/files",
)


@drill
def clients_dying(field: Field) -> None:
    """Connections that end, break or fall silent at any byte of a request; nobody was told of their files (T110)."""
    deployment = field.deployment
    silent: list[socket.socket] = []
    key = deployment.admin().post("/api/admin/keys", json={"owner_id": "dying"}).json["key"]
    for _ in field.moments(0.02, 0.3):
        body = field.random.randbytes(field.random.randrange(1, 300_000))
        head = (
            f"{field.random.choice(_PARTS).decode()} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            f"Tus-Resumable: 1.0.0\r\nUpload-Length: {len(body)}\r\nContent-Type: application/offset+octet-stream\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode()
        sent = (head + body)[: field.random.randrange(len(head) + len(body))]
        with contextlib.suppress(OSError):
            sock = socket.create_connection(("127.0.0.1", field.random.choice(deployment.webs).port), 5)
            sock.settimeout(5)
            sock.sendall(sent)
            end = field.random.choice(["fin", "reset", "silent"])
            if end == "silent" and len(silent) < 20:
                silent.append(sock)
                continue
            if end == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
    for sock in silent:
        sock.close()


def of_names(names: list[str]) -> dict[str, Drill]:
    return {name: DRILLS[name] for name in names or DRILLS}


def folder(base: Path, name: str) -> Path:
    made = base / name
    made.mkdir(parents=True, exist_ok=True)
    made.chmod(0o755)
    return made
