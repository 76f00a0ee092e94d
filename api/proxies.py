"""The address that a client used, as far as it can be trusted.

If PUBLIC_URL is set, it decides. Otherwise X-Forwarded-Proto and X-Forwarded-Host count if the peer is in TRUSTED_PROXIES. Of
a chain of proxies, the values of the outermost trusted one are used: what a client sends itself is to the left of them and is
never read (T38)."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from flask import request

from api.context import settings

_WITH_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?")
_HOST = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


def origin() -> str:
    """Scheme and host for links to the gateway, without a slash at the end."""
    hops = _trusted_hops()
    if settings().public_url is not None or not hops:
        return settings().base_url
    scheme = _forwarded("X-Forwarded-Proto", hops)
    host = _forwarded("X-Forwarded-Host", hops)
    if scheme not in ("http", "https") or host is None or not _HOST.fullmatch(host):
        return settings().base_url
    return f"{scheme}://{host}"


def client() -> str:
    """The address that the request came from: the nearest one that is not a trusted proxy."""
    hops = _trusted_hops()
    return (_chain()[: hops + 1] if hops else [_peer()])[-1]


def forwarded() -> bool:
    """Whether the request came through a proxy, trusted or not."""
    return any(name in request.headers for name in ("X-Forwarded-For", "Forwarded", "Via"))


def _trusted_hops() -> int:
    """How many of the nearest addresses are trusted proxies."""
    hops = 0
    trusted = settings().trusted_proxies
    for address in _chain() if trusted else ():
        if not _trusted(address, trusted):
            break
        hops += 1
    return hops


def _peer() -> str:
    return _plain(str(request.environ.get("REMOTE_ADDR", "")))


def _chain() -> list[str]:
    """The addresses that the request passed, the nearest first."""
    return [_peer(), *map(_plain, reversed(_values("X-Forwarded-For")))]


def _plain(address: str) -> str:
    """An address without the port that some proxies add, and without the prefix by which a socket of both families shows IPv4."""
    found = _WITH_PORT.fullmatch(address)
    return (found[1] or found[2] if found else address).removeprefix("::ffff:")


def _forwarded(header: str, hops: int) -> str | None:
    values = _values(header)
    return values[-min(hops, len(values))] if values else None


def _values(header: str) -> list[str]:
    return [value.strip() for value in request.headers.get(header, "").split(",") if value.strip()]


@lru_cache(maxsize=1024)
def _trusted(address: str, proxies: tuple[str, ...]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks(proxies))


@lru_cache(maxsize=8)
def networks(texts: tuple[str, ...]) -> list[IPv4Network | IPv6Network]:
    """ValueError for what is neither an address nor a network."""
    return [ip_network(text, strict=False) for text in texts]
