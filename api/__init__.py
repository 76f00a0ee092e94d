"""HTTP: each view parses its input, calls one service and renders the result. ``create`` makes the Flask application.

A request gets an id and a caller (auth.py), then its route's input is parsed and its view is called (operations.py). Errors
become problem documents (problems.py). Every response gets the request's id and security headers. Nothing here reads the
database or the bucket, and no view touches ``request.data``, ``.form`` or ``.files``: bodies are streamed (T7).

Open operations.py first: ``@operation`` declares a route's input, responses and errors, and openapi.py writes the document
at /openapi.json from these declarations. Then files.py, which has the most routes.

    Each request        auth, context, problems, proxies, rate_limits, in_flight (limits on concurrent bodies and streams)
    Input               operations, fields (types of values), request_models, placement, request_body (raw bodies,
                        checksums), form_data (multipart/form-data as a stream)
    Output              render (records to JSON), response_models, streaming (objects as responses), openapi, docs_page
    Idempotency-Key     idempotency
    Routes              form_uploads      POST /api/upload, PUT /api/upload/<filename>
                        direct_uploads    /api/uploads: from the client to the bucket by presigned URLs
                        tus, tus_headers, tus_body, tus_errors    /api/tus: tus 1.0.0 and the IETF draft
                        s3_uploads, s3_upload_models, s3_xml    /s3: what @uppy/aws-s3 expects
                        upload_tokens     /api/upload-tokens, and /t/<token>/...
                        login, session_cookie    /api/session: sign in with a browser
                        files, folders, search, admin, audit, monitoring (health, metrics, the document)
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from flask import Flask, Request, Response, g, request
from flask_cors import CORS
from werkzeug.datastructures import ImmutableMultiDict
from werkzeug.routing import BaseConverter

import tracing
from api import (
    admin,
    audit,
    auth,
    direct_uploads,
    files,
    folders,
    form_uploads,
    login,
    monitoring,
    problems,
    proxies,
    rate_limits,
    s3_uploads,
    s3_xml,
    search,
    session_cookie,
    upload_tokens,
)
from api.context import EXTENSION, Gateway
from api.fields import MAX_INT32
from api.render import GatewayJSON
from api.tus import SlashAtEnd, tus
from api.tus_headers import PATH as TUS_PATH
from api.upload_tokens import TokenInPath
from core import breaker
from core.errors import InvalidInput
from core.origin import ORIGIN, Origin
from core.security_headers import OVER_HTTPS, SECURITY_HEADERS
from services import Services
from settings import Settings
from telemetry import metrics

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,128}")
# Headers that scripts of other origins may read.
_EXPOSED = (
    "Location, ETag, X-Request-ID, Link, Retry-After, Content-Disposition, Content-Range, Accept-Ranges, "
    "Idempotency-Replayed, Upload-Session, Upload-Offset, Upload-Length, Upload-Expires, Upload-Metadata, Upload-File-Id, "
    "Upload-Concat, Upload-Defer-Length, Upload-Complete, Upload-Incomplete, Upload-Draft-Interop-Version, Upload-Limit, "
    "Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size, Tus-Checksum-Algorithm, "
    "RateLimit, RateLimit-Policy"
)
_ROUTES = (
    (monitoring.routes, ""),
    (form_uploads.routes, "/api"),
    (files.routes, "/api/files"),
    (files.link_routes, "/d"),
    (folders.routes, "/api/folders"),
    (search.routes, "/api"),
    (admin.routes, "/api/admin"),
    (audit.routes, "/api"),
    (s3_uploads.routes, "/s3"),
    (s3_xml.routes, "/s3/objects"),
    (upload_tokens.routes, "/api"),
    (login.routes, "/api"),
)


class _Request(Request):
    @cached_property
    def args(self) -> ImmutableMultiDict[str, str]:
        """The query. Bytes that are not UTF-8 are lone surrogates, which api/fields.py refuses; werkzeug would leave "%FF"."""
        query = self.query_string.decode("utf-8", "surrogateescape")
        return ImmutableMultiDict(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))


class _Application(Flask):
    request_class = _Request

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """The function: none is asynchronous, which Flask would look for eight times in each request."""
        return func


def create(services: Services, settings: Settings) -> Flask:
    """The HTTP application. ValueError for a trusted proxy that is not an address."""
    app = _Application("gateway", static_folder=None)
    proxies.networks(settings.trusted_proxies)
    app.extensions[EXTENSION] = Gateway(services, settings)
    app.json = GatewayJSON(app)
    app.url_map.merge_slashes = False  # names may contain //, and the redirect would be HTML
    app.url_map.converters |= {"folder_id": FolderIdConverter, "job_id": JobIdConverter}
    problems.install(app)
    app.before_request(_begin)
    app.before_request(auth.authenticate)
    app.before_request(rate_limits.count)
    app.before_request(_refuse_odd_path)
    app.after_request(_finish)
    app.after_request(session_cookie.drop_from)
    app.after_request(audit.finish)
    app.after_request(rate_limits.describe)
    app.teardown_request(lambda _: breaker.end_request())
    _allow_origins(app, settings.cors_origins)
    for routes, prefix in _ROUTES:
        app.register_blueprint(routes, url_prefix=prefix or None)
    if services.direct is not None:
        app.register_blueprint(direct_uploads.routes, url_prefix="/api/uploads")
    if services.code_flow is not None:
        app.register_blueprint(login.provider_routes, url_prefix="/api/session/oidc")
    if services.resumable is not None:
        app.register_blueprint(tus, url_prefix=TUS_PATH)
    always = OVER_HTTPS if settings.base_url.startswith("https:") else SECURITY_HEADERS
    app.wsgi_app = _WithHeaders(TokenInPath(SlashAtEnd(app.wsgi_app)), always)  # type: ignore[method-assign]
    return app


class _WithHeaders:
    """Adds headers to responses that lack them. Flask would copy and check each of them, twice."""

    def __init__(self, application: WSGIApplication, always: Iterable[tuple[str, str]]):
        self._application, self._always = application, {name.lower(): (name, value) for name, value in always}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """WSGI."""

        def start(status: str, headers: list[tuple[str, str]], error: Any = None) -> Any:
            given = {name.lower() for name, _ in headers}
            headers += [header for name, header in self._always.items() if name not in given]
            return start_response(status, headers, error)

        return self._application(environ, start)


class JobIdConverter(BaseConverter):
    """A 64-bit integer. werkzeug's own converter accepts 5,000 digits, for which CPython raises an error (T16)."""

    regex = "[0-9]{1,18}"

    def to_python(self, value: str) -> int:
        """The integer."""
        return int(value)


