"""One client's connection, as web_server.py's worker sees it.

    ClientSocket   reads with time limits, and writes that never block
    ClientBody     a request's body, whose read errors are all OSError
    SlotPool       a limit on concurrent requests of one kind
    Connection     a connection, its current request and response; also what the application calls
    health_response, problem_response   responses that the server sends itself

A connection belongs to one thread at a time: to the event loop while it waits, to a thread while its request is processed.
A request waits for its body or for a slot outside of threads: the application's attempt ends with RequestDeferred, and the
request starts again when it need no longer wait. So an application must ask for a slot before it does or reads anything.
"""

from __future__ import annotations

import errno
import fcntl
import json
import re
import select
import socket
import struct
import termios
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any

from gunicorn import util
from gunicorn.http import errors as http_errors
from gunicorn.http import wsgi
from gunicorn.http.body import Body, LengthReader
from gunicorn.workers.gthread import TConn

from core.security_headers import SECURITY_HEADERS

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

BODY_SILENCE = 30.0  # seconds without a byte; mobile networks pause
BODY_WINDOW, BODY_RATE = 30.0, 1024  # seconds of waiting, and the bytes per second that must arrive in them
UNREAD_BYTES = 64 * 1024  # of an unread body that are skipped to keep the connection, if they have arrived


class RequestDeferred(BaseException):
    """Ends the application's attempt at a request, which starts again later."""


class MalformedBody(OSError):
    """The request's body is malformed: its chunks or its trailers."""


