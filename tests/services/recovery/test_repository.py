"""The repository of backups, in a folder and in a bucket, encrypted and not."""

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pyrage
import pytest
import zstandard

from core.errors import InvalidInput, NotFound
from core.parts import PART_SIZE
from core.secrets import Secrets
from services.objects.object_reader import Damaged
from services.recovery.age import IdentityNeeded
from services.recovery.locations import Bucket, Folder
from services.recovery.lock import RepositoryBusy, locked
from services.recovery.repository import (
    Blob,
    BlobMissing,
    Entry,
    InvalidBackup,
    Repository,
    RepositoryOptions,
    Snapshot,
    open_repository,
)
from storage_backends import StorageSettings
from storage_backends.base import ObjectNotFound

OLD, NEW = "o" * 32, "n" * 32
IDENTITY = pyrage.x25519.Identity.generate()
ID = "20261130T010203Z-0123abcd"
Make = Callable[..., Repository]


def keys(*secrets: str) -> list[bytes]:
    return Secrets(secrets).derive("backups")


@pytest.fixture(params=["folder", "bucket"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "folder":
        return Folder(tmp_path / "backups")
    return Bucket(request.getfixturevalue("bucket"), "some/backups")


@pytest.fixture(params=["plain", "encrypted"])
def make(request: pytest.FixtureRequest, location: Any) -> Make:
    def made(*secrets: str, identity: object = IDENTITY) -> Repository:
        recipients = [str(IDENTITY.to_public())] if request.param == "encrypted" else []
        text = None if identity is None else f"# created: now\n{identity}\n"
        return Repository(location, RepositoryOptions(keys(*secrets or (NEW,)), recipients=recipients, identities=text))

    return made


@pytest.fixture
def repository(make: Make) -> Repository:
    return make()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_snapshot(
    repository: Repository, snapshot_id: str = ID, *, damaged: list[str] | None = None, rows: bytes = b"rows and rows"
) -> Snapshot:
    entries = [orjson.dumps({"key": "files/a", "sha256": sha256(b"a"), "size": 1, "content_type": "text/plain"})]
    entries += [orjson.dumps({"key": key, "damaged": "missing"}) for key in damaged or []]
    stored_blobs = repository.blobs()
    name = repository.blob_names(sha256(b"a"), encrypted=repository.encrypts)[0]
    blob = next((blob for blob in stored_blobs if blob.name == name), Blob(name, "", 1))
    parts = {
        "database": ([rows[:5], rows[5:]], repository.encrypts),
        "entries": ([line + b"\n" for line in entries], repository.encrypts),
        "blobs": ([f"{blob.name},{blob.form},{blob.size},,\n".encode()], False),
    }
    stored = {}
    for name, (pieces, encrypted) in parts.items():
        packed = io.BytesIO()
        repository.pack(pieces, packed, encrypted=encrypted)
        packed.seek(0)
        stored[name] = repository.write_part(snapshot_id, name, packed, size=100)
    now = datetime(2026, 11, 30, 1, 2, 3, tzinfo=UTC)
    snapshot = Snapshot(
        id=snapshot_id,
        taken_at=now,
        finished_at=now + timedelta(seconds=5),
        files=1,
        objects=1,
        bytes=1,
        revision="0033",
        encrypted=repository.encrypts,
        damaged=len(damaged or []),
        damaged_keys=damaged or [],
        parts=stored,
    )
    repository.write_manifest(snapshot)
    return snapshot


def read_all(repository: Repository, digest: str) -> bytes:
    with repository.open(digest) as reader:
        return b"".join(iter(lambda: reader.read(100_000), b""))


@contextmanager
def replaced(repository: Repository, name: str) -> Iterator[bytearray]:
    """Change a stored file."""
    with repository.location.open(name) as reader:
        data = bytearray(iter_all(reader))
    yield data
    with repository.location.write(name, size=len(data)) as sink:
        sink.write(bytes(data))


def iter_all(reader: Any) -> bytes:
    return b"".join(iter(lambda: reader.read(100_000), b""))


def test_blobs_are_read_back(repository: Repository) -> None:
    for data in (b"", b"short", os.urandom(2 * PART_SIZE + 5)):
        assert not repository.has(sha256(data))
        blob = repository.write_blob(sha256(data), io.BytesIO(data), zstd=False, size=len(data))
        assert repository.has(sha256(data))
        assert read_all(repository, sha256(data)) == data
        assert blob in list(repository.blobs())


def test_blobs_may_be_several_frames(repository: Repository) -> None:
    data = os.urandom(1_000) * 3_000
    frames = b"".join(
        zstandard.ZstdCompressor().compress(data[at : at + 1_000_000]) for at in range(0, 3_000_000, 1_000_000)
    )
    blob = repository.write_blob(sha256(data), io.BytesIO(frames), zstd=True, size=len(frames))
    assert read_all(repository, sha256(data)) == data
    assert blob.size < 100_000


def test_missing_blobs_are_object_not_found(repository: Repository) -> None:
    for digest in (sha256(b"nothing"), "../../etc/passwd", ""):
        with pytest.raises(BlobMissing):
            read_all(repository, digest)
    assert issubclass(BlobMissing, ObjectNotFound)


def test_an_error_while_reading_writes_nothing(repository: Repository) -> None:
    class Broken:
        left = 10

        def read(self, size: int = -1, /) -> bytes:
            self.left -= 1
            if not self.left:
                raise Damaged("broken")
            return bytes(PART_SIZE // 4)

    with pytest.raises(Damaged, match="broken"):
        repository.write_blob(sha256(b"x"), Broken(), zstd=False, size=8 * PART_SIZE)
    assert list(repository.blobs()) == []
    assert list(repository.location.list("")) == []


def test_damaged_blobs_are_noticed(repository: Repository) -> None:
    data = os.urandom(200_000)
    blob = repository.write_blob(sha256(data), io.BytesIO(data), zstd=False, size=len(data))
    with replaced(repository, blob.path) as stored:
        stored[len(stored) // 2] ^= 1
    with pytest.raises(Damaged):
        read_all(repository, sha256(data))
    with replaced(repository, blob.path) as stored:
        del stored[-1000:]
    with pytest.raises(Damaged):
        read_all(repository, sha256(data))


def test_encrypted_blobs_tell_nothing_and_need_their_identity(make: Make) -> None:
    repository = make()
    if not repository.encrypts:
        pytest.skip("not encrypted")
    data = b"secret words " * 100
    blob = repository.write_blob(sha256(data), io.BytesIO(data), zstd=False, size=len(data))
    assert sha256(data) not in blob.path
    with repository.location.open(blob.path) as reader:
        stored = iter_all(reader)
    assert b"secret" not in stored
    assert pyrage.decrypt(stored, [IDENTITY]) == data
    for identity in (None, pyrage.x25519.Identity.generate()):
        with pytest.raises(IdentityNeeded):
            read_all(make(identity=identity), sha256(data))
    assert make(identity=None).has(sha256(data))


def test_an_earlier_secret_key_still_finds_blobs_and_verifies(make: Make) -> None:
    write_snapshot(make(OLD))
    make(OLD).write_blob(sha256(b"a"), io.BytesIO(b"a"), zstd=False, size=1)
    both = make(NEW, OLD)
    assert [snapshot.id for snapshot in both.snapshots()] == [ID]
    assert read_all(both, sha256(b"a")) == b"a"
    with pytest.raises(InvalidBackup, match="SECRET_KEY"):
        make(NEW).snapshots()


def test_snapshots_are_read_back(repository: Repository) -> None:
    assert repository.snapshots() == []
    written = write_snapshot(repository, damaged=["files/lost"])
    assert repository.snapshots() == [written]
    with repository.open_database(ID) as reader:
        assert iter_all(reader) == b"rows and rows"
    assert list(repository.entries(ID)) == [Entry("files/a", sha256(b"a"), 1, "text/plain")]
    assert list(repository.damaged(ID)) == [("files/lost", "missing")]
    (need,) = repository.needed(ID)
    assert need.blob.name in repository.blob_names(sha256(b"a"), encrypted=repository.encrypts)
    assert repository.mask("files/a", repository.mask("files/a", sha256(b"a"))) == sha256(b"a")


def test_a_snapshot_without_manifest_does_not_exist(repository: Repository) -> None:
    write_snapshot(repository)
    repository.location.delete(f"snapshots/{ID}/manifest.json")
    assert repository.snapshots() == []
    with pytest.raises(NotFound):
        repository.snapshot(ID)
    repository.remove_unfinished()
    assert list(repository.location.list("snapshots/")) == []


@pytest.mark.parametrize("part", ["database", "entries", "blobs", "manifest.json"])
def test_changed_snapshots_are_refused(repository: Repository, part: str) -> None:
    write_snapshot(repository)
    with replaced(repository, f"snapshots/{ID}/{part}") as stored:
        stored[-20] ^= 1
    with pytest.raises(InvalidBackup):
        repository.check_parts(repository.snapshot(ID))
    with pytest.raises(InvalidBackup):
        (list(repository.needed(ID)), list(repository.entries(ID)), repository.open_database(ID).__enter__())


def test_a_manifest_is_bound_to_its_snapshot(repository: Repository) -> None:
    write_snapshot(repository)
    other = ID.replace("2026", "2027")
    with repository.location.open(f"snapshots/{ID}/manifest.json") as reader:
        data = iter_all(reader)
    with repository.location.write(f"snapshots/{other}/manifest.json", size=len(data)) as sink:
        sink.write(data)
    with pytest.raises(InvalidBackup):
        repository.snapshot(other)
    assert [snapshot.id for snapshot in repository.snapshots()] == [ID]


@pytest.mark.parametrize("name", ["../../etc", ID + "/..", "", "latest"])
def test_names_of_snapshots_are_checked(repository: Repository, name: str) -> None:
    with pytest.raises(NotFound):
        repository.snapshot(name)


def test_folders_are_for_their_owner_only(tmp_path: Path) -> None:
    repository = Repository(Folder(tmp_path / "a" / "b"), RepositoryOptions(keys(NEW)))
    repository.write_blob(sha256(b"a"), io.BytesIO(b"a"), zstd=False, size=1)
    write_snapshot(repository)
    for path in [tmp_path / "a", *(tmp_path / "a").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_links_are_not_followed(tmp_path: Path) -> None:
    repository = Repository(Folder(tmp_path / "backups"), RepositoryOptions(keys(NEW)))
    (tmp_path / "data").write_bytes(b"a")
    blob = repository.write_blob(sha256(b"a"), io.BytesIO(b"a"), zstd=False, size=1)
    path = tmp_path / "backups" / blob.path
    path.unlink()
    path.symlink_to(tmp_path / "data")
    with pytest.raises(Exception, match="can't be used"):
        read_all(repository, sha256(b"a"))


def test_a_lock_has_one_holder(location: Any) -> None:
    with locked(location, "backup") as lock:
        lock.renew()
        lock.check()
    with locked(location, "prune"):  # released
        pass
    with locked(location, "backup") as first:
        first._renewed = 0.0  # as if it had been silent

        with locked(location, "prune", lease=0.1) as second:
            second.check()
            with pytest.raises(RepositoryBusy):
                first.check()
            with pytest.raises(RepositoryBusy):
                first.renew()
            second.check()


def test_a_renewed_lock_is_not_taken(location: Any) -> None:
    import threading

    with locked(location, "backup") as lock:
        stop = threading.Event()

        def renew() -> None:
            while not stop.wait(0.2):
                lock.renew()

        thread = threading.Thread(target=renew)
        thread.start()
        began = time.monotonic()
        with pytest.raises(RepositoryBusy, match="backup"), locked(location, "prune", lease=20):
            pass
        assert time.monotonic() - began < 20
        stop.set()
        thread.join()
        lock.check()


STORAGE = StorageSettings("s3", "http://localhost:1", "http://localhost:1", "us-east-1", "uploads", "a", "b")


@pytest.mark.parametrize(
    "place",
    ["", "ftp://x/y", "s3://", "s3://uploads", "s3://uploads/files/x", "s3://uploads/previews", "s3://other/../x"],
)
def test_places_where_no_repository_can_be(place: str) -> None:
    with pytest.raises(InvalidInput):
        open_repository(place, RepositoryOptions(keys(NEW), STORAGE, STORAGE))


@pytest.mark.parametrize("place", ["s3://uploads/backups", "s3://other", "s3://other/files", "/var/backups"])
def test_places_where_a_repository_can_be(place: str) -> None:
    open_repository(place, RepositoryOptions(keys(NEW), STORAGE, STORAGE))


def test_recipients_and_identities_are_checked() -> None:
    with pytest.raises(InvalidInput):
        open_repository("/b", RepositoryOptions(keys(NEW), recipients=["age1nonsense"]))
    with pytest.raises(InvalidInput):
        open_repository("/b", RepositoryOptions(keys(NEW), identities="AGE-SECRET-KEY-1NONSENSE"))
