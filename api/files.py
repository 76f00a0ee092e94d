"""``/api/files`` and ``/d``: read, list, change, download and preview files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

from flask import Blueprint, Response, request

from api import render, streaming
from api.auth import require
from api.context import caller_or_none, principal, services, settings
from api.idempotency import once
from api.in_flight import acquire_stream_slot
from api.operations import BY_SERVICE, Content, operation
from api.problems import status_of
from api.request_models import (
    ArchiveBody,
    ArchiveQuery,
    BatchBody,
    CopyBody,
    DeleteFileQuery,
    DownloadQuery,
    FileChangeBody,
    FileDetailsQuery,
    FileListQuery,
    MoveBody,
    PageQuery,
    PreviewQuery,
    UrlQuery,
)
from api.response_models import (
    BatchOut,
    ContentsPreviewOut,
    DeletedFileOut,
    EventPageOut,
    FileDetailsOut,
    FileOut,
    FilePageOut,
    PublicFileOut,
    TextPreviewOut,
    ThawingOut,
    UrlOut,
)
from core import errors
from core.disposition import content_disposition
from core.unset import UNSET
from db.records import FileView
from services.library.archive import THAW_TAKES
from services.library.delivery import Link, NotModified, Redirect, RequestConditions, Stream, Thawing
from services.library.files import FileChange, FileQuery
from services.processing.previews import PictureType, PreviewRequest

routes = Blueprint("files", __name__)
link_routes = Blueprint("links", __name__)

_NAME_ERRORS = (errors.InvalidName, errors.TypeMismatch, errors.TypeNotAllowed, errors.FileArchived)
_CONTENT_ERRORS = (errors.NotFound, errors.FileNotReady, errors.FileInTrash, errors.ContentMissing)
_STORED_ERRORS = (*_CONTENT_ERRORS, errors.FileArchived)
_THAW_SECONDS = str(round(THAW_TAKES.total_seconds()))
_PICTURES = ("image/webp", "image/jpeg", "image/png")


@routes.get("")
@operation("List files", query=FileListQuery, responses={200: FilePageOut}, errors=(errors.NotFound,))
def list_files(query: FileListQuery) -> Response:
    """The caller's own files, newest first; with `?folder=` those of one folder, with `?deleted=true` those in the trash. The
    last page is as fast as the first."""
    found = services().files.list(principal(), FileQuery(**query.model_dump()))
    return render.page_of(render.files(found.views, principal()), found.next_cursor, found.total)


@routes.get("/<uuid:file_id>")
@operation(
    "Get a file",
    access="public files",
    query=FileDetailsQuery,
    responses={
        200: Content(
            {"application/json": FileDetailsOut | PublicFileOut},
            "The file; less of it if it is another owner's public file",
        )
    },
    headers=("ETag",),
    errors=(errors.TooMany,),
)
def get_file(file_id: UUID, query: FileDetailsQuery) -> Response:
    """With statistics, its newest 50 events, and integrity; `?verify=true` reads the object and compares its SHA-256."""
    caller = caller_or_none()
    return render.file_details(services().files.details(caller, file_id, verify=query.verify), caller)


@routes.get("/<uuid:file_id>/history")
@operation("Get a file's history", query=PageQuery, responses={200: EventPageOut})
def history(file_id: UUID, query: PageQuery) -> Response:
    """Newest first."""
    found = services().files.history(principal(), file_id, limit=query.limit, cursor=query.cursor)
    return render.page(found, render.event)


@routes.patch("/<uuid:file_id>")
@operation(
    "Change a file",
    body=FileChangeBody,
    responses={200: FileOut},
    headers=("ETag",),
    request_headers=("If-Match",),
    errors=(*_NAME_ERRORS, errors.NameConflict, errors.LimitReached, errors.PreconditionFailed),
    audit=BY_SERVICE,
)
def update(file_id: UUID, body: FileChangeBody) -> Response:
    """Only the given members are changed; `expires_at: null` removes the expiry."""
    change = FileChange(
        original_name=body.given("original_name", UNSET),
        visibility=body.given("visibility", UNSET),
        tags=body.given("tags", UNSET),
        expires_at=body.given("expires_at", UNSET),
        keep_location=body.given("keep_location", UNSET),
    )
    record = services().files.update(principal(), file_id, change, if_match=_if_match())
    return render.file_answer(record, principal())


@routes.delete("/<uuid:file_id>")
@operation(
    "Delete a file",
    query=DeleteFileQuery,
    responses={200: DeletedFileOut},
    request_headers=("If-Match",),
    errors=(errors.PreconditionFailed,),
    audit=BY_SERVICE,
)
def delete(file_id: UUID, query: DeleteFileQuery) -> Response:
    """Move it to the trash, from where it can be restored; with `?permanent=true` delete it for good."""
    if query.permanent:
        services().files.purge(principal(), file_id, if_match=_if_match())
        return render.answer({"id": file_id, "action": "purged", "deleted_at": datetime.now(UTC)})
    record = services().files.trash(principal(), file_id, if_match=_if_match())
    return render.answer({"id": file_id, "action": "trashed", "deleted_at": record.deleted_at})


@routes.post("/<uuid:file_id>/restore")
@operation(
    "Restore a file",
    responses={200: FileOut, 202: Content({"application/json": FileOut}, "Under way", ("Retry-After",))},
    headers=("ETag",),
    audit=BY_SERVICE,
)
def restore(file_id: UUID) -> Response:
    """Move it out of the trash, where its name is numbered if it has been taken since; or else bring it back from the archive,
    with all files of the same bytes. `202` while that takes time: seconds for a large file, hours where the storage class needs
    a thaw."""
    record, pending = services().files.take_back(principal(), file_id)
    response = render.file_answer(record, principal())
    if pending:
        response.status_code = 202
        response.headers["Retry-After"] = _THAW_SECONDS
    return response


@routes.put("/<uuid:file_id>/move")
@operation(
    "Move a file",
    body=MoveBody,
    responses={200: FileOut},
    headers=("ETag",),
    request_headers=("If-Match",),
    errors=(errors.NameConflict, errors.PreconditionFailed),
    audit=BY_SERVICE,
)
def move(file_id: UUID, body: MoveBody) -> Response:
    """To another folder of the same owner; null is the root."""
    record = services().files.move(principal(), file_id, body.target_folder_id, if_match=_if_match())
    return render.file_answer(record, principal())


@routes.post("/<uuid:file_id>/copy")
@operation(
    "Copy a file",
    body=CopyBody,
    responses={201: FileOut},
    headers=("ETag", "Location"),
    request_headers=("Idempotency-Key",),
    errors=(*_NAME_ERRORS, errors.FileNotReady, errors.ContentMissing, errors.QuotaExceeded),
    audit=BY_SERVICE,
)
def copy(file_id: UUID, body: CopyBody) -> Response:
    """A new file on the same stored object: no bytes are copied. The name is numbered if it is taken."""
    return once(
        lambda claim: services().files.view(
            services().files.copy(
                principal(),
                file_id,
                target_folder_id=body.given("target_folder_id", UNSET),
                original_name=body.original_name,
                once=claim,
            )
        ),
        render.new_file,
        lambda recorded: recorded.read(FileView),
    )


@routes.post("/batch")
@operation(
    "Change many files",
    limit="batches",
    scopes=("write", "delete"),
    body=BatchBody,
    responses={200: BatchOut},
    audit=BY_SERVICE,
)
def batch(body: BatchBody) -> Response:
    """Results in the order of `ids`, each with the status that a single request would have; a failure does not stop the
    others. `delete` and `purge` need the scope `delete`, other actions `write`. For `archive`, and for `restore` of an archived
    file, `200` means that a job does it soon; `storage_class` tells when it is done. All files of the same bytes are archived
    together."""
    require(principal(), "delete" if body.action in ("delete", "purge") else "write")
    results = services().files.batch(
        principal(), body.action, body.ids, target_folder_id=body.target_folder_id, add=body.add, remove=body.remove
    )
    return render.answer(
        {
            "results": [
                {
                    "id": text,
                    "status": status_of(error) if error else 200,
                    "problem": error.as_problem() if error else None,
                }
                for text, error in results
            ]
        }
    )


# -- bytes ---------------------------------------------------------------------------------------------------


_VALIDATORS = ("ETag", "Last-Modified")
_DOWNLOAD: Mapping[str, Any] = {
    "responses": {
        200: Content({"*/*": None}, "The bytes", (*_VALIDATORS, "Content-Disposition", "Accept-Ranges")),
        206: Content({"*/*": None}, "The requested range", (*_VALIDATORS, "Content-Disposition", "Content-Range")),
        202: Content({"application/json": ThawingOut}, "It thaws in the archive", ("Retry-After",)),
        302: None,
        304: None,
    },
    "headers": ("Location", *_VALIDATORS),
    "request_headers": ("Range", "If-Range", "If-None-Match", "If-Match", "If-Modified-Since", "If-Unmodified-Since"),
    "errors": (*_CONTENT_ERRORS, errors.PreconditionFailed, errors.RangeNotSatisfiable),
}


@routes.route("/<uuid:file_id>/download", methods=["GET", "HEAD"])
@operation("Download a file", access="public files", query=DownloadQuery, **_DOWNLOAD)
def download(file_id: UUID, query: DownloadQuery) -> Response:
    """A redirect to a presigned URL, or the bytes themselves with `?mode=proxy` or if so configured. HEAD is never redirected.
    `?disposition=inline` applies only to types that can't run scripts. A file in the archive comes back when it is downloaded:
    at once where its storage class allows it, otherwise `202` until it is thawed."""
    found = services().delivery.open(
        caller_or_none(),
        file_id,
        method="HEAD" if request.method == "HEAD" else "GET",
        mode=query.mode,
        before_stream=acquire_stream_slot,
        disposition=query.disposition,
        conditions=_conditions(),
    )
    return _delivered(found)


@link_routes.route("/<string:token>", methods=["GET", "HEAD"])
@operation("Download with a link", access="signed", **_DOWNLOAD)
def download_by_link(token: str) -> Response:
    """An address from `GET /api/files/{file_id}/url`, which needs no other credential. It works until it expires, and only while
    the file can be downloaded: not in the trash, expired, purged or infected, and still public if it was. It redirects as
    `GET /api/files/{file_id}/download` does by default."""
    found = services().delivery.open_link(
        token,
        method="HEAD" if request.method == "HEAD" else "GET",
        before_stream=acquire_stream_slot,
        conditions=_conditions(),
    )
    return _delivered(found)


@routes.get("/<uuid:file_id>/url")
@operation("Get a download URL", access="public files", query=UrlQuery, responses={200: UrlOut}, errors=_STORED_ERRORS)
def url(file_id: UUID, query: UrlQuery) -> Response:
    """A URL with which anybody may download until it expires: a presigned URL of the bucket, or a link of the gateway, which is
    checked at each use, if the file is public or stored compressed, or the time is longer than presigned URLs may live."""
    found = services().delivery.url(
        caller_or_none(), file_id, expires_in=query.expires_in, disposition=query.disposition
    )
    address = f"{settings().base_url}/d/{found.token}" if isinstance(found, Link) else found.url
    return render.answer({"url": address, "expires_at": found.expires_at})


@routes.get("/<uuid:file_id>/preview")
@operation(
    "Preview a file",
    limit="previews",
    access="public files",
    query=PreviewQuery,
    responses={
        200: Content(
            {**dict.fromkeys(_PICTURES), "application/json": TextPreviewOut | ContentsPreviewOut},
            "A picture, or JSON for `type=text` and `type=contents`",
            ("ETag",),
        ),
        304: None,
    },
    headers=("ETag",),
    request_headers=("Accept", "If-None-Match"),
    errors=(*_STORED_ERRORS, errors.PreviewUnsupported, errors.PreviewFailed, errors.TooMany, errors.Unavailable),
)
def preview(file_id: UUID, query: PreviewQuery) -> Response:
    """Made on demand if it is missing. The default `type` is the first of `thumbnail`, `text` and `contents` that the file has.
    Pictures are WebP, or JPEG or PNG if `Accept` prefers them. A page fits in 1024 pixels; one after the last is
    `400 invalid_input`. A preview that failed is not tried again for a day, unless the owner sends `?retry=true`."""
    found = services().previews.show(
        caller_or_none(),
        file_id,
        PreviewRequest(
            type=query.type,
            size=int(query.size),
            page=query.page,
            mime_type=cast(PictureType, request.accept_mimetypes.best_match(_PICTURES, default=_PICTURES[0])),
            if_none_match=request.headers.get("If-None-Match"),
            retry=query.retry,
        ),
    )
    if found.not_modified:
        response = streaming.not_modified({"ETag": found.etag})
    else:
        response = streaming.user_bytes(found.body, found.mime_type, found.etag)
    response.vary.add("Accept")
    return response


_ARCHIVE: Mapping[str, Any] = {
    "limit": "archives",
    "before": acquire_stream_slot,
    "responses": {200: Content({"application/zip": None}, "The archive", ("Content-Disposition",))},
    "errors": (*_STORED_ERRORS, errors.TooLarge),
}


@routes.get("/archive")
@operation("Download many files as a ZIP", query=ArchiveQuery, **_ARCHIVE)
def archive(query: ArchiveQuery) -> Response:
    """The files given by `?ids=`, or those of a folder and all folders below it, as a stream."""
    return _zipped(query.ids, query.folder)


@routes.post("/archive")
@operation("Download very many files as a ZIP", scopes=("read",), body=ArchiveBody, audit=BY_SERVICE, **_ARCHIVE)
def archive_selection(body: ArchiveBody) -> Response:
    """The same for more ids than an address can hold."""
    return _zipped(body.ids, body.folder)


def _zipped(ids: Sequence[str] | None, folder: int | None) -> Response:
    found = services().delivery.zip(principal(), ids=ids, folder=folder)
    response = Response(
        found.body,
        content_type="application/zip",
        direct_passthrough=True,
        headers={
            "Content-Disposition": content_disposition("attachment", found.filename),
            "Cache-Control": "private, no-store",
        },
    )
    return streaming.guarded(response)


def _delivered(found: Redirect | NotModified | Stream | Thawing) -> Response:
    if isinstance(found, Thawing):
        detail = "The file is in the archive and on its way back. Ask again later."
        thawing = {"id": found.file_id, "storage_class": "archived", "detail": detail}
        return render.answer(thawing, 202, {"Retry-After": _THAW_SECONDS, "Cache-Control": "no-store"})
    if isinstance(found, Redirect):
        return streaming.redirect(found.url)
    if isinstance(found, NotModified):
        return streaming.not_modified(found.headers)
    return streaming.stream(found)


def _conditions() -> RequestConditions:
    headers = request.headers
    return RequestConditions(
        range=headers.get("Range"),
        if_range=headers.get("If-Range"),
        if_none_match=headers.get("If-None-Match"),
        if_match=headers.get("If-Match"),
        if_modified_since=headers.get("If-Modified-Since"),
        if_unmodified_since=headers.get("If-Unmodified-Since"),
    )


def _if_match() -> str | None:
    return request.headers.get("If-Match")
