"""The backend for any S3 server, on boto3: AWS, SeaweedFS, Ceph, Garage, MinIO and others.

boto3 does the control calls; bytes and presigned requests are ``transfers``'s. It repeats nothing by itself, since
``_call()`` knows which calls may be repeated.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC
from typing import Any, Literal

import boto3
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from storage_backends import Observer, StorageSettings, faults, signed_http
from storage_backends.base import (
    ByteRange,
    Copies,
    DeletesMany,
    ManagesBucket,
    MultipartRef,
    ObjectInfo,
    ObjectNotFound,
    OutcomeUnknown,
    Part,
    PresignsParts,
    StorageError,
    StorageUnavailable,
    UploadNotFound,
)
from storage_backends.faults import RULE_ID
from storage_backends.signed_http import CONNECT_TIMEOUT, COPY_PATIENCE, ca_bundle
from storage_backends.transfers import Transfers, checksum_in, completed

DELETE_BATCH = 1_000  # keys in one DeleteObjects; S3's limit


class S3Store(Transfers):
    def __init__(self, settings: StorageSettings, *, observe: Observer | None = None):
        super().__init__(settings, observe=observe)
        self._lock = threading.Lock()
        self._clients: dict[tuple[int, float], Any] = {}

    def _client(self, patience: float | None = None) -> Any:
        """This process's client. botocore's must not be shared over a fork, and costs 0.4 s to import and make."""
        patience = patience or signed_http.STALL_TIMEOUT
        wanted = (os.getpid(), patience)
        if wanted not in self._clients:
            with self._lock:
                if wanted not in self._clients:
                    self._clients[wanted] = _new_client(self._settings, patience)
        return self._clients[wanted]

    def _translate(self, operation: str, error: Exception) -> StorageError | None:
        if isinstance(error, ClientError):
            answer = error.response
            details, meta = answer.get("Error", {}), answer.get("ResponseMetadata", {})
            status = int(meta.get("HTTPStatusCode", 0))
            code = details.get("Code")
            if operation == "stat" and status == 404 and code in ("404", "NotFound"):  # HEAD has no body
                code = "NoSuchKey"
            return faults.translate(operation, status, code, details.get("Message"), meta.get("RequestId"))
        if isinstance(error, EndpointConnectionError | ConnectTimeoutError | SSLError):
            return StorageUnavailable(f"{operation}: {error}", silent=not isinstance(error, SSLError))
        if isinstance(error, HTTPClientError | ResponseParserError):
            return OutcomeUnknown(f"{operation}: {error}", silent=isinstance(error, ReadTimeoutError))
        return None

    def _ask(
        self, operation: str, method: str, *, repeatable: bool = True, patience: float | None = None, **arguments: Any
    ) -> Any:
        """Call the client's ``method`` on the bucket."""
        return self._call(
            operation,
            lambda: getattr(self._client(patience), method)(Bucket=self._bucket, **arguments),
            repeatable=repeatable,
        )

    # Objects

    def stat(self, key: str) -> ObjectInfo:
        head = self._ask("stat", "head_object", Key=key, ChecksumMode="ENABLED")
        return ObjectInfo(
            key,
            head["ContentLength"],
            head["ETag"].strip('"'),
            head.get("ContentType"),
            head["LastModified"].astimezone(UTC),
            checksum_in(head, "Checksum{}"),
        )

    def delete(self, key: str) -> None:
        with suppress(ObjectNotFound):
            self._ask("delete", "delete_object", Key=key)

    def list_objects(self, prefix: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        arguments: dict[str, Any] = {"Prefix": prefix, **({"StartAfter": after} if after is not None else {})}
        while True:
            page = self._ask("list_objects", "list_objects_v2", **arguments)
            for item in page.get("Contents", ()):
                modified = item["LastModified"].astimezone(UTC)
                yield ObjectInfo(item["Key"], item["Size"], item["ETag"].strip('"'), None, modified)
            if not page.get("IsTruncated"):
                return
            arguments = {"Prefix": prefix, "ContinuationToken": page["NextContinuationToken"]}

    def delete_many(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), DELETE_BATCH):
            batch = [{"Key": key} for key in keys[start : start + DELETE_BATCH]]
            answer = self._ask("delete_many", "delete_objects", Delete={"Objects": batch, "Quiet": True})
            for error in answer.get("Errors", ()):
                if error.get("Code") != "NoSuchKey":
                    raise faults.translate("delete_many", 200, error.get("Code"), error.get("Message"), None)

    def copy(
        self, source: str, target: str, *, content_type: str | None = None, if_source_etag: str | None = None
    ) -> ObjectInfo:
        arguments = self._source(source, if_source_etag)
        if content_type is not None:
            arguments |= {"ContentType": content_type, "MetadataDirective": "REPLACE"}
        self._ask("copy", "copy_object", Key=target, patience=COPY_PATIENCE, **arguments)
        try:
            return self.stat(target)
        except (StorageUnavailable, ObjectNotFound) as error:
            raise OutcomeUnknown(f"copy: done, but the copy can't be looked at: {error}") from error

    def _source(self, key: str, etag: str | None) -> dict[str, Any]:
        condition = {"CopySourceIfMatch": f'"{etag}"'} if etag is not None else {}
        return {"CopySource": {"Bucket": self._bucket, "Key": key}, **condition}

    # Multipart

    def create_multipart(
        self, key: str, *, content_type: str, checksums: Literal["sha256", "crc32"] | None = None
    ) -> MultipartRef:
        announced: dict[str, Any] = {"ChecksumAlgorithm": checksums.upper()} if checksums else {}
        answer = self._ask(
            "create_multipart",
            "create_multipart_upload",
            repeatable=False,
            Key=key,
            ContentType=content_type,
            **announced,
        )
        return MultipartRef(key, answer["UploadId"])

    def copy_part(
        self,
        ref: MultipartRef,
        number: int,
        source: str,
        *,
        byte_range: ByteRange | None = None,
        if_source_etag: str | None = None,
    ) -> Part:
        arguments = self._source(source, if_source_etag)
        if byte_range:
            arguments["CopySourceRange"] = f"bytes={byte_range.first}-{byte_range.last}"
        size = byte_range.length if byte_range else self.stat(source).size
        answer = self._ask(
            "copy_part",
            "upload_part_copy",
            patience=COPY_PATIENCE,
            Key=ref.key,
            UploadId=ref.upload_id,
            PartNumber=number,
            **arguments,
        )
        return Part(number, size, answer["CopyPartResult"]["ETag"].strip('"'))

    def list_parts(self, ref: MultipartRef) -> Iterator[Part]:
        marker: dict[str, Any] = {}
        while True:
            page = self._ask("list_parts", "list_parts", Key=ref.key, UploadId=ref.upload_id, **marker)
            for item in page.get("Parts", ()):
                yield Part(item["PartNumber"], item["Size"], item["ETag"].strip('"'), checksum_in(item, "Checksum{}"))
            if not page.get("IsTruncated"):
                return
            marker = {"PartNumberMarker": page["NextPartNumberMarker"]}

    def complete_multipart(self, ref: MultipartRef, parts: Sequence[Part], *, if_absent: bool = False) -> ObjectInfo:
        listed = [{"PartNumber": part.number, "ETag": f'"{part.etag}"', **_checksum_argument(part)} for part in parts]
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if if_absent else {}
        answer = self._ask(
            "complete_multipart",
            "complete_multipart_upload",
            repeatable=False,
            patience=COPY_PATIENCE,
            Key=ref.key,
            UploadId=ref.upload_id,
            MultipartUpload={"Parts": listed},
            **condition,
        )
        return completed(ref, parts, answer.get("ETag"))

    def abort_multipart(self, ref: MultipartRef) -> None:
        with suppress(UploadNotFound):
            self._ask("abort_multipart", "abort_multipart_upload", Key=ref.key, UploadId=ref.upload_id)

    def list_multiparts(self, prefix: str) -> Iterator[MultipartRef]:
        marker: dict[str, Any] = {}
        while True:
            page = self._ask("list_multiparts", "list_multipart_uploads", Prefix=prefix, **marker)
            for item in page.get("Uploads", ()):
                yield MultipartRef(item["Key"], item["UploadId"], item.get("Initiated"))
            if not page.get("IsTruncated"):
                return
            marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    # The bucket

    def ensure_bucket(self) -> bool:
        def exists() -> bool:
            try:
                self._client().head_bucket(Bucket=self._bucket)
            except ClientError as error:
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 404:
                    raise
                return False
            return True

        if self._call("ensure_bucket", exists):
            return False
        region = self._settings.region
        place: dict[str, Any] = {}
        if region != "us-east-1":
            place["CreateBucketConfiguration"] = {"LocationConstraint": region}
        try:
            self._ask("ensure_bucket", "create_bucket", **place)
        except StorageError as error:
            if error.code != "BucketAlreadyOwnedByYou":  # another process was quicker
                raise
            return False
        return True

    def set_cors(self, origins: Sequence[str]) -> bool:
        ours = {
            "ID": RULE_ID,
            "AllowedOrigins": list(origins),
            "AllowedMethods": ["GET", "HEAD", "PUT", "POST"],
            "AllowedHeaders": ["*"],
            "ExposeHeaders": ["ETag"],
            "MaxAgeSeconds": 3600,
        }

        def change() -> None:
            found = self._rules("get_bucket_cors", "CORSRules", "NoSuchCORSConfiguration")
            rules = [rule for rule in found if rule.get("ID") != RULE_ID] + ([ours] if origins else [])
            if rules:
                self._ask("set_cors", "put_bucket_cors", CORSConfiguration={"CORSRules": rules})
            elif found:
                self._ask("set_cors", "delete_bucket_cors")

        return faults.able(change)

    def set_abort_incomplete_rule(self, prefix: str, *, days: int) -> bool:
        ours = {
            "ID": RULE_ID,
            "Status": "Enabled",
            "Filter": {"Prefix": prefix},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days},
        }

        def change() -> None:
            found = self._rules("get_bucket_lifecycle_configuration", "Rules", "NoSuchLifecycleConfiguration")
            rules = [rule for rule in found if rule.get("ID") != RULE_ID] + [ours]
            self._ask("set_lifecycle", "put_bucket_lifecycle_configuration", LifecycleConfiguration={"Rules": rules})

        return faults.able(change)

    def _rules(self, method: str, member: str, none_yet: str) -> list[dict[str, Any]]:
        try:
            return list(self._ask(method, method).get(member, ()))
        except StorageError as error:
            if error.code != none_yet:
                raise
            return []


def _new_client(settings: StorageSettings, patience: float) -> Any:
    session = boto3.session.Session(
        aws_access_key_id=settings.access_key, aws_secret_access_key=settings.secret_key, region_name=settings.region
    )
    return session.client(
        "s3",
        endpoint_url=settings.endpoint,
        verify=ca_bundle(),
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            max_pool_connections=settings.connections,
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=patience,
            retries={"total_max_attempts": 1},
            proxies={},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def _checksum_argument(part: Part) -> dict[str, str]:
    return {f"Checksum{part.checksum.algorithm.upper()}": part.checksum.value} if part.checksum else {}


# The abilities, for the type checker to prove.
_direct: type[PresignsParts] = S3Store
_copies: type[Copies] = S3Store
_deletes: type[DeletesMany] = S3Store
_bucket: type[ManagesBucket] = S3Store
