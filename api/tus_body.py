"""The body of a resumable upload: bytes that arrived count, even if the connection broke."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from flask import request
from werkzeug.exceptions import ClientDisconnected

from api.request_body import content_length, read_once
from core.tus import Digest

SILENCE = 30.0  # seconds without a byte that end a body (T55); the server's own limit is the same
POLL = 1.0  # seconds after which a read without bytes returns, so that the writer can look at its lease
_STOP_READ = 0.05  # seconds without a byte, and
TELL_AFTER = 1.0  # seconds between interim answers
_STOP_TIME = 0.5  # seconds in all, that end a body after ``stop_soon``


class ArrivingBody:
    """The request's bytes. ``read`` returns b"" at the end, and None if none came for a moment. ``broken`` says that the
    connection ended before the body.

    A failed read loses nothing on gunicorn: what it had read is taken from its buffers."""

    def __init__(
        self, interim: bytes = b"", progress: Callable[[int], bytes] | None = None, digest: Digest | None = None
    ):
        """``interim``: an interim answer, sent before the first read. ``progress`` makes more of them, for offsets. ``digest`` is
        updated with the bytes."""
        self.length = content_length()
        self.received = 0
        self.broken = False
        self._interim = interim
        self._progress = progress
        self._told_at = time.monotonic()
        self._digest = digest
        self._read_once = read_once(request.stream)
        self._source: Any = request.environ.get("wsgi.input")
        self._ended = False
        self._left = b""  # saved from a failed read
        self._silent_since: float | None = None
        self._stop_at: float | None = None
        self._socket: Any = request.environ.get("gunicorn.socket")
        self._can_poll = self._socket is not None and self.length is not None

    def stop_soon(self) -> None:
        """Return what has arrived, and then end."""
        if self._stop_at is None:
            self._stop_at = time.monotonic() + _STOP_TIME
            if self._can_poll:
                self._socket.settimeout(_STOP_READ)

    @contextmanager
    def polling(self) -> Iterator[None]:
        """Let reads without bytes return after POLL seconds. Not of a chunked body, in which gunicorn loses its place then, nor
        on another server."""
        if not self._can_poll:
            yield
            return
        before = self._socket.gettimeout()
        self._socket.settimeout(POLL)
        try:
            yield
        finally:
            self._socket.settimeout(before)

    def read(self, size: int, /) -> bytes | None:
        """At most ``size`` bytes."""
        if self._interim:
            self._send(self._interim)
            self._interim = b""
        piece = self._read(size)
        self.received += len(piece or b"")
        if self._digest is not None and piece:
            self._digest.update(piece)
        return piece

    def acknowledge(self, offset: int, /) -> None:
        """Tell the client what is durable, at most once a second."""
        now = time.monotonic()
        if self._progress is not None and now - self._told_at >= TELL_AFTER:
            self._told_at = now
            self._send(self._progress(offset))

    def _send(self, interim: bytes) -> None:
        """WSGI has no call for interim answers; gunicorn lends its socket. A client that reads none gets no more once the
        socket's buffer is filled: half of one would spoil the final answer."""
        if self._socket is None:
            return
        writable = select.poll()
        writable.register(self._socket, select.POLLOUT)
        with suppress(OSError):  # the client has gone, but what it sent still counts
            if writable.poll(0):
                self._socket.sendall(interim)

    def _read(self, size: int) -> bytes | None:
        if self._ended:
            piece, self._left = self._left[:size], self._left[size:]
            return piece
        if self._stop_at is not None and (not self._can_poll or time.monotonic() > self._stop_at):
            return self._break(size)
        try:
            piece = self._read_once(size)
        except TimeoutError:
            return None if self._may_go_on() else self._break(size)
        except (OSError, ClientDisconnected):
            return self._break(size)
        self._silent_since = None
        if not piece:
            self._ended = True
            self.broken = self.length is not None and self.received != self.length
        return piece

    def _may_go_on(self) -> bool:
        """Whether to wait on after a moment of silence."""
        now = time.monotonic()
        self._silent_since = self._silent_since or now - POLL
        return self._stop_at is None and self._can_poll and now - self._silent_since < SILENCE

    def _break(self, size: int) -> bytes:
        self._ended = True
        self._left = self._rest()
        self.broken = self.length is None or self.received + len(self._left) < self.length
        return self._read(size) or b""

    def _rest(self) -> bytes:
        """What gunicorn had read ahead, in order. Of a chunked body only what it has decoded."""
        try:
            gathered: bytes = self._source.buf.getvalue()
            reader = self._source.reader
            more: bytes = reader.unreader.take_buffered() if self.length is not None else reader.buf.getvalue()
        except AttributeError:  # another server
            return b""
        rest = gathered + more
        return rest if self.length is None else rest[: self.length - self.received]
