"""The end of a direct upload: from bytes in the bucket to a file, once, whoever asks and how often.

    pending | uploading -> completing (one claim) -> done

A claim is a compare-and-set with a lease of seconds, which its holder renews while it is at it, so that a completer that
died is soon followed by another. What came by a single
PUT or a POST form is copied to a key that no client ever heard of, and each attempt copies to a key of its own: a slow
attempt that was given up can't change the bytes under a file that a later one made (THREATS R1, T45).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog

from core import content_types, names
from core.errors import (
    ChecksumMismatch,
    FileTooLarge,
    GatewayError,
    Locked,
    NameConflict,
    NotFound,
    PartsMismatch,
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
from services.objects.bucket import bucket_errors
from services.uploads.intake import RESUMABLE, Intake
from services.uploads.leases import LEASE, RENEW
from storage_backends.base import (
    Checksum,
    DirectStore,
    InvalidPart,
    MultipartRef,
    ObjectNotFound,
    OutcomeUnknown,
    Part,
    PreconditionFailed,
    StorageError,
    UploadNotFound,
)
from telemetry import metrics

log = structlog.get_logger()

_WAIT = 60.0  # seconds that a second completer waits for the first
_POLL = 0.1
_BATCH = 1_000
_RUN = 3.0  # seconds after which a sweep begins nothing more; the next one gives each owner a turn again
_TRIES = 4
_AFTER_FAILURE = timedelta(seconds=5)  # doubled for each try, up to ten minutes
_AFTER_OUTAGE = timedelta(seconds=30)

_FOLDER_GONE = {
    "code": "folder_gone",
    "detail": "The folder that this was uploaded to was deleted meanwhile; it is in the root.",
}


class Completion:
    def __init__(self, db: Database, store: DirectStore, intake: Intake):
        self._db = db
        self._store = store
        self._intake = intake

    def complete(
        self,
        principal: Principal,
        upload_id: UUID,
        *,
        parts: Sequence[tuple[int, str]] | None,
        sha256: str | None,
    ) -> FileRecord:
        """See DirectUploads.complete."""
        deadline = time.monotonic() + _WAIT
        while True:
            with self._db.connection() as tx:
                upload = own(principal, uploads.get(tx, upload_id))
            if upload.status in ("aborted", "expired"):
                raise UploadGone()
            if upload.status == "done":
                return as_sent(principal, upload, self._file_of(upload, sha256))
            file = self._attempt(upload, parts, sha256)
            if file is not None:
                return as_sent(principal, upload, file)
            if time.monotonic() > deadline:
                raise Locked("Another request is completing this upload.")
            time.sleep(_POLL)

    def sweep(self) -> int:
        """Complete what the bucket took without telling us: a POST form, or a single PUT whose tab was closed; and what a
        completer left that died. One listing of the incoming prefix, and none while nobody may be bringing anything. The
        number completed. What else lies there was sent again after its upload was over, and is removed."""
        keys: list[str] = []
        with self._db.connection() as tx:
            awaited = uploads.any_incoming(tx)
        if awaited:
            with bucket_errors():
                keys = [info.key for info in self._store.list_objects(INCOMING_PREFIX)]
        with self._db.connection() as tx:
            found = uploads.due(tx, keys, lease=LEASE, limit=_BATCH)
            known = objects.known_keys(tx, keys)
        for key in keys:
            if key not in known:
                self._intake.delete(key)
        return self.in_turn(found, lambda upload: self._attempt(upload, None, None) is not None)

    def in_turn(self, found: Sequence[UploadRecord], complete: Callable[[UploadRecord], bool]) -> int:
        """Complete one after another, as many as there is time for; the number completed. What fails is tried again later, and
        ends where it has failed some times for what it is, not for a bucket or database that is away."""
        completed, deadline = 0, time.monotonic() + _RUN
        for upload in found:
            try:
                completed += complete(upload)
            except Exception as error:
                self._put_off(upload, error)
            if time.monotonic() > deadline:
                break
        return completed

    def _put_off(self, upload: UploadRecord, error: Exception) -> None:
        told = isinstance(error, GatewayError | StorageError)
        log.warning(
            "sweep_left_upload",
            upload_id=str(upload.id),
            error=type(error).__name__,
            detail=str(error),
            exc_info=None if told else error,
        )
        if isinstance(error, Unavailable | StorageFull | Locked | StorageError):
            tries, wait = upload.tries, _AFTER_OUTAGE
        else:
            tries, wait = upload.tries + 1, _AFTER_FAILURE * 2 ** min(upload.tries, 7)
            if tries >= _TRIES and isinstance(error, GatewayError):
                self._intake.abort(upload, problem=error.as_problem())
                return
        with self._db.connection() as tx:
            uploads.put_off(tx, upload.id, tries=tries, wait=wait)

    def held_parts(self, upload: UploadRecord) -> list[Part] | None:
        """The bucket's parts, all pages, by number; None where the bucket no longer knows the upload.

        A part that was sent twice with different bytes is listed twice by SeaweedFS, in no order that tells which came last
        (seen with 4.48); it assembles the one whose ETag completion names. With equal bytes it is one part."""
        sent = self.sent_parts(upload)
        return None if sent is None else list({(part.number, part.etag, part.size): part for part in sent}.values())

    def sent_parts(self, upload: UploadRecord) -> list[Part] | None:
        """As ``held_parts``, each as often as the bucket keeps it."""
        assert upload.multipart_id is not None
        with bucket_errors():
            try:
                listed = list(self._store.list_parts(MultipartRef(upload.object_key, upload.multipart_id)))
            except UploadNotFound:
                return None
        return sorted(listed, key=lambda part: part.number)

    # -- one attempt ---------------------------------------------------------------------------------------------------

    def _attempt(
        self,
        upload: UploadRecord,
        parts: Sequence[tuple[int, str]] | None,
        sha256: str | None,
    ) -> FileRecord | None:
        """Complete the upload, unless somebody else is at it: then None."""
        own_key = object_key(FILE_PREFIX, names.extension(upload.original_name), datetime.now(UTC))
        with self._db.connection() as tx:
            claimed = uploads.claim_completion(tx, upload.id, lease=LEASE, fresh_key=own_key)
        if claimed is None:
            return None
        try:
            with beating(lambda: self._keep(claimed), every=RENEW):
                etag, size = self._put_together(claimed, parts)
                file = self._publish(claimed, etag, size, sha256)
        except BaseException as error:
            if not self._give_back(claimed) and isinstance(error, (PartsMismatch, Unavailable)):
                return self._overtaken(claimed, sha256)
            raise
        if file is None:
            file = self._overtaken(claimed, sha256)
            if file is None:  # nothing ended it, so it was the name
                self._give_back(claimed)
                raise NameConflict("Too many files in this folder have this name.")
            return file
        if claimed.incoming_key is not None:
            self._intake.delete(claimed.incoming_key)
            if claimed.object_key != upload.object_key:  # what an attempt that died had copied
                self._intake.delete(upload.object_key)
        return file

    def _keep(self, claimed: UploadRecord) -> None:
        with self._db.connection() as tx:
            uploads.keep_claim(tx, claimed.id, object_key=claimed.object_key)

    def _give_back(self, upload: UploadRecord) -> bool:
        """It was not complete, and can go on; False where it is over. The copy is deleted only where the row says that it
        became no file: the answer to a COMMIT may have been lost (THREATS T104)."""
        with self._db.connection() as tx:
            released = uploads.release_completion(tx, upload.id, object_key=upload.object_key)
        if released and upload.incoming_key is not None:
            self._intake.delete(upload.object_key)
        return released

    def _overtaken(self, upload: UploadRecord, sha256: str | None) -> FileRecord | None:
        """The upload ended while its bytes were being put together: by an abort, or by a completer that took over. None where
        it has not ended."""
        with self._db.connection() as tx:
            now = uploads.get(tx, upload.id)
        if now is not None and now.status in ("pending", "uploading", "completing"):
            return None
        if now is None or now.status != "done":
            self._intake.remove_bytes(upload)
            raise UploadGone()
        file = self._file_of(now, sha256)
        if upload.incoming_key is not None and file.file_path != upload.object_key:
            self._intake.delete(upload.object_key)
        return file

    def _put_together(self, upload: UploadRecord, wanted: Sequence[tuple[int, str]] | None) -> tuple[str, int]:
        """What arrived as one object under the object key: its ETag and size in bytes."""
        if upload.protocol in RESUMABLE:
            return self.assemble_recorded(upload)
        return self._assemble(upload, wanted) if upload.multipart_id else self._bring_in(upload, wanted)

    def assemble_recorded(self, upload: UploadRecord, *, partial: bool = False) -> tuple[str, int]:
        """Complete a resumable upload from exactly the parts that its row names; whatever else its writers left in the
        multipart is dropped by the bucket. May be done again."""
        with self._db.connection() as tx:
            record, recorded = resumable.get(tx, upload.id), resumable.parts(tx, upload.id)
        if record is None or not record.sealed or record.partial != partial:
            raise PartsMismatch("The upload has not arrived in full.")
        if upload.multipart_id is None:
            return self._assembled_before(upload)
        ref = MultipartRef(upload.object_key, upload.multipart_id)
        return self._joined(upload, ref, [stored_part(part) for part in recorded])

    def _assemble(self, upload: UploadRecord, wanted: Sequence[tuple[int, str]] | None) -> tuple[str, int]:
        """Complete the multipart from the bucket's own list, compared with the plan and with the client's list."""
        assert upload.multipart_id is not None
        held = self.held_parts(upload)
        if held is None:
            return self._assembled_before(upload)
        chosen = _choose(held, wanted, upload)
        return self._joined(upload, MultipartRef(upload.object_key, upload.multipart_id), chosen)

    def _joined(self, upload: UploadRecord, ref: MultipartRef, chosen: Sequence[Part]) -> tuple[str, int]:
        size = sum(part.size for part in chosen)
        with bucket_errors():
            try:
                self._store.complete_multipart(ref, chosen)
            except InvalidPart as error:
                raise PartsMismatch("A part was sent again while the upload was being completed.") from error
            except UploadNotFound:
                return self._assembled_before(upload)  # done a moment ago, or never to be done
            except OutcomeUnknown:
                pass  # the answer was lost: what the bucket holds decides
            try:
                info = self._store.stat(upload.object_key)
            except ObjectNotFound as error:
                raise Unavailable("The bucket has not assembled the parts; try again.") from error
        if info.size != size:  # nothing is left to resume from
            problem = PartsMismatch(f"The parts have {size} bytes, the bucket made {info.size} of them.").as_problem()
            self._intake.abort(upload, problem=problem)
            raise UploadGone(problem["detail"])
        return info.etag, info.size

    def _assembled_before(self, upload: UploadRecord) -> tuple[str, int]:
        """The bucket's upload is over: a completer died after the last step, or the bucket has aborted it."""
        with bucket_errors():
            try:
                info = self._store.stat(upload.object_key)
            except ObjectNotFound as error:
                raise UploadGone("The bucket no longer knows this upload.") from error
        if upload.size is not None and info.size != upload.size:
            raise UploadGone(f"{upload.size} bytes were announced, the bucket holds {info.size}.")
        return info.etag, info.size

    def _bring_in(self, upload: UploadRecord, wanted: Sequence[tuple[int, str]] | None) -> tuple[str, int]:
        """Copy what arrived to the object key, exactly the version looked at."""
        if upload.incoming_key is None:
            raise PartsMismatch("This upload can't be completed here.")
        with bucket_errors():
            try:
                info = self._store.stat(upload.incoming_key)
                arrived = Part(1, info.size, info.etag)
                if upload.size not in (None, info.size):
                    raise PartsMismatch(f"{upload.size} bytes were announced, {info.size} arrived.")
                if wanted is not None and _listed(wanted) != [(1, arrived.etag)]:
                    raise PartsMismatch()
                copied = self._store.copy(upload.incoming_key, upload.object_key, if_source_etag=info.etag)
            except ObjectNotFound as error:
                raise PartsMismatch("The bucket holds nothing of this upload.", missing=[(1, 1)]) from error
            except PreconditionFailed as error:
                raise PartsMismatch("The object was replaced while it was being completed.") from error
        if copied.size != info.size:
            raise Unavailable("The bucket did not copy all of the bytes; try again.")
        return copied.etag, copied.size

    def _publish(self, upload: UploadRecord, etag: str, size: int, sha256: str | None) -> FileRecord | None:
        """The file appears as ``processing``, and its check is queued in the same transaction. None where the upload is over.
        Where its folder was deleted meanwhile it lands in the root, and says so.

        A checksum that contradicts the one declared at the beginning settles the check: no bytes have both."""
        with self._db.connection() as tx:
            uploader = uploader_of(tx, upload)
        limit = self._intake.policy.max_size(uploader)
        if size > limit:
            error = FileTooLarge(f"A file may have at most {limit} bytes.")
            self._intake.abort(upload, problem=error.as_problem())
            raise error
        if upload.size is None:
            self._intake.hold(upload, size)
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
            problem=_FOLDER_GONE if upload.in_folder and upload.folder_id is None else None,
        )
        try:
            with self._db.transaction() as tx:
                files.open_publication(
                    tx,
                    upload.owner_id,
                    upload.folder_id,
                    session_id=upload.session_id or upload.id.hex,
                    count=1,
                    size=size,
                )
                file = files.publish(tx, new, actor=upload.owner_id, link=False, forget=False)
                if file is None:
                    raise db_errors.Rollback
                if sha256 not in (None, upload.sha256) and upload.sha256 is not None:
                    file = (
                        files.finish_check(
                            tx,
                            file.id,
                            status="rejected",
                            problem=ChecksumMismatch(
                                "The upload began with another sha256 than it ended with."
                            ).as_problem(),
                        )
                        or file
                    )
                else:
                    if sha256 is not None:
                        uploads.declare_sha256(tx, upload.id, sha256, problem=ChecksumMismatch().as_problem())
                    jobs.enqueue(tx, "check_file", owner_id=file.owner_id, file_id=str(file.id))
        except db_errors.ForeignKeyViolation:
            if upload.folder_id is None:
                raise
            return self._publish(replace(upload, folder_id=None), etag, size, sha256)  # deleted a moment ago
        if file is not None:
            metrics().upload(upload.protocol, "done", size if upload.protocol in ("tus", "ietf") else 0)
        return file

    def _file_of(self, upload: UploadRecord, sha256: str | None) -> FileRecord:
        """The file that an upload became. A checksum counts also where the sweep was quicker than the client."""
        with self._db.connection() as tx:
            if sha256 is not None and upload.sha256 is None:
                uploads.declare_sha256(tx, upload.id, sha256, problem=ChecksumMismatch().as_problem())
            file = files.get(tx, upload.file_id) if upload.file_id else None
        if file is None:
            raise UploadGone("The file was deleted since.")
        return file


