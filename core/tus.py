"""Headers of tus 1.0.0, parsed into values.

    Tus-Version, Tus-Extension      VERSION, EXTENSIONS
    Upload-Length, Upload-Offset    length()      a non-negative integer
    Upload-Defer-Length             deferred()    1, or absent
    Upload-Metadata                 metadata()    "key base64,key2 base64,key3": unique keys, values are optional
    Upload-Checksum                 checksum()    "sha1 base64"
    Upload-Concat                   concat()      "partial", or "final;url url"

Anything else raises InvalidInput (T52)."""

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

MAX_METADATA = 64 * 1024  # characters; the server's own limit for a header is lower
MAX_PARTIALS = 1_000
_MAX_INT64 = 2**63 - 1
_INTEGER = re.compile(r"[0-9]{1,19}", re.ASCII)
_KEY = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,255}")


def length(text: str, header: str) -> int:
    """A size or an offset in bytes."""
    if not _INTEGER.fullmatch(text) or int(text) > _MAX_INT64:
        raise InvalidInput(f"{header} must be a number of bytes.")
    return int(text)


def deferred(text: str | None) -> bool:
    """Whether the length is declared later."""
    if text not in (None, "1"):
        raise InvalidInput("Upload-Defer-Length can only be 1.")
    return text is not None


def metadata(text: str | None) -> dict[str, bytes]:
    """Keys and decoded values."""
    found: dict[str, bytes] = {}
    if text is None or not text.strip():
        return found
    if len(text) > MAX_METADATA:
        raise InvalidInput(f"Upload-Metadata has more than {MAX_METADATA} characters.")
    for pair in text.split(","):
        key, _, value = pair.strip(" \t").partition(" ")
        if not _KEY.fullmatch(key) or key in found:
            raise InvalidInput("Upload-Metadata: keys must be unique, not empty, and ASCII without spaces and commas.")
        found[key] = _decoded(value.strip(" \t"), "Upload-Metadata")
    return found


def text_of(value: bytes) -> str | None:
    """A metadata value as text; None if it is not UTF-8 or has a NUL."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def custom(pairs: dict[str, bytes]) -> dict[str, Any]:
    """Metadata as it is stored with the file; values that are not text stay in base64."""
    texts = {key: text_of(value) for key, value in pairs.items()}
    return {key: text if text is not None else base64.b64encode(pairs[key]).decode() for key, text in texts.items()}


# -- checksum --------------------------------------------------------------------------------------------------------------


class Digest(Protocol):
    """As hashlib's objects."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""

    def digest(self) -> bytes:
        """The digest so far."""


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def digest_of(algorithm: str) -> Digest:
    """A new digest; the algorithm is one of ALGORITHMS or hashlib's."""
    return _Crc32() if algorithm == "crc32" else hashlib.new(algorithm, usedforsecurity=False)


def checksum(text: str) -> tuple[str, bytes]:
    """The algorithm and the decoded digest."""
    algorithm, _, value = text.strip().partition(" ")
    if algorithm not in ALGORITHMS:
        raise InvalidInput(f"Upload-Checksum: the algorithm must be one of {', '.join(ALGORITHMS)}.")
    decoded = _decoded(value.strip(), "Upload-Checksum")
    if len(decoded) != len(digest_of(algorithm).digest()):
        raise InvalidInput(f"Upload-Checksum: the value has the wrong length for {algorithm}.")
    return algorithm, decoded


# -- concatenation -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Concat:
    """``sources`` are the URLs of the partial uploads, in order; None for a partial upload."""

    sources: tuple[str, ...] | None


def concat(text: str) -> Concat:
    """A partial upload, or a final one."""
    if text == "partial":
        return Concat(None)
    kind, _, addresses = text.partition(";")
    sources = tuple(addresses.split())
    if kind.strip() != "final" or not sources:
        raise InvalidInput('Upload-Concat must be "partial", or "final;" and the URLs of partial uploads.')
    if len(sources) > MAX_PARTIALS:
        raise InvalidInput(f"A final upload can have at most {MAX_PARTIALS} partial uploads.")
    return Concat(sources)


def _decoded(text: str, header: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(f"{header}: a value is not base64.") from None
