"""T72: counters equal what they count, after any concurrent operations on files."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from core.errors import GatewayError
from core.principal import Principal
from db import Database, counters, file_lists, files, folders, objects, scalar, stats
from db.file_lists import FileFilter
from db.folders import FolderFilter
from services import Services
from services.library.files import FileChange
from services.library.folders import FolderChange
from tests.rows import add_file, sql
from tests.services.uploads.test_intake import upload


def differences(db: Database) -> list[Any]:
    with db.connection() as tx:
        return list(counters.differences(tx))


def scanned(db: Database, owner: str | None) -> dict[str, Any]:
    """Statistics by scanning the files."""
    mine, params = ("true", {}) if owner is None else ("owner_id = %(owner)s", {"owner": owner})
    with db.connection() as tx:

        def ask(sql: str) -> list[Any]:
            return tx.execute(sql.format(mine=mine), params).fetchall()

        return {
            "types": {
                row[0]: (row[1], row[2])
                for row in ask(
                    "select file_type, count(*), sum(file_size)::bigint from files where not is_deleted and {mine} group by 1"
                )
            },
            "statuses": dict(ask("select status, count(*) from files where not is_deleted and {mine} group by 1")),
            "folders": {
                row[0]: (row[1], row[2])
                for row in ask(
                    "select folder_id, count(*), sum(file_size)::bigint from files where not is_deleted and {mine} group by 1"
                )
            },
            "used": ask("select coalesce(sum(file_size), 0)::bigint from files where {mine}")[0][0],
            "stored": ask("select coalesce(sum(size), 0)::bigint from objects where status = 'stored' and {mine}")[0][
                0
            ],
        }


def kept(db: Database, owner: str | None) -> dict[str, Any]:
    with db.connection() as tx:
        counted = stats.count(tx, owner)
        usage = stats.usage(tx, owner)
        largest = stats.largest_folders(tx, owner, limit=1_000)
    return {
        "types": counted.by_type,
        "statuses": counted.by_status,
        "folders": {amount.folder_id: (amount.files, amount.size) for amount in largest},
        "used": usage.used,
        "stored": usage.stored,
    }


# -- random operations -----------------------------------------------------------------------------------------


class Life:
    """Random operations of one owner through the services. Some of them are refused."""

    def __init__(self, services: Services, owner: str, seed: int):
        self._services = services
        self._alice = Principal(owner)
        self._random = random.Random(seed)
        self._reader = [b"x" * n for n in (0, 1, 10, 100)]

    def run(self, steps: int) -> int:
        done = 0
        actions: list[Callable[[], object]] = [
            self._upload,
            self._upload,
            self._copy,
            self._move,
            self._rename,
            self._trash,
            self._restore,
            self._purge,
            self._make_folder,
            self._move_folder,
            self._delete_folder,
            self._check,
            self._download,
        ]
        for _ in range(steps):
            try:
                self._random.choice(actions)()
                done += 1
            except (GatewayError, IndexError):
                pass
        return done

    def _rows(self, sql: str) -> list[Any]:
        with self._services.db.connection() as tx:
            return tx.execute(sql, [self._alice.owner_id]).fetchall()

    def _file(self) -> UUID:
        found: UUID = self._random.choice(self._rows("select id from files where owner_id = %s"))[0]
        return found

    def _folder(self) -> int | None:
        found = [row[0] for row in self._rows("select id from folders where owner_id = %s")]
        return self._random.choice([None, *found])

    def _upload(self) -> None:
        where: dict[str, Any] = {"folder_id": self._folder(), "on_duplicate": self._random.choice(["link", "copy"])}
        name = f"{self._random.randrange(5)}.{self._random.choice(['txt', 'bin', 'pdf'])}"
        upload(self._services, self._alice, name, self._random.choice(self._reader), **where)

    def _copy(self) -> None:
        self._services.files.copy(self._alice, self._file(), target_folder_id=self._folder())

    def _move(self) -> None:
        self._services.files.move(self._alice, self._file(), self._folder(), if_match=None)

    def _rename(self) -> None:
        change = FileChange(original_name=f"{uuid4().hex}.txt", tags=["a"])
        self._services.files.update(self._alice, self._file(), change, if_match=None)

    def _trash(self) -> None:
        self._services.files.trash(self._alice, self._file())

    def _restore(self) -> None:
        self._services.files.restore(self._alice, self._file())

    def _purge(self) -> None:
        self._services.files.purge(self._alice, self._file())

    def _make_folder(self) -> None:
        self._services.folders.create(self._alice, uuid4().hex, parent_id=self._folder())

    def _move_folder(self) -> None:
        folder = self._folder()
        if folder is not None:
            self._services.folders.update(self._alice, folder, FolderChange(parent_id=self._folder()))

    def _delete_folder(self) -> None:
        folder = self._folder()
        if folder is not None:
            self._services.folders.delete(self._alice, folder, recursive=True)

    def _check(self) -> None:
        """Change the status, and perhaps the type, as a check of the bytes does."""
        with self._services.db.transaction() as tx:
            row = tx.execute(
                "update files set status = 'processing' where id = %s returning id", [self._file()]
            ).fetchone()
        if row is not None:
            with self._services.db.transaction() as tx:
                files.finish_check(
                    tx,
                    row[0],
                    status=self._random.choice(["ready", "rejected", "infected"]),
                    problem=None,
                    mime_type="image/png",
                )

    def _download(self) -> None:
        self._services.delivery.open(self._alice, self._file(), method="GET")


@pytest.mark.timeout(300)
def test_T72_counters_equal_a_scan_after_concurrent_operations(services: Services, db: Database) -> None:
    lives = [Life(services, owner, seed) for seed, owner in enumerate(["alice", "alice", "alice", "bob"])]
    done: list[int] = []
    failed: list[BaseException] = []

    def live(life: Life) -> None:
        try:
            done.append(life.run(70))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=live, args=(life,)) for life in lives]
    for thread in threads:
        thread.start()
    seen = 0
    while any(thread.is_alive() for thread in threads):  # every snapshot is consistent, not only the last
        assert differences(db) == []
        seen += 1
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    assert failed == [] and len(done) == 4 and min(done) > 20 and seen > 3
    assert differences(db) == []
    for owner in ("alice", "bob", None):
        assert kept(db, owner) == scanned(db, owner)
    with db.connection() as tx:
        for owner in ("alice", "bob"):
            for record in folders.tree(tx, FolderFilter(owner)):
                below = list(folders.paths_below(tx, record.id))
                row = tx.execute(
                    "select count(*) filter (where folder_id = %s), count(*), coalesce(sum(file_size), 0)::bigint"
                    " from files where folder_id = any(%s) and not is_deleted",
                    [record.id, below],
                ).fetchone()
                assert row == (record.file_count, record.total_file_count, record.total_size)
                assert folders.get(tx, record.id) == record


def test_totals_from_counters_equal_list_totals(db: Database) -> None:
    with db.transaction() as tx:
        top = folders.create(tx, "alice", name="top", description="", parent_id=None)
        low = folders.create(tx, "alice", name="low", description="", parent_id=top)
    chosen = random.Random(5)
    for number in range(60):
        add_file(
            db,
            f"{number}.x",
            owner=chosen.choice(["alice", "alice", "bob"]),
            file_type=chosen.choice(["image", "text"]),
            status=chosen.choice(["ready", "rejected"]),
            deleted=chosen.random() < 0.3,
            size=number,
        )
    with db.transaction() as tx:
        tx.execute("update files set folder_id = %s where owner_id = 'alice' and file_size %% 3 = 0", [top])
        tx.execute("update files set folder_id = %s where owner_id = 'alice' and file_size %% 3 = 1", [low])
    kinds: list[dict[str, Any]] = [
        {},
        {"deleted": True},
        {"file_type": "image"},
        {"file_type": "image", "status": "ready"},
        {"status": "infected"},
        {"status": "rejected", "deleted": True},
        {"folder_id": top},
        {"folder_id": top, "recursive": True},
        {"folder_id": low, "recursive": True},
        {"in_root": True},
        {"in_root": True, "recursive": True},
        {"folder_id": top, "deleted": True},
        {"folder_id": top, "status": "ready"},
        {"file_type": "application/pdf"},
        {"min_size": 10},
        {"in_root": True, "deleted": True},
    ]
    with db.connection() as tx:
        for owner in ("alice", "bob", "nobody", None):
            for kind in kinds:
                wanted = FileFilter(owner, **kind)
                items, _ = file_lists.page(tx, wanted, sort="-uploaded_at", after=None, limit=100)
                assert file_lists.total(tx, wanted) == len(items), (owner, kind)


def test_counters_are_correct_after_a_folder_row_is_deleted(db: Database) -> None:
    """The foreign key moves its files to the root, and the counters follow."""
    with db.transaction() as tx:
        folder = folders.create(tx, "alice", name="f", description="", parent_id=None)
    add_file(db, "a", folder=folder, size=5)
    add_file(db, "b", folder=folder, size=6, deleted=True)
    add_file(db, "c", size=7)
    sql(db, "delete from folders where id = %s", folder)
    assert differences(db) == [] and kept(db, "alice")["folders"] == {None: (2, 12)}


def test_objects_count_until_they_are_purged(db: Database) -> None:
    file_id = add_file(db, "a", size=100, key="files/a")
    add_file(db, "b", size=100, key="files/a")
    with db.connection() as tx:
        assert (usage := stats.usage(tx, "alice")).used == 200 and usage.stored == 100
    with db.transaction() as tx:
        tx.execute("delete from files")
        assert objects.mark_purging(tx, "files/a")
        assert (usage := stats.usage(tx, "alice")).used == 0 and usage.stored == 0
        objects.remove(tx, "files/a")
    assert differences(db) == [] and file_id


def test_a_download_updates_no_counter(db: Database) -> None:
    from db import events

    file_id = add_file(db, "a")

    def versions(tx: Any) -> list[Any]:
        tables = ("owner_usage", "type_counters", "folder_counters")
        return [scalar(tx, f"select xmin::text || ctid::text from {table}") for table in tables]

    with db.connection() as tx:
        before = versions(tx)
        events.record_download(tx, file_id)
        assert versions(tx) == before
        files.update(tx, file_id, tags=["x"], original_name="b")
        assert versions(tx) == before
        files.trash(tx, file_id)
        assert versions(tx) != before


def test_T101_counters_are_correct_after_a_process_was_killed(db: Database, database_url: str) -> None:
    """One process dies with uncommitted work, another between commits."""
    script = textwrap.dedent(
        """
        import sys
        from db import Database
        from tests.rows import add_file
        db = Database(sys.argv[1])
        for number in range(10_000):
            add_file(db, f"{number}.pdf", owner=sys.argv[2])
            print(number, flush=True)
            if number % 3 == 0:
                with db.transaction() as tx:
                    tx.execute("update files set is_deleted = true, deleted_at = now() where owner_id = %s", [sys.argv[2]])
                    print("half", flush=True)
        """
    )
    for owner in ("alice", "bob", "carol"):
        child = subprocess.Popen([sys.executable, "-c", script, database_url, owner], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(30):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    deadline = time.monotonic() + 30
    with db.connection() as tx:  # the server rolls back the transactions of dead clients
        while scalar(tx, "select count(*) from pg_stat_activity where state like 'idle in transaction%'"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert differences(db) == []
    for owner in ("alice", "bob", "carol"):
        assert kept(db, owner) == scanned(db, owner) and kept(db, owner)["used"] > 0


# -- wrong counters ----------------------------------------------------------------------------------------------


def test_the_janitor_repairs_a_wrong_counter(services: Services, db: Database) -> None:
    with db.transaction() as tx:
        folder = folders.create(tx, "alice", name="f", description="", parent_id=None)
    add_file(db, "a.pdf", folder=folder, size=5)
    add_file(db, "b.pdf", size=7, deleted=True)
    add_file(db, "c.pdf", owner="bob", size=9)
    assert services.janitor.run().corrected_counters == 0
    with db.transaction() as tx:
        tx.execute(
            "update owner_usage set used_bytes = 1, file_count = 9, stored_bytes = 0, reserved_bytes = 3"
            " where owner_id = 'alice'"
        )
        tx.execute("update type_counters set files = 0 where owner_id = 'alice' and is_deleted")
        tx.execute("delete from folder_counters where owner_id = 'alice'")
        tx.execute("insert into type_counters values ('carol', false, 'image', 'ready', 1, 1)")
    wrong = differences(db)
    assert {(w.owner_id, w.counter, w.kept, w.counted) for w in wrong} >= {
        ("alice", "used_bytes", 1, 12),
        ("alice", "file_count", 9, 1),
        ("alice", "reserved_bytes", 3, 0),
        ("alice", "trashed ready document files", 0, 1),
        ("alice", f"folder {folder} files", 0, 1),
        ("carol", "ready image bytes", 1, 0),
    }
    assert services.janitor.run(dry_run=True).corrected_counters == len(wrong)
    assert services.janitor.run(full=False).corrected_counters == 0
    assert differences(db) == wrong
    assert services.janitor.run().corrected_counters == len(wrong)
    assert differences(db) == []
    assert kept(db, "alice") == scanned(db, "alice") and kept(db, "bob") == scanned(db, "bob")


def test_a_repair_during_an_upload_loses_nothing(db: Database, database_url: str) -> None:
    add_file(db, "a.pdf", size=5)
    with psycopg.connect(database_url) as slow:
        slow.execute(
            "insert into objects (object_key, owner_id, size, etag, content_type) values ('files/s', 'alice', 3, 'e', 'x/y')"
        )
        slow.execute(
            "insert into files (owner_id, original_name, file_path, mime_type, file_type, file_size, status)"
            " values ('alice', 's', 'files/s', 'x/y', 'other', 3, 'ready')"
        )
        repaired = threading.Event()

        def repair() -> None:
            with db.transaction() as tx:
                counters.repair(tx, "alice")
            repaired.set()

        thread = threading.Thread(target=repair)
        thread.start()
        assert not repaired.wait(0.3)  # it waits for the upload, which has updated the counters
        slow.commit()
        thread.join(20)
    assert repaired.is_set() and differences(db) == []
    assert kept(db, "alice")["used"] == 8
