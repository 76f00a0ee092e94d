"""Write a resumable upload into the bucket without ever losing an acknowledged byte.

The offset is what the row says, and the row says only what the bucket has confirmed: parts by number and ETag, and after
them the tail, an object of its own for bytes too few for a part. A new tail is stored before the row names it, and the old
one is deleted after that. Full parts are sent at once, so memory is bounded by one part.

A writer may be paused anywhere, be given up for dead, and wake. Then it can only

- store a part under a number that was given to it alone. Completion names the recorded parts only, so the bucket drops it;
- store an object under a key that was given to it alone: ``upload_objects`` has it, and the janitor deletes it;
- run a statement with an old fence, which changes nothing.

A body with a checksum is recorded after the checksum matched; until then its parts are staged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Protocol

from core import names
from core.content_types import OCTET_STREAM
from core.errors import BodyChecksumMismatch, FileTooLarge, LimitReached, Unsupported, UploadGone
from core.ids import FILE_PREFIX, TAIL_PREFIX, object_key
from core.principal import Principal
from core.tus import digest_of
from db import Database, resumable
from db.records import PartRecord, UploadState
from db.resumable import MAX_PART_NUMBER
from services.library.sniff import HEAD_BYTES
from services.objects.bucket import bucket_errors
from services.objects.part_writer import PartWriter
from services.uploads.intake import Intake
from services.uploads.leases import LEASE, Lease, lost
from storage_backends.base import MultipartRef, MultipartStore, Part

_READ = 256 * 1024  # bytes; at most this is lost if a read fails on a server that keeps nothing of it
_SPARE_NUMBERS = 1_000  # part numbers left for writers that die


class Body(Protocol):
    """A request's body. ``read`` returns b"" at its end or when the connection ended, and None after a pause."""

    broken: bool  # the connection ended before the body

    def read(self, size: int, /) -> bytes | None:
        """At most so many bytes."""

    def stop_soon(self) -> None:
        """Return what has arrived, and then end."""

    def acknowledge(self, offset: int, /) -> None:
        """Called while it is read, when all bytes up to this offset of the upload are durable."""


class NoBytes:
    """An empty body."""

    broken = False

    def read(self, size: int, /) -> bytes:
        """Nothing."""
        return b""

    def stop_soon(self) -> None:
        """It has ended."""

    def acknowledge(self, offset: int, /) -> None:
        """Nobody waits for it."""


