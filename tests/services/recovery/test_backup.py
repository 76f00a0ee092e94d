"""Backups of a real database and bucket."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pyrage
import pytest
from pydantic import SecretStr

from core.errors import Conflict
from core.parts import PART_SIZE
from core.principal import Principal
from core.secrets import Secrets
from db import Database, backup_holds, dump
from services import Services
from services.objects.deferred_deletions import remove_due
from services.recovery import backup as backups
from services.recovery.backup import Backups
from services.recovery.repository import Repository, RepositoryOptions
from settings import Settings
from storage_backends.base import ObjectFrozen
from tests.client import GatewayClient
from tests.rows import sql

IDENTITY = pyrage.x25519.Identity.generate()
TEXT = b"the same words again and again\n" * 5_000


@pytest.fixture(params=["plain", "encrypted"])
def options(request: pytest.FixtureRequest, settings: Settings) -> RepositoryOptions:
    assert isinstance(settings.secret_key, SecretStr)
    return RepositoryOptions(
        Secrets([settings.secret_key.get_secret_value()]).derive("backups"),
        recipients=[str(IDENTITY.to_public())] if request.param == "encrypted" else [],
        identities=str(IDENTITY),
    )


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "backups")


@pytest.fixture
def service(db: Database, bucket: Any, options: RepositoryOptions, place: str) -> Backups:
    return Backups(db, bucket, lambda: options, to=place)


def contents(repository: Repository, snapshot: str) -> dict[str, bytes]:
    """The original bytes of all objects in a snapshot."""
    found = {}
    for entry in repository.entries(snapshot):
        with repository.open(entry.sha256) as reader:
            found[entry.key] = b"".join(iter(lambda: reader.read(100_000), b""))
        assert len(found[entry.key]) == entry.size
    return found


def compressed(services: Services, file: dict[str, Any]) -> None:
    services.compression.compress(UUID(file["id"]))


def key_of(db: Database, file: dict[str, Any]) -> str:
    ((key,),) = sql(db, "select file_path from files where id = %s", file["id"])
    return str(key)


def add_preview(db: Database, bucket: Any, file: dict[str, Any], body: bytes) -> str:
    key = f"previews/2026/11/{hashlib.sha256(body).hexdigest()[:32]}.webp"
    bucket.put(key, body, content_type="image/webp", size=len(body))
    sql(
        db,
        "with r as (insert into readings (object_key, read_as) select file_path, read_as from files where id = %s"
        " on conflict (object_key, read_as) do update set problem = null returning object_key, read_as)"
        " insert into file_previews (object_key, read_as, preview_type, variant, preview_path, mime_type, size)"
        " select object_key, read_as, 'thumbnail', 256, %s, 'image/webp', %s from r returning 1",
        file["id"],
        key,
        len(body),
    )
    return key


def test_a_backup_has_all_objects_and_sends_them_once(
    service: Backups, services: Services, client: GatewayClient, db: Database, bucket: Any
) -> None:
    small, text = client.add("a.bin", b"small"), client.add("b.txt", TEXT)
    large = client.add("c.bin", large_body := bytes(range(256)) * (PART_SIZE // 256 + 5))
    compressed(services, text)
    preview = add_preview(db, bucket, small, b"a preview")
    first = service.run()
    assert (first.objects, first.damaged, first.files) == (4, 0, 3)
    assert first.sent_objects == 4
    assert first.bytes == 5 + len(TEXT) + len(large_body) + 9
    repository = service.repository()
    assert contents(repository, first.snapshot) == {
        key_of(db, small): b"small",
        key_of(db, text): TEXT,
        key_of(db, large): large_body,
        preview: b"a preview",
    }
    with repository.open_database(first.snapshot) as reader:
        rows = list(dump.records(iter(lambda: reader.read(100_000), b""), {"files"}))
    assert {row["original_name"] for _, row in rows} == {"a.bin", "b.txt", "c.bin"}

    client.add("d.bin", b"another")
    second = service.run()
    assert (second.objects, second.sent_objects) == (5, 1)
    assert [snapshot.id for snapshot in repository.snapshots()] == [first.snapshot, second.snapshot]
    assert contents(repository, second.snapshot)[preview] == b"a preview"
    assert not sql(db, "select 1 from backup_holds")


def test_previews_are_not_read_again_without_an_identity(
    db: Database, bucket: Any, options: RepositoryOptions, place: str, client: GatewayClient, monkeypatch: Any
) -> None:
    add_preview(db, bucket, client.add("a.bin", b"small"), b"a preview")
    opened: list[str] = []
    real = bucket.open
    monkeypatch.setattr(bucket, "open", lambda key, **given: opened.append(key) or real(key, **given))
    without = RepositoryOptions(options.keys, recipients=options.recipients)
    Backups(db, bucket, lambda: without, to=place).run()
    assert len(opened) == 2
    second = Backups(db, bucket, lambda: without, to=place).run()
    assert (len(opened), second.objects, second.sent_objects) == (2, 2, 0)


def test_damaged_objects_are_listed_and_stop_nothing(
    service: Backups, client: GatewayClient, db: Database, bucket: Any
) -> None:
    lost, altered, good = (client.add(f"{n}.bin", f"body {n}".encode()) for n in range(3))
    bucket.delete(key_of(db, lost))
    bucket.put(key_of(db, altered), b"BODY 1", content_type="text/plain", size=6)
    report = service.run()
    assert (report.objects, report.damaged) == (1, 2)
    repository = service.repository()
    expected = {key_of(db, lost): "missing", key_of(db, altered): "altered"}
    assert dict(repository.damaged(report.snapshot)) == expected
    assert set(repository.snapshot(report.snapshot).damaged_keys) == set(expected)
    assert contents(repository, report.snapshot) == {key_of(db, good): b"body 2"}
    (run,) = service.runs()
    assert run.outcome == "incomplete"


def test_an_archived_object_that_cant_be_read_stops_nothing(
    service: Backups, client: GatewayClient, db: Database, bucket: Any, monkeypatch: Any
) -> None:
    frozen, good = (key_of(db, client.add(f"{n}.bin", f"body {n}".encode())) for n in range(2))
    real = bucket.open

    def opened(key: str, **given: Any) -> Any:
        if key == frozen:
            raise ObjectFrozen("archived")
        return real(key, **given)

    monkeypatch.setattr(bucket, "open", opened)
    report = service.run()
    assert dict(service.repository().damaged(report.snapshot)) == {frozen: "archived"}
    assert contents(service.repository(), report.snapshot) == {good: b"body 1"}


@pytest.fixture
def between(monkeypatch: Any) -> Callable[[Callable[[], object]], None]:
    """Do something between a backup's snapshot and its first object."""

    def at(call: Callable[[], object]) -> None:
        real = backups._Run._match

        def match(self: Any, work: Any) -> None:
            call()
            real(self, work)

        monkeypatch.setattr(backups._Run, "_match", match)

    return at


