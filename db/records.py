"""The records: what rows look like to services and to api/, which may import nothing else of db."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from core.placement import Placement, Visibility
from core.principal import UploadBudget


@dataclass(frozen=True, slots=True)
class KeyRecord:
    id: UUID
    owner_id: str
    name: str
    role: str
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class UploadTokenRecord:
    id: UUID
    owner_id: str
    folder_id: int | None
    max_files: int | None
    max_size: int | None  # bytes of one file
    max_total_size: int | None  # bytes of all files together
    allowed_types: list[str]
    visibility: Visibility  # the widest that its uploads may have
    files_used: int
    bytes_used: int
    created_at: datetime
    expires_at: datetime
    folder_gone: bool
    live: bool

    @property
    def budget(self) -> UploadBudget:
        return UploadBudget(
            self.id, self.folder_id, self.folder_gone, self.max_size, tuple(self.allowed_types), self.visibility
        )


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    mine: bool  # this request is the first and holds the key now
    request_digest: bytes
    response_status: int | None  # None while the first request is running
    response: Any
    headers: dict[str, str]
    created_at: datetime  # names the claim
    lease_left: float  # seconds


@dataclass(frozen=True, slots=True)
class UploadRecord:
    id: UUID
    owner_id: str
    protocol: str
    status: str
    object_key: str
    incoming_key: str | None
    multipart_id: str | None
    original_name: str
    content_type: str
    size: int | None
    reserved: int
    part_size: int | None
    folder_id: int | None
    visibility: str
    tags: list[str]
    on_duplicate: str
    keep_location: bool
    metadata: dict[str, Any]
    sha256: str | None
    session_id: str | None
    token_id: UUID | None
    file_id: UUID | None
    problem: dict[str, Any] | None
    cleaned: bool
    created_at: datetime
    updated_at: datetime
    expires_at: datetime
    overdue: bool
    tries: int  # of the sweep, that failed for what the upload is
    in_folder: bool  # begun for a folder; where folder_id is None, it was deleted since

    @property
    def placement(self) -> Placement:
        return Placement(
            folder_id=self.folder_id,
            visibility=self.visibility,  # type: ignore[arg-type]
            tags=tuple(self.tags),
            on_duplicate=self.on_duplicate,  # type: ignore[arg-type]
            metadata=self.metadata,
            keep_location=self.keep_location,
        )

    def begun_as(self, object_key: str, multipart_id: str | None, content_type: str) -> UploadRecord:
        return replace(self, object_key=object_key, multipart_id=multipart_id, content_type=content_type)

    def reserving(self, reserved: int) -> UploadRecord:
        return replace(self, reserved=reserved)


@dataclass(frozen=True, slots=True)
class ResumableRecord:
    upload_id: UUID
    received: int  # bytes that are durable; the offset
    tail_key: str | None
    tail_size: int  # bytes of them that lie in the tail, behind the parts
    next_part: int
    token: int
    sealed: bool  # every byte is there, in parts or as one object, and none in a tail
    deferred: bool
    metadata: str | None
    partial: bool
    concat: str | None
    sources: list[UUID] | None
    held: bool  # somebody writes, or did so seconds ago
    asked_for: bool

    @property
    def in_parts(self) -> int:
        return self.received - self.tail_size


@dataclass(frozen=True, slots=True)
class PartRecord:
    number: int
    size: int  # bytes
    etag: str
    crc32: str | None  # base64, as S3's header carries it


@dataclass(frozen=True, slots=True)
class SessionRecord:
    session_id: str
    files_uploaded: int
    total_size: int  # bytes
    started_at: datetime
    completed_at: datetime | None


@dataclass(frozen=True, slots=True)
class FileRecord:
    id: UUID
    owner_id: str
    original_name: str
    stored_name: str
    file_path: str  # the object key
    mime_type: str
    file_type: str
    file_size: int  # bytes
    file_hash: str | None  # SHA-256 in hex; None until the gateway has read the bytes
    folder_id: int | None
    status: str
    visibility: str
    tags: list[str]
    metadata: dict[str, Any]
    problem: dict[str, Any] | None
    uploaded_at: datetime
    last_accessed: datetime | None
    download_count: int
    is_deleted: bool
    deleted_at: datetime | None
    expires_at: datetime | None
    version: int
    storage_class: str
    in_bucket: bool  # whether the last look into the bucket found the object
    encoding: str | None  # zstd where the object is stored compressed; services/objects/object_reader.py reads it
    stored_size: int | None  # bytes in the bucket, where it is encoded
    scanned: bool  # whether the scanner has said anything of the object
    etag: str  # the stored object's, as the bucket told it
    checksum_state: str  # verified, unverified, or mismatch where the object is known to hold other bytes
    expired: bool  # by the database's clock
    keep_location: bool
    location_state: str | None  # of a picture's place: none, present, removed, unremovable; None: not looked at yet
    public_key: str | None  # of the copy without the place, where there is one, its SHA-256 and ETag
    public_sha256: str | None
    public_etag: str | None

    @property
    def intact(self) -> bool:
        """Whether nothing is known to be wrong with the stored bytes."""
        return self.in_bucket and self.checksum_state != "mismatch"


class FolderRecord(NamedTuple):  # made in a third of a dataclass's time, and a tree has 10,000
    id: int
    owner_id: str
    name: str
    description: str
    parent_id: int | None
    created_at: datetime
    updated_at: datetime
    path: str  # /a/b
    file_count: int  # directly inside; the trash counts nowhere
    total_file_count: int  # with all below
    total_size: int  # bytes, with all below


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    object_key: str
    owner_id: str
    size: int
    sha256: str | None
    etag: str
    content_type: str
    storage_class: str
    status: str
    in_bucket: bool
    checksum_state: str
    checked_at: datetime | None
    created_at: datetime
    stored_size: int  # bytes in the bucket
    public_key: str | None  # of the copy for the public


@dataclass(frozen=True, slots=True)
class PreviewRecord:
    object_key: str  # of the object shown, not of the preview
    preview_type: str
    variant: int  # the box of a thumbnail in pixels, or a page
    preview_path: str  # the preview's own object key
    mime_type: str
    width: int | None
    height: int | None
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class EventRecord:
    id: int
    file_id: UUID
    action: str
    actor: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RescanRecord:
    id: int
    scanned_with: str | None
    after_key: str
    scanned: int
    infected: int
    failed: int
    started_at: datetime
    updated_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class JobRecord:
    id: int
    queue: str
    task: str
    owner_id: str | None
    arguments: dict[str, Any]
    status: str
    attempts: int
    deaths: int
    error: str | None
    enqueued_at: datetime | None
    started_at: datetime | None
    scheduled_at: datetime | None  # not before then


@dataclass(frozen=True, slots=True)
class QueueRecord:
    queue: str
    waiting: int  # due, and not begun
    scheduled: int  # to be begun later: a retry or a delay
    running: int
    failed: int
    oldest_seconds: float  # since the oldest waiting job was enqueued; 0 where none waits
