"""The contract's shapes. Input models check what clients send, output models describe what they get.

JSON bodies are strict (no "5" for 5, no unknown members); queries are text and therefore lax, and ignore what they don't
know. Output models are not run over each answer: the tests check every response they see against the document that is
written from these models, and ``extra="forbid"`` makes an undeclared member fail there.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from api.values import (
    Cursor, FolderId, FolderIdText, From, Int64, Limit, Owner, ShortText, Tags, TagWords, Text, Until, Words,
)
from core.placement import OnDuplicate, Visibility

FileType = Literal["image", "video", "audio", "document", "text", "archive", "other"]
Status = Literal["processing", "ready", "rejected", "infected"]
Disposition = Literal["attachment", "inline"]
Sort = Literal[
    "uploaded_at", "-uploaded_at", "original_name", "-original_name", "file_size", "-file_size", "mime_type", "-mime_type",
    "download_count", "-download_count", "last_accessed", "-last_accessed",
]


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    def given(self, name: str, default: Any) -> Any:
        """The member's value where the client named it, else the default (UNSET): null is a value."""
        return getattr(self, name) if name in self.model_fields_set else default


class Query(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Out(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_serialization_defaults_required=True)


# -- queries ---------------------------------------------------------------------------------------------------------------

class PageQuery(Query):
    limit: Limit = 50
    cursor: Cursor | None = None


class OwnedPageQuery(PageQuery):
    owner: Owner | None = None


class OwnerQuery(Query):
    owner: Owner | None = None


class FileListQuery(OwnedPageQuery):
    file_type: Annotated[ShortText | None, Field(
        description="image, video, audio, document, text, archive, other; or a MIME type; or image/*")] = None
    folder: FolderIdText | Literal["root"] | None = None
    recursive: bool = False
    date_from: From | None = None
    date_to: Until | None = None
    min_size: Int64 | None = None
    max_size: Int64 | None = None
    tag: ShortText | None = None
    status: Status | None = None
    deleted: bool = False
    sort: Sort = "-uploaded_at"


class FileDetailsQuery(Query):
    verify: bool = False


class DownloadQuery(Query):
    mode: Literal["redirect", "proxy"] | None = None
    disposition: Disposition | None = None


class UrlQuery(Query):
    expires_in: Annotated[Int64 | None, Field(ge=1, description="Seconds; more than the maximum means the maximum")] = None
    disposition: Disposition | None = None


class PreviewQuery(Query):
    type: Literal["thumbnail", "text", "page", "contents"] | None = None
    size: Annotated[Literal["128", "256", "512", "1024"], Field(description="The box of a thumbnail in pixels")] = "256"
    page: Annotated[Int64, Field(ge=1)] = 1


class DeleteFileQuery(Query):
    permanent: bool = False


class ArchiveQuery(Query):
    ids: Words | None = None
    folder: FolderIdText | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.folder is None) == (not self.ids):
            raise ValueError("give either ids or folder")
        return self


class PlacementQuery(Query):
    """Where uploaded files go: the query of a raw upload, and the fields of a form."""

    folder_id: FolderIdText | None = None
    visibility: Visibility = "private"
    tags: TagWords = ()
    on_duplicate: OnDuplicate = "link"


class FolderListQuery(OwnedPageQuery):
    flat: bool = False


class DeleteFolderQuery(Query):
    recursive: bool = False


class SearchQuery(OwnedPageQuery):
    query: str = ""                         # any string is a valid query (THREATS T81)
    file_type: ShortText | None = None
    folder: FolderIdText | Literal["root"] | None = None
    date_from: From | None = None
    date_to: Until | None = None
    facets: Annotated[Words, Field(description="Of file_type, folder, owner, month")] = ()


class SuggestQuery(Query):
    prefix: str = ""
    limit: Limit = 10


# -- bodies ----------------------------------------------------------------------------------------------------------------