class FolderIdConverter(JobIdConverter):
    """A positive 32-bit integer."""

    regex = "[0-9]{1,10}"

    def to_python(self, value: str) -> int:
        """The integer; 0, which no folder has, for a larger one. A ValidationError would lead to 405."""
        number = int(value)
        return number if number <= MAX_INT32 else 0


def _begin() -> None:
    """Give the request an id: the client's own if it is safe to log (T25)."""
    given = request.headers.get("X-Request-ID", "")
    g.begun = time.monotonic()
    breaker.begin_request()
    g.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
    g.address = proxies.client()
    g.span = tracing.begin("request", "SERVER", request.headers.get("traceparent"))
    trace = None if g.span is None else g.span.traceparent
    ORIGIN.set(Origin("anonymous", address=g.address, request_id=g.request_id, trace=trace))


def _refuse_odd_path() -> None:
    """Raises InvalidInput for a path whose bytes are not UTF-8; werkzeug would put U+FFFD into names."""
    try:
        request.environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInput("The path is not UTF-8.") from None


def _finish(response: Response) -> Response:
    headers, rule = response.headers, request.url_rule
    if "begun" in g:
        route = rule.rule if rule is not None else None
        metrics().request(route, request.method, response.status_code, time.monotonic() - g.begun)
        headers["X-Request-ID"] = g.request_id
        if g.span is not None:
            _end_span(g.span, route or "unmatched", response.status_code)
    audit.describe()
    if request.method == "OPTIONS" and response.is_sequence and not response.get_data():
        headers.pop("Content-Type", None)  # Flask would say text/html
    return response


def _end_span(span: tracing.Span, route: str, status: int) -> None:
    """Attributes are named by OpenTelemetry's conventions for HTTP servers."""
    span.end(
        f"{request.method} {route}",
        failed=status >= 500,
        http__request__method=request.method,
        http__route=route,
        http__response__status_code=status,
        request_id=g.request_id,
    )


def _allow_origins(app: Flask, origins: tuple[str, ...]) -> None:
    """Allow exactly these origins (T38)."""
    if origins:
        options: dict[str, Any] = {"supports_credentials": True, "expose_headers": _EXPOSED, "max_age": 600}
        patterns = [re.compile(re.escape(origin) + r"\Z", re.IGNORECASE) for origin in origins]
        CORS(app, resources={r"/*": {"origins": patterns}}, **options)
