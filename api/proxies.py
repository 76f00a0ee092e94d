"""The address that a client used, as far as it can be believed.

PUBLIC_URL decides where it is set. Else what a proxy says in X-Forwarded-Proto and X-Forwarded-Host counts, if the peer
is among TRUSTED_PROXIES, and of a chain the word of the outermost one that is trusted: what a client writes into these
fields stands left of it and is never read (THREATS T38)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from flask import request

from api.context import http

_HOST = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


def origin() -> str:
    """Scheme and host of links to us, without a slash at the end."""
    settings = http()
    hops = _trusted_hops()
    if settings.public_url_set or not hops:
        return settings.base_url
    scheme = _said("X-Forwarded-Proto", hops)
    host = _said("X-Forwarded-Host", hops)
    if scheme not in ("http", "https") or host is None or not _HOST.fullmatch(host):
        return settings.base_url
    return f"{scheme}://{host}"


def client() -> str:
    """The address that the request came from: the nearest that is not a proxy of ours."""
    chain = _chain()
    return chain[min(_trusted_hops(), len(chain) - 1)]


def forwarded() -> bool:
    """Whether the request came through a proxy, believed or not."""
    return any(name in request.headers for name in ("X-Forwarded-For", "Forwarded", "Via"))


def _trusted_hops() -> int:
    """How many of the nearest proxies are ours."""
    hops = 0
    for address in _chain():
        if not _trusts(http().trusted_proxies, address):
            break
        hops += 1
    return hops


def _chain() -> list[str]:
    """Where the request came from, the nearest first."""
    said = [word.strip() for word in request.headers.get("X-Forwarded-For", "").split(",") if word.strip()]
    return [request.environ.get("REMOTE_ADDR", ""), *reversed(said)]


def _said(header: str, hops: int) -> str | None:
    words = [word.strip() for word in request.headers.get(header, "").split(",") if word.strip()]
    return words[-min(hops, len(words))] if words else None


def _trusts(networks: Sequence[str], address: str) -> bool:
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in parsed(tuple(networks)))


@lru_cache(maxsize=8)
def parsed(networks: tuple[str, ...]) -> list[IPv4Network | IPv6Network]:
    """ValueError for what is neither an address nor a network."""
    return [ip_network(network, strict=False) for network in networks]
