"""A client of clamd. Whatever it can't answer now raises Unavailable and is never a verdict (T97)."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain

import structlog

from core.errors import Unavailable
from core.scan import Scan, Signatures, read_answer, read_version
from services.objects.object_reader import Reader

log = structlog.get_logger()

_VERSION_TIMEOUT = 5.0  # seconds
_MIN_RATE = 512 * 1024  # bytes a second; a slower stream is given up
_CHUNK = 256 * 1024  # bytes
_MAX_ANSWER = 64 * 1024  # bytes
_ANSWER = re.compile(r"stream: (?:(.+) )?(OK|FOUND)")


@dataclass(frozen=True, slots=True)
class ScannerSettings:
    """How clamd is reached, and its limits."""

    address: str  # tcp://host:port or unix:///path
    max_size: int  # bytes; clamd's StreamMaxLength, where it cuts the stream
    timeout: float  # seconds without an answer; more than clamd's MaxScanTime
    concurrency: int  # scans by one process


class Clamd:
    """Scan streams with clamd."""

    def __init__(self, settings: ScannerSettings):
        self._settings = settings
        self.max_size = settings.max_size
        self._slots = threading.BoundedSemaphore(settings.concurrency)

    def signatures(self) -> Signatures:
        """The version of its signatures. Raises Unavailable."""
        try:
            return read_version(self._command(b"VERSION", _VERSION_TIMEOUT))
        except (OSError, ValueError) as error:
            raise _unavailable(error) from error

    def scan(self, reader: Reader, size: int) -> Scan:
        """The verdict on ``size`` bytes. Raises Unavailable, and errors of the reader."""
        if size > self.max_size:
            return Scan("unscannable", f"larger than the scanner's limit of {self.max_size} bytes")
        if not self._slots.acquire(timeout=self._settings.timeout):
            raise Unavailable("Too many files are being scanned; try again.")
        sent = 0

        def chunks() -> Iterator[bytes]:
            nonlocal sent
            deadline = time.monotonic() + self._settings.timeout + size / _MIN_RATE
            while chunk := reader.read(_CHUNK):
                if time.monotonic() > deadline:
                    raise TimeoutError("the stream took too long")
                sent += len(chunk)
                yield chunk

        try:
            # Before the scan: it is answered at once or not at all, and signatures loaded later don't count as used.
            signatures = self.signatures()
            answer = self._command(b"INSTREAM", self._settings.timeout, chunks())
        except (OSError, ValueError) as error:
            raise _unavailable(error) from error
        finally:
            self._slots.release()
        if sent != size:
            raise _unavailable(f"{sent} of {size} bytes were sent")
        found = _ANSWER.fullmatch(answer)
        verdict = read_answer(found[2], found[1]) if found else None
        if verdict is None:
            raise _unavailable(f"its answer was {answer!r}")
        return Scan(*verdict, signatures.version)

    def _command(self, name: bytes, timeout: float, stream: Iterable[bytes] | None = None) -> str:
        """clamd's answer to a command (man 8 clamd, "Commands"); a stream is sent in chunks and ends with an empty one. Each
        step may take ``timeout`` seconds. Raises OSError, ValueError."""
        with closing(self._connect(timeout)) as connection:
            connection.sendall(b"z" + name + b"\0")
            for chunk in chain(stream, [b""]) if stream is not None else ():
                connection.sendall(len(chunk).to_bytes(4, "big") + chunk)
            answer = b""
            while not answer.endswith(b"\0"):
                piece = connection.recv(4096)
                if not piece or len(answer) > _MAX_ANSWER:
                    raise ConnectionError(f"the answer was cut off: {answer[:200]!r}")
                answer += piece
        return answer[:-1].decode()

    def _connect(self, timeout: float) -> socket.socket:
        scheme, _, where = self._settings.address.partition("://")
        if scheme != "unix":
            host, _, port = where.rpartition(":")
            return socket.create_connection((host.strip("[]"), int(port)), timeout)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        try:
            connection.connect(where)
        except OSError:
            connection.close()
            raise
        return connection


def _unavailable(error: object) -> Unavailable:
    """The error to raise. The log line is the alarm that monitoring looks for."""
    log.error(
        "scanner_unavailable",
        error=str(error) or type(error).__name__,
        hint="Files stay in processing until clamd answers. If it cuts streams, its StreamMaxLength is below SCAN_MAX_SIZE.",
    )
    return Unavailable("The virus scanner does not answer; try again.")
