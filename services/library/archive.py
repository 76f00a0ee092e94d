"""The archive: objects that are seldom read, compressed as far as that pays, under a prefix and in a storage class of their own.

Only the object moves (services/objects/rewriting.py): lists, search and previews work as before. An object belongs to all files
of the same bytes, so all of them are archived and come back together. A download asks for the object: it is served at once where
the storage class allows it, and a job brings the object back. Otherwise the bucket is asked for a thaw, which takes hours, and
the job looks again every ten minutes. What is wanted back is a column of the object, so a crash forgets nothing, and nothing is
asked for twice."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import structlog

from core.errors import WAIT, ContentMissing, FileArchived
from db import Database, Tx, archive, events, files, jobs
from db.records import FileRecord
from services.library import readings
from services.objects.bucket import bucket_errors
from services.objects.rewriting import OUT_OF_ARCHIVE, Rewriter, into_archive, may_rewrite
from storage_backends.base import Archives, ObjectNotFound, ObjectStore, StorageError
from telemetry import metrics

log = structlog.get_logger()

LEVEL = 9  # of zstd; level 3 saves a tenth less, and level 19 saves another tenth but takes 25 times as long
THAW_TAKES = timedelta(minutes=15)  # until a client should ask again
_THAWED_DAYS = 7  # that a thawed copy is kept: the time to bring it back
_AT_ONCE = 64 * 1024**2  # bytes that are brought back inside a request
_LOW_PRIORITY = -20
_BATCH = 1_000


class Archive:
    """Archives objects and brings them back."""

    def __init__(self, db: Database, store: ObjectStore, rewriter: Rewriter, *, bucket_class: str | None):
        self._db = db
        self._store = store
        self._thaws = store if isinstance(store, Archives) else None
        self._rewriter = rewriter
        self._target = into_archive(bucket_class)

    # -- into the archive ----------------------------------------------------------------------------------------------

    def enqueue(self, tx: Tx, file_id: UUID, owner_id: str, object_key: str, *, days: int | None = None) -> None:
        """Let a job archive the object; ``days``: if no file on it was used for so long by then."""
        arguments = {} if days is None else {"days": days}
        lock = f"object:{object_key}"
        jobs.enqueue(
            tx,
            "archive_object",
            owner_id=owner_id,
            lock=lock,
            priority=_LOW_PRIORITY,
            once=True,
            file_id=str(file_id),
            **arguments,
        )

    def archive(self, file_id: UUID, *, days: int | None = None) -> bool:
        """The job that archives a file's object. False if it is archived already, was used within ``days``, or can't be. Raises
        Unavailable: try again later."""
        with self._db.connection() as tx:
            file = may_rewrite(files.get(tx, file_id))
            if file is None or file.storage_class != "standard" or not file.intact:
                return False
            if days is not None and not archive.is_untouched(tx, file.file_path, days=days):
                return False
        try:
            done = self._rewriter.compress(file, self._target, level=LEVEL) or self._copy_in(file_id)
        except (ObjectNotFound, ContentMissing):
            log.warning("archiving_without_object", file_id=str(file_id))
            return False
        if done:
            metrics().archived("archived", file.file_size)
        return done

    def _copy_in(self, file_id: UUID) -> bool:
        with self._db.connection() as tx:
            file = may_rewrite(files.get(tx, file_id))  # damage may have been found
        if file is None or file.storage_class != "standard" or not file.intact:
            return False
        return self._rewriter.copy(file, self._target)

    # -- out of the archive --------------------------------------------------------------------------------------------

    def request(self, tx: Tx, file: FileRecord, *, action: str | None = None) -> bool:
        """Let a job bring the file's object back, if it is archived; False if it is not, or is wanted already. ``action``: the
        event to record."""
        if file.storage_class != "archived" or not archive.request_restore(tx, file.file_path):
            return False
        self._enqueue_return(tx, file.id, file.owner_id, file.file_path)
        if action is not None:
            events.record(tx, action, owner_id=file.owner_id, file_id=file.id)
        return True

    def request_now(self, file: FileRecord, *, action: str | None = None) -> bool:
        """``request`` in a transaction of its own."""
        with self._db.transaction() as tx:
            return self.request(tx, file, action=action)

    def _enqueue_return(self, tx: Tx, file_id: UUID, owner_id: str, object_key: str) -> None:
        lock = f"object:{object_key}"
        jobs.enqueue(tx, "unarchive_object", owner_id=owner_id, lock=lock, once=True, file_id=str(file_id))

    def bring_back_small(self, file: FileRecord) -> None:
        """Bring the object back now, if that takes no longer than a request may; what fails is left to the job."""
        if (file.stored_size or file.file_size) <= _AT_ONCE:
            try:
                self.unarchive(file.id)
            except (*WAIT, StorageError) as error:
                log.warning("unarchiving_left_to_job", file_id=str(file.id), error=str(error))

    def unarchive(self, file_id: UUID) -> bool:
        """The job that brings an object back, or asks for its thaw. True if it is back. Raises Unavailable: try again later."""
        with self._db.connection() as tx:
            file = may_rewrite(files.get(tx, file_id))
        if file is None or file.storage_class != "archived":
            return False
        try:
            with bucket_errors():
                info = self._store.stat(file.file_path)
            if info.readable and self._rewriter.copy(file, OUT_OF_ARCHIVE):
                metrics().archived("unarchived", file.file_size)
                self._read_again(file_id)
                return True
            if not info.readable and not info.thawing:
                self._thaw(file)
        except (ObjectNotFound, ContentMissing, FileArchived) as error:
            log.warning("unarchiving_failed", file_id=str(file_id), error=repr(error))
        return False

    def _read_again(self, file_id: UUID) -> None:
        """Enqueue what a parser could not read in the archive."""
        with self._db.transaction() as tx:
            if (file := files.get(tx, file_id)) is not None:
                for record in files.read_apart(tx, file.file_path):
                    readings.begin(tx, record)

    def _thaw(self, file: FileRecord) -> None:
        if self._thaws is None:
            log.error("bucket_cannot_thaw", file_id=str(file.id), key=file.file_path)
            return
        with bucket_errors():
            self._thaws.thaw(file.file_path, days=_THAWED_DAYS)
        log.info("thaw_requested", file_id=str(file.id), key=file.file_path)

    def continue_returns(self) -> int:
        """Look again at what is wanted back and has no job, as what thaws. Returns how many."""
        with self._db.transaction() as tx:
            wanted = archive.wanted_back(tx, limit=_BATCH)
            for file_id, owner_id, key in wanted:
                self._enqueue_return(tx, file_id, owner_id, key)
        return len(wanted)
