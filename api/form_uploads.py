"""Uploads by a form with any number of files, or by one raw body (``curl -T``).

Both are streamed. This module only knows how the bytes arrive; services/uploads/intake.py checks and stores them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flask import Blueprint, Response, request

from api import problems, render
from api.context import principal, services, settings
from api.form_data import Field, FilePart, FormLimits, FormReader
from api.idempotency import Digest, once
from api.in_flight import acquire_body_slot
from api.operations import BY_SERVICE, Content, operation
from api.placement import of_form, placement
from api.request_body import Checksums, RequestBody, refuse_encoded
from api.request_models import PlacementQuery
from api.response_models import FileOut, SentFileOut, UploadOut
from core import errors
from core.errors import FileTooLarge, InvalidInput, MalformedUpload
from core.placement import Placement
from core.principal import session_name
from services.access.idempotency import Claim
from services.library.files import views
from services.uploads.intake import Outcome, Readable

routes = Blueprint("form_uploads", __name__)

FILE_FIELDS = frozenset({"files", "files[]", "file"})
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_READ = 1024 * 1024  # bytes
_ERRORS = (
    errors.InvalidInput,
    errors.InvalidName,
    errors.MalformedUpload,
    errors.ChecksumMismatch,
    errors.NotFound,
    errors.DuplicateFile,
    errors.LimitReached,
    errors.FileTooLarge,
    errors.QuotaExceeded,
    errors.TypeNotAllowed,
    errors.TypeMismatch,
    errors.EncodingNotAllowed,
    errors.TooMany,
    errors.UploadGone,
    errors.StorageFull,
)
_HEADERS = ("Upload-Session", "Idempotency-Key", "Content-MD5", "Content-Digest")


class Transcript:
    """What makes two uploads the same request: fields, names, sizes and bytes, but not the boundary, which each attempt
    chooses anew. Bytes are only hashed if the request has an Idempotency-Key."""

    def __init__(self) -> None:
        self.digest = Digest()
        self._wanted = "Idempotency-Key" in request.headers

    @contextmanager
    def reading(self, source: Readable, *names: str) -> Iterator[Readable]:
        """A file that is read to its end in the block."""
        sha256 = hashlib.sha256()
        yield _Tee(source, sha256.update) if self._wanted else source
        self.digest.add(*names, sha256.digest())


class _Tee:
    def __init__(self, source: Readable, sink: Callable[[bytes], None]):
        self._source = source
        self._sink = sink

    def read(self, size: int, /) -> bytes:
        chunk = self._source.read(size)
        self._sink(chunk)
        return chunk


def _once(
    store: Callable[[Transcript, Claim | None], Outcome],
    render: Callable[[Outcome], Response],
    read: Callable[[Transcript], object],
) -> Response:
    """Store the upload; if the request is a repeat, only read its body."""
    acquire_body_slot()
    transcript = Transcript()
    return once(
        lambda claim: store(transcript, claim),
        render,
        lambda recorded: recorded.read(Outcome),
        digest=transcript.digest,
        read_body=lambda: read(transcript),
    )


# -- the form ------------------------------------------------------------------------------------------------


@routes.post("/upload")
@operation(
    "Upload files with a form",
    limit="uploads",
    responses={201: UploadOut, 207: UploadOut},
    headers=("Upload-Session",),
    request_headers=_HEADERS,
    errors=(*_ERRORS, errors.TooManyFiles),
    streams={
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {
                            "type": "array",
                            "items": {"type": "string", "contentMediaType": "application/octet-stream"},
                        },
                        "folder_id": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
                        "visibility": {"enum": ["private", "public"]},
                        "tags": {"type": "string", "description": "Repeated, or separated by commas"},
                        "on_duplicate": {"enum": ["link", "copy", "reject"]},
                        "keep_location": {"type": "boolean"},
                    },
                },
                "encoding": {"files": {"contentType": "*/*"}},
            }
        },
    },
    audit=BY_SERVICE,
)
def upload_form() -> Response:
    """Any number of parts named `files` (or `file`, `files[]`), each with a file name. Each file is accepted or rejected by
    itself: `207` if some were rejected; if all were, the status of the first one's problem, with `rejected` in it. Fields apply
    to every file, wherever they stand in the body; fields with other names are ignored. Text is in UTF-8, unless its part or a
    field `_charset_` before it names another charset. The files appear together once the entire body was read; a broken body
    leaves none."""
    refuse_encoded()
    return _once(
        _store_form, _form_answer, lambda transcript: _read_form(transcript, lambda part, reader, placement: None)
    )


def _store_form(transcript: Transcript, claim: Claim | None) -> Outcome:
    with services().intake.batch(principal(), protocol="form", session_id=_session_id()) as batch:
        placement = _read_form(
            transcript,
            lambda part, reader, placement: batch.receive(
                name=part.filename, claimed_type=part.content_type or None, stream=reader, placement=placement
            ),
        )
        return batch.commit(placement, once=claim)


def _form_answer(outcome: Outcome) -> Response:
    rejected = [render.rejected(refused.original_name, refused.error) for refused in outcome.rejected]
    if outcome.files:
        body = {
            "files": [render.made_file(view) for view in views(outcome.files, outcome.previews)],
            "rejected": rejected,
            "session": render.session(outcome.session),
        }
        response = render.answer(body, 207 if rejected else 201)
    else:
        first = outcome.rejected[0].error
        first.extra["rejected"] = rejected
        response = problems.from_gateway_error(first)
    response.headers["Upload-Session"] = session_name(outcome.session.session_id)
    return response


def _read_form(transcript: Transcript, take: Callable[[FilePart, Readable, Placement], None]) -> Placement:
    """Read the entire body. Each file is passed to ``take`` with the placement that the fields before it give; returned is the
    placement that all fields give."""
    checksums = Checksums.of_request()
    body = RequestBody(hashes=checksums.names)
    limits = FormLimits(max_files=settings().max_files_per_request)
    if body.length is not None and body.length > settings().max_file_size * limits.max_files + 2 * _READ:
        raise errors.RequestTooLarge()
    form = FormReader(body, request.headers.get("Content-Type", ""), body.length, limits, file_fields=FILE_FIELDS)
    fields: dict[str, list[str]] = {}
    files = 0
    for part in form:
        if isinstance(part, Field):
            transcript.digest.add(part.name, part.value)
            if part.name in PlacementQuery.model_fields:
                fields.setdefault(part.name, []).append(part.value)
        elif part.name not in FILE_FIELDS:
            problem = {"field": part.name[:200], "message": "not a field for files"}
            raise InvalidInput("Send files in parts named files.", errors=[problem])
        else:
            files += 1
            with transcript.reading(part, part.name, part.filename) as reader:
                take(part, reader, of_form(fields))
                _skip_rest(reader)
    if not files:
        raise MalformedUpload("The form contains no file.")
    checksums.check(body)
    return of_form(fields)


def _skip_rest(reader: Readable) -> None:
    """Read the rest of a rejected file. Without a Content-Length it could be endless (T2)."""
    skipped = 0
    while chunk := reader.read(_READ):
        skipped += len(chunk)
        if skipped > settings().max_file_size:
            raise FileTooLarge()


# -- the raw body --------------------------------------------------------------------------------------------


@routes.put("/upload/<path:filename>")
@operation(
    "Upload one file as a raw body",
    limit="uploads",
    query=PlacementQuery,
    responses={201: Content({"application/json": FileOut | SentFileOut}, "")},
    request_headers=_HEADERS,
    errors=_ERRORS,
    headers=("Upload-Session", "ETag", "Location"),
    streams={"required": True, "content": {"*/*": {"schema": {}}}},
    audit=BY_SERVICE,
)
def upload_raw(filename: str, query: PlacementQuery) -> Response:
    """As `curl -T` sends it. The query has the same parameters as the form has fields."""
    refuse_encoded()
    return _once(
        lambda transcript, claim: _store_raw(transcript, claim, filename, placement(query)), _raw_answer, _read_raw
    )


def _store_raw(transcript: Transcript, claim: Claim | None, filename: str, placement: Placement) -> Outcome:
    checksums = Checksums.of_request()
    body = RequestBody()
    claimed = request.mimetype or None
    with services().intake.batch(principal(), protocol="raw", session_id=_session_id()) as batch:
        with transcript.reading(body) as reader:
            batch.receive(
                name=filename,
                claimed_type=claimed,
                stream=reader,
                size=body.length,
                content_md5=checksums.md5,
                placement=placement,
                sha256=checksums.sha256.hex() if checksums.sha256 else None,
            )
            if batch.rejected:
                raise batch.rejected[0].error
        return batch.commit(placement, once=claim)


def _raw_answer(outcome: Outcome) -> Response:
    if not outcome.files:
        raise outcome.rejected[0].error
    response = render.new_file(views(outcome.files, outcome.previews)[0])
    response.headers["Upload-Session"] = session_name(outcome.session.session_id)
    return response


def _read_raw(transcript: Transcript) -> None:
    with transcript.reading(RequestBody()) as reader:
        _skip_rest(reader)


def _session_id() -> str | None:
    given = request.headers.get("Upload-Session")
    if given is not None and not _SESSION.fullmatch(given):
        raise InvalidInput("Upload-Session must be 1 to 64 letters, digits, hyphens and underscores.")
    return given
