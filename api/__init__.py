"""HTTP: parse, call one service, render. ``install`` puts it onto a Flask application.

A request passes, in this order: its id, who asks (api/auth.py), then the route's own parsing and view
(api/operations.py); whatever goes wrong on the way becomes a problem document (api/problems.py). On the way
out every response gets its id and the headers that keep browsers from guessing.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import Any

import structlog
from flask import Flask, Response, g, request
from flask_cors import CORS
from werkzeug.routing import BaseConverter, ValidationError

from api import auth, problems, proxies
from api.admin import admin
from api.context import EXTENSION, Gateway, HttpSettings, request_id
from api.direct_uploads import uploads
from api.fields import MAX_INT32
from api.files import files, links
from api.folders import folders
from api.form_uploads import upload
from api.monitoring import ops
from api.render import GatewayJSON
from api.s3_uploads import companion
from api.s3_xml import s3_xml
from api.search import search
from api.tus import SlashAtEnd, tus
from api.tus_headers import PATH as TUS_PATH
from api.upload_tokens import TokenInPath, upload_tokens
from core import breaker
from services import Services
from settings import Settings
from telemetry import metrics

__all__ = ["HttpSettings", "create", "install"]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,128}")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")
_EXPOSED = [
    "Location",
    "ETag",
    "X-Request-ID",
    "Link",
    "Retry-After",
    "Content-Disposition",
    "Content-Range",
    "Accept-Ranges",
    "Upload-Session",
    "Upload-Offset",
    "Upload-Length",
    "Upload-Expires",
    "Upload-Metadata",
    "Upload-File-Id",
    "Upload-Concat",
    "Upload-Defer-Length",
    "Upload-Complete",
    "Upload-Incomplete",
    "Upload-Draft-Interop-Version",
    "Upload-Limit",
    "Tus-Resumable",
    "Tus-Version",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Checksum-Algorithm",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "Idempotency-Replayed",
]
_BLUEPRINTS = (
    (ops, ""),
    (upload, "/api"),
    (files, "/api/files"),
    (links, "/d"),
    (folders, "/api/folders"),
    (search, "/api"),
    (admin, "/api/admin"),
    (companion, "/s3"),
    (s3_xml, "/s3/objects"),
    (upload_tokens, "/api"),
)


def create(services: Services, settings: Settings) -> Flask:
    """The HTTP application around the services."""
    app = Flask("gateway", static_folder=None)
    install(
        app,
        services,
        HttpSettings(
            base_url=settings.base_url,
            public_url_set=settings.public_url is not None,
            trusted_proxies=settings.trusted_proxies,
            cors_origins=settings.cors_origins,
            max_file_size=settings.max_file_size,
            max_files_per_request=settings.max_files_per_request,
            max_bodies_in_flight=settings.max_bodies_in_flight,
        ),
    )
    return app


def install(app: Flask, services: Services, http: HttpSettings) -> None:
    """Put the routes and all that surrounds them onto ``app``. ValueError for a CORS origin that is not exact, and for a
    trusted proxy that is no address."""
    proxies.parsed(http.trusted_proxies)
    app.extensions[EXTENSION] = Gateway(services, http)
    app.json = GatewayJSON(app)
    app.url_map.merge_slashes = False  # a redirect from // would be HTML, and names may hold it
    app.url_map.converters["folder_id"] = FolderIdConverter
    app.url_map.converters["job_id"] = JobIdConverter
    problems.install(app)
    app.before_request(_begin)
    app.before_request(auth.authenticate)
    app.after_request(_finish)
    app.teardown_request(lambda _: breaker.end_request())
    _allow_origins(app, http.cors_origins)
    for blueprint, prefix in _BLUEPRINTS:
        app.register_blueprint(blueprint, url_prefix=prefix or None)
    if services.direct is not None:
        app.register_blueprint(uploads, url_prefix="/api/uploads")
    if services.resumable is not None:
        app.register_blueprint(tus, url_prefix=TUS_PATH)
    app.wsgi_app = TokenInPath(SlashAtEnd(app.wsgi_app))  # type: ignore[method-assign]


class FolderIdConverter(BaseConverter):
    """A positive 32-bit integer; whatever else stands there names no folder. (werkzeug's own reads 5,000 digits, which
    CPython refuses with an error: THREATS T16.)"""

    regex = "[0-9]{1,10}"

    def to_python(self, value: str) -> int:
        number = int(value)
        if not 1 <= number <= MAX_INT32:
            raise ValidationError
        return number


class JobIdConverter(BaseConverter):
    """A positive 64-bit integer."""

    regex = "[0-9]{1,18}"

    def to_python(self, value: str) -> int:
        return int(value)


def _begin() -> None:
    """Name the request: by the client's own id where that is short and plain enough for a log (THREATS T25)."""
    given = request.headers.get("X-Request-ID", "")
    g.begun = time.monotonic()
    breaker.begin_request()
    g.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)


def _finish(response: Response) -> Response:
    headers = response.headers
    if "begun" in g:
        rule = request.url_rule.rule if request.url_rule is not None else None
        metrics().request(rule, request.method, response.status_code, time.monotonic() - g.begun)
    name = request_id()
    if name is not None:
        headers["X-Request-ID"] = name
    headers["X-Content-Type-Options"] = "nosniff"
    headers.setdefault("Referrer-Policy", "no-referrer")
    headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
    headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    headers.setdefault("Cache-Control", "private, no-store")
    if request.method == "OPTIONS" and response.is_sequence and not response.get_data():
        headers.pop("Content-Type", None)  # Flask would call nothing HTML
    return response


def _allow_origins(app: Flask, origins: tuple[str, ...]) -> None:
    """CORS for exactly these origins (THREATS T38): no wildcard, no pattern, never ``null``."""
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"CORS_ORIGINS takes exact origins such as https://app.example.com, not {origin!r}")
    if origins:
        options: dict[str, Any] = {"supports_credentials": True, "expose_headers": _EXPOSED, "max_age": 600}
        patterns = [re.compile(re.escape(origin) + r"\Z", re.IGNORECASE) for origin in origins]
        CORS(app, resources={r"/*": {"origins": patterns}}, **options)
