"""All objects go to another bucket while the gateway works, and back; no step that is broken off loses a byte."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from app import create_app, wire
from core.errors import GatewayRunning, InvalidInput, NotCopied, Unavailable, UploadsUnfinished
from core.ids import MARK_KEY
from core.parts import PART_SIZE
from core.principal import Principal
from db import Database
from db.records import FileRecord
from services import Services
from services.library.files import FileQuery
from services.objects import bucket_mark
from services.objects.object_reader import ObjectReader
from services.recovery import copy_storage, parallel
from services.recovery.copy_storage import CopyStorage
from services.upkeep.doctor import mark
from services.upkeep.health import Health
from settings import Settings
from storage_backends.base import ObjectNotFound, StorageUnavailable
from tests.buckets import another_bucket
from tests.client import GatewayClient
from tests.compressed_files import compressed, text
from tests.conftest import NOTHING, Leftovers
from tests.crash_points import CrashingGateway
from tests.direct_steps import begin, send_all
from tests.memory_store import MemoryStore
from tests.parsers.test_place import with_exif
from tests.presigned import send
from tests.rows import sql
from tests.services.uploads.test_intake import stored, upload

ALICE = Principal("alice")


@pytest.fixture
def target() -> MemoryStore:
    """It gives random ETags, so nobody can take those of the other bucket for its own."""
    return MemoryStore()


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_WAITS", (0.01, 0.01))


def copying(services: Services, target: Any, source: Any = None) -> CopyStorage:
    store = source or services.intake._store
    return CopyStorage(services.db, store, target, services.intake, source_name="here", target_name="there", threads=3)


@pytest.fixture
def moved(settings: Settings, target: MemoryStore) -> Iterator[Services]:
    """The gateway as it is started after the switch."""
    wired = wire(settings, store=target)
    yield wired
    wired.db.close()


def fill(services: Services) -> list[FileRecord]:
    """Files stored in every way."""
    photo = upload(services, ALICE, "photo.jpg", with_exif("JPEG"), visibility="public")
    services.pipeline.process(photo.id)
    services.public_copies.publish(photo.id)
    files = [
        upload(services, ALICE, "empty", b""),
        upload(services, ALICE, "small.txt", b"small"),
        upload(services, ALICE, "large.bin", text(2 * PART_SIZE + 5), size=2 * PART_SIZE + 5),
        compressed(services, ALICE, text(3_000_000), "compressed.txt"),
        photo,
    ]
    return [services.files.get(ALICE, file.id) for file in files]


def read(services: Services, file: FileRecord) -> str:
    """The SHA-256 of the file's bytes, as the gateway delivers them."""
    digest = hashlib.sha256()
    now = services.files.get(ALICE, file.id)
    with ObjectReader(services.db, services.intake._store).open(now) as reader:
        while piece := reader.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def named_by_rows(db: Database) -> set[str]:
    rows = sql(
        db,
        "select object_key from objects where status = 'stored' union select preview_path from file_previews"
        " union select public_key from objects where public_key is not null",
    )
    return {row[0] for row in rows} | {MARK_KEY}


def keys(store: Any) -> set[str]:
    return {info.key for info in store.list_objects("")}


def purge(services: Services, file: FileRecord) -> None:
    services.files.purge(ALICE, file.id)


def test_files_are_equal_after_the_switch_and_back(
    services: Services, moved: Services, bucket: Any, target: MemoryStore, db: Database
) -> None:
    files = fill(services)
    report = copying(services, target).run()
    assert report.complete and report.copied == len(named_by_rows(db)) - 1
    assert keys(target) == named_by_rows(db)
    assert copying(services, target).run().copied == 0
    late = upload(services, ALICE, "late.txt", b"late")
    report = copying(services, target).switch(stopped=True)
    assert report.switched and report.copied == 1
    assert [read(moved, file) for file in [*files, late]] == [file.file_hash for file in [*files, late]]
    public = moved.public_copies.public(moved.files.get(ALICE, files[-1].id))
    assert hashlib.sha256(stored(target, public)).hexdigest() == public.file_hash and public.etag
    assert target.stat(public.file_path).etag == public.etag

    newer = compressed(moved, ALICE, text(2_000_000, seed=5), "newer.txt")
    purge(moved, files[1])
    back = copying(moved, bucket, source=target).switch(stopped=True)
    assert back.copied == 1 and back.removed >= 1  # the purged one, and what was replaced before it
    left = [file for file in [*files, late, newer] if file.id != files[1].id]
    assert [read(services, file) for file in left] == [file.file_hash for file in left]
    assert named_by_rows(db) <= keys(bucket)
    assert files[1].file_path not in keys(bucket)


