"""``/api/tus``: resumable uploads for clients of tus and of the IETF draft, by the same views.

The protocol of a request is decided first (T51): tus if it has Tus-Resumable, else the draft if it has one of the
draft's fields or names an upload that began with the draft. core/tus.py and core/ietf.py parse the headers, and
services/uploads/resumable.py does the work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from flask import Blueprint, Response, g, request
from werkzeug.exceptions import MethodNotAllowed

from api import problems
from api.context import principal, settings
from api.fields import as_uuid
from api.idempotency import Digest, once
from api.in_flight import acquire_body_slot
from api.operations import BY_SERVICE, Content, operation
from api.placement import of_metadata
from api.request_body import content_length, refuse_encoded
from api.request_models import PlacementQuery
from api.response_models import Problem
from api.tus_body import ArrivingBody
from api.tus_errors import finish, refuse
from api.tus_headers import (
    PATH,
    body_checksum,
    completes,
    drafted,
    first_interim,
    has_bytes,
    interop_version,
    location,
    metadata_text,
    progress_interim,
    service,
    set_headers,
    source,
    upload_id_of,
)
from core import errors, ietf
from core import tus as protocol
from core.charsets import strictly_decoded
from core.disposition import parameters, sent_filename
from core.errors import GatewayError, InconsistentLength, InvalidInput, Unsupported, UnsupportedVersion
from core.placement import Placement
from core.structured_fields import digest_field, digests, hash_of, natural, wanted_digest
from db.records import UploadState
from services.access.idempotency import Claim
from services.uploads.resumable import NewResumable

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

tus = Blueprint("tus", __name__)
tus.register_error_handler(GatewayError, refuse)
tus.after_app_request(finish)

_METHODS = "GET, HEAD, PATCH, DELETE, OPTIONS, POST"

_STATE_HEADERS = (
    "Location",
    "Tus-Resumable",
    "Upload-Offset",
    "Upload-Length",
    "Upload-Defer-Length",
    "Upload-Metadata",
    "Upload-Concat",
    "Upload-Expires",
    "Upload-File-Id",
    "Upload-Complete",
    "Upload-Incomplete",
    "Upload-Limit",
    "Upload-Draft-Interop-Version",
    "Repr-Digest",
)
_PROTOCOL_HEADERS = ("Tus-Resumable", *ietf.FIELDS)
_APPEND_HEADERS = (
    *_PROTOCOL_HEADERS,
    "Upload-Offset",
    "Upload-Length",
    "Upload-Checksum",
    "Content-Digest",
    "Repr-Digest",
)
_CREATION_ONLY = ("Upload-Defer-Length", "Upload-Metadata", "Upload-Concat", "Want-Repr-Digest")
_CREATION_HEADERS = (*_CREATION_ONLY, "Content-Type", "Content-Disposition", "Content-Length")
_OTHER_METHOD = {405: Content({problems.MEDIA_TYPE: Problem}, "method_not_allowed")}
_LOOK_ERRORS = (errors.NotFound, errors.UploadGone, errors.Locked, errors.UnsupportedVersion)
_APPEND_ERRORS = (
    *_LOOK_ERRORS,
    errors.NotAllowed,
    errors.OffsetMismatch,
    errors.InconsistentLength,
    errors.AlreadyComplete,
    errors.ChecksumMismatch,
    errors.BodyChecksumMismatch,
    errors.MalformedUpload,
    errors.FileTooLarge,
    errors.QuotaExceeded,
    errors.TypeNotAllowed,
    errors.TypeMismatch,
    errors.EncodingNotAllowed,
    errors.LimitReached,
    errors.PartsMismatch,
    errors.TooMany,
    errors.StorageFull,
)
_BYTES: Mapping[str, Any] = {
    "required": False,
    "content": {"application/offset+octet-stream": {"schema": {}}, "*/*": {"schema": {}}},
}


class SlashAtEnd:
    """Serves ``/api/tus/`` as ``/api/tus``: tus clients are often configured so, and don't follow a redirect with a POST."""

    def __init__(self, application: WSGIApplication):
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Pass the request on."""
        if environ.get("PATH_INFO") == PATH + "/":
            environ["PATH_INFO"] = PATH
        return self._application(environ, start_response)


# -- which protocol --------------------------------------------------------------------------------------------------------


@tus.before_request
def _choose_protocol() -> None:
    """Set ``g.interop``: None for tus, else the draft's version. Raises UnsupportedVersion."""
    g.interop, g.state = None, None
    if request.method == "OPTIONS":
        return
    version = request.headers.get("Tus-Resumable")
    if version is not None:
        if version.strip() != protocol.VERSION:
            raise UnsupportedVersion(f"Only tus {protocol.VERSION} is supported.")
        return
    draft = drafted()
    if not draft:
        target = as_uuid(str((request.view_args or {}).get("upload_id", "")))
        draft = target is not None and service().find(principal(), target).upload.protocol == "ietf"
    if not draft:
        raise UnsupportedVersion("Send Tus-Resumable: 1.0.0, or the headers of the IETF draft.")
    g.interop = interop_version()


