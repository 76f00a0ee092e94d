"""Equal bytes of one owner are stored once, also with concurrent uploads. Bytes of other owners are not revealed."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from core.errors import DuplicateFile, NotFound
from core.placement import Placement
from core.principal import Principal
from db import Database
from services import Services
from services.library.files import FileQuery
from tests.compressed_files import text, time_passes
from tests.conftest import NOTHING, Leftovers
from tests.direct_steps import checked
from tests.direct_steps import upload as upload_direct
from tests.rows import sql
from tests.samples import Source
from tests.services.uploads.test_intake import counted, upload


def objects_of(db: Database, owner: str) -> int:
    [row] = sql(db, "select count(*) from objects where owner_id = %s", owner)
    return int(row[0])


def test_concurrent_equal_bytes_in_several_folders_share_one_object(
    services: Services, alice: Principal, db: Database, leftovers: Leftovers
) -> None:
    folders = [None, *(services.folders.create(alice, name=f"{n}", parent_id=None).id for n in range(5))]
    data = [os.urandom(1000), os.urandom(1000)]

    def batch(number: int) -> None:
        with services.intake.batch(alice, protocol="form") as batch:
            for piece in data if number % 2 else reversed(data):  # in either order, without a deadlock
                batch.receive(name="a.bin", claimed_type=None, stream=Source(piece))
            batch.commit(Placement(folder_id=folders[number]))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(batch, range(6)))
    assert len(services.files.list(alice, FileQuery()).items) == 12
    assert objects_of(db, "alice") == 2
    assert leftovers() == NOTHING


def test_concurrent_equal_bytes_with_reject_make_one_file(
    services: Services, alice: Principal, db: Database, leftovers: Leftovers
) -> None:
    folders = [None, *(services.folders.create(alice, name=f"{n}", parent_id=None).id for n in range(5))]
    data = os.urandom(1000)

    def attempt(folder: int | None) -> bool:
        with suppress(DuplicateFile):
            upload(services, alice, "a.bin", data, on_duplicate="reject", folder_id=folder)
            return True
        return False

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(attempt, folders)) == 1
    assert objects_of(db, "alice") == 1
    assert leftovers() == NOTHING


def test_form_and_direct_uploads_share_objects_with_each_other(
    services: Services, alice: Principal, db: Database, leftovers: Leftovers
) -> None:
    data = os.urandom(1000)
    first, second = upload(services, alice, "a.bin", data), upload_direct(services, alice, data)
    assert (second.status, second.file_path) == ("ready", first.file_path)
    other = os.urandom(1000)
    first, second = upload_direct(services, alice, other), upload(services, alice, "b.bin", other)
    assert second.file_path == first.file_path
    assert objects_of(db, "alice") == 2
    assert leftovers() == NOTHING


@pytest.mark.parametrize("wish", ["link", "copy", "reject"])
def test_T15_uploads_do_not_reveal_another_owners_bytes(
    services: Services, alice: Principal, bob: Principal, db: Database, wish: str
) -> None:
    """Statements, answer (but for random values) and quota are the same whether another owner has the bytes or not."""
    known, unknown = b"known " * 1000, b"other " * 1000
    upload(services, alice, "a.bin", known)
    seen = []
    for data in (unknown, known):
        with counted(services) as log:
            file = upload(services, bob, "a.bin", data, size=6000, on_duplicate=wish)
        with db.connection() as tx:
            usage = tx.execute("select used_bytes, reserved_bytes from owner_usage where owner_id = 'bob'").fetchone()
        random_ones = {"id", "etag", "stored_name", "file_path", "file_hash", "uploaded_at", "deleted_at", "version"}
        shown = {n: getattr(file, n) for n in file._fields if n not in random_ones}
        seen.append((log.statements, shown, usage, objects_of(db, "bob")))
        services.files.purge(bob, file.id)
    assert seen[0] == seen[1]
    mine = services.files.list(alice, FileQuery()).items[0]
    assert services.files.details(alice, mine.id, verify=True).integrity["checksum"] == "verified"


def scanned(db: Database, owner: str) -> dict[str, int]:
    """Usage by a scan of all rows."""
    files = sql(db, "select file_path, file_size from files where owner_id = %s", owner)
    largest = dict(files)
    return {
        "used": sum(size for _, size in files),
        "deduplicated": sum(size for _, size in files) - sum(largest.values()),
        "objects": len(largest),
    }


@pytest.mark.parametrize("seed", [1])
def test_deduplicated_bytes_equal_the_sum_over_all_rows(
    services: Services, alice: Principal, bob: Principal, db: Database, bucket: Any, leftovers: Leftovers, seed: int
) -> None:
    rng = random.Random(seed)
    contents = [rng.randbytes(rng.randint(0, 3000)) for _ in range(3)] + [text(6000, seed=seed)]
    for step in range(60):
        who = rng.choice([alice, alice, bob])
        files = services.files.list(who, FileQuery()).items + services.files.list(who, FileQuery(deleted=True)).items
        chosen = rng.choice(files) if files else None
        action = rng.choice(["upload", "upload", "direct", "copy", "trash", "restore", "purge", "compress"])
        if action == "upload":
            with suppress(DuplicateFile):
                wish = rng.choice(["link", "link", "copy", "reject"])
                upload(services, who, "a.txt", rng.choice(contents), on_duplicate=wish)
        elif action == "direct":
            upload_direct(services, who, rng.choice(contents[1:]), filename="b.txt")
        elif chosen is not None and action == "copy" and chosen.status == "ready":
            services.files.copy(who, chosen.id)
        elif chosen is not None and action == "trash":
            services.files.trash(who, chosen.id)
        elif chosen is not None and action == "restore":
            services.files.restore(who, chosen.id)
        elif chosen is not None and action == "purge":
            services.files.purge(who, chosen.id)
        elif chosen is not None and action == "compress":
            services.compression.compress(chosen.id)
        if step % 10 == 9:
            for owner in (alice, bob):
                found, told = scanned(db, owner.owner_id), services.stats.storage(owner)
                assert told["deduplicated_bytes"] == found["deduplicated"], step
                assert told["quota"]["used"] == found["used"], step
                assert objects_of(db, owner.owner_id) == found["objects"], step
    time_passes(db)
    services.janitor.run()
    assert leftovers() == NOTHING


def test_T107_an_object_is_deleted_with_its_last_file(
    services: Services, alice: Principal, db: Database, leftovers: Leftovers
) -> None:
    for _ in range(5):
        data = os.urandom(500)
        file = upload(services, alice, "a.bin", data)
        with ThreadPoolExecutor(6) as pool:
            ends = [
                pool.submit(action)
                for action in (
                    lambda file=file: services.files.purge(alice, file.id),
                    lambda file=file: services.files.purge(alice, file.id),
                    lambda file=file: services.files.copy(alice, file.id),
                    lambda file=file: services.files.trash(alice, file.id),
                    lambda file=file: services.files.restore(alice, file.id),
                    lambda data=data: upload(services, alice, "a.bin", data),
                )
            ]
            for end in ends:
                with suppress(NotFound):
                    end.result(60)
        assert leftovers() == NOTHING
        left = services.files.list(alice, FileQuery()).items
        assert left  # at least the equal upload
        for each in left:
            services.files.purge(alice, each.id)
        assert objects_of(db, "alice") == 0


def test_an_object_cannot_be_deleted_while_a_file_uses_it(services: Services, alice: Principal, db: Database) -> None:
    """Users are counted as rows, so no counter can drift, and the database refuses to break the rule."""
    file = upload(services, alice, "a.bin", b"hello")
    with pytest.raises(psycopg.errors.ForeignKeyViolation), db.connection() as tx:
        tx.execute("delete from objects where object_key = %s", [file.file_path])
    assert checked(services, file).status == "ready"
