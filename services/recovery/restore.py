"""Puts a backup back: the rows into an empty database, then the objects that the bucket lacks.

An interrupted restore goes on where it was: the database remembers which snapshot it holds (db/dump.py), and objects that are in
the bucket are only compared. Bytes are verified before an object appears, and an object is never overwritten: one key has one
content (R1), so other bytes under it are somebody else's, or damaged, and are reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from threading import Event
from typing import Any

import structlog

from core.batches import batches
from core.errors import FileArchived, NotFound
from db import Database, dump, events, files, now, objects, previews, protected_periods
from db.dump import StoredKey
from services.objects.bucket import bucket_errors
from services.objects.object_reader import Damaged, Decompressed, Reader
from services.objects.streams import Hashed, store_stream
from services.processing import pipeline
from services.recovery.parallel import again, in_parallel
from services.recovery.repository import BlobMissing, Entry, Repository, Snapshot
from services.recovery.stopped import check_stopped
from storage_backends.base import MultipartStore, ObjectInfo, ObjectNotFound

log = structlog.get_logger()

_THREADS = 8
_BATCH = 500  # keys
_PIECE = 1024 * 1024  # bytes
_LISTED = 1_000  # lost objects that a report names


@dataclass(slots=True)
class RestoreReport:
    """What a restore did."""

    snapshot: str
    taken_at: datetime
    files: int  # that the snapshot has
    ended_uploads: int = 0  # that were in progress then
    kept: int = 0  # objects that the bucket had
    written: int = 0
    written_bytes: int = 0  # of the originals
    made_again: int = 0  # lost previews and public copies, which are made again on demand
    lost: int = 0  # objects that neither bucket nor repository has whole; their files have no content
    differing: int = 0  # objects under whose key the bucket has other bytes
    problems: list[dict[str, str]] = field(default_factory=list)  # the first of both: key and reason

    @property
    def complete(self) -> bool:
        """Whether every file has its bytes."""
        return not self.lost and not self.differing

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def counts(self) -> dict[str, Any]:
        """For the log."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, int | str)}


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What a restore would do."""

    snapshot: Snapshot
    present: int  # objects that the bucket has, by their keys
    missing: int  # objects to write
    missing_bytes: int
    lost: int  # of the missing ones, those that the repository does not have

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "snapshot": self.snapshot.id,
            "taken_at": self.snapshot.taken_at,
            "files": self.snapshot.files,
            "present": self.present,
            "missing": self.missing,
            "missing_bytes": self.missing_bytes,
            "lost": self.lost,
        }


def choose(repository: Repository, *, snapshot_id: str | None = None, as_of: datetime | None = None) -> Snapshot:
    """A snapshot: this one, or the newest, or the newest not after ``as_of``. Raises NotFound."""
    if snapshot_id is not None:
        return repository.snapshot(snapshot_id)
    found = [each for each in repository.snapshots() if as_of is None or each.taken_at <= as_of]
    if not found:
        raise NotFound("There is no snapshot" + ("." if as_of is None else f" from {as_of.isoformat()} or before."))
    return found[-1]


def unfinished(db: Database) -> str | None:
    """The id of a snapshot whose restore was interrupted: its rows are here, perhaps not all of its objects."""
    with db.connection() as tx:
        return dump.loading(tx)


def pieces(reader: Reader) -> Iterator[bytes]:
    """What a reader gives."""
    while piece := reader.read(_PIECE):
        yield piece


class Restore:
    """Restores one repository into one deployment. No gateway or worker may run on it meanwhile."""

    def __init__(
        self,
        db: Database,
        store: MultipartStore,
        repository: Repository,
        *,
        owner_url: str,
        stopped: bool = False,
        advance: Callable[[int], None] = lambda done: None,
    ):
        """``owner_url``: the database's address for the role that owns the tables. ``stopped``: nothing else uses the database,
        for certain. ``advance`` is called with the number of objects that were looked at."""
        self._db = db
        self._store = store
        self._repository = repository
        self._owner_url = owner_url
        self._stopped = stopped
        self._advance = advance

    def plan(self, snapshot: Snapshot) -> RestorePlan:
        """What ``run`` would do with the bucket as it is. Nothing is written."""
        present = missing = missing_bytes = lost = 0
        entries = self._repository.entries(snapshot.id)
        with in_parallel(self._looked, entries, threads=_THREADS, stopping=Event()) as results:
            for size, state in results:
                present += state == "present"
                missing += state != "present"
                missing_bytes += size if state != "present" else 0
                lost += state == "lost"
                self._advance(1)
        return RestorePlan(snapshot, present, missing, missing_bytes, lost)

    def _looked(self, entry: Entry) -> tuple[int, str]:
        if self._stat(entry.key) is not None:
            return entry.size, "present"
        return entry.size, "missing" if self._repository.has(entry.sha256) else "lost"

    def run(self, snapshot: Snapshot) -> RestoreReport:
        """Load the snapshot's rows into the empty database, then write what the bucket lacks. Can be repeated after any
        interruption. Raises GatewayRunning, Conflict if the database is not empty, InvalidBackup and Unprocessable for a
        damaged backup, IdentityNeeded, NotAllowed for a role that does not own the tables, and Unavailable."""
        report = RestoreReport(snapshot.id, snapshot.taken_at, snapshot.files)
        self._check_stopped()
        with self._repository.open_database(snapshot.id) as reader:
            dump.load(self._owner_url, pieces(reader), name=snapshot.id, gateway_url=self._db.url)
        with self._db.transaction() as tx:
            report.ended_uploads = dump.end_unfinished(tx)
            reason = f"the backup {snapshot.id} was restored"
            protected_periods.add(tx, began=min(snapshot.taken_at, now(tx)), ended=now(tx), reason=reason)
            events.record(tx, "backup_restored", owner_id=None, target=snapshot.id)
        self._restore_objects(snapshot, report)
        dump.finish(self._owner_url)
        log.info("backup_restored", **report.counts())
        return report

    def run_bucket(self, snapshot: Snapshot) -> RestoreReport:
        """Write what the bucket lacks of what the database names, which stays as it is. Can be repeated. Raises as ``run``."""
        report = RestoreReport(snapshot.id, snapshot.taken_at, snapshot.files)
        self._check_stopped()
        with self._db.connection() as tx:
            events.record(tx, "bucket_restored", owner_id=None, target=snapshot.id)
        self._restore_objects(snapshot, report)
        log.info("bucket_restored", **report.counts())
        return report

    def _check_stopped(self) -> None:
        if not self._stopped:  # asked as the owner: an empty server may not know the gateway's role yet
            with closing(Database(self._owner_url, max_connections=1)) as db:
                check_stopped(db, gateway_url=self._db.url)

    # -- objects -----------------------------------------------------------------------------------------------------------

    def _restore_objects(self, snapshot: Snapshot, report: RestoreReport) -> None:
        stopping = Event()
        restoring = in_parallel(
            lambda item: again(lambda: self._restore(*item), stopping),
            self._wanted(snapshot),
            threads=_THREADS,
            stopping=stopping,
        )
        with restoring as results:
            for outcome in results:
                setattr(report, outcome.count, getattr(report, outcome.count) + 1)
                report.written_bytes += outcome.written
                if outcome.problem and len(report.problems) < _LISTED:
                    report.problems.append({"key": outcome.key, "problem": outcome.problem})
                self._advance(1)

    def _wanted(self, snapshot: Snapshot) -> Iterator[tuple[StoredKey, str]]:
        """What the bucket should hold, each with its SHA-256: rows have it, or the snapshot's entries (of previews)."""
        page = self._page(after="")
        while page:
            yield from ((stored, stored.sha256 or "") for stored in page)
            page = self._page(after=page[-1].key)
        for batch in batches(self._repository.entries(snapshot.id), _BATCH):
            sums = {entry.key: entry.sha256 for entry in batch}
            with self._db.connection() as tx:
                unhashed = dump.unhashed_keys(tx, list(sums))
            yield from ((stored, sums[stored.key]) for stored in unhashed)

    def _page(self, *, after: str) -> list[StoredKey]:
        with self._db.connection() as tx:
            return dump.hashed_keys(tx, after=after, limit=_BATCH)

    def _restore(self, stored: StoredKey, sha256: str) -> _Outcome:
        info = self._stat(stored.key)
        if info is not None:
            return self._compare(stored, sha256, info)
        try:
            info = self._write(stored, sha256)
        except (BlobMissing, Damaged) as error:
            return self._lost(stored, error)
        self._record(stored, info, plain=True, written=True)
        return _Outcome(stored.key, "written", written=info.size)

    def _stat(self, key: str) -> ObjectInfo | None:
        with bucket_errors(), suppress(ObjectNotFound):
            return self._store.stat(key)
        return None

    def _compare(self, stored: StoredKey, sha256: str, info: ObjectInfo) -> _Outcome:
        """Keep what the bucket has. It is read only if size or ETag are not as recorded: then it was moved, or an interrupted
        restore has written it."""
        if info.size == stored.stored_size and stored.etag in (None, info.etag):
            return _Outcome(stored.key, "kept")
        for plain in (True, False):
            try:
                if info.size == (stored.size if plain else stored.stored_size) and self._has(info, sha256, plain=plain):
                    self._record(stored, info, plain=plain)
                    return _Outcome(stored.key, "kept")
            except FileArchived:
                return _Outcome(
                    stored.key, "differing", problem="It must be thawed before it can be compared; it was left."
                )
        with self._db.connection() as tx:
            objects.record_check(tx, stored.key, in_bucket=True, checksum_state="mismatch")
        return _Outcome(stored.key, "differing", problem="The bucket has other bytes under this key; they were left.")

    def _has(self, info: ObjectInfo, sha256: str, *, plain: bool) -> bool:
        try:
            with bucket_errors(), self._store.open(info.key, if_match=info.etag) as raw:
                Hashed(raw if plain else Decompressed(raw), sha256=sha256).read_to_end()
        except Damaged:
            return False
        return True

    def _write(self, stored: StoredKey, sha256: str) -> ObjectInfo:
        """Write the original bytes. They are verified before the object appears."""
        with self._repository.open(sha256) as reader:
            return store_stream(self._store, stored.key, reader, size=stored.size, content_type=stored.content_type)

    def _record(self, stored: StoredKey, info: ObjectInfo, *, plain: bool, written: bool = False) -> None:
        with self._db.connection() as tx:
            if stored.kind == "object":
                objects.record_restored(tx, stored.key, etag=info.etag, plain=plain, written=written)
                if plain and stored.encoding and (file := files.on_object(tx, stored.key)) is not None:
                    pipeline.begin_compression(tx, file)
            elif stored.kind == "public_copy":
                objects.set_public_etag(tx, stored.key, etag=info.etag)

    def _lost(self, stored: StoredKey, error: Exception) -> _Outcome:
        """Record that neither bucket nor repository has the bytes. Previews and public copies are made again."""
        with self._db.connection() as tx:
            if stored.kind == "preview":
                previews.remove(tx, stored.key)
            elif stored.kind == "public_copy":
                objects.drop_public_copy(tx, stored.key)
            else:
                objects.record_check(tx, stored.key, in_bucket=False)
                return _Outcome(stored.key, "lost", problem=str(error))
        return _Outcome(stored.key, "made_again")


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one object."""

    key: str
    count: str  # of the report
    written: int = 0  # bytes
    problem: str | None = None
