"""Health, metrics and the API's documentation.

All are open to everyone unless OPS_ACCESS closes all but ``/healthz`` and the status of ``/readyz`` (T141), so no response
contains names of anything (T124)."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, current_app

import telemetry
from api import openapi, problems
from api.auth import is_operator
from api.context import services
from api.docs_page import page, policy
from api.operations import Content, operation
from api.render import answer
from api.response_models import HealthOut, ReadyOut
from core.errors import Unavailable

routes = Blueprint("monitoring", __name__)

_HTML = Content({"text/html": None}, "A page")


@routes.get("/healthz")
@operation("Check that the process is alive", access="public", responses={200: HealthOut})
def healthz() -> Response:
    """Uses neither the database nor the bucket."""
    return answer({"status": "ok"})


@routes.get("/readyz")
@operation("Check that the gateway can work", access="public", responses={200: ReadyOut}, errors=(Unavailable,))
def readyz() -> Response:
    """`503` with the same `checks` if one of them failed. With `OPS_ACCESS=admin`, `checks` are shown to admins only."""
    checks = services().health.ready()
    failed = ", ".join(name for name, found in checks.items() if not found)
    details: dict[str, Any] = {"checks": checks} if is_operator() else {}
    if not failed:
        return answer({"status": "ready", **details})
    return problems.from_gateway_error(Unavailable(f"Not ready: {failed}." if details else "Not ready.", **details))


@routes.get("/metrics")
@operation("Get metrics", access="operators", responses={200: Content({"text/plain": None}, "Prometheus text format")})
def show_metrics() -> Response:
    """Counts, durations and outcomes of requests, uploads, calls to the bucket, jobs and previews, of all processes on this
    machine; and what rows tell now, such as the state of the queues, if the database is available."""
    text = telemetry.metrics().exposition(telemetry.measured(services().gauges))
    return Response(text, content_type="text/plain; version=0.0.4; charset=utf-8")


@routes.get("/openapi.json")
@operation(
    "Get the OpenAPI document", access="operators", responses={200: Content({"application/json": None}, "OpenAPI 3.1")}
)
def document() -> Response:
    """Generated from the routes."""
    return answer(openapi.document(current_app), headers={"Cache-Control": "no-cache"})


@routes.get("/docs")
@operation("Get the documentation as a page", access="operators", responses={200: _HTML})
def docs() -> Response:
    """The OpenAPI document and the error codes as HTML."""
    text = page(openapi.document(current_app))
    return Response(text, content_type="text/html; charset=utf-8", headers={"Content-Security-Policy": policy()})


@routes.get("/")
@operation("Get the start page", access="public", responses={200: _HTML})
def index() -> Response:
    """Links to the documentation."""
    text = page(None)
    return Response(text, content_type="text/html; charset=utf-8", headers={"Content-Security-Policy": policy()})