# -- the routes ------------------------------------------------------------------------------------------------------------


@tus.route("", methods=["OPTIONS"], provide_automatic_options=False, endpoint="offers")
@tus.route("/<string:upload_id>", methods=["OPTIONS"], provide_automatic_options=False, endpoint="offers_of_upload")
@operation("Get supported protocols and limits", access="public", responses={204: None})
def offers(upload_id: str | None = None) -> Response:
    """The tus version, extensions and limits."""
    response = Response(status=204)
    response.headers["Allow"] = "POST, OPTIONS" if upload_id is None else _METHODS
    response.headers["Tus-Version"] = protocol.VERSION
    response.headers["Tus-Extension"] = ",".join(protocol.EXTENSIONS)
    response.headers["Tus-Max-Size"] = str(settings().max_file_size)
    response.headers["Tus-Checksum-Algorithm"] = ",".join(protocol.ALGORITHMS)
    response.headers["Upload-Limit"] = ietf.limits(ietf.VERSIONS[-1], max_size=settings().max_file_size, max_age=None)
    return response


@tus.post("")
@operation(
    "Begin a resumable upload",
    limit="uploads",
    query=PlacementQuery,
    responses={201: None, **_OTHER_METHOD},
    headers=_STATE_HEADERS,
    request_headers=(*_APPEND_HEADERS, *_CREATION_ONLY, "Idempotency-Key"),
    errors=(*_APPEND_ERRORS, errors.InvalidName),
    streams=_BYTES,
    audit=BY_SERVICE,
)
def create(query: PlacementQuery) -> Response:
    """tus 1.0.0 with creation, creation-with-upload, creation-defer-length, expiration, checksum and concatenation, or the IETF
    draft, interop versions 3 to 9. The request may bring bytes. In `Upload-Metadata`, `filename`, `filetype`, `folder_id`,
    `visibility` and `tags` describe the file; other keys are kept under `metadata.custom`. A client of the draft may send it
    too, or send the folder, visibility and tags in the query and the file name in Content-Disposition. If the request
    completes the upload, `Upload-File-Id` names its file."""
    if request.headers.get("X-HTTP-Method-Override", "POST").upper() != "POST":
        raise MethodNotAllowed(["POST", "OPTIONS"])
    refuse_encoded()
    if has_bytes() or (g.interop is not None and content_length() != 0):
        acquire_body_slot()
    create = _create_tus if g.interop is None else _create_ietf
    return once(
        lambda claim: create(query, claim),
        _created,
        lambda recorded: service().begun(principal(), recorded.read(UUID)),
        digest=_creation_digest(),
    )


@tus.get("/<string:upload_id>")
@operation(
    "Get upload status",
    scopes=("write",),
    responses={200: None, 204: None, **_OTHER_METHOD},
    headers=_STATE_HEADERS,
    request_headers=_PROTOCOL_HEADERS,
    errors=_LOOK_ERRORS,
)
def look(upload_id: str) -> Response:
    """With `HEAD`, and with the draft also `GET`. A request that still writes to this upload is ended first, so the offset is
    final."""
    if request.method == "GET" and g.interop is None:
        raise MethodNotAllowed(_METHODS.split(", "))
    g.state = service().settle(principal(), upload_id_of(upload_id))
    sha256 = service().sha256(g.state) if g.interop is not None else None
    if sha256 is not None:
        g.repr_digest = digest_field("sha-256", sha256)
    response = Response(status=200 if g.interop is None else 204)
    set_headers(response, g.state, full=True)
    return response


