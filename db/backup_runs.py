"""Backups that ran, for their list and metrics. What a repository has, its manifests tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from db import Tx, execute, many, one, scalar

_KEEP = timedelta(days=400)


@dataclass(frozen=True, slots=True)
class BackupRun:
    """A backup: it runs if it has no ``outcome``, unless it was killed."""

    id: UUID
    place: str
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None  # complete | incomplete (objects were damaged) | failed
    snapshot_id: str | None
    taken_at: datetime | None
    files: int | None
    objects: int | None
    bytes: int | None  # of the objects, uncompressed
    sent_objects: int | None
    sent_bytes: int | None
    damaged: int | None
    error: str | None


_COLUMNS = ", ".join(BackupRun.__dataclass_fields__)


def begin(tx: Tx, run_id: UUID, place: str) -> None:
    """Record that a backup begins; forget those of more than a year ago."""
    execute(tx, "delete from backup_runs where started_at < now() - %(keep)s", {"keep": _KEEP})
    execute(tx, "insert into backup_runs (id, place) values (%(id)s, %(place)s)", {"id": run_id, "place": place})


def end(tx: Tx, run_id: UUID, *, outcome: str, **values: Any) -> None:
    """Record how a backup ended; ``values`` are columns."""
    changes = ", ".join(f"{name} = %({name})s" for name in values)
    sql = f"update backup_runs set ended_at = now(), outcome = %(outcome)s, {changes} where id = %(id)s"
    execute(tx, sql, {"id": run_id, "outcome": outcome, **values})


def latest(tx: Tx, *, limit: int) -> Sequence[BackupRun]:
    """The backups begun last, newest first."""
    return many(
        tx, BackupRun, f"select {_COLUMNS} from backup_runs order by started_at desc limit %(limit)s", {"limit": limit}
    )


def last_ended(tx: Tx) -> BackupRun | None:
    """The backup that ended last."""
    return one(
        tx, BackupRun, f"select {_COLUMNS} from backup_runs where outcome is not null order by ended_at desc limit 1"
    )


def snapshot_age(tx: Tx) -> float | None:
    """Seconds since the moment that the newest snapshot shows."""
    age = scalar(tx, "select extract(epoch from now() - max(taken_at))::float from backup_runs")
    return None if age is None else float(age)


def count_files(tx: Tx) -> int:
    """All files, the trash included."""
    return int(scalar(tx, "select count(*) from files"))
