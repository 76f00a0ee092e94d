"""Rate limits: each operation names the limit that its requests count for. ``RateLimit`` and ``RateLimit-Policy`` are those of
draft-ietf-httpapi-ratelimit-headers-10; the caller learns from each response how many requests are left."""

from __future__ import annotations

from typing import cast

from flask import Response, g, request

from api import in_flight
from api.auth import current_operation
from api.context import caller_or_none, services
from core.errors import TooMany
from services.access.rate_limits import Hit


def count() -> None:
    """Count the request before anything is read or done. Raises TooMany."""
    operation, limits = current_operation(), services().rate_limits
    if operation is None or operation.limit is None or limits is None or request.method == "OPTIONS":
        return
    name, caller = operation.limit, caller_or_none()
    g.rate_limit = in_flight.once(lambda: limits.hit(name, caller, g.address))
    _check(g.rate_limit, "requests of this kind")


def count_key() -> None:
    """Count an Idempotency-Key, whose answer will be kept. Raises TooMany."""
    limits = services().rate_limits
    if limits is not None:
        _check(limits.hit("idempotency_keys", caller_or_none(), g.address), "Idempotency-Keys")


def _check(hit: Hit, what: str) -> None:
    if not hit.allowed:
        detail = f"At most {hit.quota:,} {what} are allowed in {hit.window:,} seconds."
        raise TooMany(detail, retry_after=hit.reset)


def describe(response: Response) -> Response:
    """Add the fields."""
    hit = cast("Hit | None", g.get("rate_limit"))
    if hit is not None:
        response.headers["RateLimit-Policy"] = f'"{hit.name}";q={hit.quota};w={hit.window}'
        response.headers["RateLimit"] = f'"{hit.name}";r={hit.remaining};t={hit.reset}'
    return response
