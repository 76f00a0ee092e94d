"""tus 1.0.0 in its own words: headers to values and back, without a request in sight.

    protocol.md                             here
    Tus-Version, Tus-Extension              VERSION, EXTENSIONS
    Upload-Length, Upload-Offset            length()      a non-negative integer
    Upload-Defer-Length                     deferred()    1, or the header is not there
    Upload-Metadata                         metadata()    "key base64,key2 base64,key3": unique keys, values may be left out
    Upload-Checksum                         checksum()    "sha1 base64"
    Upload-Concat                           concat()      "partial", or "final;url url"

Whatever is not so is InvalidInput: nothing is guessed (THREATS T52)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from dataclasses import dataclass
from typing import Any, Protocol

from core.errors import InvalidInput

VERSION = "1.0.0"
EXTENSIONS = (
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "expiration",
    "checksum",
    "termination",
    "concatenation",
)
ALGORITHMS = ("sha1", "sha256", "md5", "crc32")
CONTENT_TYPE = "application/offset+octet-stream"

MAX_METADATA = 64 * 1024  # characters of the header; the server's own limit for a field is lower
MAX_PARTIALS = 1_000
_MAX_INT64 = 2**63 - 1
_INTEGER = re.compile(r"[0-9]{1,19}", re.ASCII)
_KEY = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,255}")


def length(text: str, header: str) -> int:
    """A size or an offset in bytes."""
    if not _INTEGER.fullmatch(text) or int(text) > _MAX_INT64:
        raise InvalidInput(f"{header} is not a number of bytes.")
    return int(text)


def deferred(text: str | None) -> bool:
    if text not in (None, "1"):
        raise InvalidInput("Upload-Defer-Length can only be 1.")
    return text is not None


def metadata(text: str | None) -> dict[str, bytes]:
    """The pairs, values decoded."""
    found: dict[str, bytes] = {}
    if text is None or not text.strip():
        return found
    if len(text) > MAX_METADATA:
        raise InvalidInput(f"Upload-Metadata has more than {MAX_METADATA} characters.")
    for pair in text.split(","):
        key, _, value = pair.strip(" \t").partition(" ")
        if not _KEY.fullmatch(key) or key in found:
            raise InvalidInput(
                "Upload-Metadata: each key is unique, ASCII, and neither empty nor with spaces or commas."
            )
        found[key] = _decoded(value.strip(" \t"), "Upload-Metadata")
    return found


def text_of(value: bytes) -> str | None:
    """A metadata value as text that can be kept; None for what is none."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def custom(pairs: dict[str, bytes]) -> dict[str, Any]:
    """Keys of the client's own as they are kept with the file; bytes that are no text stay in base64."""
    texts = {key: text_of(value) for key, value in pairs.items()}
    return {key: text if text is not None else base64.b64encode(pairs[key]).decode() for key, text in texts.items()}


# -- checksum --------------------------------------------------------------------------------------------------------------


class Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def digest_of(algorithm: str) -> Digest:
    return _Crc32() if algorithm == "crc32" else hashlib.new(algorithm, usedforsecurity=False)


@dataclass(frozen=True, slots=True)
class BodyChecksum:
    """What a body's digest has to be."""

    algorithm: str
    value: bytes


def checksum(text: str) -> BodyChecksum:
    algorithm, _, value = text.strip().partition(" ")
    if algorithm not in ALGORITHMS:
        raise InvalidInput(f"Upload-Checksum: of algorithms {', '.join(ALGORITHMS)} are known.")
    decoded = _decoded(value.strip(), "Upload-Checksum")
    if len(decoded) != len(digest_of(algorithm).digest()):
        raise InvalidInput(f"Upload-Checksum: that is no {algorithm}.")
    return BodyChecksum(algorithm, decoded)


# -- concatenation -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Concat:
    """``sources`` None: a partial upload; else the addresses of which the final one is made, in order."""

    sources: tuple[str, ...] | None


def concat(text: str) -> Concat:
    if text == "partial":
        return Concat(None)
    kind, _, addresses = text.partition(";")
    sources = tuple(addresses.split())
    if kind.strip() != "final" or not sources:
        raise InvalidInput('Upload-Concat is "partial", or "final;" and the addresses of partial uploads.')
    if len(sources) > MAX_PARTIALS:
        raise InvalidInput(f"A final upload is made of at most {MAX_PARTIALS} partial ones.")
    return Concat(sources)


def _decoded(text: str, header: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(f"{header}: a value is not in base64.") from None
