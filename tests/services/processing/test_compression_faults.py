"""Compression with concurrent operations, damage and crashes: nothing is lost or left over."""

from __future__ import annotations

import base64
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from core.errors import ContentMissing, NotFound, Unavailable
from core.principal import Principal
from core.ranges import ByteRange
from db import Database
from db.records import FileRecord
from services import Services
from services.library.delivery import Stream
from services.library.files import FileQuery
from services.objects import drafts
from services.objects.object_reader import FRAME, Damaged, ObjectReader
from services.objects.rewriting import Rewriter
from tests.compressed_files import compressed, raw, read, text, time_passes
from tests.conftest import NOTHING, Leftovers
from tests.crash_points import CrashingGateway
from tests.rows import sql
from tests.services.uploads.test_intake import upload

# -- concurrency -------------------------------------------------------------------------------------------------------


def test_downloads_during_the_replacement_are_complete(
    services: Services, alice: Principal, db: Database, leftovers: Leftovers
) -> None:
    data = text(2 * FRAME)
    files = [upload(services, alice, f"{n}.txt", data + b"%d" % n) for n in range(4)]
    stop = threading.Event()

    def load(file: FileRecord, expected: bytes) -> int:
        count = 0
        while not stop.is_set() or not count:
            found = services.delivery.open(alice, file.id, method="GET", mode="proxy")
            assert isinstance(found, Stream)
            assert found.body is not None
            assert b"".join(found.body) == expected
            count += 1
        return count

    with ThreadPoolExecutor(6) as pool:
        loads = [pool.submit(load, file, data + b"%d" % n) for n, file in enumerate(files)]
        for file in files:
            services.compression.compress(file.id)
        stop.set()
        assert all(result.result(60) >= 1 for result in loads)
    assert {services.files.get(alice, file.id).encoding for file in files} == {"zstd"}
    time_passes(db)
    services.janitor.run()
    assert leftovers() == NOTHING


def test_a_reader_with_an_old_record_finds_the_new_object(services: Services, alice: Principal, db: Database) -> None:
    data = text(9000)
    old = upload(services, alice, "a.txt", data)
    services.compression.compress(old.id)
    time_passes(db)
    services.janitor.run()
    assert read(services, old) == data
    assert read(services, old, ByteRange(10, 20)) == data[10:21]
    assert ObjectReader(services.db, services.intake._store).confirm(old) is None


def test_T106_concurrent_runs_have_one_effect(
    services: Services, alice: Principal, db: Database, leftovers: Leftovers
) -> None:
    file = upload(services, alice, "a.txt", text(9000))
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda _: services.compression.compress(file.id), range(5)))
    assert services.files.get(alice, file.id).encoding == "zstd"
    time_passes(db)
    services.janitor.run()
    assert leftovers() == NOTHING


@pytest.mark.parametrize("purged", [False, True])
def test_T107_replacement_races_with_copy_purge_and_equal_uploads(
    services: Services, alice: Principal, db: Database, leftovers: Leftovers, purged: bool
) -> None:
    """Afterwards every file has its object, and every object has a file."""

    def at_once(data: bytes) -> None:
        file = upload(services, alice, "a.txt", data)
        actions: list[Callable[[], Any]] = [
            lambda: services.compression.compress(file.id),
            lambda: services.files.copy(alice, file.id),
            lambda: upload(services, alice, "b.txt", data),
            lambda: services.files.move(alice, file.id, None, if_match=None),
        ]
        if purged:
            actions.append(lambda: services.files.purge(alice, file.id))
        allowed = (NotFound,) if purged else ()
        with ThreadPoolExecutor(5) as pool:
            ends = [pool.submit(action) for action in actions]
            for end in ends:
                with suppress(*allowed):
                    end.result(60)

    for number in range(6):
        data = text(5000, seed=number)
        at_once(data)
        for left in services.files.list(alice, FileQuery()).items:
            assert read(services, left) == data
            services.files.purge(alice, left.id)
        assert sql(db, "select count(*) from objects") == [(0,)]
    time_passes(db)
    services.janitor.run()
    assert leftovers() == NOTHING


# -- damage ----------------------------------------------------------------------------------------------------------------


