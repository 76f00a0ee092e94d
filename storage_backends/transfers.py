"""Where bytes move: the part of a store that both backends share.

Writing and reading objects, writing parts, and everything that is handed to clients as a presigned request. The SDKs
take no part in it (see ``signed_http``); a backend adds its SDK's control calls and the translation of its errors.
"""

from __future__ import annotations

import secrets
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, Literal, TypeVar

import urllib3
from urllib3.exceptions import HTTPError

from core.breaker import Away, Breaker, Places
from core.ids import PROBE_PREFIX
from storage_backends import Observer, StorageSettings, faults
from storage_backends.base import (
    ByteRange,
    Capacity,
    Checksum,
    ChecksumMismatch,
    MultipartRef,
    ObjectInfo,
    OutcomeUnknown,
    OutOfSpace,
    Part,
    PartLimits,
    PresignedPost,
    PresignedRequest,
    StorageError,
    StorageUnavailable,
)
from storage_backends.presign import MAX_EXPIRY, Presigner
from storage_backends.signed_http import SignedHttp

T = TypeVar("T")
Body = BinaryIO | bytes | bytearray | memoryview

PIECE = 64 * 1024  # bytes handed to the socket at once; a stall is counted over each
PROBE_TIME = 5.0  # seconds for all of a probe
LONG = frozenset({"copy", "copy_part", "complete_multipart"})  # these may take minutes, without a word until the end
# A full store writes no more while there is still some room: SeaweedFS opens no further volume, or keeps a hundredth free.
FULL_BELOW, FULL_SHARE = 256 * 1024**2, 0.02  # bytes, and of the disk


class _SourceFailed(Exception):
    """Carries an error of the caller's stream past urllib3, which would take an OSError for one of its own."""


class Reader:
    """An open object (``base.ObjectReader``)."""

    def __init__(self, info: ObjectInfo, response: urllib3.BaseHTTPResponse):
        self.info = info
        self.finished = False
        self._response = response

    def read(self, size: int = -1, /) -> bytes:
        if self.finished or size == 0:
            return b""
        try:
            data = self._response.read(None if size < 0 else size)  # raises where the body ends too early
        except (HTTPError, OSError, ValueError) as error:
            raise StorageUnavailable(f"reading {self.info.key}: {error}") from error
        self.finished = size < 0 or not data
        return data


