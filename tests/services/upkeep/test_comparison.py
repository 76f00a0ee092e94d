"""The janitor's comparison of the bucket with the rows, in both directions."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from core.errors import ContentMissing, Unavailable
from core.principal import Principal
from db import Database
from services import Services
from services.upkeep import comparison
from storage_backends.base import ObjectInfo, StorageUnavailable
from telemetry import metrics
from tests.conftest import NOTHING, Leftovers
from tests.memory_store import MemoryStore
from tests.rows import add_file, sql
from tests.services.uploads.test_intake import upload

PLAIN = "application/octet-stream"
in_memory = pytest.mark.memory_store


def test_R4_a_file_whose_object_is_gone_says_so_until_it_is_back(
    services: Services, alice: Principal, bucket: Any, db: Database
) -> None:
    file = upload(services, alice, "a.txt", b"mine")
    bucket.delete(file.file_path)
    assert services.janitor.run(dry_run=True).missing_objects == 1
    assert services.files.get(alice, file.id).in_bucket
    report = services.janitor.run()
    assert (report.missing_objects, report.examples["missing_objects"]) == (1, [file.file_path])
    assert not services.files.get(alice, file.id).in_bucket
    with pytest.raises(ContentMissing):
        services.intake._reader.confirm(services.files.get(alice, file.id))
    again = services.janitor.run()
    assert (again.missing_objects, again.still_missing_objects) == (0, 1)

    bucket.put(file.file_path, b"mime", content_type="text/plain")
    assert services.janitor.run().returned_objects == 0  # other bytes
    bucket.put(file.file_path, b"mine", content_type="text/plain")
    assert services.janitor.run(dry_run=True).returned_objects == 1
    assert services.janitor.run().returned_objects == 1
    assert services.files.get(alice, file.id).in_bucket
    found = sql(db, "select action, actor from audit_events where action like 'content%%' order by id")
    assert found == [("content_missing", "system"), ("content_found", "system")]


@in_memory
def test_a_missing_preview_or_public_copy_is_forgotten_so_that_it_is_made_again(
    services: Services, bucket: Any, db: Database
) -> None:
    add_file(db, "a.png", key="files/2026/11/a.png")
    bucket.put("files/2026/11/a.png", bytes(100), content_type=PLAIN)
    sql(db, "insert into readings (object_key, read_as) values ('files/2026/11/a.png', 'image/png')")
    sql(
        db,
        "insert into file_previews (object_key, read_as, preview_type, variant, preview_path, mime_type, size)"
        " values ('files/2026/11/a.png', 'image/png', 'thumbnail', 256, 'previews/2026/11/p', 'image/webp', 9)",
    )
    sql(db, "update objects set location_state = 'removed', public_key = 'files/2026/11/b.png', public_sha256 = sha256")
    before = services.janitor.run(dry_run=True)
    report = services.janitor.run()
    assert (report.missing_previews, report.missing_public_copies, report.missing_objects) == (1, 1, 0)
    assert before.counts() == report.counts()
    assert sql(db, "select location_state, public_key from objects") == [("present", None)]
    assert sql(db, "select count(*) from file_previews") == [(0,)]


class FoldersFirst(MemoryStore):
    """Lists folder by folder, as SeaweedFS does."""

    def list_objects(self, prefix: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        yield from sorted(super().list_objects(prefix), key=lambda info: info.key.split("/"))


@in_memory
@pytest.mark.parametrize("store", [MemoryStore, FoldersFirst])
@pytest.mark.parametrize("seed", range(6))
def test_every_difference_is_found_whatever_is_listed(
    services: Services, db: Database, monkeypatch: pytest.MonkeyPatch, store: type[MemoryStore], seed: int
) -> None:
    """Also where folders are not listed at all, lie in others, or have rows before, between and after what is listed."""
    chance, double = random.Random(seed), store()
    monkeypatch.setattr(comparison, "_BATCH", chance.choice([3, 7]))
    monkeypatch.setattr(comparison, "_ROWS", chance.choice([2, 5]))
    monkeypatch.setattr(services.janitor, "_store", double)
    monkeypatch.setattr(services.janitor, "_orphan_age", timedelta(seconds=-1))
    folders = ["files/", "files/1/", "files/1/2/", "files/1-/", "files/3/"]
    everywhere = [f"{folder}{name}" for folder in folders for name in ("0", "00", "1.x", "2", "a", "a.b", "c", "f")]
    rows = {key for key in everywhere if chance.random() < 0.6}
    listed = {key for key in everywhere if chance.random() < 0.6 and not key.startswith(chance.choice(folders[1:]))}
    for key in rows:
        add_file(db, key.replace("/", "_"), key=key)
    for key in listed:
        double.put(key, b"1", content_type=PLAIN)
    dry = services.janitor.run(dry_run=True)
    report = services.janitor.run()
    assert dry.counts() == report.counts()
    assert (report.missing_objects, report.orphaned_objects) == (len(rows - listed), len(listed - rows))
    assert {row[0] for row in sql(db, "select object_key from objects where not in_bucket")} == rows - listed
    assert {info.key for info in double.list_objects("files/")} == rows & listed


@in_memory
def test_T106_of_many_runs_at_once_each_effect_is_counted_in_one(
    services: Services, bucket: Any, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services.janitor, "_orphan_age", timedelta(seconds=-1))
    monkeypatch.setattr(comparison, "_GRACE", timedelta(seconds=-5))
    listed = bucket.list_multiparts
    monkeypatch.setattr(
        bucket,
        "list_multiparts",
        lambda prefix: (replace(ref, started_at=ref.started_at or _then(db)) for ref in listed(prefix)),
    )
    for number in range(12):
        add_file(db, f"missing {number}", key=f"files/2026/11/missing{number}")
        gone = add_file(db, f"expired {number}", key=f"files/2026/11/expired{number}")
        old = add_file(db, f"old {number}", key=f"files/2026/11/old{number}", deleted=True)
        for name in ("expired", "old", "orphan", "due"):
            bucket.put(f"files/2026/11/{name}{number}", b"1", content_type=PLAIN)
        bucket.create_multipart(f"files/2026/11/parts{number}", content_type=PLAIN)
        sql(db, "update files set expires_at = now() - interval '1 s' where id = %s", gone)
        sql(db, "update files set deleted_at = now() - interval '31 days' where id = %s", old)
        sql(
            db, f"insert into deferred_deletions (object_key, delete_after) values ('files/2026/11/due{number}', now())"
        )
    sql(db, "update owner_usage set used_bytes = 1")
    with ThreadPoolExecutor(4) as threads:
        reports = list(threads.map(lambda _: services.janitor.run(), range(4)))
    found = {
        kind: sum(report.counts()[kind] for report in reports)
        for kind in (
            "missing_objects", "expired_files", "purged_files", "orphaned_objects", "orphaned_multiparts", "retired_objects",
            "corrected_counters",
        )
    }  # fmt: skip
    assert found == dict.fromkeys(found, 12) | {"corrected_counters": 1}
    assert not list(listed(""))


def _then(db: Database) -> Any:
    return sql(db, "select now() - interval '1 minute'")[0][0]


@in_memory
def test_an_unavailable_bucket_makes_no_object_missing(
    services: Services, bucket: Any, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_file(db, "a", key="files/2026/11/a")

    def away(*_: Any) -> Any:
        raise StorageUnavailable("gone")

    monkeypatch.setattr(bucket, "stat", away)
    report = services.janitor.run()
    assert (report.missing_objects, report.compared) == (0, False)
    assert sql(db, "select in_bucket from objects") == [(True,)]


@in_memory
def test_findings_and_the_last_full_run_are_metrics(services: Services, db: Database) -> None:
    add_file(db, "a", key="files/2026/11/a")
    services.janitor.run(full=False)
    assert services.janitor.gauges() == []
    services.janitor.run(dry_run=True)
    assert services.janitor.gauges() == []
    services.janitor.run()
    names = [gauge.name for gauge in services.janitor.gauges()]
    assert names == ["gateway_janitor_last_full_run_timestamp_seconds", "gateway_janitor_last_full_run_seconds"]
    assert b'gateway_janitor_found_total{kind="missing_objects"}' in metrics().exposition()


def test_a_quick_run_lists_nothing_that_lasts(
    services: Services, alice: Principal, leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(services, alice, "a.txt", b"mine")
    store, prefixes = services.intake._store, list[str]()
    list_objects = store.list_objects
    monkeypatch.setattr(store, "list_objects", lambda prefix: prefixes.append(prefix) or list_objects(prefix))
    report = services.janitor.run(full=False)
    assert (prefixes, report.compared) == (["incoming/", "tails/", "probe/"], False)
    assert leftovers() == NOTHING


@in_memory
def test_in_another_bucket_nothing_is_missing_and_nothing_is_left_over(
    services: Services, bucket: Any, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services.janitor, "_orphan_age", timedelta(seconds=-1))
    theirs = [f"files/2025/01/theirs{number}" for number in range(20)]
    for key in [*theirs, "incoming/theirs"]:
        bucket.put(key, b"1", content_type=PLAIN)

    def refused(*runs: tuple[bool, bool]) -> bool:
        for dry_run, full in runs:
            with pytest.raises(Unavailable, match=r"DATABASE_URL|S3_BUCKET"):
                services.janitor.run(dry_run=dry_run, full=full)
        assert bucket.stat("incoming/theirs")
        return not sql(db, "select 1 from objects where not in_bucket")

    assert refused((True, True), (False, True))  # there are no rows
    for number in range(25):
        add_file(db, f"ours {number}", key=f"files/2026/11/ours{number}")
    sql(db, "update objects set sha256 = repeat('a', 64)")
    assert refused((True, True), (False, False), (False, True))
    services.scrub.begin()
    run = services.scrub.run()
    assert "none of 25 objects" in str(run.interrupted) and sql(db, "select count(*) from scrub_findings") == [(0,)]

    bucket.put("files/2026/11/ours7", b"1", content_type=PLAIN)  # others are really lost
    report = services.janitor.run()
    assert (report.missing_objects, report.orphaned_objects) == (24, 21)