class ResumableWriter:
    """The holder of an upload's lease, with the buffer in which its parts are made."""

    def __init__(
        self,
        db: Database,
        store: MultipartStore,
        intake: Intake,
        principal: Principal,
        lease: Lease,
        *,
        ttl: timedelta,
        checksums: bool = True,
    ):
        """``checksums``: whether parts have a CRC32; copied ones have none, and all parts of an upload must be alike."""
        self._db = db
        self._store = store
        self._intake = intake
        self._principal = principal
        self._lease = lease
        self._checksums = checksums
        self.ttl = ttl
        self.upload, self.record = lease.state.upload, lease.state.record
        assert self.upload.part_size is not None
        self._part_size = self.upload.part_size
        self._in_parts = self.record.in_parts  # bytes in recorded and staged parts
        rest = self._part_size if self.upload.size is None else self.upload.size - self._in_parts
        self._parts = PartWriter(store, self._part_size, capacity=rest)
        self._staged: list[PartRecord] = []
        self._mime_type: str | None = None
        self._judged = self._in_parts > 0
        self._extended_at = monotonic()

    @property
    def state(self) -> UploadState:
        """The upload as it is recorded."""
        return UploadState(self.upload, self.record)

    @property
    def position(self) -> int:
        """Bytes up to the end of the buffer."""
        return self._in_parts + self._parts.filled

    @property
    def pending(self) -> int:
        """Bytes in the buffer."""
        return self._parts.filled

    def receive(self, body: Body, checksums: Mapping[str, bytes] | None = None) -> bool:
        """Read a body to its end; once for each writer. ``checksums``: what its digests have to be, by algorithm. Returns
        whether its bytes count: not if the connection ended before checksums could be compared. ``close`` comes next.

        Bytes past the declared end are refused and not stored. Raises BodyChecksumMismatch, FileTooLarge,
        InconsistentLength, Locked. Whatever is raised, the recorded offset is right."""
        digests = {name: digest_of(name) for name in checksums or {}}
        self._load_tail()
        while (piece := body.read(self._read_size())) != b"":
            self._lease.renew()
            self._extend_life()
            if self._lease.handover_requested:
                body.stop_soon()
            if piece is None:
                continue
            for digest in digests.values():
                digest.update(piece)
            self._check_size(rest=self._parts.add(piece))
            self._judge(ended=False)
            if not self._parts.room and self.position != self.upload.size:
                self._send_part(stage=bool(digests))
                body.acknowledge(self.record.received)
        if body.broken and digests:
            return False
        if any(digest.digest() != (checksums or {})[name] for name, digest in digests.items()):
            raise BodyChecksumMismatch()
        return True

    def close(self) -> None:
        """Store what is in the buffer: as the end of the upload, as a part if it is large enough, else as the tail. Of an upload
        whose bytes are all stored there is nothing: its client repeats the end."""
        if self.record.bytes_complete:
            return
        if self.position == self.upload.size:
            self._judge(ended=True)
            if self.upload.multipart_id is None:
                self._store_whole()
            else:
                if self.pending or not self._in_parts:  # S3 makes an empty object of one empty part
                    self._send_part(stage=True)
                self._record()
        elif self.pending >= self._store.part_limits.min_size and self._numbers_suffice():
            self._send_part(stage=True)
            self._record()
        elif self.pending and self.position > self.record.received:
            self._store_tail()
        elif self._staged:
            self._record()

    # -- concatenation (services/uploads/concatenation.py) -------------------------------------------------------------

    def add(self, piece: bytes) -> None:
        """Add to the buffer, and stage a part as soon as it is large enough."""
        self._parts.add(piece)
        if self.pending >= self._store.part_limits.min_size:
            self._send_part(stage=True)

    def next_part(self) -> tuple[MultipartRef, int]:
        """Where the next part goes; no other writer stores there."""
        return self._multipart(), self._next_number()

    def stage(self, part: Part) -> None:
        """Count a stored part, to be recorded with what comes next."""
        self._in_parts += part.size
        checksum = part.checksum.value if part.checksum else None
        self._staged.append(PartRecord(part.number, part.size, part.etag, checksum))

    def judge(self, head: bytes) -> None:
        """Take the type from the upload's first bytes. Raises TypeMismatch, TypeNotAllowed."""
        self._judged = True
        name = self.upload.original_name
        self._mime_type = self._intake.policy.types.judge(self._principal, name, head)

    # -- the buffer ----------------------------------------------------------------------------------------------------

    def _read_size(self) -> int:
        """Never past the part; one byte more than was declared shows that there is more."""
        room = self._parts.room or 1
        if self.upload.size is not None:
            room = min(room, self.upload.size - self.position + 1)
        return min(_READ, room)

    def _load_tail(self) -> None:
        """The tail is made a part together with what comes."""
        record = self.record
        if record.tail_key is None:
            return
        with bucket_errors(), self._store.open(record.tail_key) as reader:
            while piece := reader.read(_READ):
                self._parts.add(piece)
                self._lease.renew()
        if self.pending != record.tail_size:
            raise UploadGone("The bucket has lost bytes of this upload.")

    def _check_size(self, *, rest: memoryview) -> None:
        """``rest`` did not fit into the part, which is full only at the end of the upload."""
        if rest or (self.upload.size is not None and self.position > self.upload.size):
            raise self._intake.overrun(self.upload)
        try:
            self._intake.policy.check_size(self._principal, self.position)
        except FileTooLarge as error:
            self._intake.abort(self.upload, problem=error.as_problem())
            raise

    def _judge(self, *, ended: bool) -> None:
        """Judge the type as soon as enough bytes are there. A refusal ends the upload."""
        if self._judged or not (ended or self.pending >= HEAD_BYTES):
            return
        if self.record.partial:
            self._judged = True
            return
        try:
            self.judge(self._parts.head(HEAD_BYTES))
        except Unsupported as error:
            self._intake.abort(self.upload, problem=error.as_problem())
            raise

    def _numbers_suffice(self) -> bool:
        """Whether enough part numbers are left for the rest if this part is smaller than planned."""
        size = self.upload.size if self.upload.size is not None else self._intake.policy.max_size(self._principal)
        rest = -(-max(0, size - self.position) // self._part_size)
        return self.record.next_part + len(self._staged) + rest + _SPARE_NUMBERS <= MAX_PART_NUMBER

    # -- the bucket ----------------------------------------------------------------------------------------------------

    def _send_part(self, *, stage: bool) -> None:
        """The buffer becomes the next part."""
        self._reserve()
        self._parts.ref, number = self.next_part()
        self.stage(self._parts.send(number, checksum=self._checksums))
        if not stage:
            self._record(last=False)

    def _next_number(self) -> int:
        with self._db.connection() as tx:
            number = resumable.next_part(tx, self.upload.id, fence=self._lease.fence, lease=LEASE)
            if number is not None:
                return number
            now = resumable.get(tx, self.upload.id)
        if now is not None and now.fence == self._lease.fence and now.next_part > MAX_PART_NUMBER:
            raise LimitReached("The upload was interrupted too often; begin a new one.")
        raise lost()

    def _multipart(self) -> MultipartRef:
        """The multipart upload, begun with the first part under a key of this writer's own."""
        if self.upload.multipart_id is None:
            key, mime_type = self._new_key(FILE_PREFIX), self._mime_type or OCTET_STREAM
            ref = self._parts.begin(key, mime_type, checksums=self._checksums)
            with self._db.connection() as tx:
                begun = resumable.begin_parts(
                    tx,
                    self.upload.id,
                    fence=self._lease.fence,
                    object_key=key,
                    multipart_id=ref.upload_id,
                    content_type=mime_type,
                )
            if begun is None:
                self._remove([key])
                raise lost()
            self.upload = begun
        assert self.upload.multipart_id is not None
        return MultipartRef(self.upload.object_key, self.upload.multipart_id)

    def _store_tail(self) -> None:
        self._reserve()
        key = self._new_key(TAIL_PREFIX)
        self._parts.put(key, OCTET_STREAM)
        self._record(tail=key)

    def _store_whole(self) -> None:
        """A small upload is stored as one object, which becomes the file's."""
        self._reserve()
        key = self._new_key(FILE_PREFIX)
        self._parts.put(key, self._mime_type or OCTET_STREAM)
        self._record(whole=key)

    def _new_key(self, prefix: str) -> str:
        """A key for this writer alone, recorded before anything is stored under it."""
        suffix = names.extension(self.upload.original_name) if prefix == FILE_PREFIX else ""
        key = object_key(prefix, suffix, datetime.now(UTC))
        with self._db.connection() as tx:
            if not resumable.add_key(tx, self.upload.id, key, fence=self._lease.fence, lease=LEASE):
                raise lost()
        return key

    def _record(self, *, tail: str | None = None, whole: str | None = None, last: bool = True) -> None:
        """Record what the bucket has confirmed, which acknowledges it. The ``last`` time the lease is given back."""
        old_tail = self.record.tail_key
        with self._db.connection() as tx:
            state = resumable.record(
                tx,
                self.upload.id,
                fence=self._lease.fence,
                received=self.position,
                new_parts=self._staged,
                tail_key=tail,
                tail_size=self.pending if tail else 0,
                bytes_complete=tail is None and self.position == self.upload.size,
                whole_key=whole,
                content_type=(self._mime_type or OCTET_STREAM) if whole else None,
                lease=None if last else LEASE,
                expires_in=self.ttl,
            )
        if state is None:
            self._remove([key for key in (tail, whole) if key is not None])
            raise lost()
        self._lease.held = not last
        self._lease.renewed(handover_requested=state.record.handover_requested)
        self.upload, self.record = state.upload, state.record
        self._staged, self._extended_at = [], monotonic()
        if old_tail is not None:
            self._remove([old_tail])

    def _reserve(self) -> None:
        """Reserve quota for undeclared bytes."""
        self.upload = self._intake.policy.reserve(self.upload, self.position, expires_in=self.ttl)

    def _extend_life(self) -> None:
        """Put off the upload's expiry while a slow client sends a part."""
        if monotonic() - self._extended_at > self.ttl.total_seconds() / 4:
            self._intake.policy.extend(self.upload, self.upload.reserved, expires_in=self.ttl)
            self._extended_at = monotonic()

    def _remove(self, keys: Sequence[str]) -> None:
        """Delete objects that are not needed; what fails stays recorded, and the janitor finds it."""
        gone = [key for key in keys if self._intake.remove_key(key)]
        with self._db.connection() as tx:
            resumable.forget_keys(tx, gone)
