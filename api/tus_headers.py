"""Headers of resumable uploads, in requests and answers. ``g.interop`` is None for tus, else the draft's version
(api/tus.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from uuid import UUID

import structlog
from flask import Response, g, request
from werkzeug.http import http_date

from api import proxies
from api.context import principal, services
from api.fields import as_uuid
from core import ietf
from core import tus as protocol
from core.errors import InvalidInput, NotFound
from core.structured_fields import natural
from db.records import UploadState
from services.uploads.resumable import ResumableUploads

PATH = "/api/tus"
_INTEROP = "Upload-Draft-Interop-Version"
_MAX_UNKNOWN = 20  # numbers that a process logs
_unknown: set[int] = set()

log = structlog.get_logger("api")


def service() -> ResumableUploads:
    """The service behind these routes."""
    service = services().resumable
    assert service is not None  # api/__init__.py mounts these routes only then
    return service


def upload_id_of(text: str) -> UUID:
    """Raises NotFound for text that is no id."""
    upload_id = as_uuid(text)
    if upload_id is None:
        raise NotFound("There is no such upload.")
    return upload_id


def source(address: str) -> UUID:
    """The id in an upload's URL, absolute or relative. Raises NotFound."""
    head, _, last = address.partition("?")[0].rstrip("/").rpartition("/")
    if head and not head.endswith(PATH):
        raise NotFound("There is no such upload.")
    return upload_id_of(last)


def drafted() -> bool:
    """Whether the request says that it follows the draft."""
    return "Tus-Resumable" not in request.headers and any(name in request.headers for name in ietf.FIELDS)


def interop_version() -> int:
    """The draft's version that the request follows. An unknown one is logged once, and then served like the newest."""
    sent = natural(request.headers.get(_INTEROP))
    if sent is not None and sent not in ietf.VERSIONS and sent not in _unknown and len(_unknown) < _MAX_UNKNOWN:
        _unknown.add(sent)
        log.warning("unknown_interop_version", version=sent)
    return ietf.version(request.headers.get(_INTEROP))


def has_bytes() -> bool:
    """Whether a tus request brings bytes: by its content type, as both reference servers decide."""
    return request.headers.get("Content-Type", "").strip().lower() == protocol.CONTENT_TYPE


def body_checksum() -> dict[str, bytes]:
    """Upload-Checksum: the digest that the body must have, by algorithm."""
    sent = request.headers.get("Upload-Checksum")
    return {} if sent is None else dict([protocol.checksum(sent)])


def completes() -> bool:
    """Whether the draft's upload ends with this request."""
    return ietf.completes(g.interop, request.headers.get("Upload-Complete"), request.headers.get("Upload-Incomplete"))


def metadata_text(pairs: Mapping[str, bytes], key: str) -> str | None:
    """A value of Upload-Metadata as text. Raises InvalidInput if it is not UTF-8."""
    if key not in pairs:
        return None
    text = protocol.text_of(pairs[key])
    if text is None:
        raise InvalidInput(f"Upload-Metadata: {key} is not UTF-8.")
    return text


# -- answers ---------------------------------------------------------------------------------------------------------------


def location(state: UploadState) -> str:
    """The upload's URL."""
    return f"{proxies.origin()}{request.script_root}{PATH}/{state.upload.id}"


def _hears_interim() -> bool:
    """Whether interim answers can be sent. Not behind a proxy: an older one takes an unknown interim answer for the final one."""
    http_1_1 = request.environ.get("SERVER_PROTOCOL") == "HTTP/1.1"
    return natural(request.headers.get(_INTEROP)) in ietf.VERSIONS and http_1_1 and not proxies.forwarded()


def _interim(**headers: str) -> bytes:
    lines = ["HTTP/1.1 104 Upload Resumption Supported", f"{_INTEROP}: {g.interop}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def first_interim(state: UploadState) -> bytes:
    """The interim answer that lets a client resume if it sends everything with its first request (section 4.2.2 of the draft);
    empty if it can't be sent."""
    return _interim(Location=location(state), Upload_Limit=limits(state)) if _hears_interim() else b""


def progress_interim() -> Callable[[int], bytes] | None:
    """What makes the interim answers that tell offsets, so that the client need not keep what is stored; None if they can't be
    sent."""
    return (lambda offset: _interim(Upload_Offset=str(offset))) if _hears_interim() else None


def limits(state: UploadState) -> str:
    """Upload-Limit."""
    left = int((state.upload.expires_at - datetime.now(UTC)).total_seconds())
    return ietf.limits(g.interop, max_size=service().max_size(principal()), max_age=None if state.complete else left)


def set_headers(response: Response, state: UploadState, *, full: bool = False) -> None:
    """Set the headers for an upload's state; ``full`` adds those that only a status request has."""
    headers, upload, record = response.headers, state.upload, state.record
    headers["Upload-Offset"] = str(state.offset)
    if state.file_id is not None:
        headers["Upload-File-Id"] = str(state.file_id)
    if g.interop is not None:
        headers["Upload-Draft-Interop-Version"] = str(g.interop)
        headers["Upload-Limit"] = limits(state)
        if "repr_digest" in g:
            headers["Repr-Digest"] = g.repr_digest
        headers.update(ietf.completeness(g.interop, state.complete))
        if upload.size is not None:
            headers["Upload-Length"] = str(upload.size)
        return
    if upload.open:
        headers["Upload-Expires"] = http_date(upload.expires_at)
    if not full:
        return
    if upload.size is not None:
        headers["Upload-Length"] = str(upload.size)
    else:
        headers["Upload-Defer-Length"] = "1"
    if record.metadata_header is not None:
        headers["Upload-Metadata"] = record.metadata_header
    if record.concat_header is not None:
        headers["Upload-Concat"] = record.concat_header
