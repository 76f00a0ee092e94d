"""T122: what was lost comes back from a backup as it was, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import psycopg
import pyrage
import pytest
import requests

from app import create_app, wire
from core.errors import Conflict, GatewayRunning, NotFound, Unavailable
from core.origin import ORIGIN, SYSTEM
from core.principal import Principal, Quota
from core.secrets import Secrets
from db import Database, counters
from services import Services
from services.library.files import FileChange
from services.objects.object_reader import ObjectReader
from services.recovery import parallel, restore
from services.recovery.locations import Folder
from services.recovery.repository import Repository, RepositoryOptions, Snapshot
from services.recovery.restore import Restore, unfinished
from services.recovery.restore_files import FileRestore, Wanted
from settings import Settings
from storage_backends import open_store
from storage_backends.base import StorageUnavailable
from tests.buckets import another_bucket
from tests.client import GatewayClient
from tests.compressed_files import compressed, text
from tests.conftest import _empty
from tests.crash_points import Killed
from tests.direct_steps import begin
from tests.parsers.test_place import with_exif
from tests.rows import sql
from tests.servers import SIGNING_KEY
from tests.services.uploads.test_intake import upload

IDENTITY = pyrage.x25519.Identity.generate()


@pytest.fixture(params=["plain", "encrypted"])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    recipients = [str(IDENTITY.to_public())] if request.param == "encrypted" else []
    keys = Secrets([SIGNING_KEY]).derive("backups")
    return Repository(
        Folder(tmp_path / "backups"), RepositoryOptions(keys, recipients=recipients, identities=f"{IDENTITY}\n")
    )


plain_only = pytest.mark.parametrize("repository", ["plain"], indirect=True)


@dataclass
class Deployment:
    """A gateway and what its users see."""

    services: Services
    settings: Settings
    store: Any

    @property
    def db(self) -> Database:
        return self.services.db

    def back_up(self, repository: Repository) -> Snapshot:
        options = RepositoryOptions(
            repository._keys, recipients=[str(IDENTITY.to_public())] if repository.encrypts else []
        )
        place = str(cast(Folder, repository.location)._root)
        return repository.snapshot(self.services.backups.run(place, options=options).snapshot)

    def restore(self, repository: Repository, store: Any = None) -> Restore:
        return Restore(self.db, store or self.store, repository, owner_url=self.db.url)

    def seen(self, key: str) -> dict[str, Any]:
        """All that a key's owner sees: folders, usage, and each file with its bytes, by both ways of download."""
        client = GatewayClient(create_app(self.settings, self.services), key)
        found: dict[str, Any] = {"folders": client.get("/api/folders").json["items"]}
        found["usage"] = sql(self.db, "select owner_id, used_bytes, file_count, trash_count, quota_bytes, quota_files"
                                      " from owner_usage order by 1")  # fmt: skip
        for path in ("/api/files?limit=200", "/api/files?limit=200&deleted=true"):
            for file in client.get(path).json["items"]:
                details = client.get(f"/api/files/{file['id']}").json
                details.pop("links", None)
                through = self.services.files.get(Principal("root", "admin"), UUID(file["id"]))
                with ObjectReader(self.db, self.store).open(through) as reader:
                    content = b"".join(iter(lambda reader=reader: reader.read(1_000_000), b""))
                answer = client.get(f"/api/files/{file['id']}/download")
                if answer.status == 302:
                    assert requests.get(answer.headers["Location"], timeout=30).content == content
                elif answer.status == 200:
                    assert answer.body == content
                pictures = [client.get(f"/api/files/{file['id']}/preview?type=thumbnail").status]
                found[file["id"]] = (_stable(details), content, pictures)
        return found


_LASTING = (
    "id original_name mime_type file_size file_hash folder_id status visibility tags uploaded_at is_deleted metadata"
    " previews"
)


def _stable(details: dict[str, Any]) -> dict[str, Any]:
    return {name: details.get(name) for name in _LASTING.split()}


@pytest.fixture
def origin(services: Services, settings: Settings, bucket: Any) -> Deployment:
    return Deployment(services, settings, bucket)


