"""The backend for MinIO and other S3 servers on minio-py, which uses less CPU than boto3.

minio-py has no public calls for multipart uploads. This module uses its private ones, so ``minio==7.2.*`` is pinned.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from itertools import islice
from typing import Literal, cast
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

from minio import Minio
from minio.datatypes import ListMultipartUploadsResult, ListPartsResult, Object
from minio.error import InvalidResponseError, S3Error, ServerError
from minio.helpers import DictType
from urllib3.exceptions import HTTPError

from storage_backends import Observer, StorageSettings, faults
from storage_backends.base import (
    Copies,
    ManagesBucket,
    MultipartRef,
    ObjectInfo,
    ObjectNotFound,
    OutcomeUnknown,
    Part,
    PresignsParts,
    StorageError,
    UploadNotFound,
)
from storage_backends.signed_http import PerProcess, SignedHttp, network_error
from storage_backends.transfers import SignedStore

LIST_PAGE = 1_000  # keys in one response; S3's limit


class MinioStore(SignedStore):
    """The bucket through minio-py."""

    def __init__(self, settings: StorageSettings, *, observe: Observer | None = None):
        super().__init__(settings, observe=observe)
        self._client = PerProcess(lambda: _new_client(settings, self._http))

    def _translate(self, operation: str, error: Exception) -> StorageError | None:
        if isinstance(error, S3Error):
            request_id = error.request_id or error.response.headers.get("x-amz-request-id")
            return faults.translate(operation, error.response.status, error.code, error.message, request_id)
        if isinstance(error, ServerError):
            return faults.translate(operation, error.status_code, None, str(error), None)
        if isinstance(error, InvalidResponseError):
            return faults.translate(operation, error._code, None, error._body, None)
        if isinstance(error, HTTPError):
            return network_error(operation, error)
        if isinstance(error, ParseError):
            return OutcomeUnknown(f"{operation}: the response is not XML: {error}")
        return None

    def delete(self, key: str) -> None:
        with suppress(ObjectNotFound):
            self._call("delete", lambda: self._client().remove_object(self._bucket, key))

    def list_objects(self, prefix: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        # The SDK's iterator ends with an error. So each page is a new one that starts after the last key.
        def page() -> list[Object]:
            found = self._client().list_objects(self._bucket, prefix, recursive=True, start_after=after)
            return list(islice(found, LIST_PAGE))

        while True:
            items = self._call("list_objects", page)
            for item in items:
                after = cast(str, item.object_name)
                yield ObjectInfo(after, cast(int, item.size), item.etag or "", None, cast(datetime, item.last_modified))
            if len(items) < LIST_PAGE:
                return

    def create_multipart(
        self, key: str, *, content_type: str, checksums: Literal["sha256", "crc32"] | None = None
    ) -> MultipartRef:
        headers: DictType = {"Content-Type": content_type}
        if checksums:
            headers["x-amz-checksum-algorithm"] = checksums.upper()
        upload_id = self._call(
            "create_multipart",
            lambda: self._client()._create_multipart_upload(self._bucket, key, headers),
            repeatable=False,
        )
        return MultipartRef(key, upload_id)

    def list_parts(self, ref: MultipartRef) -> Iterator[Part]:
        marker: str | None = None

        def next_page() -> ListPartsResult:
            return self._client()._list_parts(self._bucket, ref.key, ref.upload_id, part_number_marker=marker)

        while True:
            page = self._call("list_parts", next_page)
            for item in page.parts:
                yield Part(item.part_number, item.size or 0, item.etag)
            if not page.is_truncated:
                return
            marker = page.next_part_number_marker

    def abort_multipart(self, ref: MultipartRef) -> None:
        with suppress(UploadNotFound):
            self._call(
                "abort_multipart", lambda: self._client()._abort_multipart_upload(self._bucket, ref.key, ref.upload_id)
            )

    def list_multiparts(self, prefix: str) -> Iterator[MultipartRef]:
        # The SDK's own call asks for URL-encoded keys, which SeaweedFS confirms but does not send.
        query: DictType = {"uploads": "", "delimiter": "", "max-uploads": str(LIST_PAGE), "prefix": prefix}

        def next_page() -> ListMultipartUploadsResult:
            return ListMultipartUploadsResult(self._client()._execute("GET", self._bucket, query_params=query))

        while True:
            page = self._call("list_multiparts", next_page)
            for item in page.uploads:
                yield MultipartRef(item.object_name, item.upload_id or "", item.initiated_time)
            if not page.is_truncated:
                return
            query |= {"key-marker": page.next_key_marker or "", "upload-id-marker": page.next_upload_id_marker or ""}

    def _bucket_exists(self) -> bool:
        return self._client().bucket_exists(self._bucket)

    def _create_bucket(self) -> None:
        self._client().make_bucket(self._bucket, self._settings.region)


def _new_client(settings: StorageSettings, http: SignedHttp) -> Minio:
    endpoint = urlsplit(settings.endpoint)
    client = Minio(
        endpoint.netloc,
        access_key=settings.access_key,
        secret_key=settings.secret_key,
        region=settings.region,
        secure=endpoint.scheme == "https",
        http_client=http.pool(),
    )
    client._base_url.virtual_style_flag = False  # path style, as presigned requests
    return client


# The abilities, for the type checker to prove.
_direct: type[PresignsParts] = MinioStore
_copies: type[Copies] = MinioStore
_manages: type[ManagesBucket] = MinioStore