def test_both_ways_to_download_follow_the_switch_to_another_bucket(
    services: Services, bucket: Any, settings: Settings, client: GatewayClient, leftovers: Leftovers
) -> None:
    files = [client.add("a.txt", b"some text"), client.add("b.bin", text(PART_SIZE + 9))]
    other = another_bucket(bucket, "copies")
    copying(services, other).switch(stopped=True)
    there = wire(settings.model_copy(update={"s3_bucket": "copies"}))
    now = GatewayClient(create_app(settings, there), client.key)
    for file in files:
        redirect = now.get(f"/api/files/{file['id']}/download")
        assert redirect.status == 302 and "/copies/" in redirect.headers["Location"]
        for body in (
            send(redirect.headers["Location"], b"", method="GET").content,
            now.get(f"/api/files/{file['id']}/download?mode=proxy").body,
        ):
            assert hashlib.sha256(body).hexdigest() == file["file_hash"]
    there.db.close()
    for key in keys(other):
        other.delete(key)


def test_what_is_purged_or_rewritten_meanwhile_is_removed_there(
    services: Services, target: MemoryStore, db: Database
) -> None:
    kept, purged = (upload(services, ALICE, f"{n}.txt", text(2_000_000, seed=n)) for n in range(2))
    copying(services, target).run()
    purge(services, purged)
    services.compression.compress(kept.id)
    sql(db, "update deferred_deletions set delete_after = now() - interval '1 second'")
    services.janitor.run()
    report = copying(services, target).run()
    assert (report.copied, report.removed) == (1, 2)
    assert keys(target) == named_by_rows(db)


