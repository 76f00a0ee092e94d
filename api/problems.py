"""Errors as problem documents (RFC 9457); the only module that maps an error's family to a status.

The handlers cover errors of services (``GatewayError``), of the bucket, of Flask (``HTTPException``: unknown route, wrong
method), and unexpected ones, which are logged and answered with 500. The text of an unexpected error never leaves the
process (T35).
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from flask import Flask, Response, g, json
from werkzeug.exceptions import HTTPException

from api.context import request_id, settings
from core import errors
from core.errors import GatewayError
from storage_backends.base import OutOfSpace, StorageError

MEDIA_TYPE = "application/problem+json"

STATUS: Mapping[type[GatewayError], int] = {
    errors.InvalidInput: 400,
    errors.NotAuthenticated: 401,
    errors.NotAllowed: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Gone: 410,
    errors.PreconditionFailed: 412,
    errors.TooLarge: 413,
    errors.Unsupported: 415,
    errors.RangeNotSatisfiable: 416,
    errors.Unprocessable: 422,
    errors.Locked: 423,
    errors.TooMany: 429,
    errors.BodyChecksumMismatch: 460,
    errors.Unavailable: 503,
    errors.StorageFull: 507,
}

# Codes of the errors that Flask and werkzeug raise.
_HTTP_CODES = {
    400: "invalid_input",
    401: "not_authenticated",
    403: "not_allowed",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    410: "gone",
    412: "precondition_failed",
    413: "request_too_large",
    414: "uri_too_long",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
    429: "rate_limited",
    431: "headers_too_large",
    500: "internal_error",
    501: "not_implemented",
    503: "unavailable",
}
_KEPT_HEADERS = ("allow", "retry-after", "content-range", "www-authenticate")
_RETRY_AFTER = 5  # seconds, if the error gives none

log = structlog.get_logger("api")


def status_of(error: GatewayError | type[GatewayError]) -> int:
    """The status of an error's family; 500 for an error outside all families."""
    kind = error if isinstance(error, type) else type(error)
    return next((STATUS[family] for family in kind.__mro__ if family in STATUS), 500)


def install(app: Flask) -> None:
    """Register the error handlers."""
    app.register_error_handler(GatewayError, from_gateway_error)
    app.register_error_handler(StorageError, from_storage_error)
    app.register_error_handler(HTTPException, from_http_exception)
    app.register_error_handler(Exception, from_anything)


def from_gateway_error(error: GatewayError) -> Response:
    """The response to a service's error."""
    extra = dict(error.extra)
    status = status_of(error)
    headers: dict[str, str] = {}
    retry_after = extra.pop("retry_after", None)
    if retry_after is not None or status in (429, 503):
        headers["Retry-After"] = str(max(1, int(retry_after or _RETRY_AFTER)))
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="gateway"'
    if status == 416 and "size" in extra:
        headers["Content-Range"] = f"bytes */{extra['size']}"  # RFC 9110 §15.5.17
    if status >= 500:
        log.warning("request_failed", status=status, code=error.code, detail=error.detail, cause=repr(error.__cause__))
    return problem(status, error.code, error.title, error.detail, errors=error.errors, extra=extra, headers=headers)


def from_storage_error(error: StorageError) -> Response:
    """The response to a bucket error that no service handled."""
    log.exception("unhandled_storage_error", kind=type(error).__name__, code=error.code)
    return from_gateway_error(errors.StorageFull() if isinstance(error, OutOfSpace) else errors.Unavailable())


def from_http_exception(error: HTTPException) -> Response | HTTPException:
    """The response to an error of Flask's; redirects are left as they are."""
    status = error.code or 500
    if error.response is not None or status < 400:
        return error
    headers = {name: value for name, value in error.get_headers() if name.lower() in _KEPT_HEADERS}
    phrase = _phrase(status)
    return problem(
        status,
        _HTTP_CODES.get(status, "internal_error" if status >= 500 else "invalid_input"),
        phrase,
        phrase,
        headers=headers,
    )


def from_anything(error: Exception) -> Response:
    """The response to an unexpected error."""
    log.exception("unexpected_error")
    kind = errors.GatewayError
    return problem(500, kind.code, kind.title, "An unexpected error occurred. Please report it with the request_id.")


def problem(
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    errors: list[dict[str, str]] | None = None,
    extra: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem document. Its ``type`` links to the code's entry on the documentation page."""
    g.problem_code = code
    document: dict[str, Any] = {
        "type": f"{settings().base_url}/docs#{code}",
        **(extra or {}),  # may contain a registered type
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id(),
    }
    if errors:
        document["errors"] = errors
    return Response(json.dumps(document), status, headers=dict(headers or {}), content_type=MEDIA_TYPE)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
