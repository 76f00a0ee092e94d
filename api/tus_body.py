"""The body of a resumable upload: whatever arrived of it counts, also where the connection broke."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flask import request
from werkzeug.exceptions import ClientDisconnected

from api.request_body import content_length
from core.tus import Digest

SILENCE = 30.0  # seconds without a byte that end a body (THREATS T55); the server's own limit is the same
QUIET = 1.0  # seconds after which a silent client lets the writer look around
_HURRY = 0.05  # seconds of silence, and
_HURRY_MOST = 0.5  # seconds in all, that end a body which another request has asked to end


class ArrivingBody:
    """The request's bytes. ``read`` gives b"" at the end, and None where nothing came for a moment; then ``broken`` tells
    whether it was the end of the body or of the connection.

    A read that fails loses nothing on gunicorn: what it had gathered is taken from its buffers (DEPENDENCIES G4)."""

    def __init__(self, *, digests: Sequence[Digest] = ()):
        self.length = content_length()
        self.received = 0
        self.broken = False
        self._digests = digests
        self._stream = request.stream
        self._source: Any = request.environ.get("wsgi.input")
        self._ended = False
        self._left = b""  # saved from a read that failed
        self._silent_since: float | None = None
        self._until: float | None = None
        self._socket = request.environ.get("gunicorn.socket") if self.length is not None else None

    def hurry(self) -> None:
        """Another request waits: give what has arrived, and then end."""
        if self._until is None:
            self._until = time.monotonic() + _HURRY_MOST
            if self._socket is not None:
                self._socket.settimeout(_HURRY)

    @contextmanager
    def attentive(self) -> Iterator[None]:
        """Let a silent client's reads return after QUIET seconds, where the server is ours and the body is not chunked: in
        one that is, gunicorn loses its place then."""
        if self._socket is None:
            yield
            return
        before = self._socket.gettimeout()
        self._socket.settimeout(QUIET)
        try:
            yield
        finally:
            self._socket.settimeout(before)

    def read(self, size: int, /) -> bytes | None:
        piece = self._take(size)
        if piece:
            self.received += len(piece)
            for digest in self._digests:
                digest.update(piece)
        return piece

    def _take(self, size: int) -> bytes | None:
        if self._ended:
            piece, self._left = self._left[:size], self._left[size:]
            return piece
        if self._until is not None and (self._socket is None or time.monotonic() > self._until):
            return self._break(size)
        try:
            piece = self._stream.read(size)
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
        """After a moment of silence."""
        now = time.monotonic()
        self._silent_since = self._silent_since or now - QUIET
        return self._until is None and self._socket is not None and now - self._silent_since < SILENCE

    def _break(self, size: int) -> bytes:
        self._ended = True
        self._left = self._rest()
        self.broken = self.length is None or self.received + len(self._left) < self.length
        return self._take(size) or b""

    def _rest(self) -> bytes:
        """What gunicorn had read ahead of us, in the order in which it came. Of a chunked body only what it has decoded."""
        try:
            gathered: bytes = self._source.buf.getvalue()
            reader = self._source.reader
            more: bytes = reader.unreader.take_buffered() if self.length is not None else reader.buf.getvalue()
        except AttributeError:  # another server
            return b""
        rest = gathered + more
        return rest if self.length is None else rest[: self.length - self.received]
