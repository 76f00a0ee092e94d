"""``/api/tus``: resumable uploads for every tus client, and for those of the IETF draft, by one set of views.

Which of the two a request speaks is found out before anything else (THREATS T51): with Tus-Resumable it is tus; without,
the draft, if it has one of the draft's fields or names an upload that began so. core/tus.py and core/ietf.py parse the
headers; services/uploads/resumable.py does the work; this module answers in the protocol of the request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from flask import Blueprint, Response, g, request
from werkzeug.exceptions import MethodNotAllowed
from werkzeug.http import parse_options_header

from api import problems, proxies
from api.context import principal, settings
from api.fields import as_uuid
from api.idempotency import Digest, once
from api.in_flight import acquire_body_slot
from api.operations import operation
from api.placement import of_metadata
from api.request_body import content_length, refuse_encoded
from api.request_models import PlacementQuery
from api.tus_body import ArrivingBody
from api.tus_headers import (
    PATH,
    body_checksum,
    completes,
    has_bytes,
    limits,
    location,
    named,
    service,
    source,
    tell,
    text_in,
)
from core import errors, ietf
from core import tus as words
from core.errors import (
    BodyChecksumMismatch,
    ChecksumMismatch,
    GatewayError,
    InconsistentLength,
    InvalidInput,
    Unsupported,
    UnsupportedVersion,
)
from core.placement import Placement
from core.structured_fields import digests, natural
from services.access.idempotency import Claim
from services.uploads.part_writer import Verify
from services.uploads.resumable import NewResumable, UploadState

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

tus = Blueprint("tus", __name__)

_OVERRIDES = ("HEAD", "PATCH", "DELETE")
_METHODS = "GET, HEAD, PATCH, DELETE, OPTIONS, POST"

_STATES = (
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
)
_SPEAKS = (
    "Tus-Resumable",
    "Upload-Draft-Interop-Version",
    "Upload-Complete",
    "Upload-Incomplete",
)
_APPENDS = (*_SPEAKS, "Upload-Offset", "Upload-Length", "Upload-Checksum", "Content-Digest", "Repr-Digest")
_DESCRIBES = (
    "Upload-Defer-Length",
    "Upload-Metadata",
    "Upload-Concat",
    "Content-Type",
    "Content-Disposition",
    "Content-Length",
)
_LOOKS = (errors.NotFound, errors.UploadGone, errors.Locked, errors.UnsupportedVersion)
_TAKES = (
    *_LOOKS,
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
    errors.NameConflict,
    errors.PartsMismatch,
    errors.TooMany,
    errors.StorageFull,
)
_BYTES: Mapping[str, Any] = {
    "required": False,
    "content": {"application/offset+octet-stream": {"schema": {}}, "*/*": {"schema": {}}},
}


class SlashAtEnd:
    """``/api/tus/`` is ``/api/tus``: tus clients are often given it so, and follow no redirect with a POST."""

    def __init__(self, application: WSGIApplication):
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO") == PATH + "/":
            environ["PATH_INFO"] = PATH
        return self._application(environ, start_response)


# -- which protocol --------------------------------------------------------------------------------------------------------


@tus.before_request
def _understand() -> None:
    """Set ``g.interop``: None for tus, else the draft's version. Raises UnsupportedVersion."""
    g.interop, g.standing = None, None
    if request.method == "OPTIONS":
        return
    said = request.headers.get("Tus-Resumable")
    if said is not None:
        if said.strip() != words.VERSION:
            raise UnsupportedVersion(f"Of tus version {words.VERSION} is spoken here.")
        return
    draft = any(name in request.headers for name in _SPEAKS)
    if not draft:
        target = as_uuid(str((request.view_args or {}).get("upload_id", "")))
        draft = target is not None and service().find(principal(), target).upload.protocol == "ietf"
    if not draft:
        raise UnsupportedVersion("Send Tus-Resumable: 1.0.0, or the fields of the IETF draft.")
    g.interop = ietf.version(request.headers.get("Upload-Draft-Interop-Version"))


# -- the routes ------------------------------------------------------------------------------------------------------------


