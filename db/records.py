"""Rows as services and api/ see them. api/ imports nothing else from db.

Records of which lists are read are named tuples, which take a tenth of the time of frozen dataclasses; a statement selects
their fields in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from core.placement import Placement, Visibility
from core.principal import UploadBudget


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An API key, without the key itself."""

    id: UUID
    owner_id: str
    name: str
    role: str
    created_at: datetime
    revoked_at: datetime | None
    scopes: list[str] = field(default_factory=list)
    folder_id: int | None = None  # only this folder and what is below it
    expires_at: datetime | None = None
    last_used_at: datetime | None = None  # to the minute


@dataclass(frozen=True, slots=True)
class LoginSessionRecord:
    """A session of somebody who signed in with a browser."""

    id: UUID
    owner_id: str
    role: str
    scopes: list[str]
    max_bytes: int | None
    max_files: int | None
    expires_at: datetime
    key_id: UUID | None  # None: signed in at the identity provider
    key_digest: bytes | None
    unseen: bool  # not used within the last minute


@dataclass(frozen=True, slots=True)
class UploadTokenRecord:
    """An upload token, without the token itself."""

    id: UUID
    owner_id: str
    folder_id: int | None
    max_files: int | None
    max_size: int | None  # bytes of one file
    max_total_size: int | None  # bytes of all files together
    allowed_types: list[str]
    visibility: Visibility  # the widest that an upload may have
    files_used: int
    bytes_used: int
    created_at: datetime
    expires_at: datetime
    folder_gone: bool
    live: bool
    key_folder_id: int | None = None  # that the key which made it is limited to

    @property
    def budget(self) -> UploadBudget:
        """What its uploads may do."""
        return UploadBudget(
            self.id, self.folder_id, self.folder_gone, self.max_size, tuple(self.allowed_types), self.visibility
        )


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    """A request with an Idempotency-Key."""

    mine: bool  # this request is the first and holds the key now
    request_digest: bytes
    outcome: Any  # None while the first request is running
    created_at: datetime  # names the claim
    lease_left: float  # seconds


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """A row of uploads."""

    id: UUID
    owner_id: str
    protocol: str
    status: str
    object_key: str
    original_name: str
    content_type: str
    size: int | None
    reserved: int
    folder_id: int | None
    visibility: str
    tags: list[str]
    on_duplicate: str
    keep_location: bool
    metadata: dict[str, Any]
    session_id: str | None
    created_at: datetime
    updated_at: datetime
    expires_at: datetime
    incoming_key: str | None = None
    multipart_id: str | None = None
    part_size: int | None = None
    sha256: str | None = None
    token_id: UUID | None = None
    file_id: UUID | None = None
    problem: dict[str, Any] | None = None
    cleaned: bool = False
    overdue: bool = False
    folder_gone: bool = False  # its folder was deleted; folder_id is where the file goes now
    attempts: int = 0  # to complete it without its client, that failed for a reason in the upload itself

    @property
    def placement(self) -> Placement:
        """Where the file goes."""
        return Placement(
            folder_id=self.folder_id,
            visibility=self.visibility,  # type: ignore[arg-type]
            tags=tuple(self.tags),
            on_duplicate=self.on_duplicate,  # type: ignore[arg-type]
            metadata=self.metadata,
            keep_location=self.keep_location,
        )

    @property
    def open(self) -> bool:
        """Whether it still takes bytes."""
        return self.status in ("pending", "uploading")


@dataclass(frozen=True, slots=True)
class ResumableRecord:
    """A row of resumable_uploads."""

    upload_id: UUID
    received: int  # bytes that are durable: the offset
    tail_key: str | None
    tail_size: int  # bytes of them in the tail, after the parts
    next_part: int
    fence: int  # number of the latest lease
    bytes_complete: bool  # every byte is stored, in parts or as one object, and none in a tail
    metadata_header: str | None  # Upload-Metadata as it was sent
    partial: bool  # tus concatenation: not a file of its own
    concat_header: str | None  # Upload-Concat as it was sent
    sources: list[UUID] | None  # of a final upload: its partial uploads, in order
    leased: bool  # somebody writes, or did seconds ago
    handover_requested: bool

    @property
    def in_parts(self) -> int:
        """Bytes in parts."""
        return self.received - self.tail_size


@dataclass(frozen=True, slots=True)
class UploadState:
    """A resumable upload: both of its rows."""

    upload: UploadRecord
    record: ResumableRecord

    @property
    def offset(self) -> int:
        """Bytes that are durable."""
        return self.record.received

    @property
    def complete(self) -> bool:
        """Whether every byte is stored."""
        return self.record.bytes_complete

    @property
    def file_id(self) -> UUID | None:
        """The file that it became."""
        return self.upload.file_id


@dataclass(frozen=True, slots=True)
class PartRecord:
    """A recorded part of a resumable upload."""

    number: int
    size: int  # bytes
    etag: str
    crc32: str | None  # base64, as S3's header carries it


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A row of upload_sessions."""

    session_id: str
    files_uploaded: int
    total_size: int  # bytes
    started_at: datetime
    completed_at: datetime | None


class ReadingKey(NamedTuple):
    """What db/readings.py keeps apart: an object, and what a parser sees of a file's type and name."""

    object_key: str
    read_as: str