def own(principal: Principal, upload: UploadRecord | None) -> UploadRecord:
    """The upload, if it is this caller's; else NotFound. An upload token's are only those that it began itself."""
    if (
        upload is None
        or not (principal.is_admin or upload.owner_id == principal.owner_id)
        or (principal.token_id is not None and upload.token_id != principal.token_id)
    ):
        raise NotFound("There is no such upload.")
    return upload


def stored_part(part: PartRecord) -> Part:
    """A recorded part in the bucket's terms."""
    checksum = Checksum("crc32", part.crc32) if part.crc32 is not None else None
    return Part(part.number, part.size, part.etag, checksum)


def plan_of(upload: UploadRecord, size: int) -> PartPlan:
    """The parts as they were planned when the upload began: one, where it is sent whole."""
    if upload.incoming_key is not None:
        return PartPlan(size, max(size, 1), 1)
    part_size = upload.part_size or plan(size).part_size
    return PartPlan(size, part_size, max(1, -(-size // part_size)))


def fits(expected: PartPlan, part: Part) -> bool:
    return 1 <= part.number <= expected.part_count and part.size == expected.length_of(part.number)


def unequivocal(held: Sequence[Part]) -> list[Part]:
    """The parts of which the bucket holds one version. A client that sends another of them again knows its ETag."""
    versions = Counter(part.number for part in held)
    return [part for part in held if versions[part.number] == 1]


def _choose(held: Sequence[Part], wanted: Sequence[tuple[int, str]] | None, upload: UploadRecord) -> list[Part]:
    """The parts to assemble: those of the plan (number and size of each), and where the client tells its list, exactly that
    (number and ETag). Raises PartsMismatch with the ranges that are missing."""
    numbers = sorted({part.number for part in held})
    if upload.size is not None:
        expected = plan_of(upload, upload.size)
        held = [part for part in held if fits(expected, part)]
        gaps = missing((part.number for part in held), expected.part_count)
        if gaps or len(numbers) != expected.part_count:
            raise PartsMismatch(f"Parts are missing or have another size than planned: {gaps[:20]}.", missing=gaps)
    elif wanted is None:  # what has arrived may be the beginning of more
        raise PartsMismatch("List the parts: how many they are was not announced.")
    elif not held or numbers != list(range(1, len(numbers) + 1)):
        raise PartsMismatch("Parts are missing.", missing=missing(numbers, max(numbers, default=1)))
    if wanted is None:
        chosen = unequivocal(held)
        twice = [number for number in numbers if number not in {part.number for part in chosen}]
        if twice:
            raise PartsMismatch(f"Parts {twice[:20]} were sent twice with different bytes: name the ETags that count.")
        return chosen
    by_etag = {(part.number, part.etag): part for part in held}
    listed = _listed(wanted)
    if [number for number, _ in listed] != numbers or not all(entry in by_etag for entry in listed):
        raise PartsMismatch()
    return [by_etag[entry] for entry in listed]


def _listed(parts: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """The client's list in order, its ETags without the quotes that some clients keep and others drop."""
    return sorted((number, etag.strip().strip('"')) for number, etag in parts)
