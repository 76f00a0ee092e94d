"""Direct uploads: the client sends bytes to the bucket by presigned URLs, and the gateway sees only beginning and end.

A file of at most one part is sent by one PUT (or a POST form, for clients that need it) to an *incoming* key, and copied to
its object key, which no client knows, when it is completed (completion.py). A larger one is a multipart upload on its
object key; its part URLs are dead once it is complete.

Lengths are signed if the size is declared; if not, what has arrived is measured every few seconds. What has arrived is
always read from the bucket's own listing. The completed file is ``processing`` until a worker has read it back
(verification.py)."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID

import structlog

from core import content_types, names
from core.cursors import Cursors, Page
from core.errors import (
    FileTooLarge,
    GatewayError,
    IdempotencyInProgress,
    InvalidInput,
    Locked,
    QuotaExceeded,
    TooMany,
    UploadGone,
)
from core.ids import FILE_PREFIX, INCOMING_PREFIX, new_id, object_key
from core.parts import PartPlan, missing, plan
from core.placement import Placement
from core.principal import Principal
from db import Database, Tx, deferred_deletions, files, resumable, uploads
from db.records import FileRecord, UploadRecord
from db.uploads import NewUpload
from services.access.idempotency import Claim
from services.access.upload_tokens import uploader_of
from services.library.files import record_file
from services.objects.bucket import beginning_multipart, bucket_errors
from services.uploads.completion import Completion, check_owner, fits, plan_of, stored_part, unambiguous
from services.uploads.intake import RESUMABLE, Intake
from storage_backends.base import (
    Checksum,
    DirectStore,
    MultipartRef,
    ObjectNotFound,
    Part,
    PresignedPost,
    PresignedRequest,
    StorageError,
)

log = structlog.get_logger()

MAX_PARTS = 10_000  # S3's limits, for clients that choose the part size
MIN_PART = 5 * 1024 * 1024  # bytes, of all parts but the last
FIRST_BATCH = 100  # part URLs in the first answer
MAX_BATCH = 1_000  # part URLs in one call
MAX_SINGLE = 5 * 1024**3  # bytes that S3 takes in one PUT or POST
MAX_OUTSTANDING = 16  # parts without a signed length that may be on their way at once

_UNSIZED_URL_TTL = timedelta(minutes=10)  # of a part URL that takes any length
_MEASURE_UNSIZED = timedelta(seconds=4)  # between measurements; with a look every three seconds: within ten
_MEASURE_SIZED = timedelta(seconds=6)  # SeaweedFS keeps each version of a part that is sent again
_MEASURE_SPEED = 100_000_000  # bytes a second; a large upload is measured less often, as its size takes longer to send
_MEASURE_GRACE = timedelta(hours=1)  # a body may take so long after its URL has expired


DirectProtocol = Literal["direct", "s3"]


@dataclass(frozen=True, slots=True)
class DirectLimits:
    """Lifetimes."""

    upload_ttl: timedelta  # an unfinished upload expires so long after its client's last request
    url_ttl: timedelta  # of presigned upload URLs


class PartUrl(NamedTuple):
    """How one part is sent."""

    part_number: int
    request: PresignedRequest


@dataclass(frozen=True, slots=True)
class UploadPlan:
    """What a client needs to begin: one request, or the first batch of parts."""

    upload: UploadRecord
    method: Literal["PUT", "multipart"]
    part_size: int  # bytes
    part_count: int
    request: PresignedRequest | None
    parts: list[PartUrl]


@dataclass(frozen=True, slots=True)
class UploadProgress:
    """What has arrived; ``missing`` are ranges of part numbers, both ends included."""

    upload: UploadRecord
    bytes_received: int
    parts: list[Part]
    missing: list[tuple[int, int]]


class DirectUploads:
    """What clients ask of direct uploads. Another's upload is NotFound."""

    def __init__(
        self,
        db: Database,
        store: DirectStore,
        intake: Intake,
        completion: Completion,
        limits: DirectLimits,
        *,
        cursors: Cursors,
    ):
        self._db = db
        self._store = store
        self._intake = intake
        self._limits = limits
        self._cursors = cursors
        self._completion = completion

    # -- begin ---------------------------------------------------------------------------------------------------------

    def begin(
        self,
        principal: Principal,
        *,
        filename: str,
        size: int,
        content_type: str | None = None,
        sha256: str | None = None,
        session_id: str | None = None,
        placement: Placement = Placement(),  # noqa: B008 immutable
        once: Claim | None = None,
    ) -> UploadPlan:
        """Admit an upload of ``size`` bytes and sign its first requests. Name, type, size and quota are checked here. ``once``
        records the upload's id."""
        self._intake.policy.check_size(principal, size)
        parts = plan(size)
        single = parts.part_count == 1
        upload = self.admit(
            principal,
            protocol="direct",
            filename=filename,
            size=size,
            content_type=content_type,
            sha256=sha256,
            session_id=session_id,
            placement=placement,
            single=single,
            once=once,
        )
        return self._begun(upload, parts)

    def begun(self, upload_id: UUID) -> UploadPlan | None:
        """The plan of an upload that was admitted before, with new URLs; None if it was aborted or has expired."""
        upload = self.admitted(upload_id)
        if upload is None or upload.size is None:
            return None
        return self._begun(upload, plan_of(upload, upload.size))

    def admitted(self, upload_id: UUID) -> UploadRecord | None:
        """An upload that was admitted before, of which the client gets URLs again; None if it was aborted or has expired, or if
        the bucket has dropped it."""
        with self._db.connection() as tx:
            upload = uploads.get(tx, upload_id)
            if upload is None or upload.status in ("aborted", "expired"):
                return None
            upload = self._renewed(tx, upload, expires_in=timedelta()) or upload
        try:
            self._look_up(upload)
        except UploadGone:
            return None
        return upload

    def _begun(self, upload: UploadRecord, parts: PartPlan) -> UploadPlan:
        if upload.incoming_key is not None:
            return UploadPlan(upload, "PUT", upload.part_size or parts.part_size, 1, self.sign_put(upload), [])
        upload = self.start_multipart(upload)
        batch = self._signed(upload, parts, range(1, min(parts.part_count, FIRST_BATCH) + 1))
        return UploadPlan(upload, "multipart", parts.part_size, parts.part_count, None, batch)

    def admit(
        self,
        principal: Principal,
        *,
        protocol: DirectProtocol,
        filename: str,
        size: int | None,
        content_type: str | None,
        sha256: str | None = None,
        session_id: str | None = None,
        placement: Placement = Placement(),  # noqa: B008 immutable
        single: bool,
        part_size: int | None = None,
        once: Claim | None = None,
    ) -> UploadRecord:
        """The upload's row, with its keys. An undeclared size (``/s3``) reserves no quota until bytes are seen.
        ``part_size``: bytes of each part but the last, if the client has a rule of its own."""
        claimed = None if content_type in (None, "", "undefined", "null") else content_type
        clean = self._intake.policy.check_declared(principal, filename, size=size, claimed_type=claimed)
        extension, now = names.extension(clean), datetime.now(UTC)
        return self._intake.policy.admit(
            principal,
            NewUpload(
                owner_id=principal.owner_id,
                protocol=protocol,
                original_name=clean,
                size=size,
                reserve=size or 0,
                object_key=object_key(FILE_PREFIX, extension, now),
                incoming_key=object_key(INCOMING_PREFIX, extension, now) if single else None,
                content_type=_signable(claimed)
                or content_types.mime_for_extension(extension)
                or "application/octet-stream",
                part_size=None if size is None else part_size or plan(size).part_size,
                session_id=principal.session_of(session_id or new_id().hex),
                status="pending" if single else "uploading",
                expires_in=self._limits.upload_ttl,
                sha256=sha256,
                placement=self._intake.policy.place(principal, placement),
                urls_for=self._url_ttl(size),
            ),
            once=once,
        )

    def start_multipart(self, upload: UploadRecord) -> UploadRecord:
        """Begin the multipart upload if that was not done. If it fails, the upload is discarded."""
        if upload.multipart_id is not None:
            return upload
        ref = None
        try:
            with beginning_multipart(self._db, upload.object_key):
                ref = self._store.create_multipart(upload.object_key, content_type=upload.content_type)
            with self._db.connection() as tx:
                if not uploads.set_multipart(tx, upload.id, ref.upload_id):
                    raise UploadGone()
        except GatewayError as error:
            now = self.admitted(upload.id)
            if now is not None and now.multipart_id is not None:  # the same request, sent twice, was quicker
                with self._db.connection() as tx:
                    deferred_deletions.withdraw(tx, upload.object_key)
                if ref is not None and ref.upload_id != now.multipart_id:
                    with bucket_errors():
                        self._store.abort_multipart(ref)
                return now
            self._intake.discard([upload], problem=error.as_problem())
            raise
        return replace(upload, multipart_id=ref.upload_id)

    def sign_put(self, upload: UploadRecord) -> PresignedRequest:
        """The single PUT: length, type, If-None-Match: * and the checksum, if one was declared, are signed."""
        assert upload.incoming_key is not None
        assert upload.size is not None
        return self._store.presign_put(
            upload.incoming_key,
            expires_in=self._ttl_of_urls(upload),
            size=upload.size,
            content_type=upload.content_type,
            checksum=Checksum("sha256", _base64(upload.sha256)) if upload.sha256 else None,
        )

    def sign_post(self, principal: Principal, upload: UploadRecord) -> PresignedPost:
        """A POST policy, for clients that can't PUT. It can't forbid overwriting, so its object is copied before it is
        verified (T41). An undeclared size may be what quota and upload token leave now; that is not reserved, so
        several forms may share it. Raises QuotaExceeded if they leave nothing, after ending the upload."""
        assert upload.incoming_key is not None
        largest = upload.size
        if largest is None:
            available = self._intake.policy.available(upload)
            if available == 0 and upload.open:
                self._intake.discard([upload], problem=QuotaExceeded().as_problem())
                raise QuotaExceeded()
            largest = min(self._intake.policy.max_size(principal), MAX_SINGLE if available is None else available)
        return self._store.presign_post(
            upload.incoming_key,
            expires_in=self._ttl_of_urls(upload),
            min_size=upload.size or 0,
            max_size=min(largest, MAX_SINGLE),
            content_type=upload.content_type,
        )

    # -- resume --------------------------------------------------------------------------------------------------------

    def get(self, principal: Principal, upload_id: UUID) -> UploadRecord:
        """The caller's upload; NotFound for another's."""
        with self._db.connection() as tx:
            return check_owner(principal, uploads.get(tx, upload_id))

    def progress(self, principal: Principal, upload_id: UUID) -> UploadProgress:
        """What has arrived, read from the bucket: right after any crash of client or gateway. Raises UploadGone if the bucket
        has dropped the upload."""
        upload = self.get(principal, upload_id)
        if upload.status == "done":
            return UploadProgress(upload, self._size_of(upload), [], [])
        if upload.status in ("aborted", "expired"):
            if upload.problem is not None and upload.problem["code"] == UploadGone.code:
                raise UploadGone(upload.problem["detail"])
            return UploadProgress(upload, 0, [], [])
        if upload.protocol in RESUMABLE:
            return self._recorded(upload)
        parts = self.list_parts(upload) if upload.multipart_id else self._arrived(upload)
        if upload.size is None:
            return UploadProgress(upload, sum(part.size for part in parts), parts, [])
        if not parts and upload.multipart_id and self._assembled(upload):
            return UploadProgress(upload, upload.size, [], [])  # a completer died in the last step
        expected = plan_of(upload, upload.size)
        parts = [part for part in parts if fits(expected, part)]
        return UploadProgress(
            upload,
            sum(part.size for part in parts),
            parts,
            missing((part.number for part in parts), expected.part_count),
        )

    def _recorded(self, upload: UploadRecord) -> UploadProgress:
        """The row of a resumable upload knows what the bucket has confirmed."""
        with self._db.connection() as tx:
            record, recorded = resumable.get(tx, upload.id), resumable.parts(tx, upload.id)
        received = record.received if record is not None else 0
        return UploadProgress(upload, received, [stored_part(part) for part in recorded], [])

    def _size_of(self, upload: UploadRecord) -> int:
        if upload.size is not None:
            return upload.size
        with self._db.connection() as tx:
            file = files.get(tx, upload.file_id) if upload.file_id else None
        return file.file_size if file else 0

    def _arrived(self, upload: UploadRecord) -> list[Part]:
        """The object of a single PUT, as one part."""
        if upload.incoming_key is None:
            return []
        with bucket_errors():
            try:
                info = self._store.stat(upload.incoming_key)
            except ObjectNotFound:
                return []
        return [Part(1, info.size, info.etag)]

    def _assembled(self, upload: UploadRecord) -> bool:
        with bucket_errors():
            try:
                return self._store.stat(upload.object_key).size == upload.size
            except ObjectNotFound:
                return False

    def list_parts(self, upload: UploadRecord) -> list[Part]:
        """The bucket's parts, each number once. A part with two versions counts as missing: a client that sends it again
        knows the ETag that counts."""
        return unambiguous(self._completion.stored_parts(upload) or [])

    def sign_parts(self, principal: Principal, upload_id: UUID, part_numbers: Sequence[int]) -> list[PartUrl]:
        """Fresh URLs for these parts; this also postpones the upload's expiry. An upload by one PUT is its part 1. Raises
        UploadGone, Locked, InvalidInput, StorageFull."""
        if not 1 <= len(part_numbers) <= MAX_BATCH:
            raise InvalidInput(
                f"Ask for 1 to {MAX_BATCH} parts.", errors=[{"field": "part_numbers", "message": "1 to 1000"}]
            )
        upload = self.get(principal, upload_id)
        if upload.protocol in RESUMABLE or (
            upload.multipart_id is None and (upload.incoming_key is None or upload.size is None)
        ):
            raise InvalidInput("This upload has no URLs for parts; send its bytes by the protocol that began it.")
        parts = None if upload.size is None else plan_of(upload, upload.size)
        last = parts.part_count if parts else MAX_PARTS
        if not all(1 <= number <= last for number in part_numbers):
            raise InvalidInput(
                f"Parts are numbered 1 to {last}.", errors=[{"field": "part_numbers", "message": "out of range"}]
            )
        self._look_up(upload)
        self._intake.policy.check_size(principal, upload.size or 0)
        if parts is not None or not upload.open:
            return self._signed(self._renew(upload), parts, part_numbers)
        # Every part but the last has at least 5 MiB, so this much must fit.
        least = (max(part_numbers) - 1) * MIN_PART
        self._intake.policy.check_size(principal, least)
        if least > upload.reserved:
            self._intake.reserve(upload, least, expires_in=self._limits.upload_ttl)
        try:
            renewed = self._renew(upload, requested=part_numbers)
        except TooMany:  # unless some have arrived
            renewed = self._renew(upload, requested=part_numbers, arrived=self._measure(upload))
        return self._signed(renewed, parts, part_numbers)

    def _look_up(self, upload: UploadRecord) -> None:
        """Raises UploadGone, after ending the upload, if the bucket has dropped it: new URLs would not help."""
        if upload.open and upload.multipart_id is not None:
            self._completion.sent_parts(upload, after=MAX_PARTS)

    def _renew(
        self, upload: UploadRecord, *, requested: Sequence[int] = (), arrived: Sequence[int] = ()
    ) -> UploadRecord:
        """Postpone the upload's expiry. Raises UploadGone, Locked while it is being completed, TooMany if too many parts
        without a signed length have not arrived."""
        with self._db.connection() as tx:
            renewed = self._renewed(
                tx, upload, expires_in=self._limits.upload_ttl, requested=requested, arrived=arrived
            )
            if renewed is not None:
                return renewed
            now = uploads.get(tx, upload.id)
        if now is not None and now.status == "completing":
            raise Locked("The upload is being completed.")
        if now is not None and now.status == "done":
            raise UploadGone("The upload is complete.")
        if now is not None and now.open and not now.overdue:
            raise TooMany(f"Send some parts first: at most {MAX_OUTSTANDING} may be on their way.", retry_after=5)
        raise UploadGone((now.problem or {}).get("detail") if now is not None else None)

    def _renewed(
        self,
        tx: Tx,
        upload: UploadRecord,
        *,
        expires_in: timedelta,
        requested: Sequence[int] = (),
        arrived: Sequence[int] = (),
    ) -> UploadRecord | None:
        return uploads.renew(
            tx,
            upload.id,
            expires_in=expires_in,
            urls_for=self._url_ttl(upload.size),
            requested=requested,
            arrived=arrived,
            max_outstanding=MAX_OUTSTANDING,
        )

    # -- more than was declared ----------------------------------------------------------------------------------------

    def watch(self) -> None:
        """End the multipart uploads whose clients sent more than they may: within seconds if a URL takes any length."""
        with self._db.connection() as tx:
            due = uploads.claim_measurements(
                tx,
                unsized=_MEASURE_UNSIZED,
                sized=_MEASURE_SIZED,
                speed=_MEASURE_SPEED,
                grace=_MEASURE_GRACE,
                limit=MAX_BATCH,
            )
        for upload in due:
            try:
                self._measure(upload)
            except (GatewayError, StorageError) as error:
                log.warning("upload_measured", upload_id=str(upload.id), error=type(error).__name__)

    def _measure(self, upload: UploadRecord) -> list[int]:
        """Reserve quota for what has arrived; the numbers of the parts. Raises QuotaExceeded and FileTooLarge, after ending
        the upload.

        Buckets may keep each version of a part, and clients send one again if an answer was lost. So twice the size and two
        parts are allowed; of a declared size these two parts need no quota."""
        stored = self._completion.sent_parts(upload) or []
        limit, spare = upload.size, 0
        if limit is None:
            with self._db.connection() as tx:
                limit = self._intake.policy.max_size(uploader_of(tx, upload))
        else:
            spare = 2 * plan_of(upload, limit).part_size
        total = sum(part.size for part in stored)
        largest: dict[int, int] = {}
        for part in stored:
            largest[part.number] = max(part.size, largest.get(part.number, 0))
        if sum(largest.values()) > limit or total > 2 * limit + spare:
            error = FileTooLarge(f"The upload may have {limit} bytes; {total} have arrived.")
            self._intake.abort(upload, problem=error.as_problem())
            raise error
        if total > upload.reserved + spare:
            self._intake.reserve(upload, total, expires_in=timedelta())
        return list(largest)

    def _signed(self, upload: UploadRecord, parts: PartPlan | None, numbers: Sequence[int]) -> list[PartUrl]:
        if upload.multipart_id is None:
            return [PartUrl(1, self.sign_put(upload))]
        ref, ttl = MultipartRef(upload.object_key, upload.multipart_id), self._ttl_of_urls(upload)
        sizes = {n: parts.length_of(n) if parts else None for n in numbers}
        return [
            PartUrl(*part) for part in zip(sizes, self._store.presign_parts(ref, sizes, expires_in=ttl), strict=True)
        ]

    def _url_ttl(self, size: int | None) -> timedelta:
        longest = min(self._limits.url_ttl, self._limits.upload_ttl)
        return longest if size is not None else min(longest, _UNSIZED_URL_TTL)

    def _ttl_of_urls(self, upload: UploadRecord) -> timedelta:
        """URLs never outlive their upload."""
        left = upload.expires_at - datetime.now(UTC) if upload.open else timedelta()
        return max(timedelta(seconds=1), min(self._url_ttl(upload.size), left))

    def unfinished(self, principal: Principal, *, limit: int, cursor: str | None) -> Page[UploadRecord]:
        """The caller's unfinished uploads by any protocol, newest first; an upload token sees only its own."""
        scope = f"uploads:{principal.owner_id}:{principal.apart}"
        after = self._cursors.after(cursor, UUID, scope=scope)
        with self._db.connection() as tx:
            found = uploads.unfinished(tx, principal, after=after, limit=limit + 1)
        return self._cursors.page(found, lambda upload: upload.id, limit=limit, scope=scope)

    # -- end -----------------------------------------------------------------------------------------------------------

    def complete(
        self,
        principal: Principal,
        upload_id: UUID,
        *,
        parts: Sequence[tuple[int, str]] | None = None,
        sha256: str | None = None,
        once: Claim | None = None,
    ) -> FileRecord:
        """Make the upload a file. May be repeated, also at the same time: one request does it, all get the same file. ``once``
        records it afterwards.

        ``parts`` are (number, ETag) as the client saw them. Raises PartsMismatch, after which the upload can go on, and
        UploadGone."""
        file = self._completion.complete(principal, upload_id, parts=parts, sha256=sha256)
        if once is not None:
            with suppress(IdempotencyInProgress), self._db.connection() as tx:
                record_file(tx, once, file)
        return file

    def abort(self, principal: Principal, upload_id: UUID) -> None:
        """Remove what arrived. An upload that is over stays as it is, and so does its file."""
        self._intake.abort(self.get(principal, upload_id))

    def sweep(self) -> int:
        """Complete the uploads whose clients did not (completion.py). Returns how many."""
        return self._completion.sweep()


def _signable(content_type: str | None) -> str | None:
    """A claimed type without its parameters, if it is valid in a header."""
    return content_types.canonical(content_type) if content_type else None


def _base64(hexadecimal: str) -> str:
    return b64encode(bytes.fromhex(hexadecimal)).decode()
