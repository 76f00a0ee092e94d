"""What the fields of resumable uploads say, in requests and in answers: from the words of core/tus.py and core/ietf.py to
the values of services/uploads/resumable.py and back. ``g.interop`` is None for tus, else the draft's version (api/tus.py)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID

from flask import Response, g, request
from werkzeug.http import http_date

from api import proxies
from api.context import principal, services
from api.fields import as_uuid
from core import ietf
from core import tus as words
from core.errors import InvalidInput, NotFound
from services.uploads.resumable import ResumableUploads, UploadState

PATH = "/api/tus"


def service() -> ResumableUploads:
    service = services().resumable
    assert service is not None  # api/__init__.py mounts these routes only then
    return service


def named(text: str) -> UUID:
    named = as_uuid(text)
    if named is None:
        raise NotFound("There is no such upload.")
    return named


def source(address: str) -> UUID:
    """The upload that an address of ours names, be it absolute or relative."""
    head, _, last = address.partition("?")[0].rstrip("/").rpartition("/")
    if head and not head.endswith(PATH):
        raise NotFound("There is no such upload.")
    return named(last)


def has_bytes() -> bool:
    """Whether a creation brings bytes; with another type it does not, as both reference servers read it."""
    return request.headers.get("Content-Type", "").strip().lower() == words.CONTENT_TYPE


def body_checksum() -> words.BodyChecksum | None:
    sent = request.headers.get("Upload-Checksum")
    return None if sent is None else words.checksum(sent)


def completes() -> bool:
    return ietf.completes(g.interop, request.headers.get("Upload-Complete"), request.headers.get("Upload-Incomplete"))


def text_in(pairs: Mapping[str, bytes], key: str) -> str | None:
    if key not in pairs:
        return None
    text = words.text_of(pairs[key])
    if text is None:
        raise InvalidInput(f"Upload-Metadata: {key} is not UTF-8.")
    return text


# -- words of answers ------------------------------------------------------------------------------------------------------


def location(standing: UploadState) -> str:
    return f"{proxies.origin()}{request.script_root}{PATH}/{standing.upload.id}"


def limits(standing: UploadState) -> str:
    left = int((standing.upload.expires_at - datetime.now(UTC)).total_seconds())
    return ietf.limits(g.interop, max_size=service().max_size(principal()), max_age=None if standing.complete else left)


def tell(response: Response, standing: UploadState, *, whole: bool = False) -> None:
    """Put an upload's state into the words of the protocol; with ``whole`` all that is known of it."""
    headers, upload, record = response.headers, standing.upload, standing.record
    headers["Upload-Offset"] = str(standing.offset)
    if standing.file_id is not None:
        headers["Upload-File-Id"] = str(standing.file_id)
    if g.interop is not None:
        headers["Upload-Draft-Interop-Version"] = str(g.interop)
        headers["Upload-Limit"] = limits(standing)
        headers.update(ietf.completeness(g.interop, standing.complete))
        if upload.size is not None:
            headers["Upload-Length"] = str(upload.size)
        return
    if upload.status in ("pending", "uploading"):
        headers["Upload-Expires"] = http_date(upload.expires_at)
    if not whole:
        return
    if upload.size is not None:
        headers["Upload-Length"] = str(upload.size)
    else:
        headers["Upload-Defer-Length"] = "1"
    if record.metadata is not None:
        headers["Upload-Metadata"] = record.metadata
    if record.concat is not None:
        headers["Upload-Concat"] = record.concat