@tus.route("", methods=["OPTIONS"], provide_automatic_options=False, endpoint="offers")
@tus.route("/<string:upload_id>", methods=["OPTIONS"], provide_automatic_options=False, endpoint="offers_of_upload")
@operation("What is spoken here", access="public", responses={204: None})
def offers(upload_id: str | None = None) -> Response:
    """Versions, extensions and limits."""
    response = Response(status=204)
    response.headers["Allow"] = "POST, OPTIONS" if upload_id is None else _METHODS
    response.headers["Tus-Version"] = words.VERSION
    response.headers["Tus-Extension"] = ",".join(words.EXTENSIONS)
    response.headers["Tus-Max-Size"] = str(settings().max_file_size)
    response.headers["Tus-Checksum-Algorithm"] = ",".join(words.ALGORITHMS)
    response.headers["Upload-Limit"] = ietf.limits(ietf.VERSIONS[-1], max_size=settings().max_file_size, max_age=None)
    return response


@tus.post("")
@operation(
    "Begin a resumable upload",
    query=PlacementQuery,
    responses={201: None},
    headers=_STATES,
    request_headers=(*_APPENDS, "Upload-Defer-Length", "Upload-Metadata", "Upload-Concat", "Idempotency-Key"),
    errors=(*_TAKES, errors.InvalidName),
    streams=_BYTES,
)
def create(query: PlacementQuery) -> Response:
    """tus 1.0.0 with creation, creation-with-upload, creation-defer-length, expiration, checksum and concatenation, or the IETF
    draft, interop versions 3 to 9; bytes may come along. Of `Upload-Metadata`, `filename`, `filetype`, `folder_id`, `visibility`
    and `tags` mean what they say and other keys are kept under `metadata.custom`; a client of the draft may send it too, or say
    where the file goes in the query, and its name in Content-Disposition. Where that ends the upload, `Upload-File-Id` names
    its file."""
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
    "Where a resumable upload stands",
    responses={200: None, 204: None},
    headers=_STATES,
    request_headers=_SPEAKS,
    errors=_LOOKS,
)
def look(upload_id: str) -> Response:
    """By `HEAD`; the draft knows `GET` too. A request that still writes this upload is asked to end, so that what is told is
    final."""
    if request.method == "GET" and g.interop is None:
        raise MethodNotAllowed(_METHODS.split(", "))
    return _look(upload_id)


@tus.patch("/<string:upload_id>")
@operation(
    "Append to a resumable upload",
    responses={204: None},
    headers=_STATES,
    request_headers=_APPENDS,
    errors=_TAKES,
    streams=_BYTES,
)
def append(upload_id: str) -> Response:
    """The bytes that begin at `Upload-Offset`. What arrives before a connection breaks is kept. The answer to the last of them
    names the file in `Upload-File-Id`; it is `processing` until a worker has read it back."""
    return _append(upload_id)


@tus.delete("/<string:upload_id>")
@operation("End a resumable upload", responses={204: None}, headers=_STATES, request_headers=_SPEAKS, errors=_LOOKS)
def terminate(upload_id: str) -> Response:
    """What arrived is removed. The file of a finished upload stays."""
    return _terminate(upload_id)


@tus.post("/<string:upload_id>")
@operation(
    "Another method by X-HTTP-Method-Override",
    responses={200: None, 204: None},
    headers=_STATES,
    request_headers=(*_APPENDS, "X-HTTP-Method-Override"),
    errors=_TAKES,
    streams=_BYTES,
)
def override(upload_id: str) -> Response:
    """`HEAD`, `PATCH` or `DELETE`, for clients that can send only `POST`."""
    method = request.headers.get("X-HTTP-Method-Override", "").strip().upper()
    if method not in _OVERRIDES:
        raise MethodNotAllowed(_METHODS.split(", "))
    views: Mapping[str, Callable[[str], Response]] = {"HEAD": _look, "PATCH": _append, "DELETE": _terminate}
    return views[method](upload_id)


# -- begin -----------------------------------------------------------------------------------------------------------------


