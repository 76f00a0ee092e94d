"""The backend for MinIO, and other S3 servers, on minio-py: less CPU in the client than boto3.

minio-py's public interface lacks conditional writes, multipart and much of copying, so this uses its private calls and
pins ``minio==7.2.*``. What even those can't send (bytes, conditional completion, CORS rules) goes as requests that we
sign ourselves, over the same connection pool.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import islice
from typing import Literal, cast
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError
from xml.sax.saxutils import escape

import urllib3
from minio import Minio
from minio.commonconfig import ENABLED, CopySource, Filter
from minio.datatypes import ListMultipartUploadsResult, ListPartsResult, Object
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, S3Error, ServerError
from minio.helpers import DictType
from minio.lifecycleconfig import AbortIncompleteMultipartUpload, LifecycleConfig, Rule
from urllib3.exceptions import HTTPError

from storage_backends import Observer, StorageSettings, faults
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
from storage_backends.faults import RULE_ID, xml_text
from storage_backends.signed_http import COPY_PATIENCE, SignedHttp, error_in, translate_wire
from storage_backends.transfers import Transfers, checksum_in, completed

LIST_PAGE = 1_000  # keys in one answer; S3's limit


class MinioStore(Transfers):
    def __init__(self, settings: StorageSettings, *, observe: Observer | None = None):
        super().__init__(settings, observe=observe)
        self._lock = threading.Lock()
        self._made: tuple[int, Minio] | None = None

    @property
    def _client(self) -> Minio:
        """This process's client: like the pool under it, it must not be shared over a fork."""
        made = self._made
        if made is None or made[0] != os.getpid():
            with self._lock:
                made = self._made
                if made is None or made[0] != os.getpid():
                    made = self._made = (os.getpid(), _new_client(self._settings, self._http))
        return made[1]

    def _translate(self, operation: str, error: Exception) -> StorageError | None:
        if isinstance(error, S3Error):
            request_id = error.request_id or error.response.headers.get("x-amz-request-id")
            return faults.translate(operation, error.response.status, error.code, error.message, request_id)
        if isinstance(error, ServerError):
            return faults.translate(operation, error.status_code, None, str(error), None)
        if isinstance(error, InvalidResponseError):
            return faults.translate(operation, error._code, None, error._body, None)
        if isinstance(error, HTTPError):
            return translate_wire(operation, error)
        if isinstance(error, ParseError):
            return OutcomeUnknown(f"{operation}: the answer is no XML: {error}")
        return None

    # Objects

    def stat(self, key: str) -> ObjectInfo:
        found = self._call(
            "stat",
            lambda: self._client.stat_object(self._bucket, key, extra_headers={"x-amz-checksum-mode": "ENABLED"}),
        )
        headers = cast(Mapping[str, str], found.metadata)
        return ObjectInfo(
            key,
            cast(int, found.size),
            found.etag or "",
            headers.get("Content-Type"),
            cast(datetime, found.last_modified),
            checksum_in(headers, "x-amz-checksum-{}"),
        )

    def delete(self, key: str) -> None:
        with suppress(ObjectNotFound):
            self._call("delete", lambda: self._client.remove_object(self._bucket, key))

    def list_objects(self, prefix: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        # The SDK's iterator is dead after an error, so each page is a new one, begun behind the last key.
        def page() -> list[Object]:
            found = self._client.list_objects(self._bucket, prefix, recursive=True, start_after=after)
            return list(islice(found, LIST_PAGE))

        while True:
            items = self._call("list_objects", page)
            for item in items:
                after = cast(str, item.object_name)
                yield ObjectInfo(after, cast(int, item.size), item.etag or "", None, cast(datetime, item.last_modified))
            if len(items) < LIST_PAGE:
                return

    def delete_many(self, keys: Sequence[str]) -> None:
        failed = self._call(
            "delete_many", lambda: list(self._client.remove_objects(self._bucket, [DeleteObject(key) for key in keys]))
        )
        for error in failed:
            if error.code != "NoSuchKey":
                raise faults.translate("delete_many", 200, error.code, error.message, None)

    def copy(
        self, source: str, target: str, *, content_type: str | None = None, if_source_etag: str | None = None
    ) -> ObjectInfo:
        headers = self._source(source, if_source_etag)
        if content_type is not None:
            headers |= {"Content-Type": content_type, "x-amz-metadata-directive": "REPLACE"}
        self._copied("copy", target, {}, headers)
        try:
            return self.stat(target)
        except (StorageUnavailable, ObjectNotFound) as error:
            raise OutcomeUnknown(f"copy: done, but the copy can't be looked at: {error}") from error

    def _source(self, key: str, etag: str | None) -> dict[str, str]:
        return {
            str(name): str(value)
            for name, value in CopySource(self._bucket, key, match_etag=etag).gen_copy_headers().items()
        }

    def _copied(self, operation: str, key: str, query: dict[str, str], headers: dict[str, str]) -> str:
        """Copy to ``key``; the new ETag. minio-py has one timeout for all calls, too short for a copy."""

        def request() -> str:
            return _etag_in(
                operation,
                self._http.send(
                    operation, "PUT", key, query=query, signed={**headers, "Content-Length": "0"}, stall=COPY_PATIENCE
                ),
            )

        return self._call(operation, request)

    # Multipart

    def create_multipart(
        self, key: str, *, content_type: str, checksums: Literal["sha256", "crc32"] | None = None
    ) -> MultipartRef:
        def request() -> str:
            headers: DictType = {"Content-Type": content_type}
            if checksums:
                headers["x-amz-checksum-algorithm"] = checksums.upper()
            return self._client._create_multipart_upload(self._bucket, key, headers)

        return MultipartRef(key, self._call("create_multipart", request, repeatable=False))

    def copy_part(
        self,
        ref: MultipartRef,
        number: int,
        source: str,
        *,
        byte_range: ByteRange | None = None,
        if_source_etag: str | None = None,
    ) -> Part:
        headers = self._source(source, if_source_etag)
        if byte_range:
            headers["x-amz-copy-source-range"] = f"bytes={byte_range.first}-{byte_range.last}"
        size = byte_range.length if byte_range else self.stat(source).size
        query = {"partNumber": str(number), "uploadId": ref.upload_id}
        return Part(number, size, self._copied("copy_part", ref.key, query, headers))

    def list_parts(self, ref: MultipartRef) -> Iterator[Part]:
        marker: str | None = None

        def next_page() -> ListPartsResult:
            return self._client._list_parts(self._bucket, ref.key, ref.upload_id, part_number_marker=marker)

        while True:
            page = self._call("list_parts", next_page)
            for item in page.parts:
                yield Part(item.part_number, item.size or 0, item.etag)
            if not page.is_truncated:
                return
            marker = page.next_part_number_marker

    def complete_multipart(self, ref: MultipartRef, parts: Sequence[Part], *, if_absent: bool = False) -> ObjectInfo:
        listed = "".join(
            f"<Part><PartNumber>{part.number}</PartNumber><ETag>&quot;{escape(part.etag)}&quot;</ETag>"
            f"{_checksum_element(part)}</Part>"
            for part in parts
        )
        body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
        signed = {"Content-Type": "application/xml", "Content-Length": str(len(body))}
        if if_absent:
            signed["If-None-Match"] = "*"

        def request() -> str:
            return _etag_in(
                "complete_multipart",
                self._http.send(
                    "complete_multipart",
                    "POST",
                    ref.key,
                    query={"uploadId": ref.upload_id},
                    signed=signed,
                    body=body,
                    stall=COPY_PATIENCE,
                ),
            )

        return completed(ref, parts, self._call("complete_multipart", request, repeatable=False))

    def abort_multipart(self, ref: MultipartRef) -> None:
        with suppress(UploadNotFound):
            self._call(
                "abort_multipart", lambda: self._client._abort_multipart_upload(self._bucket, ref.key, ref.upload_id)
            )

    def list_multiparts(self, prefix: str) -> Iterator[MultipartRef]:
        key_marker: str | None = None
        id_marker: str | None = None

        def next_page() -> ListMultipartUploadsResult:
            # The SDK's own call asks for URL-encoded keys, which SeaweedFS confirms and then does not send.
            query: DictType = {"uploads": "", "delimiter": "", "max-uploads": str(LIST_PAGE), "prefix": prefix}
            if key_marker:
                query |= {"key-marker": key_marker, "upload-id-marker": id_marker or ""}
            return ListMultipartUploadsResult(self._client._execute("GET", self._bucket, query_params=query))

        while True:
            page = self._call("list_multiparts", next_page)
            for item in page.uploads:
                yield MultipartRef(item.object_name, item.upload_id or "", item.initiated_time)
            if not page.is_truncated:
                return
            key_marker, id_marker = page.next_key_marker, page.next_upload_id_marker

    # The bucket

    def ensure_bucket(self) -> bool:
        if self._call("ensure_bucket", lambda: self._client.bucket_exists(self._bucket)):
            return False
        try:
            self._call("ensure_bucket", lambda: self._client.make_bucket(self._bucket, self._settings.region))
        except StorageError as error:
            if error.code != "BucketAlreadyOwnedByYou":  # another process was quicker
                raise
            return False
        return True

    def set_cors(self, origins: Sequence[str]) -> bool:
        ours = "".join(
            ["<CORSRule><ID>", RULE_ID, "</ID>"]
            + [f"<AllowedOrigin>{escape(origin)}</AllowedOrigin>" for origin in origins]
            + [f"<AllowedMethod>{method}</AllowedMethod>" for method in ("GET", "HEAD", "PUT", "POST")]
            + ["<AllowedHeader>*</AllowedHeader><ExposeHeader>ETag</ExposeHeader><MaxAgeSeconds>3600</MaxAgeSeconds>"]
            + ["</CORSRule>"]
        )

        def change() -> None:
            document = self._cors("GET", none_yet="NoSuchCORSConfiguration")
            found = re.findall(rb"<CORSRule>.*?</CORSRule>", document, re.DOTALL)
            rules = [rule for rule in found if xml_text(rule, "ID") != RULE_ID] + ([ours.encode()] if origins else [])
            if rules:
                self._cors("PUT", b"<CORSConfiguration>%b</CORSConfiguration>" % b"".join(rules))
            elif found:
                self._cors("DELETE")

        return faults.able(change)

    def _cors(self, method: str, body: bytes = b"", *, none_yet: str | None = None) -> bytes:
        """minio-py has no call for these rules."""
        signed = {}
        if body:
            digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
            signed = {"Content-Type": "application/xml", "Content-Length": str(len(body)), "Content-MD5": digest}
        try:
            return self._call(
                "set_cors",
                lambda: (
                    self._http.send("set_cors", method, "", query={"cors": ""}, signed=signed, body=body or None).data
                ),
            )
        except StorageError as error:
            if error.code != none_yet:
                raise
            return b""

    def set_abort_incomplete_rule(self, prefix: str, *, days: int) -> bool:
        ours = Rule(
            ENABLED,
            rule_filter=Filter(prefix=prefix),
            rule_id=RULE_ID,
            abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(days),
        )

        def change() -> None:
            found = self._call("set_lifecycle", lambda: self._client.get_bucket_lifecycle(self._bucket))
            rules = [rule for rule in (found.rules if found else ()) if rule.rule_id != RULE_ID] + [ours]
            self._call("set_lifecycle", lambda: self._client.set_bucket_lifecycle(self._bucket, LifecycleConfig(rules)))

        return faults.able(change)


def _new_client(settings: StorageSettings, http: SignedHttp) -> Minio:
    parts = urlsplit(settings.endpoint)
    client = Minio(
        parts.netloc,
        access_key=settings.access_key,
        secret_key=settings.secret_key,
        region=settings.region,
        secure=parts.scheme == "https",
        http_client=http.pool,
    )
    client._base_url.virtual_style_flag = False  # presigned requests are in path style too
    return client


def _etag_in(operation: str, answer: urllib3.BaseHTTPResponse) -> str:
    """The ETag in the document of a copy or a completion, which may also be an error after a 200: the bucket sends the
    status first, so that the connection is kept, and then works."""
    if b"<Error>" in answer.data:
        raise error_in(operation, answer.status, answer.headers, answer.data)
    etag = xml_text(answer.data, "ETag")
    if not etag:
        raise OutcomeUnknown(f"{operation}: the bucket answered without an ETag")
    return etag.strip('"')


def _checksum_element(part: Part) -> str:
    if part.checksum is None:
        return ""
    name = f"Checksum{part.checksum.algorithm.upper()}"
    return f"<{name}>{escape(part.checksum.value)}</{name}>"


# The abilities, for the type checker to prove.
_direct: type[PresignsParts] = MinioStore
_copies: type[Copies] = MinioStore
_deletes: type[DeletesMany] = MinioStore
_bucket: type[ManagesBucket] = MinioStore