@tus.patch("/<string:upload_id>")
@operation(
    "Append to a resumable upload",
    responses={204: None},
    headers=_STATE_HEADERS,
    request_headers=_APPEND_HEADERS,
    errors=_APPEND_ERRORS,
    streams=_BYTES,
    audit=BY_SERVICE,
)
def append(upload_id: str) -> Response:
    """The body begins at `Upload-Offset`. Bytes that arrive before a connection breaks are stored. The answer that completes
    the upload names its file in `Upload-File-Id`; the file is `processing` until a worker has read it back."""
    target = upload_id_of(upload_id)
    refuse_encoded()
    acquire_body_slot()
    if g.interop is None:
        if not has_bytes():
            raise Unsupported(f"Send the bytes as {protocol.CONTENT_TYPE}.")
        offset = protocol.length(request.headers.get("Upload-Offset", ""), "Upload-Offset")
        length = request.headers.get("Upload-Length")
        size = None if length is None else protocol.length(length, "Upload-Length")
        g.state = _receive(target, offset, size=size, checksums=body_checksum())
    else:
        if g.interop >= 6 and request.mimetype != ietf.CONTENT_TYPE:
            raise Unsupported(f"Send the bytes as {ietf.CONTENT_TYPE}.")
        begin = natural(request.headers.get("Upload-Offset"))
        if begin is None:
            raise InvalidInput("Upload-Offset is missing or not a number of bytes.")
        size = natural(request.headers.get("Upload-Length"))
        g.state = _receive(target, begin, size=size, last=completes())
    response = Response(status=204)
    set_headers(response, g.state)
    return response


@tus.delete("/<string:upload_id>")
@operation(
    "Terminate a resumable upload",
    scopes=("write",),
    responses={204: None},
    headers=_STATE_HEADERS,
    request_headers=_PROTOCOL_HEADERS,
    errors=_LOOK_ERRORS,
    audit=BY_SERVICE,
)
def terminate(upload_id: str) -> Response:
    """Removes the bytes that have arrived. The file of a finished upload stays."""
    service().terminate(principal(), upload_id_of(upload_id))
    return Response(status=204)


@tus.post("/<string:upload_id>")
@operation(
    "Send another method with X-HTTP-Method-Override",
    responses={200: None, 204: None, **_OTHER_METHOD},
    headers=_STATE_HEADERS,
    request_headers=(*_APPEND_HEADERS, "X-HTTP-Method-Override"),
    errors=_APPEND_ERRORS,
    streams=_BYTES,
    audit=BY_SERVICE,
)
def override(upload_id: str) -> Response:
    """`HEAD`, `PATCH` or `DELETE`, for clients that can send only `POST`."""
    method = request.headers.get("X-HTTP-Method-Override", "").strip().upper()
    if method not in ("HEAD", "PATCH", "DELETE"):
        raise MethodNotAllowed(_METHODS.split(", "))
    return {"HEAD": look, "PATCH": append, "DELETE": terminate}[method](upload_id=upload_id)


# -- begin -----------------------------------------------------------------------------------------------------------------


def _create_tus(query: PlacementQuery, claim: Claim | None) -> UploadState:
    sent = request.headers.get("Upload-Metadata")
    pairs = protocol.metadata(sent)
    joined = request.headers.get("Upload-Concat")
    concat = protocol.concat(joined) if joined is not None else None
    length = request.headers.get("Upload-Length")
    deferred = protocol.deferred(request.headers.get("Upload-Defer-Length"))
    if concat is not None and concat.sources is not None:
        if length is not None or deferred:
            raise InvalidInput("A final upload is as long as its partial uploads: leave out Upload-Length.")
        if has_bytes():
            raise errors.NotAllowed("A final upload takes no bytes.")
    elif (length is not None) == deferred:
        raise InvalidInput("Send one of Upload-Length and Upload-Defer-Length.")
    new = NewResumable(
        protocol="tus",
        filename=metadata_text(pairs, "filename") or metadata_text(pairs, "name"),
        content_type=metadata_text(pairs, "filetype") or metadata_text(pairs, "type"),
        size=None if length is None else protocol.length(length, "Upload-Length"),
        placement=_placement(pairs, query),
        metadata=sent,
        partial=concat is not None and concat.sources is None,
    )
    if concat is not None and concat.sources is not None:
        sources = [source(address) for address in concat.sources]
        return _admitted(service().concatenate(principal(), new, sources, concat=joined or "", once=claim))
    checksums = body_checksum() if has_bytes() else None
    _admitted(service().create(principal(), new, once=claim))
    if has_bytes():
        g.state = _receive(g.state.upload.id, 0, checksums=checksums)
    return cast(UploadState, g.state)


