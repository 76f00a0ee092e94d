"""A client of clamd. Whatever it can't answer now raises Unavailable and is never a verdict (T97)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

import structlog
from clamav_client.clamd import ClamdError, ClamdNetworkSocket, ClamdUnixSocket

from core.errors import Unavailable
from core.scan import Scan, Signatures, read_answer, read_version
from services.objects.object_reader import Reader

log = structlog.get_logger()

_VERSION_TIMEOUT = 5.0  # seconds
_MIN_RATE = 512 * 1024  # bytes a second; a slower stream is given up


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
            with self._connection(_VERSION_TIMEOUT) as clamd:
                return read_version(clamd.version())
        except (ClamdError, OSError, ValueError) as error:
            raise _unavailable(error) from error

    def scan(self, reader: Reader, size: int) -> Scan:
        """The verdict on ``size`` bytes. Raises Unavailable, and errors of the reader."""
        if size > self.max_size:
            return Scan("unscannable", f"larger than the scanner's limit of {self.max_size} bytes")
        if not self._slots.acquire(timeout=self._settings.timeout):
            raise Unavailable("Too many files are being scanned; try again.")
        try:
            # Before the scan: it is answered at once or not at all, and signatures loaded later don't count as used.
            signatures = self.signatures()
            stream = _Stream(reader, self._settings.timeout + size / _MIN_RATE)
            with self._connection(self._settings.timeout) as clamd:
                answer = clamd.instream(cast("BinaryIO", stream))
        except (ClamdError, OSError, ValueError) as error:
            raise _unavailable(error) from error
        finally:
            self._slots.release()
        if stream.sent != size:
            raise _unavailable(f"{stream.sent} of {size} bytes were sent")
        verdict = read_answer(*answer.get("stream", ("", None)))
        if verdict is None:
            raise _unavailable(f"its answer was {answer}")
        return Scan(*verdict, signatures.version)

    @contextmanager
    def _connection(self, timeout: float) -> Iterator[ClamdNetworkSocket]:
        """A client for one command."""
        scheme, _, where = self._settings.address.partition("://")
        if scheme == "unix":
            client: ClamdNetworkSocket = ClamdUnixSocket(where, timeout=timeout)  # type: ignore[arg-type]
        else:
            host, _, port = where.rpartition(":")
            client = ClamdNetworkSocket(host, int(port), timeout=timeout)
        try:
            yield client
        finally:
            if hasattr(client, "clamd_socket"):  # the library leaves it open when connecting fails
                client.clamd_socket.close()


class _Stream:
    """The bytes for clamd, with a time limit for all of them: the socket's timeout limits each piece only."""

    def __init__(self, reader: Reader, seconds: float):
        self._reader = reader
        self._deadline = time.monotonic() + seconds
        self._buffer = memoryview(b"")
        self.sent = 0

    def read(self, size: int) -> bytes:
        if not self._buffer:  # the client reads 1 KiB at a time
            if time.monotonic() > self._deadline:
                raise TimeoutError("the stream took too long")
            self._buffer = memoryview(self._reader.read(256 * 1024))
        piece, self._buffer = self._buffer[:size], self._buffer[size:]
        self.sent += len(piece)
        return bytes(piece)


def _unavailable(error: object) -> Unavailable:
    """The error to raise. The log line is the alarm that monitoring looks for."""
    log.error(
        "scanner_unavailable",
        error=str(error) or type(error).__name__,
        hint="Files stay in processing until clamd answers. If it cuts streams, its StreamMaxLength is below SCAN_MAX_SIZE.",
    )
    return Unavailable("The virus scanner does not answer; try again.")
