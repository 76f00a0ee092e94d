"""Identifiers, secrets and object keys.

Ids of files and uploads sort by time (UUIDv7). Object keys never do more than that: their last segment is
random, so that nobody can guess a key from a name, an id or a neighbour (THREATS R1).
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from datetime import datetime
from uuid import UUID

# The layout of the bucket; the janitor touches nothing outside these prefixes.
FILE_PREFIX = "files/"
INCOMING_PREFIX = "incoming/"  # where clients bring a single object, until it is copied to a key of its own
PREVIEW_PREFIX = "previews/"
PROBE_PREFIX = "probe/"  # what checks write and remove themselves, unless they time out
TAIL_PREFIX = "tails/"  # the last bytes of unfinished resumable uploads, too few for a part

_EXTENSION = re.compile(r"[a-z0-9]{1,16}")


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
