"""Models of queries, forms and JSON bodies.

JSON bodies are strict: no "5" for 5, no unknown members. Queries and form fields are text, and unknown ones are ignored.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from api.fields import (
    MAX_INT32,
    MAX_INT64,
    Cursor,
    FolderId,
    FolderIdText,
    From,
    Instant,
    Int64,
    Limit,
    Owner,
    Positive64,
    ShortText,
    TagList,
    Tags,
    Text,
    TextList,
    Until,
    listed,
)
from core.placement import OnDuplicate, Visibility
from core.principal import Role, Scope

FileType = Literal["image", "video", "audio", "document", "text", "archive", "other"]
Status = Literal["processing", "ready", "rejected", "infected"]
StorageClass = Literal["standard", "archived"]
Disposition = Literal["attachment", "inline"]
Sort = Literal[
    "uploaded_at",
    "-uploaded_at",
    "original_name",
    "-original_name",
    "file_size",
    "-file_size",
    "mime_type",
    "-mime_type",
    "download_count",
    "-download_count",
    "last_accessed",
    "-last_accessed",
]


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    def given(self, name: str, default: Any) -> Any:
        """The member's value if the client sent it, else the default (UNSET): null is a value."""
        return getattr(self, name) if name in self.model_fields_set else default


class Query(BaseModel):
    model_config = ConfigDict(extra="ignore")


# -- queries -------------------------------------------------------------------------------------------------


class LoginQuery(Query):
    return_to: Annotated[str, Field(max_length=1_000, pattern=r"^/[!-\[\]-~]*$")] = "/"


class CallbackQuery(Query):
    code: Annotated[Text, Field(min_length=1, max_length=4_000)] | None = None
    state: Annotated[Text, Field(max_length=1_000)] = ""
    iss: Annotated[Text, Field(max_length=1_000)] | None = None


class PageQuery(Query):
    limit: Limit = 50
    cursor: Cursor | None = None


class OwnedPageQuery(PageQuery):
    owner: Owner | None = None


class OwnerQuery(Query):
    owner: Owner | None = None


class FileListQuery(OwnedPageQuery):
    file_type: Annotated[
        ShortText | None,
        Field(description="image, video, audio, document, text, archive, other; or a MIME type; or image/*"),
    ] = None
    folder: FolderIdText | Literal["root"] | None = None
    recursive: bool = False
    date_from: From | None = None
    date_to: Until | None = None
    min_size: Int64 | None = None
    max_size: Int64 | None = None
    tag: ShortText | None = None
    status: Status | None = None
    storage_class: StorageClass | None = None
    deleted: bool = False
    sort: Sort = "-uploaded_at"


class FileDetailsQuery(Query):
    verify: bool = False


class DownloadQuery(Query):
    mode: Literal["redirect", "proxy"] | None = None
    disposition: Disposition | None = None


class UrlQuery(Query):
    expires_in: Annotated[Positive64 | None, Field(description="Seconds, up to the configured maximum")] = None
    disposition: Disposition | None = None


class PreviewQuery(Query):
    type: Literal["thumbnail", "text", "page", "contents"] | None = None
    size: Annotated[
        Literal["128", "256", "512", "1024"], Field(description="The longest side of a thumbnail in pixels")
    ] = "256"
    page: Positive64 = 1
    retry: Annotated[bool, Field(description="Try again if it has failed before; for the owner only")] = False


class DeleteFileQuery(Query):
    permanent: bool = False


def _ids_or_folder(self: ArchiveQuery | ArchiveBody) -> Any:
    if (self.folder is None) == (not self.ids):
        raise ValueError("give either ids or folder")
    return self


class ArchiveQuery(Query):
    ids: TextList | None = None
    folder: FolderIdText | None = None

    _one_of_both = model_validator(mode="after")(_ids_or_folder)


class PlacementQuery(Query):
    """The placement of uploaded files: the query of a raw upload, and the fields of a form."""

    folder_id: FolderIdText | None = None
    visibility: Visibility = "private"
    tags: TagList = ()
    on_duplicate: OnDuplicate = "link"
    keep_location: bool = False


class JobListQuery(PageQuery):
    status: Literal["todo", "doing", "failed", "cancelled"] | None = None
    queue: ShortText | None = None
    task: ShortText | None = None
    owner: Owner | None = None


