"""Objects of which the database may have forgotten something are kept (T122)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from core.principal import Principal
from db import Database
from embedded.postgres import Postgres
from services import Services
from tests.conftest import _admin
from tests.rows import sql
from tests.services.uploads.test_intake import stored, upload

PLAIN = "application/octet-stream"


def keys_of(bucket: Any) -> set[str]:
    return {info.key for info in bucket.list_objects("files/")}


def test_T122_an_older_dump_that_is_put_back_costs_no_newer_object(
    services: Services,
    alice: Principal,
    db: Database,
    bucket: Any,
    postgres_server: Postgres,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(services.janitor, "_orphan_age", timedelta(0))
    older = upload(services, alice, "older.txt", b"older")
    services.janitor.run()
    sql(db, "insert into deferred_deletions (object_key, delete_after) values ('files/2026/11/written', now())")
    for database in (db, services.db):
        database.close()
    _admin(postgres_server, "drop database if exists dump with (force)", "create database dump template gateway_test")
    newer = upload(services, alice, "newer.txt", b"newer")
    sql(db, "delete from deferred_deletions")  # a replacement was written under the key, and put to use
    bucket.put("files/2026/11/written", b"in use", content_type=PLAIN)
    for database in (db, services.db):
        database.close()
    _admin(
        postgres_server,
        "drop database gateway_test with (force)",
        "create database gateway_test template dump",
        "drop database dump",
    )
    before = keys_of(bucket)
    dry = services.janitor.run(dry_run=True)
    assert sql(db, "select count(*) from protected_periods") == [(0,)]
    report = services.janitor.run()
    assert dry.counts() == report.counts()
    assert (report.orphaned_objects, report.retired_objects, report.protected_objects) == (0, 0, 1)
    assert keys_of(bucket) == before
    assert services.janitor.run().protected_objects == 2  # also what a row had said was to be deleted

    assert services.janitor.run(dry_run=True, delete_protected=True).orphaned_objects == 2
    assert newer.file_path in keys_of(bucket)
    report = services.janitor.run(delete_protected=True)
    assert (report.orphaned_objects, report.protected_objects) == (2, 0)
    assert keys_of(bucket) == {older.file_path}
    assert stored(bucket, older) == b"older"


@pytest.mark.memory_store
@pytest.mark.parametrize(("minutes", "protected"), [(14, 0), (16, 1)])
def test_T122_a_time_without_the_janitor_is_protected(
    services: Services, db: Database, bucket: Any, minutes: int, protected: int
) -> None:
    services.janitor.run(full=False)
    sql(db, f"update janitor_runs set last_at = now() - interval '{minutes} minutes'")
    services.janitor.run(full=False, dry_run=True)
    assert sql(db, "select count(*) from protected_periods") == [(0,)]
    for _ in range(2):
        services.janitor.run(full=False)
    found = sql(db, "select extract(epoch from ended - began)::integer / 60 from protected_periods")
    assert found == [(minutes + 60,)] * protected


def test_T122_an_expired_upload_whose_object_may_be_a_files_keeps_it(
    services: Services, alice: Principal, db: Database, bucket: Any
) -> None:
    admitted = services.direct.admit(  # type: ignore[union-attr]
        alice, protocol="direct", filename="a.bin", size=5, content_type=None, single=True
    )
    bucket.put(admitted.object_key, b"12345", content_type=PLAIN)
    sql(db, "insert into protected_periods (began, ended, reason) values (now(), now(), 'restored')")
    sql(db, "update uploads set expires_at = now() - interval '1 s'")
    assert services.janitor.run().expired_uploads == 1
    assert services.janitor.run().protected_objects == 1
    assert bucket.stat(admitted.object_key).size == 5


@pytest.mark.memory_store
def test_a_period_is_forgotten_when_what_was_written_in_it_is_deleted(services: Services, db: Database) -> None:
    for hours in (30, 27, 25, 0):
        sql(
            db,
            "insert into protected_periods (began, ended, reason)"
            f" values (now() - interval '40 hours', now() - interval '{hours} hours', 'restored')",
        )
    services.janitor.run(full=False, delete_protected=True)
    services.janitor.run(dry_run=True, delete_protected=True)
    assert sql(db, "select count(*) from protected_periods") == [(4,)]
    services.janitor.run(delete_protected=True)  # younger objects may still get a row
    assert sql(db, "select count(*) from protected_periods") == [(2,)]
