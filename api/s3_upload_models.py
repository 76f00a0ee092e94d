"""Models of ``/s3``, with the plugin's names."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from api.fields import Int64, Text, TextList
from api.request_models import Query
from api.response_models import Out

Name = Annotated[Text, Field(max_length=4096)]


# -- what comes in -----------------------------------------------------------------------------------------------------


class Lenient(BaseModel):
    """Unknown members are ignored."""

    model_config = ConfigDict(extra="ignore")


class ParamsQuery(Query):
    filename: Annotated[Name, Field(description="Further fields as metadata[name]=value")] = ""
    type: Annotated[Text, Field(max_length=255)] | None = None


class NewMultipartBody(Lenient):
    filename: Name = ""
    type: Annotated[Text, Field(max_length=255)] | None = None
    metadata: dict[str, Any] | None = None


class KeyQuery(Query):
    key: Annotated[Text, Field(max_length=1024, description="The key of the created upload")]


class BatchQuery(KeyQuery):
    partNumbers: TextList


class CompletedPart(Lenient):
    PartNumber: Annotated[int, Field(ge=1, le=10_000)]
    ETag: Annotated[str, Field(pattern=r'^"?[\x21\x23-\x7e]{1,255}"?$', description="With or without quotes")]


class CompleteBody(Lenient):
    parts: Annotated[list[CompletedPart], Field(max_length=10_000)]


class SignBody(Lenient):
    """The plugin's request; an application may add filename, size and metadata."""

    method: Literal["GET", "PUT", "POST", "DELETE"]
    key: Annotated[Text, Field(min_length=1, max_length=4096)]
    uploadId: Annotated[str, Field(max_length=64)] | None = None
    partNumber: Annotated[int, Field(ge=1, le=10_000)] | None = None
    contentType: Annotated[Text, Field(max_length=255)] | None = None
    filename: Name | None = None
    size: Annotated[Int64, Field(ge=0, description="Bytes of the file; if given, lengths are signed")] | None = None
    metadata: dict[str, Any] | None = None


# -- what goes out -----------------------------------------------------------------------------------------------------


class ParamsOut(Out):
    method: Literal["POST"]
    url: str
    fields: dict[str, str]
    expires: int
    id: Annotated[str, Field(description="The gateway's id: GET /api/uploads/<id> shows when it is a file")]


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
    id: Annotated[str, Field(description="The file's id on the gateway")]


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
