"""Form and raw uploads: refusals, leftovers and costs."""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import weakref
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from threading import Event
from time import sleep
from typing import Any

import psycopg
import pytest

from app import wire
from core.errors import (
    ChecksumMismatch,
    DuplicateFile,
    FileTooLarge,
    GatewayError,
    MalformedUpload,
    NotFound,
    QuotaExceeded,
    StorageFull,
    TypeMismatch,
    TypeNotAllowed,
    Unavailable,
)
from core.parts import PART_SIZE
from core.placement import Placement
from core.principal import Principal
from db import Database
from db.records import FileRecord
from services import Services
from services.library.files import FileQuery
from services.objects import part_writer
from services.objects.part_writer import PartWriter
from settings import Settings
from storage_backends.base import MultipartRef, OutOfSpace, Part, StorageUnavailable
from tests.conftest import NOTHING, Leftovers
from tests.rows import sql
from tests.samples import Repeated, Source, picture

MIB = 1024 * 1024


def upload(
    services: Services,
    principal: Principal,
    name: str,
    source: Any,
    *,
    size: int | None = None,
    sums: dict[str, Any] | None = None,
    **placement: Any,
) -> FileRecord:
    """Upload one file, and raise its error if there is one."""
    stream = Source(source) if isinstance(source, bytes) else source
    with services.intake.batch(principal, protocol="raw") as batch:
        batch.receive(name=name, claimed_type=None, stream=stream, size=size, **(sums or {}))
        outcome = batch.commit(Placement(**placement))
    if outcome.rejected:
        raise outcome.rejected[0].error
    return outcome.files[0]


def stored(bucket: Any, file: FileRecord) -> bytes:
    with bucket.open(file.file_path) as reader:
        return bytes(reader.read(-1))


@pytest.mark.parametrize(
    "size", [0, 1, 64 * 1024, PART_SIZE - 1, PART_SIZE, PART_SIZE + 1, 2 * PART_SIZE, 20 * MIB + 7]
)
@pytest.mark.parametrize("declared", [True, False])
def test_stored_bytes_are_the_bytes_sent(
    services: Services, alice: Principal, bucket: Any, leftovers: Leftovers, size: int, declared: bool
) -> None:
    data = os.urandom(size)
    file = upload(services, alice, "Plan (final).bin", data, size=size if declared else None)
    assert stored(bucket, file) == data
    assert (file.file_size, file.file_hash, file.status) == (size, hashlib.sha256(data).hexdigest(), "ready")
    assert leftovers() == NOTHING


@pytest.mark.settings(max_file_size=100_000)
def test_T1_a_declared_size_over_the_limit_is_refused_before_reading(
    services: Services, alice: Principal, leftovers: Leftovers
) -> None:
    source = Source(b"x" * 100_001)
    with pytest.raises(FileTooLarge):
        upload(services, alice, "a.bin", source, size=100_001)
    assert source.taken == 0
    assert leftovers() == NOTHING


@pytest.mark.settings(max_file_size=20 * MIB)
def test_T2_an_undeclared_size_over_the_limit_ends_the_multipart(
    services: Services, alice: Principal, leftovers: Leftovers
) -> None:
    source = Source(os.urandom(MIB) * 64)
    with pytest.raises(FileTooLarge):
        upload(services, alice, "a.bin", source)
    assert source.taken <= 20 * MIB + 2 * PART_SIZE
    assert leftovers() == NOTHING


@pytest.mark.parametrize("at", [0, 1000, PART_SIZE + 5, 3 * PART_SIZE])
def test_T3_a_connection_lost_midway_leaves_nothing(
    services: Services, alice: Principal, leftovers: Leftovers, at: int
) -> None:
    broken = Source(os.urandom(4 * PART_SIZE), fails_at=at, error=ConnectionResetError(errno.ECONNRESET, "reset"))
    with pytest.raises(ConnectionResetError):
        upload(services, alice, "a.bin", broken, size=4 * PART_SIZE)
    assert leftovers() == NOTHING


@pytest.mark.parametrize("size", [10, 3 * PART_SIZE])
def test_T3_a_body_shorter_than_declared_never_becomes_a_file(
    services: Services, alice: Principal, leftovers: Leftovers, size: int
) -> None:
    with pytest.raises(MalformedUpload):
        upload(services, alice, "a.bin", os.urandom(size - 1), size=size)
    assert leftovers() == NOTHING


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("photo.png", b"<!DOCTYPE html><script>alert(1)</script>" + b" " * 9_000_000, TypeMismatch),
        ("run.exe", b"MZ" + bytes(200), TypeNotAllowed),
    ],
)
@pytest.mark.settings(denied_types=("exe",))
def test_T9_T10_a_refused_type_reads_one_part_at_most_and_leaves_nothing(
    services: Services, alice: Principal, leftovers: Leftovers, name: str, data: bytes, error: type[GatewayError]
) -> None:
    source = Source(data)
    with pytest.raises(error):
        upload(services, alice, name, source, size=len(data))
    assert source.taken <= MIB  # decided by the first bytes, before the rest was read
    assert leftovers() == NOTHING