def _create_tus(query: PlacementQuery, claim: Claim | None) -> UploadState:
    sent = request.headers.get("Upload-Metadata")
    pairs = words.metadata(sent)
    joined = request.headers.get("Upload-Concat")
    concat = words.concat(joined) if joined is not None else None
    length, deferred = request.headers.get("Upload-Length"), request.headers.get("Upload-Defer-Length")
    later = words.deferred(deferred)
    if concat is not None and concat.sources is not None:
        if length is not None or later:
            raise InvalidInput("The length of a final upload is that of its parts: leave Upload-Length out.")
        if has_bytes():
            raise errors.NotAllowed("A final upload takes no bytes of its own.")
    elif (length is not None) == later:
        raise InvalidInput("Send one of Upload-Length and Upload-Defer-Length.")
    new = NewResumable(
        protocol="tus",
        filename=text_in(pairs, "filename") or text_in(pairs, "name"),
        content_type=text_in(pairs, "filetype") or text_in(pairs, "type"),
        size=None if length is None else words.length(length, "Upload-Length"),
        placement=_placement(pairs, query),
        metadata=sent,
        partial=concat is not None and concat.sources is None,
    )
    if concat is not None and concat.sources is not None:
        sources = [source(address) for address in concat.sources]
        return _admitted(service().concatenate(principal(), new, sources, concat=joined or "", once=claim))
    checksum = body_checksum() if has_bytes() else None
    _admitted(service().create(principal(), new, once=claim))
    if has_bytes():
        g.standing = _receive(g.standing.upload.id, 0, checksum=checksum)
    return cast(UploadState, g.standing)


def _create_ietf(query: PlacementQuery, claim: Claim | None) -> UploadState:
    """tus-js-client says name, type and place in tus's Upload-Metadata also where it speaks the draft, and there only."""
    pairs = words.metadata(request.headers.get("Upload-Metadata"))
    complete = completes()
    told, length = natural(request.headers.get("Upload-Length")), content_length()
    if complete and length is not None:
        if told not in (None, length):
            raise InconsistentLength(f"Upload-Length is {told}, the body has {length} bytes.")
        told = length
    _, options = parse_options_header(request.headers.get("Content-Disposition"))
    sha256 = digests(request.headers.get("Repr-Digest")).get("sha256")
    new = NewResumable(
        protocol="ietf",
        filename=options.get("filename") or text_in(pairs, "filename") or text_in(pairs, "name"),
        content_type=text_in(pairs, "filetype") or text_in(pairs, "type") or _own_type(),
        size=told,
        placement=_placement(pairs, query),
        sha256=sha256.hex() if sha256 else None,
    )
    _admitted(service().create(principal(), new, once=claim))
    if length != 0 or (complete and told is None):
        begun = g.standing
        g.standing = _receive(begun.upload.id, 0, last=complete, held=lambda: _announce(begun))
    return cast(UploadState, g.standing)


def _admitted(standing: UploadState) -> UploadState:
    g.standing, g.created = standing, True
    return standing


def _placement(pairs: dict[str, bytes], query: PlacementQuery) -> Placement:
    kept = {key: value for key, value in pairs.items() if key not in ("filename", "filetype")}
    return of_metadata(words.custom(kept), query)


def _creation_digest() -> Digest:
    """What makes two creations the same: what is said about the upload, not its bytes."""
    said = {name: request.headers.get(name) for name in (*_APPENDS, *_DESCRIBES)}
    return Digest(repr(sorted(said.items())))


def _own_type() -> str | None:
    """The file's type as the creation's Content-Type says it, unless that is the type of an appended piece."""
    return request.mimetype if request.mimetype not in ("", ietf.CONTENT_TYPE) else None


def _created(standing: UploadState) -> Response:
    response = Response(status=201)
    response.headers["Location"] = location(standing)
    tell(response, standing)
    return response


def _announce(standing: UploadState) -> None:
    """The interim answer that lets a client resume which sends everything with its first request (section 4.2.1 of the draft).

    WSGI has no call for it; gunicorn lends its socket. A proxy of the older kind takes an unknown interim answer for the final
    one, so behind a proxy it is left out. Where the client has gone already, what came of its body still counts."""
    sock = request.environ.get("gunicorn.socket")
    said = natural(request.headers.get("Upload-Draft-Interop-Version"))
    if (
        sock is None
        or said not in ietf.VERSIONS
        or proxies.forwarded()
        or request.environ.get("SERVER_PROTOCOL") != "HTTP/1.1"
    ):
        return
    lines = [
        "HTTP/1.1 104 Upload Resumption Supported",
        f"Location: {location(standing)}",
        f"Upload-Draft-Interop-Version: {said}",
        f"Upload-Limit: {limits(standing)}",
    ]
    with suppress(OSError):
        sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))


