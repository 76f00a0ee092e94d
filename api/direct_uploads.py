"""``/api/uploads``: uploads from the client straight to the bucket, and the progress of uploads by any protocol.

The gateway signs the requests that the client may send. What has arrived is read from the bucket each time, so a client needs
only the upload's id to continue.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import Blueprint, Response

from api import render
from api.context import principal, services, settings
from api.idempotency import once
from api.operations import BY_SERVICE, Content, operation
from api.placement import placement
from api.request_models import BeginUploadBody, CompleteUploadBody, PageQuery, PartNumbersBody
from api.response_models import (
    BegunUploadOut,
    FileOut,
    PartUrlsOut,
    SentFileOut,
    UnfinishedUploadOut,
    UnfinishedUploadPageOut,
    UploadProgressOut,
)
from core import errors
from core.errors import NotFound, PartsMismatch, UploadGone
from core.principal import session_name
from db.records import FileView, UploadRecord
from services.uploads.direct import DirectUploads, PartUrl, UploadPlan

routes = Blueprint("direct_uploads", __name__)

_as_unfinished = render.as_model(UnfinishedUploadOut, "filename", "folder_id", "session_id")
BEGIN_ERRORS = (
    errors.InvalidName,
    errors.NotFound,
    errors.FileTooLarge,
    errors.QuotaExceeded,
    errors.TypeNotAllowed,
    errors.LimitReached,
    errors.StorageFull,
)
_COMPLETE_ERRORS = (
    NotFound,
    PartsMismatch,
    UploadGone,
    errors.FileTooLarge,
    errors.QuotaExceeded,
    errors.Locked,
    errors.StorageFull,
    errors.Unsupported,
    errors.EncodingNotAllowed,
)


@routes.post("")
@operation(
    "Begin a direct upload",
    limit="uploads",
    body=BeginUploadBody,
    responses={201: BegunUploadOut},
    headers=("Location",),
    request_headers=("Idempotency-Key",),
    errors=BEGIN_ERRORS,
    audit=BY_SERVICE,
)
def begin(body: BeginUploadBody) -> Response:
    """Name, size, type and quota are checked before any bytes are sent. Send small files with one PUT to `url`, larger ones in
    parts; the response has the URLs of the first hundred. Send the given `headers` with the bytes, and a `Content-Length` of
    exactly the size, as every client does by itself. If the answer to the PUT was lost, send it again: 412 means that the bytes
    are there. Then complete the upload in any case."""
    return once(
        lambda claim: _direct().begin(
            principal(),
            filename=body.filename,
            size=body.size,
            content_type=body.content_type,
            sha256=body.sha256,
            session_id=body.session_id,
            placement=placement(body),
            once=claim,
        ),
        _plan,
        lambda recorded: _direct().begun(recorded.read(UUID)),
    )


def _plan(plan: UploadPlan) -> Response:
    first = plan.request or plan.parts[0].request
    document = {
        "id": plan.upload.id,
        "method": plan.method,
        "url": plan.request.url if plan.request else None,
        "headers": dict(plan.request.headers) if plan.request else None,
        "part_size": plan.part_size,
        "part_count": plan.part_count,
        "parts": [_part_url(part) for part in plan.parts],
        "expires_at": plan.upload.expires_at,
        "urls_expire_at": first.expires_at,
        "session_id": session_name(plan.upload.session_id or ""),
    }
    return render.answer(document, 201, {"Location": f"{settings().base_url}/api/uploads/{plan.upload.id}"})


@routes.get("")
@operation(
    "List unfinished uploads", scopes=("read", "write"), query=PageQuery, responses={200: UnfinishedUploadPageOut}
)
def list_unfinished(query: PageQuery) -> Response:
    """The caller's own uploads by any protocol, newest first."""
    return render.page(_direct().unfinished(principal(), limit=query.limit, cursor=query.cursor), _unfinished)


@routes.get("/<uuid:upload_id>")
@operation("Get upload progress", scopes=("read", "write"), responses={200: UploadProgressOut}, errors=(UploadGone,))
def progress(upload_id: UUID) -> Response:
    """Read from the bucket, so it is correct after any crash of client or gateway."""
    found = _direct().progress(principal(), upload_id)
    document = _unfinished(found.upload) | {
        "bytes_received": found.bytes_received,
        "parts": [{"part_number": p.number, "size": p.size, "etag": p.etag} for p in found.parts],
        "missing": found.missing,
    }
    return render.answer(document)


@routes.post("/<uuid:upload_id>/parts")
@operation(
    "Get new URLs for parts",
    body=PartNumbersBody,
    responses={200: PartUrlsOut},
    errors=(UploadGone, errors.Locked, errors.QuotaExceeded, errors.FileTooLarge, errors.TooMany, errors.StorageFull),
    audit=BY_SERVICE,
)
def sign_parts(upload_id: UUID, body: PartNumbersBody) -> Response:
    """Up to 1,000 at once. For an upload by one PUT, ask for part 1: it is the whole file."""
    parts = _direct().sign_parts(principal(), upload_id, body.part_numbers)
    document = {"parts": [_part_url(part) for part in parts], "urls_expire_at": parts[0].request.expires_at}
    return render.answer(document)


@routes.post("/<uuid:upload_id>/complete")
@operation(
    "Complete a direct upload",
    responses={201: Content({"application/json": FileOut | SentFileOut}, "")},
    headers=("ETag", "Location"),
    request_headers=("Idempotency-Key",),
    errors=_COMPLETE_ERRORS,
    body=CompleteUploadBody,
    optional_body=True,
    audit=BY_SERVICE,
)
def complete(upload_id: UUID, body: CompleteUploadBody) -> Response:
    """The file is `processing` until a worker has read it back. A repeat returns the same file. If `parts` differ from the
    bucket's or some are missing, the upload can be continued after the `409`. The body is optional."""
    parts = None if body.parts is None else [(part.part_number, part.etag) for part in body.parts]
    return once(
        lambda claim: services().files.view(
            _direct().complete(principal(), upload_id, parts=parts, sha256=body.sha256, once=claim)
        ),
        render.new_file,
        lambda recorded: recorded.read(FileView),
    )


@routes.delete("/<uuid:upload_id>")
@operation("Abort an upload", scopes=("write",), responses={204: None}, audit=BY_SERVICE)
def abort(upload_id: UUID) -> Response:
    """Remove what has arrived. An upload that is over stays as it is."""
    _direct().abort(principal(), upload_id)
    return render.no_content()


def _direct() -> DirectUploads:
    direct = services().direct
    assert direct is not None  # api/__init__.py mounts these routes only then
    return direct


def _part_url(part: PartUrl) -> dict[str, Any]:
    return {"part_number": part.part_number, "url": part.request.url, "headers": dict(part.request.headers)}


def _unfinished(upload: UploadRecord) -> dict[str, Any]:
    return _as_unfinished(
        upload,
        filename=upload.original_name,
        folder_id=None if principal().budget else upload.folder_id,
        session_id=session_name(upload.session_id) if upload.session_id else None,
    )
