"""Pages of lists, and signed values that clients return unchanged.

A cursor is the position of a page's last row, signed with an HMAC. A list accepts only its own cursors, from the same caller
and with the same filters (T84). Tickets and download links are signed the same way, each with its own keys and scope.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from core.errors import InvalidCursor

T = TypeVar("T")
P = TypeVar("P")
Value = str | int | float | None

_MAC_BYTES = 16
MAX_LENGTH = 4_096  # characters; a request line has room for 8,190
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list."""

    items: list[T]
    next_cursor: str | None
    total: int | None = None  # None if it would take counting the rows


class Cursors:
    """Signs with the first of the keys, and verifies with all of them (core/secrets.py)."""

    def __init__(self, keys: Sequence[bytes]):
        self._keys = keys

    def sign(self, values: Sequence[Value], *, scope: str) -> str:
        """The values as signed text. ``scope`` names the use: a list with its caller and filters, or a kind of link."""
        payload = json.dumps(list(values), separators=(",", ":"), allow_nan=False).encode()
        return _encode(_mac(self._keys[0], payload, scope) + payload)

    def open(self, text: str, *, scope: str) -> list[Value]:
        """The values that were signed for this scope. Raises InvalidCursor for any other text."""
        if len(text) > MAX_LENGTH or not _BASE64URL.fullmatch(text) or len(text) % 4 == 1:
            raise InvalidCursor
        signed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        mac, payload = signed[:_MAC_BYTES], signed[_MAC_BYTES:]
        is_ours = any(hmac.compare_digest(mac, _mac(key, payload, scope)) for key in self._keys)
        if not is_ours or _encode(signed) != text:  # unused bits in the last character would allow two texts
            raise InvalidCursor
        values: list[Value] = json.loads(payload)
        return values

    def after(self, cursor: str | None, position: Callable[[str], P], *, scope: str) -> P | None:
        """Where a list that is ordered by one value continues; None at its start. Raises InvalidCursor."""
        return None if cursor is None else position(str(self.open(cursor, scope=scope)[0]))

    def page(
        self, rows: list[T], position: Callable[[T], object], *, limit: int, scope: str, total: int | None = None
    ) -> Page[T]:
        """A page of the first ``limit`` rows. ``rows`` has one more if there is a next page."""
        page = rows[:limit]
        cursor = self.sign([str(position(page[-1]))], scope=scope) if len(rows) > limit else None
        return Page(page, cursor, total)


def _mac(key: bytes, payload: bytes, scope: str) -> bytes:
    # The digest has a fixed length, so no part of the scope can pass for payload.
    name = hashlib.sha256(b"cursor:" + scope.encode("utf-8", "surrogatepass")).digest()
    return hmac.digest(key, name + payload, "sha256")[:_MAC_BYTES]


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