def _create_ietf(query: PlacementQuery, claim: Claim | None) -> UploadState:
    """tus-js-client sends name and type in tus's Upload-Metadata, even when it uses the draft."""
    pairs = protocol.metadata(request.headers.get("Upload-Metadata"))
    complete = completes()
    size, length = natural(request.headers.get("Upload-Length")), content_length()
    if complete and length is not None:
        if size not in (None, length):
            raise InconsistentLength(f"Upload-Length is {size}, the body has {length} bytes.")
        size = length
    sha256 = digests(request.headers.get("Repr-Digest")).get("sha256")
    new = NewResumable(
        protocol="ietf",
        filename=_sent_filename() or metadata_text(pairs, "filename") or metadata_text(pairs, "name"),
        content_type=metadata_text(pairs, "filetype") or metadata_text(pairs, "type") or _own_type(),
        size=size,
        placement=_placement(pairs, query),
        sha256=sha256.hex() if sha256 else None,
    )
    _admitted(service().create(principal(), new, once=claim))
    if length != 0 or (complete and size is None):
        g.state = _receive(g.state.upload.id, 0, last=complete, interim=first_interim(g.state))
    elif complete and (algorithm := wanted_digest(request.headers.get("Want-Repr-Digest"))):
        g.repr_digest = digest_field(algorithm, hash_of(algorithm).digest())
    return cast(UploadState, g.state)


def _sent_filename() -> str | None:
    header = request.headers.get("Content-Disposition", "")
    try:
        return sent_filename(parameters(strictly_decoded(header.encode("latin-1"), "utf-8")))
    except ValueError as error:
        raise InvalidInput(f"Content-Disposition: {error}") from None


def _admitted(state: UploadState) -> UploadState:
    g.state, g.created = state, True
    return state


def _placement(pairs: dict[str, bytes], query: PlacementQuery) -> Placement:
    kept = {key: value for key, value in pairs.items() if key not in ("filename", "filetype")}
    return of_metadata(protocol.custom(kept), query)


def _creation_digest() -> Digest:
    """Two creations are the same if their headers are, whatever their bytes."""
    headers = {name: request.headers.get(name) for name in (*_APPEND_HEADERS, *_CREATION_HEADERS)}
    return Digest(repr(sorted(headers.items())))


def _own_type() -> str | None:
    """The creation's Content-Type, unless it is that of an appended piece."""
    return request.mimetype if request.mimetype not in ("", ietf.CONTENT_TYPE) else None


def _created(state: UploadState) -> Response:
    response = Response(status=201)
    response.headers["Location"] = location(state)
    set_headers(response, state)
    return response


# -- bytes -----------------------------------------------------------------------------------------------------------------


def _receive(
    upload_id: UUID,
    offset: int,
    *,
    size: int | None = None,
    last: bool = False,
    checksums: dict[str, bytes] | None = None,
    interim: bytes = b"",
) -> UploadState:
    """Store the request's body. ``interim`` is sent before it is read."""
    algorithm, progress = None, None
    if g.interop is not None:
        checksums = digests(request.headers.get("Content-Digest"))
        progress = progress_interim()
        algorithm = wanted_digest(request.headers.get("Want-Repr-Digest")) if offset == 0 else None
    digest = hash_of(algorithm) if algorithm else None
    body = ArrivingBody(interim, progress, digest)
    with body.polling():
        state = service().append(
            principal(),
            upload_id,
            offset=offset,
            body=body,
            size=size,
            length=body.length,
            last=last,
            checksums=checksums,
        )
    if algorithm and digest and state.complete:
        g.repr_digest = digest_field(algorithm, digest.digest())
    return state
