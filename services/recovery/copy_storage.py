"""Copy all stored objects to another bucket while the gateway runs, and then let the rows belong to that bucket.

    pass    every key that rows name as stored and that the other bucket does not have: record the key, copy, record the ETag;
            then delete there what no row names any more
    switch  with the gateway stopped: a last pass, compare with the other bucket's lists, then one transaction puts the other
            bucket's ETags into the rows and remembers those of this one

A key is never used for other bytes, so a copy stays right, and any number of passes may be broken off anywhere. Up to the COMMIT
of the switch the gateway works with the old bucket as if nothing had happened; from then on it works with the new one only,
and refuses the old one (services/objects/bucket_mark.py). The way back is the same in the other direction, while both are kept.

Not copied: unfinished uploads, which must end or are aborted; and what waits for its deletion. Presigned URLs of the old bucket
lead there until they expire."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from threading import Event
from uuid import UUID

import structlog

from core.batches import batches
from core.errors import GatewayError, InvalidInput, NotCopied, StorageFull, Unavailable, UploadsUnfinished
from core.ids import ARCHIVE_PREFIX, FILE_PREFIX, PREVIEW_PREFIX
from db import Database, copies, objects, previews, set_timeout, uploads
from db.copies import Copied, Counts, Kind, StoredObject
from services.objects import bucket_mark
from services.objects.object_reader import Altered, Damaged
from services.objects.streams import Hashed, HashedOriginal, Stoppable, store_stream
from services.recovery.parallel import again, in_parallel
from services.recovery.stopped import check_stopped
from services.uploads.intake import Intake
from storage_backends.base import (
    ChecksumMismatch,
    MultipartStore,
    ObjectNotFound,
    PreconditionFailed,
    StorageError,
    StorageRefused,
    StorageUnavailable,
)

log = structlog.get_logger()

_PAGE = 2_000  # rows read by one statement
_BATCH = 200  # keys recorded by one statement
_FOLLOW = 5.0  # seconds between passes
_SWITCH_TIMEOUT = 3_600.0  # seconds for one statement of the switch
_MAX_PROBLEMS = 1_000  # that are told one by one
_PREFIXES = (FILE_PREFIX, ARCHIVE_PREFIX, PREVIEW_PREFIX)
_MOVED = {"code": "upload_gone", "detail": "The files have moved to another bucket; begin the upload again."}


@dataclass(slots=True)
class CopyReport:
    """What was done, and what is left."""

    copied: int = 0
    copied_bytes: int = 0
    removed: int = 0  # from the other bucket, as no row names them any more
    damaged: int = 0  # missing here, or not what was stored
    failed: int = 0
    switched: bool = False
    problems: list[dict[str, str]] = field(default_factory=list)  # {"key", "problem"} of the first

    @property
    def complete(self) -> bool:
        """Whether nothing is left to copy."""
        return not self.failed and not self.damaged

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    def note(self, key: str, problem: str) -> None:
        """Add a problem."""
        if len(self.problems) < _MAX_PROBLEMS:
            log.warning("object_not_copied", key=key, problem=problem)
            self.problems.append({"key": key, "problem": problem})


class CopyStorage:
    """Copies from the bucket in use to another one, ``target``; ``target_name`` is for people."""

    def __init__(
        self,
        db: Database,
        source: MultipartStore,
        target: MultipartStore,
        intake: Intake,
        *,
        source_name: str,
        target_name: str,
        threads: int = 8,
    ):
        self._db = db
        self._source = source
        self._target = target
        self._intake = intake
        self._names = source_name, target_name
        self._threads = threads
        self._stopping = Event()

    # -- passes ----------------------------------------------------------------------------------------------------------

    def run(self, *, progress: Callable[[CopyReport], None] = lambda report: None) -> CopyReport:
        """One pass. It can be broken off at any moment, and repeated. Raises Unavailable, StorageFull, StorageError, and
        InvalidInput if this can't be the source or that not the target."""
        report = CopyReport()
        target_id = self._identify()
        for kind in copies.KINDS:
            self._copy_all(target_id, kind, report, progress)
        self._remove_unused(target_id, report)
        return report

    def follow(self, *, progress: Callable[[CopyReport], None] = lambda report: None) -> Iterator[CopyReport]:
        """Pass after pass, until the caller stops. While a bucket or the database is unavailable, it waits."""
        while True:
            try:
                yield self.run(progress=progress)
            except StorageRefused:
                raise
            except (Unavailable, StorageUnavailable) as error:
                log.warning("copy_waits", reason=str(error))
            time.sleep(_FOLLOW)

    def _identify(self) -> UUID:
        """The target's id. Both buckets get a mark, and rows, before anything is copied."""
        source_id, target_id = bucket_mark.read_or_write(self._source), bucket_mark.read_or_write(self._target)
        if source_id == target_id:
            raise InvalidInput("The other bucket is the one that the gateway uses.")
        with self._db.connection() as tx:
            in_use, known = copies.bucket_in_use(tx), copies.is_known(tx, target_id)
        if in_use not in (None, source_id):
            raise InvalidInput(bucket_mark.WRONG_BUCKET)
        if not known:  # the janitor would take what is there for orphans
            found = [info.key for prefix in _PREFIXES for info in islice(self._target.list_objects(prefix), 1)]
            if found:
                raise InvalidInput(f"The other bucket holds objects that this gateway did not copy there ({found[0]}).")
        with self._db.transaction() as tx:
            copies.add_bucket(tx, source_id, name=self._names[0], in_use=True)
            copies.add_bucket(tx, target_id, name=self._names[1], in_use=False)
        return target_id

    def _copy_all(
        self, target_id: UUID, kind: Kind, report: CopyReport, progress: Callable[[CopyReport], None]
    ) -> None:
        done: list[Copied] = []
        self._stopping.clear()
        copying = in_parallel(
            lambda wanted: self._copy(kind, wanted),
            self._wanted(target_id, kind),
            threads=self._threads,
            stopping=self._stopping,
        )
        with copying as results:
            try:
                for wanted, result in results:
                    if isinstance(result, Copied):
                        done.append(result)
                        report.copied += 1
                        report.copied_bytes += result.size or 0
                    elif result is not None:
                        report.damaged += isinstance(result, ObjectNotFound)
                        report.failed += not isinstance(result, ObjectNotFound)
                        report.note(wanted.key, str(result))
                    if len(done) >= _BATCH:
                        self._finish(target_id, done)
                        done = []
                    progress(report)
            finally:
                self._finish(target_id, done)

    def _wanted(self, target_id: UUID, kind: Kind) -> Iterator[StoredObject]:
        """What has no complete copy, each recorded before it is copied."""
        after = ""
        while True:
            with self._db.connection() as tx:
                page = copies.page(tx, target_id, kind, after=after, limit=_PAGE)
            if not page:
                return
            after = page[-1].key
            missing = [wanted for wanted in page if not wanted.copied]
            for at in range(0, len(missing), _BATCH):
                batch = missing[at : at + _BATCH]
                with self._db.connection() as tx:
                    copies.begin(tx, target_id, [wanted.key for wanted in batch])
                yield from batch

    def _finish(self, target_id: UUID, done: Sequence[Copied]) -> None:
        if not done:
            return
        with self._db.connection() as tx:
            recorded = copies.finish(tx, target_id, done)
        for copied in done:  # purged meanwhile, and another process has forgotten the copy
            if copied.key not in recorded:
                self._target.delete(copied.key)

    # -- one object ------------------------------------------------------------------------------------------------------

    def _copy(self, kind: Kind, wanted: StoredObject) -> tuple[StoredObject, Copied | Exception | None]:
        """Copy one object. None if nobody needs it any more. Raises what ends the pass: Unavailable, StorageFull."""
        try:
            return wanted, again(lambda: self._copied(wanted), self._stopping)
        except (ObjectNotFound, PreconditionFailed, Damaged) as error:
            finding = error if isinstance(error, ObjectNotFound) else Altered(str(error))
            return wanted, finding if self._is_damaged(kind, wanted, finding) else None
        except (Unavailable, StorageUnavailable, StorageFull):
            raise
        except (ChecksumMismatch, StorageError, GatewayError, ValueError) as error:
            return wanted, error

    def _copied(self, wanted: StoredObject) -> Copied:
        if wanted.begun:  # an earlier process may have left parts
            for ref in [ref for ref in self._target.list_multiparts(wanted.key) if ref.key == wanted.key]:
                self._target.abort_multipart(ref)
        with self._source.open(wanted.key, if_match=wanted.etag) as raw:
            size = raw.info.size
            if wanted.size is not None and size != wanted.size:
                raise Altered(f"{wanted.size} bytes were recorded, the object has {size}.")
            source = Stoppable(raw, self._stopping)
            if wanted.encoding is None:
                stream = Hashed(source, sha256=wanted.sha256)
            else:
                stream = Hashed(HashedOriginal(source, sha256=wanted.sha256))
            content_type = raw.info.content_type or "application/octet-stream"
            info = store_stream(self._target, wanted.key, stream, size=size, content_type=content_type)
        return Copied(wanted.key, info.size, info.etag)

    def _is_damaged(self, kind: Kind, wanted: StoredObject, finding: ObjectNotFound) -> bool:
        """Whether rows still name the object; then they are told, as a reader does."""
        with self._db.transaction() as tx:
            if not objects.in_use(tx, [wanted.key]):
                return False
            if kind == "object":
                altered = isinstance(finding, Altered)
                state = "mismatch" if altered else None
                objects.record_check(tx, wanted.key, in_bucket=altered, checksum_state=state)
                return True
            if kind == "public copy":  # these are made again
                objects.drop_public_copy(tx, wanted.key)
            else:
                previews.remove(tx, wanted.key)
        return False

    def _remove_unused(self, target_id: UUID, report: CopyReport) -> None:
        """Delete copies of what was purged or rewritten meanwhile."""
        after: str | None = ""
        while after is not None:
            with self._db.connection() as tx:
                unused, after = copies.unused(tx, target_id, after=after, limit=_PAGE)
            for key in unused:
                self._target.delete(key)
            with self._db.connection() as tx:
                copies.forget(tx, target_id, unused)
            report.removed += len(unused)

    # -- the switch ------------------------------------------------------------------------------------------------------

    def switch(
        self,
        *,
        end_uploads: bool = False,
        leave_damaged: bool = False,
        stopped: bool = False,
        progress: Callable[[CopyReport], None] = lambda report: None,
    ) -> CopyReport:
        """Let the rows belong to the other bucket; the gateway must be stopped, and then be started with that bucket's settings.

        Raises GatewayRunning if anything else is connected to the database, unless it is ``stopped`` for certain;
        UploadsUnfinished unless they are to be ended; NotCopied if objects could not be copied, unless only damaged ones are
        missing that are to be left behind. Then nothing has changed."""
        if not stopped:
            check_stopped(self._db)
        self._end_uploads(end=end_uploads)
        report = self.run(progress=progress)
        target_id = bucket_mark.read_or_write(self._target)
        if self._forget_lost(target_id):
            again = self.run(progress=progress)
            report.copied, report.failed, report.damaged = report.copied + again.copied, again.failed, again.damaged
        source_id = bucket_mark.read_or_write(self._source)
        if not stopped:
            check_stopped(self._db)
        with self._db.transaction() as tx:
            set_timeout(tx, _SWITCH_TIMEOUT)
            copies.lock(tx)
            if copies.open_uploads(tx):
                raise UploadsUnfinished("An upload has begun meanwhile.")
            _check_complete(copies.count_missing(tx, target_id), leave_damaged=leave_damaged)
            copies.switch(tx, old=source_id, new=target_id)
        report.switched = True
        return report

    def _end_uploads(self, *, end: bool) -> None:
        with self._db.connection() as tx:
            unfinished = copies.open_uploads(tx)
        if unfinished and not end:
            raise UploadsUnfinished(f"{len(unfinished)} upload(s) are unfinished; they would have to begin again.")
        for upload_id in unfinished:
            with self._db.connection() as tx:
                upload = uploads.get(tx, upload_id)
            if upload is not None:
                self._intake.abort(upload, problem=_MOVED)

    def _forget_lost(self, target_id: UUID) -> bool:
        """Compare the copies with what the target lists, and forget those that it lost or that changed. True if there are any."""
        listed = 0
        for batch in batches(self._target.list_objects(""), _PAGE):
            with self._db.connection() as tx:
                listed += copies.count_same(tx, target_id, [Copied(info.key, info.size, info.etag) for info in batch])
        with self._db.connection() as tx:
            if listed == copies.count_complete(tx, target_id):
                return False
        checked = in_parallel(self._is_there, self._recorded(target_id), threads=self._threads, stopping=self._stopping)
        with checked as results:
            lost = [key for key, sound in results if not sound]
        with self._db.connection() as tx:
            copies.forget(tx, target_id, lost)
        log.warning("copies_lost", count=len(lost), first=lost[:1])
        return bool(lost)

    def _recorded(self, target_id: UUID) -> Iterator[Copied]:
        after = ""
        while True:
            with self._db.connection() as tx:
                page = copies.recorded(tx, target_id, after=after, limit=_PAGE)
            if not page:
                return
            after = page[-1].key
            yield from page

    def _is_there(self, copied: Copied) -> tuple[str, bool]:
        try:
            info = self._target.stat(copied.key)
        except ObjectNotFound:
            return copied.key, False
        return copied.key, copied.size in (None, info.size) and copied.etag in (None, info.etag)


def _check_complete(missing: Counts, *, leave_damaged: bool) -> None:
    if missing.missing:
        raise NotCopied(f"{missing.missing} object(s) are not copied.")
    if missing.damaged and not leave_damaged:
        raise NotCopied(f"{missing.damaged} object(s) are damaged or missing here and can't be copied.")
