"""A TCP proxy that injects faults between a client and the gateway, or between the gateway and its bucket.

    with FaultProxy("127.0.0.1", 8333) as proxy:                 # proxy.url is what the nearer side is given
        proxy.arm(Fault("cut", after=3_000_000))                 # once 3,000,000 more bytes have gone up
        …
        proxy.heal()

A fault counts the bytes of all connections together from the moment it is armed, and hits the connection that passes the
last one. A rule judges each request instead, by the bytes that the nearer side sends at once."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

CHUNK = 64 * 1024  # bytes
FOREVER = 3600.0  # seconds; longer than any test

Direction = Literal["up", "down"]  # up: what the nearer side sends


@dataclass
class Fault:
    """``cut`` ends the connection in order (FIN), ``reset`` breaks it (RST), ``stall`` holds it for ``seconds``."""

    action: Literal["cut", "reset", "stall"]
    after: int = 0  # bytes that still pass; exactly these
    direction: Direction = "up"
    seconds: float = FOREVER  # of a stall; a short one is a delay
    times: int = 1  # how often; ``after`` is counted anew each time


@dataclass
class Rule:
    """What becomes of a request that ``applies`` is true for: the proxy gives its own ``answer`` and passes nothing on; or, with
    None, the request passes and its answer is lost, because the connection is reset as soon as it comes."""

    applies: Callable[[bytes], bool]  # of a request's first bytes
    answer: bytes | None = None


@dataclass
class _Line:
    """One connection through the proxy."""

    over: threading.Event = field(default_factory=threading.Event)  # it has been ended on purpose
    lossy: bool = False  # the next answer is to be lost


class FaultProxy:
    """Listens at once; ``close`` closes all connections."""

    def __init__(self, host: str, port: int):
        self.target = (host, port)  # of new connections
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.struck = 0  # faults that occurred
        self._lock = threading.Lock()
        self._fault: Fault | None = None
        self._rule: Rule | None = None
        self._passed = 0  # bytes in the fault's direction since it was armed or last occurred
        self._healed = threading.Event()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, fault: Fault) -> None:
        """Replace the current fault."""
        with self._lock:
            self._fault, self._passed, self._healed = fault, 0, threading.Event()

    def obey(self, rule: Rule) -> None:
        """Replace the current rule."""
        self._rule = rule

    def heal(self) -> None:
        """Remove fault and rule; stalled connections continue."""
        with self._lock:
            self._fault = self._rule = None
            self._healed.set()

    def drop_all(self) -> None:
        """Reset every open connection."""
        with self._lock:
            broken = list(self._open)
        for sock in broken:
            _reset(sock)

    def close(self) -> None:
        self.heal()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_all()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self.target, timeout=10)
            except OSError:  # nobody there at the moment: the nearer side is told as it would be without us
                _reset(near)
                continue
            far.settimeout(None)
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {near, far}
            line = _Line()
            threads = [
                threading.Thread(target=self._pump, args=(near, far, "up", line), daemon=True),
                threading.Thread(target=self._pump, args=(far, near, "down", line), daemon=True),
            ]
            for thread in threads:
                thread.start()
            threading.Thread(target=self._close_when_done, args=(threads, near, far), daemon=True).start()

    def _close_when_done(self, threads: list[threading.Thread], near: socket.socket, far: socket.socket) -> None:
        for thread in threads:
            thread.join()
        with self._lock:
            self._open -= {near, far}
        near.close()
        far.close()

    def _pump(self, source: socket.socket, sink: socket.socket, direction: Direction, line: _Line) -> None:
        over = line.over
        try:
            while data := source.recv(CHUNK):
                if direction == "down" and line.lossy:
                    over.set()
                    _reset(source)
                    _reset(sink)
                    return
                if direction == "up" and (rule := self._rule) is not None and rule.applies(data):
                    self.struck += 1
                    if rule.answer is not None:
                        over.set()
                        _end(sink)
                        _answer(source, rule.answer)
                        return
                    line.lossy = True
                while data:
                    passing, fault, healed = self._meet(direction, len(data))
                    if not _sent(sink, data[:passing]):
                        return  # the other thread sees it too, behind what may have come before: an answer
                    data = data[passing:]
                    if fault is None:
                        continue
                    if fault.action == "stall":
                        healed.wait(fault.seconds)
                        continue
                    over.set()
                    for sock in (source, sink):
                        _end(sock) if fault.action == "cut" else _reset(sock)
                    return
            if not over.is_set():
                sink.shutdown(socket.SHUT_WR)
        except OSError:  # one side broke: so does the other
            if not over.is_set():
                _reset(sink)
                _reset(source)

    def _meet(self, direction: Direction, size: int) -> tuple[int, Fault | None, threading.Event]:
        """How many of the next ``size`` bytes pass, and the fault after them."""
        with self._lock:
            fault = self._fault
            if fault is None or fault.direction != direction:
                return size, None, self._healed
            passing = fault.after - self._passed
            if size <= passing:
                self._passed += size
                return size, None, self._healed
            self._passed, self.struck = 0, self.struck + 1
            fault.times -= 1
            if fault.times <= 0:
                self._fault = None
            return passing, fault, self._healed


def _sent(sock: socket.socket, data: bytes) -> bool:
    """False if the connection is broken."""
    try:
        sock.sendall(data)
    except OSError:
        return False
    return True


def _answer(sock: socket.socket, answer: bytes) -> None:
    """Answer as a server does that refuses a request: it closes once the client has read the answer."""
    sock.sendall(answer)
    sock.shutdown(socket.SHUT_WR)
    sock.settimeout(10)
    with contextlib.suppress(TimeoutError):
        while sock.recv(CHUNK):
            pass


def _end(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side may have ended it already
        sock.shutdown(socket.SHUT_RDWR)


def _reset(sock: socket.socket) -> None:
    """RST. shutdown() wakes the thread that reads this socket; close() alone would not."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RD)
    sock.close()
