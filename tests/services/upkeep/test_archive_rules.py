"""Rules of the archive: what they mean, which objects they take, and that passes go on where they were."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from core.archive_rules import ArchiveRule, parse
from core.principal import Principal
from db import Database
from services import Services
from services.upkeep import archive_rules
from services.upkeep.archive_rules import ArchiveRules
from tests.compressed_files import compressed, text
from tests.rows import add_file, sql
from tests.services.uploads.test_intake import upload


def test_rules_are_read() -> None:
    assert parse("days=180 ; days=30 type=image/* min_size=1.5mb owner=bob folder=7;") == (
        ArchiveRule("days=180", 180),
        ArchiveRule("days=30 type=image/* min_size=1.5mb owner=bob folder=7", 30, "bob", 7, "image/*", 1_572_864),
    )


WRONG = (
    *("type=video", "days=-1", "days=x", "days=99999", "days=1 days=2", "days=1 colour=red", "days=1 folder=a"),
    *("days=1 folder=0", "days=1 min_size=big", "days=1 min_size=>1mb", "days=1 owner=", "180"),
)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_rule_is_named(wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong.replace("=", ".").split()[0]):
        parse(f"days=7; {wrong}")


@pytest.fixture
def aged(db: Database) -> Any:
    """Add a file whose object is a year old."""

    def add(name: str, **options: Any) -> UUID:
        file_id = add_file(db, name, **options)
        sql(db, "update files set uploaded_at = now() - interval '1 year' where id = %s", file_id)
        sql(db, "update objects set created_at = now() - interval '1 year', sha256 = repeat('0', 64)")
        return file_id

    return add


def due(services: Services, rules: str) -> set[UUID]:
    found = services.archive_rules.instead(parse(rules))._all_due()
    return {item.file_id for _, _, item in found}


@pytest.mark.memory_store
def test_each_rule_takes_what_it_says(services: Services, db: Database, aged: Any, alice: Principal) -> None:
    above = services.folders.create(alice, "a").id
    below = services.folders.create(alice, "b", parent_id=above).id
    video = aged("a.mp4", file_type="video", mime_type="video/mp4", size=5_000_000)
    inside = aged("b.pdf", folder=below)
    other = aged("c.pdf", owner="bob")
    aged("trash", deleted=True)
    aged("processing", status="processing")
    aged("infected", status="infected")
    used = aged("used.pdf")
    sql(db, "update files set last_accessed = now() where id = %s", used)
    viewed = aged("viewed.pdf")
    sql(db, "update files set last_previewed = now() where id = %s", viewed)
    add_file(db, "young.pdf")
    assert due(services, "days=180") == {video, inside, other, viewed}
    assert due(services, "days=366") == set()
    assert due(services, "days=180 type=video") == due(services, "days=180 type=video/*") == {video}
    assert due(services, "days=180 min_size=2mb") == {video}
    assert due(services, f"days=180 folder={above}") == {inside}
    assert due(services, "days=180 owner=bob; days=180 type=video") == {other, video}
    assert used in due(services, "days=0")
    shared = sql(db, "select file_path from files where id = %s", video)[0][0]
    twin = add_file(db, "twin.mp4", key=shared, file_type="video", mime_type="video/mp4")
    assert video not in due(services, "days=180")  # uploaded again today
    sql(db, "update files set is_deleted = true, deleted_at = now() where id = %s", twin)
    assert video in due(services, "days=180")
    sql(db, "update objects set checksum_state = 'mismatch' where object_key = %s", shared)
    assert video not in due(services, "days=180")


@pytest.mark.memory_store
def test_a_pass_enqueues_slices_and_begins_once_a_day(
    services: Services, db: Database, aged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_rules, "_SLICE", 3)
    monkeypatch.setattr(archive_rules, "_MAX_WAITING", 4)
    for number in range(8):
        aged(f"{number}.pdf", owner=f"o{number % 2}")
    rules = services.archive_rules.instead(parse("days=180"))
    assert services.archive_rules.continue_pass() == 0  # without rules
    assert rules.continue_pass() == 6  # two slices; then enough are waiting
    assert rules.continue_pass() == 0
    sql(db, "update procrastinate_jobs set status = 'doing'")
    assert rules.continue_pass() == 2
    jobs = sql(db, "select distinct args ->> 'file_id', args ->> 'days' from procrastinate_jobs")
    assert len(jobs) == 8 and {days for _, days in jobs} == {"180"}
    sql(db, "delete from procrastinate_jobs")
    assert rules.continue_pass() == 0  # not twice a day
    sql(db, "update archive_pass set began_at = now() - interval '1 day'")
    assert rules.continue_pass() == 6


def test_what_is_used_meanwhile_stays(services: Services, alice: Principal, db: Database) -> None:
    file = upload(services, alice, "a.txt", text(9000))
    assert not services.archive.archive(file.id, days=1)
    sql(db, "update files set uploaded_at = now() - interval '2 days'")
    assert services.archive.archive(file.id, days=1)
    with services.db.transaction() as tx:
        services.archive.request(tx, services.files.get(alice, file.id))
    services.archive.unarchive(file.id)
    assert not services.archive.archive(file.id, days=1)  # asked back today


def test_a_dry_run_estimates_and_changes_nothing_then_it_is_done(
    services: Services, alice: Principal, db: Database
) -> None:
    plain = upload(services, alice, "a.txt", text(200_000))
    compressed(services, alice, text(9000, seed=1), "b.txt")
    rules: ArchiveRules = services.archive_rules.instead(parse("days=0 min_size=100kb; days=0"))
    first, second = rules.preview()
    assert (first.rule, first.files, first.objects, first.bytes, first.sampled) == (
        "days=0 min_size=100kb",
        1,
        1,
        200_000,
        1,
    )
    assert second.stored_bytes < 9000 == second.bytes
    assert services.files.get(alice, plain.id).storage_class == "standard"
    counted: list[int] = []
    done = rules.run(counted.append)
    assert [report.archived_objects for report in done] == counted == [1, 1]
    stored = services.files.get(alice, plain.id).stored_size
    assert stored is not None and abs(200_000 - stored - first.estimated_saved_bytes) < 1000
    assert [report.objects for report in rules.preview()] == [0, 0]
