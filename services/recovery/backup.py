"""Back up the database and every object that its rows name, into a repository.

1. Take the repository's lock, and a hold (db/backup_holds.py): from now on nothing is deleted that the snapshot may name.
2. In one snapshot of the database, dump all rows and list all keys, into temporary files. The transaction ends here.
3. Send each object whose bytes the repository does not have; then the dump and the lists, and last the signed manifest.

Killed anywhere, a run leaves blobs that the next one finds, and a hold that ends by itself. An object that is missing, or has
other bytes than were recorded, is listed as damaged and stops nothing."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO
from itertools import chain, count, islice
from threading import Event
from typing import Any, cast

import orjson
import structlog

from core.batches import batches
from core.errors import Conflict, FileArchived, InvalidInput, Unavailable
from core.heartbeat import beating
from core.ids import new_id
from core.parts import PART_SIZE
from db import Database, backup_holds, backup_runs, dump, jobs, objects
from db.backup_runs import BackupRun
from services.objects.object_reader import Damaged, Reader, read_exactly
from services.objects.streams import PIECE, Hashed, HashedOriginal
from services.recovery.locations import Bucket, Sink
from services.recovery.lock import Lock, locked
from services.recovery.parallel import again, in_parallel
from services.recovery.prune import prune
from services.recovery.repository import Blob, Repository, RepositoryOptions, Snapshot, StoredFile, open_repository
from services.recovery.worklist import Wanted, Worklist
from storage_backends.base import MultipartStore, ObjectNotFound
from telemetry import Gauge, gauge

log = structlog.get_logger()

_HOLD = timedelta(minutes=10)
_RENEW = 60.0  # seconds between renewals of the hold
_SENDERS = 8  # threads; in a bucket each holds a part
_LISTED = 1_000  # damaged keys in the manifest and in the log; the entries have all
_BATCH = 1_000

Progress = Callable[[int, int], object]  # objects done, and all


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup did."""

    snapshot: str
    taken_at: datetime
    files: int
    objects: int
    bytes: int  # of the objects, uncompressed
    sent_objects: int  # those that the repository did not have
    sent_bytes: int  # as stored
    damaged: int
    seconds: float
    encrypted: bool


class _Hold:
    """A live hold, renewed until the end of the block."""

    def __init__(self, db: Database):
        self._db = db
        self.id = new_id()
        self.lost = False

    def renew(self) -> None:
        """Called by the heartbeat."""
        with self._db.connection() as tx:
            self.lost = self.lost or not backup_holds.renew(tx, self.id, lease=_HOLD)

    def check(self) -> None:
        """Raises Conflict if the hold has ended, since objects of the snapshot may be deleted; renews it."""
        self.renew()
        if self.lost:
            raise Conflict("The backup was silent for too long, so purges went on; start it again.")


@contextmanager
def _held(db: Database) -> Iterator[_Hold]:
    hold = _Hold(db)
    with db.connection() as tx:
        backup_holds.take(tx, hold.id, lease=_HOLD)
    try:
        with beating(hold.renew, every=_RENEW):
            yield hold
    finally:
        with suppress(Unavailable), db.connection() as tx:
            backup_holds.release(tx, hold.id)


