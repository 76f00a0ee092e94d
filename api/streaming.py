"""A stored object as a response. Browsers are told never to trust what users uploaded (THREATS T31).

The body is closed when the client goes away: werkzeug closes the response, and with it the connection to the bucket.
"""

from __future__ import annotations

from flask import Response

from api.context import caller_or_none
from services.library.delivery import Stream

_SANDBOX = "default-src 'none'; sandbox"


def stream(found: Stream) -> Response:
    """The bytes with their length and headers. A body that breaks off breaks the connection, never ends it well."""
    response = Response(found.body or (), found.status, direct_passthrough=True)
    response.headers.update(found.headers)
    response.headers["Content-Length"] = str(found.length)
    response.call_on_close(found.close)
    return guarded(response)


def user_bytes(body: bytes, mime_type: str, etag: str) -> Response:
    """Few bytes made from a user's file, such as a thumbnail."""
    return guarded(Response(body, content_type=mime_type, headers={"ETag": etag}))


def not_modified(headers: dict[str, str]) -> Response:
    response = Response(status=304, headers=headers)
    del response.headers["Content-Type"]
    return guarded(response)


def redirect(url: str) -> Response:
    """To a presigned URL, which is a secret for as long as it lives: no cache and no Referer."""
    response = Response(status=302, headers={"Location": url, "Cache-Control": "private, no-store"})
    response.autocorrect_location_header = False
    del response.headers["Content-Type"]
    return guarded(response)


def guarded(response: Response) -> Response:
    """Headers that every answer with user bytes bears (THREATS T31)."""
    headers = response.headers
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Content-Security-Policy"] = _SANDBOX
    headers["Referrer-Policy"] = "no-referrer"
    # A file that anybody may read may be shown on anybody's page; all others on none.
    headers["Cross-Origin-Resource-Policy"] = "cross-origin" if caller_or_none() is None else "same-origin"
    headers.setdefault("Cache-Control", "private, no-cache")  # asked again each time, by ETag
    return response
