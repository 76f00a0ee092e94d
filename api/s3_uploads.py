"""``/s3``: what versions 5 and 6 of the ``@uppy/aws-s3`` plugin expect of their companion, and ``signRequest`` of version 6.

The JSON is the plugin's: bare arrays, a number as ``PartNumber``, a POST form whose ``url`` ends in a slash. Version 6 sends
neither header nor cookie, so its page uses ``/t/<token>/s3``; it never reads the body of an error, version 5 reads
``message``. Requests that are not for the bucket go to api/s3_xml.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, request

from api import render
from api.context import principal, services, settings
from api.direct_uploads import BEGIN_ERRORS
from api.fields import as_uuid
from api.idempotency import once
from api.operations import BY_SERVICE, operation
from api.placement import of_metadata
from api.problems import MEDIA_TYPE
from api.request_models import PlacementQuery
from api.s3_upload_models import (
    BatchQuery,
    CompleteBody,
    CompletedOut,
    CredentialsOut,
    KeyQuery,
    MultipartOut,
    NewMultipartBody,
    NothingOut,
    ParamsOut,
    ParamsQuery,
    PartsOut,
    SignBody,
    SignedOut,
    SignedPartOut,
    SignedPartsOut,
)
from core import errors
from core.errors import InvalidInput, NotFound
from db.records import UploadRecord
from services.access.idempotency import Claim
from services.uploads.s3_uploads import S3Uploads
from storage_backends.base import Part, PresignedPost

routes = Blueprint("s3_uploads", __name__)

XML_ROUTES = "/s3/objects/"
_METADATA = re.compile(r"metadata\[(.{1,255})\]", re.DOTALL)
_UUID_BEFORE = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}-", re.IGNORECASE)

_CONTINUE_ERRORS = (errors.NotFound, errors.UploadGone)
_SIGN_ERRORS = (
    *_CONTINUE_ERRORS,
    errors.FileTooLarge,
    errors.QuotaExceeded,
    errors.Locked,
    errors.TooMany,
    errors.StorageFull,
)
_COMPLETE_ERRORS = (*_SIGN_ERRORS, errors.PartsMismatch)


# -- companionEndpoint -------------------------------------------------------------------------------------------------


@routes.get("/params")
@operation(
    "Begin an upload by a POST form",
    limit="uploads",
    scopes=("write",),
    query=ParamsQuery,
    responses={200: ParamsOut},
    errors=BEGIN_ERRORS,
)
def params(query: ParamsQuery) -> Response:
    """A form for one file, whose bytes come last. `metadata[folder_id]`, `metadata[visibility]` and `metadata[tags]` apply to the
    file; other keys are kept in its `metadata.custom`. The gateway finds the file in the bucket by itself."""
    upload = service().begin(
        principal(),
        single=True,
        filename=query.filename,
        content_type=query.type,
        placement=of_metadata(_metadata_of_query(), PlacementQuery()),
    )
    post = service().request_for(principal(), upload)
    assert isinstance(post, PresignedPost)  # no size was declared
    return render.answer(
        {
            "method": "POST",
            "url": post.url,
            "fields": dict(post.fields),
            "expires": _seconds_left(post.expires_at),
            "id": upload.id,
        }
    )


@routes.post("/multipart")
@operation(
    "Begin a multipart upload",
    limit="uploads",
    body=NewMultipartBody,
    responses={200: MultipartOut},
    request_headers=("Idempotency-Key",),
    errors=BEGIN_ERRORS,
    audit=BY_SERVICE,
)
def create(body: NewMultipartBody) -> Response:
    """`metadata` as in `/s3/params`."""
    return once(
        lambda claim: service().begin(
            principal(),
            single=False,
            filename=body.filename,
            content_type=body.type,
            placement=of_metadata(body.metadata or {}, PlacementQuery()),
            once=claim,
        ),
        _created,
        lambda recorded: service().begun(recorded.read(UUID)),
    )


def _created(upload: UploadRecord) -> Response:
    return render.answer({"key": upload.object_key, "uploadId": upload.id, "bucket": service().bucket})


@routes.get("/multipart/<string:upload_id>")
@operation(
    "List uploaded parts", scopes=("read", "write"), query=KeyQuery, responses={200: PartsOut}, errors=_CONTINUE_ERRORS
)
def list_parts(upload_id: str, query: KeyQuery) -> Response:
    """All parts, read from the bucket."""
    upload = find(upload_id, query.key)
    return render.answer([_part(part, upload) for part in service().parts(upload)])  # type: ignore[arg-type]


@routes.get("/multipart/<string:upload_id>/batch")
@operation(
    "Sign several parts", scopes=("write",), query=BatchQuery, responses={200: SignedPartsOut}, errors=_SIGN_ERRORS
)
def sign_batch(upload_id: str, query: BatchQuery) -> Response:
    """Up to 16 parts that have not arrived."""
    upload = find(upload_id, query.key)
    signed = service().sign(principal(), upload, [_part_number(text) for text in query.partNumbers])
    return render.answer({"presignedUrls": {str(part.part_number): part.request.url for part in signed}})


@routes.get("/multipart/<string:upload_id>/<string:part_number>")
@operation("Sign a part", scopes=("write",), query=KeyQuery, responses={200: SignedPartOut}, errors=_SIGN_ERRORS)
def sign_part(upload_id: str, part_number: str, query: KeyQuery) -> Response:
    """A URL for this part, valid for ten minutes. It accepts any length, because the plugin does not send it, so only a few such
    URLs may be unused at a time. If parts exceed the quota, the budget or the largest file, the upload is ended within
    seconds."""
    upload = find(upload_id, query.key)
    signed = service().sign(principal(), upload, [_part_number(part_number)])[0].request
    return render.answer({"url": signed.url, "expires": _seconds_left(signed.expires_at)})


@routes.post("/multipart/<string:upload_id>/complete")
@operation(
    "Complete a multipart upload",
    query=KeyQuery,
    body=CompleteBody,
    responses={200: CompletedOut},
    errors=_COMPLETE_ERRORS,
    audit=BY_SERVICE,
)
def complete(upload_id: str, query: KeyQuery, body: CompleteBody) -> Response:
    """Idempotent. `location` is the file's address on the gateway."""
    upload = find(upload_id, query.key)
    file = service().complete(principal(), upload, [(part.PartNumber, part.ETag) for part in body.parts])
    return render.answer(
        {"location": location(file.id), "key": upload.object_key, "bucket": service().bucket, "id": file.id}
    )