def test_a_purge_while_an_object_is_copied_leaves_no_copy(
    services: Services, target: MemoryStore, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = upload(services, ALICE, "a.txt", b"a")
    real = target.put

    def put(key: str, *arguments: Any, **keywords: Any) -> Any:
        if key == file.file_path:
            purge(services, file)
            copying(services, target)._remove_unused(bucket_mark.read_or_write(target), copy_storage.CopyReport())
        return real(key, *arguments, **keywords)

    monkeypatch.setattr(target, "put", put)
    copying(services, target).run()
    assert keys(target) == named_by_rows(db) == {MARK_KEY}


def test_T101_a_pass_killed_at_any_call_is_completed_by_the_next(
    crashing: CrashingGateway, services: Services, target: MemoryStore, db: Database
) -> None:
    files = [upload(services, ALICE, "a.txt", b"a"), compressed(services, ALICE, text(300_000))]
    for crash in crashing.crash_points():
        with crash:
            copying(crashing.services, target).run()
        assert keys(target) <= named_by_rows(db)
        report = copying(services, target).run()
        assert report.complete
        assert keys(target) == named_by_rows(db)
        assert {hashlib.sha256(target._objects[file.file_path][1]).hexdigest() for file in files[:1]} == {
            file.file_hash for file in files[:1]
        }
        for key in [key for key in keys(target) if key != MARK_KEY]:  # from the start again
            target.delete(key)
        sql(db, "delete from copies")


def test_T101_a_switch_killed_at_any_call_leaves_exactly_one_bucket_in_use(
    crashing: CrashingGateway, services: Services, moved: Services, target: MemoryStore
) -> None:
    file = upload(services, ALICE, "a.txt", b"a")
    copying(services, target).run()
    states = []
    for crash in crashing.crash_points():
        with crash:
            copying(crashing.services, target).switch(stopped=True)
        old, new = services.health.ready()["bucket"], moved.health.ready()["bucket"]
        assert old != new
        assert read(services if old else moved, file) == file.file_hash
        states.append(new)
        if new:
            assert not crash.crashed or crash.calls
            copying(moved, services.intake._store, source=target).switch(stopped=True)
    assert states[0] is False and states[-1] is True


def test_T104_a_switch_whose_commit_has_no_answer_is_done_or_not(
    lossy: Any, services: Services, moved: Services, target: MemoryStore
) -> None:
    file = upload(services, ALICE, "a.txt", b"a")
    copying(services, target).run()
    for lost in lossy.lost_commits("at once", "never"):
        with lost:
            copying(lossy.services, target).switch(stopped=True)
        old = services.health.ready()["bucket"]
        assert old != moved.health.ready()["bucket"]
        assert read(services if old else moved, file) == file.file_hash
        if not old:
            copying(moved, services.intake._store, source=target).switch(stopped=True)


def test_a_gateway_with_the_wrong_bucket_notices_and_blames_no_file(
    services: Services, moved: Services, target: MemoryStore, db: Database
) -> None:
    file = upload(services, ALICE, "a.txt", b"a")
    assert services.health.ready()["bucket"] is True
    copying(services, target).switch(stopped=True)
    for wrong in (services, wire_with(services, MemoryStore())):
        assert wrong.health.ready()["bucket"] is False
        with pytest.raises(Unavailable):
            read(wrong, file)
        with pytest.raises(ValueError):
            wrong.health.refuse_wrong_bucket()
        assert mark.examine(db, wrong.intake._store)[0].ok is False
        with pytest.raises(InvalidInput):
            copying(wrong, MemoryStore()).run()
    moved.health.refuse_wrong_bucket()
    assert mark.examine(db, target)[0].ok
    assert sql(db, "select in_bucket, checksum_state from objects") == [(True, "verified")]
    assert read(moved, file) == file.file_hash


def wire_with(services: Services, store: Any) -> Services:
    intake = type(services.intake)(services.db, store, ObjectReader(services.db, store), services.intake.policy)
    return replace(services, intake=intake, health=Health(services.db, store, services.capacity, None))


@pytest.mark.parametrize("damage", ["deleted", "changed"])
def test_damage_is_told_and_never_copied(
    services: Services, moved: Services, bucket: Any, target: MemoryStore, db: Database, damage: str
) -> None:
    bad, good = upload(services, ALICE, "bad.txt", b"bad"), upload(services, ALICE, "good.txt", b"good")
    bucket.delete(bad.file_path)
    if damage == "changed":
        bucket.put(bad.file_path, b"BAD", content_type="text/plain")
    report = copying(services, target).run()
    assert (report.copied, report.damaged) == (1, 1) and report.problems[0]["key"] == bad.file_path
    assert services.files.get(ALICE, bad.id).intact is False
    with pytest.raises(NotCopied):
        copying(services, target).switch(stopped=True)
    assert copying(services, target).switch(stopped=True, leave_damaged=True).switched
    assert read(moved, good) == good.file_hash
    assert moved.files.get(ALICE, bad.id).intact is False


def test_bytes_with_another_sha256_are_not_copied_though_the_etag_fits(
    services: Services, bucket: Any, target: MemoryStore, db: Database
) -> None:
    file = upload(services, ALICE, "a.txt", b"right")
    etag = bucket.put(file.file_path, b"wrong", content_type="text/plain").etag
    sql(db, "update objects set etag = %s", etag)
    assert copying(services, target).run().damaged == 1
    assert keys(target) == {MARK_KEY}


def test_a_damaged_compressed_object_is_not_copied(
    services: Services, bucket: Any, target: MemoryStore, db: Database
) -> None:
    file = compressed(services, ALICE, text(2_500_000))
    data = bytearray(stored(bucket, file))
    data[len(data) // 2] ^= 1
    etag = bucket.put(file.file_path, bytes(data), content_type="application/zstd").etag
    sql(db, "update objects set etag = %s", etag)
    assert copying(services, target).run().damaged == 1
    assert keys(target) == {MARK_KEY}


def test_the_switch_notices_copies_that_the_other_bucket_lost(
    services: Services, moved: Services, target: MemoryStore
) -> None:
    files = [upload(services, ALICE, f"{n}.txt", b"%d" % n) for n in range(4)]
    copying(services, target).run()
    target.delete(files[0].file_path)
    target.put(files[1].file_path, b"other", content_type="text/plain")
    copying(services, target).switch(stopped=True)
    assert [read(moved, file) for file in files] == [file.file_hash for file in files]


def test_an_outage_is_waited_for(services: Services, target: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [upload(services, ALICE, f"{n}.txt", b"%d" % n) for n in range(3)]
    real, failures = target.put, iter([StorageUnavailable("down"), StorageUnavailable("down")])

    def put(key: str, *arguments: Any, **keywords: Any) -> Any:
        if key != MARK_KEY and (failure := next(failures, None)):
            raise failure
        return real(key, *arguments, **keywords)

    monkeypatch.setattr(target, "put", put)
    assert copying(services, target).run().copied == len(files)
    failures = iter([StorageUnavailable("down")] * 100)
    late = upload(services, ALICE, "late.txt", b"late")
    with pytest.raises((Unavailable, StorageUnavailable)):
        copying(services, target).run()
    assert late.file_path not in keys(target)


def test_unfinished_uploads_hold_the_switch_up_or_are_ended(
    services: Services, target: MemoryStore, leftovers: Leftovers, bucket: Any
) -> None:
    data = text(PART_SIZE + 1)
    begun = begin(services, ALICE, data)
    send_all(begun, data)
    with pytest.raises(UploadsUnfinished):
        copying(services, target).switch(stopped=True)
    assert copying(services, target).switch(stopped=True, end_uploads=True).switched
    bucket.delete(MARK_KEY)
    assert leftovers() == NOTHING


def test_the_switch_needs_a_stopped_gateway(
    services: Services, database_url: str, target: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    upload(services, ALICE, "a.txt", b"a")
    with psycopg.connect(database_url), pytest.raises(GatewayRunning):
        copying(services, target).switch()
    monkeypatch.undo()
    assert copying(services, target).switch().switched


def test_what_others_have_in_a_bucket_is_left_alone(services: Services, bucket: Any, target: MemoryStore) -> None:
    upload(services, ALICE, "a.txt", b"a")
    with pytest.raises(InvalidInput):
        copying(services, bucket).run()  # the same bucket
    target.put("files/2026/11/another", b"x", content_type="text/plain")
    with pytest.raises(InvalidInput):
        copying(services, target).run()
    bucket.delete(MARK_KEY)
    assert services.files.list(ALICE, FileQuery()).items
    with pytest.raises(ObjectNotFound):
        bucket.stat(MARK_KEY)
