"""The scrub finds each kind of damage, repairs it, and never raises a false alarm."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from json import loads
from typing import Any
from urllib.parse import urlsplit

import pytest

from commands import run
from core.errors import Unavailable
from core.principal import Principal
from db import Database
from db.records import FileRecord, ScrubFindingRecord
from services import Services
from services.library.files import FileQuery
from services.objects.object_reader import Reader
from services.upkeep.scrub import Scrub, ScrubRun
from services.upkeep.scrub_reading import Examiner
from services.upkeep.scrub_repair import Repairs
from settings import Settings, storage_settings
from storage_backends import open_store, signed_http
from storage_backends.base import ObjectNotFound, StorageUnavailable
from tests.client import GatewayClient
from tests.compressed_files import compressed, raw, read, text, time_passes
from tests.conftest import NOTHING, Leftovers
from tests.fault_proxy import Fault, FaultProxy
from tests.rows import sql
from tests.servers import S3Server
from tests.services.uploads.test_intake import upload

Hook = Callable[[str], None]


class Backup(dict[str, bytes]):
    """A backup in memory."""

    def has(self, sha256: str) -> bool:
        return sha256 in self

    @contextmanager
    def open(self, sha256: str) -> Iterator[Reader]:
        yield BytesIO(self[sha256])


class Watched:
    """The bucket; ``before`` is called before each call that reads."""

    def __init__(self, store: Any, before: Hook):
        self._store, self.before = store, before

    def open(self, key: str, **options: Any) -> Any:
        self.before(key)
        return self._store.open(key, **options)

    def stat(self, key: str) -> Any:
        self.before(key)
        return self._store.stat(key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def scrub_of(services: Services, reading: Any, *, others: Any = None, backup: Backup | None = None) -> Scrub:
    store: Any = services.intake._store
    examiner = Examiner(services.db, others or store, reading, pause=0.01)
    repairs = Repairs(services.db, store, None if backup is None else lambda: backup)
    return Scrub(services.db, examiner, repairs, services.scrub._cursors, days=30, rate=2**40)


def full_pass(scrub: Scrub) -> ScrubRun:
    scrub.begin()
    return scrub.run(seconds=None)


def findings(scrub: Scrub) -> list[ScrubFindingRecord]:
    return scrub.findings(limit=100, resolved=True).items


def open_findings(scrub: Scrub) -> dict[str, str]:
    scrub.state()
    return {finding.object_key: finding.kind for finding in scrub.findings(limit=100).items}


def overwrite(bucket: Any, key: str, data: bytes) -> None:
    bucket.put(key, data, content_type="application/octet-stream")


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def test_T121_a_pass_finds_every_kind_of_damage_and_nothing_else(
    services: Services, alice: Principal, bob: Principal, bucket: Any, db: Database
) -> None:
    sound = [upload(services, alice, f"{n}.bin", os.urandom(n * 1000)) for n in range(3)]
    sound.append(compressed(services, alice, text(2_500_000)))
    gone, changed, cut, one, other = (upload(services, alice, "x.bin", os.urandom(5000)) for _ in range(5))
    bobs = compressed(services, bob, text(9000, seed=7))
    small, broken = compressed(services, alice, text(9000, seed=8)), compressed(services, alice, text(9000, seed=9))
    bucket.delete(gone.file_path)
    overwrite(bucket, changed.file_path, flipped(raw(bucket, changed.file_path)))
    overwrite(bucket, cut.file_path, raw(bucket, cut.file_path)[:-1])
    swapped = [raw(bucket, file.file_path) for file in (one, other, small, bobs)]
    for file, data in zip((other, one, bobs, small), swapped, strict=True):
        overwrite(bucket, file.file_path, data)
    overwrite(bucket, broken.file_path, flipped(raw(bucket, broken.file_path)))
    run = full_pass(services.scrub)
    kinds = {"missing": [gone], "changed": [changed, cut, broken], "swapped": [one, other, small, bobs]}
    expected = {file.file_path: kind for kind, files in kinds.items() for file in files}
    assert open_findings(services.scrub) == expected
    assert (run.objects, run.outcomes["verified"], run.interrupted) == (12, 4, None)
    found = {finding.object_key: finding for finding in findings(services.scrub)}
    for mine, theirs in ((one, other), (other, one), (small, bobs), (bobs, small)):
        assert found[mine.file_path].belongs_to == theirs.file_path
        assert found[mine.file_path].found_sha256 == theirs.file_hash
    assert found[changed.file_path].expected_sha256 == changed.file_hash
    assert found[cut.file_path].found_size == 4999
    for file in sound:
        assert services.files.details(alice, file.id).integrity["checksum"] == "verified"
    for file in (gone, changed, cut, one, other, small, broken):
        assert not services.files.get(alice, file.id).intact
    events = sql(db, "select target, details ->> 'kind' from audit_events where action = 'object_damaged'")
    assert dict(events) == expected
    assert full_pass(services.scrub).objects == 12
    assert len(findings(services.scrub)) == len(expected)


def test_T121_files_move_to_an_equal_object_of_their_owner(
    services: Services, alice: Principal, bucket: Any, db: Database, leftovers: Leftovers
) -> None:
    data = os.urandom(5000)
    file, sound = (upload(services, alice, name, data, on_duplicate="copy") for name in ("a.bin", "b.bin"))
    overwrite(bucket, file.file_path, flipped(data))
    assert full_pass(services.scrub).repaired == 1
    (finding,) = findings(services.scrub)
    assert (finding.repaired_from, finding.repaired_key) == ("duplicate", sound.file_path)
    assert finding.resolved_at is not None
    assert read(services, services.files.get(alice, file.id)) == data
    services.janitor.run()
    assert raw(bucket, file.file_path) == flipped(data)  # kept as evidence
    time_passes(db)
    services.janitor.run()
    assert leftovers() == NOTHING


@pytest.mark.parametrize("source", ["duplicate", "backup"])
@pytest.mark.parametrize("encoded", [False, True])
def test_T121_bytes_of_another_owner_or_a_backup_are_written_under_a_new_key(
    services: Services,
    alice: Principal,
    bob: Principal,
    bucket: Any,
    db: Database,
    leftovers: Leftovers,
    source: str,
    encoded: bool,
) -> None:
    data = text(50_000) * 180  # more than one part

    def make(owner: Principal, data: bytes) -> FileRecord:
        return compressed(services, owner, data) if encoded else upload(services, owner, "a.bin", data)

    file = make(alice, data)
    copy = services.files.copy(alice, file.id)
    services.pipeline.process(file.id)
    bobs = make(bob, data if source == "duplicate" else b"other")
    backup = Backup({file.file_hash or "": data}) if source == "backup" else Backup()
    bucket.delete(file.file_path)
    scrub = scrub_of(services, bucket, backup=backup)
    assert full_pass(scrub).repaired == 1
    (finding,) = findings(scrub)
    assert (finding.kind, finding.repaired_from) == ("missing", source)
    for found in (services.files.get(alice, file.id), services.files.get(alice, copy.id)):
        assert (found.file_path, found.file_hash) == (finding.repaired_key, file.file_hash)
        assert found.file_path != bobs.file_path
        assert read(services, found) == data
        assert services.files.details(alice, found.id).integrity["checksum"] == "verified"
    told = str(services.files.history(alice, file.id, limit=50, cursor=None))
    assert "repaired" not in told
    assert full_pass(scrub).outcomes == {"verified": 2}
    time_passes(db)
    services.janitor.run()
    assert leftovers() == NOTHING


def test_a_source_with_other_bytes_repairs_nothing(
    services: Services, alice: Principal, bob: Principal, bucket: Any, db: Database, leftovers: Leftovers
) -> None:
    data = os.urandom(5000)
    file, bobs = upload(services, alice, "a.bin", data), upload(services, bob, "a.bin", data)
    for damaged in (file, bobs):
        overwrite(bucket, damaged.file_path, flipped(data))
    scrub = scrub_of(services, bucket, backup=Backup({file.file_hash or "": flipped(data)}))
    assert full_pass(scrub).repaired == 0
    assert open_findings(scrub) == {file.file_path: "changed", bobs.file_path: "changed"}
    time_passes(db)
    services.janitor.run()
    assert leftovers() == NOTHING


def test_a_finding_is_looked_at_again_and_ends_with_a_backup_an_upload_or_a_purge(
    services: Services, alice: Principal, bucket: Any, db: Database
) -> None:
    data = [os.urandom(500) for _ in range(4)]
    files = [upload(services, alice, "a.bin", piece) for piece in data]
    for file in files:
        bucket.delete(file.file_path)
    backup = Backup()
    scrub = scrub_of(services, bucket, backup=backup)
    full_pass(scrub)
    assert len(open_findings(scrub)) == 4
    upload(services, alice, "again.bin", data[0])
    services.files.purge(alice, files[1].id)
    assert set(open_findings(scrub)) == {files[2].file_path, files[3].file_path}
    backup[files[2].file_hash or ""] = data[2]
    overwrite(bucket, files[3].file_path, data[3])  # somebody has put it back
    assert scrub.run().objects == 0  # not before an hour
    sql(db, "update scrub_findings set next_check_at = now()")
    assert scrub.run().repaired == 1
    assert open_findings(scrub) == {}
    for number in (0, 2, 3):
        assert read(services, services.files.get(alice, files[number].id)) == data[number]


def test_damage_that_a_reader_met_is_looked_at_at_once(services: Services, alice: Principal, bucket: Any) -> None:
    file = upload(services, alice, "a.bin", b"data")
    bucket.delete(file.file_path)
    with pytest.raises(ObjectNotFound):
        read(services, file)
    services.scrub.run()
    assert open_findings(services.scrub) == {file.file_path: "missing"}


def test_a_damaged_public_copy_is_dropped_and_made_again(
    services: Services, alice: Principal, bucket: Any, db: Database, leftovers: Leftovers
) -> None:
    data = os.urandom(500)
    file = upload(services, alice, "a.bin", data)
    copy = bucket.put("files/copy", data, content_type="image/jpeg")
    change = "update objects set location_state = 'removed', public_key = %s, public_sha256 = sha256, public_etag = %s"
    sql(db, change, copy.key, copy.etag)
    assert full_pass(services.scrub).outcomes == {"verified": 1}
    overwrite(bucket, copy.key, flipped(data))
    assert full_pass(services.scrub).repaired == 1
    assert sql(db, "select location_state, public_key, checksum_state from objects") == [("present", None, "verified")]
    assert findings(services.scrub)[0].repaired_from == "original"
    assert read(services, services.files.get(alice, file.id)) == data


# -- no false alarm --------------------------------------------------------------------------------------------------------


def purged(services: Services, alice: Principal, bucket: Any, file: FileRecord) -> None:
    services.files.purge(alice, file.id)
    services.janitor.run()


def rewritten(services: Services, alice: Principal, bucket: Any, file: FileRecord) -> None:
    services.compression.compress(file.id)
    time_passes(services.db)
    services.janitor.run()


def replaced(services: Services, alice: Principal, bucket: Any, file: FileRecord) -> None:
    bucket.delete(file.file_path)
    upload(services, alice, "again.txt", text(9000))
    services.janitor.run()


def restored(services: Services, alice: Principal, bucket: Any, file: FileRecord) -> None:
    """The same bytes with another ETag, as after a restore of the bucket."""
    ref = bucket.create_multipart(file.file_path, content_type="text/plain")
    bucket.complete_multipart(ref, [bucket.put_part(ref, 1, text(9000))])
    services.files.details(alice, file.id, verify=True)


@pytest.mark.parametrize("change", [purged, rewritten, replaced, restored])
def test_T121_no_alarm_for_what_is_changed_while_it_is_read(
    services: Services, alice: Principal, bucket: Any, change: Callable[..., None]
) -> None:
    """Whatever the step before which it happens."""
    for step in range(1, 6):
        file, calls = upload(services, alice, "a.txt", text(9000)), 0

        def before(key: str, file: FileRecord = file, step: int = step) -> None:
            nonlocal calls
            calls += 1
            if calls == step:
                change(services, alice, bucket, file)

        scrub = scrub_of(services, Watched(bucket, before))
        run = full_pass(scrub)
        assert (open_findings(scrub), findings(scrub), run.interrupted) == ({}, [], None)
        for left in services.files.list(alice, FileQuery()).items:
            assert read(services, left) == text(9000)
            services.files.purge(alice, left.id)


def test_T121_no_alarm_while_the_bucket_is_down_or_slow(
    services: Services, settings: Settings, alice: Principal, bucket: Any, s3_server: S3Server, monkeypatch: Any
) -> None:
    monkeypatch.setattr(signed_http, "STALL_TIMEOUT", 0.2)
    files = [upload(services, alice, "a.bin", os.urandom(500)) for _ in range(3)]
    bucket.delete(files[2].file_path)
    at = urlsplit(s3_server.endpoint)
    with FaultProxy(at.hostname or "", at.port or 0) as proxy:
        far = replace(storage_settings(settings), endpoint=proxy.url, public_endpoint=proxy.url)
        faults = [Fault("stall", times=99), Fault("stall", direction="down", times=99), Fault("reset", times=99)]
        for fault in [*faults, Fault("cut", after=20, direction="down", times=99)]:
            proxy.arm(fault)
            scrub = scrub_of(services, open_store(far), others=open_store(far))
            run = full_pass(scrub)
            assert run.interrupted
            assert (run.objects, findings(scrub), scrub.suspected()) == (0, [], 0)
            proxy.heal()
    assert scrub.run(seconds=None).interrupted  # nobody listens
    assert findings(scrub) == []
    assert full_pass(services.scrub).objects == 3  # each kept its place
    assert open_findings(services.scrub) == {files[2].file_path: "missing"}


def test_T121_no_alarm_for_a_bucket_that_says_it_is_busy(services: Services, alice: Principal, bucket: Any) -> None:
    files = [upload(services, alice, "a.bin", os.urandom(500)) for _ in range(3)]

    def busy(key: str) -> None:
        if key == files[0].file_path:
            raise StorageUnavailable("open: 503 SlowDown", code="SlowDown")

    scrub = scrub_of(services, Watched(bucket, busy))
    for _ in range(4):
        assert scrub.run(seconds=None).interrupted or not full_pass(scrub).outcomes["unreadable"]
    assert (findings(scrub), scrub.suspected()) == ([], 0)


def test_T121_an_object_that_stalls_is_a_finding_after_three_tries(
    services: Services, settings: Settings, alice: Principal, bucket: Any, db: Database, s3_server: S3Server,
    monkeypatch: Any,
) -> None:  # fmt: skip
    """Its head comes, but not its bytes; HEAD answers 200. Others can be read, and the circuit breaker stays closed."""
    monkeypatch.setattr(signed_http, "STALL_TIMEOUT", 0.2)
    _, stalling, _ = (upload(services, alice, "a.bin", os.urandom(200_000)) for _ in range(3))
    at = urlsplit(s3_server.endpoint)
    with FaultProxy(at.hostname or "", at.port or 0) as proxy:
        far = replace(storage_settings(settings), endpoint=proxy.url, public_endpoint=proxy.url)

        def stall(key: str) -> None:
            proxy.heal()
            if key == stalling.file_path:
                proxy.arm(Fault("stall", after=2_000, direction="down", times=99))

        scrub = scrub_of(services, Watched(open_store(far), stall))
        for tries in range(3):
            run = full_pass(scrub) if tries == 0 else scrub.run()
            assert run.outcomes["verified"] == (2 if tries == 0 else 0)
            assert (scrub.suspected(), len(findings(scrub))) == ((1, 0) if tries < 2 else (0, 1))
            assert scrub.run().objects == 0  # the next try is a minute away
            sql(db, "update scrub_findings set next_check_at = now()")
            services.intake._store.check()
    assert open_findings(scrub) == {stalling.file_path: "unreadable"}
    assert "timed out" in (findings(scrub)[0].error or "")
    assert full_pass(services.scrub).outcomes == {"verified": 3}  # it can be read again
    assert open_findings(services.scrub) == {}


# -- order, marks and several readers --------------------------------------------------------------------------------------


def test_T121_the_oldest_check_comes_first_and_a_pass_is_spread_over_its_days(
    services: Services, alice: Principal, bucket: Any, db: Database
) -> None:
    files = [upload(services, alice, "a.bin", os.urandom(100)) for _ in range(10)]
    for number, file in enumerate(files):
        age = timedelta(days=50 + number)
        sql(db, "update objects set checked_at = now() - %s where object_key = %s", age, file.file_path)
    order: list[str] = []
    scrub = scrub_of(services, Watched(bucket, order.append))
    assert scrub.run().objects == 0  # it begins a pass
    for days, due in ((3, 1), (15, 4), (15, 0), (31, 5)):
        sql(db, "update scrub_passes set began_at = now() - %s", timedelta(days=days))
        assert scrub.run().objects == due
    assert order == [file.file_path for file in reversed(files)]
    latest = scrub.state().latest_pass
    assert latest is not None
    assert latest.finished_at is not None
    sql(db, "update scrub_passes set began_at = now() - interval '29 days'")
    scrub.run()
    assert scrub.state().latest_pass == replace(latest, began_at=scrub.state().latest_pass.began_at)  # type: ignore[union-attr]
    sql(db, "update scrub_passes set began_at = now() - interval '30 days'")
    scrub.run()
    assert scrub.state().latest_pass.id == latest.id + 1  # type: ignore[union-attr]


@pytest.mark.settings(scrub_days=0)
def test_without_days_only_a_requested_pass_is_read(services: Services, alice: Principal) -> None:
    upload(services, alice, "a.bin", b"data")
    services.scrub.run()
    assert services.scrub.state().latest_pass is None
    services.scrub.begin()
    assert services.scrub.begin().id == services.scrub.begin().id
    assert services.scrub.run().objects == 1


def test_T121_an_object_whose_reader_is_killed_is_marked_and_read_again_at_the_end(
    services: Services, alice: Principal, bucket: Any, db: Database
) -> None:
    files = [upload(services, alice, "a.bin", os.urandom(100)) for _ in range(3)]
    order: list[str] = []

    class Killed(BaseException):
        pass

    def kill(key: str) -> None:
        order.append(key)
        if len(order) == 1:
            (state,) = sql(db, "select checksum_state from objects where object_key = %s", key)
            assert state == ("unverified",)
            raise Killed

    scrub = scrub_of(services, Watched(bucket, kill))
    with pytest.raises(Killed):
        full_pass(scrub)
    scrub.run(seconds=None)
    paths = [file.file_path for file in files]
    assert order == [paths[0], paths[1], paths[2], paths[0]]
    assert sql(db, "select distinct checksum_state from objects") == [("verified",)]


def test_T121_two_scrubs_at_once_read_each_object_once(services: Services, alice: Principal, bucket: Any) -> None:
    for _ in range(40):
        upload(services, alice, "a.bin", os.urandom(100))
    order: list[str] = []
    scrubs = [scrub_of(services, Watched(bucket, order.append)) for _ in range(2)]
    scrubs[0].begin()
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda scrub: scrub.run(seconds=None), scrubs))
    assert sum(run.outcomes["verified"] for run in runs) >= 40
    assert set(order) == {info.key for info in bucket.list_objects("files/")}
    assert len(order) <= 42  # at the end, one may read what the other is reading


def test_the_database_going_down_is_no_finding(services: Services, alice: Principal, bucket: Any) -> None:
    upload(services, alice, "a.bin", b"data")
    down = False

    def go_down(key: str) -> None:
        nonlocal down
        down = True

    scrub, connection = scrub_of(services, Watched(bucket, go_down)), services.db.connection

    def refuse() -> Any:
        if down:
            raise Unavailable("down")
        return connection()

    services.db.connection = refuse  # type: ignore[method-assign]
    assert full_pass(scrub).interrupted == "down"
    services.db.connection = connection  # type: ignore[method-assign]
    assert findings(scrub) == []


# -- reports ---------------------------------------------------------------------------------------------------------------


def test_T121_damage_is_reported_by_command_route_and_metrics(
    services: Services, settings: Settings, alice: Principal, admin: GatewayClient, bucket: Any, capsys: Any
) -> None:
    assert admin.get("/api/admin/scrub").json["latest_pass"] is None
    lost, moved = (upload(services, alice, "secret name.bin", os.urandom(500)) for _ in range(2))
    upload(services, alice, "b.bin", raw(bucket, moved.file_path), on_duplicate="copy")
    for file in (lost, moved):
        bucket.delete(file.file_path)
    begun = admin.post("/api/admin/scrub")
    assert (begun.status, begun.json["objects"]) == (202, 3)
    assert run(["scrub"], settings) == 1
    _, head, text = capsys.readouterr().out.partition("1 damaged objects (1 missing)")
    assert head
    assert "3 of 3 objects" in text
    assert text.index(lost.file_path) < text.index("Repaired") < text.index(moved.file_path)
    assert "secret name" not in text
    assert run(["scrub", "--report", "--json"], settings) == 1
    told = loads(capsys.readouterr().out.splitlines()[-1])
    assert [finding["object_key"] for finding in told["findings"]] == [lost.file_path]
    found = admin.get("/api/admin/scrub?resolved=true&limit=1").json
    assert (found["open"], found["items"][0]["repaired_from"]) == ({"missing": 1}, "duplicate")
    assert len(admin.get(f"/api/admin/scrub?resolved=true&limit=1&cursor={found['next_cursor']}").json["items"]) == 1
    assert 'gateway_scrub_open_findings{kind="missing"} 1.0' in admin.get("/metrics").body.decode()
    services.files.purge(alice, lost.id)
    assert run(["scrub", "--all"], settings) == 0
    assert "No object is known to be damaged." in capsys.readouterr().out
