"""The one gate for every way in: admit -> receive -> complete -> verify.

A client's bytes reach the bucket only after its name, declared size, type and quota were looked at and an upload row with
a random object key was committed; they become a file only when all of them are stored and their SHA-256 is known. The
form, a raw PUT, tus and direct uploads differ in how bytes arrive, never in what is checked.

Memory is bounded by one part (``PART_SIZE``) for each upload under way, whatever the size; nothing is written to disk.
"""

from __future__ import annotations

import hashlib
import zlib
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Annotated, Literal, Protocol
from uuid import UUID

import structlog
from pydantic import PlainSerializer, PlainValidator

from core import content_types, names
from core.errors import (
    ChecksumMismatch,
    DuplicateFile,
    FileTooLarge,
    GatewayError,
    InconsistentLength,
    InvalidInput,
    MalformedUpload,
    NotAuthenticated,
    NotFound,
    QuotaExceeded,
    StorageFull,
    Unavailable,
    UploadGone,
)
from core.heartbeat import beating
from core.ids import FILE_PREFIX, TAIL_PREFIX, new_id, object_key
from core.parts import PART_SIZE, plan
from core.placement import Placement
from core.principal import Principal
from db import Database, files, jobs, objects, previews, resumable, uploads
from db import errors as db_errors
from db.files import NewFile
from db.records import FileRecord, PreviewRecord, SessionRecord, UploadRecord
from db.uploads import NewUpload
from services.access import idempotency
from services.access.idempotency import Claim
from services.access.upload_tokens import as_sent
from services.library import public_copies
from services.library.type_policy import HEAD_SIZE
from services.objects.bucket import bucket_errors, delete_unused
from services.objects.equal_objects import EqualObjects
from services.objects.object_reader import ObjectReader
from services.processing import pipeline
from services.uploads.policy import UploadPolicy, without_folder
from storage_backends.base import (
    Checksum,
    MultipartStore,
    ObjectInfo,
    OutcomeUnknown,
    Part,
    StorageError,
)
from telemetry import metrics

log = structlog.get_logger()

_READ = 1024 * 1024  # bytes; larger reads are three times faster than 64 KiB ones
_TTL = timedelta(minutes=3)  # a form's uploads live from heartbeat to heartbeat, so a killed process frees them soon

# What ends the whole request, as opposed to a verdict on one of its files.
_REQUEST_ERRORS = (Unavailable, StorageFull, MalformedUpload, NotAuthenticated, NotFound)

GatewayProtocol = Literal["form", "raw"]
RESUMABLE = ("tus", "ietf")  # protocols whose bytes come through services/uploads/part_writer.py


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


# An error as part of a recorded outcome: {"code", "detail"}.
StoredError = Annotated[
    GatewayError, PlainValidator(GatewayError.from_problem), PlainSerializer(GatewayError.as_problem)
]


@dataclass(frozen=True, slots=True)
class Rejected:
    original_name: str
    error: StoredError


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes that are in the bucket under an upload's key, checked, and not yet a file."""

    upload: UploadRecord
    etag: str
    size: int
    sha256: str
    mime_type: str


@dataclass(frozen=True, slots=True)
class Outcome:
    files: list[FileRecord]
    rejected: list[Rejected]
    session: SessionRecord
    previews: list[PreviewRecord]  # of the stored objects that the files share with older ones


@dataclass(slots=True)
class Head:
    """The first bytes of a file, and what they say."""

    buffer: bytearray
    ended: bool
    mime_type: str = ""


@dataclass(slots=True)
class _Transfer:
    """One multipart under way: what was sent, hashed and reserved so far."""

    upload: UploadRecord
    md5: hashlib._Hash | None  # where the client told one
    sha256: hashlib._Hash = field(default_factory=hashlib.sha256)
    parts: list[Part] = field(default_factory=list)
    size: int = 0
    reserved: int = 0

    def take(self, data: bytearray | memoryview) -> None:
        self.size += len(data)
        self.sha256.update(data)
        if self.md5 is not None:
            self.md5.update(data)