@pytest.fixture
def beside(settings: Settings, empty_url: str, s3_server: Any) -> Iterator[Deployment]:
    """An empty deployment beside the first."""
    store = another_bucket(open_store(s3_server.settings()), "restored")
    _empty(store)
    values = {"database_url": type(settings.database_url)(empty_url), "s3_bucket": "restored"}
    other = settings.model_copy(update=values)
    services = wire(other)
    ORIGIN.set(SYSTEM)
    yield Deployment(services, other, store)
    services.db.close()


@pytest.fixture
def key(origin: Deployment) -> str:
    """Fill the deployment; alice's key."""
    services, alice, bob = origin.services, Principal("alice"), Principal("bob")
    plans = services.folders.create(alice, "Plans", "all of them")
    deep = services.folders.create(alice, "deep", parent_id=plans.id)
    upload(services, alice, "a.txt", b"equal bytes", tags=("one", "two"), folder_id=deep.id)
    upload(services, alice, "b.txt", b"equal bytes", folder_id=plans.id)
    trashed = upload(services, alice, "c.txt", b"in the trash")
    services.files.trash(alice, trashed.id)
    compressed(services, alice, text(2_500_000), "long.txt", folder_id=plans.id)
    upload(services, alice, "large.bin", b"0123456789" * 1_900_000)  # several parts
    upload(services, bob, "empty.txt", b"")
    services.quotas.set_own("alice", Quota(10**9, 1_000))
    begin(services, alice, b"x" * 1_000)  # never completed
    assert sql(origin.db, "select count(*) from objects where encoding is not null") == [(1,)]
    return services.keys.create_key("alice")[1]


def sound(deployment: Deployment) -> None:
    """Nothing is left to do."""
    report = deployment.services.janitor.run(dry_run=True)
    assert report.compared and not any(report.counts().values()), report
    with deployment.db.transaction() as tx:
        assert not counters.differences(tx)


def test_T122_an_empty_deployment_becomes_the_one_that_was_backed_up(
    origin: Deployment, beside: Deployment, repository: Repository, key: str
) -> None:
    photo = upload(origin.services, Principal("alice"), "photo.jpg", with_exif("JPEG"), visibility="public")
    origin.services.pipeline.process(photo.id)
    origin.services.public_copies.publish(photo.id)
    assert sql(origin.db, "select count(*) from objects where public_key is not null") == [(1,)]
    before = origin.seen(key)
    archived = "update objects set storage_class = '{}', restore_requested_at = {} where encoding is not null"
    with origin.db.connection() as tx:
        tx.execute(archived.format("archived", "now()"))
        snapshot = origin.back_up(repository)
        tx.execute(archived.format("standard", "null"))
    upload(origin.services, Principal("alice"), "later.txt", b"later")
    living = origin.seen(key)

    plan = beside.restore(repository).plan(snapshot)
    assert (plan.present, plan.missing, plan.lost) == (0, snapshot.objects, 0)
    report = beside.restore(repository).run(snapshot)
    assert report.complete and (report.written, report.kept) == (snapshot.objects, 0)
    assert report.ended_uploads == 1
    assert beside.seen(key) == before
    sound(beside)
    upload(beside.services, Principal("alice"), "new.txt", b"new")
    assert origin.seen(key) == living
    assert sql(beside.db, "select distinct encoding, storage_class, restore_requested_at from objects") == [
        (None, "standard", None)
    ]
    told = sql(beside.db, "select target from audit_events where action = 'backup_restored'")
    assert told == [(snapshot.id,)]
    jobs = sql(beside.db, "select count(*) from procrastinate_jobs where task_name = 'compress_object'")
    assert jobs >= sql(origin.db, "select count(*) from procrastinate_jobs where task_name = 'compress_object'")
    with pytest.raises(Conflict, match="not empty"):
        beside.restore(repository).run(snapshot)


@plain_only
def test_T122_after_the_loss_of_the_database_the_bucket_is_kept(
    origin: Deployment, beside: Deployment, repository: Repository, key: str
) -> None:
    before = origin.seen(key)
    snapshot = origin.back_up(repository)
    later = upload(origin.services, Principal("alice"), "later.txt", b"later")
    kept = {info.key for info in origin.store.list_objects("")}
    restored = Deployment(
        wire(origin.settings.model_copy(update={"database_url": beside.settings.database_url})),
        origin.settings,
        origin.store,
    )
    report = restored.restore(repository).run(snapshot)
    assert report.complete and (report.written, report.kept) == (0, snapshot.objects)
    assert restored.seen(key) == before
    restored.services.janitor._orphan_age = timedelta()
    restored.services.janitor.run()
    assert {info.key for info in origin.store.list_objects("")} == kept  # with the object that no row names
    restored.services.janitor.run(delete_protected=True)
    left = {info.key for info in origin.store.list_objects("")}
    assert later.file_path not in left and left < kept
    assert restored.seen(key) == before
    restored.db.close()


