"""Models of responses, for rendering (api/render.py) and for the OpenAPI document.

Responses are not validated against them at run time. The tests check every response against the document, where
``extra="forbid"`` makes an undeclared member fail.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from api.request_models import FileType, Status, StorageClass
from core.placement import Visibility
from core.principal import Role, Scope


class Out(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_serialization_defaults_required=True)


class Reason(Out):
    code: str
    detail: str


class FieldError(Out):
    field: str
    message: str


class RejectedFile(Out):
    original_name: str
    problem: Reason


class Problem(BaseModel):
    """RFC 9457. Clients should rely on ``code``."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]
    request_id: str | None
    errors: list[FieldError] = []
    rejected: list[RejectedFile] = []


class PreviewOut(Out):
    type: Literal["thumbnail", "text", "page", "contents"]
    width: int | None
    height: int | None
    mime_type: str
    url: str


class TextPreviewOut(Out):
    """The beginning of a text, at most 64 KiB."""

    content: str
    language: str | None = Field(description="The language of code or markup: python, markdown, csv, …")
    truncated: bool
    encoding: str | None = None
    html: str | None = Field(default=None, description="Highlighted or rendered, and safe to insert")
    table: list[list[str]] | None = None


class ListedEntryOut(Out):
    name: str
    size: int | None
    compressed_size: int | None
    is_directory: bool
    modified_at: str | None


class ContentsPreviewOut(Out):
    """The entries of an archive; their names are not safe as paths."""

    entries: list[ListedEntryOut]
    total_entries: int
    total_size: int | None
    truncated: bool


class FileLinks(Out):
    self: str
    download: str
    preview: str | None


class FileCore(Out):
    id: UUID
    original_name: str
    mime_type: str
    file_size: Annotated[int, Field(ge=0)]
    file_hash: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    status: Status
    uploaded_at: datetime
    expires_at: datetime | None
    previews: list[PreviewOut]
    links: FileLinks


class FileOut(FileCore):
    """A file, as its owner sees it."""

    stored_name: str
    file_path: str
    folder_id: int | None
    visibility: Visibility
    keep_location: Annotated[bool, Field(description="The location is kept in pictures that are public")]
    tags: list[str]
    owner_id: str
    storage_class: StorageClass
    last_accessed: datetime | None
    download_count: Annotated[int, Field(ge=0)]
    is_deleted: bool
    deleted_at: datetime | None
    problem: Reason | None
    metadata: dict[str, Any]


class SentFileOut(Out):
    """A file, as shown to an upload token: nothing that the token's user does not know."""

    id: UUID
    original_name: Annotated[str, Field(description="As it was sent; in its folder it may have another name")]
    file_size: Annotated[int, Field(ge=0)]
    status: Status
    problem: Reason | None


class PublicFileOut(FileCore):
    """A public file, as shown to all but its owner. Size and hash are those of the bytes that the public gets: for a picture with
    a location, those of a copy without it; until that exists, the file is `processing`."""


class EventOut(Out):
    id: int
    action: str
    actor: str | None
    at: datetime


class StatisticsOut(Out):
    downloads: int
    previews: int
    first_access: datetime | None
    last_access: datetime | None


class IntegrityOut(Out):
    exists: bool
    size_matches: bool
    checksum: Literal["verified", "unverified", "mismatch"]
    checked_at: datetime | None


class FileDetailsOut(FileOut):
    statistics: StatisticsOut
    access_history: list[EventOut]
    integrity: IntegrityOut


class PageOut(Out):
    next_cursor: str | None
    total: int | None


class FilePageOut(PageOut):
    items: list[FileOut]


class EventPageOut(PageOut):
    items: list[EventOut]


class SessionOut(Out):
    session_id: str
    files_uploaded: int
    total_size: int
    started_at: datetime
    completed_at: datetime | None


class UploadOut(Out):
    files: list[FileOut | SentFileOut]
    rejected: list[RejectedFile]
    session: SessionOut


class ThawingOut(Out):
    """The file is on its way back from the archive. Ask again after the seconds in `Retry-After`."""

    id: UUID
    storage_class: Literal["archived"]
    detail: str


class UrlOut(Out):
    url: str
    expires_at: datetime


class DeletedFileOut(Out):
    id: UUID
    action: Literal["trashed", "purged"]
    deleted_at: datetime


class BatchItemOut(Out):
    id: str
    status: int
    problem: Reason | None


class BatchOut(Out):
    results: list[BatchItemOut]


