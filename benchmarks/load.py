"""The load: wrk for requests that need no answer, and a raw-socket client for large bodies and for steps that build on each
other. Both send requests that were built before the clock starts, over connections that stay open.

Each client's own limit is measured at the beginning of a run, against a server that does nothing (``null_server``)."""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Address = tuple[str, int]
Buffer = bytes | memoryview
# What one connection does: each call is one operation. It raises StopIteration when it has no more to do.
Operation = Callable[[], object]

PROCESSES = 4  # of the raw-socket client, at most
TIMEOUT = 60  # seconds without a byte
_fork = multiprocessing.get_context("fork")


class Refused(Exception):
    """A server answered 400 or more, or ended the connection."""


@dataclass
class Load:
    """What the clients saw."""

    done: int = 0  # operations that were answered
    sent: int = 0  # operations that were begun: what the servers worked on
    errors: int = 0
    seconds: float = 0.0
    client_cpu: float = 0.0  # seconds
    p50: float = 0.0  # milliseconds, as the next two
    p95: float = 0.0
    worst: float = 0.0
    first_error: str = ""


# -- requests --------------------------------------------------------------------------------------------------------


def request(
    address: Address, method: str, target: str, headers: Mapping[str, str] | None = None, body: Buffer | None = None
) -> bytes:
    """The head of a request, and its body unless that is a memoryview, which is sent by itself."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {address[0]}:{address[1]}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body if isinstance(body, bytes) else b"")


@dataclass
class Response:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes = b""


@dataclass
class Connection:
    """One HTTP/1.1 connection, opened when it is needed. Bodies are read, and kept only if asked for."""

    address: Address
    _socket: socket.socket | None = None
    _buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(1 << 18)))

    def exchange(self, *request: Buffer, keep: bool = False) -> Response:
        """Send a request, whose head is in the first piece, and read the response. Raises Refused for a status of 400
        or more."""
        line = bytes(request[0][:200]).partition(b" HTTP")[0]
        for retry in (True, False):
            fresh = self._socket is None
            if self._socket is None:
                self._socket = socket.create_connection(self.address, TIMEOUT)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                for piece in request:
                    self._socket.sendall(piece)
                response = self._read(keep, has_body=not line.startswith(b"HEAD"))
                break
            except ConnectionError as error:  # an idle connection that the server closed is no failure
                self.close()
                if fresh or not retry:
                    raise Refused(f"{line!r}: {error!r}") from error
        if response.headers.get("connection") == "close":
            self.close()
        if response.status >= 400:
            raise Refused(f"{line!r}: {response.status} {response.body[:500]!r}")
        return response

    def _read(self, keep: bool, *, has_body: bool) -> Response:
        assert self._socket is not None
        got = b""
        while (end := got.find(b"\r\n\r\n")) < 0 or got.startswith(b"HTTP/1.1 1"):
            if end >= 0:  # an interim response
                got = got[end + 4 :]
                continue
            if not (more := self._socket.recv_into(self._buffer)):
                raise ConnectionResetError("closed before an answer")
            got += self._buffer[:more]
        first, *lines = got[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        response, body = Response(int(first.split()[1]), headers), got[end + 4 :]
        keep = keep or response.status >= 400
        chunked, left = "chunked" in headers.get("transfer-encoding", ""), -1
        if not has_body or response.status in (204, 304):
            return response
        if not chunked:
            left = int(headers["content-length"]) - len(body)
        while left > 0 or (chunked and not body.endswith(b"0\r\n\r\n")):
            if not (more := self._socket.recv_into(self._buffer)):
                raise ConnectionResetError("closed within an answer")
            left -= more
            if keep:
                body += self._buffer[:more]
            elif chunked:
                body = body[-8:] + self._buffer[max(0, more - 8) : more]
        response.body = body if keep else b""
        return response

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def repeated(address: Address, requests: Sequence[bytes], *, once: bool) -> Callable[[int, int], Operation]:
    """Each connection sends its share of the requests: all of them ``once``, or again and again."""

    def connect(number: int, connections: int) -> Operation:
        connection, share = Connection(address), requests[number::connections] or requests[:1]

        def all_of_them() -> Iterator[bytes]:
            yield from share
            while not once:
                yield from share

        rest = all_of_them()
        return lambda: connection.exchange(next(rest))

    return connect


# -- the raw-socket client -------------------------------------------------------------------------------------------


def drive(
    connect: Callable[[int, int], Operation],
    connections: int,
    seconds: float,
    *,
    tick: Callable[[], None] = lambda: None,
) -> Load:
    """Make all connections operate at once until ``seconds`` have passed, or they have no more to do.

    ``connect`` gets a connection's number and the number of connections, in the process that uses it. ``tick`` is called
    several times a second meanwhile."""
    processes = min(PROCESSES, connections)
    ready, found = _fork.Barrier(processes), Load(seconds=0)
    pipes = []
    children = []
    for process in range(processes):
        ours, theirs = _fork.Pipe(duplex=False)
        numbers = range(process, connections, processes)
        child = _fork.Process(
            target=_process, args=(connect, numbers, connections, seconds, ready, theirs), daemon=True
        )
        child.start()
        theirs.close()
        pipes.append(ours)
        children.append(child)
    begins, ends, times = [], [], list[float]()
    for pipe in pipes:
        while not pipe.poll(0.2):
            tick()
        begin, end, cpu, taken, errors = pipe.recv()
        begins.append(begin)
        ends.append(end)
        times += taken
        found.errors += len(errors)
        found.client_cpu += cpu
        found.first_error = found.first_error or next(iter(errors), "")
    for child in children:
        child.join()
    found.seconds, found.done, found.sent = max(ends) - min(begins), len(times), len(times) + found.errors
    times.sort()
    if times:
        found.p50, found.p95 = (1_000 * times[len(times) * percent // 100] for percent in (50, 95))
        found.worst = 1_000 * times[-1]
    return found


def _process(
    connect: Callable[[int, int], Operation],
    numbers: Iterable[int],
    connections: int,
    seconds: float,
    ready: Any,
    pipe: Any,
) -> None:
    operations, times, errors = [connect(number, connections) for number in numbers], list[float](), list[str]()

    def run(operation: Operation) -> None:
        while (begin := time.monotonic()) < until:
            try:
                operation()
                times.append(time.monotonic() - begin)
            except StopIteration:
                return
            except Exception as error:
                errors.append(repr(error))
                if len(errors) > 100:
                    return

    ready.wait()
    begin = time.monotonic()
    until = begin + seconds
    threads = [threading.Thread(target=run, args=(operation,)) for operation in operations]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used = resource.getrusage(resource.RUSAGE_SELF)
    pipe.send((begin, time.monotonic(), used.ru_utime + used.ru_stime, times, errors))


# -- wrk -------------------------------------------------------------------------------------------------------------

_SCRIPT = """
local threads = {}
function setup(thread) thread:set("number", #threads); table.insert(threads, thread) end
function init(args)
  sent, at, requests, once = 0, 0, {}, args[3] == "once"
  local file, n = io.open(args[1], "rb"), 0
  while true do
    local size = file:read(10)
    if not size then break end
    local text = file:read(tonumber(size))
    if n % tonumber(args[2]) == number then requests[#requests + 1] = text end
    n = n + 1
  end
  file:close()
end
function request()
  at = at + 1
  if at > #requests then
    if once then wrk.thread:stop() end
    at = 1
  end
  sent = sent + 1
  return requests[at]
end
function done(summary, latency)
  local sent, errors = 0, summary.errors
  for _, thread in ipairs(threads) do sent = sent + thread:get("sent") end
  io.write(string.format("\\nRESULT %d %d %d %d %d %d %d\\n", sent, summary.requests,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout, summary.duration,
    latency:percentile(50), latency:percentile(95), latency.max))
end
"""


def wrk(
    address: Address,
    requests: Sequence[bytes],
    connections: int,
    seconds: float,
    *,
    once: bool,
    directory: Path,
    tick: Callable[[], None] = lambda: None,
) -> Load:
    """As ``drive(repeated(…))``, by wrk. Requests under way at the end are not ``done``, though the servers work on them."""
    threads = min(2, connections)
    script, texts = directory / "load.lua", directory / "requests"
    script.write_text(_SCRIPT)
    texts.write_bytes(b"".join(b"%010d" % len(text) + text for text in requests))
    command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{max(1, round(seconds))}s", f"--timeout={TIMEOUT}s"]
    command += ["-s", str(script), f"http://{address[0]}:{address[1]}", "--", str(texts), str(threads)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen([*command, *(["once"] if once else [])], stdout=subprocess.PIPE, text=True)
    try:
        while True:
            try:
                output, _ = process.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                tick()
    finally:
        process.kill()
        texts.unlink()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = [line.split()[1:] for line in output.splitlines() if line.startswith("RESULT ")]
    if not figures:
        raise RuntimeError(f"wrk failed: {output}")
    sent, done, errors, micros, p50, p95, worst = map(int, figures[0])
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return Load(done, sent, errors, micros / 1e6, cpu, p50 / 1e3, p95 / 1e3, worst / 1e3)


def has_wrk() -> bool:
    return shutil.which("wrk") is not None


# -- the clients' own limit ------------------------------------------------------------------------------------------


@contextmanager
def null_server() -> Iterator[Address]:
    """A server that answers every request at once, without reading what it says: one process, one thread a connection."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)

    def serve() -> None:
        while True:
            threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(ConnectionError):
            while connection.recv(1 << 20):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    process = _fork.Process(target=serve, daemon=True)
    process.start()
    try:
        yield listener.getsockname()
    finally:
        process.kill()
        process.join()
        listener.close()
