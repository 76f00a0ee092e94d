"""HTTP/1.1 to the bucket: connections that are used again, and the framing of messages.

For a HEAD request urllib3 takes 0.7 ms of CPU, mostly to check a URL that was just made and to parse headers as an e-mail's; this
takes a sixth. It has no redirects, retries, cookies or proxies, of which requests to the bucket use none.
"""

from __future__ import annotations

import re
import select
import socket
import ssl
import weakref
from collections.abc import Iterable, Mapping

_RECEIVE = 64 * 1024  # bytes asked of the socket at once, unless the caller wants more
_MAX_HEAD = 64 * 1024  # bytes of a response's head, or of a line between chunks
_UNSENT = 128 * 1024  # bytes in the kernel's send buffer: the response is due soon after the last byte is handed to it
_ALWAYS = "Accept-Encoding: identity\r\nUser-Agent: upload-gateway\r\n"

Body = bytes | Iterable[bytes | memoryview]


class NotConnected(OSError):
    """There is no connection, so nothing was sent."""


class BadResponse(OSError):
    """The response is not HTTP, or ends too early."""


class Pool:
    """Connections to one server; threads share it. Up to ``size`` idle ones are kept."""

    def __init__(self, host: str, port: int, *, size: int, ca_bundle: str | None = None):
        """With ``ca_bundle``, a file of certificates, connections use TLS."""
        self._host = host
        self._port = port
        self._size = size
        self._tls = None if ca_bundle is None else ssl.create_default_context(cafile=ca_bundle)
        self._idle: list[_Connection] = []
        weakref.finalize(self, _close, self._idle)

    def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: Body | None = None,
        connect_timeout: float,
        send_timeout: float,
        timeout: float,
    ) -> Response:
        """Send a request and read the head of its response. ``headers`` have the host, and the body's length. The timeouts are
        seconds without a byte moving. Raises NotConnected, another OSError, and what ``body`` raises."""
        fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if not fields.count("\r") == fields.count("\n") == len(headers):
            raise ValueError("a header has a line break")
        head = f"{method} {target} HTTP/1.1\r\n{fields}{_ALWAYS}\r\n".encode("latin-1")
        connection = self._connection(connect_timeout)
        try:
            connection.send(head, (body,) if isinstance(body, bytes) else body or (), send_timeout)
            connection.set_timeout(timeout)
            return Response(self, connection, method)
        except BaseException:
            connection.close()
            raise

    def _connection(self, timeout: float) -> _Connection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if connection.is_quiet():
                return connection
            connection.close()
        try:
            sock = socket.create_connection((self._host, self._port), timeout)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
                if self._tls is not None:
                    sock = self._tls.wrap_socket(sock, server_hostname=self._host)
            except BaseException:
                sock.close()
                raise
        except OSError as error:
            raise NotConnected(f"no connection to {self._host}:{self._port}: {error}") from error
        return _Connection(sock)

    def put_back(self, connection: _Connection) -> None:
        """Keep the connection for another request."""
        if len(self._idle) < self._size:
            self._idle.append(connection)
        else:
            connection.close()


def _close(connections: list[_Connection]) -> None:
    for connection in connections:
        connection.close()