@pytest.mark.parametrize("size", [100, 2 * PART_SIZE])
def test_T12_a_wrong_checksum_stores_nothing(
    services: Services, alice: Principal, leftovers: Leftovers, size: int
) -> None:
    data = os.urandom(size)
    right = {"sha256": hashlib.sha256(data).hexdigest(), "content_md5": hashlib.md5(data).digest()}
    assert upload(services, alice, "good.bin", data, size=size, sums=right).file_hash == right["sha256"]
    for wrong in ({"sha256": "0" * 64}, {"content_md5": bytes(16)}):
        with pytest.raises(ChecksumMismatch):
            upload(services, alice, "bad.bin", data, size=size, sums=wrong)
    assert leftovers() == NOTHING


@pytest.mark.parametrize("step", ["put", "put_part", "complete_multipart"])
def test_T7_T105_a_full_bucket_is_an_error_and_leaves_nothing(
    services: Services, alice: Principal, leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*arguments: Any, **keywords: Any) -> Any:
        raise OutOfSpace("no space left")

    size = 100 if step == "put" else 2 * PART_SIZE
    monkeypatch.setattr(services.intake._store, step, full)
    with pytest.raises(StorageFull):
        upload(services, alice, "a.bin", os.urandom(size), size=size)
    assert leftovers() == NOTHING


