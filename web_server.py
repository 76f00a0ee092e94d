"""The HTTP server: gunicorn's threaded worker, with what it lacks for clients that are slow or mean.

A connection gets a thread only when the head of its request is complete: until then the worker's event loop collects
it, against one deadline, so that half-sent heads and idle connections cost no thread (THREATS T110). A body must keep
coming: a silence of BODY_SILENCE seconds, or less than BODY_RATE over BODY_WINDOW seconds of waiting, ends the
connection and the read raises ``ConnectionResetError`` with what had come kept in gunicorn's buffers (T55). What
gunicorn refuses itself is answered as problem+json with an X-Request-ID, as everything else is. All this rests on
internals of gunicorn 27.0, which is why that version is pinned and tests/test_web_server.py opens real sockets.
"""

from __future__ import annotations

import errno
import gc
import json
import socket
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from gunicorn import util
from gunicorn.app.base import BaseApplication
from gunicorn.http import errors as refusals
from gunicorn.workers.gthread import TConn, ThreadWorker

from settings import Settings

if TYPE_CHECKING:
    from flask import Flask

HEAD_SECONDS = 15.0                   # from the first look at a connection until its request's head is complete
HEAD_BYTES = 64 * 1024                # of a head as a whole; gunicorn limits the lines and fields in it
BODY_SILENCE = 30.0                   # seconds; mobile networks pause
BODY_WINDOW, BODY_RATE = 30.0, 1024   # seconds of waiting, and bytes per second that must come in them
SEND_SECONDS = 120.0                  # for one piece of a response: readers open their window in big steps
LINGER_SECONDS = 1.0                  # for the client to read our last answer while it still sends
GRACE_SECONDS = 30                    # after SIGTERM, for requests in flight


class ClientSocket(socket.socket):
    """A client's connection whose reads have limits of their own; gunicorn knows one timeout for both directions."""

    stalled = False                   # it was given up for silence or slowness: no farewell is waited for
    _waited = 0.0                     # seconds spent waiting for the body in the present window
    _received = 0                     # bytes that came in it

    def setblocking(self, flag: bool) -> None:
        """gunicorn calls this with True as each request begins, to block without limit; here a limit is set."""
        if flag:
            self._waited, self._received = 0.0, 0
        self.settimeout(SEND_SECONDS if flag else 0)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        outer = self.gettimeout()
        if outer == 0:                                       # the event loop, which never waits
            return super().recv(size, flags)
        limit = BODY_SILENCE if outer is None else min(outer, BODY_SILENCE)
        begun = time.monotonic()
        self.settimeout(limit)
        try:
            data = super().recv(size, flags)
        except TimeoutError:
            if limit < BODY_SILENCE:                         # the reader's own: it waits again, or wants no more
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


class Connection(TConn):  # type: ignore[misc]
    """A client's connection and the part of the next request's head that has come so far."""

    def __init__(self, cfg: Any, client: socket.socket, address: Any, server: Any):
        wrapped = ClientSocket(client.family, client.type, client.proto, fileno=client.detach())
        super().__init__(cfg, wrapped, address, server)
        self.head = bytearray()
        self.closed = False

    def head_is_complete(self) -> bool:
        """Whether gunicorn's parser will not have to wait: a whole head, or one that it refuses at once."""
        if b"\r\n\r\n" in self.head or self.head.count(b"\n") != self.head.count(b"\r\n"):
            return True
        return len(self.head) > self.cfg.limit_request_line + 2 and self.head.find(b"\r\n", 2) < 0

    def close(self, graceful: bool = False) -> None:
        if self.closed:
            return
        self.closed = True
        if graceful and not self.sock.stalled:
            util.close_graceful(self.sock, timeout=LINGER_SECONDS)
        else:
            util.close(self.sock)


class Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's threaded worker, in which a thread is given to complete heads only."""

    def accept(self, listener: socket.socket) -> bool:
        """Take a connection; whether there was one."""
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK):
                raise
            return False
        self.nr_conns += 1
        self._await_head(Connection(self.cfg, client, address, listener.getsockname()))
        return True

    def enqueue_req(self, conn: Connection) -> None:
        """Called with a kept connection that has become readable, or has the next request in its buffer."""
        self._await_head(conn)

    def _await_head(self, conn: Connection) -> None:
        if conn.parser is not None:
            conn.head += conn.parser.unreader.take_buffered()
        if conn.head_is_complete():
            super().enqueue_req(conn)
            return
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + HEAD_SECONDS
        self.pending_conns.append(conn)                      # murder_pending() closes it at its time
        self.poller.register(conn.sock, 1, partial(self._read_head, conn))   # 1: selectors.EVENT_READ

    def _read_head(self, conn: Connection, client: ClientSocket) -> None:
        try:
            data = client.recv(16 * 1024)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        conn.head += data
        too_large = len(conn.head) > HEAD_BYTES and not conn.head_is_complete()
        if data and not too_large and not conn.head_is_complete():
            return
        self.poller.unregister(client)
        self.pending_conns.remove(conn)
        if data and not too_large:
            super().enqueue_req(conn)
            return
        if too_large:
            self._refuse(client, 431, "The header fields are too large.")
        self.nr_conns -= 1
        conn.close()

    def murder_pending(self) -> None:
        """Tell those who sent half a head that their time is over; gunicorn then closes them all."""
        now = time.monotonic()
        for conn in self.pending_conns:
            if conn.timeout > now:
                break                                        # the queue is in order of time
            if conn.head:
                self._refuse(conn.sock, 408, "The request's head did not come in time.")
        super().murder_pending()

    def _cap_keepalive(self, deadline: float) -> None:
        """gunicorn's look at its connections as it begins to stop: those without a request shall not hold it up. It would close
        its listeners last, and who connects meanwhile would hear nothing: those who are there are served, others refused."""
        for listener in self.sockets:
            while self.nr_conns < self.worker_connections and self.accept(listener):
                pass
            listener.close()
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def handle(self, conn: Connection) -> Any:
        """One request, in a thread. What ends is closed here: the event loop must not wait for a client's farewell."""
        conn.data_ready = True
        conn.sock.setblocking(True)
        conn.init()
        conn.parser.unreader.unread(bytes(conn.head))
        conn.head.clear()
        keep = super().handle(conn)
        if not keep:
            conn.close(graceful=True)
        return keep

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """What gunicorn refuses before the application sees it, and what failed above the application's own net."""
        found = [(status, detail) for kind, status, detail in REFUSALS if isinstance(exc, kind)]
        status, detail = found[0] if found else (500, "The server failed to answer.")
        if status == 500:
            self.log.exception("A request failed outside of the application")
        else:
            self.log.info("Refused a request from %s: %s", (addr or ("",))[0], exc)
        self._refuse(client, status, detail)

    def _refuse(self, client: Any, status: int, detail: str) -> None:
        try:
            client.setblocking(False)
            client.send(problem(status, detail))             # under the size of any socket buffer: whole or not at all
        except OSError:
            pass


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


def problem(status: int, detail: str) -> bytes:
    """A whole HTTP answer: RFC 9457 problem+json, after which the connection is closed."""
    title, code = _TITLES[status]
    request_id = uuid.uuid4().hex
    members = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code}
    body = json.dumps({**members, "request_id": request_id}).encode()
    head = (
        f"HTTP/1.1 {status} {title}\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n"
        f"X-Request-ID: {request_id}\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn configured by us alone: no gunicorn.conf.py, no GUNICORN_CMD_ARGS, no command line."""

    def __init__(self, create_app: Callable[[], Flask], settings: Settings):
        self._create_app, self._settings = create_app, settings
        super().__init__()

    def load_config(self) -> None:
        for name, value in options(self._settings).items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """In each worker after the fork: neither a connection pool nor a client of the bucket survives one."""
        app = self._create_app()
        # What is there now stays: looking through it again for garbage took half the time of a tree of 10,000 folders.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000)
        return app


def options(settings: Settings) -> dict[str, Any]:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {
        "bind": f"{host}:{settings.port}",
        "worker_class": "web_server.Worker",
        "workers": settings.web_workers,
        "threads": settings.web_threads,
        "worker_connections": 2000,          # most of them idle; each costs a descriptor and a few KiB
        "keepalive": 15,
        "timeout": 60,                       # of the event loop, not of a request
        "graceful_timeout": GRACE_SECONDS,
        "limit_request_line": 8190,
        "preload_app": False,
        "control_socket_disable": True,
        "forwarded_allow_ips": "",           # X-Forwarded-* is the application's business (TRUSTED_PROXIES)
        "accesslog": None,                   # the application logs each request, with its id
        "loglevel": "warning",
        "proc_name": "upload-gateway",
    }


def run(create_app: Callable[[], Flask], settings: Settings) -> int:
    """Serve until SIGTERM, then finish the requests in flight (GRACE_SECONDS at most).

    gunicorn ends the process itself, with status 0, or 3 where the application could not be made."""
    Server(create_app, settings).run()
    return 0