@plain_only
def test_T122_after_the_loss_of_the_bucket_its_objects_are_written_again(
    origin: Deployment, repository: Repository, key: str
) -> None:
    snapshot = origin.back_up(repository)
    later = upload(origin.services, Principal("alice"), "later.txt", b"later")
    again = upload(origin.services, Principal("bob"), "again.txt", b"equal bytes")  # the repository has them
    _empty(origin.store)
    report = origin.restore(repository).run_bucket(snapshot)
    assert (report.written, report.kept, report.lost) == (snapshot.objects + 1, 0, 1)
    assert report.problems[0]["key"] == later.file_path and not report.complete
    assert sql(
        origin.db, "select in_bucket from files join objects on object_key = file_path where id = %s", later.id
    ) == [(False,)]
    with ObjectReader(origin.db, origin.store).open(origin.services.files.get(Principal("bob"), again.id)) as reader:
        assert reader.read(100) == b"equal bytes"
    assert origin.restore(repository).run_bucket(snapshot).kept == snapshot.objects + 1


@plain_only
def test_T122_a_restore_that_was_killed_goes_on(
    origin: Deployment, beside: Deployment, repository: Repository, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = origin.seen(key)
    snapshot = origin.back_up(repository)
    for number in (1, 8):  # calls of the bucket until it is killed
        with monkeypatch.context() as patch:
            left = iter(range(1, number))
            for function in ("stat", "put", "put_part", "complete_multipart"):
                patch.setattr(type(beside.store), function, _killed(getattr(type(beside.store), function), left))
            with pytest.raises(Killed):
                beside.restore(repository).run(snapshot)
    with monkeypatch.context() as patch:
        patch.setattr(Restore, "_record", _killed(Restore._record, iter(())))  # written, but not recorded
        with pytest.raises(Killed):
            beside.restore(repository).run(snapshot)
    assert unfinished(beside.db) == snapshot.id
    report = beside.restore(repository).run(snapshot)
    assert report.complete and report.written + report.kept == snapshot.objects
    assert unfinished(beside.db) is None
    assert beside.seen(key) == before
    for ref in list(beside.store.list_multiparts("")):
        beside.store.abort_multipart(ref)  # the janitor does, after an hour
    sound(beside)


def _killed(function: Callable[..., Any], left: Iterator[int]) -> Callable[..., Any]:
    """The function, as long as calls are left."""

    def limited(*arguments: Any, **keywords: Any) -> Any:
        if next(left, None) is None:
            raise Killed
        return function(*arguments, **keywords)

    return limited


@plain_only
def test_T122_a_gateway_that_runs_holds_a_restore_up(
    origin: Deployment, beside: Deployment, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = origin.back_up(repository)
    with monkeypatch.context() as patch, psycopg.connect(beside.db.url):
        patch.setattr("time.sleep", lambda seconds: None)
        for restore_ in (beside.restore(repository).run, beside.restore(repository).run_bucket):
            with pytest.raises(GatewayRunning):
                restore_(snapshot)
    assert beside.restore(repository).run(snapshot).complete


@plain_only
def test_T122_other_bytes_under_a_key_are_left_and_reported(
    origin: Deployment, beside: Deployment, repository: Repository, key: str
) -> None:
    snapshot = origin.back_up(repository)
    [[theirs]] = sql(origin.db, "select file_path from files where original_name = 'large.bin'")
    [[same]] = sql(origin.db, "select file_path from files where original_name = 'long.txt'")
    beside.store.put(theirs, b"other bytes", content_type="text/plain")
    beside.store.put(same, text(2_500_000), content_type="text/plain")
    report = beside.restore(repository).run(snapshot)
    assert (report.differing, report.kept, report.lost) == (1, 1, 0)
    assert report.problems == [{"key": theirs, "problem": "The bucket has other bytes under this key; they were left."}]
    with beside.store.open(theirs) as reader:
        assert reader.read(100) == b"other bytes"


@plain_only
def test_T122_files_whose_bytes_no_backup_has_are_listed(
    origin: Deployment, beside: Deployment, repository: Repository, key: str
) -> None:
    snapshot = origin.back_up(repository)
    for stored in list(repository.blobs()):
        repository.location.delete(stored.path)
    assert beside.restore(repository).plan(snapshot).lost == snapshot.objects
    report = beside.restore(repository).run(snapshot)
    assert report.lost == snapshot.objects == 5
    assert sql(beside.db, "select count(*) from objects where in_bucket") == [(0,)]


@plain_only
def test_a_bucket_that_is_busy_is_asked_again(
    origin: Deployment, beside: Deployment, repository: Repository, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = origin.back_up(repository)
    monkeypatch.setattr(parallel, "_WAITS", (0.0, 0.0))
    calls: list[str] = []
    real = type(beside.store).put

    def busy(self: Any, name: str, *arguments: Any, **keywords: Any) -> Any:
        calls.append(name)
        if calls.count(name) < 2:
            raise StorageUnavailable("SlowDown")
        return real(self, name, *arguments, **keywords)

    monkeypatch.setattr(type(beside.store), "put", busy)
    assert beside.restore(repository).run(snapshot).complete
    monkeypatch.setattr(type(beside.store), "stat", lambda *_: (_ for _ in ()).throw(StorageUnavailable("down")))
    with pytest.raises(Unavailable):
        origin.restore(repository, beside.store).run_bucket(snapshot)


@plain_only
def test_the_newest_snapshot_not_after_a_time_is_chosen(origin: Deployment, repository: Repository) -> None:
    with pytest.raises(NotFound):
        restore.choose(repository)
    first, second = (origin.back_up(repository) for _ in range(2))
    assert restore.choose(repository).id == second.id
    assert restore.choose(repository, as_of=first.taken_at).id == first.id
    assert restore.choose(repository, snapshot_id=first.id).id == first.id
    with pytest.raises(NotFound):
        restore.choose(repository, as_of=first.taken_at.replace(year=2000))


@plain_only
def test_single_files_and_folders_come_back_into_the_living_deployment(
    origin: Deployment, repository: Repository, key: str
) -> None:
    services, alice = origin.services, Principal("alice")
    [[plans, deep]] = sql(origin.db, "select a.id, b.id from folders a join folders b on b.parent_id = a.id")
    [[lost, time]] = sql(origin.db, "select id, uploaded_at from files where original_name = 'a.txt'")
    services.files.update(alice, lost, FileChange(visibility="public"), if_match=None)
    snapshot = origin.back_up(repository)
    services.files.purge(alice, lost)
    services.folders.delete(alice, deep)
    upload(services, alice, "a.txt", b"another")
    work = FileRestore(origin.db, services.intake, services.folders, repository)

    shown = work.run(snapshot, Wanted("alice", folder="/Plans"), dry_run=True)
    assert [line["path"] for line in shown.restored] == ["/Plans/deep/a.txt"] and "new_id" not in shown.restored[0]
    assert sorted(line["path"] for line in shown.still_there) == ["/Plans/b.txt", "/Plans/long.txt"]
    report = work.run(snapshot, Wanted(folder=str(plans)))
    file = services.files.get(alice, UUID(report.restored[0]["new_id"]))
    assert (file.original_name, file.tags, file.visibility) == ("a.txt", ["one", "two"], "public")
    assert file.uploaded_at == time
    assert not work.run(snapshot, Wanted(folder=str(plans))).restored  # it is there
    assert sql(origin.db, "select name, parent_id from folders where id = %s", file.folder_id) == [("deep", plans)]
    again = work.run(snapshot, Wanted(file_id=lost), into=plans)
    assert services.files.get(alice, UUID(again.restored[0]["new_id"])).file_hash == file.file_hash
    assert again.restored[0]["visibility"] == "public"
    [[trashed]] = sql(origin.db, "select id from files where original_name = 'b.txt'")
    services.files.trash(alice, trashed)
    assert work.run(snapshot, Wanted(file_id=trashed)).restored[0]["visibility"] == "private"
    with pytest.raises(NotFound):
        work.run(snapshot, Wanted("bob", file_id=lost))
    services.files.purge(alice, file.id)
    services.quotas.set_own("alice", Quota(1, None))
    assert work.run(snapshot, Wanted(file_id=lost)).failed[0]["problem"]
