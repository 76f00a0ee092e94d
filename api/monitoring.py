"""Health, and the document of the API. Open to everybody, so nothing here names anything (THREATS T124)."""

from __future__ import annotations

from flask import Blueprint, Response, current_app

import telemetry
from api import openapi, problems
from api.context import services
from api.docs_page import page, policy
from api.operations import Content, operation
from api.render import answer
from api.response_models import HealthOut, ReadyOut
from core.errors import Unavailable

routes = Blueprint("monitoring", __name__)

_HTML = Content({"text/html": None}, "A page")


@routes.get("/healthz")
@operation("Is the process alive", access="public", responses={200: HealthOut})
def healthz() -> Response:
    """Touches neither the database nor the bucket."""
    return answer({"status": "ok"})


@routes.get("/readyz")
@operation("Can the gateway do its work", access="public", responses={200: ReadyOut}, errors=(Unavailable,))
def readyz() -> Response:
    """503 with the same `checks` where one of them failed."""
    checks = services().health.ready()
    if all(checks.values()):
        return answer({"status": "ready", "checks": checks})
    failed = ", ".join(name for name, found in checks.items() if not found)
    return problems.from_gateway_error(Unavailable(f"Not ready: {failed}.", checks=checks))


@routes.get("/metrics")
@operation("Metrics", access="public", responses={200: Content({"text/plain": None}, "Prometheus' text format")})
def show_metrics() -> Response:
    """Requests, uploads, calls to the bucket, jobs, queues and previews: how many, how long and with what outcome, of all
    processes on this machine. Without the queues where the database does not answer."""
    now = []
    try:
        queues = services().jobs.queues()
    except Unavailable:
        pass
    else:
        now.append(
            telemetry.queue_jobs(
                [
                    ((queue.queue, state), float(getattr(queue, state)))
                    for queue in queues
                    for state in ("waiting", "scheduled", "running", "failed")
                ]
            )
        )
        now.append(telemetry.queue_oldest([((queue.queue,), queue.oldest_seconds) for queue in queues]))
    text = telemetry.metrics().exposition(now)
    return Response(text, content_type="text/plain; version=0.0.4; charset=utf-8")


@routes.get("/openapi.json")
@operation("This document", access="public", responses={200: Content({"application/json": None}, "OpenAPI 3.1")})
def document() -> Response:
    return answer(openapi.document(current_app), headers={"Cache-Control": "no-cache"})


@routes.get("/docs")
@operation("This document, to read", access="public", responses={200: _HTML})
def docs() -> Response:
    text = page(openapi.document(current_app))
    return Response(text, content_type="text/html; charset=utf-8", headers={"Content-Security-Policy": policy()})


@routes.get("/")
@operation("Where to go from here", access="public", responses={200: _HTML})
def index() -> Response:
    text = page(None)
    return Response(text, content_type="text/html; charset=utf-8", headers={"Content-Security-Policy": policy()})
