"""``Idempotency-Key``: the same request again gets the first answer, for 24 hours (T14, T104).

Two requests are the same if method, path, query and body are. Only success is remembered: a request that failed may be sent
again. The service records the outcome in its transaction (services/access/idempotency.py); the first answer and each repeat
are rendered from it by the same function."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import TypeVar

from flask import Response, g, request

from api import rate_limits
from api.context import principal, services
from core.errors import InvalidInput
from services.access.idempotency import Claim, Recorded

T = TypeVar("T")

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class Digest:
    """SHA-256 over what makes two requests the same: method, path, query, and what ``add`` is given of the rest."""

    def __init__(self, *parts: str | bytes):
        self.sha256 = hashlib.sha256()
        self.add(request.method, request.path, request.query_string, *parts)

    def add(self, *parts: str | bytes) -> None:
        """Each part with its length, so that no two lists of parts have the same digest."""
        for part in parts:
            data = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
            self.sha256.update(len(data).to_bytes(8, "big") + data)


def key_of_request() -> str | None:
    """The request's Idempotency-Key; InvalidInput unless it is 1 to 255 visible ASCII characters."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidInput("Idempotency-Key must be 1 to 255 visible ASCII characters.")
    return key


def once(
    do: Callable[[Claim | None], T],
    render: Callable[[T], Response],
    again: Callable[[Recorded], T | None],
    *,
    digest: Digest | None = None,
    read_body: Callable[[], object] | None = None,
) -> Response:
    """Do the work of a request once per Idempotency-Key, and render its outcome.

    ``do`` passes the claim to the service, which records the outcome. ``again`` turns what was recorded into the outcome; if it
    returns None, what the first request made no longer exists, and the work is done anew. ``digest`` identifies the request
    (the JSON body's by default); that of a streamed body is complete only after ``do`` or ``read_body``."""
    key = key_of_request()
    if key is None:
        return render(do(None))
    rate_limits.count_key()
    sha256 = (digest or Digest(g.get("body", b""))).sha256
    found = services().idempotency.begin(principal(), key, sha256, streamed=read_body is not None)
    while isinstance(found, Recorded):
        if read_body is not None:
            read_body()
            found.check_same(sha256)
        outcome = again(found)
        if outcome is not None:
            response = render(outcome)
            response.headers["Idempotency-Replayed"] = "true"
            return response
        found = services().idempotency.begin(principal(), key, sha256, instead_of=found.claim)
    with services().idempotency.under(found):
        outcome = do(found)
    return render(outcome)
