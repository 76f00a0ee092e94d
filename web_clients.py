"""A client's connection as the server (web_server.py) has it: the socket, the request that is being answered, the places that
requests take, and what the server answers itself."""

from __future__ import annotations

import errno
import fcntl
import json
import re
import socket
import struct
import termios
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gunicorn import util
from gunicorn.http import errors as refusals
from gunicorn.http.body import Body, LengthReader
from gunicorn.workers.gthread import TConn

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

BODY_SILENCE = 30.0  # seconds; mobile networks pause
BODY_WINDOW, BODY_RATE = 30.0, 1024  # seconds of waiting, and bytes per second that must come in them
UNREAD_BYTES = 64 * 1024  # of a body that nobody wanted are read to keep the connection, if they have come


class NotYet(BaseException):
    """Ends the application's try to answer a request. Nothing was done or read that can't be done again."""


class MalformedBody(OSError):
    """The request's body is not well-formed: its chunks or its trailers."""


class ClientSocket(socket.socket):
    """A client's connection whose reads have limits of their own, and whose writes never wait."""

    stalled = False  # it was given up for silence or slowness: no farewell is waited for
    _waited = 0.0  # seconds spent waiting for the body in the present window
    _received = 0  # bytes that came in it
    _pushed = 0  # bytes handed to the kernel

    def __init__(self, client: socket.socket):
        super().__init__(client.family, client.type, client.proto, fileno=client.detach())
        self.unsent = bytearray()  # what the kernel did not take yet

    def setblocking(self, flag: bool) -> None:
        """gunicorn calls this with True as each request begins."""
        if flag:
            self._waited, self._received = 0.0, 0
        super().setblocking(flag)

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        """Send what the client takes at once; the rest is kept in ``unsent``, for the event loop."""
        with memoryview(data) as view:
            pushed = 0 if self.unsent else self._push(view)
            self.unsent += view[pushed:]

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        self.sendall(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Send of ``unsent`` what the client takes at once."""
        with memoryview(self.unsent) as view:
            pushed = self._push(view)
        del self.unsent[:pushed]

    def _push(self, view: memoryview) -> int:
        outer, pushed = self.gettimeout(), 0
        self.settimeout(0)
        try:
            while pushed < len(view):
                pushed += super().send(view[pushed:])
        except (BlockingIOError, InterruptedError):
            pass
        finally:
            self.settimeout(outer)
        self._pushed += pushed
        return pushed

    def taken(self) -> int:
        """Bytes that have reached the client's side: of what the kernel was handed, all but what waits there (tcp(7))."""
        try:
            waiting = fcntl.ioctl(self.fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:  # not Linux
            return self._pushed
        return self._pushed - int.from_bytes(waiting, "little")

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        outer = self.gettimeout()
        if outer == 0:  # the event loop, which never waits
            return super().recv(size, flags)
        limit = BODY_SILENCE if outer is None else min(outer, BODY_SILENCE)
        begun = time.monotonic()
        self.settimeout(limit)
        try:
            data = super().recv(size, flags)
        except TimeoutError:
            if limit < BODY_SILENCE:  # the reader's own: it waits again, or wants no more
                self._waited += time.monotonic() - begun
                raise
            raise self._give_up(f"nothing came for {BODY_SILENCE:g} seconds") from None
        finally:
            self.settimeout(outer)
        # Only our waiting counts: a client can't send while the bucket is slow and nobody reads.
        self._waited += time.monotonic() - begun
        self._received += len(data)
        if self._waited >= BODY_WINDOW:
            if self._received < BODY_RATE * self._waited:
                raise self._give_up(f"fewer than {BODY_RATE} bytes per second came")
            self._waited, self._received = 0.0, 0
        return data

    def _give_up(self, why: str) -> ConnectionResetError:
        self.stalled = True
        return ConnectionResetError(errno.ECONNRESET, f"The client was given up: {why}")


class ClientBody(Body):  # type: ignore[misc]
    """A request's body. Those who read it know one kind of error, OSError."""

    def _read_reader(self, size: int) -> bytes:
        try:
            data: bytes = super()._read_reader(size)
        except refusals.ParseException as error:
            raise MalformedBody(str(error)) from error
        return data


Wish = Mapping[str, int]  # for whom a place counts, and how many each of them may have


class Places:
    """How many requests may do something at once. No owner gets more than half of the places, and no address more than three
    quarters. Who finds no place waits, in the order of coming."""

    def __init__(self, total: int):
        self._total = total
        self._taken: Counter[str] = Counter()  # by owner and by address, and under "" all
        self._lock = threading.Lock()
        self.waiting: dict[Connection, None] = {}  # the event loop's alone

    def wish(self, address: str, owner: str | None, most: int | None) -> Wish:
        """For a place that counts for both; of an owner at most ``most``. All who show no credential count as one owner."""
        half = -(-self._total // 2)
        whose = "nobody" if owner is None else f"owner {owner}"
        return {f"address {address}": -(-self._total * 3 // 4), whose: min(half, most or half)}

    def take(self, wish: Wish) -> bool:
        """Take a place; whether there was one."""
        with self._lock:
            if self._taken[""] >= self._total or any(self._taken[name] >= most for name, most in wish.items()):
                return False
            self._taken.update(["", *wish])
            return True

    def give_back(self, wish: Wish) -> None:
        with self._lock:
            self._taken.subtract(["", *wish])
            self._taken = +self._taken  # without those who have none left


class Connection(TConn):  # type: ignore[misc]
    """A client's connection, the part of the next request's head that has come so far, and the request that is being
    answered. It belongs to one thread at a time."""

    def __init__(self, cfg: Any, client: socket.socket, address: Any, server: Any, places: Mapping[str, Places]):
        super().__init__(cfg, ClientSocket(client), address, server)
        self.head = bytearray()
        self.closed = False
        self.late: Callable[[Connection], None]  # what happens at ``timeout``
        self.request: Any = None
        self.response: Any = None  # gunicorn's, once the application has begun to answer
        self.result: Any = None  # what the application gave, to be closed
        self.pieces: Iterator[bytes] | None = None  # what is left of it
        self.keep = False  # the connection, after this request
        self.parked = 0  # bytes of the response that wait for the client
        self.moved = self.taken = 0.0  # when it last took some; what it had taken as its time began
        self.discarded = 0
        self._places = places
        self.wish: tuple[Places, Wish] | None = None  # the place waited for
        self.held: tuple[Places, Wish] | None = None  # the one it has
        self.refused = False  # it has waited long enough for one
        self.awaits_body = False
        self.expected = 0  # bytes of it that were missing as its time began
        self.ended = False  # nothing more comes

    def head_is_complete(self) -> bool:
        """Whether gunicorn's parser will not have to wait: a whole head, or one that it refuses at once."""
        if b"\r\n\r\n" in self.head or self.head.count(b"\n") != self.head.count(b"\r\n"):
            return True
        return len(self.head) > self.cfg.limit_request_line + 2 and self.head.find(b"\r\n", 2) < 0

    # -- for the application, as environ["gateway.connection"] ---------------------------------------------------------

    def place(self, kind: str, address: str, owner: str | None, *, most: int | None = None) -> bool:
        """Take one of the server's places for a "body" or a "stream" until the request is answered; False where none came
        free in PLACE_SECONDS. It counts for the address and the owner, who has at most ``most``. Raises NotYet."""
        if self.held is not None:
            return True
        places = self._places[kind]
        wish = places.wish(address, owner, most)
        if places.take(wish):
            self.held = places, wish
            return True
        if not self.refused:
            self.wish = places, wish
            raise NotYet
        return False

    def whole_body(self, address: str, owner: str | None) -> bool:
        """Make sure that reading the body won't wait for the client, or wait for a "body" as ``place`` does, where its length
        is not known. Raises NotYet."""
        if not isinstance(self.request.body.reader, LengthReader):
            return self.place("body", address, owner)
        while self.missing() > 0 and not self.ended and self.receive():
            pass
        if self.missing() <= 0 or self.ended:
            return True
        if not self.place("whole body", address, owner):
            return False
        self.awaits_body = True
        raise NotYet

    # -- for the worker ------------------------------------------------------------------------------------------------

    def missing(self) -> int:
        """Bytes of the body that have not come."""
        return int(self.request.body.reader.length - self.parser.unreader.buf.seek(0, 2))

    def receive(self) -> bool:
        """Take of the body what has come; False where that is nothing. Never waits."""
        outer = self.sock.gettimeout()
        self.sock.settimeout(0)
        try:
            data = self.sock.recv(min(self.missing(), 256 * 1024))
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        finally:
            self.sock.settimeout(outer)
        self.parser.unreader.buf.write(data)
        self.ended = not data
        return bool(data)

    def body_is_over(self) -> bool:
        """Whether the next request begins where we stand. What has come of an unwanted body is skipped; nothing is waited for."""
        body = self.request.body
        if body.failed or (isinstance(body.reader, LengthReader) and body.reader.length > UNREAD_BYTES):
            return False
        self.sock.settimeout(0)
        try:
            return len(body.read(UNREAD_BYTES)) < UNREAD_BYTES
        except OSError:
            return False
        finally:
            self.sock.settimeout(None)

    def end(self) -> None:
        """Let go of the answered request."""
        result, self.result = self.result, None
        self.request = self.response = self.pieces = None
        self.refused = False
        if hasattr(result, "close"):
            result.close()

    def close(self, graceful: bool = False) -> None:
        if not self.closed:
            self.closed = True
            if self.sock.unsent:  # nor shall the kernel keep what it has for this reader
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            util.close(self.sock)


REFUSALS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], int, str], ...] = (
    ((refusals.InvalidResponseHeader, refusals.InvalidResponseHeaderName), 500, "The server failed to answer."),
    (refusals.ConfigurationProblem, 500, "The server failed to answer."),
    (refusals.LimitRequestLine, 414, "The request line is too long."),
    (refusals.LimitRequestHeaders, 431, "The header fields are too large."),
    (refusals.ExpectationFailed, 417, "Of expectations only 100-continue is understood."),
    (refusals.UnsupportedTransferCoding, 501, "Of transfer codings only chunked is understood."),
    (refusals.ParseException, 400, "The request is not well-formed HTTP."),
)
_TITLES: dict[int, tuple[str, str]] = {
    400: ("Bad Request", "invalid_input"),
    408: ("Request Timeout", "request_timeout"),
    414: ("URI Too Long", "uri_too_long"),
    417: ("Expectation Failed", "expectation_failed"),
    431: ("Request Header Fields Too Large", "headers_too_large"),
    500: ("Internal Server Error", "internal_error"),
    501: ("Not Implemented", "not_implemented"),
}


# A request for /healthz as any monitor sends it; what is less plain goes the usual way.
_HEALTH = re.compile(rb"(?:GET|HEAD) /healthz HTTP/1\.[01]\r\n(?:[A-Za-z0-9-]+:[^\r\n]*\r\n)*\r\n")
_NOT_PLAIN = re.compile(rb"\r\n(?:Content-Length|Transfer-Encoding|Expect|Origin):", re.IGNORECASE)
_REQUEST_ID = re.compile(rb"\r\nX-Request-ID:[ \t]*([A-Za-z0-9._-]{8,128})[ \t]*\r\n", re.IGNORECASE)


def is_health_check(head: bytearray) -> bool:
    return _HEALTH.fullmatch(head) is not None and _NOT_PLAIN.search(head) is None


def health(head: bytearray) -> bytes:
    """The answer of ``/healthz``: while the event loop can give it, the process is alive."""
    given = _REQUEST_ID.search(head)
    body = b'{"status":"ok"}'
    start = _head(200, "OK", "application/json", len(body), given.group(1).decode() if given else uuid.uuid4().hex)
    return start if head.startswith(b"HEAD") else start + body


def _head(status: int, title: str, content_type: str, length: int, request_id: str) -> bytes:
    return (
        f"HTTP/1.1 {status} {title}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n"
        f"X-Request-ID: {request_id}\r\nX-Content-Type-Options: nosniff\r\nCache-Control: private, no-store\r\n"
        "Connection: close\r\n\r\n"
    ).encode()


def problem(status: int, detail: str) -> bytes:
    """A whole HTTP answer: RFC 9457 problem+json, after which the connection is closed."""
    title, code = _TITLES[status]
    request_id = uuid.uuid4().hex
    members = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code}
    body = json.dumps({**members, "request_id": request_id}).encode()
    return _head(status, title, "application/problem+json", len(body), request_id) + body
