"""The janitor, and leftovers of killed processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from core.errors import Unavailable
from core.parts import PART_SIZE
from core.principal import Principal
from db import Database
from services import Services
from services.upkeep import comparison
from storage_backends.base import OutcomeUnknown, StorageUnavailable
from tests.conftest import NOTHING, Leftovers
from tests.direct_steps import direct
from tests.direct_steps import upload as upload_directly
from tests.rows import sql
from tests.samples import Source
from tests.services.uploads.test_intake import stored, upload


class Killed(BaseException):
    """Simulates kill -9: no cleanup code of the gateway runs."""


STORE_STEPS = ["create_multipart", "put_part", "complete_multipart", "stat", "put"]
INTAKE_STEPS = ["discard"]


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", STORE_STEPS)
@pytest.mark.parametrize("size", [100, 3 * PART_SIZE])
def test_T101_an_upload_killed_at_any_step_leaves_nothing_after_the_janitor(
    services: Services,
    alice: Principal,
    leftovers: Leftovers,
    db: Database,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    moment: str,
    size: int,
) -> None:
    store = services.intake._store
    real = getattr(store, step)

    def killed(*arguments: Any, **keywords: Any) -> Any:
        if moment == "after":
            real(*arguments, **keywords)
        raise Killed

    reached = True
    with monkeypatch.context() as patch:
        patch.setattr(store, step, killed)
        patch.setattr(services.intake, "discard", lambda *a, **k: None)  # a dead process cleans up nothing
        try:
            upload(services, alice, "a.bin", os.urandom(size))
            reached = False
        except Killed:
            pass
    if not reached:
        assert leftovers() == NOTHING
        return
    pass_time(db)
    services.janitor.run()
    services.janitor.run()
    assert leftovers() == NOTHING
    assert sql(db, "select count(*) from files") == [(0,)]


def pass_time(db: Database) -> None:
    """Make every upload expire."""
    sql(db, "update uploads set expires_at = now() - interval '1 second', updated_at = now() - interval '1 hour'")


def test_R3_T101_an_interrupted_purge_is_finished(
    services: Services, alice: Principal, leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = upload(services, alice, "a.txt", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(services.files._store, "delete", lambda key: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            services.files.purge(alice, file.id)
    assert leftovers()["objects without a row"] == [file.file_path]
    assert services.janitor.run(dry_run=True).purged_objects == 1
    assert services.janitor.run().purged_objects == 1
    assert leftovers() == NOTHING


def test_T103_an_unavailable_bucket_loses_no_row_and_no_object(
    services: Services, alice: Principal, leftovers: Leftovers, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = upload(services, alice, "kept.bin", os.urandom(1000))

    def away(*arguments: Any, **keywords: Any) -> Any:
        raise StorageUnavailable("gone")

    with monkeypatch.context() as patch:
        for name in ("put", "create_multipart", "delete", "list_multiparts"):
            patch.setattr(services.intake._store, name, away)
        with pytest.raises(Unavailable):
            upload(services, alice, "a.bin", os.urandom(1000))
        services.files.purge(alice, kept.id)
        services.janitor.run()
    pass_time(db)
    services.janitor.run()
    assert leftovers() == NOTHING


def test_an_upload_continued_meanwhile_does_not_expire(services: Services, alice: Principal, db: Database) -> None:
    """The statement that ends an upload checks the time again."""

    class Slow(Source):
        def read(self, size: int = -1, /) -> bytes:
            if self.taken == PART_SIZE:
                services.janitor.run()
            return super().read(size)

    data = os.urandom(2 * PART_SIZE)
    file = upload(services, alice, "a.bin", Slow(data))
    assert file.file_size == len(data)


def test_orphans_are_deleted_once_no_upload_can_own_them(
    services: Services, alice: Principal, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = upload(services, alice, "a.txt", b"mine")
    bucket.put("files/2020/01/orphan.txt", b"orphan", content_type="text/plain")
    bucket.put("files2/not-ours.txt", b"not ours", content_type="text/plain")
    assert services.janitor.run().orphaned_objects == 0
    monkeypatch.setattr(services.janitor, "_orphan_age", timedelta(0))
    assert services.janitor.run(dry_run=True).orphaned_objects == 1
    assert [info.key for info in bucket.list_objects("files/2020/")] == ["files/2020/01/orphan.txt"]
    report = services.janitor.run()
    assert (report.orphaned_objects, report.orphaned_bytes) == (1, 6)
    assert stored(bucket, file) == b"mine"
    assert bucket.stat("files2/not-ours.txt").size == 8
    bucket.delete("files2/not-ours.txt")


@pytest.fixture
def move_the_clock(db: Database) -> Callable[[timedelta], None]:
    """A function that moves PostgreSQL's clock, for connections opened afterwards."""

    def move(by: timedelta) -> None:
        with db.connection() as tx:
            tx.execute("create schema if not exists moved")
            tx.execute(
                "create or replace function moved.now() returns timestamptz stable language sql as"
                f" $$ select pg_catalog.now() + interval '{by.total_seconds()} s' $$"
            )
            tx.execute("alter database gateway_test set search_path to moved, pg_catalog, public")

    return move


