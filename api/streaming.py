"""Stored objects as responses, with headers that keep browsers from trusting what users uploaded (T31).

When a client disconnects, werkzeug closes the response, and with it the connection to the bucket.
"""

from __future__ import annotations

from flask import Response

from api.context import caller_or_none
from services.library.delivery import Stream

_SANDBOX = "default-src 'none'; base-uri 'none'; frame-ancestors 'self'; sandbox"


def stream(found: Stream) -> Response:
    """The bytes of an object. If they break off, the connection is reset: the response never looks complete."""
    response = Response(found.body or (), found.status, direct_passthrough=True)
    response.headers.update(found.headers)
    response.headers["Content-Length"] = str(found.length)
    response.call_on_close(found.close)
    return guarded(response)


def user_bytes(body: bytes, mime_type: str, etag: str) -> Response:
    """A small derived file, such as a thumbnail."""
    return guarded(Response(body, content_type=mime_type, headers={"ETag": etag}))


def not_modified(headers: dict[str, str]) -> Response:
    """304."""
    response = Response(status=304, headers=headers)
    del response.headers["Content-Type"]
    return guarded(response)


def redirect(url: str) -> Response:
    """A redirect to a presigned URL, which is a secret while it is valid: not cached, and without a Referer."""
    response = Response(status=302, headers={"Location": url, "Cache-Control": "private, no-store"})
    response.autocorrect_location_header = False
    del response.headers["Content-Type"]
    return guarded(response)


def guarded(response: Response) -> Response:
    """Set the headers of every response with users' bytes (T31)."""
    headers = response.headers
    headers["Content-Security-Policy"] = _SANDBOX
    # Pages of other sites may embed what anybody may read, and nothing else.
    headers["Cross-Origin-Resource-Policy"] = "cross-origin" if caller_or_none() is None else "same-origin"
    headers.setdefault("Cache-Control", "private, no-cache")  # revalidated each time, by ETag
    return response
