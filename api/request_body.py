"""The request's body as a stream: counted, bounded, and checked against the checksums that were sent with it.

``request.data``, ``.form``, ``.files`` and ``get_json()`` would read the entire body into memory or onto a disk, so nothing in
api/ uses them. Only ``read_whole`` reads an entire body, up to a limit.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from flask import request
from werkzeug.exceptions import ClientDisconnected

from api.in_flight import buffer_body
from core.errors import ChecksumMismatch, EncodingNotAllowed, InvalidInput, MalformedUpload, RequestTooLarge
from core.structured_fields import digests

_LENGTH = re.compile(r"[0-9]{1,19}", re.ASCII)


class RequestBody:
    """The request's bytes as they arrive, counted and hashed.

    With gunicorn a broken connection looks like the end of the body, so the count is compared with Content-Length. Every
    loss is raised as MalformedUpload (T3)."""

    def __init__(self, *, hashes: tuple[str, ...] = ()):
        self.length = content_length()
        self.received = 0
        self.digests = {name: hashlib.new(name, usedforsecurity=False) for name in hashes}
        self._read = read_once(request.stream)

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; b"" at the end."""
        try:
            chunk = self._read(size)
        except (OSError, ClientDisconnected) as error:
            raise MalformedUpload("The body is incomplete or malformed.") from error
        self.received += len(chunk)
        for digest in self.digests.values():
            digest.update(chunk)
        if not chunk and size and self.length is not None and self.received != self.length:
            raise MalformedUpload(f"The body ended after {self.received} of {self.length} bytes.")
        return chunk


def read_once(stream: IO[bytes]) -> Callable[[int], bytes]:
    """The stream's ``read1``, which does not wait for as many bytes as it may return, or ``read`` if the server has none."""
    return getattr(stream, "read1", stream.read)


def content_length() -> int | None:
    """The declared length in bytes; None for a chunked body. Raises InvalidInput (T16, T17)."""
    if "chunked" in request.headers.get("Transfer-Encoding", "").lower():
        return None
    given = request.environ.get("CONTENT_LENGTH") or ""
    if not given:
        return 0
    if not _LENGTH.fullmatch(given):
        raise InvalidInput("Content-Length is not a number of bytes.")
    return int(given)


def has_body() -> bool:
    """Whether the request has a body; a chunked one may be empty."""
    return bool(request.content_length) or "Transfer-Encoding" in request.headers


@dataclass(frozen=True, slots=True)
class Checksums:
    """The checksums that the client sent: Content-MD5 (RFC 1864), and sha-256 in Content-Digest or Repr-Digest (RFC 9530).
    The two digests cover the same bytes, because a Content-Encoding is refused."""

    md5: bytes | None
    sha256: bytes | None

    @classmethod
    def of_request(cls) -> Checksums:
        """Raises InvalidInput."""
        md5 = request.headers.get("Content-MD5")
        fields = [request.headers.get(name, "") for name in ("Content-Digest", "Repr-Digest")]
        found = {digests(text).get("sha256") for text in fields if "sha-256" in text.lower()}
        if None in found:
            raise InvalidInput("The digest must read sha-256=:<base64>:")
        if len(found) > 1:
            raise InvalidInput("Content-Digest and Repr-Digest differ.")
        return cls(None if md5 is None else _md5(md5.strip()), found.pop() if found else None)

    @property
    def names(self) -> tuple[str, ...]:
        """hashlib's names of the algorithms."""
        return tuple(name for name, value in (("md5", self.md5), ("sha256", self.sha256)) if value is not None)

    def check(self, body: RequestBody) -> None:
        """ChecksumMismatch unless the body, read to its end, has these checksums."""
        for name in self.names:
            if body.digests[name].digest() != getattr(self, name):
                raise ChecksumMismatch()


def _md5(text: str) -> bytes:
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        value = b""
    if len(value) != 16:
        raise InvalidInput("Content-MD5 is not 16 bytes in base64.")
    return value


def read_whole(limit: int) -> bytes:
    """A small body as a whole. Raises RequestTooLarge beyond ``limit`` bytes, having read no more than that."""
    body = RequestBody()
    if body.length is not None and body.length > limit:
        raise RequestTooLarge()
    buffer_body()
    chunks = bytearray()
    while chunk := body.read(limit + 1 - len(chunks)):
        chunks += chunk
        if len(chunks) > limit:
            raise RequestTooLarge()
    return bytes(chunks)


def refuse_encoded() -> None:
    """Bodies are never inflated (T13)."""
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise EncodingNotAllowed()
