"""Identifiers, secrets, object keys and list cursors.

Ids of files and uploads sort by time (UUIDv7). Object keys never do more than that: their last segment is
random, so that nobody can guess a key from a name, an id or a neighbour (THREATS R1). Cursors are sealed with
an HMAC: a list takes back only what it gave out itself, to the same caller, under the same filters (THREATS T84).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from core.errors import InvalidCursor

CursorValue = str | int | float | None

# The layout of the bucket; the janitor touches nothing outside these prefixes.
FILE_PREFIX = "files/"
INCOMING_PREFIX = "incoming/"  # where clients bring a single object, until it is copied to a key of its own
PREVIEW_PREFIX = "previews/"
PROBE_PREFIX = "probe/"  # what checks write and remove themselves, unless they time out
TAIL_PREFIX = "tails/"  # the last bytes of unfinished resumable uploads, too few for a part

_SEAL_BYTES = 16
_MAX_CURSOR = 8_192  # characters; sort values are names and numbers
_EXTENSION = re.compile(r"[a-z0-9]{1,16}")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562 §5.7) whose rand_a holds the fraction of the millisecond (§6.2, method 3).

    Ids made on one machine more than a quarter of a microsecond apart therefore sort by time, like those of
    PostgreSQL's uuidv7(); 62 bits stay random."""
    millis, rest = divmod(time.time_ns(), 1_000_000)
    fraction = rest * 4096 // 1_000_000
    value = (millis & (1 << 48) - 1) << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | secrets.randbits(62)
    return UUID(int=value)


def new_secret(prefix: str) -> str:
    """A key or token of 256 random bits; the prefix tells people and secret scanners what it is (THREATS T63)."""
    return prefix + secrets.token_urlsafe(32)


def secret_digest(secret: str) -> bytes:
    """What is stored of a secret. It is random, so a slow hash would add nothing."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def object_key(file_prefix: str, extension: str, now: datetime) -> str:
    """``files/2026/11/<32 hex digits>.pdf``: 128 random bits, never derived from a name or an id (THREATS R1).

    An extension that is not 1 to 16 lower-case ASCII letters and digits is left out."""
    suffix = f".{extension}" if _EXTENSION.fullmatch(extension) else ""
    return f"{file_prefix.strip('/')}/{now:%Y/%m}/{secrets.token_hex(16)}{suffix}"


def encode_cursor(values: Sequence[CursorValue], *, scope: str, secret: bytes) -> str:
    """Seal the sort values of a page's last row. ``scope`` names the list, its owner and its filters."""
    payload = json.dumps(list(values), separators=(",", ":"), allow_nan=False).encode()
    return _encode(_seal(payload, scope, secret) + payload)


def decode_cursor(text: str, *, scope: str, secret: bytes) -> list[CursorValue]:
    """The values that ``encode_cursor`` sealed for this scope; anything else raises InvalidCursor and only that."""
    if len(text) > _MAX_CURSOR or not _BASE64URL.fullmatch(text) or len(text) % 4 == 1:
        raise InvalidCursor
    sealed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    seal, payload = sealed[:_SEAL_BYTES], sealed[_SEAL_BYTES:]
    # The second test: unused bits in the last character would otherwise make two texts of one cursor.
    if not hmac.compare_digest(seal, _seal(payload, scope, secret)) or _encode(sealed) != text:
        raise InvalidCursor
    values: list[CursorValue] = json.loads(payload)
    return values


def cursor_id(cursor: str | None, *, scope: str, secret: bytes) -> UUID | None:
    """The id behind which a list goes on that is in the order of ids; None at its beginning. Raises InvalidCursor."""
    return None if cursor is None else UUID(str(decode_cursor(cursor, scope=scope, secret=secret)[0]))


def _seal(payload: bytes, scope: str, secret: bytes) -> bytes:
    # Of fixed length, so that nothing can be moved from the scope into the payload.
    name = hashlib.sha256(b"cursor:" + scope.encode("utf-8", "surrogatepass")).digest()
    return hmac.digest(secret, name + payload, "sha256")[:_SEAL_BYTES]


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
