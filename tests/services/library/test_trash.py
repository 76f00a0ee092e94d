"""What the janitor does with expired files and old trash."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import NotFound
from core.principal import Principal
from db import Database
from services import Services
from tests.conftest import NOTHING, Leftovers
from tests.rows import add_file, sql
from tests.services.uploads.test_intake import stored, upload


def test_an_expired_file_moves_to_the_trash_and_old_trash_is_purged(
    services: Services, alice: Principal, db: Database, bucket: Any, leftovers: Leftovers
) -> None:
    first, kept = (upload(services, alice, name, b"shared") for name in ("a.txt", "b.txt"))
    assert first.file_path == kept.file_path
    sql(db, "update files set expires_at = now() where id = %s", first.id)
    dry, report = services.janitor.run(dry_run=True), services.janitor.run(full=False)
    assert (dry.expired_files, report.expired_files, report.purged_files) == (1, 1, 0)
    assert report.examples["expired_files"] == [str(first.id)]
    assert services.files.get(alice, first.id).is_deleted
    assert services.janitor.run(full=False).purged_files == 0

    sql(db, "update files set deleted_at = now() - interval '30 days' where id = %s", first.id)
    dry, report = services.janitor.run(dry_run=True), services.janitor.run(full=False)
    assert (dry.purged_files, report.purged_files) == (1, 1)
    with pytest.raises(NotFound):
        services.files.get(alice, first.id)
    assert stored(bucket, kept) == b"shared"
    services.files.purge(alice, kept.id)
    assert leftovers() == NOTHING
    events = "select action, actor from audit_events where file_id = %s and action <> 'uploaded' order by id"
    assert sql(db, events, first.id) == [("trashed", "system"), ("purged", "system")]


@pytest.mark.memory_store
@pytest.mark.settings(trash_days=0)
def test_without_days_in_the_trash_a_file_is_purged_at_the_next_run(services: Services, db: Database) -> None:
    for number in range(3):
        file_id = add_file(db, f"{number}.pdf", owner=f"owner {number}")
        sql(db, "update files set expires_at = now() where id = %s", file_id)
    reports = [services.janitor.run(full=False) for _ in range(3)]
    assert [(report.expired_files, report.purged_files) for report in reports] == [(3, 0), (0, 3), (0, 0)]
    assert sql(db, "select count(*) from objects") == [(0,)]


@pytest.mark.memory_store
def test_T107_a_file_that_is_restored_meanwhile_is_not_purged(
    services: Services, alice: Principal, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id = add_file(db, "a.pdf", deleted=True)
    sql(db, "update files set deleted_at = now() - interval '31 days'")
    purge = services.files.purge_checked

    def late(*arguments: Any) -> None:
        services.files.restore(alice, file_id)
        purge(*arguments)

    monkeypatch.setattr(services.files, "purge_checked", late)
    assert services.janitor.run(full=False).purged_files == 0
    assert not services.files.get(alice, file_id).is_deleted