class FileRecord(NamedTuple):
    """A file with what its object tells of the bytes: the columns of ``files.COLUMNS``, in their order."""

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
    in_bucket: bool  # whether the last check found the object in the bucket
    encoding: str | None  # zstd if the object is stored compressed (services/objects/object_reader.py)
    stored_size: int | None  # bytes in the bucket, if compressed
    scanned: bool  # whether the object has a scan result
    etag: str  # the object's in the bucket
    checksum_state: str  # verified, unverified, or mismatch if the object is known to hold other bytes
    expired: bool  # by the database's clock
    keep_location: bool
    location_state: str | None  # see migration 0015; None: not looked at yet
    public_key: str | None  # key, SHA-256 and ETag of the copy without the location
    public_sha256: str | None
    public_etag: str | None
    read_as: str = ""  # what a parser sees of type and name; files of equal bytes share previews and text by it

    @property
    def reading(self) -> ReadingKey:
        """The reading that its metadata, previews and text belong to."""
        return ReadingKey(self.file_path, self.read_as)

    @property
    def intact(self) -> bool:
        """Whether the stored bytes are not known to be missing or damaged."""
        return self.in_bucket and self.checksum_state != "mismatch"


class FolderRecord(NamedTuple):
    """A folder with its path and totals."""

    id: int
    owner_id: str
    name: str
    description: str
    parent_id: int | None
    created_at: datetime
    updated_at: datetime
    path: str  # /a/b
    file_count: int  # directly inside, without the trash
    total_file_count: int  # including all folders below
    total_size: int  # bytes, including all folders below


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """A stored object: the bytes of one or more files of an owner."""

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
    public_key: str | None  # of the public copy


class PreviewRecord(NamedTuple):
    """A preview of the files of equal bytes that are read alike."""

    object_key: str  # of the original
    preview_type: str
    variant: int  # size of a thumbnail in pixels, or a page
    preview_path: str  # the preview's own object key
    mime_type: str
    width: int | None
    height: int | None
    size: int  # bytes
    read_as: str = ""  # of the original

    @property
    def reading(self) -> ReadingKey:
        """What it was made of."""
        return ReadingKey(self.object_key, self.read_as)


@dataclass(frozen=True, slots=True)
class FileView:
    """A file with its previews."""

    file: FileRecord
    previews: list[PreviewRecord]


class EventRecord(NamedTuple):
    """An event in the history of a file."""

    id: int
    file_id: UUID
    action: str
    actor: str
    at: datetime


class AuditRecord(NamedTuple):
    """An audit event: the columns of ``audit_events``."""

    id: int
    at: datetime
    action: str
    outcome: str  # ok, or the code of the error
    actor: str
    credential: str | None
    credential_id: str | None
    address: str | None
    request_id: str | None
    owner_id: str | None  # whose the file or target is
    file_id: UUID | None
    target: str | None
    details: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class FileDetailsRecord:
    """A file with all that is shown of it."""

    file: FileRecord
    previews: list[PreviewRecord]
    history: list[EventRecord]  # the newest events
    preview_count: int
    first_access: datetime | None  # download or preview
    last_access: datetime | None
    same_size: bool  # the object's and the file's
    checked_at: datetime | None

    @property
    def statistics(self) -> dict[str, Any]:
        """How often and when the file was accessed."""
        return {
            "downloads": self.file.download_count,
            "previews": self.preview_count,
            "first_access": self.first_access,
            "last_access": self.last_access,
        }

    @property
    def integrity(self) -> dict[str, Any]:
        """What is known of the stored bytes."""
        return {
            "exists": self.file.in_bucket,
            "size_matches": self.file.in_bucket and self.same_size,
            "checksum": self.file.checksum_state,
            "checked_at": self.checked_at,
        }


@dataclass(frozen=True, slots=True)
class RescanRecord:
    """A scan of all objects, and how far it has come."""

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
class ScrubPassRecord:
    """A pass of the scrub over all objects, and how far it has come."""

    id: int
    requested: bool  # by an admin or a command: as fast as the rate allows
    began_at: datetime
    objects: int  # to be read
    read_objects: int
    read_bytes: int  # in the bucket
    swept_at: datetime | None  # when each object had had its turn
    finished_at: datetime | None


class ScrubObject(NamedTuple):
    """An object whose check has begun: what its row says, and what the row said before the mark."""

    object_key: str
    owner_id: str
    size: int
    sha256: str
    etag: str
    content_type: str
    encoding: str | None
    stored_size: int
    public_key: str | None
    public_sha256: str | None
    public_etag: str | None
    began_at: datetime  # the mark
    checked_before: datetime | None
    state_before: str


@dataclass(frozen=True, slots=True)
class ScrubFindingRecord:
    """What the scrub found out about a damaged object. It is open until ``resolved_at``."""

    id: int
    object_key: str
    owner_id: str
    kind: str  # missing, changed, swapped or unreadable
    found_at: datetime
    expected_sha256: str
    expected_size: int  # bytes in the bucket
    expected_etag: str
    found_sha256: str | None
    found_size: int | None
    found_etag: str | None
    belongs_to: str | None  # the key of the object whose bytes these are
    error: str | None
    repaired_at: datetime | None
    repaired_from: str | None  # duplicate, backup or original
    repaired_key: str | None
    resolved_at: datetime | None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job in the queue."""

    id: int
    queue: str
    task: str
    owner_id: str | None
    arguments: dict[str, Any]
    status: str
    attempts: int
    deaths: int
    error: str | None
    request_id: str | None  # of the request that led to it
    actor: str | None  # who made that request
    enqueued_at: datetime | None
    started_at: datetime | None
    scheduled_at: datetime | None  # not before then


@dataclass(frozen=True, slots=True)
class QueueRecord:
    """The number of jobs in a queue."""

    queue: str
    waiting: int  # due, not started
    scheduled: int  # due later: a retry or a delay
    running: int
    failed: int
    oldest_seconds: float  # since the oldest waiting job was enqueued; 0 if none waits
