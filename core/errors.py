"""The errors a service may raise. The family names the status, the leaf names the code.

    GatewayError
    ├── InvalidInput 400            invalid_input; also InvalidName, InvalidCursor, ChecksumMismatch, MalformedUpload,
    │                               InconsistentLength, AlreadyComplete
    ├── NotAuthenticated 401        not_authenticated
    ├── NotAllowed 403              not_allowed
    ├── NotFound 404                not_found: "not yours" is told in the same words as "not there"
    ├── Conflict 409                FileNotReady, FileInTrash, NameConflict, FolderCycle, FolderTooDeep, FolderNotEmpty,
    │                               DuplicateFile, IdempotencyInProgress, PartsMismatch, LimitReached, OffsetMismatch
    ├── Gone 410                    UploadGone, ContentMissing
    ├── PreconditionFailed 412      precondition_failed; also UnsupportedVersion
    ├── TooLarge 413                FileTooLarge, QuotaExceeded, TooManyFiles
    ├── Unsupported 415             TypeNotAllowed, TypeMismatch, PreviewUnsupported, EncodingNotAllowed
    ├── RangeNotSatisfiable 416     range_not_satisfiable
    ├── Unprocessable 422           IdempotencyConflict, PreviewFailed
    ├── Locked 423                  upload_locked
    ├── TooMany 429                 rate_limited
    ├── BodyChecksumMismatch 460    checksum_mismatch, in the words of tus
    ├── Unavailable 503             unavailable: try again, nothing was acknowledged
    └── StorageFull 507             storage_full

api/problems.py alone turns a family into a status and a leaf into problem+json (RFC 9457).
"""

from __future__ import annotations

from typing import Any, ClassVar


class GatewayError(Exception):
    """Base of all errors that a client is told about. ``detail`` is written for people and holds no secrets."""

    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str | None = None, *, errors: list[dict[str, str]] | None = None, **extra: Any):
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.errors = errors or []  # [{"field", "message"}] where input failed
        self.extra = extra  # further members of the problem document

    def as_problem(self) -> dict[str, Any]:
        """The short form kept in a row or in a list of rejected files: {"code", "detail"}."""
        return {"code": self.code, "detail": self.detail}


# 400
class InvalidInput(GatewayError):
    code = "invalid_input"
    title = "The request is not valid"


class InvalidName(InvalidInput):
    code = "invalid_name"
    title = "The name can't be used"


class InvalidCursor(InvalidInput):
    code = "invalid_cursor"
    title = "The cursor is not one that this list gave out"


class ChecksumMismatch(InvalidInput):
    code = "checksum_mismatch"
    title = "The bytes received do not have the checksum that was sent with them"


class MalformedUpload(InvalidInput):
    code = "malformed_upload"
    title = "The upload's body can't be read"


class InconsistentLength(InvalidInput):
    code = "inconsistent_length"
    title = "The upload has another length"


class AlreadyComplete(InvalidInput):
    code = "upload_complete"
    title = "The upload is complete"


# 401, 403, 404
class NotAuthenticated(GatewayError):
    code = "not_authenticated"
    title = "A valid credential is needed"


class NotAllowed(GatewayError):
    code = "not_allowed"
    title = "The credential does not allow this"


class NotFound(GatewayError):
    code = "not_found"
    title = "Not found"


# 409
class Conflict(GatewayError):
    code = "conflict"
    title = "The request does not fit the present state"


class FileNotReady(Conflict):
    code = "file_not_ready"
    title = "The file has not passed its checks"


class FileInTrash(Conflict):
    code = "file_in_trash"
    title = "The file is in the trash"


class NameConflict(Conflict):
    code = "name_conflict"
    title = "The name is taken in this folder"


class FolderCycle(Conflict):
    code = "folder_cycle"
    title = "A folder can't be moved into itself or below itself"


class FolderTooDeep(Conflict):
    code = "folder_too_deep"
    title = "Folders can be nested 32 deep"


class FolderNotEmpty(Conflict):
    code = "folder_not_empty"
    title = "The folder is not empty"


class DuplicateFile(Conflict):
    code = "duplicate_file"
    title = "You already have a file with these bytes"


class IdempotencyInProgress(Conflict):
    code = "idempotency_in_progress"
    title = "The first request with this Idempotency-Key is still running"


class PartsMismatch(Conflict):
    code = "parts_mismatch"
    title = "The parts listed are not the parts that the bucket holds"


class LimitReached(Conflict):
    code = "limit_reached"
    title = "A limit of this account is reached"


class OffsetMismatch(Conflict):
    code = "offset_mismatch"
    title = "The upload stands at another offset"


# 410, 412
class Gone(GatewayError):
    code = "gone"
    title = "No longer there"


class UploadGone(Gone):
    code = "upload_gone"
    title = "The upload was aborted or has expired"


class ContentMissing(Gone):
    code = "content_missing"
    title = "The file's bytes are missing from the bucket"


class PreconditionFailed(GatewayError):
    code = "precondition_failed"
    title = "The file has changed since"


class UnsupportedVersion(PreconditionFailed):
    title = "The request is in no version of the protocol that is spoken here"


# 413
class TooLarge(GatewayError):
    code = "too_large"
    title = "Too large"


class FileTooLarge(TooLarge):
    code = "file_too_large"
    title = "The file is larger than allowed"


class QuotaExceeded(TooLarge):
    code = "quota_exceeded"
    title = "The quota does not leave room for this"


class TooManyFiles(TooLarge):
    code = "too_many_files"
    title = "Too many files in one request"


class RequestTooLarge(TooLarge):
    code = "request_too_large"
    title = "The request is larger than allowed"


# 415, 416
class Unsupported(GatewayError):
    code = "unsupported_media_type"
    title = "Not supported"


class TypeNotAllowed(Unsupported):
    code = "type_not_allowed"
    title = "Files of this type are not accepted"


class TypeMismatch(Unsupported):
    code = "type_mismatch"
    title = "The file's content is not what its name says"


class PreviewUnsupported(Unsupported):
    code = "preview_unsupported"
    title = "There is no such preview of this file"


class EncodingNotAllowed(Unsupported):
    code = "encoding_not_allowed"
    title = "Upload the bytes themselves, without Content-Encoding"


class RangeNotSatisfiable(GatewayError):
    code = "range_not_satisfiable"
    title = "The range lies outside the file"


# 422, 423, 429
class Unprocessable(GatewayError):
    code = "unprocessable"
    title = "The request can't be processed"


class IdempotencyConflict(Unprocessable):
    code = "idempotency_conflict"
    title = "This Idempotency-Key was used for another request"


class PreviewFailed(Unprocessable):
    code = "preview_failed"
    title = "The preview could not be made"


class Locked(GatewayError):
    code = "upload_locked"
    title = "The upload is in use by another request"


class TooMany(GatewayError):
    code = "rate_limited"
    title = "Too many requests"


# 460, a status of tus
class BodyChecksumMismatch(GatewayError):
    code = "checksum_mismatch"
    title = "The bytes received do not have the checksum that was sent with them"


# 503, 507
class Unavailable(GatewayError):
    code = "unavailable"
    title = "A part of the service can't be reached; try again"


class StorageFull(GatewayError):
    code = "storage_full"
    title = "The storage is full"
