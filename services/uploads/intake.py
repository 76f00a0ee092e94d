"""The gate for uploads through the gateway (form and raw PUT), and how uploads of every protocol end.

    admit (policy.py) -> receive -> publish -> check (verification.py)

Bytes reach the bucket only after name, declared size, type and quota were checked and a row with their random object key was
committed: of the upload or, for one that fits into one part and reserves no quota, of a key reserved before
(reserved_keys.py). They become files only when all of them are stored and their SHA-256 is known. Memory is bounded by one part
for each upload, and by two for a few at a time (part_writer.py); nothing is written to disk."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from time import monotonic
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
from db import Database, Tx, files, folders, jobs, objects, previews, reserved_keys, resumable, uploads
from db import errors as db_errors
from db.files import NewFile
from db.records import FileRecord, PreviewRecord, SessionRecord, UploadRecord
from db.uploads import NewUpload
from services.access import idempotency
from services.access.idempotency import Claim
from services.access.upload_tokens import as_sent
from services.library import public_copies, readings
from services.library.sniff import HEAD_BYTES
from services.objects.bucket import beginning_multipart, delete_quietly, delete_unused
from services.objects.equal_objects import EqualObjects
from services.objects.object_reader import ObjectReader
from services.objects.part_writer import PartWriter
from services.processing import pipeline
from services.uploads.policy import UploadPolicy
from services.uploads.reserved_keys import ReservedKeys
from storage_backends.base import Checksum, MultipartStore, StorageError
from telemetry import metrics

log = structlog.get_logger()

_READ = 1024 * 1024  # bytes; larger reads are three times faster than 64 KiB ones
_TTL = timedelta(minutes=3)  # heartbeats extend it, so uploads of a killed process soon expire

# Errors that end the whole request, not just one of its files.
_REQUEST_ERRORS = (Unavailable, StorageFull, MalformedUpload, NotAuthenticated, NotFound)

GatewayProtocol = Literal["form", "raw"]
FOLDER_GONE = {
    "code": "folder_gone",
    "detail": "The folder that this was uploaded to was deleted meanwhile; it is in the nearest folder above that was left,"
    " or in the root.",
}
RESUMABLE = ("tus", "ietf")  # protocols of resumable.py


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; b"" at the end."""


# An error as part of a recorded outcome: {"code", "detail"}.
StoredError = Annotated[
    GatewayError, PlainValidator(GatewayError.from_problem), PlainSerializer(GatewayError.as_problem)
]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A file that was refused."""

    original_name: str
    error: StoredError


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes that are stored and checked, and not yet a file."""

    upload: UploadRecord
    etag: str
    size: int
    sha256: str
    mime_type: str
    uploaded_at: datetime | None = None  # before now; None: now


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request's files."""

    files: list[FileRecord]
    rejected: list[Rejected]
    session: SessionRecord
    previews: list[
        PreviewRecord
    ]  # of the stored objects that the files share with older ones, also those of other types


