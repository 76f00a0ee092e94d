"""The S3-compatible routes behind ``POST /s3/sign``: create, list, complete and abort a multipart upload.

The plugin takes them for the bucket's and expects S3's XML, errors included. So the gateway sees each completion; it lists the
parts from the bucket and completes the upload with the same steps as for every other protocol.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from uuid import UUID
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from flask import Blueprint, Response, request
from pydantic import ValidationError

from api.auth import act_as
from api.context import caller_or_none
from api.operations import BY_SERVICE, MAX_JSON_BYTES, Content, operation
from api.problems import MEDIA_TYPE
from api.request_body import read_whole, refuse_encoded
from api.s3_upload_models import CompleteBody
from api.s3_uploads import XML_ROUTES, location, service
from core import errors
from core.errors import InvalidInput, NotAuthenticated
from core.principal import Principal
from db.records import UploadRecord

routes = Blueprint("s3_xml", __name__)

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_XML = "application/xml"  # the plugin reads errors of exactly this type, without a charset
_DOCUMENT = Content({_XML: None}, "S3's XML")

_QUOTES = {'"': "&quot;"}

# S3's own error codes; others are our codes in S3's spelling.
_CODES = {
    "not_found": "NoSuchUpload",
    "upload_gone": "NoSuchUpload",
    "not_allowed": "AccessDenied",
    "parts_mismatch": "InvalidPart",
    "not_authenticated": "AccessDenied",
    "file_too_large": "EntityTooLarge",
    "request_too_large": "EntityTooLarge",
    "invalid_input": "InvalidRequest",
    "method_not_allowed": "MethodNotAllowed",
    "rate_limited": "SlowDown",
    "unavailable": "ServiceUnavailable",
    "internal_error": "InternalError",
}


@routes.post("/<uuid:upload_id>")
@operation(
    "CreateMultipartUpload (?uploads) and CompleteMultipartUpload",
    limit="uploads",
    access="signed",
    error_type=_XML,
    responses={200: _DOCUMENT},
    streams={"required": False, "content": {_XML: {"schema": {"type": "string"}}}},
    errors=(
        errors.UploadGone,
        errors.PartsMismatch,
        errors.FileTooLarge,
        errors.QuotaExceeded,
        errors.Locked,
        errors.EncodingNotAllowed,
    ),
    audit=BY_SERVICE,
)
def create_or_complete(upload_id: UUID) -> Response:
    """At addresses from `POST /s3/sign`, which has created the upload. Both requests may be repeated."""
    caller, upload = _signed_for(upload_id)
    if "uploads" in request.args:
        if upload.status not in ("uploading", "completing"):
            raise errors.UploadGone()
        return _answer(
            "InitiateMultipartUploadResult",
            [("Bucket", service().bucket), ("Key", upload.object_key), ("UploadId", str(upload.id))],
        )
    parts = [(part.PartNumber, part.ETag) for part in _completed_parts().parts]
    file = service().complete(caller, upload, parts)
    return _answer(
        "CompleteMultipartUploadResult",
        [("Location", location(file.id)), ("Bucket", service().bucket), ("Key", upload.object_key)],
    )


@routes.get("/<uuid:upload_id>")
@operation(
    "ListParts",
    access="signed",
    scopes=("read", "write"),
    error_type=_XML,
    responses={200: _DOCUMENT},
    errors=(errors.UploadGone,),
)
def list_parts(upload_id: UUID) -> Response:
    """All parts in one page: the plugin does not read a second one."""
    _, upload = _signed_for(upload_id)
    rows = "".join(
        "<Part>" + _elements([("PartNumber", part.number), ("ETag", f'"{part.etag}"'), ("Size", part.size)]) + "</Part>"
        for part in service().parts(upload)
    )
    return _answer(
        "ListPartsResult",
        [
            ("Bucket", service().bucket),
            ("Key", upload.object_key),
            ("UploadId", str(upload.id)),
            ("IsTruncated", "false"),
        ],
        rows,
    )


@routes.delete("/<uuid:upload_id>")
@operation(
    "AbortMultipartUpload", access="signed", scopes=("write",), error_type=_XML, responses={204: None}, audit=BY_SERVICE
)
def abort(upload_id: UUID) -> Response:
    """Remove what has arrived. The file of a finished upload stays."""
    caller, upload = _signed_for(upload_id)
    service().abort(caller, upload)
    response = Response(status=204)
    del response.headers["Content-Type"]
    return response


def _signed_for(upload_id: UUID) -> tuple[Principal, UploadRecord]:
    """The upload that the address was signed for, and the caller that it was signed for. If the request has a credential too, it
    must be the owner's (T45)."""
    caller, ticket = caller_or_none(), request.args.get("ticket")
    if caller is None:
        if ticket is None:
            raise NotAuthenticated()
        caller = service().redeem(upload_id, ticket)
        act_as(caller)
    return caller, service().find(caller, upload_id, None)


def _completed_parts() -> CompleteBody:
    refuse_encoded()
    raw = read_whole(MAX_JSON_BYTES)
    try:
        if b"<!" in raw or b"\0" in raw:  # no DTD, no entities, and no UTF-16 to hide them in
            raise ValueError
        root = ElementTree.fromstring(raw.decode())  # noqa: S314
        parts = [
            {_local(child.tag): (child.text or "").strip() for child in part}
            for part in root
            if _local(part.tag) == "Part"
        ]
        return CompleteBody.model_validate({"parts": parts})
    except (ValidationError, ElementTree.ParseError, ValueError) as error:
        raise InvalidInput("The body is not a CompleteMultipartUpload document.") from error


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _answer(name: str, elements: Iterable[tuple[str, object]], rows: str = "") -> Response:
    document = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{name} xmlns="{NAMESPACE}">{_elements(elements)}{rows}</{name}>'
    )
    return Response(document, content_type=_XML)


def _elements(elements: Iterable[tuple[str, object]]) -> str:
    return "".join(f"<{name}>{escape(str(value), _QUOTES)}</{name}>" for name, value in elements)


@routes.after_app_request
def _errors_as_s3(response: Response) -> Response:
    """Turn problem documents of these routes into S3's ``<Error>``, with the same status, headers and texts."""
    if response.mimetype == MEDIA_TYPE and request.path.startswith(XML_ROUTES):
        problem = json.loads(response.get_data())
        code = _CODES.get(problem["code"]) or re.sub(r"(?:^|_)(\w)", lambda match: match[1].upper(), problem["code"])
        elements = _elements([("Code", code), ("Message", problem["detail"]), ("RequestId", problem["request_id"])])
        response.set_data(f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{elements}</Error>')
        response.content_type = _XML
    return response