class _Connection:
    def __init__(self, sock: socket.socket):
        self._sock = sock
        self._received = b""  # and not read yet
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self.sent = False  # the whole request

    def is_quiet(self) -> bool:
        """Whether the server has neither closed the connection nor sent what it was not asked for."""
        return not self._received and not self._poll.poll(0)

    def close(self) -> None:
        self._sock.close()

    def send(self, head: bytes, body: Iterable[bytes | memoryview], timeout: float) -> None:
        self._sock.settimeout(timeout)
        self.sent = False
        try:
            for piece in body:
                self._send(b"".join((head, piece)) if head else piece)
                head = b""
            if head:
                self._send(head)
        except (BrokenPipeError, ConnectionResetError):
            return  # it may have answered before it closed the connection
        self.sent = True

    def _send(self, data: bytes | memoryview) -> None:
        """Send all of it. The timeout applies to each step; sendall() would apply it to the whole."""
        left = memoryview(data)
        while left:
            left = left[self._sock.send(left) :]

    def set_timeout(self, seconds: float) -> None:
        self._sock.settimeout(seconds)

    def read(self, size: int) -> bytes:
        """1 to ``size`` bytes; b"" at the end of the connection."""
        if not self._received:
            return self._sock.recv(size)
        data, self._received = self._received[:size], self._received[size:]
        return data

    def read_until(self, end: bytes) -> bytes:
        """All before ``end``, which is read too."""
        while (length := self._received.find(end)) < 0:
            more = self._sock.recv(_RECEIVE)
            if not more or len(self._received) > _MAX_HEAD:
                raise BadResponse(
                    "the response is not HTTP" if more else "the connection was closed without a response"
                )
            self._received += more
        data, self._received = self._received[:length], self._received[length + len(end) :]
        return data


class Response:
    """A response: its head, and its body to be read once. When all is read, the connection goes back to the pool; before, the
    response must be closed."""

    def __init__(self, pool: Pool, connection: _Connection, method: str):
        self.data = b""  # the body, if ``send`` has read it
        self._pool = pool
        self._connection: _Connection | None = connection
        status, lines = 100, [""]
        while status < 200:  # 100 Continue precedes the response
            lines = connection.read_until(b"\r\n\r\n").decode("latin-1").split("\r\n")
            version, _, rest = lines[0].partition(" ")
            if version not in ("HTTP/1.1", "HTTP/1.0") or not (rest[:3].isascii() and rest[:3].isdecimal()):
                raise BadResponse("the response is not HTTP")
            status = int(rest[:3])
        self.status = status
        fields = [line.partition(":") for line in lines[1:]]
        self.headers = {name.lower(): value.strip() for name, _, value in fields}  # names in lower case
        self._reusable = (
            connection.sent and version == "HTTP/1.1" and self.headers.get("connection", "").lower() != "close"
        )
        # Bytes left of the body, or of this chunk; None: all until the connection ends.
        self._left: int | None = 0
        self._chunked = False
        if method != "HEAD" and status not in (204, 304):
            self._chunked = "transfer-encoding" in self.headers
            if self._chunked:
                self._next_chunk(connection)
            elif "content-length" in self.headers:
                self._left = _number(self.headers["content-length"], 10)
            else:
                self._left = None
        if self._left == 0:
            self._finish()

    def read(self, size: int = -1) -> bytes:
        """1 to ``size`` bytes, or all if it is negative; b"" at the end. Raises OSError if the body ends too early."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_RECEIVE), b""))
        connection = self._connection
        if connection is None or not size:
            return b""
        data = connection.read(size if self._left is None else min(size, self._left))
        if self._left is not None:
            if not data:
                raise BadResponse(f"the body ended {self._left} bytes early")
            self._left -= len(data)
            if self._left == 0 and self._chunked:
                connection.read_until(b"\r\n")
                self._next_chunk(connection)
        elif not data:
            self._reusable, self._left = False, 0
        if self._left == 0:
            self._finish()
        return data

    def _next_chunk(self, connection: _Connection) -> None:
        size, _, _ = connection.read_until(b"\r\n").partition(b";")
        self._left = _number(size.decode("latin-1").strip(), 16)
        while self._left == 0 and connection.read_until(b"\r\n"):
            pass  # trailers

    def _finish(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and self._reusable:
            self._pool.put_back(connection)
        elif connection is not None:
            connection.close()

    def close(self) -> None:
        """Leave the rest of the body unread, which ends the connection."""
        self._reusable = False
        self._finish()


def _number(text: str, base: int) -> int:
    if not re.fullmatch("[0-9a-fA-F]{1,15}" if base == 16 else "[0-9]{1,18}", text):
        raise BadResponse("the response has no valid length")
    return int(text, base)
