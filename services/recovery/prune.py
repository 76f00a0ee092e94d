"""Delete snapshots that nobody wants to keep, and then the blobs that none of the others needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC

import structlog

from services.recovery.lock import locked
from services.recovery.repository import InvalidBackup, Repository, Snapshot
from services.recovery.worklist import Worklist

log = structlog.get_logger()

_BATCH = 500  # blobs deleted between looks at the lock
_PERIODS = {
    "last": "%Y-%m-%dT%H:%M:%S.%f",
    "hourly": "%Y-%m-%dT%H",
    "daily": "%Y-%m-%d",
    "weekly": "%G-W%V",
    "monthly": "%Y-%m",
    "yearly": "%Y",
}


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What was deleted, or would be (``dry_run``)."""

    dry_run: bool
    kept: Sequence[str]  # ids of snapshots, oldest first
    removed: Sequence[str]
    removed_blobs: int
    removed_bytes: int  # as stored


def kept(snapshots: Sequence[Snapshot], rules: Mapping[str, int]) -> list[Snapshot]:
    """Those to keep, oldest first: the newest of each of the last so many hours, days, weeks … in UTC that have one; always the
    newest of all, and the newest without damage."""
    newest_first = sorted(snapshots, key=lambda snapshot: (snapshot.taken_at, snapshot.id), reverse=True)
    wanted = {snapshot.id for snapshot in newest_first[:1]}
    wanted |= {snapshot.id for snapshot in [each for each in newest_first if not each.damaged][:1]}
    for period, number in rules.items():
        newest: dict[str, str] = {}
        for snapshot in newest_first:
            newest.setdefault(snapshot.taken_at.astimezone(UTC).strftime(_PERIODS[period]), snapshot.id)
        wanted |= set(list(newest.values())[:number])
    return [snapshot for snapshot in reversed(newest_first) if snapshot.id in wanted]


def prune(repository: Repository, rules: Mapping[str, int], *, dry_run: bool = False) -> PruneReport:
    """Prune. Raises InvalidBackup if a snapshot can't be read, since its blobs are not known then: nothing is deleted; and
    RepositoryBusy if another run writes, Unavailable."""
    with locked(repository.location, "prune") as lock, Worklist() as work:
        snapshots = [repository.snapshot(snapshot_id) for snapshot_id in repository.snapshot_ids()]
        if not snapshots and any(True for _ in repository.blobs()):
            raise InvalidBackup("The repository has blobs, but no snapshot: make a backup first.")
        keep = kept(snapshots, rules)
        for snapshot in keep:
            work.need(repository.needed(snapshot.id))
        names = {snapshot.id for snapshot in keep}
        removed = [snapshot.id for snapshot in snapshots if snapshot.id not in names]
        lock.check()
        if not dry_run:
            repository.remove_unfinished()
            for snapshot_id in removed:
                repository.remove_snapshot(snapshot_id)
        number = size = 0
        work.list_blobs(blob for blob in repository.blobs() if work.needed_size(blob.path) is None)
        for path, stored in work.listed():
            if not dry_run:
                if number % _BATCH == 0 or lock.lost:
                    lock.check()
                repository.location.delete(path)
            number, size = number + 1, size + stored
    log.info("backups_pruned", removed=removed, blobs=number, size=size, dry_run=dry_run)
    return PruneReport(dry_run, [snapshot.id for snapshot in keep], removed, number, size)