class ScrubQuery(PageQuery):
    resolved: Annotated[bool, Field(description="Also findings that were repaired or resolved")] = False


class AuditQuery(PageQuery):
    actor: Annotated[ShortText | None, Field(description="Whose credential it was; or anonymous, command, system")] = (
        None
    )
    owner: Annotated[ShortText | None, Field(description="Whose files, keys and so on it concerned")] = None
    action: ShortText | None = None
    outcome: Annotated[ShortText | None, Field(description="ok, or an error code")] = None
    file_id: UUID | None = None
    target: Annotated[
        ShortText | None, Field(description="A folder, key, token, upload or job; of a refusal the route")
    ] = None
    request_id: ShortText | None = None
    date_from: From | None = None
    date_to: Until | None = None


class FolderListQuery(OwnedPageQuery):
    flat: bool = False


class DeleteFolderQuery(Query):
    recursive: bool = False


class SearchQuery(OwnedPageQuery):
    query: str = ""  # any string is a valid query (T81)
    file_type: ShortText | None = None
    folder: FolderIdText | Literal["root"] | None = None
    date_from: From | None = None
    date_to: Until | None = None
    facets: Annotated[tuple[Literal["file_type", "folder", "owner", "month"], ...], BeforeValidator(listed)] = ()


class SuggestQuery(Query):
    prefix: str = ""
    limit: Limit = 10


# -- bodies --------------------------------------------------------------------------------------------------


class FileChangeBody(Body):
    original_name: Annotated[str, Field(max_length=4096)] = ""
    visibility: Visibility = "private"
    tags: Tags = ()
    expires_at: Instant | None = None
    keep_location: Annotated[bool, Field(description="Keep the location in pictures that are public")] = False


class MoveBody(Body):
    target_folder_id: FolderId | None


class CopyBody(Body):
    target_folder_id: FolderId | None = None
    original_name: Annotated[str, Field(max_length=4096)] | None = None


class BatchBody(Body):
    action: Literal["delete", "restore", "move", "tag", "purge", "archive"]
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


class ArchiveBody(Body):
    ids: Annotated[tuple[Annotated[Text, Field(max_length=64)], ...], Field(max_length=10_000)] | None = None
    folder: FolderId | None = None

    _one_of_both = model_validator(mode="after")(_ids_or_folder)


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
    role: Annotated[Role, Field(description="admin: the files of all owners")] = "user"
    scopes: Annotated[
        tuple[Scope, ...] | None, Field(min_length=1, description="What it may do; by default all that its role allows")
    ] = None
    folder_id: Annotated[
        FolderId | None, Field(description="Only this folder of the owner and what is below it; role user only")
    ] = None
    expires_at: Instant | None = None


class LoginBody(Body):
    key: Annotated[str, Field(min_length=1, max_length=8_000, description="An API key or a JWT")] | None = None


class QuotaBody(Body):
    max_bytes: Annotated[int, Field(ge=0, le=MAX_INT64)] | None = None
    max_files: Annotated[int, Field(ge=0, le=MAX_INT64)] | None = None


class JanitorBody(Body):
    dry_run: bool = True
    delete_protected: bool = False


# -- uploads ---------------------------------------------------------------------------------------------------------

MAX_METADATA = 64 * 1024  # bytes of JSON
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # after an even number of backslashes


def _metadata(value: dict[str, Any]) -> dict[str, Any]:
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
    except (ValueError, RecursionError):
        raise ValueError("contains what JSON can't represent") from None
    if size > MAX_METADATA:
        raise ValueError(f"must be at most {MAX_METADATA} bytes of JSON")
    if _NUL.search(text):
        raise ValueError("must not contain NUL")
    return value


Sha256 = Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$"), AfterValidator(str.lower)]
Size = Annotated[int, Field(ge=0, le=MAX_INT64, description="Bytes")]
SessionId = Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")]
Metadata = Annotated[dict[str, Any], AfterValidator(_metadata)]
PartNumber = Annotated[int, Field(ge=1, le=10_000)]


class MetadataFields(PlacementQuery):
    """An upload's metadata: what it says about the placement, and the rest."""

    metadata: Metadata


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
    visibility: Annotated[Visibility, Field(description="The widest visibility that its uploads may have")] = "private"
    expires_in: Annotated[int, Field(ge=1, le=MAX_INT64, description="Seconds, up to a day")] = 3600
