"""The end of an upload whose bytes are in the bucket: it becomes a file, once, whoever asks and how often.

    pending | uploading -> completing (one claim) -> done

A claim is a compare-and-set with a lease of seconds, which its holder renews; a completer that died is soon followed by
another. What came by a single PUT or a POST form is copied to a key that no client knows. Each attempt copies to a key of
its own, so a slow attempt can't change the bytes of a file that a later one made (R1, T45)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog

from core import content_types, names
from core.errors import (
    ChecksumMismatch,
    FileTooLarge,
    GatewayError,
    Locked,
    NotFound,
    PartsMismatch,
    QuotaExceeded,
    StorageFull,
    Unavailable,
    UploadGone,
)
from core.heartbeat import beating
from core.ids import FILE_PREFIX, INCOMING_PREFIX, object_key
from core.parts import PartPlan, missing, plan
from core.principal import Principal
from db import Database, files, jobs, objects, resumable, uploads
from db import errors as db_errors
from db.files import NewFile
from db.records import FileRecord, PartRecord, UploadRecord
from services.access.upload_tokens import as_sent, uploader_of
from services.access.visibility import may_change, owned
from services.objects import part_writer
from services.objects.bucket import bucket_errors
from services.uploads.intake import FOLDER_GONE, RESUMABLE, Intake
from services.uploads.leases import LEASE, RENEW
from storage_backends.base import (
    Checksum,
    DirectStore,
    InvalidPart,
    MultipartRef,
    ObjectNotFound,
    Part,
    PreconditionFailed,
    StorageError,
    UploadNotFound,
)
from telemetry import metrics

log = structlog.get_logger()

_WAIT = 60.0  # seconds that a second completer waits for the first
_POLL = 0.1  # seconds
_BATCH = 1_000
_SWEEP_TIME = 3.0  # seconds after which a sweep begins nothing more; the next one gives each owner a turn again
_MAX_ATTEMPTS = 4
_AFTER_FAILURE = timedelta(seconds=5)  # doubled for each attempt, up to ten minutes
_AFTER_OUTAGE = timedelta(seconds=30)


class Completion:
    """Makes files of uploads whose bytes are in the bucket."""

    def __init__(self, db: Database, store: DirectStore, intake: Intake):
        self._db = db
        self._store = store
        self._intake = intake

    def complete(
        self,
        principal: Principal,
        upload_id: UUID,
        *,
        parts: Sequence[tuple[int, str]] | None = None,
        sha256: str | None = None,
    ) -> FileRecord:
        """Make the upload a file, as DirectUploads.complete describes it."""
        return self.complete_upload(principal, self._get(principal, upload_id), parts=parts, sha256=sha256)

    def complete_upload(
        self,
        principal: Principal,
        upload: UploadRecord,
        *,
        parts: Sequence[tuple[int, str]] | None = None,
        sha256: str | None = None,
    ) -> FileRecord:
        """``complete`` for an upload that was read a moment ago."""
        deadline = time.monotonic() + _WAIT
        while True:
            if upload.status in ("aborted", "expired"):
                raise UploadGone()
            if upload.status == "done":
                done = self._file_of(upload, sha256)
                if principal.budget is None:
                    owned(principal, done)  # it may have been moved out of a limited key's folder
                return as_sent(principal, upload, done)
            file = self._attempt(upload, parts, sha256)
            if file is not None:
                return as_sent(principal, upload, file)
            if time.monotonic() > deadline:
                raise Locked("Another request is completing this upload.")
            time.sleep(_POLL)
            upload = self._get(principal, upload.id)

    def _get(self, principal: Principal, upload_id: UUID) -> UploadRecord:
        with self._db.connection() as tx:
            return check_owner(principal, uploads.get(tx, upload_id))

    def sweep(self) -> int:
        """Complete what nobody asked for: forms and single PUTs whose tab was closed, and completions whose holder died.
        Returns how many. Whatever else lies under the incoming prefix was sent after its upload had ended, and is deleted.

        The prefix is listed once, and only while clients may be sending."""
        keys: list[str] = []
        with self._db.connection() as tx:
            expected = uploads.any_incoming(tx)
        if expected:
            with bucket_errors():
                keys = [info.key for info in self._store.list_objects(INCOMING_PREFIX)]
        with self._db.connection() as tx:
            found = uploads.due(tx, keys, lease=LEASE, limit=_BATCH)
            known = objects.known_keys(tx, keys)
        for key in keys:
            if key not in known:
                self._intake.delete(key)
        return self.complete_each(found, lambda upload: self._attempt(upload, None, None) is not None)

    def complete_each(self, found: Sequence[UploadRecord], complete: Callable[[UploadRecord], bool]) -> int:
        """Complete as many of these uploads as there is time for. Returns how many. What fails is tried again later; an
        upload ends after some failures that were not outages of bucket or database."""
        completed, deadline = 0, time.monotonic() + _SWEEP_TIME
        for upload in found:
            try:
                completed += complete(upload)
            except Exception as error:
                self._put_off(upload, error)
            if time.monotonic() > deadline:
                break
        return completed

    def _put_off(self, upload: UploadRecord, error: Exception) -> None:
        log.warning(
            "sweep_left_upload",
            upload_id=str(upload.id),
            error=type(error).__name__,
            detail=str(error),
            exc_info=None if isinstance(error, GatewayError | StorageError) else error,
        )
        if isinstance(error, Unavailable | StorageFull | Locked | StorageError):
            attempts, wait = upload.attempts, _AFTER_OUTAGE
        else:
            attempts, wait = upload.attempts + 1, _AFTER_FAILURE * 2 ** min(upload.attempts, 7)
            if attempts >= _MAX_ATTEMPTS and isinstance(error, GatewayError):
                self._intake.abort(upload, problem=error.as_problem())
                return
        with self._db.connection() as tx:
            uploads.put_off(tx, upload.id, attempts=attempts, wait=wait)

    def stored_parts(self, upload: UploadRecord) -> list[Part] | None:
        """The bucket's parts by number, equal ones once; None if they have been joined. Raises UploadGone, after ending the
        upload, if the bucket has dropped it.

        SeaweedFS lists a part that was sent twice with different bytes twice, in no useful order (seen with 4.48). It
        assembles the one whose ETag completion names."""
        sent = self.sent_parts(upload)
        return None if sent is None else list({(part.number, part.etag, part.size): part for part in sent}.values())

    def sent_parts(self, upload: UploadRecord, *, after: int = 0) -> list[Part] | None:
        """Like ``stored_parts``, but each part with a number above ``after`` as often as the bucket keeps it."""
        assert upload.multipart_id is not None
        with bucket_errors():
            try:
                listed = list(self._store.list_parts(MultipartRef(upload.object_key, upload.multipart_id), after=after))
            except UploadNotFound:
                self._assembled_before(upload)
                return None
        return sorted(listed, key=lambda part: part.number)

    # -- one attempt ---------------------------------------------------------------------------------------------------

    def _attempt(
        self, upload: UploadRecord, parts: Sequence[tuple[int, str]] | None, sha256: str | None
    ) -> FileRecord | None:
        """Complete the upload; None if another request holds the claim."""
        own_key = object_key(FILE_PREFIX, names.extension(upload.original_name), datetime.now(UTC))
        with self._db.connection() as tx:
            claimed = uploads.claim_completion(tx, upload.id, lease=LEASE, fresh_key=own_key)
        if claimed is None:
            return None
        try:
            with beating(lambda: self._renew(claimed), every=RENEW):
                etag, size = self._assemble(claimed, parts)
                file = self._publish(claimed, etag, size, sha256)
        except BaseException as error:
            if not self._release(claimed) and isinstance(error, (PartsMismatch, Unavailable)):
                return self._overtaken(claimed, sha256)
            raise
        if file is None:
            return self._overtaken(claimed, sha256)
        if claimed.incoming_key is not None:
            self._intake.delete(claimed.incoming_key)
            if claimed.object_key != upload.object_key:  # the copy of an attempt that died
                self._intake.delete(upload.object_key)
        return file

    def _renew(self, claimed: UploadRecord) -> None:
        with self._db.connection() as tx:
            uploads.keep_claim(tx, claimed.id, object_key=claimed.object_key)

    def _release(self, upload: UploadRecord) -> bool:
        """Give the claim back, so that the upload can go on; False if it is over. The copy is deleted only if the row says
        that it became no file: the answer to a COMMIT may have been lost (T104)."""
        with self._db.connection() as tx:
            released = uploads.release_completion(tx, upload.id, object_key=upload.object_key)
        if released and upload.incoming_key is not None:
            self._intake.delete(upload.object_key)
        return released

    def _overtaken(self, upload: UploadRecord, sha256: str | None) -> FileRecord | None:
        """The file, if another completer made it meanwhile. None if the upload has not ended. Raises UploadGone."""
        with self._db.connection() as tx:
            now = uploads.get(tx, upload.id)
        if now is not None and (now.open or now.status == "completing"):
            return None
        if now is None or now.status != "done":
            self._intake.remove_bytes(upload)
            raise UploadGone()
        file = self._file_of(now, sha256)
        if upload.incoming_key is not None and file.file_path != upload.object_key:
            self._intake.delete(upload.object_key)
        return file

    def _assemble(self, upload: UploadRecord, wanted: Sequence[tuple[int, str]] | None) -> tuple[str, int]:
        """Make one object under the object key; its ETag and size in bytes."""
        if upload.protocol in RESUMABLE:
            return self.assemble_recorded(upload)
        return self._assemble_listed(upload, wanted) if upload.multipart_id else self._copy_in(upload, wanted)

    def assemble_recorded(self, upload: UploadRecord, *, partial: bool = False) -> tuple[str, int]:
        """Complete a resumable upload from exactly the recorded parts; the bucket drops any others. May be repeated."""
        with self._db.connection() as tx:
            record, recorded = resumable.get(tx, upload.id), resumable.parts(tx, upload.id)
        if record is None or not record.bytes_complete or record.partial != partial:
            raise PartsMismatch("The upload has not arrived in full.")
        if upload.multipart_id is None:
            return self._assembled_before(upload)
        ref = MultipartRef(upload.object_key, upload.multipart_id)
        return self._join(upload, ref, [stored_part(part) for part in recorded])

    def _assemble_listed(self, upload: UploadRecord, wanted: Sequence[tuple[int, str]] | None) -> tuple[str, int]:
        """Complete from the bucket's own list of parts, compared with the plan and with the client's list."""
        assert upload.multipart_id is not None
        stored = self.stored_parts(upload)
        if stored is None:
            return self._assembled_before(upload)
        chosen = _choose(stored, wanted, upload)
        return self._join(upload, MultipartRef(upload.object_key, upload.multipart_id), chosen)

    def _join(self, upload: UploadRecord, ref: MultipartRef, chosen: Sequence[Part]) -> tuple[str, int]:
        size = sum(part.size for part in chosen)
        with bucket_errors():
            try:
                info = part_writer.complete(self._store, ref, chosen)
            except InvalidPart as error:
                raise PartsMismatch("A part was sent again while the upload was being completed.") from error
            except UploadNotFound:
                return self._assembled_before(upload)  # completed a moment ago, or aborted
            except ObjectNotFound as error:
                raise Unavailable("The bucket has not assembled the parts; try again.") from error
        if info.size != size:  # nothing is left to resume from
            detail = f"The parts have {size} bytes, but the assembled object has {info.size}."
            problem = PartsMismatch(detail).as_problem()
            self._intake.abort(upload, problem=problem)
            raise UploadGone(problem["detail"])
        return info.etag, info.size

    def _assembled_before(self, upload: UploadRecord) -> tuple[str, int]:
        """The multipart upload is over: a completer died after the last step. Raises UploadGone, after ending the upload, if the
        bucket has aborted it instead, as MinIO does after a day."""
        gone = UploadGone("The bucket no longer has this upload; begin a new one.")
        with bucket_errors(), suppress(ObjectNotFound):
            info = self._store.stat(upload.object_key)
            if upload.size in (None, info.size):
                return info.etag, info.size
            gone = UploadGone(f"{upload.size} bytes were declared, the bucket holds {info.size}.")
        self._intake.abort(upload, problem=gone.as_problem())
        raise gone

    def _copy_in(self, upload: UploadRecord, wanted: Sequence[tuple[int, str]] | None) -> tuple[str, int]:
        """Copy what arrived to the object key, exactly the version that was checked."""
        if upload.incoming_key is None:
            raise PartsMismatch("Complete this upload by the protocol that began it.")
        with bucket_errors():
            try:
                info = self._store.stat(upload.incoming_key)
                arrived = Part(1, info.size, info.etag)
                if upload.size not in (None, info.size):
                    raise PartsMismatch(f"{upload.size} bytes were declared, {info.size} arrived.")
                if wanted is not None and _listed(wanted) != [(1, arrived.etag)]:
                    raise PartsMismatch()
                copied = self._store.copy(upload.incoming_key, upload.object_key, if_source_etag=info.etag)
            except ObjectNotFound as error:
                raise PartsMismatch("No bytes of this upload have arrived.", missing=[(1, 1)]) from error
            except PreconditionFailed as error:
                raise PartsMismatch("The object was replaced while it was being completed.") from error
        if copied.size != info.size:
            raise Unavailable("The bucket did not copy all of the bytes; try again.")
        return copied.etag, copied.size

    def _publish(self, upload: UploadRecord, etag: str, size: int, sha256: str | None) -> FileRecord | None:
        """Make the file, as ``processing``, and queue its check in the same transaction. None if the upload is over.

        A checksum other than the one declared at the beginning rejects the file: no bytes match both."""
        self._check_size(upload, size)
        new = NewFile(
            upload_id=upload.id,
            owner_id=upload.owner_id,
            original_name=upload.original_name,
            object_key=upload.object_key,
            etag=etag,
            size=size,
            sha256=None,
            mime_type=upload.content_type,
            file_type=content_types.file_type(upload.content_type),
            status="processing",
            placement=upload.placement,
            metadata={"custom": upload.metadata} if upload.metadata else {},
            problem=FOLDER_GONE if upload.folder_gone else None,
        )
        try:
            with self._db.transaction() as tx:
                self._intake.policy.open_publication(
                    tx,
                    upload.owner_id,
                    upload.folder_id,
                    session_id=upload.session_id or upload.id.hex,
                    count=1,
                    size=size,
                )
                file = files.publish(tx, new, link=False, forget=False)
                if file is None:
                    raise db_errors.Rollback
                if sha256 not in (None, upload.sha256) and upload.sha256 is not None:
                    problem = ChecksumMismatch("Two different sha256 checksums were declared.").as_problem()
                    file = files.finish_check(tx, file.id, status="rejected", problem=problem) or file
                else:
                    if sha256 is not None:
                        uploads.declare_sha256(tx, upload.id, sha256, problem=ChecksumMismatch().as_problem())
                    jobs.enqueue(tx, "check_file", owner_id=file.owner_id, file_id=str(file.id))
        except QuotaExceeded as error:  # of the session
            self._intake.abort(upload, problem=error.as_problem())
            raise
        except db_errors.ForeignKeyViolation:
            with self._db.connection() as tx:
                now = uploads.get(tx, upload.id)
            if now is None or now.folder_id == upload.folder_id:
                raise
            return self._publish(now, etag, size, sha256)  # the folder was deleted a moment ago
        if file is not None:
            metrics().upload(upload.protocol, "done", size if upload.protocol in ("tus", "ietf") else 0)
        return file

    def _check_size(self, upload: UploadRecord, size: int) -> None:
        """Raises FileTooLarge and QuotaExceeded, after ending the upload."""
        with self._db.connection() as tx:
            uploader = uploader_of(tx, upload)
        limit = self._intake.policy.max_size(uploader)
        if size > limit:
            error = FileTooLarge(f"A file may have at most {limit} bytes.")
            self._intake.abort(upload, problem=error.as_problem())
            raise error
        if upload.size is None:
            self._intake.reserve(upload, size)

    def _file_of(self, upload: UploadRecord, sha256: str | None) -> FileRecord:
        """The file that an upload became. A checksum counts even if the sweep completed the upload before the client."""
        with self._db.connection() as tx:
            if sha256 is not None and upload.sha256 is None:
                uploads.declare_sha256(tx, upload.id, sha256, problem=ChecksumMismatch().as_problem())
            file = files.get(tx, upload.file_id) if upload.file_id else None
        if file is None:
            raise UploadGone("The file has been deleted.")
        return file


def check_owner(principal: Principal, upload: UploadRecord | None) -> UploadRecord:
    """The upload, if it is the caller's; else NotFound. An upload token sees only those that it began."""
    own = upload is not None and (
        principal.began(upload.session_id) or may_change(principal, upload.owner_id, upload.folder_id)
    )
    if upload is None or not own or (principal.token_id is not None and upload.token_id != principal.token_id):
        raise NotFound("There is no such upload.")
    return upload


