"""What the gateway asks of a bucket: ``ObjectStore``, and one Protocol per ability.

A backend implements ``ObjectStore`` and the abilities that its server has. ``app.wire()`` checks an ability once, with
``isinstance``; no method raises "unsupported".

Keys are flat, an object is written whole or not at all, and an **ETag** is an opaque validator, never a hash. Services
translate the errors below, because only they know whether a missing object is a client's 404 or our own damage.

    StorageError
    ├── ObjectNotFound       the exact code NoSuchKey (or a 404 to HEAD), never "any 4xx"
    ├── UploadNotFound       NoSuchUpload; it does not mean that the upload was completed
    ├── PreconditionFailed   If-None-Match, If-Match or x-amz-copy-source-if-match did not hold
    ├── ChecksumMismatch     the bytes do not match their checksum
    ├── InvalidPart          a completion lists a part that the bucket does not have
    ├── OutOfSpace           the bucket is full
    ├── ObjectLocked         the bucket's object lock keeps the bytes for now
    ├── ObjectFrozen         its storage class can't be read before a thaw
    └── StorageUnavailable   the request had no effect (refused, SlowDown, 503): safe to retry
        ├── StorageRefused   wrong credentials, clock, bucket name or rights: an operator has to act before a retry
        └── OutcomeUnknown   a timeout or a reset: the request may have taken effect
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import BinaryIO, Literal, NamedTuple, Protocol, runtime_checkable

from core.ranges import ByteRange as ByteRange

CLOCK_SKEW = "RequestTimeTooSkewed"  # S3's code if its clock and ours differ by more than 15 minutes


class StorageError(Exception):
    """``code`` is S3's error code and ``request_id`` the server's id of the request. Neither is shown to clients."""

    def __init__(self, message: str, *, code: str | None = None, request_id: str | None = None):
        super().__init__(message)
        self.code = code
        self.request_id = request_id


class ObjectNotFound(StorageError):
    """There is no object with this key."""


class UploadNotFound(StorageError):
    """The multipart upload was completed or aborted, or never begun."""


class PreconditionFailed(StorageError):
    """The object exists already, or has another ETag."""


class ChecksumMismatch(StorageError):
    """The bytes do not match the checksum that was sent with them."""


class InvalidPart(StorageError):
    """A listed part is missing, has another ETag, or is too small."""


class OutOfSpace(StorageError):
    """The bucket is full."""


class ObjectLocked(StorageError):
    """The bucket's object lock keeps the bytes ``until`` then."""

    def __init__(self, message: str, *, until: datetime, **details: str | None):
        super().__init__(message, **details)
        self.until = until


class ObjectFrozen(StorageError):
    """The object is in a storage class that can't be read before a thaw."""


class StorageUnavailable(StorageError):
    """The request had no effect. ``no_answer``: it timed out, or the connection was refused."""

    def __init__(self, message: str, *, no_answer: bool = False, **details: str | None):
        super().__init__(message, **details)
        self.no_answer = no_answer


class StorageRefused(StorageUnavailable):
    """Wrong credentials, clock, bucket name or rights."""


class OutcomeUnknown(StorageUnavailable):
    """The request may or may not have taken effect."""


@dataclass(frozen=True, slots=True)
class Checksum:
    """A checksum in base64, as in S3's ``x-amz-checksum-<algorithm>`` headers."""

    algorithm: Literal["sha256", "crc32"]
    value: str


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object's description."""

    key: str
    size: int  # bytes
    etag: str  # opaque, without the quotes
    content_type: str | None  # None in listings
    last_modified: datetime
    checksum: Checksum | None = None
    storage_class: str | None = None  # None: the bucket's default, and in listings
    readable: bool = True  # False: frozen, until a thaw has ended
    thawing: bool = False


class ObjectReader(Protocol):
    """An open object."""

    info: ObjectInfo  # of the whole object, also if only a range is read

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes, b"" at the end. Raises StorageUnavailable if the response breaks off."""
        ...


@dataclass(frozen=True, slots=True)
class PartLimits:
    """S3's limits for parts."""

    min_size: int = 5 * 1024 * 1024  # bytes; the last part may be smaller
    max_size: int = 5 * 1024**3
    max_count: int = 10_000


