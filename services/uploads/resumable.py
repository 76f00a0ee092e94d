"""Resumable uploads by tus 1.0 and the IETF draft: what a request may ask of one.

The two protocols differ in their headers only (core/tus.py, core/ietf.py, api/tus.py). Bytes are written by part_writer.py,
under the lease of leases.py. The end is that of direct uploads (completion.py): the file appears as ``processing``, and a
job reads it back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

import structlog

from core import content_types, names
from core.errors import (
    AlreadyComplete,
    ContentMissing,
    IdempotencyInProgress,
    InconsistentLength,
    InvalidInput,
    Locked,
    MalformedUpload,
    NotAllowed,
    OffsetMismatch,
    QuotaExceeded,
    UploadGone,
)
from core.ids import FILE_PREFIX, new_id, object_key
from core.parts import PART_SIZE, plan
from core.placement import Placement
from core.principal import Principal
from db import Database, Tx, resumable, uploads
from db.records import PartRecord, ResumableRecord, UploadRecord
from db.uploads import NewUpload
from services.access.idempotency import Claim
from services.access.upload_tokens import uploader_of
from services.objects.bucket import bucket_errors
from services.uploads.completion import Completion, own
from services.uploads.concatenation import Concatenation
from services.uploads.intake import Intake
from services.uploads.leases import Lease
from services.uploads.part_writer import Body, Verify, Writer
from storage_backends.base import CopyingStore, MultipartRef, UploadNotFound

log = structlog.get_logger()

Protocol = Literal["tus", "ietf"]

_MOST_PARTS = 9_000  # of 10,000, so that writers that die may waste some numbers
_LIVE = ("pending", "uploading")
_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class NewResumable:
    """What a client announces. ``size`` None: it will be told later, or be known at the end."""

    protocol: Protocol
    filename: str | None
    content_type: str | None
    size: int | None  # bytes
    placement: Placement
    metadata: str | None = None  # Upload-Metadata as it was sent
    partial: bool = False
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class UploadState:
    """Where an upload stands: ``offset`` bytes are durable."""

    upload: UploadRecord
    record: ResumableRecord

    @property
    def offset(self) -> int:
        return self.record.received

    @property
    def complete(self) -> bool:
        return self.record.sealed

    @property
    def file_id(self) -> UUID | None:
        return self.upload.file_id


class ResumableUploads:
    def __init__(
        self,
        db: Database,
        store: CopyingStore,
        intake: Intake,
        completion: Completion,
        concatenation: Concatenation,
        *,
        ttl: timedelta,
    ):
        self._db = db
        self._store = store
        self._intake = intake
        self._completion = completion
        self._concatenation = concatenation
        self._ttl = ttl

    # -- begin ---------------------------------------------------------------------------------------------------------

    def create(self, principal: Principal, new: NewResumable, *, once: Claim | None = None) -> UploadState:
        """Admit an upload; an empty one is complete at once. Name, type, size and quota are judged here. ``once`` records the
        upload's id."""
        standing = self._admit(
            principal,
            new,
            reserve=new.size or 0,
            concat="partial" if new.partial else None,
            sources=None,
            once=once,
        )
        if new.size == 0:
            return self.append(principal, standing.upload.id, offset=0, body=Nothing())
        return standing

    def _admit(
        self,
        principal: Principal,
        new: NewResumable,
        *,
        reserve: int,
        concat: str | None,
        sources: Sequence[UUID] | None,
        once: Claim | None,
    ) -> UploadState:
        def also(tx: Tx, upload: UploadRecord) -> None:
            resumable.create(
                tx,
                upload.id,
                deferred=new.size is None,
                metadata=new.metadata,
                partial=new.partial,
                concat=concat,
                sources=sources,
            )

        admission = self._intake.policy
        name = new.filename if new.filename else _default_name(new.content_type)
        if new.partial:  # its name and type are the final upload's
            admission.check_size(principal, new.size or 0)
        else:
            name = admission.check_declared(principal, name, size=new.size, claimed_type=new.content_type)
        planned = plan(
            admission.max_size(principal) if new.size is None else new.size,
            preferred=PART_SIZE,
            max_count=_MOST_PARTS,
        )
        upload = admission.admit(
            principal,
            NewUpload(
                owner_id=principal.owner_id,
                protocol=new.protocol,
                object_key=object_key(FILE_PREFIX, names.extension(name), datetime.now(UTC)),
                original_name=name,
                content_type=content_types.OCTET_STREAM,
                size=new.size,
                reserve=reserve,
                session_id=new_id().hex,
                expires_in=self._ttl,
                part_size=planned.part_size,
                placement=admission.place(principal, new.placement),
                sha256=new.sha256,
            ),
            once=once,
            also=also,
        )
        return self._read(principal, upload.id)

    def max_size(self, principal: Principal) -> int:
        """Bytes that one upload of this caller may have."""
        return self._intake.policy.max_size(principal)

    def concatenate(
        self,
        principal: Principal,
        new: NewResumable,
        sources: Sequence[UUID],
        *,
        concat: str,
        once: Claim | None = None,
    ) -> UploadState:
        """Make one upload, and its file, of finished partial ones; they are over then. One that is named twice is used twice.
        ``once`` records the upload's id.

        Raises NotFound for what is not the caller's own, InvalidInput for what is no finished partial upload."""
        found = {upload_id: self._live(principal, upload_id) for upload_id in dict.fromkeys(sources)}
        for standing in found.values():
            if not standing.record.partial or not standing.complete:
                raise InvalidInput("A final upload is made of partial uploads that are finished.")
        partials = [found[upload_id].upload for upload_id in sources]
        size = sum(upload.size or 0 for upload in partials)
        upload = self._admit(
            principal, replace(new, size=size), reserve=0, concat=concat, sources=list(sources), once=once
        ).upload
        with Lease.of(self._db, upload.id) as lease:
            writer = self._writer(principal, upload, lease)
            writer.checksums = False  # copies have none
            self._concatenation.join(writer, partials)
        standing = self._end(principal, upload.id)
        for partial in found.values():
            self._intake.abort(partial.upload)
        return standing

    def begun(self, principal: Principal, upload_id: UUID) -> UploadState | None:
        """The upload of a creation that is asked again. None where it was to be made of partial uploads and came to nothing; one
        whose request died over that is ended now. Raises IdempotencyInProgress while that still runs."""
        standing = self._read(principal, upload_id)
        if standing.record.sources is None:
            return standing
        if standing.upload.status in _LIVE and not standing.complete:
            if standing.record.held:
                raise IdempotencyInProgress(retry_after=1)
            self._intake.abort(standing.upload)
            return None
        return None if standing.upload.status in ("aborted", "expired") else standing

    # -- look ----------------------------------------------------------------------------------------------------------

    def find(self, principal: Principal, upload_id: UUID) -> UploadState:
        """The caller's own upload as it is recorded, whatever became of it. Raises NotFound."""
        return self._read(principal, upload_id)

    def standing(self, principal: Principal, upload_id: UUID) -> UploadState:
        """Where the upload stands for good: a request that still writes is asked to end first, and what is told is compared
        with the bucket. Where all is there but nobody made a file of it, that is done now. Raises UploadGone, Locked."""
        standing = self._live(principal, upload_id)
        if standing.upload.status not in _LIVE:
            return standing
        with Lease.of(self._db, upload_id) as lease:
            standing = self._live(principal, upload_id)
            if standing.upload.status in _LIVE:
                self._compare(standing)
                if standing.offset == standing.upload.size and not standing.complete:
                    self._writer(principal, standing.upload, lease).append(Nothing())
        return self._end(principal, upload_id)

    # -- go on ---------------------------------------------------------------------------------------------------------

    def append(
        self,
        principal: Principal,
        upload_id: UUID,
        *,
        offset: int,
        body: Body,
        size: int | None = None,
        length: int | None = None,
        last: bool = False,
        verify: Verify | None = None,
        held: Callable[[], None] | None = None,
    ) -> UploadState:
        """Store a body that begins at ``offset``; where the upload stands after it. ``size`` declares the upload's length,
        ``length`` is the body's, where it is known, and ``last`` says that the upload ends with it. ``held`` is called before
        the body is read: from then on whoever asks where the upload stands waits for what comes of this body.

        Raises OffsetMismatch, UploadGone, Locked where another request took over, FileTooLarge, InconsistentLength, and what
        the type rules and the quota refuse. Whatever is raised, the offset that is recorded is right."""
        standing = self._live(principal, upload_id)
        if standing.record.sources is not None:
            raise NotAllowed("A final upload takes no bytes of its own.")
        self._check_offset(standing, offset)
        if standing.upload.status not in _LIVE:
            return self._again(principal, standing, length)
        with Lease.of(self._db, upload_id) as lease:
            standing = self._live(principal, upload_id)
            if offset != standing.offset:
                raise mismatch(standing, offset)
            if standing.upload.status not in _LIVE:
                return self._again(principal, standing, length)
            if last and length is not None:
                size = self._same(size, offset + length)
            upload = self._declare(principal, standing, size, lease)
            if length is not None and upload.size is not None and offset + length > upload.size:
                raise self._intake.overrun(upload)
            writer = self._writer(principal, upload, lease)
            if held is not None:
                held()
            writer.append(
                body,
                verify=verify,
                ends=(lambda found: self._declare(principal, UploadState(writer.upload, writer.record), found, lease))
                if last
                else None,
            )
            sealed = writer.record.sealed
        if body.broken and not sealed:
            if lease.asked_for:
                raise Locked("Another request asked for this upload; what had come is kept.", retry_after=1)
            raise MalformedUpload("The connection ended before the body did; what came is kept.")
        return self._end(principal, upload_id)

    def terminate(self, principal: Principal, upload_id: UUID) -> None:
        """End an unfinished upload and remove what arrived. The file of a finished one stays (THREATS T56)."""
        standing = self._live(principal, upload_id)
        if standing.upload.status not in _LIVE:
            return
        with Lease.of(self._db, upload_id):
            self._intake.abort(standing.upload)

    def sweep(self) -> int:
        """Make files of uploads that are all there and whose last request died before it could; how many."""
        with self._db.connection() as tx:
            found = resumable.all_there(tx, limit=_BATCH)
        return self._completion.in_turn(found, self._sweep_one)

    def _sweep_one(self, upload: UploadRecord) -> bool:
        with self._db.connection() as tx:
            uploader = uploader_of(tx, upload)
        with Lease.of(self._db, upload.id, patience=0) as lease:
            if not lease.record.sealed:
                self._writer(uploader, upload, lease).append(Nothing())
        self._completion.complete(Principal(upload.owner_id), upload.id, parts=None, sha256=None)
        return True

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _read(self, principal: Principal, upload_id: UUID) -> UploadState:
        with self._db.connection() as tx:
            upload = own(principal, uploads.get(tx, upload_id))
            record = resumable.get(tx, upload_id)
        if record is None:
            own(principal, None)
        assert record is not None
        return UploadState(upload, record)

    def _live(self, principal: Principal, upload_id: UUID) -> UploadState:
        standing = self._read(principal, upload_id)
        upload = standing.upload
        if upload.status in ("aborted", "expired") or (upload.status in _LIVE and upload.overdue):
            raise UploadGone((upload.problem or {}).get("detail"))
        return standing

    def _writer(self, principal: Principal, upload: UploadRecord, lease: Lease) -> Writer:
        return Writer(self._db, self._store, self._intake, principal, upload, lease, ttl=self._ttl)

    @staticmethod
    def _check_offset(standing: UploadState, offset: int) -> None:
        """What lies behind is wrong for ever, so nobody has to end for it."""
        if offset < standing.offset or (offset > standing.offset and not standing.record.held):
            raise mismatch(standing, offset)

    @staticmethod
    def _same(told: int | None, found: int) -> int:
        if told not in (None, found):
            raise InconsistentLength(f"{told} bytes were announced; with this body they are {found}.")
        return found

    def _declare(self, principal: Principal, standing: UploadState, size: int | None, lease: Lease) -> UploadRecord:
        """The upload with its length, where one is told now."""
        upload = standing.upload
        if size is None or size == upload.size:
            return upload
        if upload.size is not None:
            raise InconsistentLength(f"The upload has {upload.size} bytes, not {size}.")
        if size < standing.offset:
            raise InconsistentLength(f"{standing.offset} bytes have come already.")
        self._intake.policy.check_size(principal, size)
        if not self._intake.policy.extend(upload, size, expires_in=self._ttl):
            raise QuotaExceeded()
        with self._db.connection() as tx:
            declared = resumable.declare_size(tx, upload.id, size, token=lease.token)
        if declared is None:
            raise Locked("Another request has told another length.", retry_after=1)
        return declared

    def _again(self, principal: Principal, standing: UploadState, length: int | None) -> UploadState:
        """A request to an upload that is complete: without bytes it is a client that lost the last answer."""
        if length != 0 and standing.upload.protocol == "ietf":
            raise AlreadyComplete()
        if length != 0:
            raise self._intake.overrun(standing.upload)
        return self._end(principal, standing.upload.id)

    def _end(self, principal: Principal, upload_id: UUID) -> UploadState:
        """The file, once every byte is there."""
        standing = self._live(principal, upload_id)
        if standing.complete and not standing.record.partial and standing.upload.status != "done":
            self._completion.complete(principal, upload_id, parts=None, sha256=None)
            standing = self._read(principal, upload_id)
        return standing

    def _compare(self, standing: UploadState) -> None:
        """Whether the bucket holds what the row says. An upload whose bytes were lost there ends, since no offset that could be
        told would be true."""
        upload, record = standing.upload, standing.record
        with self._db.connection() as tx:
            recorded = resumable.parts(tx, upload.id)
        try:
            with bucket_errors():
                whole = self._holds(upload, record, recorded)
        except ContentMissing:
            whole = False
        if not whole:
            gone = UploadGone("The bucket no longer holds what it took of this upload.")
            self._intake.abort(upload, problem=gone.as_problem())
            raise gone

    def _holds(self, upload: UploadRecord, record: ResumableRecord, recorded: list[PartRecord]) -> bool:
        if record.tail_key is not None and self._store.stat(record.tail_key).size != record.tail_size:
            return False
        if recorded and upload.multipart_id is not None:
            try:
                listed = self._store.list_parts(MultipartRef(upload.object_key, upload.multipart_id))
                held = {(part.number, part.etag, part.size) for part in listed}
                return {(part.number, part.etag, part.size) for part in recorded} <= held
            except UploadNotFound:  # assembled before, perhaps; never read as that
                if not record.sealed:
                    return False
        return not record.sealed or self._store.stat(upload.object_key).size == upload.size


def mismatch(standing: UploadState, offset: int) -> OffsetMismatch:
    error = OffsetMismatch(f"The upload stands at {standing.offset}.")
    error.extra |= {"expected-offset": standing.offset, "provided-offset": offset}
    return error


class Nothing:
    """A body without bytes."""

    broken = False

    def read(self, size: int, /) -> bytes:
        return b""

    def hurry(self) -> None:
        pass


def _default_name(content_type: str | None) -> str:
    extension = content_types.usual_extension(content_type) if content_type else None
    return f"upload.{extension}" if extension else "upload"
