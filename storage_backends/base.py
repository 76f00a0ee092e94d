"""What the gateway asks of a bucket: a small core, and one Protocol per ability.

A backend implements ``ObjectStore`` and whichever abilities its server has; ``app.wire()`` asks for an
ability once, with ``isinstance``. There is no method that raises "unsupported": an ability that is not
there is a Protocol that is not satisfied.

Object storage is not a file system: keys are flat, an object is written whole or not at all, an **ETag** is
an opaque validator and never a hash. Errors are a small tree of their own (below); services translate them,
since only they know whether a missing object is a client's 404 or our own damage.

    StorageError
    ├── ObjectNotFound       the exact code NoSuchKey (or a 404 to HEAD), never "any 4xx"
    ├── UploadNotFound       NoSuchUpload: never read as "complete"
    ├── PreconditionFailed   If-None-Match, If-Match or CopySourceIfMatch did not hold
    ├── ChecksumMismatch     the bucket refused the bytes by their checksum
    ├── InvalidPart          completion named a part that the bucket does not hold so
    ├── OutOfSpace           the bucket is full
    └── StorageUnavailable   it did not happen (refused, SlowDown, 503): safe to try again
        ├── StorageRefused   credentials, clock, bucket name or rights are wrong: trying again needs an operator first
        └── OutcomeUnknown   a time-out or a reset: it may have happened; re-read before saying so
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import BinaryIO, Literal, Protocol, runtime_checkable

CLOCK_SKEW = "RequestTimeTooSkewed"  # S3's code where its clock and ours differ by more than 15 minutes


class StorageError(Exception):
    """``code`` is S3's own word for it, and ``request_id`` the server's id of the failed request, for its operator;
    neither is shown to clients."""

    def __init__(self, message: str, *, code: str | None = None, request_id: str | None = None):
        super().__init__(message)
        self.code = code
        self.request_id = request_id


class ObjectNotFound(StorageError):
    pass


class UploadNotFound(StorageError):
    pass


class PreconditionFailed(StorageError):
    pass


class ChecksumMismatch(StorageError):
    pass


class InvalidPart(StorageError):
    pass


class OutOfSpace(StorageError):
    pass


class StorageUnavailable(StorageError):
    """``silent``: there was no answer at all; it timed out, or nobody was listening."""

    def __init__(self, message: str, *, silent: bool = False, **known: str | None):
        super().__init__(message, **known)
        self.silent = silent


class StorageRefused(StorageUnavailable):
    pass


class OutcomeUnknown(StorageUnavailable):
    pass


@dataclass(frozen=True, slots=True)
class Checksum:
    """``value`` is base64 as S3's ``x-amz-checksum-<algorithm>`` headers carry it."""

    algorithm: Literal["sha256", "crc32"]
    value: str


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    key: str
    size: int  # bytes
    etag: str  # opaque, without the quotes
    content_type: str | None  # None where a listing does not tell
    last_modified: datetime
    checksum: Checksum | None = None


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes ``first`` to ``last``, both included (RFC 9110 §14.1.2)."""

    first: int
    last: int

    @property
    def length(self) -> int:
        return self.last - self.first + 1


class ObjectReader(Protocol):
    """An open object. ``read(n)`` gives up to n bytes, b"" at the end; a break midway raises StorageUnavailable."""

    info: ObjectInfo  # of the whole object, also where a range was asked for

    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class PartLimits:
    min_size: int = 5 * 1024 * 1024  # bytes; the last part may be smaller
    max_size: int = 5 * 1024**3
    max_count: int = 10_000


@dataclass(frozen=True, slots=True)
class MultipartRef:
    key: str
    upload_id: str
    started_at: datetime | None = None  # known from a listing only


@dataclass(frozen=True, slots=True)
class Part:
    number: int  # 1..10,000
    size: int  # bytes
    etag: str  # without the quotes
    checksum: Checksum | None = None


@dataclass(frozen=True, slots=True)
class PresignedRequest:
    """A request that its holder may send to the bucket until ``expires_at``, with exactly these headers.

    A signed Content-Length is not among them: every client sets it by itself from the body, and a browser refuses to
    have it set."""

    method: Literal["GET", "PUT"]
    url: str
    expires_at: datetime
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PresignedPost:
    """A POST policy: ``fields`` go before the file in a multipart/form-data body. It can be replayed while it lives."""

    url: str  # ends in a slash
    fields: Mapping[str, str]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Capacity:
    free: int  # bytes
    total: int


@runtime_checkable
class ObjectStore(Protocol):
    """The floor: what every backend does."""

    def put(
        self,
        key: str,
        body: BinaryIO | bytes | bytearray | memoryview,
        *,
        content_type: str,
        size: int | None = None,
        checksum: Checksum | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        """Write one object whole. ``size`` in bytes is needed for a stream; a stream that ends early raises ValueError,
        and what its ``read`` raises is passed on, with nothing written. With ``if_absent`` an existing object is kept
        and PreconditionFailed raised."""
        ...

    def stat(self, key: str) -> ObjectInfo: ...

    def open(
        self, key: str, *, byte_range: ByteRange | None = None, if_match: str | None = None
    ) -> AbstractContextManager[ObjectReader]:
        """Read an object, or the range of it. ObjectNotFound and PreconditionFailed are raised on entering the context,
        before any byte."""
        ...

    def delete(self, key: str) -> None:
        """Absent is fine."""
        ...

    def list_objects(self, prefix: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        """All objects under ``prefix``, every page, beginning behind the key ``after``; keys that differ in their last
        path segment only come in byte order. S3 sorts whole keys; SeaweedFS sorts folder by folder (``c/1`` before
        ``c-1``) and, after ``a/2``, leaves out ``a/2/3``."""
        ...

    def check(self) -> None:
        """Write, read and delete a probe object; for /readyz."""
        ...


@runtime_checkable
class Multipart(Protocol):
    part_limits: PartLimits

    def create_multipart(
        self, key: str, *, content_type: str, checksums: Literal["sha256", "crc32"] | None = None
    ) -> MultipartRef:
        """Begin an upload. ``checksums`` names the algorithm that every part will bring: AWS S3 refuses checksums that
        were not announced here, and, where they were, completion wants them repeated in each ``Part``."""
        ...

    def put_part(
        self, ref: MultipartRef, number: int, body: bytes | bytearray | memoryview, *, checksum: Checksum | None = None
    ) -> Part:
        """Store one part; the answer's ETag, and ``checksum`` where the bucket enforced it and said so, confirm it."""
        ...

    def list_parts(self, ref: MultipartRef) -> Iterator[Part]:
        """What the bucket holds, all pages, by number; UploadNotFound where the upload is over."""
        ...

    def complete_multipart(self, ref: MultipartRef, parts: Sequence[Part], *, if_absent: bool = False) -> ObjectInfo:
        """Join the parts. The answer's size is the sum of theirs: ``stat`` tells what the bucket holds. Not repeated
        inside: after OutcomeUnknown the caller finds out with ``stat`` and ``list_parts``."""
        ...

    def abort_multipart(self, ref: MultipartRef) -> None:
        """Absent is fine."""
        ...

    def list_multiparts(self, prefix: str) -> Iterator[MultipartRef]:
        """Uploads not yet completed. MinIO finds those of one exact key only and none by prefix (it drops stale ones by
        itself after a day), so absence here proves nothing."""
        ...


