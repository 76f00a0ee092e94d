"""The HTTP server: gunicorn's threaded worker, protected from slow and hostile clients.

Threads do work; all waiting for clients happens in the worker's event loop:

- A request gets a thread when its head is complete. An incomplete head has HEAD_SECONDS.
- A response is written as far as the client's socket takes it. The event loop sends the rest, and closes connections that
  take less than SEND_RATE. Streams continue in threads of their own.
- A connection whose request body was not read is closed; the event loop discards what still arrives.
- The application takes a slot before it reads a long body or opens a stream (``Connection.acquire_slot``), and buffers a
  short body (``Connection.buffer_body``). If a slot or the body is not there yet, RequestDeferred ends the attempt; the
  event loop waits, and the request starts again.
- The event loop answers ``/healthz`` itself.
- When a request has ended, whoever answered it, a line in the access log says so (``_log_access``).

A body that is read in a thread must keep coming: BODY_SILENCE seconds without a byte, or less than BODY_RATE over
BODY_WINDOW seconds of waiting, raise ConnectionResetError in the reader; what had arrived stays in gunicorn's buffers. A
malformed body raises MalformedBody. Requests that gunicorn rejects get problem+json with an X-Request-ID.

The path of a connection through ``Worker``: accept → enqueue_req → _begin → handle (in a thread) → _keep_alive, or
finish_request → one of _await_slot, _await_body, _await_client, _keep_alive, _linger. This relies on internals of gunicorn
27.0, so that version is pinned, and tests/test_web_server.py uses real sockets.
"""

from __future__ import annotations

import errno
import gc
import random
import resource
import socket
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context
from functools import partial
from selectors import EVENT_READ, EVENT_WRITE
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication
from gunicorn.http import errors as http_errors
from gunicorn.http import wsgi
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

import telemetry
import web_clients
from settings import Settings
from web_clients import (
    ClientBody,
    ClientSocket,
    Connection,
    HeldResponse,
    MalformedBody,
    RequestDeferred,
    SlotPool,
    problem_response,
)

if TYPE_CHECKING:
    from flask import Flask

MAX_CONNECTIONS = 2000  # of one process; most are idle, and each costs a file descriptor and a few KiB
HEAD_SECONDS = 15.0  # until a request's head must be complete
KEEP_ALIVE_SECONDS = 15.0  # until the next request must begin
HEAD_BYTES = 64 * 1024  # of a head as a whole; gunicorn limits its lines and fields
SEND_WINDOW, SEND_RATE = 120.0, 1024  # seconds, and bytes per second in them; a receive window opens in big steps
SEND_SLICE = 0.1  # seconds that a thread spends on one stream at a time
UNSENT_BYTES = 64 * 1024 * 1024  # of all buffered responses; above it the slowest connections are closed
LINGER_SECONDS = 1.0  # for the client to read the last response while it still sends
LINGER_BYTES = 1024 * 1024  # discarded meanwhile; the rest stays in the kernel
SLOT_SECONDS = 12.0  # that a request waits for a slot, on average
STREAMS, WHOLE_BODIES = 64, 64  # slots for streams, and for buffered bodies of up to 1 MiB
GRACE_SECONDS = 30  # after SIGTERM, for the requests in progress


class Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's threaded worker, whose event loop does all waiting for clients. Methods run in the event loop, except
    ``handle`` and those under "in a thread"."""

    def init_process(self) -> None:
        """Create the slot pools and threads of this process."""
        threads = self.cfg.threads
        reserved = max(1, threads // 4)  # threads that are free of body reads, for short requests
        self.pools = {
            "body": SlotPool(threads - reserved),
            "stream": SlotPool(STREAMS),
            "whole body": SlotPool(WHOLE_BODIES),
        }
        # These send streams and the rest of large responses. They are few, to leave CPU time to the others.
        self.senders: Executor = ThreadPoolExecutor(max(1, threads // 4))
        self.waiting: dict[Connection, None] = {}  # for their clients or for a slot, each until its ``timeout``
        self.buffered = 0  # bytes of responses that the event loop sends
        self.next_timeout_check = 0.0
        self.worker_connections: int = min(self.cfg.worker_connections, max(64, (descriptors() - 256) // 2))
        super().init_process()

    # -- waiting -------------------------------------------------------------------------------------------------------

    def _wait(
        self,
        conn: Connection,
        event: int,
        on_event: Callable[[Connection, ClientSocket], None] | None,
        seconds: float,
        on_timeout: Callable[[Connection], None],
    ) -> None:
        """Call ``on_event`` at each event on the socket until _stop_waiting(), or ``on_timeout`` after ``seconds``.

        May be called in a thread, as the last thing that it does with the connection."""
        now = time.monotonic()
        conn.timeout, conn.on_timeout = now + seconds, on_timeout
        conn.sock.setblocking(False)
        self.waiting[conn] = None
        # A stop does not wait for requests that have not begun. The flag is read after the entry is made: _cap_keepalive sets
        # it first, and then looks at the entries.
        if not self.alive and on_timeout != self._send_timeout:
            conn.timeout = min(conn.timeout, now + STOP_KEEPALIVE_LINGER)
        if on_event is not None:
            self.poller.register(conn.sock, event, partial(on_event, conn))

    def _stop_waiting(self, conn: Connection) -> None:
        del self.waiting[conn]
        with suppress(KeyError):  # not registered if it waits for a slot
            self.poller.unregister(conn.sock)
        self.buffered -= conn.buffered
        conn.buffered = 0

    def murder_pending(self) -> None:
        """gunicorn calls this after each round of events."""
        now = time.monotonic()
        if now < self.next_timeout_check:
            return
        self.next_timeout_check = now + 0.2
        for conn in list(self.waiting):
            if conn.timeout <= now and conn in self.waiting:  # still: another's end may have given it a slot
                self._stop_waiting(conn)
                conn.on_timeout(conn)

    def _cap_keepalive(self, deadline: float) -> None:
        """gunicorn calls this when it begins to stop. Connections in the listen queue are served; later ones are refused at
        once, while gunicorn would leave them without an answer. Connections without a request don't delay the stop."""
        for listener in self.sockets:
            while self.nr_conns < self.worker_connections and self._accept_one(listener):
                pass
            listener.close()
        super()._cap_keepalive(deadline)
        for conn in list(self.waiting):
            if conn.on_timeout != self._send_timeout:
                conn.timeout = min(conn.timeout, deadline)

    # -- a request's head ----------------------------------------------------------------------------------------------

    def accept(self, listener: socket.socket) -> None:
        """Accept a few connections: one per round would be slow, and all would leave none to other processes."""
        for _ in range(8):
            if self.nr_conns >= self.worker_connections or not self._accept_one(listener):
                break

    def _accept_one(self, listener: socket.socket) -> bool:
        """Accept a connection; False if there is none."""
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK):
                raise
            return False
        self.nr_conns += 1
        self.enqueue_req(Connection(self.cfg, client, address, listener.getsockname(), self.pools))
        return True

    def enqueue_req(self, conn: Connection) -> None:
        """Wait for a request's head. Also called when a kept connection has a pipelined request."""
        if conn.parser is not None:
            conn.head += conn.parser.unreader.take_buffered()
        if conn.head_is_complete():
            self._begin(conn)
        else:
            self._wait(conn, EVENT_READ, self._read_head, HEAD_SECONDS, self._head_timeout)

    def _read_head(self, conn: Connection, client: ClientSocket) -> None:
        data = _received(client, 16 * 1024)
        if data is None:
            return
        kept = conn.parser is not None and not conn.head
        conn.head += data
        complete = conn.head_is_complete()
        if data and not complete and len(conn.head) <= HEAD_BYTES:
            if kept and self.alive:
                conn.timeout = time.monotonic() + HEAD_SECONDS
            return
        self._stop_waiting(conn)
        if not data:
            self._drop(conn)
        elif complete:
            self._begin(conn)
        else:
            conn.begin_access()
            self._respond(conn, problem_response(431, "The header fields are too large."))

    def _head_timeout(self, conn: Connection) -> None:
        if conn.head:
            conn.begin_access()
            self._respond(conn, problem_response(408, "The request's head did not arrive in time."))
        else:
            self._drop(conn)

    def _begin(self, conn: Connection) -> None:
        conn.begin_access()
        if web_clients.is_health_check(conn.head):
            self._respond(conn, web_clients.health_response(conn.head))
        else:
            self._submit(conn, self.tpool)

    # -- in a thread, and back -----------------------------------------------------------------------------------------

    def _submit(self, conn: Connection, pool: Executor) -> None:
        conn.wanted_slot, conn.awaits_body = None, False
        pool.submit(self._work, conn)

    def _work(self, conn: Connection) -> None:
        try:
            self.handle(conn)
        except BaseException:  # SystemExit and the like
            self.method_queue.defer(self._drop, conn)
            raise
        if conn.keep_alive and not conn.sock.unsent and not conn.has_next_request():
            # Here, since waking the event loop costs more.
            self._log_access(conn)
            pool = conn.return_slot()
            if pool is not None and pool.queue:
                self.method_queue.defer(self._offer_slot, pool)
            self._keep_alive(conn)
        else:
            self.method_queue.defer(self.finish_request, conn)

    def handle(self, conn: Connection) -> None:
        """Process a request until its response is sent or it must wait."""
        conn.sock.setblocking(True)
        conn.keep_alive = False
        try:
            if conn.response is not None:
                self._send(conn)
            else:
                self._call_application(conn)
                if not self._is_stream(conn):
                    self._send(conn)
            return
        except RequestDeferred:
            return
        except (http_errors.NoMoreData, StopIteration) as error:
            self.log.debug("The client has disconnected: %s", error)
        except MalformedBody as error:
            self._reject(conn, error.__cause__ or error)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                self.log.exception("Socket error processing request.")
        except Exception as error:
            if conn.response is not None and conn.response.headers_sent:
                self.log.exception("A response broke off")  # the connection is closed, so it can't look complete
            else:
                self._reject(conn, error)
        conn.wanted_slot, conn.awaits_body = None, False
        self._end_request(conn)

    def _call_application(self, conn: Connection) -> None:
        conn.init()
        if conn.request is None:
            conn.parser.unreader.unread(bytes(conn.head))
            conn.head.clear()
            request = next(conn.parser)
            for name, value in request.headers:
                if name == "TRANSFER-ENCODING" and value.strip().lower() != "chunked":
                    raise http_errors.UnsupportedTransferCoding(value)  # gunicorn would not decode it
            request.body = ClientBody(request.body.reader)
            conn.request = request
        response, environ = wsgi.create(conn.request, conn.sock, conn.client, conn.server, self.cfg, HeldResponse)
        conn.request._expected_100_continue = False  # sent once, however often the request starts
        if not self.alive or len(self.waiting) >= self.max_keepalived:
            response.force_close()
        environ.update({"wsgi.multithread": True, "gateway.connection": conn})
        conn.context = Context()
        conn.result = conn.context.run(self.wsgi, environ, response.start_response)
        if not conn.skip_body():
            response.force_close()
        conn.response, conn.chunks = response, iter(conn.result)
        if conn.access is not None:
            conn.access["method"], conn.access["status"] = conn.request.method, response.status_code

    def _is_stream(self, conn: Connection) -> bool:
        return conn.slot is not None and conn.slot[0] is self.pools["stream"]

    def _send(self, conn: Connection) -> None:
        """Send the response until the socket takes no more, or for SEND_SLICE."""
        until = time.monotonic() + SEND_SLICE
        assert conn.chunks is not None
        while not conn.sock.unsent and time.monotonic() < until:
            chunk = conn.context.run(next, conn.chunks, None)
            if chunk is None:
                conn.response.close()
                conn.keep_alive = not conn.response.should_close()
                self._end_request(conn)
                return
            conn.response.write(chunk)

    def _end_request(self, conn: Connection) -> None:
        try:
            conn.end_request()
        except Exception:
            self.log.exception("A response could not be closed")

    def finish_request(self, conn: Connection) -> None:
        """Back in the event loop: wait for what the connection needs next."""
        if conn.wanted_slot is not None:
            self._await_slot(conn)
        elif conn.awaits_body:
            self._await_body(conn)
        elif conn.sock.unsent:
            self._await_client(conn)
        elif conn.chunks is not None:
            self._submit(conn, self.senders)
        else:
            self._log_access(conn)
            self._release_slot(conn)
            if not conn.keep_alive:
                self._linger(conn)
            elif conn.has_next_request():
                self.enqueue_req(conn)
            else:
                self._keep_alive(conn)

    # -- a short body --------------------------------------------------------------------------------------------------

    def _await_body(self, conn: Connection) -> None:
        conn.missing_before = conn.missing()
        self._wait(conn, EVENT_READ, self._read_body, web_clients.BODY_WINDOW, self._body_timeout)

    def _read_body(self, conn: Connection, client: ClientSocket) -> None:
        conn.receive()
        if conn.at_end or conn.missing() <= 0:
            self._stop_waiting(conn)
            self._submit(conn, self.tpool)

    def _body_timeout(self, conn: Connection) -> None:
        received = conn.missing_before - conn.missing()
        if received >= web_clients.BODY_RATE * web_clients.BODY_WINDOW and self.alive:
            self._await_body(conn)
            return
        self._end_request(conn)
        self._release_slot(conn)
        self._respond(conn, problem_response(408, "The request's body did not arrive in time."))

    # -- slots ---------------------------------------------------------------------------------------------------------

    def _await_slot(self, conn: Connection) -> None:
        assert conn.wanted_slot is not None
        pool, claim = conn.wanted_slot
        pool.queue[conn] = None  # first: a thread that returns a slot from now on offers it to the queue
        if pool.acquire(claim):  # one was returned meanwhile
            del pool.queue[conn]
            conn.slot = conn.wanted_slot
            self._submit(conn, self.tpool)
            return
        # Random, so that requests that came together are not all refused, and repeated, together.
        self._wait(conn, 0, None, SLOT_SECONDS * random.uniform(0.75, 1.25), self._slot_timeout)  # noqa: S311

    def _slot_timeout(self, conn: Connection) -> None:
        assert conn.wanted_slot is not None
        del conn.wanted_slot[0].queue[conn]
        conn.slot_timed_out = True  # the application responds
        self._submit(conn, self.tpool)

    def _release_slot(self, conn: Connection) -> None:
        """Return the request's slot, and offer it to the queue."""
        pool = conn.return_slot()
        if pool is not None:
            self._offer_slot(pool)

    def _offer_slot(self, pool: SlotPool) -> None:
        """Give a free slot to the first in the queue whose claim allows it."""
        for other in list(pool.queue):
            assert other.wanted_slot is not None
            if pool.acquire(other.wanted_slot[1]):
                del pool.queue[other]
                self._stop_waiting(other)
                other.slot = other.wanted_slot
                self._submit(other, self.tpool)
                return

    # -- a client that reads slowly ------------------------------------------------------------------------------------

    def _await_client(self, conn: Connection) -> None:
        conn.acknowledged, conn.last_sent = conn.sock.acknowledged(), time.monotonic()
        self._wait(conn, EVENT_WRITE, self._flush, SEND_WINDOW, self._send_timeout)
        conn.buffered = len(conn.sock.unsent)
        self.buffered += conn.buffered
        while self.buffered > UNSENT_BYTES:
            slowest = min((other for other in list(self.waiting) if other.buffered), key=lambda other: other.last_sent)
            self._stop_waiting(slowest)
            self._drop(slowest)

    def _flush(self, conn: Connection, client: ClientSocket) -> None:
        try:
            client.flush()
        except OSError:
            self._stop_waiting(conn)
            self._drop(conn)
            return
        conn.last_sent = time.monotonic()
        if not client.unsent:
            self._stop_waiting(conn)
            self.finish_request(conn)

    def _send_timeout(self, conn: Connection) -> None:
        if conn.sock.acknowledged() - conn.acknowledged < SEND_RATE * SEND_WINDOW:
            self._drop(conn)
        else:
            self._await_client(conn)

    # -- the end of a request or connection ----------------------------------------------------------------------------

    def _keep_alive(self, conn: Connection) -> None:
        self._wait(conn, EVENT_READ, self._read_head, KEEP_ALIVE_SECONDS, self._head_timeout)

    def _respond(self, conn: Connection, response: bytes) -> None:
        """Send a last response, and close the connection."""
        self._send_own(conn, response)
        self._log_access(conn)
        self._linger(conn)

    def _send_own(self, conn: Connection, response: bytes) -> None:
        """Send a response that is smaller than any socket buffer, if the client is still there."""
        if conn.access is not None:
            conn.access |= web_clients.described(response)
        with suppress(OSError):
            conn.sock.sendall(response)

    def _log_access(self, conn: Connection) -> None:
        access = conn.end_access()
        if access is None:
            return
        telemetry.metrics().transferred(access["route"], access["bytes_received"], access["bytes_sent"])
        if self.cfg.accesslog is not None:
            telemetry.log_access(access)

    def _linger(self, conn: Connection) -> None:
        """Close the connection once the client has read the last response: closing it with unread bytes would reset it (RFC
        9112 §9.6)."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(conn)
            return
        seconds = 0 if conn.sock.timed_out else LINGER_SECONDS
        self._wait(conn, EVENT_READ, self._discard, seconds, self._drop)

    def _discard(self, conn: Connection, client: ClientSocket) -> None:
        data = _received(client, 256 * 1024)
        if data is None:
            return
        conn.discarded += len(data)
        if not data:
            self._stop_waiting(conn)
            self._drop(conn)
        elif conn.discarded > LINGER_BYTES:
            self.poller.unregister(client)

    def _drop(self, conn: Connection) -> None:
        """Close the connection at once."""
        self._log_access(conn)
        conn.close()
        self.nr_conns -= 1
        if conn.result is None:
            self._release_slot(conn)
        else:  # in a thread: closing it may wait for the bucket
            self.senders.submit(self._end_request, conn).add_done_callback(
                lambda _: self.method_queue.defer(self._release_slot, conn)
            )

    def _reject(self, conn: Connection, error: BaseException) -> None:
        """Respond to a request that gunicorn rejects, or that failed outside of the application's error handlers."""
        status, detail = web_clients.problem_for(error)
        if status == 500:
            self.log.exception("A request failed outside of the application")
        self._send_own(conn, problem_response(status, detail))