class FolderOut(Out):
    id: int
    name: str
    description: str
    parent_id: int | None
    path: str
    created_at: datetime
    updated_at: datetime
    file_count: int
    total_file_count: int
    total_size: int


class FolderNodeOut(FolderOut):
    children: list[FolderNodeOut]


class FolderTreeOut(Out):
    items: list[FolderNodeOut]


class FolderPageOut(PageOut):
    items: list[FolderOut]


class DeletedFolderOut(Out):
    id: int
    action: Literal["deleted"]
    trashed_files: int = 0
    deleted_folders: int = 1


class CountedTypeOut(Out):
    file_type: FileType
    count: int
    size: int


class CountedFolderOut(Out):
    folder_id: int | None
    name: str | None
    count: int
    size: int


class QuotaOut(Out):
    used: int  # bytes
    limit: int | None
    files: int
    max_files: int | None


class CapacityOut(Out):
    """Of the bucket, in bytes. ``growth_per_day`` is that of the last month; null until there are samples of two days."""

    free: int
    total: int
    level: Literal["ok", "warning", "full"]
    growth_per_day: int | None
    days_until_full: float | None


class ActivityOut(Out):
    file_id: UUID
    action: str
    at: datetime
    original_name: str | None


class StatsOut(Out):
    total_files: int
    total_size: int
    by_type: list[CountedTypeOut]
    by_folder: list[CountedFolderOut]
    by_status: dict[Status, int]
    deduplicated_bytes: int
    compressed_bytes_saved: int
    quota: QuotaOut
    capacity: CapacityOut | None
    recent_activity: list[ActivityOut]


class HitOut(Out):
    file: FileOut
    score: float
    highlights: dict[str, str | None]


class FacetValueOut(Out):
    value: str | int | None
    count: int


class SearchOut(PageOut):
    model_config = ConfigDict(json_schema_serialization_defaults_required=False)  # facets only on request

    items: list[HitOut]
    facets: dict[str, list[FacetValueOut]] = {}


class SuggestOut(Out):
    items: list[str]


class LoginOut(Out):
    owner_id: str
    role: Literal["user", "admin"]


class KeyOut(Out):
    id: UUID
    owner_id: str
    name: str
    role: Role
    scopes: list[Scope]
    folder_id: int | None = Field(description="Limited to this folder and what is below it")
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute")
    revoked_at: datetime | None


class NewKeyOut(KeyOut):
    """``key`` is null in the response to a repeated request: the gateway does not store it."""

    key: str | None


class KeyPageOut(PageOut):
    items: list[KeyOut]


class OwnerQuotaOut(Out):
    owner_id: str
    used_bytes: int
    used_files: int
    quota_bytes: int | None
    quota_files: int | None
    max_bytes: int | None
    max_files: int | None


class QuotaPageOut(PageOut):
    items: list[OwnerQuotaOut]


class JobOut(Out):
    """A job. ``file_id`` is the file that it processes, ``error`` why its last attempt failed."""

    id: int
    queue: str
    task: str
    owner_id: str | None
    file_id: str | None
    status: Literal["todo", "doing", "failed", "cancelled", "succeeded", "aborted"]
    attempts: int
    deaths: int = Field(description="Workers that died while running it")
    error: str | None
    request_id: str | None = Field(description="The request that led to it, as logs and audit events name it")
    actor: str | None = Field(description="Who made that request")
    enqueued_at: datetime | None
    started_at: datetime | None
    scheduled_at: datetime | None = Field(description="It does not run before this time")


class JobPageOut(PageOut):
    items: list[JobOut]
    counts: dict[str, dict[str, int]] = Field(description="By queue, then by status")


class AuditEventOut(Out):
    id: int
    at: datetime
    action: str
    outcome: str = Field(description="ok, or the code of the refusal")
    actor: str = Field(description="The owner of the credential; or anonymous, command, system")
    credential: str | None = Field(description="key, token, jwt or session")
    credential_id: str | None = Field(description="Of a key or token")
    address: str | None
    request_id: str | None
    owner_id: str | None = Field(description="Whose the file or target is")
    file_id: UUID | None
    target: str | None = Field(description="A folder, key, token, upload or job; of a refusal the route")
    details: dict[str, Any] | None


class AuditPageOut(PageOut):
    items: list[AuditEventOut]


class HealthOut(Out):
    status: Literal["ok"]


class ReadyOut(Out):
    model_config = ConfigDict(json_schema_serialization_defaults_required=False)  # checks for operators only

    status: Literal["ready"]
    checks: dict[str, bool | str] = {}


