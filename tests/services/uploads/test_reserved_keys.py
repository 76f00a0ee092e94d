"""Small uploads under reserved keys: whatever ends them, no object is left without a row."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from core.errors import NotFound, Unavailable, UploadGone
from core.principal import Principal
from db import Database
from services import Services
from services.library.files import FileQuery
from tests.client import GatewayClient
from tests.conftest import NOTHING, Leftovers
from tests.crash_points import CrashingGateway
from tests.lost_commits import LossyGateway
from tests.rows import sql
from tests.samples import Source
from tests.services.uploads.test_intake import upload

ALICE = Principal("alice", has_quota=False)


def clean_up(services: Services, db: Database) -> None:
    """What the janitor does once all keys have expired."""
    sql(db, "update reserved_keys set expires_at = now() - interval '1 second' where expires_at > '-infinity'")
    services.janitor.run(full=False)
    assert sql(db, "select id from reserved_keys") == []


def test_one_statement_reserves_keys_for_many_uploads(services: Services, db: Database, leftovers: Leftovers) -> None:
    files = [upload(services, ALICE, f"{n}.bin", os.urandom(10), size=10) for n in range(3)]
    assert len({file.file_path for file in files}) == 3
    assert all(file.file_path.endswith(".bin") for file in files)
    assert sql(db, "select id from uploads") == []
    assert len(sql(db, "select id from reserved_keys")) == 29
    clean_up(services, db)
    assert leftovers() == NOTHING


def test_threads_get_different_keys(services: Services) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = threads.map(lambda n: upload(services, ALICE, f"{n}.bin", os.urandom(10), size=10), range(60))
        assert len({file.file_path for file in made}) == 60


def test_T101_a_killed_upload_leaves_no_object(
    services: Services, crashing: CrashingGateway, db: Database, leftovers: Leftovers
) -> None:
    for crash in crashing.crash_points():
        crashing.services.intake.keys._keys.clear()  # as in a new process
        with crash:
            upload(crashing.services, ALICE, "a.bin", os.urandom(10), size=10)
        clean_up(services, db)
        assert (crash, leftovers()) == (crash, NOTHING)
    assert len(services.files.list(ALICE, FileQuery()).items) == 1  # of the last round, which was not killed


def test_T104_a_lost_commit_answer_loses_nothing(
    services: Services, lossy: LossyGateway, db: Database, leftovers: Leftovers
) -> None:
    for lost in lossy.lost_commits("at once", "never"):
        lossy.services.intake.keys._keys.clear()
        with lost:
            upload(lossy.services, ALICE, "a.bin", os.urandom(10), size=10)
        clean_up(services, db)
        assert leftovers() == NOTHING


def test_an_upload_that_outlives_its_key_is_gone(services: Services, db: Database, leftovers: Leftovers) -> None:
    class Slow(Source):
        def read(self, size: int = -1, /) -> bytes:
            sql(db, "update reserved_keys set expires_at = '-infinity'")
            return super().read(size)

    upload(services, ALICE, "a.bin", os.urandom(10), size=10)
    with pytest.raises(UploadGone):
        upload(services, ALICE, "b.bin", Slow(os.urandom(10)), size=10)
    clean_up(services, db)
    assert leftovers() == NOTHING


def test_bytes_that_the_owner_has_are_linked_and_deleted(
    services: Services, db: Database, leftovers: Leftovers
) -> None:
    data = os.urandom(10)
    first, second = (upload(services, ALICE, name, data, size=10) for name in ("a.bin", "b.bin"))
    assert first.file_path == second.file_path
    assert leftovers() == NOTHING
    assert len(sql(db, "select id from reserved_keys")) == 30


def test_an_upload_into_no_folder_leaves_nothing(services: Services, leftovers: Leftovers) -> None:
    with pytest.raises(NotFound):
        upload(services, ALICE, "a.bin", os.urandom(10), size=10, folder_id=1)
    assert leftovers() == NOTHING


def test_keys_are_not_used_without_their_rows(
    services: Services, leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.CHECK_OUT", 0.5)
    services.db.url = "host=127.0.0.1 port=1 dbname=none"
    services.db.close()
    with suppress(Unavailable):
        upload(services, ALICE, "a.bin", os.urandom(10), size=10)
    assert leftovers() == NOTHING


def test_T71_an_owners_own_quota_holds_from_the_next_moment(
    services: Services, client: GatewayClient, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.access.keys.CACHED", 0.0)
    assert client.put("/api/upload/a.bin", data=os.urandom(60)).status == 201
    sql(db, "update owner_usage set quota_bytes = 100")
    assert client.put("/api/upload/b.bin", data=os.urandom(60)).json["code"] == "quota_exceeded"