def test_nothing_that_a_snapshot_names_is_deleted_meanwhile(
    service: Backups,
    services: Services,
    client: GatewayClient,
    db: Database,
    bucket: Any,
    between: Callable[[Callable[[], object]], None],
) -> None:
    purged, replaced, unread, trashed = (client.add(f"{n}.txt", TEXT + bytes([48 + n])) for n in range(4))
    keys = {key_of(db, file): TEXT + bytes([48 + n]) for n, file in enumerate((purged, replaced, unread, trashed))}
    keys[add_preview(db, bucket, purged, b"preview of purged")] = b"preview of purged"
    keys[add_preview(db, bucket, unread, b"preview of renamed")] = b"preview of renamed"

    def change() -> None:
        assert client.delete(f"/api/files/{purged['id']}?permanent=true").json["action"] == "purged"
        compressed(services, replaced)
        client.patch(f"/api/files/{unread['id']}", json={"original_name": "x.md"})
        client.delete(f"/api/files/{trashed['id']}")
        client.delete(f"/api/files/{trashed['id']}?permanent=true")
        sql(db, "update deferred_deletions set delete_after = now() - interval '1 day' returning 1")
        services.janitor.run()
        remove_due(db, bucket)
        for key in keys:
            bucket.stat(key)

    between(change)
    report = service.run()
    assert report.damaged == 0
    assert contents(service.repository(), report.snapshot) == keys
    remaining = {info.key for info in bucket.list_objects("")}
    services.janitor.run()
    gone = {info.key for info in bucket.list_objects("")} ^ remaining
    assert {key_of_purged for key_of_purged in keys if keys[key_of_purged] == TEXT + b"0"} <= gone
    assert not sql(db, "select 1 from objects where status = 'purging'")


