"""The archive: what is archived reads as before, comes back when it is used, and loses nothing in a crash."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest

from core.errors import FileArchived, FileInTrash, NotFound, StorageFull
from core.ids import ARCHIVE_PREFIX, FILE_PREFIX
from core.principal import Principal
from core.ranges import ByteRange
from db import Database
from db.records import FileRecord
from services import Services
from services.library.delivery import Redirect, Stream, Thawing
from services.library.files import FileQuery
from services.objects import rewriting
from services.objects.capacity import Space
from services.processing.previews import PreviewRequest
from settings import Settings
from storage_backends.base import ObjectFrozen
from storage_backends.s3 import S3Store
from tests.client import GatewayClient
from tests.compressed_files import compressed, raw, read, text, time_passes
from tests.conftest import NOTHING, Leftovers
from tests.crash_points import CrashingGateway
from tests.rows import sql
from tests.samples import picture
from tests.services.uploads.test_intake import upload

NOISE = os.urandom(20_000)
PNG = picture("PNG", 1200, 40)


def now(services: Services, file: FileRecord) -> FileRecord:
    return services.files.get(Principal(file.owner_id), file.id)


def archived(services: Services, who: Principal, data: bytes, name: str = "a.txt") -> FileRecord:
    file = upload(services, who, name, data)
    assert services.archive.archive(file.id)
    return now(services, file)


def jobs(db: Database, task: str = "unarchive_object") -> int:
    return int(sql(db, "select count(*) from procrastinate_jobs where task_name = %s", task)[0][0])


# -- in and out --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "data", "encoding"), [("a.txt", text(50_000), "zstd"), ("a.bin", NOISE, None)])
def test_an_archived_file_reads_as_before_and_comes_back(
    services: Services,
    alice: Principal,
    db: Database,
    leftovers: Leftovers,
    name: str,
    data: bytes,
    encoding: str | None,
) -> None:
    before = upload(services, alice, name, data)
    copy = services.files.copy(alice, before.id)
    assert services.archive.archive(before.id)
    assert not services.archive.archive(copy.id)  # of the same bytes
    file = now(services, copy)
    assert (file.storage_class, file.encoding, file.file_hash) == ("archived", encoding, before.file_hash)
    assert file.file_path.startswith(ARCHIVE_PREFIX) and file.file_path.endswith(file.stored_name)
    assert read(services, file) == read(services, before) == data
    assert read(services, file, ByteRange(100, 199)) == data[100:200]
    usage = "select used_bytes from owner_usage where owner_id = 'alice'"
    assert sql(db, usage) == [(2 * len(data),)]
    found = {c: services.files.list(alice, FileQuery(storage_class=c)) for c in ("archived", "standard")}
    assert [len(page.items) for page in found.values()] == [page.total for page in found.values()] == [2, 0]
    assert services.archive.unarchive(copy.id)
    assert not services.archive.unarchive(copy.id)
    file = now(services, before)
    assert (file.storage_class, file.encoding) == ("standard", encoding)
    assert file.file_path.startswith(FILE_PREFIX)
    assert read(services, file) == data
    assert sql(db, usage) == [(2 * len(data),)]
    events = [event.action for event in services.files.history(alice, before.id, limit=9, cursor=None).items]
    assert events[:2] == ["unarchived", "archived"]
    time_passes(db)
    services.janitor.run()
    assert leftovers() == NOTHING


def test_a_compressed_object_is_compressed_better(services: Services, alice: Principal) -> None:
    data = b"".join(b"%d,%d,%s\n" % (n, n * n % 977, b"north south east west".split()[n % 4]) for n in range(60_000))
    file = compressed(services, alice, data, "a.csv")
    assert services.archive.archive(file.id)
    smaller = now(services, file)
    assert (smaller.encoding, smaller.stored_size or 0) <= ("zstd", file.stored_size or 0)
    assert read(services, smaller) == data


def test_a_large_object_is_copied_in_parts(
    services: Services, alice: Principal, monkeypatch: pytest.MonkeyPatch, db: Database, leftovers: Leftovers
) -> None:
    monkeypatch.setattr(rewriting, "_MAX_COPY", 1_000_000)
    monkeypatch.setattr(rewriting, "_COPIED_PART", 5 * 1024**2)
    data = os.urandom(11 * 1024**2 + 7)
    file = archived(services, alice, data, "a.bin")
    assert file.storage_class == "archived" and read(services, file) == data
    time_passes(db)
    services.janitor.run()
    assert leftovers() == NOTHING


def test_a_download_brings_the_file_back_once(services: Services, alice: Principal, db: Database) -> None:
    file = archived(services, alice, NOISE, "a.bin")
    services.delivery.open(alice, file.id, method="HEAD")
    assert jobs(db) == 0
    for _ in range(3):
        assert isinstance(services.delivery.open(alice, file.id, method="GET"), Redirect)
    assert jobs(db) == 1
    services.archive.unarchive(file.id)
    assert now(services, file).storage_class == "standard"
    sql(db, "update objects set restore_requested_at = now() - interval '1 day'")
    assert services.archive.archive(file.id)
    services.delivery.open(alice, file.id, method="GET")
    assert sql(db, "select restore_requested_at > now() - interval '1 hour' from objects") == [(True,)]


def test_a_url_from_before_stays_valid(services: Services, alice: Principal, db: Database, bucket: Any) -> None:
    file = upload(services, alice, "a.bin", NOISE)
    services.delivery.url(alice, file.id, expires_in=900)
    assert services.archive.archive(file.id)
    services.janitor.run()
    assert raw(bucket, file.file_path) == NOISE
    [(until,)] = sql(db, "select delete_after - now() from deferred_deletions")
    assert until > timedelta(seconds=900)


def test_an_upload_of_the_same_bytes_takes_its_place(
    services: Services, alice: Principal, db: Database, leftovers: Leftovers
) -> None:
    file = archived(services, alice, text(9000))
    second = upload(services, alice, "b.txt", text(9000))
    first = now(services, file)
    assert (first.storage_class, first.file_path) == ("standard", second.file_path)
    assert read(services, first) == text(9000)
    services.janitor.run()
    time_passes(db)
    services.janitor.run()
    assert leftovers() == NOTHING


@pytest.mark.parametrize("data", [text(9000), NOISE], ids=["compressed", "copied"])
def test_T101_killed_at_any_call_nothing_is_lost_or_left(
    services: Services, crashing: CrashingGateway, alice: Principal, db: Database, leftovers: Leftovers, data: bytes
) -> None:
    file = upload(services, alice, "a.bin", data)
    for call, end in (("archive", "archived"), ("unarchive", "standard")):
        for crash in crashing.crash_points():
            with crash:
                getattr(crashing.services.archive, call)(file.id)
            time_passes(db)
            services.janitor.run()
            assert leftovers() == NOTHING, crash
            assert read(services, now(services, file)) == data, crash
        getattr(services.archive, call)(file.id)
        assert now(services, file).storage_class == end


def test_damage_is_found_and_not_archived(services: Services, alice: Principal, bucket: Any, db: Database) -> None:
    file = upload(services, alice, "a.bin", NOISE)
    turned = bucket.put(file.file_path, bytes(len(NOISE)), content_type="application/octet-stream")
    sql(db, "update objects set etag = %s", turned.etag)
    assert not services.archive.archive(file.id)
    assert (now(services, file).storage_class, now(services, file).checksum_state) == ("standard", "mismatch")


def test_what_is_wanted_back_waits_for_space_and_for_repair(
    services: Services, alice: Principal, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = archived(services, alice, NOISE, "a.bin")
    with monkeypatch.context() as patch:
        full = Space(free=0, total=1, kept=1, outstanding=0, level="full")
        patch.setattr(services.capacity, "space", lambda: full)
        assert services.files.take_back(alice, file.id) == (now(services, file), True)
        with pytest.raises(StorageFull):
            services.archive.unarchive(file.id)
    sql(db, "delete from procrastinate_jobs")
    sql(db, "update objects set checksum_state = 'mismatch'")
    assert services.archive.continue_returns() == 0
    sql(db, "update objects set checksum_state = 'verified'")
    assert services.archive.continue_returns() == 1
    assert services.archive.unarchive(file.id)


# -- over HTTP -----------------------------------------------------------------------------------------------------------------


def test_by_hand(client: GatewayClient, other: GatewayClient, services: Services, db: Database) -> None:
    kept, trashed, foreign = (client.add("a.txt", text(9000)), client.add("b.txt", b"b"), other.add("c.txt", b"c"))
    client.delete(f"/api/files/{trashed['id']}")
    ids = [kept["id"], trashed["id"], foreign["id"], "x"]
    results = client.post("/api/files/batch", json={"action": "archive", "ids": ids}).json["results"]
    assert [(r["status"], r["problem"] and r["problem"]["code"]) for r in results] == [
        (200, None),
        (409, FileInTrash.code),
        (404, NotFound.code),
        (404, NotFound.code),
    ]
    [(file_id, lock)] = sql(
        db, "select args ->> 'file_id', lock from procrastinate_jobs where task_name = 'archive_object'"
    )
    assert (file_id, lock) == (kept["id"], f"object:{kept['file_path']}")
    services.archive.archive(now_id := services.files.list(Principal("alice"), FileQuery()).items[0].id)
    assert str(now_id) == kept["id"]
    assert client.get("/api/files?storage_class=archived").json["items"][0]["storage_class"] == "archived"
    assert client.get("/api/files?storage_class=frozen").status == 400
    restored = client.post(f"/api/files/{kept['id']}/restore")
    assert (restored.status, restored.json["storage_class"]) == (200, "standard")
    assert client.post(f"/api/files/{kept['id']}/restore").status == 200
    actions = [event["action"] for event in client.get(f"/api/files/{kept['id']}/history").json["items"]]
    assert actions == ["unarchived", "unarchive_requested", "archived", "archive_requested", "uploaded"]


class Freezing(S3Store):
    """SeaweedFS, with a class that must be thawed."""

    frozen: dict[str, str]  # key -> frozen, thawing

    def copy(self, source: str, target: str, *, storage_class: str | None = None, **options: Any) -> Any:
        self._check(source)
        copied = super().copy(source, target, **options)
        if storage_class == "DEEP_ARCHIVE":
            self.frozen[target] = "frozen"
        return copied

    def stat(self, key: str) -> Any:
        from dataclasses import replace

        state = self.frozen.get(key)
        return replace(super().stat(key), readable=state is None, thawing=state == "thawing")

    def open(self, key: str, **options: Any) -> Any:
        self._check(key)
        return super().open(key, **options)

    def thaw(self, key: str, *, days: int) -> None:
        assert self.frozen[key] == "frozen", "asked for twice"
        self.frozen[key] = "thawing"

    def _check(self, key: str) -> None:
        if key in self.frozen:
            raise ObjectFrozen("frozen", code="InvalidObjectState")


@pytest.fixture
def freezing(settings: Settings, bucket: Any) -> Any:
    from app import wire
    from settings import storage_settings

    store = Freezing(storage_settings(settings))
    store.frozen = {}
    services = wire(settings.model_copy(update={"s3_archive_class": "DEEP_ARCHIVE"}), store=store)
    yield services, store
    services.db.close()


def test_what_must_be_thawed_takes_time_and_comes_back(
    freezing: Any, settings: Settings, db: Database, leftovers: Leftovers
) -> None:
    from app import create_app

    services, store = freezing
    client = GatewayClient(create_app(settings, services), services.keys.create_key("alice")[1])
    made = client.add("a.png", PNG)
    second = client.add("b.txt", text(9000))
    alice = Principal("alice")
    files = [services.files.get(alice, file.id) for file in services.files.list(alice, FileQuery()).items]
    for file in files:
        services.pipeline.process(file.id)
        assert services.archive.archive(file.id)
    assert len(store.frozen) == 2
    address = f"/api/files/{made['id']}"
    head = client.request("HEAD", f"{address}/download")
    assert (head.status, head.headers["Retry-After"], jobs(db)) == (202, "900", 0)
    for mode in ("redirect", "proxy"):
        answer = client.get(f"{address}/download?mode={mode}")
        assert (answer.status, answer.headers["Retry-After"], answer.json["id"]) == (202, "900", made["id"])
    assert jobs(db) == 1
    assert client.get(f"{address}/preview").status == 200  # it was made before
    assert client.get(f"{address}/preview?type=thumbnail&size=1024").status == 200
    assert (client.get(f"{address}/url").status, client.get(f"{address}/url").code) == (409, FileArchived.code)
    assert client.get(f"/api/files/archive?ids={made['id']}").code == FileArchived.code
    verified = client.get(f"{address}?verify=true").json["integrity"]
    assert (verified["exists"], verified["checksum"]) == (True, "verified")
    assert client.post(f"/api/files/{second['id']}/copy", json={}).status == 201
    assert client.get(address).json["storage_class"] == "archived"
    sql(db, "delete from procrastinate_jobs")
    file_id = next(file.id for file in files if str(file.id) == made["id"])
    for _ in range(2):  # the second time it thaws already
        assert services.archive.continue_returns() == 1
        assert not services.archive.unarchive(file_id)
        sql(db, "delete from procrastinate_jobs")
    assert sorted(store.frozen.values()) == ["frozen", "thawing"]
    restored = client.post(f"/api/files/{second['id']}/restore")
    assert (restored.status, restored.headers["Retry-After"]) == (202, "900")
    store.frozen.clear()
    assert services.archive.unarchive(file_id)
    found = client.get(f"{address}/download?mode=proxy")
    assert (found.status, found.body) == (200, PNG)
    assert client.post(f"/api/files/{second['id']}/restore").status == 200
    assert services.archive.continue_returns() == 0
    time_passes(db)
    services.janitor.run()
    assert leftovers() == NOTHING


def test_a_preview_that_needs_frozen_bytes_says_so(freezing: Any, db: Database) -> None:
    services, _ = freezing
    alice = Principal("alice")
    file = archived(services, alice, PNG, "a.png")
    with pytest.raises(FileArchived):
        services.previews.show(alice, file.id, PreviewRequest())
    services.pipeline.process(file.id)  # says nothing and does nothing
    assert isinstance(services.delivery.open(alice, file.id, method="GET"), Thawing)
    assert sql(db, "select checksum_state, in_bucket from objects") == [("verified", True)]


def test_an_archived_object_streams_through_the_gateway(services: Services, alice: Principal) -> None:
    file = archived(services, alice, text(50_000))
    found = services.delivery.open(alice, file.id, method="GET")
    assert isinstance(found, Stream) and found.body is not None
    assert b"".join(found.body) == text(50_000)
