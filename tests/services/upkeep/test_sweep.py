"""The sweep: one owner's uploads do not delay another's, and uploads that can't succeed end."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import pytest

from core.errors import Unavailable
from core.parts import PART_SIZE
from core.placement import Placement
from core.principal import Principal
from db import Database, uploads
from db.records import UploadRecord
from services import Services
from services.uploads import completion
from services.uploads.completion import Completion
from services.uploads.direct import DirectUploads
from services.uploads.leases import LEASE
from services.uploads.resumable import NewResumable
from tests.conftest import NOTHING, Leftovers
from tests.direct_steps import begin, checked, direct, files_of, incoming, resumable, send_all, stored
from tests.rows import sql
from tests.services.uploads.test_completion import counted  # noqa: F401 a fixture
from tests.services.uploads.test_resumable import Bytes


def now_again(db: Database) -> None:
    sql(db, "update uploads set retry_at = now() where retry_at is not null")


def upload_of(db: Database, upload_id: UUID) -> UploadRecord:
    with db.connection() as tx:
        found = uploads.get(tx, upload_id)
    assert found is not None
    return found


# -- uploads that can't succeed ----------------------------------------------------------------------------------------


def test_T134_an_upload_that_never_succeeds_ends_after_some_attempts(
    services: Services,
    alice: Principal,
    db: Database,
    bucket: Any,
    counted: tuple[DirectUploads, Counter[str]],  # noqa: F811
) -> None:
    """A single PUT of another size than declared. The number of useless requests is bounded."""
    sweeper, requests = counted
    begun = begin(services, alice, b"hello", filename="a.txt")
    assert begun.upload.incoming_key is not None
    bucket.put(begun.upload.incoming_key, b"longer", content_type="text/plain")
    for _ in range(6):
        assert sweeper.sweep() == 0
        assert sweeper.sweep() == 0  # the retry is not due
        now_again(db)
    assert requests["stat"] == 4
    ended = upload_of(db, begun.upload.id)
    assert (ended.status, ended.reserved, ended.cleaned) == ("aborted", 0, True)
    assert ended.problem is not None and ended.problem["code"] == "parts_mismatch"
    assert incoming(bucket) == [] and [info.key for info in bucket.list_objects("files/")] == []


def test_T134_a_resumable_upload_whose_bytes_are_gone_ends(
    services: Services,
    alice: Principal,
    db: Database,
    bucket: Any,
    leftovers: Leftovers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resumable_uploads = resumable(services)
    upload_id = resumable_uploads.create(alice, NewResumable("tus", "a.bin", None, 5, Placement())).upload.id
    with monkeypatch.context() as outage:
        outage.setattr(Completion, "complete_upload", Mock(side_effect=Unavailable()))
        with pytest.raises(Unavailable):
            resumable_uploads.append(alice, upload_id, offset=0, body=Bytes(b"hello"), length=5)
    for info in list(bucket.list_objects("")):
        bucket.delete(info.key)
    assert resumable_uploads.sweep() == 0
    ended = upload_of(db, upload_id)
    assert (ended.status, ended.reserved, ended.cleaned) == ("aborted", 0, True)
    assert ended.problem is not None and ended.problem["code"] == "upload_gone"
    assert files_of(services, alice) == [] and leftovers() == NOTHING


def test_T134_an_unexpected_error_is_retried_with_backoff_and_stops_no_other_upload(
    services: Services, alice: Principal, bob: Principal, db: Database
) -> None:
    mine, his = begin(services, alice, b"hello"), begin(services, bob, b"his")
    send_all(mine, b"hello")
    send_all(his, b"his")
    sql(
        db,
        "create function broken() returns trigger language plpgsql as"
        " $$ begin if new.owner_id = 'alice' then raise exception 'a defect'; end if; return new; end $$",
    )
    sql(db, "create trigger broken before insert on files for each row execute function broken()")
    assert direct(services).sweep() == 1
    assert [file.file_size for file in files_of(services, bob)] == [3]
    waits = []
    for _ in range(6):
        with db.connection() as tx:
            waits.append(tx.execute("select retry_at - now() from uploads where owner_id = 'alice'").fetchone()[0])  # type: ignore[index]
        now_again(db)
        direct(services).sweep()
    assert waits == sorted(waits) and waits[-1] > 10 * waits[0]
    sql(db, "drop trigger broken on files")  # repaired: nothing was lost
    now_again(db)
    assert direct(services).sweep() == 1
    assert [file.file_size for file in files_of(services, alice)] == [5]


def test_T134_an_unavailable_bucket_ends_no_upload(
    services: Services, alice: Principal, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from storage_backends.base import StorageUnavailable

    def away(*arguments: Any, **options: Any) -> Any:
        raise StorageUnavailable("gone")

    begun = begin(services, alice, b"hello")
    send_all(begun, b"hello")
    with monkeypatch.context() as patch:
        patch.setattr(direct(services)._store, "copy", away)
        for _ in range(6):
            assert direct(services).sweep() == 0
            now_again(db)
    assert direct(services).sweep() == 1


# -- fairness ----------------------------------------------------------------------------------------------------------


def test_T134_the_sweep_alternates_between_owners(
    services: Services, alice: Principal, bob: Principal, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One owner has fifty older uploads that cannot complete, another has two."""
    stuck = [begin(services, alice, b"hello").upload for _ in range(50)]
    sql(db, "update uploads set status = 'completing', updated_at = now() - interval '1 hour'")
    for _ in range(2):
        send_all(begin(services, bob, b"his"), b"his")
    order: list[str] = []
    real = completion.Completion._attempt

    def noted(self: Any, upload: UploadRecord, *arguments: Any) -> Any:
        order.append(upload.owner_id)
        return real(self, upload, *arguments)

    monkeypatch.setattr(completion.Completion, "_attempt", noted)
    monkeypatch.setattr(completion, "_SWEEP_TIME", 3600.0)
    assert direct(services).sweep() == 2
    assert sorted(order[:2]) == sorted(order[2:4]) == ["alice", "bob"] and len(order) == 52
    assert {upload_of(db, upload.id).status for upload in stuck} == {"uploading"}


