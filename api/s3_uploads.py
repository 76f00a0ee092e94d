"""``/s3``: what the ``@uppy/aws-s3`` plugin, versions 5 and 6, expects of its companion, and ``signRequest`` of version 6.

The shapes are the plugin's: bare arrays, ``PartNumber`` a JSON number, a POST form with a ``url`` that ends
in a slash. Version 6 sends neither header nor cookie here, so its page uses ``/t/<token>/s3``; it never reads the body of an
error, version 5 reads ``message``. Requests that ``/s3/sign`` does not sign for the bucket lead to api/s3_xml.py.
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
from api.fields import as_uuid
from api.idempotency import once
from api.operations import operation
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

_BEGIN_ERRORS = (
    errors.InvalidName,
    errors.NotFound,
    errors.FileTooLarge,
    errors.QuotaExceeded,
    errors.TypeNotAllowed,
    errors.LimitReached,
    errors.StorageFull,
)
_GO_ON = (errors.NotFound, errors.UploadGone)
_SIGN = (*_GO_ON, errors.FileTooLarge, errors.QuotaExceeded, errors.Locked, errors.TooMany)
_COMPLETE = (*_SIGN, errors.PartsMismatch, errors.StorageFull)


# -- companionEndpoint -------------------------------------------------------------------------------------------------


@routes.get("/params")
@operation("Begin a file of one request", query=ParamsQuery, responses={200: ParamsOut}, errors=_BEGIN_ERRORS)
def params(query: ParamsQuery) -> Response:
    """A form for one file, its bytes last. `metadata[folder_id]`, `metadata[visibility]` and `metadata[tags]` say where it
    goes; all others are kept under `metadata.custom`. When the bucket has taken it the gateway finds it by itself."""
    upload = offered().begin_single(
        principal(),
        filename=query.filename,
        content_type=query.type,
        placement=of_metadata(_metadata_of_query(), PlacementQuery()),
    )
    post = offered().request_for(principal(), upload)
    assert isinstance(post, PresignedPost)  # no size was declared
    return render.answer(
        {
            "method": "POST",
            "url": post.url,
            "fields": dict(post.fields),
            "expires": seconds_left(post.expires_at),
            "id": upload.id,
        }
    )


@routes.post("/multipart")
@operation(
    "Begin a file of several parts",
    body=NewMultipartBody,
    responses={200: MultipartOut},
    request_headers=("Idempotency-Key",),
    errors=_BEGIN_ERRORS,
)
def create(body: NewMultipartBody) -> Response:
    """`metadata` as in `/s3/params`."""
    return once(
        lambda claim: offered().begin_multipart(
            principal(),
            filename=body.filename,
            content_type=body.type,
            placement=of_metadata(body.metadata or {}, PlacementQuery()),
            once=claim,
        ),
        _opened,
        lambda recorded: offered().begun(recorded.read(UUID)),
    )


def _opened(upload: UploadRecord) -> Response:
    return render.answer({"key": upload.object_key, "uploadId": upload.id, "bucket": offered().bucket})


@routes.get("/multipart/<string:upload_id>")
@operation("List the parts that arrived", query=KeyQuery, responses={200: PartsOut}, errors=_GO_ON)
def list_parts(upload_id: str, query: KeyQuery) -> Response:
    """All of them, read from the bucket."""
    upload = found(upload_id, query.key)
    return render.answer([_part(part, upload) for part in offered().parts(upload)])  # type: ignore[arg-type]


@routes.get("/multipart/<string:upload_id>/batch")
@operation("Sign several parts", query=BatchQuery, responses={200: SignedPartsOut}, errors=_SIGN)
def sign_batch(upload_id: str, query: BatchQuery) -> Response:
    """Up to 16 that have not arrived."""
    upload = found(upload_id, query.key)
    signed = offered().sign(principal(), upload, [_part_number(word) for word in query.partNumbers])
    return render.answer({"presignedUrls": {str(part.part_number): part.request.url for part in signed}})


@routes.get("/multipart/<string:upload_id>/<string:part_number>")
@operation("Sign a part", query=KeyQuery, responses={200: SignedPartOut}, errors=_SIGN)
def sign_part(upload_id: str, part_number: str, query: KeyQuery) -> Response:
    """A URL that takes this part with any length, since the plugin does not tell it: good for ten minutes, and a few of them at
    a time. Parts that exceed quota, budget or the largest file end the upload within seconds."""
    upload = found(upload_id, query.key)
    signed = offered().sign(principal(), upload, [_part_number(part_number)])[0].request
    return render.answer({"url": signed.url, "expires": seconds_left(signed.expires_at)})


@routes.post("/multipart/<string:upload_id>/complete")
@operation(
    "Complete a file of several parts",
    query=KeyQuery,
    body=CompleteBody,
    responses={200: CompletedOut},
    errors=_COMPLETE,
)
def complete(upload_id: str, query: KeyQuery, body: CompleteBody) -> Response:
    """Idempotent. `location` is the file's address here."""
    upload = found(upload_id, query.key)
    file = offered().complete(principal(), upload, [(part.PartNumber, part.ETag) for part in body.parts])
    return render.answer(
        {
            "location": location(file.id),
            "key": upload.object_key,
            "bucket": offered().bucket,
            "id": file.id,
        }
    )