def test_damage_is_detected_and_never_ends_a_download_early(
    services: Services, alice: Principal, bucket: Any, db: Database
) -> None:
    """A bit flips on the disk: the bucket still returns the old ETag."""
    file = compressed(services, alice, text(2 * FRAME))
    whole = bytearray(raw(bucket, file.file_path))
    whole[len(whole) // 2] ^= 0xFF
    turned = bucket.put(file.file_path, bytes(whole), content_type="application/zstd")
    sql(db, "update objects set etag = %s where object_key = %s", turned.etag, file.file_path)
    with pytest.raises(Damaged):
        read(services, services.files.get(alice, file.id))
    assert services.files.details(alice, file.id).integrity["checksum"] == "mismatch"
    with pytest.raises(ContentMissing):
        services.delivery.url(alice, file.id)
    assert services.files.details(alice, file.id, verify=True).integrity["checksum"] == "mismatch"
    bucket.put(file.file_path, bytes(whole[:-1]), content_type="application/zstd")
    assert services.files.details(alice, file.id, verify=True).integrity["exists"] is False


def test_a_damaged_original_is_reported_and_not_compressed(
    services: Services, alice: Principal, bucket: Any, leftovers: Leftovers
) -> None:
    file = upload(services, alice, "a.txt", text(9000))
    bucket.put(file.file_path, text(9000, seed=9), content_type="text/plain")
    services.compression.compress(file.id)
    assert services.files.get(alice, file.id).encoding is None
    assert services.files.details(alice, file.id).integrity["checksum"] == "mismatch"
    services.janitor.run()
    assert leftovers() == NOTHING


def test_a_replacement_that_reads_back_differently_is_not_used(
    services: Services, alice: Principal, monkeypatch: pytest.MonkeyPatch, leftovers: Leftovers
) -> None:
    file = upload(services, alice, "a.txt", text(9000))
    store = type(services.intake._store)
    real = store.put

    def damaged(self: Any, key: str, body: Any, **options: Any) -> Any:
        return real(self, key, bytes(body[:-1]) + bytes([body[-1] ^ 1]), **options | {"checksum": None})

    with monkeypatch.context() as patch:
        patch.setattr(store, "put", damaged)
        with pytest.raises(Unavailable):
            services.compression.compress(file.id)
    assert services.files.get(alice, file.id).encoding is None
    services.janitor.run()
    assert leftovers() == NOTHING


# -- T101: crashes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [text(9000), base64.b64encode(random.Random(1).randbytes(11 * FRAME // 2))])
def test_T101_killed_at_any_call_the_bytes_are_kept_and_nothing_is_left(
    services: Services,
    crashing: CrashingGateway,
    alice: Principal,
    db: Database,
    leftovers: Leftovers,
    monkeypatch: pytest.MonkeyPatch,
    data: bytes,
) -> None:
    """The replacement is written by a single PUT, or in two parts."""
    monkeypatch.setattr(drafts, "PART_SIZE", 5 * 1024 * 1024)
    done = set()
    file = upload(services, alice, "a.txt", data)
    for crash in crashing.crash_points():
        with crash:
            crashing.services.compression.compress(file.id)
        time_passes(db)
        services.janitor.run()
        assert leftovers() == NOTHING, crash
        now = services.files.get(alice, file.id)
        assert read(services, now) == data, crash
        done.add(now.encoding)
        if now.encoding is not None:
            services.files.purge(alice, file.id)
            file = upload(services, alice, "a.txt", data)
    assert crash.number > 7
    assert done == {None, "zstd"}


def test_a_replacement_whose_lease_expired_is_not_used(
    services: Services, alice: Principal, db: Database, leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If writing took longer than the lease, the janitor has begun to delete the replacement."""
    file = upload(services, alice, "a.txt", text(9000))
    real = Rewriter._reads_back

    def slow(self: Any, *arguments: Any) -> bool:
        good = real(self, *arguments)
        time_passes(db)
        services.janitor.run()
        return good

    monkeypatch.setattr(Rewriter, "_reads_back", slow)
    services.compression.compress(file.id)
    assert services.files.get(alice, file.id).encoding is None
    assert download_plain(services, file) == text(9000)
    assert leftovers() == NOTHING


def download_plain(services: Services, file: FileRecord) -> bytes:
    found = services.delivery.open(Principal(file.owner_id), file.id, method="GET", mode="proxy")
    assert isinstance(found, Stream)
    assert found.body is not None
    return b"".join(found.body)