@pytest.mark.parametrize(("ahead", "removed"), [(timedelta(hours=24), 0), (timedelta(hours=26), 1)])
def test_R6_T108_ages_are_measured_by_the_databases_clock(
    services: Services, bucket: Any, move_the_clock: Callable[[timedelta], None], ahead: timedelta, removed: int
) -> None:
    """If the clock of the janitor's machine jumps, nothing is purged early. Uploads expire after a day."""
    bucket.put("files/2020/01/orphan.txt", b"orphan", content_type="text/plain")
    bucket.create_multipart("files/2020/01/lost.bin", content_type="application/octet-stream")
    move_the_clock(ahead)
    report = services.janitor.run()
    assert (report.orphaned_objects, report.orphaned_multiparts) == (removed, 1)


def test_objects_of_checks_that_timed_out_are_removed(
    services: Services, bucket: Any, move_the_clock: Callable[[timedelta], None], leftovers: Leftovers
) -> None:
    bucket.put("probe/0123", b"probe", content_type="application/octet-stream")
    bucket.create_multipart("probe/doctor-0123/parts", content_type="application/octet-stream")
    services.janitor.run()
    assert len(leftovers()["objects without a row"]) == 1  # a check may be running
    services.db.close()
    move_the_clock(timedelta(hours=2))
    assert services.janitor.run().orphaned_objects == 1
    assert leftovers() == NOTHING


def test_a_multipart_without_a_row_is_aborted(
    services: Services, bucket: Any, monkeypatch: pytest.MonkeyPatch, leftovers: Leftovers
) -> None:
    bucket.create_multipart("files/2020/01/lost.bin", content_type="application/octet-stream")
    assert services.janitor.run().orphaned_multiparts == 0
    monkeypatch.setattr(comparison, "_GRACE", timedelta(seconds=-5))
    assert services.janitor.run().orphaned_multiparts == 1
    assert leftovers() == NOTHING


@pytest.mark.parametrize("send", [upload, upload_directly])
def test_R4_a_multipart_that_appears_after_its_row_is_gone_is_found_by_its_key(
    services: Services,
    alice: Principal,
    db: Database,
    bucket: Any,
    monkeypatch: pytest.MonkeyPatch,
    leftovers: Leftovers,
    send: Callable[..., Any],
) -> None:
    """MinIO lists multiparts by exact key only."""
    store, keys, listed = services.intake._store, list[str](), services.intake._store.list_multiparts
    monkeypatch.setattr(store, "list_multiparts", lambda key: [ref for ref in listed(key) if ref.key == key])
    with monkeypatch.context() as patch:

        def without_answer(key: str, **_: Any) -> None:
            keys.append(key)
            raise OutcomeUnknown("no answer")

        patch.setattr(store, "create_multipart", without_answer)
        with pytest.raises(Unavailable):
            send(services, alice, *(("a.bin",) if send is upload else ()), bytes(2 * PART_SIZE))
    assert sql(db, "select count(*) from uploads") == [(0,)]
    bucket.create_multipart(keys[0], content_type="text/plain")  # now it takes effect
    services.janitor.run()
    assert list(bucket.list_multiparts(keys[0]))
    sql(db, "update deferred_deletions set delete_after = delete_after - interval '1 hour'")
    services.janitor.run()
    assert leftovers() == NOTHING


def test_T14_of_two_multiparts_of_one_upload_the_one_that_is_not_recorded_is_aborted(
    services: Services, alice: Principal, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = direct(services)
    first = uploads.admit(
        alice, protocol="direct", filename="a.bin", size=2 * PART_SIZE, content_type=None, single=False
    )
    create = uploads._store.create_multipart

    def overtaken(*arguments: Any, **keywords: Any) -> Any:
        """The same request, sent again, records its multipart first."""
        monkeypatch.undo()
        uploads.start_multipart(first)
        return create(*arguments, **keywords)

    monkeypatch.setattr(uploads._store, "create_multipart", overtaken)
    recorded = uploads.start_multipart(first)
    assert [ref.upload_id for ref in bucket.list_multiparts(first.object_key)] == [recorded.multipart_id]


def test_T14_a_request_without_an_answer_does_not_end_the_upload_that_its_repetition_began(
    services: Services, alice: Principal, db: Database, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = direct(services)
    first = uploads.admit(
        alice, protocol="direct", filename="a.bin", size=2 * PART_SIZE, content_type=None, single=False
    )

    def overtaken(*_: Any, **__: Any) -> Any:
        monkeypatch.undo()
        uploads.start_multipart(first)
        raise OutcomeUnknown("no answer")

    monkeypatch.setattr(uploads._store, "create_multipart", overtaken)
    begun = uploads.start_multipart(first)
    sql(db, "update deferred_deletions set delete_after = now()")
    services.janitor.run()
    assert [ref.upload_id for ref in bucket.list_multiparts(first.object_key)] == [begun.multipart_id]
