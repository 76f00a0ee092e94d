"""The shapes of direct uploads and upload tokens."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, Field

from api.fields import MAX_INT32, MAX_INT64, FolderId, ShortText, Tags, Text
from api.request_models import Body
from api.response_models import Out, PageOut
from core.placement import OnDuplicate, Visibility

MAX_METADATA = 64 * 1024  # bytes of JSON
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # behind an even number of backslashes: PostgreSQL takes no NUL


def _metadata(value: dict[str, Any]) -> dict[str, Any]:
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
    except (ValueError, RecursionError):
        raise ValueError("holds what JSON can't carry") from None
    if size > MAX_METADATA:
        raise ValueError(f"must be at most {MAX_METADATA} bytes of JSON")
    if _NUL.search(text):
        raise ValueError("must not hold NUL")
    return value


Sha256 = Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$"), AfterValidator(str.lower)]
Size = Annotated[int, Field(ge=0, le=MAX_INT64, description="Bytes")]
SessionId = Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")]
Metadata = Annotated[dict[str, Any], AfterValidator(_metadata)]
PartNumber = Annotated[int, Field(ge=1, le=10_000)]
UploadStatus = Literal["pending", "uploading", "completing", "done", "aborted", "expired"]


# -- direct uploads ----------------------------------------------------------------------------------------------------


class BeginUploadBody(Body):
    filename: Annotated[str, Field(max_length=4096)]
    size: Size
    content_type: ShortText | None = None
    folder_id: FolderId | None = None
    visibility: Visibility = "private"
    tags: Tags = ()
    on_duplicate: OnDuplicate = "link"
    keep_location: bool = False
    metadata: Annotated[Metadata, Field(default_factory=dict)]
    sha256: Sha256 | None = None
    session_id: SessionId | None = None


class PartNumbersBody(Body):
    part_numbers: Annotated[tuple[PartNumber, ...], Field(min_length=1, max_length=1000)]


class SentPart(Body):
    part_number: PartNumber
    etag: Annotated[Text, Field(min_length=1, max_length=200, description="Quoted or not")]


class CompleteUploadBody(Body):
    parts: Annotated[tuple[SentPart, ...], Field(max_length=10_000)] | None = None
    sha256: Sha256 | None = None


class PartUrlOut(Out):
    part_number: int
    url: str
    headers: Annotated[dict[str, str], Field(description="To be sent exactly so, and no other x-amz- header")]


class BegunUploadOut(Out):
    """``PUT``: send the bytes to ``url`` with ``headers``. ``multipart``: send each part to its own URL. Then complete."""

    id: UUID
    method: Literal["PUT", "multipart"]
    url: str | None
    headers: dict[str, str] | None
    part_size: int
    part_count: int
    parts: list[PartUrlOut]
    expires_at: datetime
    urls_expire_at: datetime
    session_id: str


class PartUrlsOut(Out):
    parts: list[PartUrlOut]
    urls_expire_at: datetime


class ReceivedPartOut(Out):
    part_number: int
    size: int
    etag: str


class UnfinishedUploadOut(Out):
    id: UUID
    protocol: Literal["form", "raw", "direct", "s3", "tus", "ietf"]
    status: UploadStatus
    filename: str
    content_type: str
    size: int | None
    part_size: int | None
    folder_id: int | None
    file_id: UUID | None
    session_id: str | None
    created_at: datetime
    expires_at: datetime
    problem: dict[str, str] | None


class UploadProgressOut(UnfinishedUploadOut):
    """What the bucket holds; ``missing`` are ranges of part numbers, both ends included."""

    bytes_received: int
    parts: list[ReceivedPartOut]
    missing: list[Annotated[list[int], Field(min_length=2, max_length=2)]]


class UnfinishedUploadPageOut(PageOut):
    items: list[UnfinishedUploadOut]


# -- upload tokens -----------------------------------------------------------------------------------------------------


class UploadTokenBody(Body):
    owner_id: Annotated[ShortText, Field(min_length=1)]
    folder_id: FolderId | None = None
    max_files: Annotated[int, Field(ge=1, le=MAX_INT32)] | None = None
    max_size: Annotated[Size, Field(description="Bytes of one file")] | None = None
    max_total_size: Annotated[Size, Field(description="Bytes of all files together")] | None = None
    allowed_types: Annotated[
        tuple[Annotated[ShortText, Field(min_length=1)], ...],
        Field(max_length=100, description="Extensions, MIME types, image/*"),
    ] = ()
    visibility: Annotated[Visibility, Field(description="The widest that its uploads may have")] = "private"
    expires_in: Annotated[int, Field(ge=1, le=MAX_INT64, description="Seconds; more than a day means a day")] = 3600


class TokenEndpointsOut(Out):
    """Addresses that carry the token, for clients that can send no header."""

    upload: str
    uploads: str
    tus: str
    companion: Annotated[str, Field(description="For @uppy/aws-s3, which adds /s3 itself")]


class UploadTokenOut(Out):
    id: UUID
    token: Annotated[str | None, Field(description="Shown once: null where an Idempotency-Key brings the answer again")]
    expires_at: datetime
    endpoints: TokenEndpointsOut | None


class LiveUploadTokenOut(Out):
    """An upload token that is still good, without the token: its budget, and how much of it is taken."""

    id: UUID
    owner_id: str
    folder_id: int | None
    max_files: int | None
    max_size: int | None
    max_total_size: int | None
    allowed_types: list[str]
    visibility: Visibility
    files_used: int
    bytes_used: int
    created_at: datetime
    expires_at: datetime


class UploadTokenPageOut(PageOut):
    items: list[LiveUploadTokenOut]
