"""The body of a resumable upload: whatever arrived of it counts, also where the connection broke."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flask import request
from werkzeug.exceptions import ClientDisconnected

from api.body import content_length
from core.tus import Digest

SILENCE = 30.0  # seconds without a byte that end a body (THREATS T55); the server's own limit is the same
QUIET = 1.0  # seconds after which a silent client lets the writer look around


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
        try:
            piece = self._stream.read(size)
        except TimeoutError:
            if self._may_go_on():
                return None
            return self._break(size)
        except (OSError, ClientDisconnected):
            return self._break(size)
        self._silent_since = None
        if not piece:
            self._ended = True
            self.broken = self.length is not None and self.received != self.length
        return piece

    def _may_go_on(self) -> bool:
        """After a moment of silence. A chunked body can't be read on after that, gunicorn has lost its place in it."""
        now = time.monotonic()
        self._silent_since = self._silent_since or now - QUIET
        return self.length is not None and now - self._silent_since < SILENCE

    def _break(self, size: int) -> bytes:
        self._ended = self.broken = True
        self._left = self._rest()
        return self._take(size) or b""

    def _rest(self) -> bytes:
        """What gunicorn had read ahead of us, in the order in which it came. Of a chunked body only what it has decoded."""
        try:
            gathered: bytes = self._source.buf.getvalue()
            reader = self._source.reader
            more: bytes = (
                reader.unreader.take_buffered() if self.length is not None else reader.buf.getvalue()
            )
        except AttributeError:  # another server
            return b""
        rest = gathered + more
        return rest if self.length is None else rest[: self.length - self.received]


@contextmanager
def attentive(body: ArrivingBody) -> Iterator[None]:
    """Let a silent client's reads return after QUIET seconds, where the server is ours."""
    sock = request.environ.get("gunicorn.socket")
    if sock is None or body.length is None:
        yield
        return
    before = sock.gettimeout()
    sock.settimeout(QUIET)
    try:
        yield
    finally:
        sock.settimeout(before)