def test_infected_files_do_not_wait_for_a_backup(db: Database, bucket: Any) -> None:
    with db.transaction() as tx:
        backup_holds.take(tx, UUID(int=1), lease=backups._HOLD)
        for key, urgent in (("files/2026/11/a", True), ("files/2026/11/b", False)):
            bucket.put(key, b"x", content_type="text/plain", size=1)
            tx.execute(
                "insert into deferred_deletions (object_key, delete_after, urgent) values (%s, now() - interval '1s', %s)",
                (key, urgent),
            )
    remove_due(db, bucket)
    assert [info.key for info in bucket.list_objects("files/")] == ["files/2026/11/b"]
    with db.transaction() as tx:
        tx.execute("update backup_holds set held_until = now() - interval '1s'")  # a killed backup
        assert not backup_holds.renew(tx, UUID(int=1), lease=backups._HOLD)
    remove_due(db, bucket)
    assert [info.key for info in bucket.list_objects("files/")] == []


def test_bytes_of_a_moved_object_are_found(
    service: Backups, client: GatewayClient, db: Database, bucket: Any, between: Callable[[Callable[[], object]], None]
) -> None:
    key = key_of(db, client.add("a.bin", b"infected"))

    def move() -> None:
        bucket.copy(key, "files/2026/11/moved")
        sql(db, "update objects set object_key = 'files/2026/11/moved' where object_key = %s returning 1", key)
        bucket.delete(key)

    between(move)
    report = service.run()
    assert contents(service.repository(), report.snapshot) == {key: b"infected"}


def test_a_backup_goes_on_where_it_was_cut_off(
    service: Backups, client: GatewayClient, db: Database, monkeypatch: Any
) -> None:
    class Killed(BaseException):
        pass

    for n in range(6):
        client.add(f"{n}.bin", f"body {n}".encode())
    repository = service.repository()
    for name in ("write_part", "write_manifest"):
        with monkeypatch.context() as patch:

            def kill(*_: Any, **__: Any) -> None:
                raise Killed

            patch.setattr(Repository, name, kill)
            with pytest.raises(Killed):
                service.run()
        assert repository.snapshots() == []
    (Path(service._to or "") / "tmp").mkdir(exist_ok=True)
    (Path(service._to or "") / "tmp" / "leftover").write_bytes(b"half")
    report = service.run()
    assert (report.objects, report.sent_objects) == (6, 0)
    assert not list((Path(service._to or "") / "tmp").glob("*"))
    assert {name.split("/")[1] for name, _ in repository.location.list("snapshots/")} == {report.snapshot}
    assert [run.outcome for run in service.runs()] == ["complete", "failed", "failed"]


def test_a_backup_whose_hold_has_ended_is_none(
    service: Backups, client: GatewayClient, db: Database, between: Callable[[Callable[[], object]], None]
) -> None:
    client.add("a.bin", b"a")
    between(lambda: sql(db, "update backup_holds set held_until = now() - interval '1s' returning 1"))
    with pytest.raises(Exception, match="silent for too long"):
        service.run()
    assert service.repository().snapshots() == []


def test_the_scheduled_job_makes_a_backup_and_prunes(
    db: Database, bucket: Any, options: RepositoryOptions, place: str
) -> None:
    service = Backups(db, bucket, lambda: options, to=place, schedule="30 2 * * *", keep={"daily": 1})
    service.start()
    service.start()  # while one waits
    assert sql(db, "select task_name, lock from procrastinate_jobs") == [("backup", "backup")]
    service.back_up()
    service.back_up()
    latest = service.runs()[0]
    assert [found.id for found in service.repository().snapshots()] == [latest.snapshot_id]
    with pytest.raises(Conflict):
        Backups(db, bucket, lambda: options).start()


def test_gauges_tell_how_the_last_backup_went(service: Backups, client: GatewayClient, alice: Principal) -> None:
    assert service.gauges() == []
    client.add("a.bin", b"a")
    report = service.run()
    found = {gauge.name: gauge.samples for gauge in service.gauges()}
    assert found["gateway_backup_sent_bytes"][0][1] == report.sent_bytes
    assert dict(found["gateway_backup_outcome"])[("complete",)] == 1
    assert 0 <= found["gateway_backup_age_seconds"][0][1] < 120
