"""Join partial uploads into a final one (tus concatenation), inside the bucket wherever S3 allows it.

Each partial upload is first assembled into an object of its own. The bucket copies stretches of 5 MiB and more; less than
that, at the seams, goes through a buffer. The quota of the partial uploads moves to the final one, and back if it fails, so
that they can be joined again."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import GatewayError, Unsupported
from db import Database, uploads
from db.records import UploadRecord
from services.library.sniff import HEAD_BYTES
from services.objects.bucket import bucket_errors
from services.uploads.completion import Completion
from services.uploads.intake import Intake
from services.uploads.resumable_writer import ResumableWriter
from storage_backends.base import ByteRange, CopyingStore

_MAX_COPY = 1024**3  # bytes; S3 copies up to 5 GiB by one request, but slowly


class Concatenation:
    """Fills a final upload."""

    def __init__(self, db: Database, store: CopyingStore, intake: Intake, completion: Completion):
        self._db = db
        self._store = store
        self._intake = intake
        self._completion = completion

    def join(self, writer: ResumableWriter, partials: Sequence[UploadRecord]) -> None:
        """Fill the final upload from these, in order. Raises what the type rules and the quota refuse, after ending it."""
        final = writer.upload
        ids = list(dict.fromkeys(upload.id for upload in partials))
        with self._db.transaction() as tx:
            uploads.move_reserved(tx, ids, final.id)
        try:
            assert final.size is not None
            writer.upload = self._intake.policy.reserve(final, final.size, expires_in=writer.ttl)
            self._copy(writer, partials)
        except BaseException as error:
            with self._db.transaction() as tx:
                uploads.return_reserved(tx, final.id, ids)
            problem = error.as_problem() if isinstance(error, GatewayError) else None
            self._intake.abort(writer.upload, problem=problem)
            raise

    def _copy(self, writer: ResumableWriter, partials: Sequence[UploadRecord]) -> None:
        assembled = {upload.id: self._completion.assemble_recorded(upload, partial=True) for upload in partials}
        self._judge(writer, partials)
        for upload in partials:
            etag, size = assembled[upload.id]
            begin = 0
            while begin < size:
                begin += self._append(writer, upload.object_key, etag, begin, size - begin)
        writer.close()

    def _judge(self, writer: ResumableWriter, partials: Sequence[UploadRecord]) -> None:
        head = b""
        for upload in partials:
            assert upload.size is not None
            if upload.size and len(head) < HEAD_BYTES:
                head += self._read(upload.object_key, 0, min(upload.size, HEAD_BYTES - len(head)))
        try:
            writer.judge(head)
        except Unsupported:
            for upload in {upload.id: upload for upload in partials}.values():  # they will never be accepted
                self._intake.abort(upload)
            raise

    def _append(self, writer: ResumableWriter, key: str, etag: str, begin: int, left: int) -> int:
        """Append some bytes of an object, of which so many are left; how many."""
        min_size = self._store.part_limits.min_size
        if writer.pending or left < min_size:
            length = min(left, max(1, min_size - writer.pending))
            writer.add(self._read(key, begin, length))
            return length
        length = min(left, _MAX_COPY)
        ref, number = writer.next_part()
        source = ByteRange(begin, begin + length - 1)
        with bucket_errors():
            part = self._store.copy_part(ref, number, key, byte_range=source, if_source_etag=etag)
        writer.stage(part)
        return length

    def _read(self, key: str, begin: int, length: int) -> bytes:
        with bucket_errors(), self._store.open(key, byte_range=ByteRange(begin, begin + length - 1)) as reader:
            return reader.read()