@runtime_checkable
class Presigns(Protocol):
    """URLs on the public endpoint, for browsers and other clients outside."""

    def presign_get(self, key: str, *, expires_in: timedelta, content_type: str, disposition: str) -> PresignedRequest:
        """Content-Type and Content-Disposition of the answer are fixed in the signature (THREATS T32)."""
        ...

    def presign_put(
        self, key: str, *, expires_in: timedelta, size: int, content_type: str, checksum: Checksum | None = None
    ) -> PresignedRequest:
        """Signs length, type, If-None-Match: * and, where given, the checksum (THREATS T41)."""
        ...

    def presign_post(
        self, key: str, *, expires_in: timedelta, min_size: int, max_size: int, content_type: str
    ) -> PresignedPost: ...


@runtime_checkable
class PresignsParts(Presigns, Multipart, ObjectStore, Protocol):
    def presign_part(
        self, ref: MultipartRef, number: int, *, size: int | None, expires_in: timedelta
    ) -> PresignedRequest:
        """Signs the part's exact length; with None any length, for clients that don't tell theirs."""
        ...


@runtime_checkable
class Copies(Protocol):
    """Copying inside the bucket, without the bytes passing through us."""

    def copy(
        self, source: str, target: str, *, content_type: str | None = None, if_source_etag: str | None = None
    ) -> ObjectInfo:
        """One request, up to 5 GiB on S3. Another type than the source's is set where ``content_type`` is given.
        PreconditionFailed where the source has another ETag than ``if_source_etag``."""
        ...

    def copy_part(
        self,
        ref: MultipartRef,
        number: int,
        source: str,
        *,
        byte_range: ByteRange | None = None,
        if_source_etag: str | None = None,
    ) -> Part: ...


class MultipartStore(ObjectStore, Multipart, Protocol):
    """What every way in that sends bytes through the gateway needs."""


class CopyingStore(MultipartStore, Copies, Protocol):
    """What joining uploads needs."""


class DirectStore(PresignsParts, Copies, Protocol):
    """What direct uploads need."""


@runtime_checkable
class DeletesMany(Protocol):
    def delete_many(self, keys: Sequence[str]) -> None:
        """Any number of keys; absent is fine."""
        ...


@runtime_checkable
class ManagesBucket(Protocol):
    """What bootstrap and doctor ask for. A server that can't is answered with False, never with a failed start."""

    def ensure_bucket(self) -> bool:
        """Create the bucket where it is missing; True if it was created."""
        ...

    def set_cors(self, origins: Sequence[str]) -> bool:
        """Let these origins GET, HEAD, PUT and POST, with ETag exposed. False where the server keeps its origins
        elsewhere (MinIO: 501, set MINIO_API_CORS_ALLOW_ORIGIN). No origins takes the rule away, after which SeaweedFS
        lets everyone in: name at least the gateway's own."""
        ...

    def set_abort_incomplete_rule(self, prefix: str, *, days: int) -> bool:
        """A lifecycle rule that aborts multiparts left under ``prefix``; False where the server has none."""
        ...


@runtime_checkable
class ReportsCapacity(Protocol):
    def capacity(self) -> Capacity | None: ...
