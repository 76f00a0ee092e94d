"""HTTP/1.1 on a bare socket, for what no library allows: stop at any byte of a body, read interim answers (1xx), send
invalid requests."""

from __future__ import annotations

import contextlib
import json as jsonlib
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

TIMEOUT = 90.0  # seconds for one read or write
PIECE = 256 * 1024  # bytes


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes = b""
    interim: list[Answer] = field(default_factory=list)  # 1xx before it

    @property
    def json(self) -> Any:
        return jsonlib.loads(self.body)


class Request:
    """A request whose head has been sent; the test sends the body and reads the answer."""

    def __init__(self, method: str, url: str, headers: Mapping[str, str], *, timeout: float = TIMEOUT):
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.method = method
        self.sent = 0  # bytes of the body
        self._interim: list[Answer] = []
        self._buffer = b""
        self.sock = socket.create_connection((parts.hostname, parts.port or 80), timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lines = [f"{method} {parts.path}{'?' + parts.query if parts.query else ''} HTTP/1.1"]
        lines += [
            f"{name}: {value}" for name, value in {"Host": parts.netloc, "Connection": "close", **headers}.items()
        ]
        try:
            self.sock.sendall("\r\n".join([*lines, "", ""]).encode())
        except OSError:
            self.sock.close()
            raise

    def send(self, data: bytes | memoryview) -> bool:
        """Returns False if the server accepts no more bytes; its answer, if any, can still be read."""
        view = memoryview(data)
        try:
            for at in range(0, len(view), PIECE):
                self.sock.sendall(view[at : at + PIECE])
                self.sent += len(view[at : at + PIECE])
        except OSError:
            return False
        return True

    def interim(self) -> Answer:
        """The next 1xx. Raises AssertionError if the final answer comes first."""
        head = self._head()
        assert 100 <= head.status < 200, head
        self._interim.append(head)
        return head

    def answer(self) -> Answer:
        """The final answer. Raises ConnectionError or TimeoutError if none comes."""
        with self.sock:
            while (head := self._head()).status < 200:
                self._interim.append(head)
            body = b""
            if self.method != "HEAD" and head.status != 204:
                if "content-length" in head.headers:
                    while len(self._buffer) < int(head.headers["content-length"]):
                        self._more()
                    body = self._buffer[: int(head.headers["content-length"])]
                else:
                    with contextlib.suppress(ConnectionError):
                        while True:
                            self._more()
                    body = self._buffer
            return Answer(head.status, head.headers, body, self._interim)

    def cut(self, how: str = "fin") -> None:
        """Close the connection by FIN (``fin``) or RST (``reset``)."""
        if how == "reset":
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def _head(self) -> Answer:
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines)
        return Answer(int(first.split()[1]), {name.lower(): value.strip() for name, _, value in fields})

    def _more(self) -> None:
        data = self.sock.recv(PIECE)
        if not data:
            raise ConnectionResetError("the answer ended before it was whole")
        self._buffer += data


def exchange(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | memoryview | None = None,
    *,
    timeout: float = TIMEOUT,
) -> Answer:
    """One request and its answer. Raises OSError (ConnectionError, TimeoutError) if none comes."""
    length = {} if body is None else {"Content-Length": str(len(body))}
    request = Request(method, url, {**length, **headers}, timeout=timeout)
    try:
        if body:
            request.send(body)
        return request.answer()
    finally:
        request.sock.close()


def chunked(pieces: list[bytes]) -> bytes:
    """A body in chunked coding, one chunk for each piece."""
    return b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces if piece) + b"0\r\n\r\n"