@routes.delete("/multipart/<string:upload_id>")
@operation("Abort a file of several parts", query=KeyQuery, responses={200: NothingOut}, errors=(errors.NotFound,))
def abort(upload_id: str, query: KeyQuery) -> Response:
    """A finished one stays."""
    offered().abort(principal(), found(upload_id, query.key))
    return render.answer({})


@routes.get("/sts")
@operation("Temporary credentials: not offered", responses={200: CredentialsOut}, errors=(errors.NotFound,))
def sts() -> Response:
    """They would let a browser write what the gateway has not admitted."""
    raise NotFound(
        "Temporary credentials are not offered: leave getTemporarySecurityCredentials and getCredentials out."
    )


# -- signRequest -------------------------------------------------------------------------------------------------------


@routes.post("/sign")
@operation(
    "Sign one request of the plugin",
    body=SignBody,
    responses={200: SignedOut},
    request_headers=("Idempotency-Key",),
    errors=(*_BEGIN_ERRORS, *_SIGN),
)
def sign(body: SignBody) -> Response:
    """Its argument as the body. Bytes go to the bucket; create, list, complete and abort come to us, by addresses that are
    themselves the credential for an hour. `filename`, `size` and `metadata` may be added; without `filename` it is the key,
    less the UUID that the plugin puts before it. With `size` the lengths are signed too: of a single file it makes a PUT and
    not a form, of several parts those that the plugin cuts where `getChunkSize` is left alone."""
    if body.uploadId is not None:
        upload = found(body.uploadId, body.key)
        if body.method != "PUT":
            return _signed(upload, {"url": _address(upload)})
        if body.partNumber is None:
            raise InvalidInput("A PUT with an uploadId needs a partNumber.")
        part = offered().sign(principal(), upload, [body.partNumber])[0].request
        return _signed(upload, {"url": part.url})
    return once(lambda claim: _begin(body, claim), _signed_new, lambda recorded: offered().begun(recorded.read(UUID)))


def _begin(body: SignBody, claim: Claim | None) -> UploadRecord:
    if body.method not in ("POST", "PUT"):
        raise InvalidInput(f"{body.method} without an uploadId is not offered.")
    return (offered().begin_multipart if body.method == "POST" else offered().begin_single)(
        principal(),
        filename=body.filename or _UUID_BEFORE.sub("", body.key.rpartition("/")[2], count=1),
        content_type=body.contentType,
        placement=of_metadata(body.metadata or {}, PlacementQuery()),
        size=body.size,
        once=claim,
    )


def _signed_new(upload: UploadRecord) -> Response:
    if upload.incoming_key is None:
        return _signed(upload, {"url": _address(upload, "uploads"), "key": upload.object_key})
    request = offered().request_for(principal(), upload)
    more = (
        {"fields": dict(request.fields)} if isinstance(request, PresignedPost) else {"headers": dict(request.headers)}
    )
    return _signed(upload, {"url": request.url, "key": upload.incoming_key, **more})


def _signed(upload: UploadRecord, members: Mapping[str, Any]) -> Response:
    return render.answer({**members, "id": upload.id})


def _address(upload: UploadRecord, verb: str = "") -> str:
    query = "uploads&" if verb else ""
    return f"{settings().base_url}{XML_ROUTES}{upload.id}?{query}ticket={offered().ticket(upload)}"


# -- shared with api/s3_xml.py -----------------------------------------------------------------------------------------


def offered() -> S3Uploads:
    """The service; NotFound where the bucket can't presign."""
    service = services().s3_uploads
    if service is None:
        raise NotFound("Direct uploads are not offered by this bucket.")
    return service


def found(upload_id: str, key: str | None) -> UploadRecord:
    named = as_uuid(upload_id)
    if named is None:
        raise NotFound("There is no such upload.")
    return offered().find(principal(), named, key)


def location(file_id: object) -> str:
    return f"{settings().base_url}/api/files/{file_id}"


def seconds_left(moment: datetime) -> int:
    return max(1, int((moment - datetime.now(UTC)).total_seconds()))


def _metadata_of_query() -> dict[str, str]:
    """``metadata[name]=value`` as qs writes it; what JavaScript calls undefined or null was not given."""
    named = ((_METADATA.fullmatch(name), value) for name, value in request.args.items())
    return {match[1]: value for match, value in named if match and value not in ("null", "undefined")}


def _part_number(word: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,4}", word) or int(word) > 10_000:
        raise InvalidInput("Parts are numbered 1 to 10000.", errors=[{"field": "partNumber", "message": "1 to 10000"}])
    return int(word)


def _part(part: Part, upload: UploadRecord) -> dict[str, Any]:
    return {
        "PartNumber": part.number,
        "ETag": f'"{part.etag}"',
        "Size": part.size,
        "LastModified": upload.updated_at,
    }


@routes.after_app_request
def _also_in_their_words(response: Response) -> Response:
    """Errors of these routes, whoever raised them, also carry ``error`` and ``message``: version 5 shows the latter."""
    path = request.path
    if response.mimetype == MEDIA_TYPE and path.startswith("/s3/") and not path.startswith(XML_ROUTES):
        document = json.loads(response.get_data())
        response.set_data(json.dumps(document | {"error": document["detail"], "message": document["detail"]}))
    return response