class Intake:
    def __init__(
        self, db: Database, store: MultipartStore, reader: ObjectReader, policy: UploadPolicy, *, scan: bool = False
    ):
        self._db = db
        self._store = store
        self._reader = reader
        self.policy = policy
        self._scan = scan  # files are ``processing`` until a scanner has seen them

    # -- receive -------------------------------------------------------------------------------------------------------

    def batch(self, principal: Principal, *, protocol: GatewayProtocol, session_id: str | None = None) -> Batch:
        """Files that appear together: ``with intake.batch(…) as batch: batch.receive(…); batch.commit(…)``."""
        return Batch(self, principal, protocol, principal.session_of(session_id or new_id().hex))

    def receive(
        self,
        principal: Principal,
        *,
        protocol: GatewayProtocol,
        session_id: str,
        name: str,
        claimed_type: str | None,
        stream: Readable,
        size: int | None,
        sha256: str | None,
        content_md5: bytes | None,
        placement: Placement,
        held: list[UUID],
    ) -> Received:
        """Store one file's bytes and check them. Its upload joins those ``held``, which somebody keeps alive. Whatever is
        raised, nothing of the file is left anywhere. Where the file goes is decided by ``publish``; a folder that is known
        before is looked for before the bytes are stored."""
        clean = self.policy.check_declared(principal, name, size=size, claimed_type=claimed_type)
        md5 = hashlib.md5(usedforsecurity=False) if content_md5 is not None else None
        new = NewUpload(
            owner_id=principal.owner_id,
            protocol=protocol,
            status="uploading",
            original_name=clean,
            object_key=object_key(FILE_PREFIX, names.extension(clean), datetime.now(UTC)),
            content_type="application/octet-stream",
            size=size,
            reserve=size or 0,
            session_id=session_id,
            expires_in=_TTL,
            placement=self.policy.place(principal, placement),
        )
        # With a declared size the quota decides before the body is read; without, once a part of it is there.
        upload = self._admit(principal, new, held) if size is not None else None
        try:
            head = self._read_head(principal, stream, clean)
            if upload is None:
                reserve = len(head.buffer) if head.ended else 2 * PART_SIZE
                upload = self._admit(principal, replace(new, reserve=reserve), held)
            transfer = _Transfer(upload, md5, reserved=upload.reserved)
            info = (
                self._store_whole(transfer, head)
                if head.ended
                else self._store_parts(principal, transfer, head, stream, size)
            )
            digest = transfer.sha256.hexdigest()
            _check_sums(transfer, info, size, digest, sha256, content_md5)
        except BaseException as error:
            if upload is not None:
                problem = error.as_problem() if isinstance(error, GatewayError) else None
                self.discard([upload], problem=problem)
            raise
        return Received(upload, info.etag, transfer.size, digest, head.mime_type)

    def _admit(self, principal: Principal, new: NewUpload, held: list[UUID]) -> UploadRecord:
        try:
            upload = self.policy.admit(principal, new)
        except Unavailable:  # if it was committed, nobody will find it again, and it shall hold no quota
            with suppress(Unavailable), self._db.connection() as tx:
                uploads.end_key(tx, new.object_key)
            raise
        held.append(upload.id)
        return upload

    def _read_head(self, principal: Principal, stream: Readable, name: str) -> Head:
        """Read up to one part; the type is judged as soon as the bytes that tell it are there."""
        head = Head(bytearray(), ended=False)
        while len(head.buffer) < PART_SIZE:
            chunk = stream.read(min(_READ, PART_SIZE - len(head.buffer)))
            if not chunk:
                head.ended = True
                break
            head.buffer += chunk
            self.policy.check_size(principal, len(head.buffer))
            if not head.mime_type and len(head.buffer) >= HEAD_SIZE:
                head.mime_type = self.policy.types.judge(principal, name, head.buffer)
        head.mime_type = head.mime_type or self.policy.types.judge(principal, name, head.buffer)
        return head

    def _store_whole(self, transfer: _Transfer, head: Head) -> ObjectInfo:
        transfer.take(head.buffer)
        checksum = Checksum("sha256", b64encode(transfer.sha256.digest()).decode())
        with bucket_errors():
            return self._store.put(
                transfer.upload.object_key,
                head.buffer,
                content_type=head.mime_type,
                size=transfer.size,
                checksum=checksum,
            )

    def _store_parts(
        self,
        principal: Principal,
        transfer: _Transfer,
        head: Head,
        stream: Readable,
        size: int | None,
    ) -> ObjectInfo:
        """Send part by part through one buffer, which is filled again and again in place, hashing on the way; each part
        is confirmed by its checksum."""
        part_size = plan(size or self.policy.max_size(principal)).part_size
        upload, buffer, filled, ended = transfer.upload, head.buffer, len(head.buffer), False
        buffer.extend(bytes(part_size - filled))
        with bucket_errors():
            ref = self._store.create_multipart(upload.object_key, content_type=head.mime_type, checksums="crc32")
        with self._db.connection() as tx:
            if not uploads.set_multipart(tx, upload.id, ref.upload_id):
                raise UploadGone()
        while True:
            while filled < part_size and not ended:
                chunk = stream.read(min(_READ, part_size - filled))
                ended = not chunk
                buffer[filled : filled + len(chunk)] = chunk
                filled += len(chunk)
            if not filled:
                break
            with memoryview(buffer)[:filled] as part, bucket_errors():
                transfer.take(part)
                self.policy.check_size(principal, transfer.size)
                self._hold(transfer)
                checksum = Checksum("crc32", b64encode(zlib.crc32(part).to_bytes(4, "big")).decode())
                transfer.parts.append(self._store.put_part(ref, len(transfer.parts) + 1, part, checksum=checksum))
            filled = 0
        with bucket_errors():
            with suppress(OutcomeUnknown):  # the answer was lost: what the bucket holds decides
                self._store.complete_multipart(ref, transfer.parts)
            info = self._store.stat(upload.object_key)
        return info

    def keep_alive(self, upload_ids: Sequence[UUID]) -> None:
        """Let the uploads of a request that is under way live on."""
        if upload_ids:
            with self._db.connection() as tx:
                uploads.keep_alive(tx, list(upload_ids), expires_in=_TTL)

    def _hold(self, transfer: _Transfer) -> None:
        """Keep quota ahead of the bytes, doubling so that statements stay few."""
        needed = transfer.size
        if needed <= transfer.reserved:
            return
        for reserve in (max(needed, 2 * transfer.reserved), needed):
            if self.policy.extend(transfer.upload, reserve, expires_in=_TTL):
                transfer.reserved = reserve
                return
        raise QuotaExceeded()

    # -- complete ------------------------------------------------------------------------------------------------------

    def publish(
        self,
        principal: Principal,
        received: Sequence[Received],
        placement: Placement,
        session_id: str,
        *,
        rejected: Sequence[Rejected] = (),
        once: Claim | None = None,
    ) -> Outcome:
        """Make received bytes files, all in one transaction. ``rejected`` were refused before; duplicates are added to them.
        If any file was made, ``once`` records the outcome. Raises NotFound for a folder that is not the owner's."""
        wished, placement = placement, self.policy.place(principal, placement)
        equals = EqualObjects(self._reader, new=[item.upload.object_key for item in received])
        try:
            outcome = equals.run(
                lambda: self._publish(principal, received, placement, session_id, equals, rejected, once)
            )
        except db_errors.ForeignKeyViolation:
            now = without_folder(principal, placement.folder_id)
            return self.publish(now, received, wished, session_id, rejected=rejected, once=once)
        except db_errors.CheckViolation as error:
            raise InvalidInput(f"The request breaks the rule {db_errors.constraint(error)}.") from error
        kept = {record.file_path for record in outcome.files}
        self.discard([item.upload for item in received if item.upload.object_key not in kept], complete=True)
        return outcome

    def _publish(
        self,
        principal: Principal,
        received: Sequence[Received],
        placement: Placement,
        session_id: str,
        equals: EqualObjects,
        refused: Sequence[Rejected],
        once: Claim | None,
    ) -> Outcome:
        owner_id = principal.owner_id
        published: list[FileRecord] = []
        duplicates: list[Rejected] = []
        with self._db.transaction() as tx:
            session = files.open_publication(
                tx,
                owner_id,
                placement.folder_id,
                session_id=session_id,
                count=len(received),
                size=sum(item.size for item in received),
                contents=() if placement.on_duplicate == "copy" else {item.sha256 for item in received},
            )
            objects.lock_with_files(tx, equals.damaged)
            if len(received) > 1:
                objects.lock_equals(tx, owner_id, [item.sha256 for item in received])
            for item in received:
                if placement.on_duplicate == "reject":
                    known = files.duplicate_of(tx, owner_id, item.sha256, item.size, damaged=equals.damaged)
                    if known is not None:
                        equals.confirm(known)
                        duplicates.append(Rejected(item.upload.original_name, DuplicateFile()))
                        continue
                record = files.publish(
                    tx,
                    _new_file(item, placement, "processing" if self._scan else "ready"),
                    actor=owner_id,
                    link=placement.on_duplicate == "link",
                    forget=True,
                    damaged=equals.damaged,
                )
                if record is None:
                    raise UploadGone("The upload took too long and has expired.")
                equals.confirm(record.file_path)
                published.append(as_sent(principal, item.upload, record))
                if self._scan:
                    jobs.enqueue(tx, "check_file", owner_id=owner_id, file_id=str(record.id))
                elif record.file_path == item.upload.object_key:
                    pipeline.begin(tx, record)
                public_copies.begin(tx, record)
            objects.move_files(tx, equals.damaged, by=[record.file_path for record in published])
            if duplicates:
                session = files.open_publication(
                    tx,
                    owner_id,
                    placement.folder_id,
                    session_id=session_id,
                    count=-len(duplicates),
                    size=sum(record.file_size for record in published) - sum(item.size for item in received),
                )
            shared = {record.file_path for record in published} - {item.upload.object_key for item in received}
            shown = previews.of_objects(tx, sorted(shared)) if shared and principal.budget is None else []
            outcome = Outcome(published, [*refused, *duplicates], session, shown)
            if published:
                idempotency.record(tx, once, outcome)
        return outcome

    def discard(
        self,
        given_up: Sequence[UploadRecord],
        *,
        problem: dict[str, str] | None = None,
        complete: bool = False,
    ) -> None:
        """End uploads and remove what they stored: one object each where they are ``complete``, else perhaps parts too. One
        that was published, though the answer to that COMMIT was lost, keeps its object.

        What can't be removed now is left, by its row, to the janitor."""
        if not given_up:
            return
        try:
            with self._db.connection() as tx:
                uploads.end(tx, [upload.id for upload in given_up], status="aborted", problem=problem)
            gone = [upload.id for upload in given_up if self.remove_bytes(upload, complete=complete)]
            with self._db.connection() as tx:
                uploads.delete(tx, gone)
        except Unavailable as error:
            log.warning("uploads_left_for_janitor", uploads=[str(upload.id) for upload in given_up], error=str(error))

    def abort(self, upload: UploadRecord, *, problem: dict[str, str] | None = None) -> None:
        """End an upload at its client's word or for a ``problem``, and remove what arrived; the row is kept, so that the
        client is told."""
        with self._db.connection() as tx:
            ended = uploads.end(tx, [upload.id], status="aborted", problem=problem)
        if ended and self.remove_bytes(upload):
            with self._db.connection() as tx:
                uploads.mark_cleaned(tx, upload.id)

    def overrun(self, upload: UploadRecord) -> GatewayError:
        """The error for more bytes than were announced. The IETF draft also ends such an upload (section 4.4)."""
        told = f"The upload was announced with {upload.size} bytes; more came."
        if upload.protocol == "tus":
            return FileTooLarge(told)
        error = InconsistentLength(told)
        self.abort(upload, problem=error.as_problem())
        return error

    def hold(self, upload: UploadRecord, size: int, *, expires_in: timedelta = _TTL) -> None:
        """Hold quota for a size that is known only now. Raises QuotaExceeded, after ending the upload."""
        if not self.policy.extend(upload, size, expires_in=expires_in):
            self.abort(upload, problem=QuotaExceeded().as_problem())
            raise QuotaExceeded()

    def delete(self, key: str) -> None:
        """Delete an object that is no longer needed, now or by the janitor."""
        delete_unused(self._db, self._store, [key])

    def remove_bytes(self, upload: UploadRecord, *, complete: bool = False) -> bool:
        """Delete an upload's object, and unless it is ``complete`` its parts; True once all is known to be gone."""
        if upload.protocol in RESUMABLE and not self.remove_keys(upload):
            return False
        if not complete and not self._abort_parts(upload.object_key):
            return False
        keys = [upload.object_key, *([upload.incoming_key] if upload.incoming_key else [])]
        return delete_unused(self._db, self._store, keys)

    def remove_keys(self, upload: UploadRecord) -> bool:
        """Remove what the writers of a resumable upload left under keys of their own; True once all is known to be gone."""
        with self._db.connection() as tx:
            keys = resumable.keys(tx, upload.id)
        gone = [key for key in keys if self.remove_key(key)]
        with self._db.connection() as tx:
            resumable.forget_keys(tx, gone)
        return len(gone) == len(keys)

    def remove_key(self, key: str) -> bool:
        """Delete an object and abort the multiparts of its key; False where the bucket did not confirm."""
        parts_gone = key.startswith(TAIL_PREFIX) or self._abort_parts(key)
        return parts_gone and delete_unused(self._db, self._store, [key])

    def _abort_parts(self, key: str) -> bool:
        try:
            for ref in list(self._store.list_multiparts(key)):
                if ref.key == key:
                    self._store.abort_multipart(ref)
        except StorageError as error:
            log.warning("parts_left_for_janitor", key=key, error=str(error))
            return False
        return True


