"""The fault proxy acts at exactly the given byte."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.fault_proxy import Fault, FaultProxy
from tests.servers import free_port


class Far:
    """A server that records what each connection sends, and answers b"done" at its end."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.received: list[bytes] = []
        self.ends: list[str] = []
        self.ended = threading.Condition()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                self.received.append(b"")
                end = "fin"
                try:
                    while data := connection.recv(65536):
                        self.received[-1] += data
                    connection.sendall(b"done")
                except OSError:
                    end = "reset"
            with self.ended:
                self.ends.append(end)
                self.ended.notify_all()

    def wait(self, count: int) -> None:
        with self.ended:
            assert self.ended.wait_for(lambda: len(self.ends) >= count, 20)


@pytest.fixture
def far() -> Iterator[Far]:
    server = Far()
    yield server
    server.listener.shutdown(socket.SHUT_RDWR)
    server.listener.close()


@pytest.fixture
def proxy(far: Far) -> Iterator[FaultProxy]:
    with FaultProxy(*far.listener.getsockname()[:2]) as started:
        yield started


def near(proxy: FaultProxy) -> socket.socket:
    parts = urlsplit(proxy.url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), 20)


DATA = bytes(range(256)) * 4096  # 1 MiB


def test_bytes_are_passed_on(proxy: FaultProxy, far: Far) -> None:
    with near(proxy) as sock:
        sock.sendall(DATA)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b"done"
    assert far.received == [DATA]


@pytest.mark.parametrize("action", ["cut", "reset"])
def test_a_connection_ends_at_a_byte_and_the_next_passes(action: str, proxy: FaultProxy, far: Far) -> None:
    proxy.arm(Fault(action, after=300_001))  # type: ignore[arg-type]
    with near(proxy) as sock:
        try:
            sock.sendall(DATA)
            assert sock.recv(100) in (b"", b"done")
        except ConnectionError:
            assert action == "reset" or proxy.struck
        far.wait(1)
    received = far.received[0]
    assert received == DATA[: len(received)]
    assert len(received) == 300_001 if action == "cut" else len(received) <= 300_001
    with near(proxy) as sock:
        sock.sendall(DATA)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b"done"
    assert (far.received[1], proxy.struck) == (DATA, 1)


def test_stalls_until_healed(proxy: FaultProxy, far: Far) -> None:
    proxy.arm(Fault("stall", after=1000))
    with near(proxy) as sock:
        sock.sendall(DATA[:200_000])
        deadline = time.monotonic() + 20
        while (not far.received or len(far.received[0]) < 1000) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        assert far.received == [DATA[:1000]]
        proxy.heal()
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b"done"
    assert far.received == [DATA[:200_000]]


def test_a_fault_can_count_the_bytes_of_answers(proxy: FaultProxy, far: Far) -> None:
    proxy.arm(Fault("cut", after=2, direction="down"))
    with near(proxy) as sock:
        sock.sendall(DATA)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b"do"
        assert sock.recv(100) == b""
    assert far.received == [DATA]


def test_an_answer_before_a_reset_is_passed_on() -> None:
    """A server that rejects a body closes with most of it unread, which resets the connection."""

    def refuse(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"refused")

    for _ in range(50):
        with socket.create_server(("127.0.0.1", 0)) as listener, FaultProxy(*listener.getsockname()) as proxy:
            refusing = threading.Thread(target=refuse, args=(listener,))
            refusing.start()
            with near(proxy) as sock:
                with contextlib.suppress(ConnectionError):
                    sock.sendall(8 * DATA)
                assert sock.recv(100) == b"refused"
            refusing.join()


def test_without_a_server_connections_are_refused() -> None:
    def ask(proxy: FaultProxy) -> bytes:
        with near(proxy) as sock:
            return sock.recv(1)

    with FaultProxy("127.0.0.1", free_port()) as proxy, pytest.raises(ConnectionError):
        ask(proxy)