class Backups:
    """Make backups, and tell how they went."""

    def __init__(
        self,
        db: Database,
        store: MultipartStore,
        options: Callable[[], RepositoryOptions],
        *,
        to: str | None = None,
        schedule: str | None = None,
        keep: Mapping[str, int] | None = None,
    ):
        """``options`` are read late. ``to``: where scheduled backups go. ``schedule``: cron, in UTC. ``keep``: what the job
        leaves of earlier backups, by period (prune.py); None: all."""
        self._db = db
        self._source = Bucket(store, "")
        self._options = options
        self._to = to
        self.schedule = schedule
        self._keep = keep

    def repository(self, place: str | None = None, options: RepositoryOptions | None = None) -> Repository:
        """The repository at ``place``, or at BACKUP_TO. Raises InvalidInput."""
        return open_repository(self._place(place), options or self._options())

    def _place(self, place: str | None) -> str:
        found = place or self._to
        if found is None:
            raise InvalidInput("Say where to: set BACKUP_TO to a folder or s3://bucket/prefix, or pass it.")
        return found

    def start(self) -> None:
        """Enqueue a backup to BACKUP_TO, unless one waits. Raises Conflict if that is not set."""
        if self._to is None:
            raise Conflict("This deployment has no place for backups: set BACKUP_TO.")
        with self._db.transaction() as tx:
            jobs.enqueue(tx, "backup", owner_id="", lock="backup", once=True)

    def back_up(self) -> None:
        """The job: make a backup, and prune. Raises as ``run``."""
        self.run()
        if self._keep is not None:
            prune(self.repository(), self._keep)

    def runs(self, *, limit: int = 100) -> list[BackupRun]:
        """The backups begun last, newest first."""
        with self._db.connection() as tx:
            return list(backup_runs.latest(tx, limit=limit))

    def gauges(self) -> list[Gauge]:
        """The newest snapshot's age and how the last backup ended, for /metrics."""
        with self._db.connection() as tx:
            last, age = backup_runs.last_ended(tx), backup_runs.snapshot_age(tx)
        found = []
        if age is not None:
            found.append(gauge("gateway_backup_age_seconds", "Seconds since the newest snapshot was taken", age))
        if last is not None and last.ended_at is not None:
            seconds = (last.ended_at - last.started_at).total_seconds()
            outcomes = [((name,), float(name == last.outcome)) for name in ("complete", "incomplete", "failed")]
            found += [
                gauge("gateway_backup_seconds", "Seconds that the last backup took", seconds),
                gauge("gateway_backup_sent_bytes", "Bytes that the last backup sent", float(last.sent_bytes or 0)),
                gauge("gateway_backup_damaged_objects", "Objects that it could not save", float(last.damaged or 0)),
                Gauge("gateway_backup_outcome", "1 for how the last backup ended", ("outcome",), outcomes),
            ]
        return found

    def run(
        self,
        place: str | None = None,
        *,
        options: RepositoryOptions | None = None,
        progress: Progress = lambda done, total: None,
    ) -> BackupReport:
        """Make a backup. Raises RepositoryBusy if another run writes there, Unavailable and StorageFull; what was sent
        until then is not sent again."""
        run_id, began = new_id(), time.monotonic()
        repository = self.repository(place, options)
        with locked(repository.location, "backup") as lock:
            with self._db.connection() as tx:
                backup_runs.begin(tx, run_id, self._place(place))
            try:
                repository.remove_unfinished()
                report = _Run(self._db, self._source, repository, lock, progress).run(began)
            except BaseException as error:
                log.error("backup_failed", error=str(error) or repr(error))
                with suppress(Unavailable), self._db.connection() as tx:
                    backup_runs.end(tx, run_id, outcome="failed", error=str(error)[:1_000] or repr(error))
                raise
        with self._db.connection() as tx:
            backup_runs.end(
                tx,
                run_id,
                outcome="incomplete" if report.damaged else "complete",
                snapshot_id=report.snapshot,
                taken_at=report.taken_at,
                files=report.files,
                objects=report.objects,
                bytes=report.bytes,
                sent_objects=report.sent_objects,
                sent_bytes=report.sent_bytes,
                damaged=report.damaged,
            )
        log.info("backup_made", **{name: str(getattr(report, name)) for name in BackupReport.__dataclass_fields__})
        return report


_Sent = tuple[str, str, Blob | None]  # SHA-256, name of the blob, and the blob if it was written