class Intake:
    """Receives bytes and publishes files; ends uploads."""

    def __init__(
        self, db: Database, store: MultipartStore, reader: ObjectReader, policy: UploadPolicy, *, scan: bool = False
    ):
        self._db = db
        self._store = store
        self._reader = reader
        self.policy = policy
        self.keys = ReservedKeys(db)
        self._scan = scan  # files are ``processing`` until they are scanned

    def batch(self, principal: Principal, *, protocol: GatewayProtocol, session_id: str | None = None) -> Batch:
        """Files that appear together: ``with intake.batch(…) as batch: batch.receive(…); batch.commit(…)``."""
        return Batch(self, principal, protocol, principal.session_of(session_id or new_id().hex), scan=self._scan)

    def discard(
        self, given_up: Sequence[UploadRecord], *, problem: dict[str, str] | None = None, complete: bool = False
    ) -> None:
        """Abort uploads and delete what they stored: one object each if they are ``complete``, else perhaps parts too. One
        that was published, though the answer to that COMMIT was lost, keeps its object. The janitor deletes what can't be
        deleted now."""
        if not given_up:
            return
        ids = [upload.id for upload in given_up]
        try:
            with self._db.connection() as tx:
                uploads.end(tx, ids, status="aborted", problem=problem)
                reserved_keys.end(tx, ids)
            gone = [upload.id for upload in given_up if self.remove_bytes(upload, complete=complete)]
            with self._db.connection() as tx:
                uploads.delete(tx, gone)
                reserved_keys.forget(tx, gone)
        except Unavailable as error:
            log.warning("uploads_left_for_janitor", uploads=[str(upload.id) for upload in given_up], error=str(error))

    def abort(self, upload: UploadRecord, *, problem: dict[str, str] | None = None) -> None:
        """Abort an upload, for its client or for a ``problem``, and delete what arrived. The row stays, so that the client
        learns of it."""
        with self._db.connection() as tx:
            ended = uploads.end(tx, [upload.id], status="aborted", problem=problem)
        if ended and self.remove_bytes(upload):
            with self._db.connection() as tx:
                uploads.mark_cleaned(tx, upload.id)

    def overrun(self, upload: UploadRecord) -> GatewayError:
        """The error for more bytes than were declared. The IETF draft also ends such an upload (section 4.4)."""
        detail = f"The upload was declared with {upload.size} bytes; more have arrived."
        if upload.protocol == "tus":
            return FileTooLarge(detail)
        error = InconsistentLength(detail)
        self.abort(upload, problem=error.as_problem())
        return error

    def reserve(self, upload: UploadRecord, size: int, *, expires_in: timedelta = _TTL) -> None:
        """Reserve quota for a size that is known only now. Raises QuotaExceeded, after ending the upload."""
        if not self.policy.extend(upload, size, expires_in=expires_in):
            self.abort(upload, problem=QuotaExceeded().as_problem())
            raise QuotaExceeded()

    def delete(self, key: str) -> None:
        """Delete an object that is not in use; if that fails, the janitor does."""
        delete_unused(self._db, self._store, [key])

    def remove_bytes(self, upload: UploadRecord, *, complete: bool = False) -> bool:
        """Delete an upload's object and, unless it is ``complete``, its parts. True if the bucket confirmed all of it."""
        if upload.protocol in RESUMABLE and not self.remove_keys(upload):
            return False
        if not complete and not self._abort_parts(upload.object_key):
            return False
        keys = [upload.object_key, *([upload.incoming_key] if upload.incoming_key else [])]
        return delete_unused(self._db, self._store, keys)

    def remove_keys(self, upload: UploadRecord) -> bool:
        """Delete what the writers of a resumable upload left under their keys. True if the bucket confirmed all of it."""
        with self._db.connection() as tx:
            keys = resumable.keys(tx, upload.id)
        gone = [key for key in keys if self.remove_key(key)]
        with self._db.connection() as tx:
            resumable.forget_keys(tx, gone)
        return len(gone) == len(keys)

    def remove_key(self, key: str) -> bool:
        """Delete an object and abort the multipart uploads of its key. False if the bucket did not confirm."""
        if key.startswith(TAIL_PREFIX):  # never a file's
            return delete_quietly(self._db, self._store, key)
        return self._abort_parts(key) and delete_unused(self._db, self._store, [key])

    def remove_stem(self, stem: str, *, keeps: Callable[[str], bool]) -> bool:
        """Delete what was stored under a reserved key, unless ``keeps`` names it. False if the bucket did not confirm."""
        try:
            found = [info.key for info in self._store.list_objects(stem) if not keeps(info.key)]
        except StorageError as error:
            log.warning("reserved_key_left_for_janitor", stem=stem, error=str(error))
            return False
        return delete_unused(self._db, self._store, found)

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
    """Files that appear together or not at all. Leaving the block without ``commit`` discards them."""

    def __init__(self, intake: Intake, principal: Principal, protocol: GatewayProtocol, session_id: str, *, scan: bool):
        self._intake = intake
        self._db = intake._db
        self._store = intake._store
        self._reader = intake._reader
        self._policy = intake.policy
        self._scan = scan
        self._principal = principal
        self._protocol: GatewayProtocol = protocol
        self.session_id = session_id
        self.received: list[Received] = []
        self.rejected: list[Rejected] = []
        self._admitted: list[UUID] = []  # kept alive until the end of the block
        self._unreserved = False  # whether there was no quota to reserve for some of it
        self._began = monotonic()
        self._heartbeat = beating(self._keep_alive)

    # -- receive -------------------------------------------------------------------------------------------------------

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
        uploaded_at: datetime | None = None,
    ) -> None:
        """Store one file's bytes and check them; if that fails, nothing of the file is left. An error in this file alone goes to
        ``rejected``; one that ends the request is raised. ``commit`` decides on the folder; one that is known here must
        exist. ``uploaded_at`` is the time that an imported file keeps, unless it is to come."""
        try:
            clean = self._policy.check_declared(self._principal, name, size=size, claimed_type=claimed_type)
            new = NewUpload(
                owner_id=self._principal.owner_id,
                protocol=self._protocol,
                status="uploading",
                original_name=clean,
                object_key=object_key(FILE_PREFIX, names.extension(clean), datetime.now(UTC)),
                content_type="application/octet-stream",
                size=size,
                reserve=size or 0,
                session_id=self.session_id,
                expires_in=_TTL,
                placement=self._policy.place(self._principal, placement),
            )
            received = self._store_bytes(new, stream, sha256, content_md5)
            self.received.append(replace(received, uploaded_at=uploaded_at))
        except _REQUEST_ERRORS:
            raise
        except GatewayError as error:
            self.rejected.append(Rejected(name, error))
            metrics().upload(self._protocol, error.code)

    def _store_bytes(self, new: NewUpload, stream: Readable, sha256: str | None, content_md5: bytes | None) -> Received:
        principal, policy, received, mime_type = self._principal, self._policy, 0, ""
        writer = PartWriter(self._store, plan(new.size or policy.max_size(principal)).part_size, capacity=new.size or 0)
        # Quota for a declared size is reserved before the body is read, else once the first part has arrived.
        small = policy.reserves_nothing(principal) and (new.size or 0) <= writer.room
        upload = self._admit(new) if new.size is not None and not small else None
        digest, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False) if content_md5 is not None else None
        try:
            while chunk := stream.read(min(_READ, writer.room)):
                received += len(chunk)
                policy.check_size(principal, received)
                digest.update(chunk)
                if md5 is not None:
                    md5.update(chunk)
                writer.add(chunk)
                if not mime_type and writer.filled >= HEAD_BYTES:
                    mime_type = policy.types.judge(principal, new.original_name, writer.head(HEAD_BYTES))
                if not writer.room:
                    upload = upload or self._admit(replace(new, reserve=2 * PART_SIZE))
                    upload = self._send_part(upload, writer, mime_type, received)
            mime_type = mime_type or policy.types.judge(principal, new.original_name, writer.head(HEAD_BYTES))
            upload = upload or (self._take_key if small else self._admit)(replace(new, reserve=received))
            if new.size not in (None, received):
                raise MalformedUpload(f"{new.size} bytes were declared and {received} arrived.")
            upload = policy.reserve(upload, received, expires_in=_TTL)
            if sha256 not in (None, digest.hexdigest()) or (md5 is not None and md5.digest() != content_md5):
                raise ChecksumMismatch()
            checksum = Checksum("sha256", b64encode(digest.digest()).decode())
            info = writer.finish(upload.object_key, mime_type, checksum=checksum)
            if info.size != received:
                raise Unavailable("The bucket did not store all of the bytes; try again.")
        except BaseException as error:
            with suppress(Exception):
                writer.settle()
            if upload is not None:
                problem = error.as_problem() if isinstance(error, GatewayError) else None
                self._intake.discard([upload], problem=problem)
            raise
        return Received(upload, info.etag, received, digest.hexdigest(), mime_type)

    def _admit(self, new: NewUpload) -> UploadRecord:
        try:
            upload = self._policy.admit(self._principal, new, began=self._began)
        except Unavailable:  # it may have been committed; then its quota must be returned
            with suppress(Unavailable), self._db.connection() as tx:
                uploads.end_key(tx, new.object_key)
            raise
        self._admitted.append(upload.id)
        return upload

    def _take_key(self, new: NewUpload) -> UploadRecord:
        folder_id = new.placement.folder_id
        if folder_id is not None:
            with self._db.connection() as tx:
                known = folders.owner_of(tx, folder_id) == new.owner_id
            if not known:
                self._policy.landing(self._principal, new.placement, began=self._began)
        upload = self._intake.keys.take(new)
        self._unreserved = True
        self._admitted.append(upload.id)
        return upload

    def _send_part(self, upload: UploadRecord, writer: PartWriter, mime_type: str, received: int) -> UploadRecord:
        if writer.ref is None:
            with beginning_multipart(self._db, upload.object_key):
                ref = writer.begin(upload.object_key, mime_type)
            with self._db.connection() as tx:
                if not uploads.set_multipart(tx, upload.id, ref.upload_id):
                    raise UploadGone()
        upload = self._policy.reserve(upload, received, expires_in=_TTL)
        writer.send_behind()
        return upload

    def _keep_alive(self) -> None:
        if self._admitted:
            with self._db.connection() as tx:
                uploads.keep_alive(tx, self._admitted, expires_in=_TTL)
                reserved_keys.keep_alive(tx, self._admitted, expires_in=_TTL)

    # -- publish -------------------------------------------------------------------------------------------------------

    def commit(self, placement: Placement, *, once: Claim | None = None) -> Outcome:
        """Make all that was received files, in one transaction. If there are any, ``once`` records the outcome. Raises NotFound
        for a folder that is not the owner's."""
        allowed = self._policy.place(self._principal, placement)
        equals = EqualObjects(self._reader, new=[item.upload.object_key for item in self.received])
        try:
            outcome = self._publish_in_living_folder(allowed, equals, once)
        except db_errors.CheckViolation as error:
            log.warning("upload_breaks_constraint", constraint=db_errors.constraint(error))
            raise InvalidInput("A value of the upload is not allowed.") from error
        used = {record.file_path for record in outcome.files}
        unused = [item.upload for item in self.received if item.upload.object_key not in used]
        self._intake.discard(unused, complete=True)
        for record in outcome.files:
            metrics().upload(self._protocol, "done", record.file_size)
        for refused in outcome.rejected[len(self.rejected) :]:
            metrics().upload(self._protocol, refused.error.code)
        self.received = []
        return outcome

    def _publish_in_living_folder(
        self, placement: Placement, equals: EqualObjects, once: Claim | None, problem: dict[str, str] | None = None
    ) -> Outcome:
        try:
            return equals.run(lambda: self._publish(placement, problem, equals, once))
        except db_errors.ForeignKeyViolation:
            landing = self._policy.landing(self._principal, placement, began=self._began)
        return self._publish_in_living_folder(landing, equals, once, FOLDER_GONE)

    def _publish(
        self, placement: Placement, problem: dict[str, str] | None, equals: EqualObjects, once: Claim | None
    ) -> Outcome:
        owner_id = self._principal.owner_id
        published: list[FileRecord] = []
        duplicates: list[Rejected] = []
        with self._db.transaction() as tx:
            count_files = partial(
                self._policy.open_publication, tx, owner_id, placement.folder_id, session_id=self.session_id
            )
            session = count_files(
                count=len(self.received),
                size=sum(item.size for item in self.received),
                contents=() if placement.on_duplicate == "copy" else {item.sha256 for item in self.received},
                began=timedelta(seconds=monotonic() - self._began),
            )
            objects.lock_with_files(tx, equals.damaged)
            if len(self.received) > 1:
                objects.lock_equals(tx, owner_id, [item.sha256 for item in self.received])
            for item in self.received:
                if placement.on_duplicate == "reject":
                    known = files.duplicate_of(tx, owner_id, item.sha256, item.size, damaged=equals.damaged)
                    if known is not None:
                        equals.confirm(known, archived=True)
                        duplicates.append(Rejected(item.upload.original_name, DuplicateFile()))
                        continue
                record = files.publish(
                    tx,
                    _new_file(item, placement, "processing" if self._scan else "ready", problem),
                    link=placement.on_duplicate == "link",
                    forget=True,
                    damaged=equals.damaged,
                )
                if record is None:
                    raise UploadGone("The upload took too long and has expired.")
                equals.confirm(record.file_path)
                if item.uploaded_at is not None:
                    files.set_time(tx, record.id, item.uploaded_at)
                published.append(as_sent(self._principal, item.upload, record))
                self._begin_jobs(tx, record, new=record.file_path == item.upload.object_key)
            readings.move_files(tx, equals.damaged, by=[record.file_path for record in published])
            if self._unreserved:
                self._policy.check_kept(tx, owner_id)
            if duplicates:
                session = count_files(
                    count=-len(duplicates),
                    size=sum(record.file_size for record in published) - sum(item.size for item in self.received),
                )
            shared = {record.file_path for record in published} - {item.upload.object_key for item in self.received}
            shown = previews.of_objects(tx, sorted(shared)) if shared and self._principal.budget is None else []
            outcome = Outcome(published, [*self.rejected, *duplicates], session, shown)
            if published:
                idempotency.record(tx, once, outcome)
        return outcome

    def _begin_jobs(self, tx: Tx, record: FileRecord, *, new: bool) -> None:
        if self._scan:
            jobs.enqueue(tx, "check_file", owner_id=record.owner_id, file_id=str(record.id))
        else:
            pipeline.begin(tx, record, new=new)
        public_copies.begin(tx, record)

    def __enter__(self) -> Batch:
        self._heartbeat.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._heartbeat.__exit__(kind, error, trace)
        self._intake.discard([item.upload for item in self.received])


def _new_file(item: Received, placement: Placement, status: str, problem: dict[str, str] | None) -> NewFile:
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
        problem=problem,
    )
