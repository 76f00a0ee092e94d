"""Bytes of a resumable upload on their way into the bucket, so that none is lost that a client was told of.

The offset is what the row says, and the row says only what the bucket has confirmed: parts by number and ETag, and behind
them the tail, an object of its own for the bytes that are too few for a part. A new tail is stored before the row names it,
and the old one removed after that. Full parts go out as soon as they are there, through one buffer of a part's size, which
is all that is held in memory.

A writer may be paused at any point, given up for dead, and wake. It can then only

- write a part under a number that the row gave to it alone. Nobody will use that number again and completion names the
  recorded parts only, so the bytes lie beside the file and are dropped with the multipart;
- write an object under a key that the row gave to it alone: found by ``upload_objects`` and removed;
- run a statement with an old token, which changes nothing.

So nothing it does reaches a byte that was acknowledged to anybody. A writer that dies has left at most a numbered part, an
object that is noted, or a multipart under a key that is noted; the next writer goes on from the row.

A body that comes with a checksum is recorded as a whole after its checksum was found right; until then its parts are staged.
"""

from __future__ import annotations

import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Protocol

import structlog

from core import names
from core.content_types import OCTET_STREAM
from core.errors import FileTooLarge, LimitReached, QuotaExceeded, Unsupported, UploadGone
from core.ids import FILE_PREFIX, TAIL_PREFIX, object_key
from core.principal import Principal
from db import Database, resumable
from db.records import PartRecord, ResumableRecord, UploadRecord
from db.resumable import MAX_PART_NUMBER
from services.library.type_policy import HEAD_SIZE
from services.objects.bucket import bucket_errors
from services.uploads.intake import Intake
from services.uploads.leases import LEASE, Lease, lost
from storage_backends.base import (
    Checksum,
    MultipartRef,
    MultipartStore,
    Part,
    UploadNotFound,
)

log = structlog.get_logger()

_READ = 256 * 1024  # bytes; what a cut can cost where the server keeps nothing of a read that failed
_SPARE_NUMBERS = 1_000  # part numbers left for writers that die with theirs


class Body(Protocol):
    """A request's body. ``read`` gives b"" at its end, also where the connection ended before, and None where nothing came
    for a while."""

    broken: bool  # the end was not the body's own

    def read(self, size: int, /) -> bytes | None: ...

    def hurry(self) -> None:
        """Give what has arrived, and then end."""


