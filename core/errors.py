"""The errors that services raise. The family sets the status, the class sets the code.

    GatewayError
    ├── InvalidInput 400
    ├── NotAuthenticated 401
    ├── NotAllowed 403
    ├── NotFound 404                also for what belongs to another owner
    ├── Conflict 409
    ├── Gone 410
    ├── PreconditionFailed 412
    ├── TooLarge 413
    ├── Unsupported 415
    ├── RangeNotSatisfiable 416
    ├── Unprocessable 422
    ├── Locked 423
    ├── TooMany 429
    ├── BodyChecksumMismatch 460    a status of tus
    ├── Unavailable 503             try again, nothing was acknowledged
    └── StorageFull 507

api/problems.py alone maps a family to its status and writes an error as problem+json (RFC 9457).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar


class GatewayError(Exception):
    """The base class of all errors that clients see. ``detail`` is written for people and holds no secrets."""

    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"

    def __init_subclass__(cls, *, code: str | None = None, title: str | None = None, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        cls.code, cls.title = code or cls.code, title or cls.title

    def __init__(self, detail: str | None = None, *, errors: list[dict[str, str]] | None = None, **extra: Any):
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.errors = errors or []  # [{"field", "message"}] for invalid input
        self.extra = extra  # further members of the problem document

    def as_problem(self) -> dict[str, Any]:
        """The short form that is stored in a row, or listed for a rejected file: {"code", "detail"}."""
        return {"code": self.code, "detail": self.detail}

    @staticmethod
    def from_problem(problem: dict[str, Any]) -> GatewayError:
        """The error that ``as_problem`` was called on."""
        kind = next((kind for kind in kinds() if kind.code == problem["code"]), GatewayError)
        return kind(problem["detail"])


def kinds(family: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    """The class itself and everything below it."""
    yield family
    for kind in family.__subclasses__():
        yield from kinds(kind)


class InvalidInput(GatewayError, code="invalid_input", title="The request is invalid"): ...


class InvalidName(InvalidInput, code="invalid_name", title="The name is invalid"): ...


class InvalidCursor(InvalidInput, code="invalid_cursor", title="The cursor is invalid for this list"): ...


class ChecksumMismatch(
    InvalidInput, code="checksum_mismatch", title="The received bytes do not match the checksum"
): ...


class MalformedUpload(InvalidInput, code="malformed_upload", title="The upload's body is malformed"): ...


class InconsistentLength(
    InvalidInput, code="inconsistent_length", title="The length does not match the upload's length"
): ...


class AlreadyComplete(InvalidInput, code="upload_complete", title="The upload is already complete"): ...


class NotAuthenticated(GatewayError, code="not_authenticated", title="A valid credential is required"): ...


class NotAllowed(GatewayError, code="not_allowed", title="The credential does not permit this"): ...


class NotFound(GatewayError, code="not_found", title="Not found"): ...


class Conflict(GatewayError, code="conflict", title="The request conflicts with the current state"): ...


class FileNotReady(Conflict, code="file_not_ready", title="The file has not passed its checks"): ...


class FileInTrash(Conflict, code="file_in_trash", title="The file is in the trash"): ...


class FileArchived(
    Conflict, code="file_archived", title="The file is in the archive, and it takes time to bring it back"
): ...


class NameConflict(Conflict, code="name_conflict", title="The name is already taken in this folder"): ...


class FolderCycle(
    Conflict, code="folder_cycle", title="A folder can't be moved into itself or one of its subfolders"
): ...


class FolderTooDeep(Conflict, code="folder_too_deep", title="Folders can be nested at most 32 deep"): ...


class FolderNotEmpty(Conflict, code="folder_not_empty", title="The folder is not empty"): ...


class DuplicateFile(Conflict, code="duplicate_file", title="You already have a file with the same content"): ...


class IdempotencyInProgress(
    Conflict, code="idempotency_in_progress", title="The first request with this Idempotency-Key is still running"
): ...


class PartsMismatch(Conflict, code="parts_mismatch", title="The listed parts do not match the parts in the bucket"): ...


class LimitReached(Conflict, code="limit_reached", title="A limit is reached"): ...


class GatewayRunning(Conflict, code="gateway_running", title="The gateway is running"): ...


class NotCopied(Conflict, code="not_copied", title="Not all objects are copied"): ...


class UploadsUnfinished(Conflict, code="uploads_unfinished", title="Uploads are unfinished"): ...


class OffsetMismatch(Conflict, code="offset_mismatch", title="Upload-Offset does not match the current offset"): ...


class Gone(GatewayError, code="gone", title="No longer available"): ...


class UploadGone(Gone, code="upload_gone", title="The upload was aborted or has expired"): ...


class ContentMissing(Gone, code="content_missing", title="The file's content is missing from the bucket"): ...


class PreconditionFailed(GatewayError, code="precondition_failed", title="The file has changed since it was read"): ...


class UnsupportedVersion(PreconditionFailed, title="The protocol version is not supported"): ...


class TooLarge(GatewayError, code="too_large", title="Too large"): ...


class FileTooLarge(TooLarge, code="file_too_large", title="The file is too large"): ...


class QuotaExceeded(TooLarge, code="quota_exceeded", title="The quota is exceeded"): ...


class TooManyFiles(TooLarge, code="too_many_files", title="Too many files in one request"): ...


class RequestTooLarge(TooLarge, code="request_too_large", title="The request is too large"): ...


class Unsupported(GatewayError, code="unsupported_media_type", title="Not supported"): ...


class TypeNotAllowed(Unsupported, code="type_not_allowed", title="Files of this type are not allowed"): ...


class TypeMismatch(Unsupported, code="type_mismatch", title="The file's content does not match its extension"): ...


class PreviewUnsupported(Unsupported, code="preview_unsupported", title="The file has no preview of this kind"): ...


class EncodingNotAllowed(Unsupported, code="encoding_not_allowed", title="Content-Encoding is not allowed here"): ...


class RangeNotSatisfiable(GatewayError, code="range_not_satisfiable", title="The range is outside the file"): ...


class Unprocessable(GatewayError, code="unprocessable", title="The request can't be processed"): ...


class IdempotencyConflict(
    Unprocessable, code="idempotency_conflict", title="This Idempotency-Key was used for a different request"
): ...


class PreviewFailed(Unprocessable, code="preview_failed", title="The preview could not be created"): ...


class Locked(GatewayError, code="upload_locked", title="The upload is locked by another request"): ...


class TooMany(GatewayError, code="rate_limited", title="Too many requests"): ...


class BodyChecksumMismatch(
    GatewayError, code="checksum_mismatch", title="The received bytes do not match the checksum"
): ...


class Unavailable(GatewayError, code="unavailable", title="The service is temporarily unavailable; try again"): ...


class StorageFull(GatewayError, code="storage_full", title="The storage is full"): ...


WAIT = (Unavailable, StorageFull)  # what work in the background waits out: it has not failed itself