@pytest.mark.memory_store
def test_a_part_is_sent_while_the_next_one_is_read(
    services: Services, alice: Principal, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_part, read_on, data = bucket.put_part, Event(), os.urandom(2 * PART_SIZE)

    class Watched(Source):
        def read(self, size: int = -1, /) -> bytes:
            if self.taken > PART_SIZE:
                read_on.set()
            return super().read(size)

    def put_part(ref: MultipartRef, number: int, *arguments: Any, **keywords: Any) -> Part:
        assert number > 1 or read_on.wait(10)
        return store_part(ref, number, *arguments, **keywords)

    monkeypatch.setattr(bucket, "put_part", put_part)
    assert stored(bucket, upload(services, alice, "a.bin", Watched(data))) == data


@pytest.mark.memory_store
def test_an_upload_is_aborted_only_after_the_part_that_is_being_sent(
    services: Services, alice: Principal, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_part, abort, failed, calls = bucket.put_part, bucket.abort_multipart, Event(), list[str]()

    class Broken(Source):
        def read(self, size: int = -1, /) -> bytes:
            try:
                return super().read(size)
            except ConnectionResetError:
                failed.set()
                raise

    def put_part(*arguments: Any, **keywords: Any) -> Part:
        failed.wait(10)
        sleep(0.2)  # time for an abort that does not wait
        calls.append("stored")
        return store_part(*arguments, **keywords)

    def abort_multipart(ref: MultipartRef) -> None:
        calls.append("aborted")
        abort(ref)

    monkeypatch.setattr(bucket, "put_part", put_part)
    monkeypatch.setattr(bucket, "abort_multipart", abort_multipart)
    reset = ConnectionResetError(errno.ECONNRESET, "reset")
    with pytest.raises(ConnectionResetError):
        upload(services, alice, "a.bin", Broken(bytes(2 * PART_SIZE), fails_at=PART_SIZE, error=reset))
    assert calls == ["stored", "aborted"]


def sent_behind(bucket: Any) -> PartWriter:
    """A writer whose first part was sent behind, and is stored or failed."""
    writer = PartWriter(bucket, PART_SIZE, capacity=2 * PART_SIZE)
    writer.begin("files/a.bin", "text/plain")
    writer.add(bytes(PART_SIZE))
    writer.send_behind()
    assert writer._sending is not None
    wait([writer._sending.future])
    return writer


@pytest.mark.memory_store
def test_T103_a_failed_part_ends_the_upload_before_the_next_one_is_full_and_keeps_no_memory(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put_part(*arguments: Any, **keywords: Any) -> Part:
        raise StorageUnavailable("down")

    monkeypatch.setattr(bucket, "put_part", put_part)
    gc.disable()
    try:
        writer = sent_behind(bucket)
        assert writer._sending is not None
        buffers = [weakref.ref(writer._buffer), weakref.ref(writer._sending.buffer)]
        with pytest.raises(Unavailable):
            writer.add(b"x")
        del writer
        assert [buffer() for buffer in buffers] == [None, None]
    finally:
        gc.enable()


@pytest.mark.memory_store
def test_a_slow_client_gives_the_second_buffer_back(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = sent_behind(bucket)
    writer.add(b"x")
    assert writer._sending is not None
    monkeypatch.setattr(part_writer, "_KEPT", 0.0)
    writer.add(b"x")
    assert writer._sending is None and len(writer.parts) == 1


@pytest.mark.memory_store
def test_an_upload_without_a_second_buffer_sends_in_turn(services: Services, alice: Principal, bucket: Any) -> None:
    data, taken = os.urandom(2 * PART_SIZE + 1), 0
    try:
        while part_writer._second_buffers.acquire(blocking=False):
            taken += 1
        assert taken == part_writer._SECOND_BUFFERS  # earlier uploads, failed ones too, have returned theirs
        assert stored(bucket, upload(services, alice, "a.bin", data)) == data
    finally:
        part_writer._second_buffers.release(taken)


def test_duplicates_link_copy_or_are_rejected(services: Services, alice: Principal, leftovers: Leftovers) -> None:
    data = os.urandom(5000)
    first = upload(services, alice, "a.bin", data)
    linked = upload(services, alice, "b.bin", data)
    copied = upload(services, alice, "c.bin", data, on_duplicate="copy")
    assert linked.file_path == first.file_path != copied.file_path
    assert linked.id != first.id
    with pytest.raises(DuplicateFile):
        upload(services, alice, "d.bin", data, on_duplicate="reject")
    assert leftovers() == NOTHING


def test_T15_equal_bytes_of_another_owner_are_stored_again(
    services: Services, alice: Principal, bob: Principal, bucket: Any, db: Database, leftovers: Leftovers
) -> None:
    data = os.urandom(9000)
    hers = upload(services, alice, "a.bin", data)
    with counted(services) as alone:
        upload(services, alice, "other.bin", os.urandom(9000))
    with counted(services) as shared:
        his = upload(services, bob, "a.bin", data)
    assert his.file_path != hers.file_path
    assert shared.statements == alone.statements
    with db.connection() as tx:
        used = dict(tx.execute("select owner_id, used_bytes from owner_usage").fetchall())
    assert used == {"alice": 18_000, "bob": 9000}
    services.files.purge(alice, hers.id)
    assert stored(bucket, his) == data
    assert leftovers() == NOTHING


def test_T24_thirty_concurrent_uploads_of_one_name_are_numbered(services: Services, alice: Principal) -> None:
    names = ["Café.txt", "CAFÉ.txt"]  # NFC and NFD, lower and upper case
    with ThreadPoolExecutor(15) as pool:
        made = list(pool.map(lambda n: upload(services, alice, names[n % 2], os.urandom(50)).original_name, range(30)))
    assert len({name.casefold() for name in made}) == 30
    numbers = sorted(int(name.split("(")[1].split(")")[0]) for name in made if "(" in name)
    assert numbers == list(range(1, 30))


@pytest.mark.settings(quota_bytes=1_000_000)
def test_quota_is_reserved_before_the_bytes_and_returned(
    services: Services, alice: Principal, leftovers: Leftovers
) -> None:
    source = Source(os.urandom(1_000_001))
    with pytest.raises(QuotaExceeded):
        upload(services, alice, "a.bin", source, size=1_000_001)
    assert source.taken == 0
    with pytest.raises(QuotaExceeded):
        upload(services, alice, "a.bin", os.urandom(1_000_001))  # undeclared: quota is reserved as bytes arrive
    upload(services, alice, "a.bin", os.urandom(600_000))
    with pytest.raises(QuotaExceeded):
        upload(services, alice, "b.bin", os.urandom(400_001))
    upload(services, alice, "b.bin", os.urandom(400_000))
    assert leftovers() == NOTHING


@pytest.mark.settings(quota_bytes=40 * MIB)
def test_quota_without_a_declared_size_is_exact_to_the_last_part(
    services: Services, alice: Principal, leftovers: Leftovers
) -> None:
    with pytest.raises(QuotaExceeded):
        upload(services, alice, "a.bin", os.urandom(MIB) * 41)
    assert upload(services, alice, "a.bin", os.urandom(MIB) * 40).file_size == 40 * MIB
    assert leftovers() == NOTHING


@pytest.mark.settings(quota_bytes=10_000)
def test_T71_parallel_uploads_cannot_exceed_the_quota(services: Services, alice: Principal, db: Database) -> None:
    def attempt(_: int) -> bool:
        try:
            upload(services, alice, "a.bin", os.urandom(1_000), size=1_000)
        except QuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        accepted = sum(pool.map(attempt, range(40)))
    assert accepted == 10
    assert sql(db, "select used_bytes, reserved_bytes from owner_usage") == [(10_000, 0)]


def test_a_batch_appears_completely_or_not_at_all(
    services: Services, alice: Principal, leftovers: Leftovers, db: Database
) -> None:
    with suppress(ConnectionResetError), services.intake.batch(alice, protocol="form") as batch:
        batch.receive(name="a.txt", claimed_type=None, stream=Source(b"a"))
        batch.receive(name="b.bin", claimed_type=None, stream=Source(os.urandom(PART_SIZE + 1)))
        raise ConnectionResetError("the body broke off")
    assert sql(db, "select count(*) from files") == [(0,)]
    assert leftovers() == NOTHING


def test_a_foreign_folder_is_not_found_and_leaves_nothing(
    services: Services, alice: Principal, bob: Principal, leftovers: Leftovers
) -> None:
    folder = services.folders.create(bob, "his", "", None)
    with pytest.raises(NotFound):
        upload(services, alice, "a.txt", b"x", folder_id=folder.id)
    assert leftovers() == NOTHING


@pytest.mark.parametrize("name", ["notes.txt", "dot.png"])
def test_an_upload_takes_four_statements(services: Services, alice: Principal, settings: Settings, name: str) -> None:
    data = b"plain text" if name.endswith("txt") else picture("PNG")
    with counted(services) as log:
        upload(services, alice, name, data, size=len(data))
    assert len(log.statements) <= 4, log.statements


@pytest.mark.parametrize("size", [5, None])
def test_T104_a_lost_admission_answer_reserves_nothing(
    services: Services, alice: Principal, leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    """No client knows the upload, and its reservation would make the repeated request exceed the quota."""
    admit = services.intake.policy.admit

    def unanswered(*arguments: Any, **keywords: Any) -> Any:
        admit(*arguments, **keywords)
        raise Unavailable("The answer was lost.")

    monkeypatch.setattr(services.intake.policy, "admit", unanswered)
    with pytest.raises(Unavailable), services.intake.batch(alice, protocol="raw") as batch:
        batch.receive(name="a.txt", claimed_type=None, stream=Source(b"hello"), size=size)
    assert leftovers()["reservations"] == []
    services.janitor.run()
    with services.db.connection() as tx:
        assert tx.execute("select status from uploads").fetchall() in ([], [("aborted",)])


def test_concurrent_equal_forms_and_purges_do_not_deadlock(services: Services, alice: Principal) -> None:
    contents = [b"one", b"two"]

    def form(number: int) -> None:
        with services.intake.batch(alice, protocol="form") as batch:
            for data in contents if number % 2 else contents[::-1]:
                batch.receive(name="a.txt", claimed_type=None, stream=Source(data), size=len(data))
            made = batch.commit(Placement()).files
        for file in made:
            services.files.purge(alice, file.id)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(form, range(60)))  # a deadlock would raise Unavailable
    assert services.files.list(alice, FileQuery()).items == []


def test_memory_does_not_grow_with_the_file(services: Services, alice: Principal) -> None:
    import tracemalloc

    upload(services, alice, "warm.bin", os.urandom(2 * PART_SIZE))
    tracemalloc.start()
    try:
        upload(services, alice, "a.bin", Repeated(os.urandom(MIB), 80), size=80 * MIB)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * PART_SIZE


class counted:
    """Counts the SQL statements of a service, without BEGIN, COMMIT and the checks of the pool."""

    def __init__(self, services: Services):
        self.db = services.db
        self.statements: list[str] = []

    def __enter__(self) -> counted:
        log = self.statements

        class Cursor(psycopg.Cursor[Any]):
            def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
                if query:
                    log.append(str(query))
                return super().execute(query, *args, **kwargs)

        self.db.close()
        self.db._cursor_factory = Cursor
        return self

    def __exit__(self, *error: object) -> None:
        self.db.close()
        self.db._cursor_factory = None


def test_two_gateways_share_one_quota(settings: Settings, services: Services, alice: Principal) -> None:
    """The limit is in the database: each process counts what others reserve."""
    narrow = settings.model_copy(update={"quota_bytes": 1_500})
    one, two = wire(narrow), wire(narrow)
    try:
        upload(one, alice, "a.bin", os.urandom(1_000))
        with pytest.raises(QuotaExceeded):
            upload(two, alice, "b.bin", os.urandom(1_000))
    finally:
        one.db.close()
        two.db.close()
