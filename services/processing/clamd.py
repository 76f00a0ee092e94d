"""Asking clamd. What it can't say now, for whatever reason, is Unavailable and never a verdict (THREATS T97)."""

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

_ANSWERS_WITHIN = 5.0  # seconds, to a question that is no scan
_SLOWEST = 512 * 1024  # bytes a second; a stream slower than this is given up


@dataclass(frozen=True, slots=True)
class ScannerSettings:
    address: str  # tcp://host:port or unix:///path
    max_size: int  # bytes; clamd's StreamMaxLength, beyond which it cuts the stream
    timeout: float  # seconds of silence; above clamd's MaxScanTime, which it keeps silent for
    concurrency: int  # scans by one process


class Clamd:
    def __init__(self, settings: ScannerSettings):
        self._settings = settings
        self.max_size = settings.max_size
        self._turns = threading.BoundedSemaphore(settings.concurrency)

    def signatures(self) -> Signatures:
        """What it knows. Raises Unavailable."""
        try:
            with self._connection(_ANSWERS_WITHIN) as clamd:
                return read_version(clamd.version())
        except (ClamdError, OSError, ValueError) as error:
            raise _unavailable(error) from error

    def scan(self, reader: Reader, size: int) -> Scan:
        """The verdict on ``size`` bytes. Raises Unavailable, and what reading raises."""
        if size > self.max_size:
            return Scan("unscannable", f"larger than the scanner's limit of {self.max_size} bytes")
        if not self._turns.acquire(timeout=self._settings.timeout):
            raise Unavailable("Too many files are being scanned; try again.")
        try:
            # Asked first: it answers at once or not at all, and signatures loaded meanwhile do not count as used.
            signatures = self.signatures()
            paced = _Paced(reader, self._settings.timeout + size / _SLOWEST)
            with self._connection(self._settings.timeout) as clamd:
                answer = clamd.instream(cast(BinaryIO, paced))
        except (ClamdError, OSError, ValueError) as error:
            raise _unavailable(error) from error
        finally:
            self._turns.release()
        if paced.given != size:
            raise _unavailable(f"{paced.given} of {size} bytes were sent")
        verdict = read_answer(*answer.get("stream", ("", None)))
        if verdict is None:
            raise _unavailable(f"its answer was {answer}")
        return Scan(*verdict, signatures.version)

    @contextmanager
    def _connection(self, timeout: float) -> Iterator[ClamdNetworkSocket]:
        """For one question."""
        scheme, _, where = self._settings.address.partition("://")
        if scheme == "unix":
            client: ClamdNetworkSocket = ClamdUnixSocket(where, timeout=timeout)  # type: ignore[arg-type]
        else:
            host, _, port = where.rpartition(":")
            client = ClamdNetworkSocket(host, int(port), timeout=timeout)
        try:
            yield client
        finally:
            if hasattr(client, "clamd_socket"):  # the library leaves it open where connecting failed
                client.clamd_socket.close()


class _Paced:
    """The bytes on their way to clamd, for a limited time in all: each piece alone may be slow, not the whole."""

    def __init__(self, reader: Reader, seconds: float):
        self._reader = reader
        self._deadline = time.monotonic() + seconds
        self._buffer = memoryview(b"")
        self.given = 0

    def read(self, size: int) -> bytes:
        if not self._buffer:  # the client asks for 1 KiB at a time
            if time.monotonic() > self._deadline:
                raise TimeoutError("the stream took too long")
            self._buffer = memoryview(self._reader.read(256 * 1024))
        piece, self._buffer = self._buffer[:size], self._buffer[size:]
        self.given += len(piece)
        return bytes(piece)


def _unavailable(error: object) -> Unavailable:
    """Also the alarm: the operator's monitoring looks for this line."""
    log.error(
        "scanner_unavailable",
        error=str(error) or type(error).__name__,
        hint="Files stay in processing until clamd answers. If it cuts streams, its StreamMaxLength is below SCAN_MAX_SIZE.",
    )
    return Unavailable("The virus scanner does not answer; try again.")
