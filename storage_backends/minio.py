"""The backend for MinIO and other S3 servers on minio-py, which uses less CPU than boto3.

minio-py has no public call that lists multipart uploads. This module uses a private one, so ``minio==7.2.*`` is pinned.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import cast
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

import urllib3
from minio import Minio
from minio.datatypes import ListMultipartUploadsResult, Object
from minio.error import InvalidResponseError, S3Error, ServerError
from minio.helpers import DictType
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, SSLError
from urllib3.exceptions import TimeoutError as HTTPTimeout

from storage_backends import Observer, StorageSettings, faults, signed_http
from storage_backends.base import (
    Archives,
    Copies,
    ManagesBucket,
    MultipartRef,
    ObjectInfo,
    OutcomeUnknown,
    PresignsParts,
    StorageError,
    StorageUnavailable,
)
from storage_backends.transfers import SignedStore

LIST_PAGE = 1_000  # keys in one response; S3's limit


class MinioStore(SignedStore):
    """The bucket through minio-py."""

    def __init__(self, settings: StorageSettings, *, observe: Observer | None = None):
        super().__init__(settings, observe=observe)
        self._client = signed_http.PerProcess(lambda: _new_client(settings))

    def _translate(self, operation: str, error: Exception) -> StorageError | None:
        if isinstance(error, S3Error):
            request_id = error.request_id or error.response.headers.get("x-amz-request-id")
            return faults.translate(operation, error.response.status, error.code, error.message, request_id)
        if isinstance(error, ServerError):
            return faults.translate(operation, error.status_code, None, str(error), None)
        if isinstance(error, InvalidResponseError):
            return faults.translate(operation, error._code, None, error._body, None)
        if isinstance(error, HTTPError):
            return _network_error(operation, error)
        if isinstance(error, ParseError):
            return OutcomeUnknown(f"{operation}: the response is not XML: {error}")
        return None

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


def _network_error(operation: str, error: HTTPError) -> StorageError:
    """The error for a network failure: without a connection the request had no effect, later its outcome is unknown."""
    if isinstance(error, ConnectTimeoutError | NewConnectionError | SSLError):
        return StorageUnavailable(f"{operation}: {error}", no_answer=not isinstance(error, SSLError))
    while_sending = any(isinstance(cause, TimeoutError) for cause in error.args)
    return OutcomeUnknown(f"{operation}: {error}", no_answer=while_sending or isinstance(error, HTTPTimeout))


def _new_client(settings: StorageSettings) -> Minio:
    endpoint = urlsplit(settings.endpoint)
    client = Minio(
        endpoint.netloc,
        access_key=settings.access_key,
        secret_key=settings.secret_key,
        region=settings.region,
        secure=endpoint.scheme == "https",
        http_client=urllib3.PoolManager(
            num_pools=1,
            maxsize=settings.connections,
            retries=False,
            ca_certs=signed_http.ca_bundle(),
            timeout=urllib3.Timeout(connect=signed_http.CONNECT_TIMEOUT, read=signed_http.STALL_TIMEOUT),
        ),
    )
    client._base_url.virtual_style_flag = False  # path style, as presigned requests
    return client


# The abilities, for the type checker to prove.
_direct: type[PresignsParts] = MinioStore
_copies: type[Copies] = MinioStore
_archives: type[Archives] = MinioStore
_manages: type[ManagesBucket] = MinioStore
