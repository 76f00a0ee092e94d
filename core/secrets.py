"""Keys for each purpose, derived from SECRET_KEY: a leaked one opens nothing else (T143)."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

_SALT = b"upload-gateway"


@dataclass(frozen=True, slots=True)
class Secrets:
    """The values of SECRET_KEY, newest first: the newest signs, and all verify until they are removed from the list."""

    keys: Sequence[str] = field(repr=False)

    def derive(self, purpose: str) -> list[bytes]:
        """A key of 32 bytes from each value, newest first, that only this purpose has: HKDF with SHA-256 (RFC 5869)."""
        extracted = [hmac.digest(_SALT, key.encode(), "sha256") for key in self.keys]
        return [hmac.digest(key, purpose.encode() + b"\1", "sha256") for key in extracted]
