"""Check that backups can be restored: signatures and checksums, and each blob's bytes or, quickly, its presence and size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event

import structlog

from core.errors import GatewayError
from db import dump
from services.objects.object_reader import Damaged
from services.recovery.parallel import in_parallel
from services.recovery.repository import BlobMissing, InvalidBackup, Repository, Snapshot
from services.recovery.worklist import Worklist
from storage_backends.base import ObjectNotFound

log = structlog.get_logger()

_READERS = 4  # threads
_LISTED = 1_000  # findings in a report
_PIECE = 256 * 1024

Progress = Callable[[int], object]  # blobs that were looked at since the last call


@dataclass(slots=True)
class VerifyReport:
    """What a verification found."""

    quick: bool
    snapshots: int = 0
    blobs: int = 0  # different ones
    bytes: int = 0  # that were read of blobs: uncompressed; quickly: as stored
    findings: int = 0
    listed: list[dict[str, str]] = field(default_factory=list)  # the first findings: snapshot or blob, problem

    def add(self, problem: str, **where: str) -> None:
        """Count and list a finding."""
        self.findings += 1
        if len(self.listed) < _LISTED:
            self.listed.append(where | {"problem": problem})
        log.error("backup_verification_finding", problem=problem, **where)


def verify(
    repository: Repository,
    snapshot_id: str | None = None,
    *,
    quick: bool = False,
    progress: Progress = lambda done: None,
) -> VerifyReport:
    """Verify a snapshot, or all. ``quick``: no blob is read, and no identity is needed. Raises NotFound; IdentityNeeded if
    blobs are encrypted and are to be read; Unavailable."""
    report = VerifyReport(quick)
    with Worklist() as work:
        for each in [snapshot_id] if snapshot_id else repository.snapshot_ids():
            try:
                snapshot = repository.snapshot(each)
                repository.check_parts(snapshot)
                work.need(repository.needed(each))
                if not quick:
                    _read_lists(repository, snapshot, work)
            except InvalidBackup as error:
                report.add(str(error), snapshot=each)
            report.snapshots += 1
        _look(repository, work, report, progress)
        if not quick:
            _read_blobs(repository, work, report, progress)
    return report


def _read_lists(repository: Repository, snapshot: Snapshot, work: Worklist) -> None:
    """Read rows and entries to their ends. Raises InvalidBackup."""
    try:
        with repository.open_database(snapshot.id) as reader:
            for _ in dump.records(iter(lambda: reader.read(_PIECE), b""), set()):
                pass
    except GatewayError as error:
        if error.code in ("unprocessable", "content_missing"):
            raise InvalidBackup(f"The rows of snapshot {snapshot.id} can't be read: {error}") from error
        raise
    work.add_names(entry.sha256 for entry in repository.entries(snapshot.id))


def _look(repository: Repository, work: Worklist, report: VerifyReport, progress: Progress) -> None:
    """Compare the blobs in the location's list with those that snapshots need."""
    work.list_blobs(repository.blobs())
    for path, expected, size in work.compared():
        if size is None:
            report.add("is missing", blob=path)
        elif size != expected:
            report.add(f"has {size} bytes instead of {expected}", blob=path)
        if report.quick:
            report.blobs, report.bytes = report.blobs + 1, report.bytes + expected
            progress(1)


def _read_blobs(repository: Repository, work: Worklist, report: VerifyReport, progress: Progress) -> None:
    def read(sha256: str) -> tuple[str, int, str | None]:
        size = 0
        try:
            with repository.open(sha256) as reader:
                while piece := reader.read(_PIECE):
                    size += len(piece)
        except (BlobMissing, ObjectNotFound):
            return sha256, size, "is missing"
        except Damaged as error:
            return sha256, size, str(error)
        return sha256, size, None

    with in_parallel(read, work.names(), threads=_READERS, stopping=Event()) as results:
        for sha256, size, problem in results:
            report.blobs, report.bytes = report.blobs + 1, report.bytes + size
            if problem is not None:
                report.add(problem, blob=sha256)
            progress(1)