def stored_part(part: PartRecord) -> Part:
    """A recorded part in the bucket's terms."""
    checksum = Checksum("crc32", part.crc32) if part.crc32 is not None else None
    return Part(part.number, part.size, part.etag, checksum)


def plan_of(upload: UploadRecord, size: int) -> PartPlan:
    """The parts as they were planned when the upload began; one if it is sent by one request."""
    if upload.incoming_key is not None:
        return PartPlan(size, max(size, 1), 1)
    part_size = upload.part_size or plan(size).part_size
    return PartPlan(size, part_size, max(1, -(-size // part_size)))


def fits(expected: PartPlan, part: Part) -> bool:
    """Whether the plan has such a part."""
    return 1 <= part.number <= expected.part_count and part.size == expected.length_of(part.number)


def unambiguous(stored: Sequence[Part]) -> list[Part]:
    """The parts of which the bucket holds one version."""
    versions = Counter(part.number for part in stored)
    return [part for part in stored if versions[part.number] == 1]


def _choose(stored: Sequence[Part], wanted: Sequence[tuple[int, str]] | None, upload: UploadRecord) -> list[Part]:
    """The parts to assemble: number and size as planned and, if the client sends a list, number and ETag exactly as listed.
    Raises PartsMismatch with the ranges that are missing."""
    numbers = sorted({part.number for part in stored})
    if upload.size is not None:
        expected = plan_of(upload, upload.size)
        stored = [part for part in stored if fits(expected, part)]
        gaps = missing((part.number for part in stored), expected.part_count)
        if gaps or len(numbers) != expected.part_count:
            raise PartsMismatch("Parts are missing or have the wrong size; see `missing`.", missing=gaps)
    elif wanted is None:  # more may be on the way
        raise PartsMismatch("List the parts, since the upload's size was not declared.")
    elif not stored or numbers != list(range(1, len(numbers) + 1)):
        raise PartsMismatch("Parts are missing.", missing=missing(numbers, max(numbers, default=1)))
    if wanted is None:
        chosen = unambiguous(stored)
        twice = [number for number in numbers if number not in {part.number for part in chosen}]
        if twice:
            numbers_sent = ", ".join(map(str, twice[:20]))
            raise PartsMismatch(
                f"Parts were sent twice with different bytes ({numbers_sent}). Send `parts` with the ETags to use."
            )
        return chosen
    by_etag = {(part.number, part.etag): part for part in stored}
    listed = _listed(wanted)
    if [number for number, _ in listed] != numbers or not all(entry in by_etag for entry in listed):
        raise PartsMismatch()
    return [by_etag[entry] for entry in listed]


def _listed(parts: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """The client's list in order, ETags without the quotes that some clients keep."""
    return sorted((number, etag.strip().strip('"')) for number, etag in parts)
