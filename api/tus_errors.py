"""What the protocols of resumable uploads add to answers, also to those of Flask and of the rest of the gateway."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from flask import Response, g, request

from api import problems
from api.context import principal, settings
from api.tus_headers import PATH, drafted, interop_version, location, service, upload_id_of
from core import errors, ietf
from core import tus as protocol
from core.errors import BodyChecksumMismatch, ChecksumMismatch, GatewayError

_PROBLEM_TYPES: Mapping[type[GatewayError], str] = {
    errors.OffsetMismatch: ietf.MISMATCHING_OFFSET,
    errors.InconsistentLength: ietf.INCONSISTENT_LENGTH,
    errors.AlreadyComplete: ietf.COMPLETED_UPLOAD,
}


def refuse(error: GatewayError) -> Response:
    """An error, with what the draft adds: registered problem types, and the right offset."""
    if g.get("interop") is not None:
        if isinstance(error, BodyChecksumMismatch):  # tus has a status of its own for it
            error = ChecksumMismatch()
        for kind, problem_type in _PROBLEM_TYPES.items():
            if isinstance(error, kind):
                error.extra["type"] = problem_type
    response = problems.from_gateway_error(error)
    expected = error.extra.get("expected-offset")
    if expected is not None:
        response.headers["Upload-Offset"] = str(expected)
    if g.get("created") and g.state is not None:
        response.headers["Location"] = location(g.state)
    return response


def finish(response: Response) -> Response:
    """Every answer under this path, also the server's own errors, has the headers that its protocol demands."""
    if request.path != PATH and not request.path.startswith(PATH + "/"):
        return response
    headers, status = response.headers, response.status_code
    headers["Cache-Control"] = "no-store"
    draft = g.get("interop") is not None or drafted()
    if draft and status >= 400:
        version = interop_version()
        headers.update(ietf.completeness(version, _is_over(status)))
        if status == 413:
            headers["Upload-Limit"] = ietf.limits(version, max_size=settings().max_file_size, max_age=None)
    if not draft:
        headers["Tus-Resumable"] = protocol.VERSION
    if status == 412:
        headers["Tus-Version"] = protocol.VERSION
    if status == 460:
        response.status = "460 Checksum Mismatch"
    if status in (200, 201, 204) and not response.get_data():
        headers.pop("Content-Type", None)
    return response


def _is_over(status: int) -> bool:
    """Whether an error is the answer to the upload as a whole, so that the client need not resume: its creation was refused, or
    this request ended it. Else it is about the transfer."""
    if not g.get("created") and request.path == PATH:
        return True
    if status >= 500 or status in (404, 409, 410, 423):
        return False
    with suppress(GatewayError):
        upload_id = (
            g.state.upload.id if g.get("created") else upload_id_of((request.view_args or {}).get("upload_id", ""))
        )
        return service().find(principal(), upload_id).upload.status in ("aborted", "expired")
    return False
