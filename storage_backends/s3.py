"""The backend for any S3 server, on boto3: AWS, SeaweedFS, Ceph, Garage, MinIO and others.

boto3's own retries are off: ``_call()`` knows which calls may be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC
from typing import Any

from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
    SSLError,
)

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


class S3Store(SignedStore):
    """The bucket through boto3."""

    def __init__(self, settings: StorageSettings, *, observe: Observer | None = None):
        super().__init__(settings, observe=observe)
        self._client = signed_http.PerProcess(lambda: _new_client(settings))  # 0.4 s

    def _translate(self, operation: str, error: Exception) -> StorageError | None:
        from botocore.parsers import ResponseParserError

        if isinstance(error, ClientError):
            details, meta = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
            status, code = int(meta.get("HTTPStatusCode", 0)), details.get("Code")
            return faults.translate(operation, status, code, details.get("Message"), meta.get("RequestId"))
        if isinstance(error, EndpointConnectionError | ConnectTimeoutError | SSLError):
            return StorageUnavailable(f"{operation}: {error}", no_answer=not isinstance(error, SSLError))
        if isinstance(error, HTTPClientError | ResponseParserError):
            return OutcomeUnknown(f"{operation}: {error}", no_answer=isinstance(error, ReadTimeoutError))
        return None

    def _pages(self, operation: str, method: str, *markers: str, **arguments: Any) -> Iterator[Any]:
        """All pages of a list. ``markers``: the arguments that say where a page starts."""

        def request() -> Any:
            return getattr(self._client(), method)(Bucket=self._bucket, **arguments)

        while True:
            page = self._call(operation, request)
            yield page
            if not page.get("IsTruncated"):
                return
            arguments.pop("StartAfter", None)
            arguments |= {marker: page[f"Next{marker}"] for marker in markers}

    def list_objects(self, prefix: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        start = {"StartAfter": after} if after is not None else {}
        for page in self._pages("list_objects", "list_objects_v2", "ContinuationToken", Prefix=prefix, **start):
            for item in page.get("Contents", ()):
                modified = item["LastModified"].astimezone(UTC)
                yield ObjectInfo(item["Key"], item["Size"], item["ETag"].strip('"'), None, modified)

    def list_multiparts(self, prefix: str) -> Iterator[MultipartRef]:
        markers = ("KeyMarker", "UploadIdMarker")
        for page in self._pages("list_multiparts", "list_multipart_uploads", *markers, Prefix=prefix):
            for item in page.get("Uploads", ()):
                yield MultipartRef(item["Key"], item["UploadId"], item.get("Initiated"))

    def _bucket_exists(self) -> bool:
        try:
            self._client().head_bucket(Bucket=self._bucket)
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 404:
                raise
            return False
        return True

    def _create_bucket(self) -> None:
        region = self._settings.region
        location = {"CreateBucketConfiguration": {"LocationConstraint": region}} if region != "us-east-1" else {}
        self._client().create_bucket(Bucket=self._bucket, **location)


def _new_client(settings: StorageSettings) -> Any:
    import boto3  # with its description of S3, 20 MiB that most processes of the server never need
    from botocore.config import Config

    session = boto3.session.Session(
        aws_access_key_id=settings.access_key, aws_secret_access_key=settings.secret_key, region_name=settings.region
    )
    return session.client(
        "s3",
        endpoint_url=settings.endpoint,
        verify=signed_http.ca_bundle(),
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            max_pool_connections=settings.connections,
            connect_timeout=signed_http.CONNECT_TIMEOUT,
            read_timeout=signed_http.STALL_TIMEOUT,
            retries={"total_max_attempts": 1},
            proxies={},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


# The abilities, for the type checker to prove.
_direct: type[PresignsParts] = S3Store
_copies: type[Copies] = S3Store
_archives: type[Archives] = S3Store
_manages: type[ManagesBucket] = S3Store