class PartBuffer:
    """The bytes of one part, filled in place again and again: growing would hold them twice for moments."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._filled = 0

    def __len__(self) -> int:
        return self._filled

    def add(self, piece: bytes, *, capacity: int) -> None:
        if not self._bytes:
            self._bytes = bytearray(capacity)
        end = self._filled + len(piece)
        self._bytes[self._filled : end] = piece
        self._filled = end

    def head(self) -> bytes:
        """The first bytes, as many as tell the type."""
        return bytes(self._bytes[: min(self._filled, HEAD_SIZE)])

    @contextmanager
    def view(self) -> Iterator[memoryview]:
        with memoryview(self._bytes) as whole, whole[: self._filled] as filled:
            yield filled

    def clear(self) -> None:
        self._filled = 0


Verify = Callable[[], None]  # raises where the body does not have the checksum that came with it


class Writer:
    """The holder of an upload's lease, with the buffer in which its parts are made."""

    def __init__(
        self,
        db: Database,
        store: MultipartStore,
        intake: Intake,
        principal: Principal,
        upload: UploadRecord,
        lease: Lease,
        *,
        ttl: timedelta,
    ):
        self._db = db
        self._store = store
        self._intake = intake
        self._principal = principal
        self._lease = lease
        self.ttl = ttl
        self.record: ResumableRecord = lease.record
        self.upload = upload
        self._buffer = PartBuffer()
        self._in_parts = self.record.in_parts  # bytes in recorded and staged parts
        self._staged: list[PartRecord] = []
        self._mime_type: str | None = None
        self._judged = self._in_parts > 0
        self._lived_on = monotonic()
        self.checksums = True  # whether parts carry crc32 sums

    @property
    def offset(self) -> int:
        """Bytes that are durable and recorded."""
        return self.record.received

    @property
    def position(self) -> int:
        """Bytes of the upload up to the end of the buffer."""
        return self._in_parts + len(self._buffer)

    def append(
        self,
        body: Body,
        *,
        verify: Verify | None = None,
        ends: Callable[[int], UploadRecord] | None = None,
    ) -> None:
        """Store what comes, to the end of the body, of the connection or of the lease. Once for each writer. ``ends`` says that
        the upload ends with this body: it is told the length and gives the row that has it.

        Bytes past the declared end are refused and not stored; whatever is raised, ``offset`` is right."""
        self._load_tail()
        while (piece := body.read(self._room())) != b"":
            self._lease.renew()
            self._live_on()
            if self._lease.asked_for:
                body.hurry()
            if piece is None:
                continue
            self._add(piece)
            self._check_size()
            self._judge(ended=False)
            if len(self._buffer) >= self._part_size and self.position != self.upload.size:
                self._flush(stage=verify is not None)
        if verify is not None:
            if body.broken:  # the sum is one of bytes that did not come
                return
            verify()
        if ends is not None and not body.broken:
            self.upload = ends(self.position)
        self.close()

    # -- joining (services/uploads/concatenation.py) ---------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Bytes in the buffer."""
        return len(self._buffer)

    def take(self, piece: bytes) -> None:
        """Add to the buffer; it becomes a part as soon as it is large enough for one."""
        self._add(piece)
        if len(self._buffer) >= self._store.part_limits.min_size:
            self._flush(stage=True)

    # -- the buffer ----------------------------------------------------------------------------------------------------

    @property
    def _part_size(self) -> int:
        assert self.upload.part_size is not None
        return self.upload.part_size

    def _room(self) -> int:
        """How much to read: never past the part; one byte more than was declared shows that there is more."""
        room = max(1, self._part_size - len(self._buffer))
        if self.upload.size is not None:
            room = min(room, self.upload.size - self.position + 1)
        return min(_READ, room)

    def _add(self, piece: bytes) -> None:
        rest = self._part_size if self.upload.size is None else self.upload.size - self._in_parts
        self._buffer.add(piece, capacity=min(self._part_size, rest))

    def _load_tail(self) -> None:
        """The bytes behind the parts, to be made a part of with those that come."""
        record = self.record
        if record.tail_key is None:
            return
        with bucket_errors(), self._store.open(record.tail_key) as reader:
            while piece := reader.read(_READ):
                self._add(piece)
                self._lease.renew()
        if len(self._buffer) != record.tail_size:
            raise UploadGone("The bucket no longer holds what it took of this upload.")

    def _check_size(self) -> None:
        if self.upload.size is not None and self.position > self.upload.size:
            raise self._intake.overrun(self.upload)
        try:
            self._intake.policy.check_size(self._principal, self.position)
        except FileTooLarge as error:
            self._intake.abort(self.upload, problem=error.as_problem())
            raise

    def _judge(self, *, ended: bool) -> None:
        """The type, as soon as the bytes are there that tell it. What is refused ends the upload."""
        if self._judged or not (ended or len(self._buffer) >= HEAD_SIZE):
            return
        self._judged = True
        if self.record.partial:
            return
        try:
            self.judge_head(self._buffer.head())
        except Unsupported as error:
            self._intake.abort(self.upload, problem=error.as_problem())
            raise

    def judge_head(self, head: bytes) -> None:
        """Take the type from the upload's first bytes. Raises TypeMismatch, TypeNotAllowed."""
        self._judged = True
        name = self.upload.original_name
        self._mime_type = self._intake.policy.types.judge(self._principal, name, head)

    def close(self) -> None:
        """Store what the buffer still holds: as the upload's end, as a part if it is large enough for one, else as its tail."""
        if self.position == self.upload.size:
            self._judge(ended=True)
            if self.upload.multipart_id is None:
                self._store_whole()
            elif self._buffer or not self._in_parts:  # S3 makes an empty object of one empty part
                self._flush(stage=False)
            elif not self.record.sealed:
                self._note()
        elif len(self._buffer) >= self._store.part_limits.min_size and self._numbers_suffice():
            self._flush(stage=False)
        elif self._buffer and self.position > self.offset:
            self._store_tail()
        elif self._staged:
            self._note()

    def _numbers_suffice(self) -> bool:
        """Whether part numbers are left for the rest of the upload where a part is made smaller than planned."""
        size = self.upload.size if self.upload.size is not None else self._intake.policy.max_size(self._principal)
        rest = -(-max(0, size - self.position) // self._part_size)
        return self.record.next_part + len(self._staged) + rest + _SPARE_NUMBERS <= MAX_PART_NUMBER

    # -- the bucket ----------------------------------------------------------------------------------------------------

    def _flush(self, *, stage: bool) -> None:
        """The buffer becomes the next part."""
        self._hold_quota()
        ref, number = self.place_for_part()
        with self._buffer.view() as bytes_of_part, self._bucket():
            checksum = crc32(bytes_of_part) if self.checksums else None
            part = self._store.put_part(ref, number, bytes_of_part, checksum=checksum)
        self._buffer.clear()
        self.add_part(part, stage=stage)

    def add_part(self, part: Part, *, stage: bool) -> None:
        self._in_parts += part.size
        record = PartRecord(part.number, part.size, part.etag, part.checksum.value if part.checksum else None)
        if stage:
            self._staged.append(record)
        else:
            self._note(record)

    def place_for_part(self) -> tuple[MultipartRef, int]:
        """Where the next part goes: nobody else writes there."""
        return self._multipart(), self._next_number()

    def _next_number(self) -> int:
        with self._db.connection() as tx:
            number = resumable.next_part(tx, self.upload.id, token=self._lease.token, lease=LEASE)
            if number is None:
                now = resumable.get(tx, self.upload.id)
        if number is not None:
            return number
        if now is not None and now.token == self._lease.token and now.next_part > MAX_PART_NUMBER:
            raise LimitReached("The upload was interrupted too often; begin anew.")
        raise lost()

    def _multipart(self) -> MultipartRef:
        """The multipart that takes the parts, begun with the first of them under a key of this writer's own."""
        upload = self.upload
        if upload.multipart_id is None:
            key = self._new_key(FILE_PREFIX)
            mime_type = self._mime_type or OCTET_STREAM
            with bucket_errors():
                ref = self._store.create_multipart(
                    key, content_type=mime_type, checksums="crc32" if self.checksums else None
                )
            with self._db.connection() as tx:
                begun = resumable.begin_parts(
                    tx,
                    upload.id,
                    token=self._lease.token,
                    object_key=key,
                    multipart_id=ref.upload_id,
                    content_type=mime_type,
                )
            if not begun:
                self._remove([key])
                raise lost()
            self.upload = upload.begun_as(key, ref.upload_id, mime_type)
        assert self.upload.multipart_id is not None
        return MultipartRef(self.upload.object_key, self.upload.multipart_id)

    def _store_tail(self) -> None:
        self._hold_quota()
        key = self._new_key(TAIL_PREFIX)
        with self._buffer.view() as tail, self._bucket():
            self._store.put(key, tail, content_type=OCTET_STREAM, size=len(tail), checksum=crc32(tail))
        self._note(tail=key)

    def _store_whole(self) -> None:
        """All of a small upload as one object, which becomes the file's."""
        self._hold_quota()
        key = self._new_key(FILE_PREFIX)
        mime_type = self._mime_type or OCTET_STREAM
        with self._buffer.view() as whole, self._bucket():
            self._store.put(key, whole, content_type=mime_type, size=len(whole), checksum=crc32(whole))
        self._in_parts = self.position
        self._buffer.clear()
        self._note(whole=key)
        self.upload = self.upload.begun_as(key, None, mime_type)

    def _new_key(self, prefix: str) -> str:
        """A key that this writer alone has, noted before anything is written under it."""
        suffix = names.extension(self.upload.original_name) if prefix == FILE_PREFIX else ""
        key = object_key(prefix, suffix, datetime.now(UTC))
        with self._db.connection() as tx:
            if not resumable.add_key(tx, self.upload.id, key, token=self._lease.token, lease=LEASE):
                raise lost()
        return key

    def _note(self, *parts: PartRecord, tail: str | None = None, whole: str | None = None) -> None:
        """Record what the bucket has confirmed, staged parts included. From here on it is acknowledged."""
        old = self.record
        with self._db.connection() as tx:
            record = resumable.record(
                tx,
                self.upload.id,
                token=self._lease.token,
                received=self.position,
                new_parts=[*self._staged, *parts],
                tail_key=tail,
                tail_size=len(self._buffer) if tail else 0,
                sealed=tail is None and self.position == self.upload.size,
                whole_key=whole,
                content_type=self._mime_type if whole else None,
                lease=LEASE,
                expires_in=self.ttl,
            )
        if record is None:
            self._remove([key for key in (tail, whole) if key is not None])
            raise lost()
        self._lease.renewed(record.asked_for)
        self.record, self._staged, self._lived_on = record, [], monotonic()
        if old.tail_key is not None:
            self._remove([old.tail_key])

    def _hold_quota(self) -> None:
        """Quota for bytes of which nobody told that they would come; it doubles, so that statements stay few."""
        upload, needed = self.upload, self.position
        if needed <= upload.reserved:
            return
        for reserve in (max(needed, 2 * upload.reserved), needed):
            if self._intake.policy.extend(upload, reserve, expires_in=self.ttl):
                self.upload = upload.reserving(reserve)
                return
        raise QuotaExceeded()

    def _live_on(self) -> None:
        """Put the end of the upload's time off where a slow client takes long over a part."""
        if monotonic() - self._lived_on > self.ttl.total_seconds() / 4:
            self._intake.policy.extend(self.upload, self.upload.reserved, expires_in=self.ttl)
            self._lived_on = monotonic()

    def _remove(self, keys: Sequence[str]) -> None:
        """Delete what this upload no longer needs; what fails is noted and found by the janitor."""
        gone = [key for key in keys if self._intake.remove_key(key)]
        with self._db.connection() as tx:
            resumable.forget_keys(tx, gone)

    @contextmanager
    def _bucket(self) -> Iterator[None]:
        with bucket_errors():
            try:
                yield
            except UploadNotFound as error:
                raise UploadGone("The bucket no longer knows this upload.") from error


def crc32(data: bytes | bytearray | memoryview) -> Checksum:
    return Checksum("crc32", b64encode(zlib.crc32(data).to_bytes(4, "big")).decode())