@routes.delete("/multipart/<string:upload_id>")
@operation("Abort a multipart upload", scopes=("write",), query=KeyQuery, responses={200: NothingOut}, audit=BY_SERVICE)
def abort(upload_id: str, query: KeyQuery) -> Response:
    """The file of a finished upload stays."""
    service().abort(principal(), find(upload_id, query.key))
    return render.answer({})


@routes.get("/sts")
@operation(
    "Temporary credentials: not offered", scopes=("write",), responses={200: CredentialsOut}, errors=(errors.NotFound,)
)
def sts() -> Response:
    """They would let a browser write objects that the gateway has not checked."""
    raise NotFound(
        "Temporary credentials are not offered: leave out getTemporarySecurityCredentials and getCredentials."
    )


# -- signRequest -------------------------------------------------------------------------------------------------------


@routes.post("/sign")
@operation(
    "Sign a request of the plugin",
    limit="uploads",
    body=SignBody,
    responses={200: SignedOut},
    request_headers=("Idempotency-Key",),
    errors=(*BEGIN_ERRORS, *_SIGN_ERRORS),
    audit=BY_SERVICE,
)
def sign(body: SignBody) -> Response:
    """The argument of `signRequest` as the body. Requests with bytes go to the bucket; create, list, complete and abort go to the
    gateway, at addresses that are themselves a credential for an hour. `filename`, `size` and `metadata` may be added. The
    default `filename` is the key without the UUID that the plugin puts before it. With `size`, lengths are signed too: a single
    file is sent with PUT instead of a form, and parts have the size that the plugin uses by default."""
    if body.uploadId is not None:
        upload = find(body.uploadId, body.key)
        if body.method != "PUT":
            return _signed(upload, {"url": _address(upload)})
        if body.partNumber is None:
            raise InvalidInput("PUT with an uploadId needs a partNumber.")
        part = service().sign(principal(), upload, [body.partNumber])[0].request
        return _signed(upload, {"url": part.url})
    return once(lambda claim: _begin(body, claim), _signed_new, lambda recorded: service().begun(recorded.read(UUID)))


