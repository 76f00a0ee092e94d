"""Direct uploads: the client sends bytes to the bucket by presigned URLs, and the gateway sees only beginning and end.

A file of at most one part goes by a single PUT (or, for clients that need it, a POST form) to an *incoming* key, and is
copied to its object key, never given out, when it is completed: no URL handed out earlier can change it afterwards. A
larger one is a multipart upload on its object key; its part URLs are dead once it is complete.

The truth about what has arrived is always the bucket's own listing. Completing makes the file ``processing``; a worker
reads it back (services/checking.py) before anybody can download it.
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol
from uuid import UUID

import psycopg
import structlog

from core import content_types, names
from core.errors import (
    FileTooLarge, GatewayError, InvalidCursor, InvalidInput, Locked, NotFound, PartsMismatch, Unavailable, UploadGone,
)
from core.ids import decode_cursor, encode_cursor, new_id, object_key
from core.pages import Page
from core.parts import PartPlan, missing, plan
from core.placement import Placement
from core.principal import Principal
from db import Database, files, jobs, uploads
from db.files import FileRecord, NewFile
from db.uploads import NewUpload, UploadRecord
from services.bucket import bucket_errors
from services.intake import FILE_PREFIX, INCOMING_PREFIX, Intake
from storage_backends.base import (
    Checksum, Copies, InvalidPart, MultipartRef, ObjectNotFound, OutcomeUnknown, Part, PreconditionFailed, PresignedPost,
    PresignedRequest, PresignsParts, UploadNotFound,
)

log = structlog.get_logger()

PART_SIZE = 8 * 1024 * 1024         # bytes; a lost connection costs at most one of them
FIRST_BATCH = 100                   # part URLs in the first answer
MAX_BATCH = 1_000                   # part URLs in one call
MAX_PARTS = 10_000                  # S3's limits, for clients that cut by themselves
MIN_PART = 5 * 1024 * 1024          # bytes, of all parts but the last
_CLAIM_LEASE = timedelta(seconds=60)
_WAIT = 60.0                        # seconds that a second completer waits for the first
_POLL = 0.1

DirectProtocol = Literal["direct", "s3"]
Method = Literal["PUT", "POST", "multipart"]


class DirectStore(PresignsParts, Copies, Protocol):
    """What direct uploads need of the bucket."""


@dataclass(frozen=True, slots=True)
class DirectLimits:
    upload_ttl: timedelta               # an unfinished upload lives so long after its last sign of life
    url_ttl: timedelta                  # of presigned upload URLs


@dataclass(frozen=True, slots=True)
class PartUrl:
    part_number: int
    request: PresignedRequest


@dataclass(frozen=True, slots=True)
class UploadPlan:
    """What a client needs to begin: one request, or the first batch of parts."""

    upload: UploadRecord
    method: Literal["PUT", "multipart"]
    part_size: int                      # bytes
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
    def __init__(self, db: Database, store: DirectStore, intake: Intake, limits: DirectLimits, *, cursor_secret: bytes):
        self._db = db
        self._store = store
        self._intake = intake
        self._limits = limits
        self._cursor_secret = cursor_secret

    # -- begin ---------------------------------------------------------------------------------------------------------

    def begin(
        self, principal: Principal, *, filename: str, size: int, content_type: str | None = None, sha256: str | None = None,
        session_id: str | None = None, placement: Placement = Placement(),
    ) -> UploadPlan:
        """Admit an upload of ``size`` bytes and sign its first requests. Name, type, size and quota are judged here."""
        parts = plan(size, preferred=PART_SIZE)
        single = parts.part_count == 1
        upload = self.admit(
            principal, protocol="direct", filename=filename, size=size, content_type=content_type, sha256=sha256,
            session_id=session_id, placement=placement, single=single,
        )
        if single:
            return UploadPlan(upload, "PUT", parts.part_size, 1, self.sign_put(upload), [])
        upload = self.start_multipart(upload)
        batch = self._signed(upload, parts, range(1, min(parts.part_count, FIRST_BATCH) + 1))
        return UploadPlan(upload, "multipart", parts.part_size, parts.part_count, None, batch)

    def admit(
        self, principal: Principal, *, protocol: DirectProtocol, filename: str, size: int | None, content_type: str | None,
        sha256: str | None = None, session_id: str | None = None, placement: Placement = Placement(), single: bool,
    ) -> UploadRecord:
        """The upload's row, with its keys. A size that the client does not tell (``/s3``) holds no quota until it is seen."""
        claimed = None if content_type in (None, "", "undefined", "null") else content_type
        clean = self._intake.check_declared(principal, filename, size=size, claimed_type=claimed)
        extension, now = names.extension(clean), datetime.now(UTC)
        return self._intake.admit(principal, NewUpload(
            owner_id=principal.owner_id, protocol=protocol, original_name=clean, size=size, reserve=size or 0,
            object_key=object_key(FILE_PREFIX, extension, now),
            incoming_key=object_key(INCOMING_PREFIX, extension, now) if single else None,
            content_type=_signable(claimed) or content_types.mime_for_extension(extension) or "application/octet-stream",
            part_size=None if size is None else plan(size, preferred=PART_SIZE).part_size,
            session_id=session_id or new_id().hex, expires_in=self._limits.upload_ttl, sha256=sha256,
            placement=self._intake.place(principal, placement),
        ))

    def start_multipart(self, upload: UploadRecord) -> UploadRecord:
        """Open the bucket's multipart upload; where that fails nothing is left of ours."""
        try:
            with bucket_errors():
                ref = self._store.create_multipart(upload.object_key, content_type=upload.content_type)
            with self._db.connection() as tx:
                if not uploads.set_multipart(tx, upload.id, ref.upload_id):
                    raise UploadGone()
        except GatewayError as error:
            self._intake.discard([upload], problem=error.as_problem())
            raise
        return replace(upload, multipart_id=ref.upload_id, status="uploading")

    def sign_put(self, upload: UploadRecord) -> PresignedRequest:
        """The single PUT: length, type, If-None-Match: * and the checksum, where the client declared one, are signed."""
        assert upload.incoming_key is not None and upload.size is not None
        return self._store.presign_put(
            upload.incoming_key, expires_in=self._url_life(upload), size=upload.size, content_type=upload.content_type,
            checksum=Checksum("sha256", _base64(upload.sha256)) if upload.sha256 else None,
        )

    def sign_post(self, principal: Principal, upload: UploadRecord) -> PresignedPost:
        """A POST policy for clients that can do no other. It can't forbid overwriting: its object is copied before it is
        looked at."""
        assert upload.incoming_key is not None
        largest = self._intake.max_size(principal) if upload.size is None else upload.size
        return self._store.presign_post(
            upload.incoming_key, expires_in=self._url_life(upload), min_size=upload.size or 0,
            max_size=min(largest, 5 * 1024**3), content_type=upload.content_type,
        )

    # -- resume --------------------------------------------------------------------------------------------------------

    def get(self, principal: Principal, upload_id: UUID) -> UploadRecord:
        """The caller's own upload; NotFound for everybody else's."""
        with self._db.connection() as tx:
            return _own(principal, uploads.get(tx, upload_id))

    def progress(self, principal: Principal, upload_id: UUID) -> UploadProgress:
        """What has arrived, read from the bucket, so that it is right after any crash of client or gateway."""
        upload = self.get(principal, upload_id)
        if upload.status in ("aborted", "expired"):
            return UploadProgress(upload, 0, [], [])
        if upload.status == "done":
            return UploadProgress(upload, upload.size or 0, [], [])
        parts = self.list_parts(upload) if upload.multipart_id else self._arrived(upload)
        count = plan(upload.size, preferred=PART_SIZE).part_count if upload.size is not None else 0
        if upload.size is not None:
            expected = plan(upload.size, preferred=PART_SIZE)
            parts = [part for part in parts if part.number <= count and part.size == expected.length_of(part.number)]
        return UploadProgress(upload, sum(p.size for p in parts), parts, missing((p.number for p in parts), count))

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

    def list_parts(self, upload: UploadRecord) -> list[Part]:
        """The bucket's parts, all pages, each number once. A part sent again may be listed twice by some servers: then the
        later entry is the one that counts (THREATS T43)."""
        assert upload.multipart_id is not None
        with bucket_errors():
            try:
                listed = list(self._store.list_parts(MultipartRef(upload.object_key, upload.multipart_id)))
            except UploadNotFound:
                return []
        return sorted({part.number: part for part in listed}.values(), key=lambda part: part.number)

    def sign_parts(self, principal: Principal, upload_id: UUID, part_numbers: Sequence[int]) -> list[PartUrl]:
        """Fresh URLs for these parts, which also shows that the client is still at it. Raises UploadGone, InvalidInput."""
        if not 1 <= len(part_numbers) <= MAX_BATCH:
            raise InvalidInput(f"Ask for 1 to {MAX_BATCH} parts.", errors=[{"field": "part_numbers", "message": "1 to 1000"}])
        upload = self.get(principal, upload_id)
        if upload.multipart_id is None:
            raise InvalidInput("This upload has no parts.")
        parts = None if upload.size is None else plan(upload.size, preferred=PART_SIZE)
        last = parts.part_count if parts else MAX_PARTS
        if not all(1 <= number <= last for number in part_numbers):
            raise InvalidInput(
                f"Parts are numbered 1 to {last}.", errors=[{"field": "part_numbers", "message": "out of range"}],
            )
        self.renew(upload)
        if parts is None:                   # every part but the last has 5 MiB at least, so this much must fit
            self._foresee(principal, upload, (max(part_numbers) - 1) * MIN_PART)
        return self._signed(upload, parts, part_numbers)

    def renew(self, upload: UploadRecord) -> None:
        with self._db.connection() as tx:
            if not uploads.renew(tx, upload.id, expires_in=self._limits.upload_ttl):
                raise UploadGone()

    def _foresee(self, principal: Principal, upload: UploadRecord, size: int) -> None:
        """Refuse early what would be too large, of an upload whose size nobody told; hold quota for what is known."""
        self._intake.check_size(principal, size)
        if size > upload.reserved:
            self._intake.hold(upload, size, expires_in=self._limits.upload_ttl)

    def _signed(self, upload: UploadRecord, parts: PartPlan | None, numbers: Sequence[int]) -> list[PartUrl]:
        assert upload.multipart_id is not None
        ref, life = MultipartRef(upload.object_key, upload.multipart_id), self._url_life(upload)
        return [
            PartUrl(n, self._store.presign_part(ref, n, size=parts.length_of(n) if parts else None, expires_in=life))
            for n in numbers
        ]

    def _url_life(self, upload: UploadRecord) -> timedelta:
        return min(self._limits.url_ttl, self._limits.upload_ttl)

    def unfinished(self, principal: Principal, *, limit: int, cursor: str | None) -> Page[UploadRecord]:
        """The caller's uploads under way, by any protocol, newest first; an upload token sees its own alone."""
        scope = f"uploads:{principal.owner_id}:{principal.token_id}"
        after = None
        if cursor is not None:
            try:
                after = UUID(str(decode_cursor(cursor, scope=scope, secret=self._cursor_secret)[0]))
            except (ValueError, IndexError) as error:
                raise InvalidCursor() from error
        with self._db.connection() as tx:
            found = uploads.unfinished(tx, principal.owner_id, token_id=principal.token_id, after=after, limit=limit + 1)
        more = len(found) > limit
        found = found[:limit]
        return Page(found, encode_cursor([str(found[-1].id)], scope=scope, secret=self._cursor_secret) if more else None)

    # -- complete ------------------------------------------------------------------------------------------------------

    def complete(
        self, principal: Principal, upload_id: UUID, *, parts: Sequence[tuple[int, str]] | None = None,
        sha256: str | None = None,
    ) -> FileRecord:
        """Make the upload a file. Idempotent, and safe when asked many times at once: one does it, all get the same file.

        ``parts`` are (number, ETag) as the client saw them. Raises PartsMismatch, after which it can go on; UploadGone."""
        upload = self.get(principal, upload_id)
        if sha256 is not None and upload.sha256 is not None and sha256 != upload.sha256:
            raise InvalidInput("Another sha256 was declared when the upload began.")
        deadline = time.monotonic() + _WAIT
        while True:
            with self._db.connection() as tx:
                claimed = uploads.claim_completion(tx, upload_id, lease=_CLAIM_LEASE)
            if claimed is not None:
                return self._complete(claimed, parts, sha256)
            upload = self.get(principal, upload_id)
            if upload.status in ("aborted", "expired"):
                raise UploadGone()
            if upload.status == "done":
                return self._file_of(upload)
            if time.monotonic() > deadline:
                raise Locked("Another request is completing this upload.")
            time.sleep(_POLL)

    def _complete(self, upload: UploadRecord, parts: Sequence[tuple[int, str]] | None, sha256: str | None) -> FileRecord:
        try:
            etag, size = self._assemble(upload, parts) if upload.multipart_id else self._bring_in(upload)
            return self._publish(upload, etag, size, sha256)
        except BaseException:
            with self._db.connection() as tx:
                uploads.release_completion(tx, upload.id)
            raise

    def _assemble(self, upload: UploadRecord, wanted: Sequence[tuple[int, str]] | None) -> tuple[str, int]:
        """Complete the multipart from the bucket's own list, compared with the plan and with the client's list."""
        assert upload.multipart_id is not None
        ref = MultipartRef(upload.object_key, upload.multipart_id)
        held = self.list_parts(upload)
        if not held:
            return self._assembled_before(upload)
        _compare(held, wanted, upload.size)
        size = sum(part.size for part in held)
        with bucket_errors():
            try:
                self._store.complete_multipart(ref, held)
            except InvalidPart as error:
                raise PartsMismatch("A part was sent again while the upload was being completed.") from error
            except (UploadNotFound, OutcomeUnknown):
                pass                    # done a moment ago, or the answer was lost: what the bucket holds decides
            info = self._store.stat(upload.object_key)
        if info.size != size:
            raise Unavailable("The bucket has not assembled all of the parts; try again.")
        return info.etag, info.size

    def _assembled_before(self, upload: UploadRecord) -> tuple[str, int]:
        """No parts: nothing was sent, or a completer died after the bucket had assembled the object."""
        with bucket_errors():
            try:
                info = self._store.stat(upload.object_key)
            except ObjectNotFound as error:
                raise PartsMismatch("The bucket holds no part of this upload.") from error
        if upload.size is not None and info.size != upload.size:
            raise PartsMismatch(f"{upload.size} bytes were announced, the bucket holds {info.size}.")
        return info.etag, info.size

    def _bring_in(self, upload: UploadRecord) -> tuple[str, int]:
        """Copy what arrived to the object key, exactly the version looked at."""
        assert upload.incoming_key is not None
        with bucket_errors():
            try:
                info = self._store.stat(upload.incoming_key)
            except ObjectNotFound:
                return self._assembled_before(upload)
            if upload.size is not None and info.size != upload.size:
                raise PartsMismatch(f"{upload.size} bytes were announced, {info.size} arrived.")
            try:
                copied = self._store.copy(upload.incoming_key, upload.object_key, if_source_etag=info.etag)
            except PreconditionFailed as error:
                raise PartsMismatch("The object was replaced while it was being completed.") from error
        return copied.etag, info.size

    def _publish(self, upload: UploadRecord, etag: str, size: int, sha256: str | None) -> FileRecord:
        """The file appears as ``processing``, and its check is queued in the same transaction."""
        if size > self._intake.max_size(Principal(upload.owner_id)):
            self._intake.discard([upload])
            raise FileTooLarge()
        new = NewFile(
            upload_id=upload.id, owner_id=upload.owner_id, original_name=upload.original_name, object_key=upload.object_key,
            etag=etag, size=size, sha256=None, mime_type=upload.content_type,
            file_type=content_types.file_type(upload.content_type), status="processing", placement=upload.placement,
            metadata={"custom": upload.metadata} if upload.metadata else {},
        )
        if upload.size is None:
            self._intake.hold(upload, size)
        try:
            with self._db.transaction() as tx:
                files.open_publication(
                    tx, upload.owner_id, upload.folder_id, session_id=upload.session_id or upload.id.hex, count=1, size=size,
                )
                if sha256 is not None:
                    uploads.declare_sha256(tx, upload.id, sha256)
                record = files.publish(tx, new, actor=upload.owner_id, link=False, forget=False)
                if record is None:
                    raise UploadGone()
                jobs.enqueue(tx, "check_file", file_id=str(record.id))
        except psycopg.errors.ForeignKeyViolation as error:
            raise NotFound("The folder is gone.") from error
        if upload.incoming_key is not None:
            self._intake.delete(upload.incoming_key)
        return record

    def _file_of(self, upload: UploadRecord) -> FileRecord:
        with self._db.connection() as tx:
            record = files.get(tx, upload.file_id) if upload.file_id else None
        if record is None:
            raise UploadGone("The file was deleted since.")
        return record

    # -- end -----------------------------------------------------------------------------------------------------------

    def abort(self, principal: Principal, upload_id: UUID) -> None:
        """Remove what arrived. An upload that is over already is left as it is; a finished one's file stays."""
        upload = self.get(principal, upload_id)
        self._intake.abort(upload)

    def sweep(self) -> int:
        """Complete what the bucket took without telling us: a POST form, or a single PUT whose tab was closed. One listing
        of the incoming prefix, and none while nobody may be bringing anything. The number completed."""
        with self._db.connection() as tx:
            stuck = uploads.stuck(tx, lease=_CLAIM_LEASE, limit=MAX_BATCH)
            awaited = uploads.any_incoming(tx)
        found = stuck
        if awaited:
            with bucket_errors():
                keys = [info.key for info in self._store.list_objects(INCOMING_PREFIX)]
            with self._db.connection() as tx:
                found = stuck + uploads.by_incoming_keys(tx, keys)
        completed = 0
        for upload in found:
            try:
                self.complete(Principal(upload.owner_id), upload.id)
                completed += 1
            except GatewayError as error:
                log.warning("sweep_left_upload", upload_id=str(upload.id), code=error.code)
        return completed


