"""``Idempotency-Key``: the same request again gets the first answer, for 24 hours (THREATS T14, T104).

Two requests are the same when method, path, query and body are. Only success is remembered: a request that
failed may be sent again. What must not be kept, such as a new API key, is left out of the remembered answer
by ``forget_in_replay``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import Response, g, json, request

from api.context import principal, services
from core.errors import InvalidInput
from services.idempotency import Replay

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_REMEMBERED = ("Location", "ETag", "Upload-Session")


def key_of_request() -> str | None:
    """The request's Idempotency-Key; InvalidInput unless it is 1 to 255 visible ASCII characters."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidInput("Idempotency-Key takes 1 to 255 visible ASCII characters.")
    return key


def request_digest(body: bytes = b"") -> bytes:
    """SHA-256 over what makes two requests the same. The body may be left out where it is digested apart."""
    digest = hashlib.sha256()
    for piece in (request.method, request.path, request.query_string, body):
        data = piece if isinstance(piece, bytes) else piece.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


def idempotent(view: Callable[..., Response]) -> Callable[..., Response]:
    """Honour Idempotency-Key on a view that takes JSON."""

    @wraps(view)
    def once(**arguments: Any) -> Response:
        key = key_of_request()
        if key is None:
            return view(**arguments)
        digest = request_digest(g.get("body", b""))
        first = services().idempotency.begin(principal(), key, digest)
        if first is not None:
            return replayed(first)
        try:
            response = view(**arguments)
        except BaseException:
            services().idempotency.drop(principal(), key)
            raise
        remember(key, digest, response)
        return response

    return once


def remember(key: str, digest: bytes, response: Response) -> None:
    """Keep a successful answer for those who ask again."""
    body = json.loads(response.get_data())
    for member in g.get("forgotten_in_replay", ()):
        body[member] = None
    headers = {name: response.headers[name] for name in _REMEMBERED if name in response.headers}
    services().idempotency.finish(
        principal(),
        key,
        request_digest=digest,
        status=response.status_code,
        body=body,
        headers=headers,
    )


def forget_in_replay(*members: str) -> None:
    """Members of this request's answer that a later replay gives as null."""
    g.forgotten_in_replay = members


def replayed(first: Replay) -> Response:
    response = Response(
        json.dumps(first.body), first.status, headers=first.headers, content_type="application/json"
    )
    response.headers["Idempotency-Replayed"] = "true"
    return response