class Transfers(ABC):
    part_limits = PartLimits()

    def __init__(self, settings: StorageSettings, *, observe: Observer | None = None):
        keys = {
            "region": settings.region,
            "bucket": settings.bucket,
            "access_key": settings.access_key,
            "secret_key": settings.secret_key,
        }
        self._settings = settings
        self._bucket = settings.bucket
        self._observe = observe
        self._http = SignedHttp(Presigner(settings.endpoint, **keys), settings.connections)
        self._public = Presigner(settings.public_endpoint or settings.endpoint, **keys)
        # Not all threads that may use the bucket may wait for it at once; the rest is for requests that need no bucket.
        self._breaker = Breaker()
        self._places = Places(max(1, settings.connections // 2))
        self._long_places = Places(max(1, settings.connections // 4))

    @abstractmethod
    def _translate(self, operation: str, error: Exception) -> StorageError | None:
        """The vendor's exception in ``base``'s terms; None for what is no answer of the bucket, a bug above all."""

    def _call(self, operation: str, request: Callable[[], T], *, repeatable: bool = True) -> T:
        """The one funnel to the bucket: time, bounded repeats and translated errors, and nothing at all while the bucket
        is away. ``repeatable`` says that doing it twice does no harm, also where the first try's outcome is unknown."""

        def once() -> T:
            try:
                return request()
            except _SourceFailed as failed:
                raise (failed.__cause__ or failed) from None
            except StorageError:
                raise
            except Exception as error:
                fault = self._translate(operation, error)
                if fault is None:
                    raise
                raise fault from error

        started, outcome = time.monotonic(), "ok"
        try:
            with (self._long_places if operation in LONG else self._places).taken():
                return self._watched(operation, lambda: faults.attempt(once, repeatable=repeatable))
        except Away as away:
            outcome = type(away).__name__
            raise StorageUnavailable(f"{operation}: the bucket was not asked: {away}") from away
        except Exception as error:
            outcome = type(error).__name__
            raise
        finally:
            if self._observe:
                self._observe(operation, outcome, time.monotonic() - started)

    def _watched(self, operation: str, request: Callable[[], T]) -> T:
        """Tell the breaker what came of it, and a full disk from other failures."""
        began = self._breaker.ask()
        try:
            answer = request()
        except StorageError as error:
            if isinstance(error, StorageUnavailable) and error.silent:
                self._breaker.unheard(began)
            else:
                self._answered()
            if error.code == "InternalError" and operation in faults.STORING and self._is_full():
                raise OutOfSpace(f"{error} (its disk is full)", code=error.code, request_id=error.request_id) from error
            raise
        self._answered()
        return answer

    def _answered(self) -> None:
        self._breaker.heard()
        self._long_places.progress()  # the bucket is there, and they are silent by nature

    def capacity(self) -> Capacity | None:
        """Of the disk that the bucket's server stores on, where that is a disk of this machine."""
        if self._settings.local_path is None:
            return None
        disk = shutil.disk_usage(self._settings.local_path)
        return Capacity(free=disk.free, total=disk.total)

    def _is_full(self) -> bool:
        disk = self.capacity()
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
        whole = isinstance(body, bytes | bytearray | memoryview)
        if size is None:
            if not isinstance(body, bytes | bytearray | memoryview):
                raise ValueError("a stream needs its size")
            size = memoryview(body).nbytes
        signed = {"Content-Type": content_type, "Content-Length": str(size), **_checksum_header(checksum)}
        if if_absent:
            signed["If-None-Match"] = "*"
        length = size

        def request() -> urllib3.BaseHTTPResponse:
            return self._http.send("put", "PUT", key, signed=signed, body=self._moving(_pieces(body, length)))

        # A repeat of a conditional write could meet its own first try, and a stream is gone once it was read.
        if whole:
            response = self._call("put", request, repeatable=not if_absent)
        else:
            response = self._call("put", _once(request), repeatable=False)
        echoed = _confirmed("put", response, checksum)
        return ObjectInfo(key, size, _etag("put", response), content_type, _date(response, "Date"), echoed)

    @contextmanager
    def open(self, key: str, *, byte_range: ByteRange | None = None, if_match: str | None = None) -> Iterator[Reader]:
        headers = {}
        if byte_range:
            headers["Range"] = f"bytes={byte_range.first}-{byte_range.last}"
        if if_match is not None:
            headers["If-Match"] = f'"{if_match}"'
        response = self._call("open", lambda: self._http.send("open", "GET", key, unsigned=headers, stream=True))
        reader = None
        try:
            if byte_range and response.status != 206:
                raise StorageUnavailable(f"open {key}: the bucket ignored the range")
            reader = Reader(_described(key, response), response)
            yield reader
        finally:
            if reader is None or not reader.finished:
                response.close()  # an unread rest would be taken for the next answer
            response.release_conn()

    def check(self) -> None:
        """Puts, reads and deletes ``probe/<random>``, with little patience: /readyz answers while a bucket hangs. One call is
        signed as those of the SDKs are, which a bucket with another clock refuses while presigned ones may pass."""
        key, word = f"{PROBE_PREFIX}{secrets.token_hex(16)}", secrets.token_bytes(32)
        deadline = time.monotonic() + PROBE_TIME

        def send(method: str, **request: Any) -> bytes:
            left = max(0.1, deadline - time.monotonic())
            return self._http.send("check", method, key, stall=left, **request).data

        def request() -> None:
            signed = {"Content-Type": "application/octet-stream", "Content-Length": "32"}
            send("PUT", signed=signed, body=word, in_headers=True)
            try:
                if send("GET") != word:
                    raise StorageUnavailable("check: the bucket gave back other bytes than it was given")
            finally:
                send("DELETE")

        self._call("check", request, repeatable=False)

    def _moving(self, pieces: Iterator[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        for piece in pieces:
            self._places.progress()
            yield piece

    # Parts

    def put_part(
        self, ref: MultipartRef, number: int, body: bytes | bytearray | memoryview, *, checksum: Checksum | None = None
    ) -> Part:
        size = memoryview(body).nbytes
        signed = {"Content-Length": str(size), **_checksum_header(checksum)}
        query = {"partNumber": str(number), "uploadId": ref.upload_id}
        response = self._call(
            "put_part",
            lambda: self._http.send(
                "put_part", "PUT", ref.key, query=query, signed=signed, body=self._moving(_pieces(body, size))
            ),
        )
        return Part(number, size, _etag("put_part", response), _confirmed("put_part", response, checksum))

    # What clients outside may do

    def presign_get(self, key: str, *, expires_in: timedelta, content_type: str, disposition: str) -> PresignedRequest:
        query = {"response-content-type": content_type, "response-content-disposition": disposition}
        return self._presigned("GET", key, expires_in, query, {})

    def presign_put(
        self, key: str, *, expires_in: timedelta, size: int, content_type: str, checksum: Checksum | None = None
    ) -> PresignedRequest:
        headers = {"Content-Type": content_type, "If-None-Match": "*", **_checksum_header(checksum)}
        return self._presigned("PUT", key, expires_in, {}, headers, size)

    def presign_part(
        self, ref: MultipartRef, number: int, *, size: int | None, expires_in: timedelta
    ) -> PresignedRequest:
        query = {"partNumber": str(number), "uploadId": ref.upload_id}
        return self._presigned("PUT", ref.key, expires_in, query, {}, size)

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


def checksum_in(answer: Mapping[str, Any], name: str) -> Checksum | None:
    """A checksum of the bytes themselves, found as ``name`` with the algorithm put in. What a multipart may have, one
    of its parts' checksums (``…-3``), is none."""
    algorithms: tuple[Literal["sha256", "crc32"], ...] = ("sha256", "crc32")
    for algorithm in algorithms:
        value = answer.get(name.format(algorithm.upper()))
        if value and "-" not in value:
            return Checksum(algorithm, value)
    return None


def completed(ref: MultipartRef, parts: Sequence[Part], etag: str | None) -> ObjectInfo:
    """What completion made, by the parts it was made of."""
    if not etag:
        raise OutcomeUnknown("complete_multipart: the bucket answered without an ETag")
    return ObjectInfo(ref.key, sum(part.size for part in parts), etag.strip('"'), None, datetime.now(UTC))


def _pieces(body: Body, size: int) -> Iterator[bytes | memoryview]:
    """``body`` in pieces that a slow line can take before the stall timeout, and exactly ``size`` bytes of it."""
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


def _once(request: Callable[[], T]) -> Callable[[], T]:
    """For streams: a second call would send what is left of the stream, so it repeats the first one's error."""
    failed: list[StorageError] = []

    def call() -> T:
        if failed:
            raise failed[0]
        try:
            return request()
        except StorageError as error:
            failed.append(error)
            raise

    return call


def _seconds(expires_in: timedelta) -> int:
    return max(1, min(int(expires_in.total_seconds()), MAX_EXPIRY))


def _after(now: float, seconds: int) -> datetime:
    return datetime.fromtimestamp(int(now) + seconds, UTC)


def _checksum_header(checksum: Checksum | None) -> dict[str, str]:
    return {f"x-amz-checksum-{checksum.algorithm}": checksum.value} if checksum else {}


def _confirmed(operation: str, response: urllib3.BaseHTTPResponse, checksum: Checksum | None) -> Checksum | None:
    """The checksum, if the bucket's answer repeats it."""
    echo = response.headers.get(f"x-amz-checksum-{checksum.algorithm}") if checksum else None
    if checksum and echo and echo != checksum.value:
        raise ChecksumMismatch(f"{operation}: the bucket stored {echo}, {checksum.value} was sent")
    return checksum if echo else None


def _etag(operation: str, response: urllib3.BaseHTTPResponse) -> str:
    etag = response.headers.get("ETag", "").strip('"')
    if not etag:
        raise OutcomeUnknown(f"{operation}: the bucket answered {response.status} without an ETag")
    return etag


def _date(response: urllib3.BaseHTTPResponse, header: str) -> datetime:
    try:
        return parsedate_to_datetime(response.headers.get(header, "")).astimezone(UTC)
    except (ValueError, TypeError):
        return datetime.now(UTC)


def _described(key: str, response: urllib3.BaseHTTPResponse) -> ObjectInfo:
    """The whole object's description from the answer to a GET, of a range or not."""
    total = response.headers.get("Content-Range", "").rpartition("/")[2] or response.headers.get("Content-Length", "")
    if not total.isdigit():
        raise StorageUnavailable(f"open {key}: the bucket did not say how long the object is")
    return ObjectInfo(
        key, int(total), _etag("open", response), response.headers.get("Content-Type"), _date(response, "Last-Modified")
    )
