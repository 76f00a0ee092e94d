"""S3's error codes as ``base``'s errors, and when to retry.

Only exact codes count. A bare status 404 never means "no such object": a missing bucket, a missing upload and a proxy's
own page are 404s too.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from html import unescape
from typing import TypeVar

from storage_backends.base import (
    CLOCK_SKEW,
    ChecksumMismatch,
    InvalidPart,
    ObjectFrozen,
    ObjectNotFound,
    OutcomeUnknown,
    OutOfSpace,
    PreconditionFailed,
    StorageError,
    StorageRefused,
    StorageUnavailable,
    UploadNotFound,
)

T = TypeVar("T")

# A server without such rules, or credentials that may not set them: a fact to report, not a failure.
UNABLE = frozenset({"NotImplemented", "MethodNotAllowed", "AccessDenied", "MalformedXML", "InvalidArgument"})

ATTEMPTS = 3
FIRST_PAUSE = 0.1  # seconds; doubled for each attempt, half of it random
RETRY_WITHIN = 3.0  # seconds; later there is no further attempt, since a client is waiting

_CODES: dict[str, type[StorageError]] = {
    "NoSuchKey": ObjectNotFound,
    "NoSuchUpload": UploadNotFound,
    "InvalidObjectState": ObjectFrozen,
    "ObjectNotInActiveTierError": ObjectFrozen,  # the same of the source of a copy
    "PreconditionFailed": PreconditionFailed,
    "BadDigest": ChecksumMismatch,
    "InvalidDigest": ChecksumMismatch,
    "XAmzContentSHA256Mismatch": ChecksumMismatch,
    "XAmzContentChecksumMismatch": ChecksumMismatch,  # MinIO
    "InvalidPart": InvalidPart,
    "InvalidPartOrder": InvalidPart,
    "EntityTooSmall": InvalidPart,
    "XMinioStorageFull": OutOfSpace,
    "QuotaExceeded": OutOfSpace,
    "XMinioAdminBucketQuotaExceeded": OutOfSpace,
    "InsufficientStorage": OutOfSpace,
    "SlowDown": StorageUnavailable,
    "SlowDownRead": StorageUnavailable,
    "SlowDownWrite": StorageUnavailable,
    "ServiceUnavailable": StorageUnavailable,
    "XMinioServerNotInitialized": StorageUnavailable,
    "ConditionalRequestConflict": StorageUnavailable,  # 409: two conditional writes at once
    "OperationAborted": StorageUnavailable,
    "RequestTimeout": StorageUnavailable,  # 400: the body was sent too slowly
    "IncompleteBody": StorageUnavailable,
    "AccessDenied": StorageRefused,
    "InvalidAccessKeyId": StorageRefused,
    "SignatureDoesNotMatch": StorageRefused,
    CLOCK_SKEW: StorageRefused,
    "AuthorizationHeaderMalformed": StorageRefused,  # another region
    "PermanentRedirect": StorageRefused,
    "NoSuchBucket": StorageRefused,
}
_STATUSES: dict[int, type[StorageError]] = {
    403: StorageRefused,
    412: PreconditionFailed,
    429: StorageUnavailable,
    503: StorageUnavailable,
    507: OutOfSpace,
    500: OutcomeUnknown,
    502: OutcomeUnknown,
    504: OutcomeUnknown,
}
# Operations that store bytes. A full SeaweedFS answers them with InternalError.
STORING = frozenset({"put", "put_part", "copy", "copy_part"})
_FULL = re.compile(r"no space left|no free volume|no writable volume|disk is full", re.IGNORECASE)


def translate(
    operation: str, status: int, code: str | None, message: str | None, request_id: str | None
) -> StorageError:
    """The error for a response with this status and S3 error code, if it has one."""
    kind = _CODES.get(code or "") or _STATUSES.get(status, StorageError)
    if status >= 500 and message and _FULL.search(message):
        kind = OutOfSpace
    return kind(f"{operation}: {status} {code or ''} {message or ''}".rstrip(), code=code, request_id=request_id)


def xml_text(document: bytes, tag: str) -> str | None:
    """The text of the first element ``tag``, for documents too small to need a parser."""
    found = re.search(rb"<%b>([^<]*)</%b>" % (tag.encode(), tag.encode()), document)
    return unescape(found[1].decode("utf-8", "replace")) if found else None


def able(action: Callable[[], None]) -> bool:
    """Set a rule on the bucket; False if the server has no such rules or the credentials may not set them."""
    try:
        action()
    except StorageError as error:
        if error.code not in UNABLE:
            raise
        return False
    return True


def attempt(call: Callable[[], T], *, repeatable: bool, attempts: int = ATTEMPTS) -> T:
    """Make a call; retry it after a pause if it had no effect, or, with ``repeatable``, if its outcome is unknown."""
    started = time.monotonic()
    for number in range(1, attempts + 1):
        try:
            return call()
        except StorageUnavailable as error:
            final = isinstance(error, StorageRefused) or (isinstance(error, OutcomeUnknown) and not repeatable)
            if final or number == attempts or time.monotonic() - started > RETRY_WITHIN:
                raise
        time.sleep(FIRST_PAUSE * 2 ** (number - 1) * random.uniform(0.5, 1.0))  # noqa: S311
    raise AssertionError("unreachable")