class _Run:
    """One backup."""

    def __init__(self, db: Database, source: Bucket, repository: Repository, lock: Lock, progress: Progress):
        self._db = db
        self._source = source
        self._repository = repository
        self._lock = lock
        self._progress = progress
        self._stopping = Event()
        self._sent_objects = self._sent_bytes = 0
        self._damaged = count()

    def run(self, began: float) -> BackupReport:
        repository = self._repository
        with Worklist() as work, tempfile.TemporaryFile() as rows, _held(self._db) as hold:
            taken_at, revision, files = self._read_rows(work, rows)
            work.note_stored(blob for blob in repository.blobs() if blob.form.endswith(".age") == repository.encrypts)
            for snapshot in repository.snapshots()[-1:]:
                work.note_hashed(repository.needed(snapshot.id))
            self._match(work)
            self._send_all(work, hold)
            self._send_elsewhere(work)
            hold.check()  # else what is missing may have been purged
            total, size, damaged = work.totals()
            snapshot_id = f"{taken_at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
            parts = {"database": self._write(snapshot_id, "database", rows)}
            with tempfile.TemporaryFile() as entries:
                repository.pack(_lines(work), entries, encrypted=repository.encrypts)
                parts["entries"] = self._write(snapshot_id, "entries", entries)
            with tempfile.TemporaryFile() as needs:
                repository.pack(self._needs(work), needs, encrypted=False)
                parts["blobs"] = self._write(snapshot_id, "blobs", needs)
            snapshot = Snapshot(
                id=snapshot_id,
                taken_at=taken_at,
                finished_at=datetime.now(UTC),
                files=files,
                objects=total - damaged,
                bytes=size,
                revision=revision,
                encrypted=repository.encrypts,
                damaged=damaged,
                damaged_keys=[item.key for item in islice(work.wanted(damaged=True), _LISTED)],
                parts=parts,
            )
            self._lock.check()
            repository.write_manifest(snapshot)
        return BackupReport(
            snapshot_id,
            taken_at,
            files,
            total - damaged,
            size,
            self._sent_objects,
            self._sent_bytes,
            damaged,
            round(time.monotonic() - began, 3),
            repository.encrypts,
        )

    def _read_rows(self, work: Worklist, rows: Sink) -> tuple[datetime, str, int]:
        """The dump and the list of keys, of one moment."""
        with dump.snapshot(self._db) as tx:
            pieces = dump.dump(tx)
            first = next(pieces)
            head = orjson.loads(first)
            self._repository.pack(chain([first], pieces), rows, encrypted=self._repository.encrypts)
            work.want(dump.stored_keys(tx))
            return datetime.fromisoformat(head["taken_at"]), head["revision"], backup_runs.count_files(tx)

    def _write(self, snapshot_id: str, part: str, file: Any) -> StoredFile:
        def write() -> StoredFile:
            size = file.tell() or file.seek(0, 2)
            file.seek(0)
            return self._repository.write_part(snapshot_id, part, cast(Reader, file), size=size)

        return again(write, self._stopping)

    def _match(self, work: Worklist) -> None:
        """Find the objects whose bytes are there already."""
        for item in work.wanted():
            sha256 = item.sha256
            if sha256 is None and (masked := work.masked(self._repository.key_digest(item.key))) is not None:
                sha256 = self._repository.mask(item.key, masked)
            if sha256 is not None and (name := self._stored_name(work, sha256)) is not None:
                work.found(item.id, sha256, name)

    def _stored_name(self, work: Worklist, sha256: str) -> str | None:
        names = self._repository.blob_names(sha256, encrypted=self._repository.encrypts)
        return next((name for name in names if work.is_stored(name)), None)

    def _send_all(self, work: Worklist, hold: _Hold) -> None:
        """Send what is missing, several at once."""
        total, done = work.totals()[0], 0
        sending = in_parallel(partial(self._try, work), work.wanted(), threads=_SENDERS, stopping=self._stopping)
        with sending as results:
            for item, result in results:
                if self._lock.lost or hold.lost:
                    self._lock.check()
                    hold.check()
                if isinstance(result, str):
                    work.lost(item.id, result)
                else:
                    self._sent(work, item, *result)
                done = max(done, item.id)
                self._progress(done, total)
        self._progress(total, total)

    def _try(self, work: Worklist, item: Wanted) -> tuple[Wanted, _Sent | str]:
        """What was sent, or what is wrong with the object."""
        try:
            return item, self._send(work, item)
        except ObjectNotFound:
            reason, error = "missing", None
        except FileArchived:
            reason, error = "archived", None
        except Damaged as damaged:
            reason, error = "altered", str(damaged)
        if next(self._damaged) < _LISTED:
            log.error("backup_object_damaged", key=item.key, reason=reason, error=error)
        return item, reason

    def _sent(self, work: Worklist, item: Wanted, sha256: str, name: str, blob: Blob | None) -> None:
        if blob is not None:
            work.note_stored([blob])
            self._sent_objects += 1
            self._sent_bytes += blob.size
        work.found(item.id, sha256, name)

    def _send(self, work: Worklist, item: Wanted) -> _Sent:
        """Read an object, and write its blob unless it is there. Raises ObjectNotFound, Damaged, Unavailable, StorageFull."""
        return again(partial(self._send_once, work, item), self._stopping)

    def _send_once(self, work: Worklist, item: Wanted) -> _Sent:
        sha256, small = item.sha256, None
        if sha256 is None:  # its name is known once it is read; large ones are read again
            with self._source.open(item.key) as raw:
                hashed = _hashed(raw, item)
                small = read_exactly(hashed, PART_SIZE)
                while hashed.read(PIECE):
                    small = None
                sha256 = hashed.sha256
        if (name := self._stored_name(work, sha256)) is not None:
            return sha256, name, None
        zstd = item.encoding is not None
        if small is not None:
            blob = self._repository.write_blob(sha256, BytesIO(small), zstd=zstd, size=len(small))
        else:
            with self._source.open(item.key) as raw:
                reader = _hashed(raw, item._replace(sha256=sha256))
                blob = self._repository.write_blob(sha256, reader, zstd=zstd, size=item.stored_size)
        return sha256, blob.name, blob

    def _send_elsewhere(self, work: Worklist) -> None:
        """Look for the bytes of damaged objects under other keys: an infected object is moved also while a backup runs."""
        for batch in batches(work.wanted(damaged=True), _BATCH):
            with self._db.connection() as tx:
                held = objects.holding(tx, {item.sha256 for item in batch if item.sha256 is not None})
            for item in batch:
                for key, encoding, stored_size in held.get(item.sha256 or "", ()):
                    other = item._replace(key=key, encoding=encoding, stored_size=stored_size)
                    with suppress(ObjectNotFound, Damaged, FileArchived):
                        self._sent(work, item, *self._send(work, other))
                        break

    def _needs(self, work: Worklist) -> Iterator[bytes]:
        repository = self._repository
        for key, sha256, _, _, damaged, recorded, name, form, size in work.entries():
            if damaged is None:
                found_out = "," if recorded else f"{repository.key_digest(key)},{repository.mask(key, sha256)}"
                yield f"{name},{form},{size},{found_out}\n".encode()


def _hashed(reader: Reader, item: Wanted) -> Hashed:
    """Reads an object as it is stored, and raises Damaged at its end if its original bytes are others than were recorded."""
    return (Hashed if item.encoding is None else HashedOriginal)(reader, sha256=item.sha256, size=item.size)


def _lines(work: Worklist) -> Iterator[bytes]:
    for key, sha256, size, content_type, damaged, *_ in work.entries():
        if damaged is None:
            yield orjson.dumps({"key": key, "sha256": sha256, "size": size, "content_type": content_type}) + b"\n"
        else:
            yield orjson.dumps({"key": key, "damaged": damaged}) + b"\n"
