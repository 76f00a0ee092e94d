"""Structured fields (RFC 9651) and the digests in them (RFC 9530). A malformed field counts as absent (RFC 9651 §4.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import http_sf

# Algorithms that are verified: hashlib's name and the size in bytes.
_HASHES = {"sha-256": ("sha256", 32), "sha-512": ("sha512", 64)}


def boolean(text: str | None) -> bool | None:
    """The boolean in the field; None if it is missing or malformed."""
    value = _item(text)
    return value if isinstance(value, bool) else None


def natural(text: str | None) -> int | None:
    """A non-negative integer of at most 15 digits."""
    value = _item(text)
    return value if type(value) is int and value >= 0 else None


def digests(text: str | None) -> dict[str, bytes]:
    """What Content-Digest or Repr-Digest says, by hashlib's names; algorithms that are not verified are left out."""
    found = {}
    for name, member in _dictionary(text).items():
        algorithm, size = _HASHES.get(name, ("", 0))
        value = member[0] if isinstance(member, tuple) else None
        if isinstance(value, bytes) and algorithm and len(value) == size:
            found[algorithm] = value
    return found


def wanted_digest(text: str | None) -> str | None:
    """The algorithm of ``digest_field`` that Want-Repr-Digest prefers: 10 is the most, 0 is not at all."""
    wishes = {name: member[0] for name, member in _dictionary(text).items() if isinstance(member, tuple)}
    usable = {name: wish for name in _HASHES if type(wish := wishes.get(name)) is int and 1 <= wish <= 10}
    return max(usable, key=lambda name: usable[name], default=None)


def hash_of(algorithm: str) -> hashlib._Hash:
    """A new hash for an algorithm of ``wanted_digest``."""
    return hashlib.new(_HASHES[algorithm][0], usedforsecurity=False)


def digest_field(algorithm: str, digest: bytes) -> str:
    """The value of Repr-Digest."""
    return http_sf.ser({algorithm: digest})


def _item(text: str | None) -> Any:
    value = _parse(text, "item")
    return value[0] if isinstance(value, tuple) else None


def _dictionary(text: str | None) -> Mapping[str, Any]:
    value = _parse(text, "dictionary")
    return value if isinstance(value, dict) else {}


def _parse(text: str | None, kind: str) -> Any:
    try:
        return http_sf.parse((text or "").encode("utf-8", "replace"), tltype=kind)
    except http_sf.StructuredFieldError:
        return None
