"""What both backends share: every request that the gateway signs itself.

That is all that concerns one object, one multipart upload, or the bucket's rules, and what clients are to send. A backend adds
the lists, the bucket itself, and the translation of its SDK's errors.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import BinaryIO, Literal, TypeVar
from urllib.parse import quote
from xml.sax.saxutils import escape

from core.breaker import Bulkhead, CallRejected, CircuitBreaker
from core.ids import PROBE_PREFIX
from storage_backends import BucketCall, Observer, StorageSettings, capacity, faults, messages
from storage_backends.base import (
    ByteRange,
    Capacity,
    Checksum,
    InvalidPart,
    Keeping,
    MultipartRef,
    ObjectInfo,
    ObjectLocked,
    ObjectNotFound,
    OutcomeUnknown,
    OutOfSpace,
    Part,
    PartLimits,
    PreconditionFailed,
    PresignedPost,
    PresignedRequest,
    StorageError,
    StorageUnavailable,
    UploadNotFound,
)
from storage_backends.http_client import Response
from storage_backends.presign import MAX_EXPIRY, Presigner
from storage_backends.signed_http import SignedHttp, error_in

T = TypeVar("T")
Body = BinaryIO | bytes | bytearray | memoryview

PIECE = 256 * 1024  # bytes handed to the socket at once
PROBE_TIME = 5.0  # seconds for all of a probe
COPY_TIMEOUT = 600.0  # seconds: the bucket answers a copy when it is done, after minutes for 5 GiB
COPIES = frozenset({"copy", "copy_part", "complete_multipart"})  # the operations with that timeout
# What the bucket answers to a request that it has understood.
ANSWERS = (ObjectNotFound, UploadNotFound, PreconditionFailed, InvalidPart, ObjectLocked)
# Storage counts as full below this: SeaweedFS opens no further volume, or keeps a hundredth free.
FULL_BELOW, FULL_SHARE = 256 * 1024**2, 0.02  # bytes, and share of the disk
RULE_ID = "upload-gateway"  # of the gateway's rules on the bucket; it leaves others alone
_XMLNS = "http://s3.amazonaws.com/doc/2006-03-01/"


class _SourceFailed(Exception):
    """Carries an error of the caller's stream past the connection, whose errors are OSErrors too."""


class Reader:
    """An open object (``base.ObjectReader``)."""

    def __init__(self, info: ObjectInfo, response: Response):
        self.info = info
        self.finished = False
        self._response = response

    def read(self, size: int = -1, /) -> bytes:
        if self.finished or size == 0:
            return b""
        try:
            data = self._response.read(size)  # raises if the body ends too early
        except OSError as error:
            raise StorageUnavailable(f"reading {self.info.key}: {error}") from error
        self.finished = size < 0 or not data
        return data


