"""The request's body as bytes that arrive: counted, bounded, and held against the checksums that were sent with it.

``request.data``, ``.form``, ``.files`` and ``get_json()`` read a body whole, into memory or onto a disk;
nothing here does unless it says so, and nothing else in api/ touches them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from flask import request
from werkzeug.exceptions import ClientDisconnected

from api.in_flight import buffer_body
from core.errors import ChecksumMismatch, EncodingNotAllowed, InvalidInput, MalformedUpload, RequestTooLarge
from core.structured_fields import digests

_LENGTH = re.compile(r"[0-9]{1,19}", re.ASCII)


class RequestBody:
    """The request's bytes as they arrive, counted, and hashed where a checksum was sent with them.

    On gunicorn the end of a broken connection looks like the end of the body, so the count is compared with
    Content-Length; every kind of loss is raised as MalformedUpload (THREATS T3)."""

    def __init__(self, *, hashes: tuple[str, ...] = ()):
        self.length = content_length()
        self.received = 0
        self.digests = {name: hashlib.new(name, usedforsecurity=False) for name in hashes}
        self._stream = request.stream

    def read(self, size: int, /) -> bytes:
        try:
            chunk = self._stream.read(size)
        except (OSError, ClientDisconnected) as error:
            raise MalformedUpload("The body ended too early, or is not well-formed.") from error
        self.received += len(chunk)
        for digest in self.digests.values():
            digest.update(chunk)
        if not chunk and size and self.length is not None and self.received != self.length:
            raise MalformedUpload(f"The body ended after {self.received} of {self.length} bytes.")
        return chunk


def content_length() -> int | None:
    """The declared length in bytes; None for a chunked body. InvalidInput for what is no length (THREATS T16, T17)."""
    if "chunked" in request.headers.get("Transfer-Encoding", "").lower():
        return None
    given = request.environ.get("CONTENT_LENGTH") or ""
    if not given:
        return 0
    if not _LENGTH.fullmatch(given):
        raise InvalidInput("Content-Length is not a length.")
    return int(given)


def has_body() -> bool:
    """Whether the request has a body, be it empty and chunked."""
    return bool(request.content_length) or "Transfer-Encoding" in request.headers


@dataclass(frozen=True, slots=True)
class Checksums:
    """What the client says the body's hashes are: Content-MD5 (RFC 1864), and sha-256 in Content-Digest or Repr-Digest
    (RFC 9530). Without a Content-Encoding, which we refuse, both of the latter mean the same bytes."""

    md5: bytes | None
    sha256: bytes | None

    @classmethod
    def of_request(cls) -> Checksums:
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
        return tuple(name for name, value in (("md5", self.md5), ("sha256", self.sha256)) if value is not None)

    def check(self, body: RequestBody) -> None:
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
    """All of a small body. Raises RequestTooLarge beyond ``limit`` bytes, and then no more than that was read."""
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
    """Bodies are never inflated (THREATS T13)."""
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise EncodingNotAllowed()
