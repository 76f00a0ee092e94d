"""Direct uploads: the client sends bytes to the bucket by presigned URLs, and the gateway sees only beginning and end.

A file of at most one part goes by a single PUT (or, for clients that need it, a POST form) to an *incoming* key, and is
copied to its object key, never given out, when it is completed (services/uploads/completion.py). A larger one is a multipart
upload on its object key; its part URLs are dead once it is complete.

Lengths are signed wherever the size is known; where nobody tells it, what has arrived is weighed every few seconds.

The truth about what has arrived is always the bucket's own listing. Completion makes the file ``processing``; a worker
reads it back (services/uploads/verification.py) before anybody can download it.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal
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
from db import Database, Tx, files, resumable, uploads
from db.records import FileRecord, UploadRecord
from db.uploads import NewUpload
from services.access.idempotency import Claim
from services.access.upload_tokens import uploader_of
from services.library.files import record_file
from services.objects.bucket import bucket_errors
from services.uploads.completion import Completion, fits, own, plan_of, stored_part, unequivocal
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

MAX_PARTS = 10_000  # S3's limits, for clients that cut by themselves
MIN_PART = 5 * 1024 * 1024  # bytes, of all parts but the last
FIRST_BATCH = 100  # part URLs in the first answer
MAX_BATCH = 1_000  # part URLs in one call
MAX_SINGLE = 5 * 1024**3  # bytes that S3 takes in one PUT or POST
MAX_AWAITED = 16  # parts that may be on their way at once where nobody told their lengths

_UNMEASURED_LIFE = timedelta(minutes=10)  # of a part URL that takes any length
_WEIGH_SOON = timedelta(seconds=4)  # with a look every three seconds: within ten
_WEIGH_LATER = timedelta(seconds=6)  # SeaweedFS keeps each version of a part that is sent again
_WEIGH_AFTER = timedelta(hours=1)  # a body may take so long after its URL has expired

_OPEN = ("pending", "uploading")

DirectProtocol = Literal["direct", "s3"]


@dataclass(frozen=True, slots=True)
class DirectLimits:
    upload_ttl: timedelta  # an unfinished upload lives so long after its last sign of life
    url_ttl: timedelta  # of presigned upload URLs


@dataclass(frozen=True, slots=True)
class PartUrl:
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
    """What the bucket holds of an upload; ``missing`` are ranges of part numbers, both ends included."""

    upload: UploadRecord
    bytes_received: int
    parts: list[Part]
    missing: list[tuple[int, int]]


class DirectUploads:
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
        """Admit an upload of ``size`` bytes and sign its first requests. Name, type, size and quota are judged here. ``once``
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
        """An upload that was admitted before, of which the client gets URLs again; None if it was aborted or has expired."""
        with self._db.connection() as tx:
            upload = uploads.get(tx, upload_id)
            if upload is None or upload.status in ("aborted", "expired"):
                return None
            return self._renewed(tx, upload, expires_in=timedelta()) or upload

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
        """The upload's row, with its keys. A size that the client does not tell (``/s3``) holds no quota until it is seen.
        ``part_size``: bytes of each part but the last, where the client cuts by a rule of its own."""
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
                expires_in=self._limits.upload_ttl,
                sha256=sha256,
                placement=self._intake.policy.place(principal, placement),
                urls_for=self._url_life(size),
            ),
            once=once,
        )

    def start_multipart(self, upload: UploadRecord) -> UploadRecord:
        """Open the bucket's multipart upload, unless it is; where that fails nothing is left of ours."""
        if upload.multipart_id is not None:
            return upload
        try:
            with bucket_errors():
                ref = self._store.create_multipart(upload.object_key, content_type=upload.content_type)
            with self._db.connection() as tx:
                if not uploads.set_multipart(tx, upload.id, ref.upload_id):
                    raise UploadGone()
        except GatewayError as error:
            now = self.admitted(upload.id)
            if now is not None and now.multipart_id is not None:  # the same request, sent again, was quicker
                return now
            self._intake.discard([upload], problem=error.as_problem())
            raise
        return replace(upload, multipart_id=ref.upload_id, status="uploading")

    def sign_put(self, upload: UploadRecord) -> PresignedRequest:
        """The single PUT: length, type, If-None-Match: * and the checksum, where the client declared one, are signed."""
        assert upload.incoming_key is not None
        assert upload.size is not None
        return self._store.presign_put(
            upload.incoming_key,
            expires_in=self._left(upload),
            size=upload.size,
            content_type=upload.content_type,
            checksum=Checksum("sha256", _base64(upload.sha256)) if upload.sha256 else None,
        )

    def sign_post(self, principal: Principal, upload: UploadRecord) -> PresignedPost:
        """A POST policy for clients that can do no other. It can't forbid overwriting: its object is copied before it is
        looked at (THREATS T41). A size that was not told may be what quota and token leave now, which nothing holds: several
        forms at once may share it. Raises QuotaExceeded where they leave nothing, after ending the upload."""
        assert upload.incoming_key is not None
        largest = upload.size
        if largest is None:
            room = self._intake.policy.room(upload)
            if room == 0 and upload.status in _OPEN:
                self._intake.discard([upload], problem=QuotaExceeded().as_problem())
                raise QuotaExceeded()
            largest = min(self._intake.policy.max_size(principal), MAX_SINGLE if room is None else room)
        return self._store.presign_post(
            upload.incoming_key,
            expires_in=self._left(upload),
            min_size=upload.size or 0,
            max_size=min(largest, MAX_SINGLE),
            content_type=upload.content_type,
        )

    # -- resume --------------------------------------------------------------------------------------------------------

    def get(self, principal: Principal, upload_id: UUID) -> UploadRecord:
        """The caller's own upload; NotFound for everybody else's."""
        with self._db.connection() as tx:
            return own(principal, uploads.get(tx, upload_id))

    def progress(self, principal: Principal, upload_id: UUID) -> UploadProgress:
        """What has arrived, read from the bucket, so that it is right after any crash of client or gateway."""
        upload = self.get(principal, upload_id)
        if upload.status == "done":
            return UploadProgress(upload, self._size_of(upload), [], [])
        if upload.status in ("aborted", "expired"):
            return UploadProgress(upload, 0, [], [])
        if upload.protocol in RESUMABLE:
            return self._recorded(upload)
        parts = self.list_parts(upload) if upload.multipart_id else self._arrived(upload)
        if upload.size is None:
            return UploadProgress(upload, sum(part.size for part in parts), parts, [])
        if not parts and upload.multipart_id and self._assembled(upload):
            return UploadProgress(upload, upload.size, [], [])  # a completer died in the last step: ask it again
        expected = plan_of(upload, upload.size)
        parts = [part for part in parts if fits(expected, part)]
        return UploadProgress(
            upload,
            sum(part.size for part in parts),
            parts,
            missing((part.number for part in parts), expected.part_count),
        )

    def _recorded(self, upload: UploadRecord) -> UploadProgress:
        """Of a resumable upload the row knows what the bucket has confirmed; its parts are of no use to the client."""
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
        """A single PUT's object as the one part it is."""
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
        """The bucket's parts, all pages, each number once; none where the bucket's upload is over. A part of which there are
        two versions counts as missing: whoever sends it again can say which is meant."""
        return unequivocal(self._completion.held_parts(upload) or [])

    def sign_parts(self, principal: Principal, upload_id: UUID, part_numbers: Sequence[int]) -> list[PartUrl]:
        """Fresh URLs for these parts, which also shows that the client is still at it. Part 1 of an upload that is sent whole
        is its PUT. Raises UploadGone, Locked, InvalidInput."""
        if not 1 <= len(part_numbers) <= MAX_BATCH:
            raise InvalidInput(
                f"Ask for 1 to {MAX_BATCH} parts.", errors=[{"field": "part_numbers", "message": "1 to 1000"}]
            )
        upload = self.get(principal, upload_id)
        if upload.protocol in RESUMABLE or (
            upload.multipart_id is None and (upload.incoming_key is None or upload.size is None)
        ):
            raise InvalidInput("This upload has no parts to ask for.")
        parts = None if upload.size is None else plan_of(upload, upload.size)
        last = parts.part_count if parts else MAX_PARTS
        if not all(1 <= number <= last for number in part_numbers):
            raise InvalidInput(
                f"Parts are numbered 1 to {last}.",
                errors=[{"field": "part_numbers", "message": "out of range"}],
            )
        if parts is not None:
            return self._signed(self._renew(upload), parts, part_numbers)
        # Every part but the last has 5 MiB at least, so this much must fit.
        self._foresee(principal, upload, (max(part_numbers) - 1) * MIN_PART)
        try:
            renewed = self._renew(upload, asked=part_numbers)
        except TooMany:  # unless some have come
            renewed = self._renew(upload, asked=part_numbers, arrived=self._weigh(upload))
        return self._signed(renewed, parts, part_numbers)

    def _renew(self, upload: UploadRecord, *, asked: Sequence[int] = (), arrived: Sequence[int] = ()) -> UploadRecord:
        """Let it live on, since its client is still there, but not for ever. Raises UploadGone, Locked while it is being
        completed, TooMany where too many parts that were asked for without a length have not arrived."""
        with self._db.connection() as tx:
            renewed = self._renewed(tx, upload, expires_in=self._limits.upload_ttl, asked=asked, arrived=arrived)
            if renewed is not None:
                return renewed
            now = uploads.get(tx, upload.id)
        if now is not None and now.status == "completing":
            raise Locked("The upload is being completed.")
        if now is not None and now.status == "done":
            raise UploadGone("The upload is complete.")
        if now is not None and now.status in ("pending", "uploading") and not now.overdue:
            raise TooMany(f"Send some of the parts first: {MAX_AWAITED} may be on their way.", retry_after=5)
        raise UploadGone((now.problem or {}).get("detail") if now is not None else None)

    def _renewed(
        self,
        tx: Tx,
        upload: UploadRecord,
        *,
        expires_in: timedelta,
        asked: Sequence[int] = (),
        arrived: Sequence[int] = (),
    ) -> UploadRecord | None:
        return uploads.renew(
            tx,
            upload.id,
            expires_in=expires_in,
            urls_for=self._url_life(upload.size),
            asked=asked,
            arrived=arrived,
            most=MAX_AWAITED,
        )

    # -- more than was told ------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """End the uploads in parts whose clients sent more than they may: within seconds where a URL takes any length."""
        with self._db.connection() as tx:
            due = uploads.take_to_weigh(tx, soon=_WEIGH_SOON, later=_WEIGH_LATER, grace=_WEIGH_AFTER, limit=MAX_BATCH)
        for upload in due:
            try:
                self._weigh(upload)
            except (GatewayError, StorageError) as error:
                log.warning("upload_weighed", upload_id=str(upload.id), error=type(error).__name__)

    def _weigh(self, upload: UploadRecord) -> list[int]:
        """Hold quota for what has come; the numbers of the parts. Raises QuotaExceeded and FileTooLarge, after ending the
        upload.

        Buckets may keep each version of a part that is sent again, as clients do where an answer was lost. Twice the size and
        two parts is more than that; where the size was told, these two parts need not be held."""
        held = self._completion.sent_parts(upload) or []
        limit, spare = upload.size, 0
        if limit is None:
            with self._db.connection() as tx:
                limit = self._intake.policy.max_size(uploader_of(tx, upload))
        else:
            spare = 2 * plan_of(upload, limit).part_size
        total = sum(part.size for part in held)
        largest: dict[int, int] = {}
        for part in held:
            largest[part.number] = max(part.size, largest.get(part.number, 0))
        if sum(largest.values()) > limit or total > 2 * limit + spare:
            error = FileTooLarge(f"The upload may have {limit} bytes; {total} came.")
            self._intake.abort(upload, problem=error.as_problem())
            raise error
        if total > upload.reserved + spare:
            self._intake.hold(upload, total, expires_in=timedelta())
        return list(largest)

    def _foresee(self, principal: Principal, upload: UploadRecord, size: int) -> None:
        """Refuse early what would be too large, of an upload whose size nobody told; hold quota for what is known."""
        self._intake.policy.check_size(principal, size)
        if size > upload.reserved:
            self._intake.hold(upload, size, expires_in=self._limits.upload_ttl)

    def _signed(self, upload: UploadRecord, parts: PartPlan | None, numbers: Sequence[int]) -> list[PartUrl]:
        if upload.multipart_id is None:
            return [PartUrl(1, self.sign_put(upload))]
        ref, life = MultipartRef(upload.object_key, upload.multipart_id), self._left(upload)
        return [
            PartUrl(
                n,
                self._store.presign_part(ref, n, size=parts.length_of(n) if parts else None, expires_in=life),
            )
            for n in dict.fromkeys(numbers)
        ]

    def _url_life(self, size: int | None) -> timedelta:
        longest = min(self._limits.url_ttl, self._limits.upload_ttl)
        return longest if size is not None else min(longest, _UNMEASURED_LIFE)

    def _left(self, upload: UploadRecord) -> timedelta:
        """How long URLs of this upload are valid: never longer than it is open."""
        left = upload.expires_at - datetime.now(UTC) if upload.status in _OPEN else timedelta()
        return max(timedelta(seconds=1), min(self._url_life(upload.size), left))

    def unfinished(self, principal: Principal, *, limit: int, cursor: str | None) -> Page[UploadRecord]:
        """The caller's uploads under way, by any protocol, newest first; an upload token sees its own alone."""
        scope = f"uploads:{principal.owner_id}:{principal.token_id}"
        after = self._cursors.after(cursor, UUID, scope=scope)
        with self._db.connection() as tx:
            found = uploads.unfinished(
                tx, principal.owner_id, token_id=principal.token_id, after=after, limit=limit + 1
            )
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
        """Make the upload a file. Idempotent, and safe when asked many times at once: one does it, all get the same file.
        ``once`` records it afterwards.

        ``parts`` are (number, ETag) as the client saw them. Raises PartsMismatch, after which it can go on; UploadGone."""
        file = self._completion.complete(principal, upload_id, parts=parts, sha256=sha256)
        if once is not None:
            with suppress(IdempotencyInProgress), self._db.connection() as tx:
                record_file(tx, once, file)
        return file

    def abort(self, principal: Principal, upload_id: UUID) -> None:
        """Remove what arrived. An upload that is over already is left as it is; a finished one's file stays."""
        self._intake.abort(self.get(principal, upload_id))

    def sweep(self) -> int:
        """Complete what the bucket took without telling us (services/uploads/completion.py); how many."""
        return self._completion.sweep()


def _signable(content_type: str | None) -> str | None:
    """A claimed type that can stand in a header, without its parameters."""
    return content_types.canonical(content_type) if content_type else None


def _base64(hexadecimal: str) -> str:
    return b64encode(bytes.fromhex(hexadecimal)).decode()
