"""Buckets that keep what is deleted: with versions, and with an object lock."""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime, timedelta
from time import sleep
from typing import Any

import pytest
from botocore.exceptions import ClientError

import commands
from core.parts import PART_SIZE
from core.principal import Principal
from db import Database
from services import Services
from settings import Settings
from storage_backends.base import ObjectNotFound
from tests.buckets import another_bucket, set_versioning, versions
from tests.conftest import NOTHING, Leftovers
from tests.direct_steps import upload as upload_directly
from tests.rows import sql
from tests.services.uploads.test_intake import upload

MINUTE = timedelta(minutes=1)


@pytest.fixture
def versioned(shared_store: Any) -> Any:
    bucket = another_bucket(shared_store, f"versioned-{secrets.token_hex(6)}")
    set_versioning(bucket, "Enabled")
    return bucket


@pytest.fixture
def locked(shared_store: Any) -> Any:
    return another_bucket(shared_store, f"locked-{secrets.token_hex(6)}", lock_days=1)


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("locked" if "locked" in request.fixturenames else "versioned")


@pytest.fixture
def settings(settings: Settings, bucket: Any) -> Settings:
    return settings.model_copy(update={"s3_bucket": bucket._settings.bucket})


def purge_all(services: Services, who: Principal) -> None:
    for size in (100, PART_SIZE + 1):
        data = os.urandom(size)
        for add in (
            lambda data: upload(services, who, "a.bin", data),
            lambda data: upload_directly(services, who, data),
        ):
            file = add(data)
            services.files.trash(who, file.id)
            services.files.purge(who, file.id)


def test_R3_nothing_of_a_purged_file_stays_in_a_versioned_bucket(
    services: Services, alice: Principal, bucket: Any, leftovers: Leftovers
) -> None:
    purge_all(services, alice)
    services.health.ready()
    services.janitor.run()
    assert versions(bucket) == []
    assert leftovers() == NOTHING


def test_R3_locked_bytes_go_when_their_lock_ends(
    services: Services, alice: Principal, locked: Any, db: Database
) -> None:
    file = upload(services, alice, "a.bin", b"locked")
    services.files.purge(alice, file.id)
    assert services.stats.storage(alice)["total_files"] == 0
    (until,) = sql(db, "select delete_after from deferred_deletions where object_key = %s", file.file_path)[0]
    assert abs(until - datetime.now(UTC) - timedelta(days=1)) < MINUTE
    for _ in range(2):  # the janitor's clock says that it is time, the bucket's does not
        sql(db, "update deferred_deletions set delete_after = now()")
        services.janitor.run()
        assert locked.stat(file.file_path).size == 6
        assert sql(db, "select count(*) from deferred_deletions where delete_after > now()") == [(1,)]
    unlock(locked, file.file_path)
    sql(db, "update deferred_deletions set delete_after = now()")
    services.janitor.run()
    with pytest.raises(ObjectNotFound):
        locked.stat(file.file_path)
    assert sql(db, "select count(*) from deferred_deletions") == [(0,)]


def test_probes_and_incoming_objects_do_not_pile_up_in_a_locked_bucket(
    services: Services, alice: Principal, locked: Any, db: Database
) -> None:
    for _ in range(3):
        assert services.health.ready()["bucket"] is True
    upload_directly(services, alice, b"incoming")
    assert services.direct is not None
    services.direct.sweep()
    (incoming,) = [key for key in versions(locked) if key.startswith("incoming/")]
    assert sql(db, "select count(*) from deferred_deletions where object_key = %s", incoming) == [(1,)]
    assert len([key for key in versions(locked) if key.startswith("probe/")]) == 1


def unlock(bucket: Any, key: str, seconds: int = 2) -> None:
    """Let the lock of an object end, in two seconds instead of a day; in more if that is over when a busy bucket hears of it."""
    until = datetime.now(UTC) + timedelta(seconds=seconds)
    try:
        bucket._client().put_object_retention(
            Bucket=bucket._settings.bucket,
            Key=key,
            Retention={"Mode": "GOVERNANCE", "RetainUntilDate": until},
            BypassGovernanceRetention=True,
        )
    except ClientError:
        if seconds > 10:
            raise
        return unlock(bucket, key, 10 * seconds)
    sleep((until - datetime.now(UTC)).total_seconds() + 0.1)


def test_a_locked_bucket_needs_a_setting(settings: Settings, locked: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run(["bootstrap"], settings) == 1
    assert "1 day(s)" in (said := capsys.readouterr().err) and "ALLOW_OBJECT_LOCK" in said
    assert commands.run(["bootstrap"], settings.model_copy(update={"allow_object_lock": "on"})) == 0
    assert "1 day(s)" in capsys.readouterr().err