def test_T134_a_sweep_is_bounded_and_the_next_continues(
    services: Services, alice: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        send_all(begin(services, alice, b"hello"), b"hello")
    monkeypatch.setattr(completion, "_SWEEP_TIME", 0.0)
    assert [direct(services).sweep() for _ in range(4)] == [1, 1, 1, 0]


# -- leases of completions -------------------------------------------------------------------------------------------------


class Held:
    """A step of a completion that lasts until ``go_on``."""

    def __init__(self) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()

    def after(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            result = call(*arguments, **options)
            if not self.reached.is_set():
                self.reached.set()
                assert self.go_on.wait(120)
            return result

        return step


@contextmanager
def held_completer(
    services: Services, who: Principal, upload_id: UUID, monkeypatch: pytest.MonkeyPatch, step: str
) -> Iterator[tuple[Held, Any]]:
    held, store = Held(), direct(services)._store
    monkeypatch.setattr(store, step, held.after(getattr(store, step)))
    with ThreadPoolExecutor(1) as pool:
        try:
            result = pool.submit(direct(services).complete, who, upload_id)
            assert held.reached.wait(60)
            yield held, result
        finally:
            held.go_on.set()


def test_a_slow_completion_keeps_its_lease(
    services: Services, alice: Principal, db: Database, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heartbeat runs during a call to the bucket, however long it takes."""
    begun = begin(services, alice, b"hello")
    send_all(begun, b"hello")
    with held_completer(services, alice, begun.upload.id, monkeypatch, "copy") as (held, result):
        sql(db, "update uploads set updated_at = now() - interval '1 hour'")
        for _ in range(600):
            if upload_of(db, begun.upload.id).updated_at > begun.upload.created_at:
                break
            threading.Event().wait(0.1)
        assert direct(services).sweep() == 0
        held.go_on.set()
        assert stored(bucket, result.result(60)) == b"hello"


@pytest.mark.parametrize(("size", "step"), [(5, "copy"), (PART_SIZE + 1, "complete_multipart")])
def test_a_suspended_completion_is_taken_over_in_seconds(
    services: Services,
    alice: Principal,
    db: Database,
    bucket: Any,
    leftovers: Leftovers,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    step: str,
) -> None:
    """A suspended process (SIGSTOP) sends no heartbeat and continues later, without effect."""
    assert timedelta() < LEASE < timedelta(seconds=10)
    monkeypatch.setattr(completion, "beating", lambda beat, every: nullcontext())
    data = b"\x93" * size
    begun = begin(services, alice, data)
    send_all(begun, data)
    with held_completer(services, alice, begun.upload.id, monkeypatch, step) as (held, result):
        sql(db, "update uploads set updated_at = now() - %s", LEASE + timedelta(milliseconds=1))
        file = direct(services).complete(alice, begun.upload.id, parts=None)
        held.go_on.set()
        assert result.result(60).id == file.id
    assert [found.id for found in files_of(services, alice)] == [file.id]
    assert stored(bucket, checked(services, file)) == data
    assert leftovers() == NOTHING
