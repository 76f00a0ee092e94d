"""The plain ways in: a form with any number of files, and one raw body (``curl -T``).

Both stream: nothing here touches ``request.form``, ``.files``, ``.data`` or ``get_json()``, which would read
the body into memory or onto a disk. Every check on what comes in is in services/uploads/intake.py; this module knows
only how the bytes arrive.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint, Response, request

from api import problems, render
from api.context import http, principal, services
from api.form_data import Field, FilePart, FormLimits, FormReader
from api.idempotency import first_under, key_of_request, recorded, replayed, request_digest
from api.in_flight import acquire_body_slot
from api.operations import Content, operation, validated
from api.request_body import Checksums, RequestBody, refuse_encoded
from api.request_models import PlacementQuery
from api.response_models import FileOut, SentFileOut, UploadOut
from core import errors
from core.errors import FileTooLarge, InvalidInput, MalformedUpload
from core.placement import Placement
from core.principal import session_name
from db import Tx
from services.access.idempotency import Replay
from services.uploads.intake import Outcome, Readable

upload = Blueprint("upload", __name__)

FILE_FIELDS = frozenset({"files", "files[]", "file"})
_PLACEMENT_FIELDS = frozenset(PlacementQuery.model_fields)
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_READ = 1024 * 1024  # bytes
_REFUSALS = (
    errors.InvalidInput,
    errors.InvalidName,
    errors.MalformedUpload,
    errors.ChecksumMismatch,
    errors.NotFound,
    errors.DuplicateFile,
    errors.LimitReached,
    errors.IdempotencyInProgress,
    errors.FileTooLarge,
    errors.QuotaExceeded,
    errors.TypeNotAllowed,
    errors.TypeMismatch,
    errors.EncodingNotAllowed,
    errors.IdempotencyConflict,
    errors.TooMany,
    errors.StorageFull,
)
_TAKES = ("Upload-Session", "Idempotency-Key", "Content-MD5", "Content-Digest")


# -- once per Idempotency-Key --------------------------------------------------------------------------------


class Transcript:
    """What makes two uploads the same request: fields, names, sizes and bytes, but not the
    boundary, which each try draws anew. Hashes only where an Idempotency-Key asks for it."""

    def __init__(self, key: str | None):
        self.key = key
        self._digest = hashlib.sha256(request_digest())

    def add(self, *words: str | bytes) -> None:
        for word in words:
            data = word if isinstance(word, bytes) else word.encode("utf-8", "surrogatepass")
            self._digest.update(len(data).to_bytes(8, "big") + data)

    def of_file(self, *words: str) -> FileDigest:
        return FileDigest(self, words)

    def digest(self) -> bytes:
        return self._digest.digest()


class FileDigest:
    """One file's bytes on their way into the transcript."""

    def __init__(self, transcript: Transcript, words: tuple[str, ...]):
        self._transcript = transcript
        self._words = words
        self._sha256 = hashlib.sha256()

    def reading(self, source: Readable) -> Readable:
        return _Tee(source, self._sha256.update) if self._transcript.key is not None else source

    def end(self) -> None:
        self._transcript.add(*self._words, self._sha256.digest())


class _Tee:
    def __init__(self, source: Readable, sink: Callable[[bytes], None]):
        self._source = source
        self._sink = sink

    def read(self, size: int, /) -> bytes:
        chunk = self._source.read(size)
        self._sink(chunk)
        return chunk


def _once(store: Callable[[Transcript], Response], read: Callable[[Transcript], object]) -> Response:
    """Store the upload; if its Idempotency-Key was used before, only read it and repeat the first answer."""
    acquire_body_slot()
    transcript = Transcript(key_of_request())
    if transcript.key is None:
        return store(transcript)
    found = services().idempotency.begin(principal(), transcript.key, None)
    if isinstance(found, Replay):
        read(transcript)
        found.check_same(transcript.digest())
        return replayed(found)
    with first_under(found, transcript.digest):
        return store(transcript)


# -- the form ------------------------------------------------------------------------------------------------


@upload.post("/upload")
@operation(
    "Upload files by a form",
    gives={201: UploadOut, 207: UploadOut},
    headers=("Upload-Session",),
    takes_headers=_TAKES,
    refuses=(*_REFUSALS, errors.TooManyFiles),
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
)
def upload_form() -> Response:
    """Any number of parts named `files` (or `file`, `files[]`), each with a file name. Each gets its own
    verdict: `207` where some were refused; where all were, the first one's status, with `rejected` in it.
    Fields hold for every file wherever they stand. The files appear together once the entire body was read; a
    broken body leaves none. Fields with other names are ignored."""
    refuse_encoded()
    return _once(_store_form, lambda transcript: _read_form(transcript, lambda part, reader, placement: None))


def _store_form(transcript: Transcript) -> Response:
    with services().intake.batch(principal(), protocol="form", session_id=_session_id()) as batch:
        placement = _read_form(
            transcript,
            lambda part, reader, placement: batch.receive(
                name=part.filename,
                claimed_type=part.content_type or None,
                stream=reader,
                placement=placement,
            ),
        )
        outcome = batch.commit(placement, within=recorded(lambda tx, outcome: _form_answer(outcome, tx=tx)))
    if outcome.files:
        return _form_answer(outcome)
    first = outcome.rejected[0].error
    first.extra["rejected"] = _rejected(outcome)
    response = problems.from_gateway_error(first)
    response.headers["Upload-Session"] = session_name(outcome.session.session_id)
    return response


