"""Resumable uploads by tus 1.0 and the IETF draft: what a request may do with one.

The protocols differ in their headers only (core/tus.py, core/ietf.py, api/tus.py). The end is that of direct uploads
(completion.py): the file appears as ``processing``, and a job reads it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Literal
from uuid import UUID

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
    NotFound,
    OffsetMismatch,
    QuotaExceeded,
    UploadGone,
)
from core.ids import FILE_PREFIX, new_id, object_key
from core.parts import PART_SIZE, plan
from core.placement import Placement
from core.principal import Principal
from db import Database, Tx, files, folders, resumable
from db.records import PartRecord, UploadRecord, UploadState
from db.uploads import NewUpload
from services.access.idempotency import Claim
from services.access.upload_tokens import uploader_of
from services.objects.bucket import bucket_errors
from services.uploads.completion import Completion
from services.uploads.concatenation import Concatenation
from services.uploads.intake import Intake
from services.uploads.leases import Lease
from services.uploads.resumable_writer import Body, NoBytes, ResumableWriter
from storage_backends.base import CopyingStore, MultipartRef, UploadNotFound

Protocol = Literal["tus", "ietf"]

_MAX_PARTS = 9_000  # of 10,000, so that writers that die may waste some numbers
_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class NewResumable:
    """What a client announces. ``size`` None: it is declared later, or known at the end."""

    protocol: Protocol
    filename: str | None
    content_type: str | None
    size: int | None  # bytes
    placement: Placement
    metadata: str | None = None  # Upload-Metadata as it was sent
    partial: bool = False
    sha256: str | None = None


class ResumableUploads:
    """What clients ask of resumable uploads. Another's upload is NotFound; one that was ended or has expired is UploadGone."""

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
        """Admit an upload; an empty one is complete at once. Name, type, size and quota are checked here. ``once`` records the
        upload's id."""
        state = self._admit(
            principal, new, reserve=new.size or 0, concat="partial" if new.partial else None, sources=None, once=once
        )
        if new.size == 0:
            return self.append(principal, state.upload.id, offset=0, body=NoBytes())
        return state

    def _admit(
        self,
        principal: Principal,
        new: NewResumable,
        *,
        reserve: int,
        concat: str | None,
        sources: Sequence[UUID] | None,
        once: Claim | None,
        began: float | None = None,
    ) -> UploadState:
        created: list[UploadState] = []

        def also(tx: Tx, upload: UploadRecord) -> None:
            state = resumable.create(
                tx, upload, metadata_header=new.metadata, partial=new.partial, concat_header=concat, sources=sources
            )
            created.append(state)

        policy = self._intake.policy
        name = new.filename if new.filename else _default_name(new.content_type)
        if new.partial:  # its name and type are the final upload's
            policy.check_size(principal, new.size or 0, more=new.size or 0)
        else:
            name = policy.check_declared(principal, name, size=new.size, claimed_type=new.content_type)
        largest = policy.max_size(principal) if new.size is None else new.size
        policy.admit(
            principal,
            NewUpload(
                owner_id=principal.owner_id,
                protocol=new.protocol,
                object_key=object_key(FILE_PREFIX, names.extension(name), datetime.now(UTC)),
                original_name=name,
                content_type=content_types.OCTET_STREAM,
                size=new.size,
                reserve=reserve,
                session_id=principal.session_of(new_id().hex),
                expires_in=self._ttl,
                part_size=plan(largest, preferred=PART_SIZE, max_count=_MAX_PARTS).part_size,
                placement=policy.place(principal, new.placement),
                sha256=new.sha256,
            ),
            once=once,
            also=also,
            began=began,
        )
        return created[-1]

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
        """Make one upload, and its file, from complete partial ones, which end with it. One may be named twice. ``once`` records
        the upload's id.

        Raises InvalidInput for an upload that is not partial and complete."""
        with self._db.connection() as tx:
            found = resumable.states(tx, principal, sources)
        for upload_id in sources:
            state = _alive(found.get(upload_id))
            if not state.record.partial or not state.complete:
                raise InvalidInput("Upload-Concat must name complete partial uploads.")
        partials = [found[upload_id].upload for upload_id in sources]
        size = sum(upload.size or 0 for upload in partials)
        upload = self._admit(
            principal,
            replace(new, size=size),
            reserve=0,
            concat=concat,
            sources=list(sources),
            once=once,
            began=monotonic() - folders.REMEMBERED.total_seconds(),  # with a partial upload
        ).upload
        with Lease.of(self._db, principal, upload.id) as lease:
            writer = self._writer(principal, lease, checksums=False)
            self._concatenation.join(writer, partials)
        final = self._finish(principal, writer.state)
        for partial in found.values():
            self._intake.abort(partial.upload)
        return final

    def begun(self, principal: Principal, upload_id: UUID) -> UploadState | None:
        """The upload of a creation that is repeated. None if it was to be made of partial uploads and failed; one whose request
        died over that is ended now. Raises IdempotencyInProgress while that request still runs."""
        state = self.find(principal, upload_id)
        if state.record.sources is None:
            return state
        if state.upload.open and not state.complete:
            if state.record.leased:
                raise IdempotencyInProgress(retry_after=1)
            self._intake.abort(state.upload)
            return None
        return None if state.upload.status in ("aborted", "expired") else state

    # -- look ----------------------------------------------------------------------------------------------------------

    def find(self, principal: Principal, upload_id: UUID) -> UploadState:
        """The caller's upload as it is recorded, also one that has ended."""
        with self._db.connection() as tx:
            state = resumable.states(tx, principal, [upload_id]).get(upload_id)
        if state is None:
            raise NotFound("There is no such upload.")
        return state

    def settle(self, principal: Principal, upload_id: UUID) -> UploadState:
        """The state of an upload that nobody is writing to: a request that still writes is asked to end, and the row is
        compared with the bucket. If all bytes are there and nobody made a file of them, that is done now. Raises Locked."""
        with Lease.of(self._db, principal, upload_id) as lease:
            state = _alive(lease.state)
            if not lease.held:
                return state
            self._compare(state)
            if state.offset == state.upload.size and not state.complete:
                state = self._close(principal, lease)
        return self._finish(principal, state)

    def sha256(self, state: UploadState) -> bytes | None:
        """The SHA-256 of the upload's file, if a worker has read it back."""
        with self._db.connection() as tx:
            file = None if state.file_id is None else files.get(tx, state.file_id)
        return None if file is None or file.file_hash is None else bytes.fromhex(file.file_hash)

    # -- write ---------------------------------------------------------------------------------------------------------

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
        checksums: Mapping[str, bytes] | None = None,
    ) -> UploadState:
        """Store a body that begins at ``offset``. ``size`` declares the upload's length, ``length`` is the body's if that is
        known, and ``last`` says that the upload ends with it. ``checksums`` are what the body's digests have to be, by
        algorithm. The lease is held before the body is read.

        Raises OffsetMismatch, Locked if another request took over, FileTooLarge, InconsistentLength, BodyChecksumMismatch,
        and what the type rules and the quota refuse. Whatever is raised, the recorded offset is right."""
        with Lease.of(self._db, principal, upload_id, offset=offset) as lease:
            state = _at_offset(_alive(lease.state), offset)
            if not lease.held:
                return self._repeated(principal, state, length)
            writer = self._writer(principal, lease)
            end = None if length is None else offset + length
            if last and end is not None:
                if size not in (None, end):
                    raise InconsistentLength(f"{size} bytes were declared; with this body they are {end}.")
                size = end
            self._declare(writer, principal, size, lease)
            if end is not None and writer.upload.size is not None and end > writer.upload.size:
                raise self._intake.overrun(writer.upload)
            if writer.receive(body, checksums):
                if last and not body.broken:
                    self._declare(writer, principal, writer.position, lease)
                writer.close()
        if body.broken and not writer.record.bytes_complete:
            if lease.handover_requested:
                raise Locked("Another request asked for this upload; what has arrived is stored.", retry_after=1)
            raise MalformedUpload("The connection ended before the body did; what has arrived is stored.")
        return self._finish(principal, writer.state)

    def terminate(self, principal: Principal, upload_id: UUID) -> None:
        """End an unfinished upload and remove what arrived. A finished one's file stays (T56)."""
        with Lease.of(self._db, principal, upload_id) as lease:
            state = _alive(lease.state)
            if lease.held:
                self._intake.abort(state.upload)

    def sweep(self) -> int:
        """Make files of complete uploads whose last request died before it could. Returns how many."""
        with self._db.connection() as tx:
            found = resumable.uncompleted(tx, limit=_BATCH)
        return self._completion.complete_each(found, self._sweep_one)

    def _sweep_one(self, upload: UploadRecord) -> bool:
        with self._db.connection() as tx:
            uploader = uploader_of(tx, upload)
        owner = Principal(upload.owner_id)
        with Lease.of(self._db, owner, upload.id, timeout=0) as lease:
            if lease.held and not lease.state.complete:
                self._close(uploader, lease)
        self._completion.complete(owner, upload.id)
        return True

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _writer(self, principal: Principal, lease: Lease, *, checksums: bool = True) -> ResumableWriter:
        return ResumableWriter(
            self._db, self._store, self._intake, principal, lease, ttl=self._ttl, checksums=checksums
        )

    def _close(self, principal: Principal, lease: Lease) -> UploadState:
        """Store the end of an upload whose every byte has arrived."""
        writer = self._writer(principal, lease)
        writer.receive(NoBytes())
        writer.close()
        return writer.state

    def _declare(self, writer: ResumableWriter, principal: Principal, size: int | None, lease: Lease) -> None:
        """Set the upload's length, if it is declared now."""
        upload, policy = writer.upload, self._intake.policy
        if size is None or size == upload.size:
            return
        if upload.size is not None:
            raise InconsistentLength(f"The upload has {upload.size} bytes, not {size}.")
        if size < writer.record.received:
            raise InconsistentLength(f"{writer.record.received} bytes have already arrived.")
        policy.check_size(principal, size, more=size - writer.record.received)
        if not policy.extend(upload, size, expires_in=self._ttl):
            raise QuotaExceeded()
        with self._db.connection() as tx:
            declared = resumable.declare_size(tx, upload.id, size, fence=lease.fence)
        if declared is None:
            raise Locked("Another request has declared another length.", retry_after=1)
        writer.upload = declared

    def _repeated(self, principal: Principal, state: UploadState, length: int | None) -> UploadState:
        """A request to a complete upload: without bytes it comes from a client that lost the last answer."""
        if length == 0:
            return self._finish(principal, state)
        raise AlreadyComplete() if state.upload.protocol == "ietf" else self._intake.overrun(state.upload)

    def _finish(self, principal: Principal, state: UploadState) -> UploadState:
        """Make the file, once every byte is stored."""
        if not state.complete or state.record.partial or state.upload.status == "done":
            return state
        file = self._completion.complete_upload(principal, state.upload)
        return replace(state, upload=replace(state.upload, status="done", file_id=file.id))

    def _compare(self, state: UploadState) -> None:
        """Compare the row with the bucket. An upload that lost bytes there ends, since no offset would be true."""
        with self._db.connection() as tx:
            recorded = resumable.parts(tx, state.upload.id)
        try:
            with bucket_errors():
                intact = self._is_stored(state, recorded)
        except ContentMissing:
            intact = False
        if not intact:
            gone = UploadGone("The bucket has lost bytes of this upload.")
            self._intake.abort(state.upload, problem=gone.as_problem())
            raise gone

    def _is_stored(self, state: UploadState, recorded: list[PartRecord]) -> bool:
        upload, record = state.upload, state.record
        if record.tail_key is not None and self._store.stat(record.tail_key).size != record.tail_size:
            return False
        if recorded and upload.multipart_id is not None:
            try:
                listed = self._store.list_parts(MultipartRef(upload.object_key, upload.multipart_id))
                stored = {(part.number, part.etag, part.size) for part in listed}
                return {(part.number, part.etag, part.size) for part in recorded} <= stored
            except UploadNotFound:  # completed before, perhaps: that is no proof of it
                if not state.complete:
                    return False
        return not state.complete or self._store.stat(upload.object_key).size == upload.size


def _at_offset(state: UploadState, offset: int) -> UploadState:
    """Raises NotAllowed for a final upload, OffsetMismatch for another offset than the upload's."""
    if state.record.sources is not None:
        raise NotAllowed("A final upload takes no bytes.")
    if offset != state.offset:
        error = OffsetMismatch(f"Upload-Offset does not match the current offset, {state.offset}.")
        error.extra |= {"expected-offset": state.offset, "provided-offset": offset}
        raise error
    return state


def _alive(state: UploadState | None) -> UploadState:
    """Raises NotFound without an upload, UploadGone for one that was ended or has expired."""
    if state is None:
        raise NotFound("There is no such upload.")
    upload = state.upload
    if upload.status in ("aborted", "expired") or (upload.open and upload.overdue):
        raise UploadGone((upload.problem or {}).get("detail"))
    return state


def _default_name(content_type: str | None) -> str:
    extension = content_types.usual_extension(content_type) if content_type else None
    return f"upload.{extension}" if extension else "upload"
