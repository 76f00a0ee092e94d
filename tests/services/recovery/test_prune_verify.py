"""Which snapshots are kept, what is deleted with the others, and what a verification finds."""

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyrage
import pytest

from core.secrets import Secrets
from services.recovery.age import IdentityNeeded
from services.recovery.locations import Folder
from services.recovery.prune import kept, prune
from services.recovery.repository import InvalidBackup, Repository, RepositoryOptions, Snapshot
from services.recovery.verify import verify
from tests.services.recovery.test_repository import sha256, write_snapshot

IDENTITY = pyrage.x25519.Identity.generate()
KEYS = Secrets(["k" * 32]).derive("backups")


@pytest.fixture(params=["plain", "encrypted"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"recipients": [str(IDENTITY.to_public())] if request.param == "encrypted" else []}


@pytest.fixture
def repository(tmp_path: Path, options: dict[str, Any]) -> Repository:
    made = Repository(Folder(tmp_path / "r"), RepositoryOptions(KEYS, identities=str(IDENTITY), **options))
    made.write_blob(sha256(b"a"), io.BytesIO(b"a"), zstd=False, size=1)
    return made


def at(moment: datetime, *, damaged: int = 0) -> Snapshot:
    name = f"{moment:%Y%m%dT%H%M%SZ}-00000000"
    return Snapshot(name, moment, moment, 0, 0, 0, "0033", False, damaged, (), {})


END = datetime(2026, 11, 30, 2, 30, tzinfo=UTC)
DAILY = [at(END - timedelta(days=days)) for days in range(400)]


def days(snapshots: list[Snapshot]) -> list[str]:
    return [f"{snapshot.taken_at:%m-%d}" for snapshot in snapshots]


def test_the_newest_of_each_period_is_kept() -> None:
    assert days(kept(DAILY, {"daily": 3})) == ["11-28", "11-29", "11-30"]
    assert days(kept(DAILY, {"weekly": 3})) == ["11-22", "11-29", "11-30"]  # weeks end on Sundays
    assert days(kept(DAILY, {"monthly": 3})) == ["09-30", "10-31", "11-30"]
    assert days(kept(DAILY, {"yearly": 2})) == ["12-31", "11-30"]
    assert len(kept(DAILY, {"daily": 7, "weekly": 5, "monthly": 12})) == 7 + 3 + 11
    twice = [at(END + timedelta(hours=hours)) for hours in (0, 1, 5)]
    assert kept(twice, {"daily": 2}) == [twice[2]]
    assert kept([], {"daily": 2}) == []


def test_the_newest_and_the_newest_sound_one_are_always_kept() -> None:
    snapshots = [at(END - timedelta(days=2)), at(END - timedelta(days=1)), at(END, damaged=1)]
    assert kept(snapshots, {"daily": 1}) == snapshots[1:]
    assert kept(snapshots, {"daily": 0}) == snapshots[1:]


def test_pruning_deletes_what_nothing_needs(repository: Repository) -> None:
    for number in range(3):
        write_snapshot(repository, f"2026113{0}T01020{number}Z-0123abcd")
    repository.write_blob(sha256(b"b"), io.BytesIO(b"b"), zstd=False, size=1)  # of a run that was cut off
    before = sorted(repository.location.list(""))
    dry = prune(repository, {"last": 1}, dry_run=True)
    assert sorted(repository.location.list("")) == before
    report = prune(repository, {"last": 1})
    assert (report.removed, report.kept, report.removed_blobs) == (dry.removed, dry.kept, dry.removed_blobs)
    assert report.removed_blobs == 1
    assert repository.has(sha256(b"a"))
    assert not repository.has(sha256(b"b"))
    assert repository.snapshot_ids(complete=False) == list(report.kept)
    assert verify(repository, quick=True).findings == 0


def test_nothing_is_pruned_beside_a_snapshot_that_cant_be_read(repository: Repository) -> None:
    for number in range(2):
        write_snapshot(repository, f"20261130T01020{number}Z-0123abcd")
    name = "snapshots/20261130T010200Z-0123abcd/manifest.json"
    with repository.location.write(name, size=2) as sink:
        sink.write(b"{}")
    before = sorted(repository.location.list(""))
    with pytest.raises(InvalidBackup):
        prune(repository, {"last": 1})
    assert sorted(repository.location.list("")) == before


def test_a_sound_repository_has_no_findings(repository: Repository) -> None:
    write_snapshot_and_rows(repository)
    report = verify(repository)
    assert (report.findings, report.snapshots, report.blobs, report.bytes) == (0, 1, 1, 1)


ROWS = (
    b'{"format": 1, "revision": "0033", "taken_at": "2026-11-30T12:00:00+00:00", "partitions": {}}\n{"sequences": {}}\n'
)


def write_snapshot_and_rows(repository: Repository) -> Snapshot:
    return write_snapshot(repository, rows=ROWS)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("damage", ["delete", "cut", "manifest", "entries"])
def test_damage_is_found(repository: Repository, damage: str, quick: bool) -> None:
    snapshot = write_snapshot_and_rows(repository)
    (blob,) = repository.blobs()
    if damage == "delete":
        repository.location.delete(blob.path)
    else:
        path = blob.path if damage == "cut" else f"snapshots/{snapshot.id}/{damage}"
        path += ".json" if damage == "manifest" else ""
        with repository.location.write(path, size=0):
            pass
    report = verify(repository, quick=quick)
    assert report.findings >= 1
    assert report.listed[0]["problem"]


def test_other_bytes_of_the_same_size_are_found_by_reading(repository: Repository) -> None:
    write_snapshot_and_rows(repository)
    (blob,) = repository.blobs()
    with repository.location.write(blob.path, size=blob.size) as sink:
        sink.write(bytes(blob.size))
    assert verify(repository, quick=True).findings == 0
    assert verify(repository).findings == 1


def test_encrypted_backups_are_verified_quickly_without_identity(repository: Repository, tmp_path: Path) -> None:
    if not repository.encrypts:
        pytest.skip("not encrypted")
    write_snapshot_and_rows(repository)
    without = Repository(Folder(tmp_path / "r"), RepositoryOptions(KEYS))
    assert verify(without, quick=True).findings == 0
    assert prune(without, {"daily": 1}).removed_blobs == 0
    with pytest.raises(IdentityNeeded):
        verify(without)