class Batch:
    """Files received one after another that appear together, or not at all.

    Leaving the block without ``commit`` discards everything."""

    def __init__(self, intake: Intake, principal: Principal, protocol: GatewayProtocol, session_id: str):
        self._intake = intake
        self._principal = principal
        self._protocol: GatewayProtocol = protocol
        self.session_id = session_id
        self.received: list[Received] = []
        self.rejected: list[Rejected] = []
        self._held: list[UUID] = []
        self._heartbeat = beating(lambda: intake.keep_alive(self._held))

    def receive(
        self,
        *,
        name: str,
        claimed_type: str | None,
        stream: Readable,
        size: int | None = None,
        sha256: str | None = None,
        content_md5: bytes | None = None,
        placement: Placement = Placement(),  # noqa: B008 immutable
    ) -> None:
        """Take one file's bytes. A verdict on this file alone is kept in ``rejected``; what ends the request is raised."""
        try:
            self.received.append(
                self._intake.receive(
                    self._principal,
                    protocol=self._protocol,
                    session_id=self.session_id,
                    name=name,
                    claimed_type=claimed_type,
                    stream=stream,
                    size=size,
                    sha256=sha256,
                    content_md5=content_md5,
                    placement=placement,
                    held=self._held,
                )
            )
        except _REQUEST_ERRORS:
            raise
        except GatewayError as error:
            self.rejected.append(Rejected(name, error))
            metrics().upload(self._protocol, error.code)

    def commit(self, placement: Placement, *, once: Claim | None = None) -> Outcome:
        """Make all that was received files. If there are any, ``once`` records the outcome."""
        outcome = self._intake.publish(
            self._principal, self.received, placement, self.session_id, rejected=self.rejected, once=once
        )
        for record in outcome.files:
            metrics().upload(self._protocol, "done", record.file_size)
        for refused in outcome.rejected[len(self.rejected) :]:
            metrics().upload(self._protocol, refused.error.code)
        self.received = []
        return outcome

    def __enter__(self) -> Batch:
        self._heartbeat.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._heartbeat.__exit__(kind, error, trace)
        self._intake.discard([item.upload for item in self.received])


def _check_sums(
    transfer: _Transfer,
    info: ObjectInfo,
    size: int | None,
    digest: str,
    sha256: str | None,
    content_md5: bytes | None,
) -> None:
    if size is not None and transfer.size != size:
        raise MalformedUpload(f"{size} bytes were announced and {transfer.size} arrived.")
    md5 = transfer.md5
    if (sha256 is not None and sha256 != digest) or (md5 is not None and md5.digest() != content_md5):
        raise ChecksumMismatch()
    if info.size != transfer.size:
        raise Unavailable("The bucket did not store all of the bytes; try again.")


def _new_file(item: Received, placement: Placement, status: str) -> NewFile:
    return NewFile(
        upload_id=item.upload.id,
        owner_id=item.upload.owner_id,
        original_name=item.upload.original_name,
        object_key=item.upload.object_key,
        etag=item.etag,
        size=item.size,
        sha256=item.sha256,
        mime_type=item.mime_type,
        file_type=content_types.file_type(item.mime_type),
        status=status,
        placement=placement,
        metadata={"custom": placement.metadata} if placement.metadata else {},
    )