# -- look, append, end -----------------------------------------------------------------------------------------------------


def _look(upload_id: str) -> Response:
    g.standing = service().standing(principal(), named(upload_id))
    response = Response(status=200 if g.interop is None else 204)
    tell(response, g.standing, whole=True)
    return response


def _append(upload_id: str) -> Response:
    target = named(upload_id)
    refuse_encoded()
    acquire_body_slot()
    if g.interop is None:
        if request.headers.get("Content-Type", "").strip().lower() != words.CONTENT_TYPE:
            raise Unsupported(f"Send the bytes as {words.CONTENT_TYPE}.")
        offset = words.length(request.headers.get("Upload-Offset", ""), "Upload-Offset")
        length = request.headers.get("Upload-Length")
        size = None if length is None else words.length(length, "Upload-Length")
        g.standing = _receive(target, offset, size=size, checksum=body_checksum())
    else:
        if g.interop >= 6 and request.mimetype != ietf.CONTENT_TYPE:
            raise Unsupported(f"Send the bytes as {ietf.CONTENT_TYPE}.")
        found = natural(request.headers.get("Upload-Offset"))
        if found is None:
            raise InvalidInput("Upload-Offset is missing, or no number of bytes.")
        size = natural(request.headers.get("Upload-Length"))
        g.standing = _receive(target, found, size=size, last=completes())
    response = Response(status=204)
    tell(response, g.standing)
    return response


def _terminate(upload_id: str) -> Response:
    service().terminate(principal(), named(upload_id))
    return Response(status=204)


def _receive(
    upload_id: UUID,
    offset: int,
    *,
    size: int | None = None,
    last: bool = False,
    checksum: words.BodyChecksum | None = None,
    held: Callable[[], None] | None = None,
) -> UploadState:
    """Take the request's body."""
    expected: dict[str, bytes] = {}
    if checksum is not None:
        expected[checksum.algorithm] = checksum.value
    if g.interop is not None:
        expected |= digests(request.headers.get("Content-Digest"))
    sums = {name: words.digest_of(name) for name in expected}

    def verify() -> None:
        if any(digest.digest() != expected[name] for name, digest in sums.items()):
            raise BodyChecksumMismatch() if g.interop is None else ChecksumMismatch()

    body = ArrivingBody(digests=list(sums.values()))
    check: Verify | None = verify if expected else None
    with body.attentive():
        return service().append(
            principal(),
            upload_id,
            offset=offset,
            body=body,
            size=size,
            length=body.length,
            last=last,
            verify=check,
            held=held,
        )


@tus.errorhandler(GatewayError)
def _refuse(error: GatewayError) -> Response:
    """A refusal, with what the draft wants in it: registered problem types, and the offset that would be right."""
    interop = g.get("interop")
    if interop is not None:
        for kind, registered in _REGISTERED.items():
            if isinstance(error, kind):
                error.extra["type"] = registered
    response = problems.from_gateway_error(error)
    expected = error.extra.get("expected-offset")
    if expected is not None:
        response.headers["Upload-Offset"] = str(expected)
        if interop is not None:
            response.headers.update(ietf.completeness(interop, False))
    if g.get("created") and g.standing is not None:
        response.headers["Location"] = location(g.standing)
    return response


_REGISTERED: Mapping[type[GatewayError], str] = {
    errors.OffsetMismatch: ietf.MISMATCHING_OFFSET,
    errors.InconsistentLength: ietf.INCONSISTENT_LENGTH,
    errors.AlreadyComplete: ietf.COMPLETED_UPLOAD,
}


@tus.after_app_request
def _sign(response: Response) -> Response:
    """Every answer under this path says which tus it speaks, refusals of the server's own included."""
    if request.path != PATH and not request.path.startswith(PATH + "/"):
        return response
    response.headers["Cache-Control"] = "no-store"
    if g.get("interop") is None:
        response.headers["Tus-Resumable"] = words.VERSION
    if response.status_code == 412:
        response.headers["Tus-Version"] = words.VERSION
    if response.status_code == 460:
        response.status = "460 Checksum Mismatch"
    if response.status_code in (200, 201, 204) and not response.get_data():
        response.headers.pop("Content-Type", None)
    return response