class FileChangeBody(Body):
    original_name: Annotated[str, Field(max_length=4096)] = ""
    visibility: Visibility = "private"
    tags: Tags = ()
    expires_at: AwareDatetime | None = None


class MoveBody(Body):
    target_folder_id: FolderId | None


class CopyBody(Body):
    target_folder_id: FolderId | None = None
    original_name: Annotated[str, Field(max_length=4096)] | None = None


class BatchBody(Body):
    action: Literal["delete", "restore", "move", "tag", "purge"]
    ids: Annotated[tuple[Annotated[Text, Field(max_length=64)], ...], Field(max_length=1000)]
    target_folder_id: FolderId | None = None
    add: Tags = ()
    remove: Tags = ()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.action == "move" and "target_folder_id" not in self.model_fields_set:
            raise ValueError("move needs target_folder_id; null is the root")
        if self.action == "tag" and not (self.add or self.remove):
            raise ValueError("tag needs add or remove")
        return self


class FolderBody(Body):
    name: Annotated[str, Field(max_length=4096)]
    description: Annotated[Text, Field(max_length=4000)] = ""
    parent_folder_id: FolderId | None = None


class FolderChangeBody(Body):
    name: Annotated[str, Field(max_length=4096)] = ""
    description: Annotated[Text, Field(max_length=4000)] = ""
    parent_folder_id: FolderId | None = None


class KeyBody(Body):
    owner_id: Annotated[ShortText, Field(min_length=1)]
    name: ShortText = ""
    role: Literal["user", "admin"] = "user"


class JanitorBody(Body):
    dry_run: bool = True


# -- answers ---------------------------------------------------------------------------------------------------------------

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
    """RFC 9457. Clients switch on ``code``."""

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


class FileLinks(Out):
    self: str
    download: str
    preview: str | None


class FileCore(Out):
    id: UUID
    original_name: str
    stored_name: str
    mime_type: str
    file_size: Annotated[int, Field(ge=0)]
    file_hash: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    folder_id: int | None
    status: Status
    visibility: Visibility
    tags: list[str]
    storage_class: Literal["standard", "archived"]
    uploaded_at: datetime
    last_accessed: datetime | None
    download_count: Annotated[int, Field(ge=0)]
    is_deleted: bool
    deleted_at: datetime | None
    expires_at: datetime | None
    problem: Reason | None
    metadata: dict[str, Any]
    previews: list[PreviewOut]
    links: FileLinks


class FileOut(FileCore):
    """A file, as its owner sees it."""

    owner_id: str
    file_path: str


class PublicFileOut(FileCore):
    """A public file, as everybody sees it: without its owner, its place in the bucket, and EXIF."""


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
    files: list[FileOut]
    rejected: list[RejectedFile]
    session: SessionOut


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
    used: int
    limit: int | None


class CapacityOut(Out):
    free: int
    total: int


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
    items: list[HitOut]
    facets: dict[str, list[FacetValueOut]] | None = None


class SuggestOut(Out):
    items: list[str]


class KeyOut(Out):
    id: UUID
    owner_id: str
    name: str
    role: Literal["user", "admin"]
    created_at: datetime
    revoked_at: datetime | None


class NewKeyOut(KeyOut):
    key: Annotated[str | None, Field(
        description="Shown once: null where an Idempotency-Key brings the answer a second time, since it is not kept")]


class KeyPageOut(PageOut):
    items: list[KeyOut]


class HealthOut(Out):
    status: Literal["ok"]


class ReadyOut(Out):
    status: Literal["ready"]
    checks: dict[str, bool | str]


class ReportOut(Out):
    """What the janitor found and did, or with ``dry_run`` would do."""

    dry_run: bool
    expired_uploads: int
    cleaned_uploads: int
    purged_objects: int
    orphaned_objects: int
    orphaned_bytes: int
    orphaned_multiparts: int
    forgotten_rows: int