class SignedStore(ABC):
    """The base class of both backends."""

    part_limits = PartLimits()

    def __init__(self, settings: StorageSettings, *, observe: Observer | None = None):
        bucket = {name: getattr(settings, name) for name in ("region", "bucket", "access_key", "secret_key")}
        self._settings = settings
        self._bucket = settings.bucket
        self._observe = observe
        self._http = SignedHttp(Presigner(settings.endpoint, **bucket), settings.connections)
        self._public = Presigner(settings.public_endpoint or settings.endpoint, **bucket)
        self._breaker = CircuitBreaker()
        self._versioned: bool | None = None  # whether the bucket has versions; asked before the first deletion
        self._locked_probe: str | None = None  # a key
        # Calls use only some of a process's threads; the rest serve requests that need no bucket.
        self._bulkhead = Bulkhead(max(1, settings.connections // 2))
        self._copies_bulkhead = Bulkhead(max(1, settings.connections // 4))

    @abstractmethod
    def _translate(self, operation: str, error: Exception) -> StorageError | None:
        """The SDK's error as one of ``base``'s; None if it is no error of the bucket, such as a bug."""

    @abstractmethod
    def _bucket_exists(self) -> bool: ...

    @abstractmethod
    def _create_bucket(self) -> None: ...

    # Calls

    def _call(
        self, operation: str, request: Callable[[], T], *, repeatable: bool = True, attempts: int = faults.ATTEMPTS
    ) -> T:
        """Make a call to the bucket: observed, retried, its errors translated, and limited by the bulkhead and the circuit
        breaker. A call is ``repeatable`` if it may be made again although the first may have taken effect."""

        def once() -> T:
            try:
                return request()
            except _SourceFailed as failed:
                raise (failed.__cause__ or failed) from None
            except StorageError:
                raise
            except Exception as error:
                translated = self._translate(operation, error)
                if translated is None:
                    raise
                raise translated from error

        started, outcome, failed = time.monotonic(), "ok", False
        self._http.begin_call()
        try:
            with (self._copies_bulkhead if operation in COPIES else self._bulkhead).slot():
                return self._guarded(operation, lambda: faults.attempt(once, repeatable=repeatable, attempts=attempts))
        except CallRejected as rejected:
            outcome, failed = type(rejected).__name__, True
            raise StorageUnavailable(f"{operation}: not sent to the bucket: {rejected}") from rejected
        except Exception as error:
            outcome = type(error).__name__
            failed = isinstance(error, StorageError) and not isinstance(error, ANSWERS)
            raise
        finally:
            if self._observe:
                seconds = time.monotonic() - started
                self._observe(BucketCall(operation, outcome, seconds, failed, self._http.last_request_id()))

    def _guarded(self, operation: str, request: Callable[[], T]) -> T:
        """Report the outcome to the circuit breaker, and distinguish a full disk from other errors."""
        began = self._breaker.before_call()
        try:
            result = request()
        except StorageError as error:
            if isinstance(error, StorageUnavailable) and error.no_answer:
                self._breaker.no_answer(began)
            else:
                self._answered()
            if error.code == "InternalError" and operation in faults.STORING and self._is_full():
                raise OutOfSpace(f"{error} (its disk is full)", code=error.code, request_id=error.request_id) from error
            raise
        self._answered()
        return result

    def _answered(self) -> None:
        self._breaker.answered()
        self._copies_bulkhead.progress()  # the bucket is up, and copies show no progress of their own

    def capacity(self) -> Capacity | None:
        settings = self._settings
        if settings.local_path is not None:
            return capacity.of_path(settings.local_path)
        return capacity.of_metrics(settings.metrics_url, settings.metrics_token) if settings.metrics_url else None

    def _is_full(self) -> bool:
        try:
            disk = self.capacity()
        except StorageUnavailable:
            return False
        return disk is not None and disk.free < max(FULL_BELOW, FULL_SHARE * disk.total)

    # Objects

    def put(
        self,
        key: str,
        body: Body,
        *,
        content_type: str,
        size: int | None = None,
        checksum: Checksum | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        is_stream = not isinstance(body, bytes | bytearray | memoryview)
        if size is None:
            if not isinstance(body, bytes | bytearray | memoryview):
                raise ValueError("a stream needs its size")
            size = memoryview(body).nbytes
        length, signed = (
            size,
            {"Content-Type": content_type, "Content-Length": str(size), **messages.checksum_header(checksum)},
        )
        if if_absent:
            signed["If-None-Match"] = "*"

        def request() -> Response:
            return self._http.send("put", "PUT", key, signed=signed, body=self._sending(_pieces(body, length)))

        # A retry of a conditional write could find the object of its own first try, and a stream can't be read again.
        response = self._call("put", request, repeatable=not if_absent, attempts=1 if is_stream else faults.ATTEMPTS)
        confirmed = messages.confirmed("put", response, checksum)
        return ObjectInfo(
            key, size, messages.etag("put", response), content_type, messages.date(response, "date"), confirmed
        )

    @contextmanager
    def open(self, key: str, *, byte_range: ByteRange | None = None, if_match: str | None = None) -> Iterator[Reader]:
        headers = {}
        if byte_range:
            headers["Range"] = f"bytes={byte_range.first}-{byte_range.last}"
        if if_match is not None:
            headers["If-Match"] = f'"{if_match}"'
        response = self._call("open", lambda: self._http.send("open", "GET", key, unsigned=headers, stream=True))
        try:
            if byte_range and response.status != 206:
                raise StorageUnavailable(f"open {key}: the bucket ignored the range")
            yield Reader(messages.described("open", key, response), response)
        finally:
            response.close()

    def check(self) -> None:
        """Write, read and delete ``probe/<random>`` within PROBE_TIME, so that /readyz answers while the bucket hangs. The PUT
        is signed in its headers, as the SDKs do: with a wrong clock the bucket may refuse only such requests."""
        new_key = f"{PROBE_PREFIX}{secrets.token_hex(16)}"
        deadline = time.monotonic() + PROBE_TIME

        def left() -> float:
            return max(0.1, deadline - time.monotonic())

        def read(key: str) -> None:
            if self._http.send("check", "GET", key, timeout=left()).data != key.encode():
                raise StorageUnavailable("check: the bucket returned other bytes than were written")

        def request() -> None:
            if self._locked_probe is not None:
                with suppress(ObjectNotFound):  # its lock has ended, and the janitor has deleted it
                    return read(self._locked_probe)
            body = new_key.encode()
            signed = {"Content-Type": "application/octet-stream", "Content-Length": str(len(body))}
            written = self._http.send(
                "check", "PUT", new_key, signed=signed, body=body, in_headers=True, timeout=left()
            )
            version = written.headers.get("x-amz-version-id", "null")
            try:
                read(new_key)
            finally:
                try:
                    self._delete_version(new_key, version, timeout=left())
                except ObjectLocked:
                    self._locked_probe = new_key

        self._call("check", request, repeatable=False)

    def _sending(self, pieces: Iterator[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        for piece in pieces:
            self._bulkhead.progress()
            yield piece

    def copy(
        self,
        source: str,
        target: str,
        *,
        content_type: str | None = None,
        if_source_etag: str | None = None,
        storage_class: str | None = None,
    ) -> ObjectInfo:
        headers = self._copy_source(source, if_source_etag) | _class_header(storage_class)
        if content_type is not None:
            headers |= {"Content-Type": content_type, "x-amz-metadata-directive": "REPLACE"}
        self._slow_request("copy", "PUT", target, {}, headers)
        try:
            return self.stat(target)
        except (StorageUnavailable, ObjectNotFound) as error:
            raise OutcomeUnknown(f"copy: done, but the copy can't be read: {error}") from error

    def stat(self, key: str) -> ObjectInfo:
        signed = {"x-amz-checksum-mode": "ENABLED"}
        response = self._call("stat", lambda: self._http.send("stat", "HEAD", key, signed=signed))
        return messages.described("stat", key, response)

    def delete(self, key: str) -> None:
        if self._versioned is None:
            keeping = self.keeping()
            self._versioned = keeping is not None and keeping.versioning != ""
        with suppress(ObjectNotFound):
            if not self._versioned:
                deleted = self._call("delete", lambda: self._http.send("delete", "DELETE", key))
                self._versioned = "x-amz-version-id" in deleted.headers  # versioning was enabled meanwhile
            if self._versioned:
                self._delete_versions(key)

    def _delete_versions(self, key: str) -> None:
        """Delete each version of an object, and the marks of its deletions."""
        query = {"versions": "", "prefix": key}
        while True:
            page = self._call("delete", lambda: self._http.send("delete", "GET", "", query=query).data)
            found = re.findall(rb"<(?:Version|DeleteMarker)>.*?</(?:Version|DeleteMarker)>", page, re.DOTALL)
            versions = [
                faults.xml_text(item, "VersionId") or "" for item in found if faults.xml_text(item, "Key") == key
            ]
            if not versions:
                return
            for version in versions:
                self._call("delete", partial(self._delete_version, key, version))

    def _delete_version(self, key: str, version: str, *, timeout: float | None = None) -> None:
        """Delete one version; ``null`` names what was written without versioning. Raises ObjectLocked."""
        query = {"versionId": version}
        try:
            self._http.send("delete", "DELETE", key, query=query, timeout=timeout)
        except StorageError as error:
            described = self._http.send("delete", "HEAD", key, query=query, timeout=timeout)
            until = described.headers.get("x-amz-object-lock-retain-until-date")
            if until is None or datetime.fromisoformat(until) < datetime.now(UTC):
                raise
            raise ObjectLocked(f"{key} is locked until {until}", until=datetime.fromisoformat(until)) from error

    def thaw(self, key: str, *, days: int) -> None:
        tier = "<GlacierJobParameters><Tier>Standard</Tier></GlacierJobParameters>"
        body = f'<RestoreRequest xmlns="{_XMLNS}"><Days>{days}</Days>{tier}</RestoreRequest>'.encode()
        signed = {"Content-Type": "application/xml", "Content-Length": str(len(body))}

        def request() -> None:
            try:
                self._http.send("thaw", "POST", key, query={"restore": ""}, signed=signed, body=body)
            except StorageError as error:
                if error.code != "RestoreAlreadyInProgress":
                    raise

        self._call("thaw", request)

    def _copy_source(self, key: str, etag: str | None) -> dict[str, str]:
        condition = {"x-amz-copy-source-if-match": f'"{etag}"'} if etag is not None else {}
        return {"x-amz-copy-source": quote(f"/{self._bucket}/{key}", safe="/~"), **condition}

    def _slow_request(
        self,
        operation: str,
        method: str,
        key: str,
        query: dict[str, str],
        signed: dict[str, str],
        body: bytes | None = None,
        *,
        repeatable: bool = True,
    ) -> str:
        """Send a copy or a completion; the ETag in its response. The response may be an error although its status is 200:
        the bucket sends the status first, to keep the connection open while it works. It is signed in its headers, so that
        the bucket can refuse copies by presigned URLs (deploy/minio-setup.sh)."""

        def request() -> str:
            response = self._http.send(
                operation,
                method,
                key,
                query=query,
                signed={**signed, "Content-Length": str(len(body or b""))},
                body=body or b"",
                timeout=COPY_TIMEOUT,
                in_headers=True,
            )
            if b"<Error>" in response.data:
                raise error_in(operation, 500, response.headers, response.data)
            etag = faults.xml_text(response.data, "ETag")
            if not etag:
                raise OutcomeUnknown(f"{operation}: the response has no ETag")
            return etag.strip('"')

        return self._call(operation, request, repeatable=repeatable)

    # Parts

    def create_multipart(
        self,
        key: str,
        *,
        content_type: str,
        checksums: Literal["sha256", "crc32"] | None = None,
        storage_class: str | None = None,
    ) -> MultipartRef:
        signed = {"Content-Type": content_type, "Content-Length": "0", **_class_header(storage_class)}
        if checksums:
            signed["x-amz-checksum-algorithm"] = checksums.upper()

        def request() -> str:
            response = self._http.send("create_multipart", "POST", key, query={"uploads": ""}, signed=signed)
            upload_id = faults.xml_text(response.data, "UploadId")
            if not upload_id:
                raise OutcomeUnknown("create_multipart: the response has no UploadId")
            return upload_id

        return MultipartRef(key, self._call("create_multipart", request, repeatable=False))

    def list_parts(self, ref: MultipartRef, *, after: int = 0) -> Iterator[Part]:
        query = {"uploadId": ref.upload_id, **({"part-number-marker": str(after)} if after else {})}

        def request() -> bytes:
            page = self._http.send("list_parts", "GET", ref.key, query=query).data
            if faults.xml_text(page, "IsTruncated") not in ("true", "false"):
                raise OutcomeUnknown("list_parts: the response is no list of parts")
            return page

        while True:
            page = self._call("list_parts", request)
            for item in re.findall(rb"<Part>.*?</Part>", page, re.DOTALL):
                yield messages.listed_part(item)
            if faults.xml_text(page, "IsTruncated") != "true":
                return
            query["part-number-marker"] = faults.xml_text(page, "NextPartNumberMarker") or ""

    def abort_multipart(self, ref: MultipartRef) -> None:
        query = {"uploadId": ref.upload_id}
        with suppress(UploadNotFound):
            self._call("abort_multipart", lambda: self._http.send("abort_multipart", "DELETE", ref.key, query=query))

    def put_part(
        self, ref: MultipartRef, number: int, body: bytes | bytearray | memoryview, *, checksum: Checksum | None = None
    ) -> Part:
        size = memoryview(body).nbytes
        signed, query = {"Content-Length": str(size), **messages.checksum_header(checksum)}, _part_query(ref, number)
        response = self._call(
            "put_part",
            lambda: self._http.send(
                "put_part", "PUT", ref.key, query=query, signed=signed, body=self._sending(_pieces(body, size))
            ),
        )
        return Part(
            number, size, messages.etag("put_part", response), messages.confirmed("put_part", response, checksum)
        )

    def copy_part(
        self,
        ref: MultipartRef,
        number: int,
        source: str,
        *,
        byte_range: ByteRange | None = None,
        if_source_etag: str | None = None,
    ) -> Part:
        headers = self._copy_source(source, if_source_etag)
        if byte_range:
            headers["x-amz-copy-source-range"] = f"bytes={byte_range.first}-{byte_range.last}"
        size = byte_range.length if byte_range else self.stat(source).size
        return Part(number, size, self._slow_request("copy_part", "PUT", ref.key, _part_query(ref, number), headers))

    def complete_multipart(self, ref: MultipartRef, parts: Sequence[Part], *, if_absent: bool = False) -> ObjectInfo:
        listed = "".join(
            f"<Part><PartNumber>{part.number}</PartNumber><ETag>&quot;{escape(part.etag)}&quot;</ETag>"
            f"{messages.checksum_element(part.checksum)}</Part>"
            for part in parts
        )
        body = f'<CompleteMultipartUpload xmlns="{_XMLNS}">{listed}</CompleteMultipartUpload>'.encode()
        signed = {"Content-Type": "application/xml"} | ({"If-None-Match": "*"} if if_absent else {})
        query = {"uploadId": ref.upload_id}
        etag = self._slow_request("complete_multipart", "POST", ref.key, query, signed, body, repeatable=False)
        return ObjectInfo(ref.key, sum(part.size for part in parts), etag, None, datetime.now(UTC))

    # Presigned requests

    def presign_get(self, key: str, *, expires_in: timedelta, content_type: str, disposition: str) -> PresignedRequest:
        query = {"response-content-type": content_type, "response-content-disposition": disposition}
        return self._presigned("GET", key, expires_in, query, {})

    def presign_put(
        self, key: str, *, expires_in: timedelta, size: int, content_type: str, checksum: Checksum | None = None
    ) -> PresignedRequest:
        headers = {"Content-Type": content_type, "If-None-Match": "*", **messages.checksum_header(checksum)}
        return self._presigned("PUT", key, expires_in, {}, headers, size)

    def presign_parts(
        self, ref: MultipartRef, sizes: Mapping[int, int | None], *, expires_in: timedelta
    ) -> list[PresignedRequest]:
        now, seconds = time.time(), _seconds(expires_in)
        urls = self._public.part_urls(ref.key, ref.upload_id, sizes, expires_in=seconds, now=now)
        expires_at, headers = _after(now, seconds), dict[str, str]()
        return [PresignedRequest("PUT", url, expires_at, headers) for url in urls]

    def presign_post(
        self, key: str, *, expires_in: timedelta, min_size: int, max_size: int, content_type: str
    ) -> PresignedPost:
        now, seconds = time.time(), _seconds(expires_in)
        fields = self._public.post_fields(
            key, expires_in=seconds, min_size=min_size, max_size=max_size, content_type=content_type, now=now
        )
        return PresignedPost(f"{self._public.origin}/{self._bucket}/", fields, _after(now, seconds))

    def _presigned(
        self,
        method: Literal["GET", "PUT"],
        key: str,
        expires_in: timedelta,
        query: dict[str, str],
        headers: dict[str, str],
        size: int | None = None,
    ) -> PresignedRequest:
        now, seconds = time.time(), _seconds(expires_in)
        signed = headers if size is None else {**headers, "Content-Length": str(size)}
        url = self._public.url(method, key, expires_in=seconds, query=query, headers=signed, now=now)
        return PresignedRequest(method, url, _after(now, seconds), headers)

    # The bucket

    def ensure_bucket(self) -> bool:
        if self._call("ensure_bucket", self._bucket_exists):
            return False
        try:
            self._call("ensure_bucket", self._create_bucket)
        except StorageError as error:
            if error.code != "BucketAlreadyOwnedByYou":  # another process has created it meanwhile
                raise
            return False
        return True

    def set_cors(self, origins: Sequence[str]) -> bool:
        allowed = "".join(f"<AllowedOrigin>{escape(origin)}</AllowedOrigin>" for origin in origins)
        methods = "".join(f"<AllowedMethod>{method}</AllowedMethod>" for method in ("GET", "HEAD", "PUT", "POST"))
        rule = f"{allowed}{methods}<AllowedHeader>*</AllowedHeader><ExposeHeader>ETag</ExposeHeader>"
        rule = f"{rule}<MaxAgeSeconds>3600</MaxAgeSeconds>"
        return self._set_rule("cors", "CORSConfiguration", "CORSRule", rule if origins else None)

    def set_abort_incomplete_rule(self, prefix: str, *, days: int) -> bool:
        rule = (
            f"<Filter><Prefix>{escape(prefix)}</Prefix></Filter><Status>Enabled</Status><AbortIncompleteMultipartUpload>"
            f"<DaysAfterInitiation>{days}</DaysAfterInitiation></AbortIncompleteMultipartUpload>"
        )
        return self._set_rule("lifecycle", "LifecycleConfiguration", "Rule", rule)

    def _set_rule(self, kind: str, root: str, element: str, rule: str | None) -> bool:
        """Replace the gateway's rule in the bucket's configuration, or remove it if ``rule`` is None. Others stay."""

        def send(method: str, body: bytes = b"") -> bytes:
            digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
            signed = {"Content-Type": "application/xml", "Content-Length": str(len(body)), "Content-MD5": digest}
            return self._call(
                f"set_{kind}",
                lambda: (
                    self._http.send(
                        f"set_{kind}", method, "", query={kind: ""}, signed=signed if body else {}, body=body or None
                    ).data
                ),
            )

        def current() -> bytes:
            try:
                return send("GET")
            except StorageError as error:
                if error.code != f"NoSuch{root}":
                    raise
                return b""

        def change() -> None:
            tag = element.encode()
            found = re.findall(rb"<%b>.*?</%b>" % (tag, tag), current(), re.DOTALL)
            rules = [other for other in found if faults.xml_text(other, "ID") != RULE_ID]
            if rule is not None:
                rules.append(f"<{element}><ID>{RULE_ID}</ID>{rule}</{element}>".encode())
            if rules:
                send(
                    "PUT", b'<%b xmlns="%b">%b</%b>' % (root.encode(), _XMLNS.encode(), b"".join(rules), root.encode())
                )
            elif found:
                send("DELETE")

        return faults.able(change)

    def keeping(self) -> Keeping | None:
        def described(kind: str) -> bytes:
            try:
                return self._call("keeping", lambda: self._http.send("keeping", "GET", "", query={kind: ""}).data)
            except StorageError as error:
                if error.code != "ObjectLockConfigurationNotFoundError":
                    raise
                return b""

        try:
            versioning, lock = described("versioning"), described("object-lock")
        except StorageError as error:
            if error.code not in faults.UNABLE:
                raise
            return None
        days = int(faults.xml_text(lock, "Days") or 365 * int(faults.xml_text(lock, "Years") or 0))
        return Keeping(faults.xml_text(versioning, "Status") or "", bool(lock), faults.xml_text(lock, "Mode"), days)


def _pieces(body: Body, size: int) -> Iterator[bytes | memoryview]:
    """Exactly ``size`` bytes of ``body``, in pieces."""
    if isinstance(body, bytes | bytearray | memoryview):
        view = memoryview(body).cast("B")
        if len(view) != size:
            raise _SourceFailed from ValueError(f"the body has {len(view)} bytes instead of {size}")
        for start in range(0, size, PIECE):
            yield view[start : start + PIECE]
        return
    left = size
    while left:
        try:
            piece = body.read(min(PIECE, left))
        except Exception as error:
            raise _SourceFailed from error
        if not piece:
            raise _SourceFailed from ValueError(f"the stream ended {left} bytes early")
        left -= len(piece)
        yield piece


def _class_header(storage_class: str | None) -> dict[str, str]:
    return {"x-amz-storage-class": storage_class} if storage_class else {}


def _seconds(expires_in: timedelta) -> int:
    return max(1, min(int(expires_in.total_seconds()), MAX_EXPIRY))


def _after(now: float, seconds: int) -> datetime:
    return datetime.fromtimestamp(int(now) + seconds, UTC)


def _part_query(ref: MultipartRef, number: int) -> dict[str, str]:
    return {"partNumber": str(number), "uploadId": ref.upload_id}
