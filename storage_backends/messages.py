"""What S3's responses and headers say of objects, parts and checksums."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal
from xml.sax.saxutils import escape

from storage_backends import faults
from storage_backends.base import Checksum, ChecksumMismatch, ObjectInfo, OutcomeUnknown, Part, StorageUnavailable
from storage_backends.http_client import Response


def checksum_in(found: Callable[[str], str | None]) -> Checksum | None:
    """The first checksum that ``found`` has by its algorithm. A composite one of a multipart upload (``…-3``) is ignored."""
    algorithms: tuple[Literal["sha256", "crc32"], ...] = ("sha256", "crc32")
    for algorithm in algorithms:
        value = found(algorithm)
        if value and "-" not in value:
            return Checksum(algorithm, value)
    return None


def listed_part(item: bytes) -> Part:
    """A part as ListParts describes it."""

    def text(tag: str) -> str:
        return faults.xml_text(item, tag) or ""

    checksum = checksum_in(lambda algorithm: text(f"Checksum{algorithm.upper()}"))
    return Part(int(text("PartNumber")), int(text("Size")), text("ETag").strip('"'), checksum)


def checksum_header(checksum: Checksum | None) -> dict[str, str]:
    """The header that sends a checksum."""
    return {f"x-amz-checksum-{checksum.algorithm}": checksum.value} if checksum else {}


def checksum_element(checksum: Checksum | None) -> str:
    """A part's checksum as a completion repeats it."""
    if checksum is None:
        return ""
    name = f"Checksum{checksum.algorithm.upper()}"
    return f"<{name}>{escape(checksum.value)}</{name}>"


def confirmed(operation: str, response: Response, checksum: Checksum | None) -> Checksum | None:
    """The checksum, if the response repeats it. Raises ChecksumMismatch if it names another."""
    echo = response.headers.get(f"x-amz-checksum-{checksum.algorithm}") if checksum else None
    if checksum and echo and echo != checksum.value:
        raise ChecksumMismatch(f"{operation}: the bucket stored {echo}, {checksum.value} was sent")
    return checksum if echo else None


def etag(operation: str, response: Response) -> str:
    """The ETag, without quotes. Raises OutcomeUnknown without one."""
    found = response.headers.get("etag", "").strip('"')
    if not found:
        raise OutcomeUnknown(f"{operation}: the response {response.status} has no ETag")
    return found


def date(response: Response, header: str) -> datetime:
    """The time in a header; now if it has none."""
    try:
        return parsedate_to_datetime(response.headers.get(header, "")).astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return datetime.now(UTC)


_FROZEN = frozenset({"GLACIER", "DEEP_ARCHIVE"})  # storage classes that need a thaw


def described(operation: str, key: str, response: Response) -> ObjectInfo:
    """The object's description from the response to a HEAD, or to a GET of the whole or of a range. Raises StorageUnavailable if
    it tells no size."""
    total = response.headers.get("content-range", "").rpartition("/")[2] or response.headers.get("content-length", "")
    if not total.isdecimal():
        raise StorageUnavailable(f"{operation} {key}: the response does not tell the object's size")
    storage_class, thaw = response.headers.get("x-amz-storage-class"), response.headers.get("x-amz-restore", "")
    # x-amz-archive-status: a tier of INTELLIGENT_TIERING that needs a thaw
    frozen = storage_class in _FROZEN or "x-amz-archive-status" in response.headers
    return ObjectInfo(
        key,
        int(total),
        etag(operation, response),
        response.headers.get("content-type"),
        date(response, "last-modified"),
        checksum_in(lambda algorithm: response.headers.get(f"x-amz-checksum-{algorithm}")),
        storage_class,
        readable=not frozen or 'ongoing-request="false"' in thaw,
        thawing='ongoing-request="true"' in thaw,
    )