def _form_answer(outcome: Outcome, *, tx: Tx | None = None) -> Response:
    rejected = _rejected(outcome)
    body = {
        "files": render.files(outcome.files, principal(), tx=tx),
        "rejected": rejected,
        "session": render.session(outcome.session),
    }
    response = render.answer(body, 207 if rejected else 201)
    response.headers["Upload-Session"] = session_name(outcome.session.session_id)
    return response


def _rejected(outcome: Outcome) -> list[dict[str, Any]]:
    return [render.rejected(refused.original_name, refused.error) for refused in outcome.rejected]


def _read_form(transcript: Transcript, take: Callable[[FilePart, Readable, Placement], None]) -> Placement:
    """Read the entire body, handing over each file as it arrives, with what the fields before it say; then where the files
    are to go."""
    checksums = Checksums.of_request()
    body = RequestBody(hashes=checksums.names)
    limits = FormLimits(max_files=http().max_files_per_request)
    if body.length is not None and body.length > http().max_file_size * limits.max_files + 2 * _READ:
        raise errors.RequestTooLarge()
    form = FormReader(body, request.headers.get("Content-Type", ""), body.length, limits, file_fields=FILE_FIELDS)
    fields: dict[str, list[str]] = {}
    files = 0
    for part in form:
        if isinstance(part, Field):
            transcript.add(part.name, part.value)
            if part.name in _PLACEMENT_FIELDS:
                fields.setdefault(part.name, []).append(part.value)
        elif part.name not in FILE_FIELDS:
            problem = {"field": part.name[:200], "message": "not a field for files"}
            raise InvalidInput("Files belong into parts named files.", errors=[problem])
        else:
            files += 1
            digest = transcript.of_file(part.name, part.filename)
            reader = digest.reading(part)
            take(part, reader, _placement_of_fields(fields))
            _skip_rest(reader)
            digest.end()
    if not files:
        raise MalformedUpload("The form holds no file.")
    checksums.check(body)
    return _placement_of_fields(fields)


def _skip_rest(reader: Readable) -> None:
    """Read past what a refused file still sends. Without a Content-Length that could go on for ever (THREATS T2)."""
    skipped = 0
    while chunk := reader.read(_READ):
        skipped += len(chunk)
        if skipped > http().max_file_size:
            raise FileTooLarge()


def _placement_of_fields(fields: Mapping[str, list[str]]) -> Placement:
    flat: dict[str, Any] = {}
    for name, values in fields.items():
        if name != "tags" and len(values) > 1:
            raise InvalidInput(errors=[{"field": name, "message": "given more than once"}])
        flat[name] = values if name == "tags" else values[0]
    if flat.get("folder_id") == "":  # "no folder" in a browser's form
        del flat["folder_id"]
    return _placement(validated(PlacementQuery, flat))


def _placement(query: PlacementQuery) -> Placement:
    return Placement(
        folder_id=query.folder_id,
        visibility=query.visibility,
        tags=query.tags,
        on_duplicate=query.on_duplicate,
        keep_location=query.keep_location,
    )


# -- the raw body --------------------------------------------------------------------------------------------


@upload.put("/upload/<path:filename>")
@operation(
    "Upload one file as a raw body",
    query=PlacementQuery,
    gives={201: Content({"application/json": FileOut | SentFileOut}, "")},
    takes_headers=_TAKES,
    refuses=_REFUSALS,
    headers=("Upload-Session", "ETag", "Location"),
    streams={"required": True, "content": {"*/*": {"schema": {}}}},
)
def upload_raw(filename: str, query: PlacementQuery) -> Response:
    """What `curl -T` sends. What the form's fields say stands in the query here."""
    refuse_encoded()
    return _once(lambda transcript: _store_raw(transcript, filename, _placement(query)), _read_raw)


def _store_raw(transcript: Transcript, filename: str, placement: Placement) -> Response:
    checksums = Checksums.of_request()
    body = RequestBody()
    claimed = request.mimetype or None
    digest = transcript.of_file()
    with services().intake.batch(principal(), protocol="raw", session_id=_session_id()) as batch:
        batch.receive(
            name=filename,
            claimed_type=claimed,
            stream=digest.reading(body),
            size=body.length,
            content_md5=checksums.md5,
            placement=placement,
            sha256=checksums.sha256.hex() if checksums.sha256 else None,
        )
        if batch.rejected:
            raise batch.rejected[0].error
        digest.end()
        outcome = batch.commit(placement, within=recorded(lambda tx, outcome: _raw_answer(outcome, tx=tx)))
    if not outcome.files:
        raise outcome.rejected[0].error
    return _raw_answer(outcome)


def _raw_answer(outcome: Outcome, *, tx: Tx | None = None) -> Response:
    response = render.file_answer(outcome.files[0], principal(), 201, tx=tx)
    response.headers["Upload-Session"] = session_name(outcome.session.session_id)
    return response


def _read_raw(transcript: Transcript) -> None:
    digest = transcript.of_file()
    _skip_rest(digest.reading(RequestBody()))
    digest.end()


def _session_id() -> str | None:
    given = request.headers.get("Upload-Session")
    if given is not None and not _SESSION.fullmatch(given):
        raise InvalidInput("Upload-Session takes 1 to 64 letters, digits, hyphens and underscores.")
    return given