class RescanOut(Out):
    """A virus scan of all files; ``failed`` counts files that could not be scanned and kept their verdict."""

    id: int
    started_at: datetime
    finished_at: datetime | None
    scanned: int
    infected: int
    failed: int


class ScrubPassOut(Out):
    """A pass over all stored objects. ``requested``: as fast as ``SCRUB_RATE`` allows."""

    id: int
    requested: bool
    began_at: datetime
    objects: int
    read_objects: int
    read_bytes: int
    finished_at: datetime | None


class ScrubFindingOut(Out):
    """A damaged object: what should be there, and what is."""

    id: int
    object_key: str
    owner_id: str
    kind: Literal["missing", "changed", "swapped", "unreadable"]
    found_at: datetime
    expected_sha256: str
    expected_size: int
    expected_etag: str
    found_sha256: str | None
    found_size: int | None
    found_etag: str | None
    belongs_to: str | None = Field(description="The key of the object whose bytes these are")
    error: str | None
    repaired_at: datetime | None
    repaired_from: Literal["duplicate", "backup", "original"] | None
    repaired_key: str | None
    resolved_at: datetime | None


class ScrubOut(PageOut):
    items: list[ScrubFindingOut]
    days: int
    rate: int
    latest_pass: ScrubPassOut | None
    oldest_check: datetime | None
    open: dict[str, int] = Field(description="Open findings, by kind")
    suspected: int = Field(description="Objects that could not be read, and are tried again in a minute")


class BackupOut(Out):
    """A backup. It runs, or was killed, if it has no ``outcome``; ``incomplete``: objects were missing or damaged."""

    id: UUID
    place: str
    started_at: datetime
    ended_at: datetime | None
    outcome: Literal["complete", "incomplete", "failed"] | None
    snapshot_id: str | None
    taken_at: datetime | None
    files: int | None
    objects: int | None
    bytes: int | None
    sent_objects: int | None
    sent_bytes: int | None
    damaged: int | None
    error: str | None


class BackupsOut(Out):
    items: list[BackupOut]


class ReportOut(Out):
    """What the janitor did, or with ``dry_run`` would do."""

    dry_run: bool
    compared: Annotated[bool, Field(description="Whether all of the bucket was compared with the database")]
    requeued_jobs: int
    expired_uploads: int
    cleaned_uploads: int
    expired_files: Annotated[int, Field(description="Moved to the trash")]
    purged_files: Annotated[int, Field(description="Purged from the trash")]
    purged_objects: int
    retired_objects: int
    orphaned_objects: Annotated[int, Field(description="Without a row; deleted")]
    orphaned_bytes: int
    orphaned_multiparts: int
    protected_objects: Annotated[int, Field(description="Without a row, but kept")]
    protected_bytes: int
    protected_multiparts: int
    missing_objects: Annotated[int, Field(description="Rows whose object the bucket lacks, found now")]
    still_missing_objects: Annotated[int, Field(description="The same, found before")]
    missing_previews: int
    missing_public_copies: int
    returned_objects: Annotated[int, Field(description="Found again after they were missing")]
    forgotten_rows: int
    corrected_counters: int
    examples: Annotated[dict[str, list[str]], Field(description="The first keys or ids of each kind")]


# -- uploads ---------------------------------------------------------------------------------------------------------


UploadStatus = Literal["pending", "uploading", "completing", "done", "aborted", "expired"]


class PartUrlOut(Out):
    part_number: int
    url: str
    headers: Annotated[dict[str, str], Field(description="Send exactly these, and no other x-amz- header")]


class BegunUploadOut(Out):
    """``PUT``: send the bytes to ``url`` with ``headers``. ``multipart``: send each part to its own URL. Then complete it."""

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
    """What the bucket has; ``missing`` are ranges of part numbers, both ends included."""

    bytes_received: int
    parts: list[ReceivedPartOut]
    missing: list[Annotated[list[int], Field(min_length=2, max_length=2)]]


class UnfinishedUploadPageOut(PageOut):
    items: list[UnfinishedUploadOut]


class TokenEndpointsOut(Out):
    """Addresses that contain the token, for clients that can't send headers."""

    upload: str
    uploads: str
    tus: str
    companion: Annotated[str, Field(description="For @uppy/aws-s3, which adds /s3 itself")]


class UploadTokenOut(Out):
    id: UUID
    token: Annotated[str | None, Field(description="Shown once: null in the response to a repeated request")]
    expires_at: datetime
    endpoints: TokenEndpointsOut | None


class LiveUploadTokenOut(Out):
    """A valid upload token: its budget, and how much of it is used. The token itself is not shown."""

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
