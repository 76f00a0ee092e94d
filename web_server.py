"""The HTTP server: gunicorn's threaded worker, with what it lacks for clients that are slow or mean.

A thread is for work; whatever waits for a client, waits in the worker's event loop:

- A connection gets a thread when the head of its request is complete. Half-sent heads have one deadline.
- A response is sent as far as the client takes it at once. The rest waits in the loop, and who takes less than SEND_RATE
  is closed. Streams go on in threads of their own.
- An answered request whose body was not read is closed, and what still comes is discarded by the loop.
- The application asks for a place before it reads a long body or opens a stream (``Connection.place``), and for a short body
  as a whole (``Connection.whole_body``). What it must wait for, it waits for outside of threads: NotYet ends its try, and
  the request is begun again when its time has come.
- ``/healthz`` is answered by the loop itself.

Bodies that are read in a thread must keep coming: a silence of BODY_SILENCE seconds, or less than BODY_RATE over BODY_WINDOW
seconds of waiting, ends the connection and the read raises ``ConnectionResetError`` with what had come kept in gunicorn's
buffers. A body that is not well-formed raises MalformedBody. What gunicorn refuses itself is answered as problem+json with
an X-Request-ID, as everything else is. All this rests on internals of gunicorn 27.0, which is why that version is pinned
and tests/test_web_server.py opens real sockets.
"""

from __future__ import annotations

import errno
import gc
import random
import resource
import socket
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from selectors import EVENT_READ, EVENT_WRITE
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication
from gunicorn.http import errors as refusals
from gunicorn.http import wsgi
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

import web_clients
from settings import Settings
from web_clients import (
    REFUSALS,
    ClientBody,
    ClientSocket,
    Connection,
    MalformedBody,
    NotYet,
    Places,
    health,
    is_health_check,
    problem,
)

if TYPE_CHECKING:
    from flask import Flask

MAX_CONNECTIONS = 2000  # of one process; most of them idle, each costs a descriptor and a few KiB
HEAD_SECONDS = 15.0  # from the first look at a connection until its request's head is complete
HEAD_BYTES = 64 * 1024  # of a head as a whole; gunicorn limits the lines and fields in it
SEND_WINDOW, SEND_RATE = (
    120.0,
    1024,
)  # seconds, and bytes per second to take in them; readers open their window in big steps
SEND_SLICE = 0.1  # seconds of a thread for one stream, then it is another's turn
UNSENT_BYTES = 64 * 1024 * 1024  # of responses that their readers have not taken; beyond it who is slowest is closed
LINGER_SECONDS = 1.0  # for the client to read our last answer while it still sends
LINGER_BYTES = 1024 * 1024  # that are discarded meanwhile; what comes after them stays in the kernel
PLACE_SECONDS = 12.0  # that a request waits for a place, on average
STREAMS, WHOLE_BODIES = 64, 64  # places for streams, and for awaited bodies of up to 1 MiB
GRACE_SECONDS = 30  # after SIGTERM, for requests in flight


class Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's threaded worker, whose event loop does all waiting for clients. Methods that take a connection run in the
    loop, but for handle() and what it calls."""

    def init_process(self) -> None:
        threads = self.cfg.threads
        # Bodies are read in threads: some stay free for requests that are short.
        bodies = Places(threads - max(1, threads // 4))
        self.places = {"body": bodies, "stream": Places(STREAMS), "whole body": Places(WHOLE_BODIES)}
        # These send streams, and go on with what one try did not send. They are fewer, to leave the interpreter to the others.
        self.senders: Executor = ThreadPoolExecutor(max(1, threads // 4))
        self.waiting: dict[Connection, None] = {}  # for their clients, or for a place, each until its ``timeout``
        self.parked = 0  # bytes of responses that wait for clients
        self.next_look = 0.0
        self.worker_connections: int = min(self.cfg.worker_connections, max(64, (descriptors() - 256) // 2))
        super().init_process()

    # -- waiting -------------------------------------------------------------------------------------------------------

    def _wait(
        self,
        conn: Connection,
        event: int,
        then: Callable[[Connection, ClientSocket], None] | None,
        seconds: float,
        late: Callable[[Connection], None],
    ) -> None:
        """Call ``then`` at each event on the socket until _wake(), and ``late`` if that does not come in time."""
        if not self.alive and late != self._reader_is_late:  # what has not begun shall not hold up a stop
            seconds = min(seconds, STOP_KEEPALIVE_LINGER)
        conn.timeout, conn.late = time.monotonic() + seconds, late
        self.waiting[conn] = None
        conn.sock.setblocking(False)
        if then is not None:
            self.poller.register(conn.sock, event, partial(then, conn))

    def _wake(self, conn: Connection) -> None:
        del self.waiting[conn]
        with suppress(KeyError):  # who waits for a place is not registered
            self.poller.unregister(conn.sock)
        self.parked -= conn.parked
        conn.parked = 0

    def murder_pending(self) -> None:
        """gunicorn calls this after each round of events."""
        now = time.monotonic()
        if now < self.next_look:
            return
        self.next_look = now + 0.2
        for conn in [conn for conn in self.waiting if conn.timeout <= now]:
            if conn in self.waiting:  # no other's end has given it what it waited for
                self._wake(conn)
                conn.late(conn)

    def _cap_keepalive(self, deadline: float) -> None:
        """gunicorn's look at its connections as it begins to stop: those without a request shall not hold it up. It would close
        its listeners last, and who connects meanwhile would hear nothing: those who are there are served, others refused."""
        for listener in self.sockets:
            while self.nr_conns < self.worker_connections and self._accept_one(listener):
                pass
            listener.close()
        super()._cap_keepalive(deadline)
        for conn in self.waiting:
            if conn.late != self._reader_is_late:
                conn.timeout = min(conn.timeout, deadline)

    # -- a request's head ----------------------------------------------------------------------------------------------

    def accept(self, listener: socket.socket) -> None:
        """Take a few connections: one a round would be slow when they are many, and all would leave the other processes none."""
        for _ in range(8):
            if self.nr_conns >= self.worker_connections or not self._accept_one(listener):
                break

    def _accept_one(self, listener: socket.socket) -> bool:
        """Take a connection; whether there was one."""
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK):
                raise
            return False
        self.nr_conns += 1
        self.enqueue_req(Connection(self.cfg, client, address, listener.getsockname(), self.places))
        return True

    def enqueue_req(self, conn: Connection) -> None:
        """Also called with a kept connection that has become readable, or has the next request in its buffer."""
        if conn.parser is not None:
            conn.head += conn.parser.unreader.take_buffered()
        if conn.head_is_complete():
            self._begin(conn)
        else:
            self._wait(conn, EVENT_READ, self._read_head, HEAD_SECONDS, self._head_is_late)

    def _read_head(self, conn: Connection, client: ClientSocket) -> None:
        try:
            data = client.recv(16 * 1024)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        conn.head += data
        complete = conn.head_is_complete()
        if data and not complete and len(conn.head) <= HEAD_BYTES:
            return
        self._wake(conn)
        if data and complete:
            self._begin(conn)
            return
        if data:
            self._say(client, problem(431, "The header fields are too large."))
            self._linger(conn)
        else:
            self._drop(conn)

    def _head_is_late(self, conn: Connection) -> None:
        if conn.head:
            self._say(conn.sock, problem(408, "The request's head did not come in time."))
            self._linger(conn)
        else:
            self._drop(conn)

    def _begin(self, conn: Connection) -> None:
        if is_health_check(conn.head):
            self._say(conn.sock, health(conn.head))
            self._linger(conn)
        else:
            self._hand_over(conn, self.tpool)

    # -- in a thread, and back -----------------------------------------------------------------------------------------

    def _hand_over(self, conn: Connection, pool: Executor) -> None:
        conn.wish, conn.awaits_body = None, False
        pool.submit(self.handle, conn).add_done_callback(
            lambda done: self.method_queue.defer(self.finish_request, conn, done)
        )

    def handle(self, conn: Connection) -> None:
        """A step of a request, in a thread: until the response is sent, or there is something to wait for."""
        conn.sock.setblocking(True)
        conn.keep = False
        try:
            if conn.response is not None:
                self._send(conn)
            else:
                self._answer(conn)
                if not self._is_stream(conn):
                    self._send(conn)
            return
        except NotYet:
            return
        except (refusals.NoMoreData, StopIteration) as error:
            self.log.debug("The client has gone: %s", error)
        except MalformedBody as error:
            self.handle_error(conn.request, conn.sock, conn.client, error.__cause__ or error)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                self.log.exception("Socket error processing request.")
        except Exception as error:
            if conn.response is not None and conn.response.headers_sent:
                self.log.exception("A response broke off")  # and the connection with it: nothing may look like its end
            else:
                self.handle_error(conn.request, conn.sock, conn.client, error)
        conn.wish, conn.awaits_body = None, False
        self._end(conn)

    def _answer(self, conn: Connection) -> None:
        """Let the application begin its answer."""
        conn.init()
        if conn.request is None:
            conn.parser.unreader.unread(bytes(conn.head))
            conn.head.clear()
            request = next(conn.parser)
            for name, value in request.headers:
                if name == "TRANSFER-ENCODING" and value.strip().lower() != "chunked":
                    raise refusals.UnsupportedTransferCoding(value)  # gunicorn would leave it coded
            request.body = ClientBody(request.body.reader)
            conn.request = request
        response, environ = wsgi.create(conn.request, conn.sock, conn.client, conn.server, self.cfg)
        conn.request._expected_100_continue = False  # said once, however often the request is begun
        if not self.alive or len(self.keepalived_conns) >= self.max_keepalived:
            response.force_close()
        environ.update({"wsgi.multithread": True, "gateway.connection": conn})
        conn.result = self.wsgi(environ, response.start_response)
        if not conn.body_is_over():
            response.force_close()
        conn.response, conn.pieces = response, iter(conn.result)

    def _is_stream(self, conn: Connection) -> bool:
        return conn.held is not None and conn.held[0] is self.places["stream"]

    def _send(self, conn: Connection) -> None:
        """Send the response, until the client takes no more or it is another's turn."""
        until = time.monotonic() + SEND_SLICE
        assert conn.pieces is not None
        while not conn.sock.unsent and time.monotonic() < until:
            piece = next(conn.pieces, None)
            if piece is None:
                conn.response.close()
                conn.keep = not conn.response.should_close()
                self._end(conn)
                return
            conn.response.write(piece)

    def _end(self, conn: Connection) -> None:
        try:
            conn.end()
        except Exception:
            self.log.exception("A response could not be closed")

    def finish_request(self, conn: Connection, done: Future[None] | None) -> None:
        """Back in the loop: see what the connection waits for."""
        if done is not None and done.exception() is not None:
            self._drop(conn)  # SystemExit and the like
        elif conn.wish is not None:
            self._await_place(conn)
        elif conn.awaits_body:
            self._await_body(conn)
        elif conn.sock.unsent:
            self._await_reader(conn)
        elif conn.pieces is not None:
            self._hand_over(conn, self.senders)
        else:
            self._release(conn)
            if conn.keep:
                self._keep(conn)
            else:
                self._linger(conn)

    # -- a short body --------------------------------------------------------------------------------------------------

    def _await_body(self, conn: Connection) -> None:
        conn.expected = conn.missing()
        self._wait(conn, EVENT_READ, self._read_body, web_clients.BODY_WINDOW, self._body_is_late)

    def _read_body(self, conn: Connection, client: ClientSocket) -> None:
        conn.receive()
        if conn.ended or conn.missing() <= 0:
            self._wake(conn)
            self._hand_over(conn, self.tpool)

    def _body_is_late(self, conn: Connection) -> None:
        if conn.expected - conn.missing() >= web_clients.BODY_RATE * web_clients.BODY_WINDOW and self.alive:
            self._await_body(conn)
            return
        self._say(conn.sock, problem(408, "The request's body did not come in time."))
        self._end(conn)
        self._release(conn)
        self._linger(conn)

    # -- places --------------------------------------------------------------------------------------------------------

    def _await_place(self, conn: Connection) -> None:
        assert conn.wish is not None
        places, wish = conn.wish
        if places.take(wish):  # one was given back meanwhile
            conn.held = conn.wish
            self._hand_over(conn, self.tpool)
            return
        places.waiting[conn] = None
        # Those who came together shall not all be refused, and try again, together.
        self._wait(conn, 0, None, PLACE_SECONDS * random.uniform(0.75, 1.25), self._place_is_late)  # noqa: S311

    def _place_is_late(self, conn: Connection) -> None:
        assert conn.wish is not None
        del conn.wish[0].waiting[conn]
        conn.refused = True  # the application says so in its own words
        self._hand_over(conn, self.tpool)

    def _release(self, conn: Connection) -> None:
        """Give back the request's place, and that to the first who may have it."""
        if conn.held is None:
            return
        places, wish = conn.held
        conn.held = None
        places.give_back(wish)
        for other in list(places.waiting):
            assert other.wish is not None
            if places.take(other.wish[1]):
                del places.waiting[other]
                self._wake(other)
                other.held = other.wish
                self._hand_over(other, self.tpool)
                return

    # -- a slow reader -------------------------------------------------------------------------------------------------

    def _await_reader(self, conn: Connection) -> None:
        conn.taken, conn.moved = conn.sock.taken(), time.monotonic()
        self._wait(conn, EVENT_WRITE, self._send_on, SEND_WINDOW, self._reader_is_late)
        conn.parked = len(conn.sock.unsent)
        self.parked += conn.parked
        while self.parked > UNSENT_BYTES:
            slowest = min((other for other in self.waiting if other.parked), key=lambda other: other.moved)
            self._wake(slowest)
            self._drop(slowest)

    def _send_on(self, conn: Connection, client: ClientSocket) -> None:
        try:
            client.flush()
        except OSError:
            self._wake(conn)
            self._drop(conn)
            return
        conn.moved = time.monotonic()
        if not client.unsent:
            self._wake(conn)
            self.finish_request(conn, None)

    def _reader_is_late(self, conn: Connection) -> None:
        if conn.sock.taken() - conn.taken < SEND_RATE * SEND_WINDOW:
            self._drop(conn)
        else:
            self._await_reader(conn)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _keep(self, conn: Connection) -> None:
        if conn.parser.unreader.buf.tell():  # the next request has come already
            self.enqueue_req(conn)
            return
        conn.sock.setblocking(False)
        conn.set_timeout()
        if not self.alive:
            conn.timeout = min(conn.timeout, time.monotonic() + STOP_KEEPALIVE_LINGER)
        self.keepalived_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_client_socket_readable, conn))

    def _linger(self, conn: Connection) -> None:
        """Let the client read our last answer: closed with bytes unread, the connection would be reset (RFC 9112 §9.6)."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(conn)
            return
        seconds = 0 if conn.sock.stalled else LINGER_SECONDS
        self._wait(conn, EVENT_READ, self._discard, seconds, self._drop)

    def _discard(self, conn: Connection, client: ClientSocket) -> None:
        try:
            data = client.recv(256 * 1024)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        conn.discarded += len(data)
        if not data:
            self._wake(conn)
            self._drop(conn)
        elif conn.discarded > LINGER_BYTES:
            self.poller.unregister(client)

    def _drop(self, conn: Connection) -> None:
        """Close the connection, whatever was on its way."""
        conn.close()
        self.nr_conns -= 1
        if conn.result is None:
            self._release(conn)
        else:  # the bucket's connection may take its time
            self.senders.submit(self._end, conn).add_done_callback(
                lambda _: self.method_queue.defer(self._release, conn)
            )

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """What gunicorn refuses before the application sees it, and what failed above the application's own net."""
        found = [(status, detail) for kind, status, detail in REFUSALS if isinstance(exc, kind)]
        status, detail = found[0] if found else (500, "The server failed to answer.")
        if status == 500:
            self.log.exception("A request failed outside of the application")
        else:
            self.log.info("Refused a request from %s: %s", (addr or ("",))[0], exc)
        self._say(client, problem(status, detail))

    def _say(self, client: ClientSocket, answer: bytes) -> None:
        """An answer of our own, below the size of any socket buffer, if the client is still there."""
        with suppress(OSError):
            client.sendall(answer)


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


def descriptors() -> int:
    """How many files and sockets this process may have open, after asking for what MAX_CONNECTIONS may need: each one's own,
    and one to the bucket."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else soft


def options(settings: Settings) -> dict[str, Any]:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {
        "bind": f"{host}:{settings.port}",
        "worker_class": "web_server.Worker",
        "workers": settings.web_workers,
        "threads": settings.web_threads,
        "worker_connections": MAX_CONNECTIONS,
        "keepalive": 15,
        "timeout": 60,  # of the event loop, not of a request
        "graceful_timeout": GRACE_SECONDS,
        "limit_request_line": 8190,
        "preload_app": False,
        "control_socket_disable": True,
        "forwarded_allow_ips": "",  # X-Forwarded-* is the application's business (TRUSTED_PROXIES)
        "accesslog": None,  # the application logs each request, with its id
        "loglevel": "warning",
        "proc_name": "upload-gateway",
    }


def run(create_app: Callable[[], Flask], settings: Settings) -> int:
    """Serve until SIGTERM, then finish the requests in flight (GRACE_SECONDS at most).

    gunicorn ends the process itself, with status 0, or 3 where the application could not be made."""
    Server(create_app, settings).run()
    return 0