def _begin(body: SignBody, claim: Claim | None) -> UploadRecord:
    if body.method not in ("POST", "PUT"):
        raise InvalidInput(f"{body.method} needs an uploadId.")
    return service().begin(
        principal(),
        single=body.method == "PUT",
        filename=body.filename or _UUID_BEFORE.sub("", body.key.rpartition("/")[2], count=1),
        content_type=body.contentType,
        placement=of_metadata(body.metadata or {}, PlacementQuery()),
        size=body.size,
        once=claim,
    )


def _signed_new(upload: UploadRecord) -> Response:
    if upload.incoming_key is None:
        return _signed(upload, {"url": _address(upload, "uploads"), "key": upload.object_key})
    request = service().request_for(principal(), upload)
    more = (
        {"fields": dict(request.fields)} if isinstance(request, PresignedPost) else {"headers": dict(request.headers)}
    )
    return _signed(upload, {"url": request.url, "key": upload.incoming_key, **more})


def _signed(upload: UploadRecord, members: Mapping[str, Any]) -> Response:
    return render.answer({**members, "id": upload.id})


def _address(upload: UploadRecord, verb: str = "") -> str:
    query = "uploads&" if verb else ""
    return f"{settings().base_url}{XML_ROUTES}{upload.id}?{query}ticket={service().ticket(upload)}"


# -- shared with api/s3_xml.py -----------------------------------------------------------------------------------------


def service() -> S3Uploads:
    """The service; NotFound if the bucket can't presign."""
    found = services().s3_uploads
    if found is None:
        raise NotFound("This bucket does not support direct uploads.")
    return found


def find(upload_id: str, key: str | None) -> UploadRecord:
    """The caller's upload, or NotFound."""
    named = as_uuid(upload_id)
    if named is None:
        raise NotFound("There is no such upload.")
    return service().find(principal(), named, key)


def location(file_id: object) -> str:
    """A file's address."""
    return f"{settings().base_url}/api/files/{file_id}"


def _seconds_left(moment: datetime) -> int:
    return max(1, int((moment - datetime.now(UTC)).total_seconds()))


def _metadata_of_query() -> dict[str, str]:
    """``metadata[name]=value`` as qs writes it; undefined and null are not set."""
    named = ((_METADATA.fullmatch(name), value) for name, value in request.args.items())
    return {match[1]: value for match, value in named if match and value not in ("null", "undefined")}


def _part_number(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text) or int(text) > 10_000:
        raise InvalidInput("Parts are numbered 1 to 10000.", errors=[{"field": "partNumber", "message": "1 to 10000"}])
    return int(text)


def _part(part: Part, upload: UploadRecord) -> dict[str, Any]:
    return {"PartNumber": part.number, "ETag": f'"{part.etag}"', "Size": part.size, "LastModified": upload.updated_at}


@routes.after_app_request
def _add_members_for_the_plugin(response: Response) -> Response:
    """Add ``error`` and ``message`` to the errors of these routes; version 5 shows the latter."""
    path = request.path
    if response.mimetype == MEDIA_TYPE and path.startswith("/s3/") and not path.startswith(XML_ROUTES):
        document = json.loads(response.get_data())
        response.set_data(json.dumps(document | {"error": document["detail"], "message": document["detail"]}))
    return response
