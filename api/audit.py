"""What requests leave in the access log, and in the audit log beside the events of services; and ``GET /api/audit``."""

from __future__ import annotations

from uuid import UUID

import structlog
from flask import Blueprint, Response, g, request

from api import render
from api.auth import current_operation
from api.context import services
from api.fields import as_uuid
from api.operations import operation
from api.request_models import AuditQuery
from api.response_models import AuditEventOut, AuditPageOut
from core.errors import Unavailable
from core.origin import ORIGIN
from db.records import AuditRecord
from services.upkeep.audit import EventFilter
from telemetry import trace_id

routes = Blueprint("audit", __name__)
log = structlog.get_logger()

_REFUSALS = (403, 429)
_CALLER = ("actor", "credential", "credential_id", "address", "request_id")  # the first members of an Origin
_event = render.as_model(AuditEventOut, of=AuditRecord)


def finish(response: Response) -> Response:
    """Record what no service has recorded: that a known caller was refused, or what the operation names (``audit``)."""
    status, operation = response.status_code, current_operation()
    declared = operation.audit if operation is not None else None
    try:
        if status in _REFUSALS and ORIGIN.get().credential is not None:
            rule = request.url_rule
            route = "unmatched" if rule is None else f"{request.method} {rule.rule}"  # clients invent methods
            services().audit.record_refusal(route=route, code=g.get("problem_code", str(status)))
        elif declared and status < 400 and request.method != "OPTIONS":  # Flask answers it, for anyone
            ids = [value for value in (request.view_args or {}).values() if isinstance(value, UUID | int)]
            services().audit.record(declared, target=next(iter(ids), None))
    except Unavailable as error:  # it was done, or refused, all the same
        log.warning("audit_event_lost", action=declared, status=status, error=str(error))
    return response


def describe() -> None:
    """Tell the access log who called what: the route and the ids in its path, but nothing else of the path, in which there may be
    names and secrets, and nothing of the query."""
    connection = request.environ.get("gateway.connection")
    if connection is None or connection.access is None:
        return
    rule = request.url_rule
    origin = ORIGIN.get()
    connection.access.update(zip(_CALLER, origin, strict=False))
    if origin.trace is not None:
        connection.access["trace_id"] = trace_id(origin.trace)
    if rule is not None:
        connection.access["route"] = rule.rule
        for name, value in (request.view_args or {}).items():
            if isinstance(value, UUID | int) or as_uuid(value) is not None:
                connection.access[name] = str(value)


@routes.get("/audit")
@operation("List audit events", access="admin", query=AuditQuery, responses={200: AuditPageOut})
def list_events(query: AuditQuery) -> Response:
    """Of all owners, newest first: changes, downloads, URLs that were given out, credentials, administration, and refusals of
    callers with a valid credential, each kind once a minute. Reads of metadata, lists and previews, and requests without a
    credential are only in the access log. `outcome` is `ok` or the code of the refusal."""
    wanted = EventFilter(
        actor=query.actor,
        owner_id=query.owner,
        action=query.action,
        outcome=query.outcome,
        file_id=query.file_id,
        target=query.target,
        request_id=query.request_id,
        date_from=query.date_from,
        date_to=query.date_to,
    )
    return render.page(services().audit.page(wanted, limit=query.limit, cursor=query.cursor), _event)
