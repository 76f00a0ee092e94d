"""Encryption with age (https://age-encryption.org/v1), as streams: ``age -d -i identity`` reads what is written here."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import pyrage

from core.errors import InvalidInput, Unprocessable
from services.objects.object_reader import Damaged, Reader
from services.recovery.locations import Sink

_PIECE = 256 * 1024  # bytes read at once: the library asks for 8 KiB


class IdentityNeeded(Unprocessable, code="identity_needed", title="The backup is encrypted; an age identity is needed"):
    """None of the identities opens it, or none is given."""


def recipient(text: str) -> Any:
    """A public key, ``age1…``. Raises InvalidInput."""
    try:
        return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        raise InvalidInput(f"{text[:70]!r} is no age public key; they begin with age1.") from None


def identities_of(text: str) -> list[Any]:
    """The identities (private keys) of a file as ``age-keygen`` writes it. Raises InvalidInput, without its contents."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    try:
        found = [pyrage.x25519.Identity.from_str(line) for line in lines]
    except pyrage.IdentityError:
        raise InvalidInput("The identity file must have lines that begin with AGE-SECRET-KEY-1.") from None
    if not found:
        raise InvalidInput("The identity file has no identity.")
    return found


def encrypt(source: Reader, sink: Sink, recipients: Sequence[Any]) -> None:
    """Encrypt a stream in bounded memory. Raises what ``source`` or ``sink`` raise."""
    reading, writing = _Source(source), _Sink(sink)
    try:
        pyrage.encrypt_io(reading, writing, list(recipients))
    except (pyrage.EncryptError, OSError) as error:
        raise reading.error or writing.error or error from None


@contextmanager
def decrypted(source: Reader, identities: Sequence[Any]) -> Iterator[Reader]:
    """Decrypt a stream in bounded memory, in a thread of its own. ``read`` raises IdentityNeeded, Damaged, and what ``source``
    raises."""
    if not identities:
        raise IdentityNeeded("The backup is encrypted: set BACKUP_IDENTITY_FILE, or pass --identity.")
    incoming, outgoing = os.pipe()
    opened = _Decrypted(_Source(source), os.fdopen(incoming, "rb"))
    thread = threading.Thread(
        target=opened.run, args=(os.fdopen(outgoing, "wb"), list(identities)), name="age", daemon=True
    )
    thread.start()
    try:
        yield opened
    finally:
        opened.pipe.close()  # the thread's next write fails
        thread.join()


class _Decrypted:
    def __init__(self, source: _Source, pipe: IO[bytes]):
        self._source = source
        self.pipe = pipe
        self._error: BaseException | None = None

    def run(self, pipe: IO[bytes], identities: list[Any]) -> None:
        try:
            with pipe:
                try:
                    pyrage.decrypt_io(self._source, pipe, identities)
                except Exception as error:
                    self._error = error  # before the pipe is closed, which the reader waits for
        except BrokenPipeError:
            pass

    def read(self, size: int = -1, /) -> bytes:
        data = self.pipe.read(size)
        if not data and size and self._error is not None:
            if self._source.error is not None:
                raise self._source.error
            if "No matching keys" in str(self._error):
                raise IdentityNeeded("None of the identities opens this backup.")
            raise Damaged("The stored bytes can't be decrypted.") from self._error
        return data


class _Source:
    """Reads larger pieces than the library asks for, and keeps the error that the library replaces."""

    def __init__(self, source: Reader):
        self._source = source
        self._piece = memoryview(b"")
        self.error: BaseException | None = None

    def read(self, size: int = -1, /) -> bytes:
        try:
            self._piece = self._piece or memoryview(self._source.read(_PIECE))
        except BaseException as error:
            self.error = error
            raise
        size = len(self._piece) if size < 0 else size
        data, self._piece = bytes(self._piece[:size]), self._piece[size:]
        return data


class _Sink:
    def __init__(self, sink: Sink):
        self._sink = sink
        self.error: BaseException | None = None

    def write(self, data: bytes, /) -> int:
        try:
            return self._sink.write(data)
        except BaseException as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Nothing is kept."""