def _own(principal: Principal, upload: UploadRecord | None) -> UploadRecord:
    if upload is None or not (principal.is_admin or upload.owner_id == principal.owner_id) or (
        principal.token_id is not None and upload.token_id != principal.token_id
    ):
        raise NotFound("There is no such upload.")
    return upload


def _compare(held: Sequence[Part], wanted: Sequence[tuple[int, str]] | None, size: int | None) -> None:
    """The bucket's parts against the plan (number and size of each) and against the client's list (number and ETag)."""
    if size is not None:
        expected = plan(size, preferred=PART_SIZE)
        if [(p.number, p.size) for p in held] != [(n, expected.length_of(n)) for n in range(1, expected.part_count + 1)]:
            gaps = missing((part.number for part in held), expected.part_count)
            raise PartsMismatch(f"Parts are missing or have another size than planned: {gaps[:20]}.", missing=gaps)
    elif wanted is None:
        raise PartsMismatch("List the parts: how many they are was not announced.")
    elif [part.number for part in held] != list(range(1, len(held) + 1)):
        raise PartsMismatch("Parts are missing.")
    if wanted is not None and sorted((n, etag.strip('"')) for n, etag in wanted) != [(p.number, p.etag) for p in held]:
        raise PartsMismatch()


def _signable(content_type: str | None) -> str | None:
    """A claimed type that can stand in a header, without its parameters."""
    return content_types.canonical(content_type) if content_type else None


def _base64(hexadecimal: str) -> str:
    return b64encode(bytes.fromhex(hexadecimal)).decode()