class ClientSocket(socket.socket):
    """A client's socket. Blocking reads have time limits, and writes never block: ``unsent`` buffers the rest.

    For the kernel it never blocks: each change would be a system call, during which other threads take the interpreter."""

    timed_out = False  # the client was too slow: don't wait until it has read the last response
    _waited = 0.0  # seconds spent waiting for the body in the current window
    _received = 0  # bytes received in it
    written = 0  # bytes handed to the kernel
    received = 0  # bytes

    def __init__(self, client: socket.socket):
        super().__init__(client.family, client.type, client.proto, fileno=client.detach())
        super().settimeout(0)
        self._timeout: float | None = 0.0
        self.unsent = bytearray()
        self.hold = False  # whether to keep what is written next, to send it with what follows
        self._held = b""

    def gettimeout(self) -> float | None:
        """Seconds that ``recv`` waits; None: BODY_SILENCE."""
        return self._timeout

    def settimeout(self, value: float | None, /) -> None:
        """Set the seconds that ``recv`` waits."""
        self._timeout = value

    def setblocking(self, flag: bool) -> None:
        """gunicorn calls this with True when a request begins."""
        if flag:
            self._waited, self._received = 0.0, 0
        self._timeout = None if flag else 0.0

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        """Send what the kernel takes, and buffer the rest for the event loop."""
        if self.hold:
            self._held += data
            return
        if self._held:
            data, self._held = b"".join((self._held, data)), b""
        with memoryview(data) as view:
            written = 0 if self.unsent else self._write(view)
            self.unsent += view[written:]

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        """As ``sendall``; the length of ``data``."""
        self.sendall(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Send what the kernel takes of ``unsent``."""
        with memoryview(self.unsent) as view:
            written = self._write(view)
        del self.unsent[:written]

    def _write(self, view: memoryview) -> int:
        written = 0
        with suppress(BlockingIOError):
            while written < len(view):
                written += super().send(view[written:])
        self.written += written
        return written

    def acknowledged(self) -> int:
        """Bytes that the client's side has acknowledged: those written, less those in the kernel's queue (tcp(7))."""
        try:
            queued = fcntl.ioctl(self.fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:  # not Linux
            return self.written
        return self.written - int.from_bytes(queued, "little")

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Up to ``size`` bytes. Raises ConnectionResetError if the client sends nothing or too slowly."""
        timeout = self._timeout
        if timeout == 0:  # in the event loop
            data = super().recv(size, flags)
            self.received += len(data)
            return data
        limit = BODY_SILENCE if timeout is None else min(timeout, BODY_SILENCE)
        begun = time.monotonic()
        while True:
            with suppress(BlockingIOError):
                data = super().recv(size, flags)
                break
            if not self._wait_readable(begun + limit - time.monotonic()):
                if limit < BODY_SILENCE:  # the reader's own timeout
                    self._waited += time.monotonic() - begun
                    raise TimeoutError
                raise self._too_slow(f"nothing came for {BODY_SILENCE:g} seconds")
        # Only time spent waiting counts: a client can't send while nobody reads because the bucket is slow.
        self._waited += time.monotonic() - begun
        self._received += len(data)
        self.received += len(data)
        if self._waited >= BODY_WINDOW:
            if self._received < BODY_RATE * self._waited:
                raise self._too_slow(f"fewer than {BODY_RATE} bytes per second came")
            self._waited, self._received = 0.0, 0
        return data

    def _wait_readable(self, seconds: float) -> bool:
        poller = select.poll()
        poller.register(self, select.POLLIN)
        return bool(poller.poll(max(0.0, seconds) * 1000))

    def _too_slow(self, reason: str) -> ConnectionResetError:
        self.timed_out = True
        return ConnectionResetError(errno.ECONNRESET, f"The client was too slow: {reason}")


class ClientBody(Body):  # type: ignore[misc]
    """A request's body, whose read errors are all OSError."""

    def read1(self, size: int, /) -> bytes:
        """Up to ``size`` bytes with at most one read of the socket, and without the copies that ``read`` makes to gather them.
        b"" at the end. A read that raises loses nothing. A chunked body is read as by ``read``."""
        reader = self.reader
        if self.buf.tell() or not isinstance(reader, LengthReader):
            return self.read(size)  # type: ignore[no-any-return]
        held = reader.unreader.buf.seek(0, 2)
        if held or not reader.length:
            return reader.read(min(size, held))  # type: ignore[no-any-return]
        data: bytes = reader.unreader.sock.recv(min(size, reader.length))
        reader.length -= len(data)
        return data

    def _read_reader(self, size: int) -> bytes:
        try:
            data: bytes = super()._read_reader(size)
        except http_errors.ParseException as error:
            raise MalformedBody(str(error)) from error
        return data


class HeldResponse(wsgi.Response):  # type: ignore[misc]
    """A response whose head is sent together with the first bytes of its body."""

    def send_headers(self) -> None:
        """Write the head."""
        self.sock.hold = True
        try:
            super().send_headers()
        finally:
            self.sock.hold = False

    def close(self) -> None:
        """End the body. A head without a body is sent now."""
        super().close()
        self.sock.sendall(b"")


Claim = Mapping[str, int]  # the address and the owner a slot counts for, each with its limit


class SlotPool:
    """A limit on concurrent requests of one kind. An owner gets at most half of the slots, an address at most three quarters.
    Requests wait for a slot in the order in which they came."""

    def __init__(self, slots: int):
        self._slots = slots
        self._used: Counter[str] = Counter()  # by address and owner; "" counts all
        self._lock = threading.Lock()
        self.queue: dict[Connection, None] = {}  # changed by the event loop only

    def claim(self, address: str, owner: str | None, limit: int | None) -> Claim:
        """A claim for one slot; ``limit`` is a lower limit for the owner. All anonymous callers count as one owner."""
        half = -(-self._slots // 2)
        caller = "nobody" if owner is None else f"owner {owner}"
        return {f"address {address}": -(-self._slots * 3 // 4), caller: min(half, limit or half)}

    def acquire(self, claim: Claim) -> bool:
        """Take a slot; False if none is free."""
        with self._lock:
            if self._used[""] >= self._slots or any(self._used[name] >= limit for name, limit in claim.items()):
                return False
            self._used.update(["", *claim])
            return True

    def release(self, claim: Claim) -> None:
        """Return a slot."""
        with self._lock:
            self._used.subtract(["", *claim])
            self._used = +self._used  # drops zeros


class Connection(TConn):  # type: ignore[misc]
    """A client's connection: the start of its next request, or the request and response in progress."""

    def __init__(self, cfg: Any, client: socket.socket, address: Any, server: Any, pools: Mapping[str, SlotPool]):
        super().__init__(cfg, ClientSocket(client), address, server)
        self.head = bytearray()  # what has arrived of the next request's head
        self.closed = False
        self.on_timeout: Callable[[Connection], None]  # called at ``timeout``
        self.request: Any = None
        self.response: Any = None  # gunicorn's, once the application has returned
        self.result: Any = None  # the application's iterable, to be closed
        self.chunks: Iterator[bytes] | None = None  # the rest of it
        self.keep_alive = False
        self.buffered = 0  # length of ``sock.unsent`` while the event loop sends it
        self.last_sent = 0.0  # when the kernel last took some of it
        self.acknowledged = 0  # what the client had acknowledged when SEND_WINDOW began
        self.discarded = 0
        self._pools = pools
        self.kept: Any = None  # what the application keeps while its request starts again
        self.wanted_slot: tuple[SlotPool, Claim] | None = None
        self.slot: tuple[SlotPool, Claim] | None = None
        self.slot_timed_out = False
        self.awaits_body = False
        self.missing_before = 0  # bytes of the body that were missing when BODY_WINDOW began
        self.at_end = False  # the client sends nothing more
        # What the access log will tell of the request in progress; None without one. The application adds to it.
        self.access: dict[str, Any] | None = None
        self.context = Context()  # of the request, in whichever thread it is processed
        self._begun = 0.0
        self._logged = 0, 0  # bytes received and sent before

    def head_is_complete(self) -> bool:
        """Whether gunicorn's parser won't block: the head is complete, or will be rejected at once."""
        if b"\r\n\r\n" in self.head or self.head.count(b"\n") != self.head.count(b"\r\n"):
            return True
        return len(self.head) > self.cfg.limit_request_line + 2 and self.head.find(b"\r\n", 2) < 0

    # -- for the application, as environ["gateway.connection"] ---------------------------------------------------------

    def acquire_slot(self, kind: str, address: str, owner: str | None, *, limit: int | None = None) -> bool:
        """Take a slot for a "body" or a "stream" until the response is sent. False if none came free in SLOT_SECONDS. It
        counts for the address and for the owner, who gets at most ``limit``. Raises RequestDeferred."""
        if self.slot is not None:
            return True
        pool = self._pools[kind]
        claim = pool.claim(address, owner, limit)
        if pool.acquire(claim):
            self.slot = pool, claim
            return True
        if self.slot_timed_out:
            return False
        self.wanted_slot = pool, claim
        raise RequestDeferred

    def buffer_body(self, address: str, owner: str | None) -> bool:
        """Receive the whole body, so that reading it won't block. A body of unknown length takes a "body" slot instead, as
        ``acquire_slot`` does. Raises RequestDeferred."""
        if not isinstance(self.request.body.reader, LengthReader):
            return self.acquire_slot("body", address, owner)
        while self.missing() > 0 and not self.at_end and self.receive():
            pass
        if self.missing() <= 0 or self.at_end:
            return True
        if not self.acquire_slot("whole body", address, owner):
            return False
        self.awaits_body = True
        raise RequestDeferred

    # -- the access log ------------------------------------------------------------------------------------------------

    def begin_access(self) -> None:
        """A request has begun, or is rejected before that."""
        address = self.client[0] if isinstance(self.client, tuple) else None
        self.access, self._begun = {"method": None, "route": None, "status": None, "address": address}, time.monotonic()

    def end_access(self) -> dict[str, Any] | None:
        """What the access log tells of the request that has ended, with all bytes received and sent; None if there was none."""
        access, self.access = self.access, None
        if access is not None:
            (received, sent), self._logged = self._logged, (self.sock.received, self.sock.written)
            access["bytes_received"], access["bytes_sent"] = self._logged[0] - received, self._logged[1] - sent
            access["seconds"] = round(time.monotonic() - self._begun, 6)
        return access

    # -- for the worker ------------------------------------------------------------------------------------------------

    def return_slot(self) -> SlotPool | None:
        """Return the request's slot; its pool, if there was one. The caller offers it to the pool's queue."""
        if self.slot is None:
            return None
        (pool, claim), self.slot = self.slot, None
        pool.release(claim)
        return pool

    def missing(self) -> int:
        """Bytes of the body that have not arrived."""
        return int(self.request.body.reader.length - self.parser.unreader.buf.seek(0, 2))

    def receive(self) -> bool:
        """Buffer what has arrived of the body, without blocking; False if nothing has."""
        timeout = self.sock.gettimeout()
        self.sock.settimeout(0)
        try:
            data = self.sock.recv(min(self.missing(), 256 * 1024))
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        finally:
            self.sock.settimeout(timeout)
        self.parser.unreader.buf.write(data)
        self.at_end = not data
        return bool(data)

    def has_next_request(self) -> bool:
        """Whether the start of a pipelined request was read ahead."""
        return self.parser is not None and self.parser.unreader.buf.tell() > 0

    def skip_body(self) -> bool:
        """Skip what has arrived of an unread body, without blocking. Whether the next request begins here."""
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

    def end_request(self) -> None:
        """Close the application's iterable and forget the request."""
        result, self.result = self.result, None
        self.request = self.response = self.chunks = self.kept = None
        self.slot_timed_out = False
        if hasattr(result, "close"):
            self.context.run(result.close)

    def close(self, graceful: bool = False) -> None:
        """Close the socket; unsent bytes are dropped."""
        if not self.closed:
            self.closed = True
            if self.sock.unsent:  # drop the kernel's buffer too
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            util.close(self.sock)


_FAILED = "The server failed to respond."
# Status and detail for each of gunicorn's errors, the most specific first.
_PROBLEMS: tuple[tuple[type[Exception], int, str], ...] = (
    (http_errors.InvalidResponseHeader, 500, _FAILED),
    (http_errors.InvalidResponseHeaderName, 500, _FAILED),
    (http_errors.ConfigurationProblem, 500, _FAILED),
    (http_errors.LimitRequestLine, 414, "The request line is too long."),
    (http_errors.LimitRequestHeaders, 431, "The header fields are too large."),
    (http_errors.ExpectationFailed, 417, "Only the expectation 100-continue is supported."),
    (http_errors.UnsupportedTransferCoding, 501, "Only the transfer coding chunked is supported."),
    (http_errors.ParseException, 400, "The request is not well-formed HTTP."),
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
# GET or HEAD /healthz as monitors send it. Other forms go to the application.
_HEALTH = re.compile(rb"(?:GET|HEAD) /healthz HTTP/1\.[01]\r\n(?:[A-Za-z0-9-]+:[^\r\n]*\r\n)*\r\n")
_NOT_PLAIN = re.compile(rb"\r\n(?:Content-Length|Transfer-Encoding|Expect|Origin):", re.IGNORECASE)
_REQUEST_ID = re.compile(rb"\r\nX-Request-ID:[ \t]*([A-Za-z0-9._-]{8,128})[ \t]*\r\n", re.IGNORECASE)


def is_health_check(head: bytearray) -> bool:
    """Whether this is a plain request for ``/healthz``."""
    return _HEALTH.fullmatch(head) is not None and _NOT_PLAIN.search(head) is None


def health_response(head: bytearray) -> bytes:
    """The response to ``/healthz``: the process is alive if its event loop can send it."""
    given = _REQUEST_ID.search(head)
    body = b'{"status":"ok"}'
    start = _head(200, "OK", "application/json", len(body), given.group(1).decode() if given else uuid.uuid4().hex)
    return start if head.startswith(b"HEAD") else start + body


def problem_for(error: BaseException) -> tuple[int, str]:
    """Status and detail for an error of gunicorn's, or of the application's that it did not handle."""
    return next(((status, detail) for kind, status, detail in _PROBLEMS if isinstance(error, kind)), (500, _FAILED))


def problem_response(status: int, detail: str) -> bytes:
    """A problem+json response (RFC 9457) that closes the connection."""
    title, code = _TITLES[status]
    request_id = uuid.uuid4().hex
    members = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code}
    body = json.dumps({**members, "request_id": request_id}).encode()
    return _head(status, title, "application/problem+json", len(body), request_id) + body


_DESCRIBED = re.compile(rb"HTTP/1\.1 (\d{3}) .*?\r\nX-Request-ID: (\S+)", re.DOTALL)


def described(response: bytes) -> dict[str, Any]:
    """What the access log tells of a response that the server sends itself."""
    found = _DESCRIBED.match(response)
    assert found is not None
    return {"status": int(found[1]), "request_id": found[2].decode()}


def _head(status: int, title: str, content_type: str, length: int, request_id: str) -> bytes:
    own = {"Content-Type": content_type, "Content-Length": length, "X-Request-ID": request_id, "Connection": "close"}
    lines = [f"{name}: {value}\r\n" for name, value in [*own.items(), *SECURITY_HEADERS]]
    return f"HTTP/1.1 {status} {title}\r\n{''.join(lines)}\r\n".encode()