@dataclass(frozen=True, slots=True)
class MultipartRef:
    """A multipart upload."""

    key: str
    upload_id: str
    started_at: datetime | None = None  # only in listings


@dataclass(frozen=True, slots=True)
class Part:
    """A part in the bucket."""

    number: int  # 1..10,000
    size: int  # bytes
    etag: str  # without the quotes
    checksum: Checksum | None = None


class PresignedRequest(NamedTuple):
    """A request that its holder may send to the bucket until ``expires_at``, with exactly these headers.

    A signed Content-Length is not among them: clients set it from the body, and browsers don't let pages set it."""

    method: Literal["GET", "PUT"]
    url: str
    expires_at: datetime
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PresignedPost:
    """A POST policy: ``fields`` precede the file in a multipart/form-data body. It can be used again until it expires."""

    url: str  # ends in a slash
    fields: Mapping[str, str]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Capacity:
    """Space on the bucket's disk."""

    free: int  # bytes
    total: int


@runtime_checkable
class ObjectStore(Protocol):
    """What every backend does."""

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
        """Write an object. A stream needs its ``size`` in bytes. If it ends early, ValueError is raised; errors of its
        ``read`` pass through; nothing is written then. With ``if_absent`` an existing object raises PreconditionFailed."""
        ...

    def stat(self, key: str) -> ObjectInfo:
        """The object's description. Raises ObjectNotFound."""
        ...

    def open(
        self, key: str, *, byte_range: ByteRange | None = None, if_match: str | None = None
    ) -> AbstractContextManager[ObjectReader]:
        """Read an object or a range of it. ObjectNotFound and PreconditionFailed are raised on entering the context."""
        ...

    def delete(self, key: str) -> None:
        """Delete an object, in all its versions; it may be absent. Raises ObjectLocked."""
        ...

    def list_objects(self, prefix: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        """All objects under ``prefix``, all pages, starting after the key ``after``. Keys that differ only in their last
        path segment come in byte order. S3 sorts whole keys; SeaweedFS sorts folder by folder (``c/1`` before ``c-1``)
        and omits ``a/2/3`` after ``a/2``."""
        ...

    def check(self) -> None:
        """Write, read and delete a probe object; for /readyz. One that is locked is kept and only read by later calls."""
        ...


@runtime_checkable
class Multipart(Protocol):
    """Multipart uploads."""

    part_limits: PartLimits

    def create_multipart(
        self,
        key: str,
        *,
        content_type: str,
        checksums: Literal["sha256", "crc32"] | None = None,
        storage_class: str | None = None,
    ) -> MultipartRef:
        """Begin an upload. ``checksums`` is the algorithm of all parts' checksums: AWS S3 refuses a part's checksum that was
        not announced here; if it was, the completion must repeat it in each ``Part``. ``storage_class`` is the server's own
        name of one; None: its default."""
        ...

    def put_part(
        self, ref: MultipartRef, number: int, body: bytes | bytearray | memoryview, *, checksum: Checksum | None = None
    ) -> Part:
        """Store a part. The result has ``checksum`` only if the bucket confirmed it."""
        ...

    def list_parts(self, ref: MultipartRef, *, after: int = 0) -> Iterator[Part]:
        """The parts in the bucket whose number is above ``after``, all pages, by number. Raises UploadNotFound if the upload
        has ended."""
        ...

    def complete_multipart(self, ref: MultipartRef, parts: Sequence[Part], *, if_absent: bool = False) -> ObjectInfo:
        """Join the parts. The result's size is the sum of the parts' sizes; ``stat`` reads it from the bucket. Never retried:
        after OutcomeUnknown the caller checks with ``stat`` and ``list_parts``."""
        ...

    def abort_multipart(self, ref: MultipartRef) -> None:
        """Abort an upload; it may be absent."""
        ...

    def list_multiparts(self, prefix: str) -> Iterator[MultipartRef]:
        """Unfinished uploads. Absence proves nothing: MinIO lists them by exact key or, with an empty ``prefix``, those since its
        start, and drops stale ones after a day."""
        ...


@runtime_checkable
class Presigns(Protocol):
    """Presigned requests to the public endpoint, for clients."""

    def presign_get(self, key: str, *, expires_in: timedelta, content_type: str, disposition: str) -> PresignedRequest:
        """Signs the response's Content-Type and Content-Disposition (T32)."""
        ...

    def presign_put(
        self, key: str, *, expires_in: timedelta, size: int, content_type: str, checksum: Checksum | None = None
    ) -> PresignedRequest:
        """Signs length, type, If-None-Match: * and the checksum, if any (T41)."""
        ...

    def presign_post(
        self, key: str, *, expires_in: timedelta, min_size: int, max_size: int, content_type: str
    ) -> PresignedPost:
        """A POST policy for one key, one type, and a size of ``min_size`` to ``max_size`` bytes."""
        ...


@runtime_checkable
class PresignsParts(Presigns, Multipart, ObjectStore, Protocol):
    """Presigned requests for parts."""

    def presign_parts(
        self, ref: MultipartRef, sizes: Mapping[int, int | None], *, expires_in: timedelta
    ) -> list[PresignedRequest]:
        """Signs the exact length of each part, or none if it is None. ``sizes`` has the lengths by part number."""
        ...


@runtime_checkable
class Copies(Protocol):
    """Copies inside the bucket, whose bytes do not pass through the gateway."""

    def copy(
        self,
        source: str,
        target: str,
        *,
        content_type: str | None = None,
        if_source_etag: str | None = None,
        storage_class: str | None = None,
    ) -> ObjectInfo:
        """Copy an object with one request, up to 5 GiB on S3. ``content_type`` replaces the source's; ``storage_class`` is the
        server's own name of one, None: its default. Raises PreconditionFailed if the source's ETag is not
        ``if_source_etag``, and ObjectFrozen."""
        ...

    def copy_part(
        self,
        ref: MultipartRef,
        number: int,
        source: str,
        *,
        byte_range: ByteRange | None = None,
        if_source_etag: str | None = None,
    ) -> Part:
        """Make a part from an object or a range of it. Raises PreconditionFailed as ``copy`` does."""
        ...


@runtime_checkable
class Archives(Copies, Protocol):
    """Storage classes that must be thawed before they are read."""

    def thaw(self, key: str, *, days: int) -> None:
        """Ask for a temporary readable copy, kept for ``days``: it takes minutes to days until ``stat`` says ``readable``. It may
        be asked for again."""
        ...


class MultipartStore(ObjectStore, Multipart, Protocol):
    """What uploads through the gateway need."""


class CopyingStore(MultipartStore, Copies, Protocol):
    """What concatenation needs."""


class DirectStore(PresignsParts, Copies, Protocol):
    """What direct uploads need."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """What a bucket keeps of what is deleted."""

    versioning: str  # Enabled, Suspended, or "" if it never was
    object_lock: bool
    mode: str | None = None  # of the default retention: COMPLIANCE or GOVERNANCE
    days: int = 0  # of the default retention, counted from when an object was written


@runtime_checkable
class ManagesBucket(Protocol):
    """What bootstrap and doctor need. If the server lacks a rule, the method returns False."""

    def ensure_bucket(self) -> bool:
        """Create the bucket if it is missing; True if it was created."""
        ...

    def set_cors(self, origins: Sequence[str]) -> bool:
        """Let these origins GET, HEAD, PUT and POST, with ETag exposed. MinIO answers 501 (its origins are in
        MINIO_API_CORS_ALLOW_ORIGIN). Without origins the rule is removed; SeaweedFS then allows all origins, so pass at
        least the gateway's own."""
        ...

    def set_abort_incomplete_rule(self, prefix: str, *, days: int) -> bool:
        """A lifecycle rule that aborts unfinished uploads under ``prefix``."""
        ...

    def keeping(self) -> Keeping | None:
        """Versioning and object lock; None if the server has neither or the credentials may not read them."""
        ...


@runtime_checkable
class ReportsCapacity(Protocol):
    """Knows the space on the bucket's disk."""

    def capacity(self) -> Capacity | None:
        """The space; None if nothing tells it. Raises StorageUnavailable if what tells it does not answer."""
        ...
