"""A final upload made of partial ones (tus concatenation), inside the bucket wherever S3 allows it.

A partial upload is assembled into an object of its own first. Stretches of 5 MiB and more are then copied by the bucket; what
is less, at the seams, goes through a buffer. The quota that the partial uploads held becomes the final one's, so that joining
needs no second helping; where it fails, they get it back and can be joined again."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import GatewayError, QuotaExceeded, Unsupported
from db import Database, uploads
from db.records import UploadRecord
from services.library.type_policy import HEAD_SIZE
from services.objects.bucket import bucket_errors
from services.uploads.completion import Completion
from services.uploads.intake import Intake
from services.uploads.part_writer import Writer
from storage_backends.base import ByteRange, CopyingStore

COPY_AT_ONCE = 1024**3  # bytes; S3 copies up to 5 GiB by one request, and takes its time


class Concatenation:
    def __init__(self, db: Database, store: CopyingStore, intake: Intake, completion: Completion):
        self._db = db
        self._store = store
        self._intake = intake
        self._completion = completion

    def join(self, writer: Writer, partials: Sequence[UploadRecord]) -> None:
        """Fill the final upload from these, in order. Raises what the type rules and the quota refuse; the final upload is
        over then."""
        final = writer.upload
        ids = list(dict.fromkeys(upload.id for upload in partials))
        with self._db.transaction() as tx:
            uploads.move_reserved(tx, ids, final.id)
        try:
            assert final.size is not None
            if not self._intake.policy.extend(final, final.size, expires_in=writer.ttl):
                raise QuotaExceeded()
            writer.upload = final.reserving(final.size)
            self._copy(writer, partials)
        except BaseException as error:
            with self._db.transaction() as tx:
                uploads.return_reserved(tx, final.id, ids)
            problem = error.as_problem() if isinstance(error, GatewayError) else None
            self._intake.abort(writer.upload, problem=problem)
            raise

    def _copy(self, writer: Writer, partials: Sequence[UploadRecord]) -> None:
        whole = {upload.id: self._completion.assemble_recorded(upload, partial=True) for upload in partials}
        self._judge(writer, partials)
        for upload in partials:
            etag, size = whole[upload.id]
            at = 0
            while at < size:
                at += self._step(writer, upload.object_key, etag, at, size - at)
        writer.close()

    def _judge(self, writer: Writer, partials: Sequence[UploadRecord]) -> None:
        head = b""
        for upload in partials:
            assert upload.size is not None
            if upload.size and len(head) < HEAD_SIZE:
                head += self._read(upload.object_key, 0, min(upload.size, HEAD_SIZE - len(head)))
        try:
            writer.judge_head(head)
        except Unsupported:
            for upload in {upload.id: upload for upload in partials}.values():  # they will never be accepted
                self._intake.abort(upload)
            raise

    def _step(self, writer: Writer, key: str, etag: str, at: int, left: int) -> int:
        """Append some of an object, from ``at``; how many bytes."""
        least = self._store.part_limits.min_size
        if writer.pending or left < least:
            length = min(left, max(1, least - writer.pending))
            writer.take(self._read(key, at, length))
            return length
        length = min(left, COPY_AT_ONCE)
        with bucket_errors():
            part = self._store.copy_part(
                *writer.place_for_part(), key, byte_range=ByteRange(at, at + length - 1), if_source_etag=etag
            )
        writer.add_part(part, stage=True)
        return length

    def _read(self, key: str, at: int, length: int) -> bytes:
        with bucket_errors(), self._store.open(key, byte_range=ByteRange(at, at + length - 1)) as reader:
            return reader.read()
