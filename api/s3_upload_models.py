"""The shapes of ``/s3``: the plugin's, with its spelling of the names."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from api.fields import Int64, Text, Words
from api.request_models import Query
from api.response_models import Out

Name = Annotated[Text, Field(max_length=4096)]


# -- what comes in -----------------------------------------------------------------------------------------------------


class Lenient(BaseModel):
    """Members that we don't know are the plugin's business."""

    model_config = ConfigDict(extra="ignore")


class ParamsQuery(Query):
    filename: Annotated[Name, Field(description="Further fields as metadata[name]=value")] = ""
    type: Annotated[Text, Field(max_length=255)] | None = None


class NewMultipartBody(Lenient):
    filename: Name = ""
    type: Annotated[Text, Field(max_length=255)] | None = None
    metadata: dict[str, Any] | None = None


class KeyQuery(Query):
    key: Annotated[Text, Field(max_length=1024, description="As it was given when the upload was created")]


class BatchQuery(KeyQuery):
    partNumbers: Words


class CompletedPart(Lenient):
    PartNumber: Annotated[int, Field(ge=1, le=10_000)]
    ETag: Annotated[str, Field(pattern=r'^"?[\x21\x23-\x7e]{1,255}"?$', description="With or without its quotes")]


class CompleteBody(Lenient):
    parts: Annotated[list[CompletedPart], Field(max_length=10_000)]


class SignBody(Lenient):
    """The plugin's request, to which an application may add what the plugin does not tell."""

    method: Literal["GET", "PUT", "POST", "DELETE"]
    key: Annotated[Text, Field(min_length=1, max_length=4096)]
    uploadId: Annotated[str, Field(max_length=64)] | None = None
    partNumber: Annotated[int, Field(ge=1, le=10_000)] | None = None
    contentType: Annotated[Text, Field(max_length=255)] | None = None
    filename: Name | None = None
    size: Annotated[Int64, Field(ge=0, description="Bytes of the file; then lengths are signed")] | None = None
    metadata: dict[str, Any] | None = None


# -- what goes out -----------------------------------------------------------------------------------------------------


class ParamsOut(Out):
    method: Literal["POST"]
    url: str
    fields: dict[str, str]
    expires: int
    id: Annotated[str, Field(description="Ours: GET /api/uploads/<id> tells when it has become a file")]


class MultipartOut(Out):
    key: str
    uploadId: str
    bucket: str


class PartOut(Out):
    PartNumber: int
    ETag: str
    Size: int
    LastModified: datetime


class PartsOut(RootModel[list[PartOut]]):
    pass


class SignedPartOut(Out):
    url: str
    expires: int


class SignedPartsOut(Out):
    presignedUrls: dict[str, str]


class CompletedOut(Out):
    location: str
    key: str
    bucket: str
    id: Annotated[str, Field(description="Ours: the file's")]


class NothingOut(Out):
    pass


class CredentialsOut(Out):
    credentials: dict[str, str]
    bucket: str
    region: str


class SignedOut(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: str
    key: str | None = None
    headers: dict[str, str] | None = None
    fields: dict[str, str] | None = None
    id: str