def _received(client: ClientSocket, size: int) -> bytes | None:
    """What has arrived: None if nothing has, b"" at the end of the connection."""
    try:
        return client.recv(size)
    except (BlockingIOError, InterruptedError):
        return None
    except OSError:
        return b""


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn, which reads no gunicorn.conf.py, no GUNICORN_CMD_ARGS and no command line."""

    def __init__(self, create_app: Callable[[], Flask], settings: Settings):
        self._create_app, self._settings = create_app, settings
        super().__init__()

    def load_config(self) -> None:
        """Set gunicorn's options."""
        for name, value in options(self._settings).items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Create the application, in each worker after the fork: connections must not be shared over it."""
        app = self._create_app()
        # What exists now stays: scanning it for garbage took half the time of listing a tree of 10,000 folders.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000)
        return app


def descriptors() -> int:
    """The limit of open files, raised if possible to what MAX_CONNECTIONS need: two each, one of them to the bucket."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else soft


def options(settings: Settings) -> dict[str, Any]:
    """gunicorn's options."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {
        "bind": f"{host}:{settings.port}",
        "worker_class": "web_server.Worker",
        "workers": settings.web_workers,
        "threads": settings.web_threads,
        "worker_connections": MAX_CONNECTIONS,
        "timeout": 60,  # of the event loop, not of a request
        "graceful_timeout": GRACE_SECONDS,
        "limit_request_line": 8190,
        "preload_app": False,
        "control_socket_disable": True,
        "forwarded_allow_ips": "",  # the application handles X-Forwarded-* (TRUSTED_PROXIES)
        "accesslog": "-" if settings.access_log == "on" else None,  # Worker writes it, not gunicorn
        "loglevel": "warning",
        "proc_name": "upload-gateway",
    }


def run(create_app: Callable[[], Flask], settings: Settings) -> int:
    """Serve until SIGTERM, then finish the requests in progress (GRACE_SECONDS at most).

    gunicorn ends the process itself: with status 0, or 3 if the application could not be created."""
    Server(create_app, settings).run()
    return 0
