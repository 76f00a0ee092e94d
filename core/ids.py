"""Ids, secrets and object keys.

Ids of files and uploads sort by time (UUIDv7). The last segment of an object key is random, so that nobody can guess it from a
name, an id or another key (R1).
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from datetime import datetime
from uuid import UUID

# The layout of the bucket. The janitor touches nothing outside these prefixes.
FILE_PREFIX = "files/"
ARCHIVE_PREFIX = "archive/"  # objects that are seldom read, in the storage class S3_ARCHIVE_CLASS
MARK_KEY = "gateway/bucket"  # an object that names the bucket, once its objects were copied to another or from there
INCOMING_PREFIX = "incoming/"  # objects written with a presigned URL, until they are copied to keys that only we know
PREVIEW_PREFIX = "previews/"
PROBE_PREFIX = "probe/"  # written and deleted by checks; left behind if they time out
TAIL_PREFIX = "tails/"  # the last bytes of an unfinished resumable upload, if too few for a part

_EXTENSION = re.compile(r"[a-z0-9]{1,16}")


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562 §5.7) whose rand_a is the fraction of the millisecond (§6.2, method 3), as in PostgreSQL's uuidv7().

    Ids from one machine sort by time if they are a quarter of a microsecond apart; 62 bits are random."""
    millis, rest = divmod(time.time_ns(), 1_000_000)
    fraction = rest * 4096 // 1_000_000
    value = (millis & (1 << 48) - 1) << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | secrets.randbits(62)
    return UUID(int=value)


def new_secret(prefix: str) -> str:
    """A key or token with 256 random bits. People and secret scanners recognise the prefix (T63)."""
    return prefix + secrets.token_urlsafe(32)


def secret_digest(secret: str) -> bytes:
    """The stored hash of a secret. It is random, so a slow hash would add nothing."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def object_key(file_prefix: str, extension: str, now: datetime) -> str:
    """A new key such as ``files/2026/11/<32 hex digits>.pdf``, with 128 random bits (R1).

    The extension is omitted unless it is 1 to 16 lower-case ASCII letters and digits."""
    suffix = f".{extension}" if _EXTENSION.fullmatch(extension) else ""
    return f"{file_prefix.strip('/')}/{now:%Y/%m}/{secrets.token_hex(16)}{suffix}"
