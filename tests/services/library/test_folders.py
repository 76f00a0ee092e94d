"""Folders, and concurrent changes of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import psycopg
import pytest

from core.cursors import Cursors
from core.errors import (
    FolderCycle,
    FolderNotEmpty,
    FolderTooDeep,
    GatewayError,
    InvalidCursor,
    InvalidInput,
    InvalidName,
    LimitReached,
    NameConflict,
    NotAllowed,
    NotFound,
)
from core.principal import Principal
from db import Database, execute, files
from db.records import FolderRecord
from services.library import folders as module
from services.library.folders import FolderChange, Folders
from tests.rows import add_file, sql


@pytest.fixture
def folders(db: Database) -> Folders:
    return Folders(db, Cursors([b"s" * 32]))


@pytest.fixture
def tree(folders: Folders, db: Database, alice: Principal) -> dict[str, FolderRecord]:
    """Folders a/b/c and d, with a file in each but d."""
    made: dict[str, FolderRecord] = {}
    for name, parent in (("a", None), ("b", "a"), ("c", "b"), ("d", None)):
        made[name] = folders.create(alice, name, "", made[parent].id if parent else None)
    for name in "abc":
        add_file(db, f"{name}.pdf", folder=made[name].id, size=10)
    return made


def test_create_and_get(folders: Folders, alice: Principal) -> None:
    made = folders.create(alice, "  Plans\u202e ", "what we plan", None)
    assert (made.name, made.description, made.parent_id, made.path) == ("Plans", "what we plan", None, "/Plans")
    assert (made.file_count, made.total_file_count, made.total_size) == (0, 0, 0)
    below = folders.create(alice, "2026", parent_id=made.id)
    assert below.path == "/Plans/2026" and folders.get(alice, below.id) == below
    for bad in ("", "..", "\ud800", " "):
        with pytest.raises(InvalidName):
            folders.create(alice, bad)
    for description in ("x" * 4001, "\0"):
        with pytest.raises(InvalidInput):
            folders.create(alice, "x", description)
        with pytest.raises(InvalidInput):
            folders.update(alice, made.id, FolderChange(description=description))


def test_tree_and_flat(
    folders: Folders, tree: dict[str, FolderRecord], alice: Principal, bob: Principal, root: Principal
) -> None:
    hers = folders.create(bob, "bobs")
    a, d = folders.tree(alice)
    assert (a.folder.name, d.folder.name, d.children) == ("a", "d", [])
    assert [child.folder.path for child in a.children] == ["/a/b"]
    assert [child.folder.path for child in a.children[0].children] == ["/a/b/c"]
    assert (a.folder.file_count, a.folder.total_file_count, a.folder.total_size) == (1, 3, 30)

    first = folders.flat(alice, limit=3)
    assert [f.name for f in first.items] == ["a", "b", "c"] and first.total == 4 and first.next_cursor
    rest = folders.flat(alice, limit=3, cursor=first.next_cursor)
    assert [f.name for f in rest.items] == ["d"] and rest.next_cursor is None
    with pytest.raises(InvalidCursor):
        folders.flat(bob, limit=3, cursor=first.next_cursor)

    assert folders.tree(root) == [] and len(folders.tree(root, "*")) == 3
    assert [f.id for f in folders.flat(root, "bob").items] == [hers.id]
    with pytest.raises(NotAllowed):
        folders.tree(alice, "bob")
    with pytest.raises(NotAllowed):
        folders.flat(alice, "*")


def test_rename_describe_and_move(folders: Folders, tree: dict[str, FolderRecord], alice: Principal) -> None:
    changed = folders.update(alice, tree["c"].id, FolderChange(name="C2", parent_id=tree["d"].id))
    assert (changed.path, changed.description) == ("/d/C2", "") and changed.updated_at > tree["c"].updated_at
    assert folders.update(alice, tree["c"].id, FolderChange(description="x")).name == "C2"
    assert folders.update(alice, tree["c"].id, FolderChange(parent_id=None)).path == "/C2"
    assert folders.update(alice, tree["c"].id, FolderChange(name="c2")).path == "/c2"  # its current name
    with pytest.raises(NameConflict):
        folders.update(alice, tree["c"].id, FolderChange(name="A"))
    for parent in "abc":
        folders.update(alice, tree["c"].id, FolderChange(parent_id=tree["b"].id))
        with pytest.raises(FolderCycle):
            folders.update(alice, tree["a"].id, FolderChange(parent_id=tree[parent].id))


def test_depth(folders: Folders, alice: Principal) -> None:
    parent = None
    for depth in range(32):
        parent = folders.create(alice, str(depth), parent_id=parent).id
    with pytest.raises(FolderTooDeep):
        folders.create(alice, "33", parent_id=parent)


def test_T73_the_number_of_folders_is_limited(
    folders: Folders, alice: Principal, bob: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FOLDERS", 3)

    def create(number: int) -> bool:
        try:
            folders.create(alice, str(number))
        except LimitReached:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(create, range(6))) == 3
    folders.create(bob, "0")


def test_T24_thirty_concurrent_creations_make_one_folder(folders: Folders, alice: Principal) -> None:
    def create(number: int) -> str:
        try:
            return folders.create(alice, "Plan" if number % 2 else "PLAN").name
        except NameConflict as error:
            return error.code

    with ThreadPoolExecutor(10) as pool:
        results = list(pool.map(create, range(30)))
    assert results.count("name_conflict") == 29


def test_T64_folders_of_other_owners_answer_NotFound(
    folders: Folders, tree: dict[str, FolderRecord], alice: Principal, bob: Principal, root: Principal
) -> None:
    hers, his = tree["d"].id, folders.create(bob, "bobs").id
    for attempt in (
        lambda: folders.get(bob, hers),
        lambda: folders.update(bob, hers, FolderChange(name="x")),
        lambda: folders.delete(bob, hers, recursive=True),
        lambda: folders.create(bob, "x", parent_id=hers),
        lambda: folders.update(bob, his, FolderChange(parent_id=hers)),
        lambda: folders.get(alice, 2**31 - 1),
        lambda: folders.delete(alice, 2**31 - 1),
        # Not even an admin can mix the trees of two owners.
        lambda: folders.update(root, his, FolderChange(parent_id=hers)),
    ):
        with pytest.raises(NotFound) as caught:
            attempt()
        assert caught.value.detail == "There is no such folder."
    assert folders.get(root, hers).name == "d"
    assert folders.create(root, "by root", parent_id=hers).owner_id == "alice"
    assert folders.update(root, hers, FolderChange(name="D")).name == "D"
    assert folders.delete(root, hers, recursive=True) == {"trashed_files": 0, "deleted_folders": 2}


def test_delete_an_empty_folder(
    folders: Folders, tree: dict[str, FolderRecord], db: Database, alice: Principal
) -> None:
    for name in ("a", "b", "c"):
        with pytest.raises(FolderNotEmpty):
            folders.delete(alice, tree[name].id)
    trashed = add_file(db, "old.pdf", folder=tree["d"].id, deleted=True)
    assert folders.delete(alice, tree["d"].id) == {"trashed_files": 0, "deleted_folders": 1}
    with db.connection() as tx:
        kept = files.get(tx, trashed)
    assert kept is not None and kept.is_deleted and kept.folder_id is None and kept.version == 1
    with pytest.raises(NotFound):
        folders.get(alice, tree["d"].id)


def test_delete_recursively(
    folders: Folders, tree: dict[str, FolderRecord], db: Database, alice: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH", 2)
    elsewhere = add_file(db, "elsewhere.pdf", folder=tree["d"].id)
    assert folders.delete(alice, tree["a"].id, recursive=True) == {"trashed_files": 3, "deleted_folders": 3}
    assert [f.name for f in folders.flat(alice).items] == ["d"]
    with db.connection() as tx:
        rows = tx.execute("select original_name, version from files where deleted_at <= now() order by 1")
        assert rows.fetchall() == [(f"{name}.pdf", 2) for name in "abc"]
        counted = tx.execute("select count(*) from audit_events where action = 'trashed' and actor = 'system'")
        assert counted.fetchone() == (3,)
        kept = files.get(tx, elsewhere)
    assert kept is not None and not kept.is_deleted


def test_a_file_uploaded_while_its_folder_is_deleted_is_trashed_or_refused(
    folders: Folders, db: Database, alice: Principal
) -> None:
    for _ in range(5):
        folder = folders.create(alice, "busy").id

        def put(number: int, folder: int = folder) -> UUID | None:
            try:
                return add_file(db, f"{number}.pdf", folder=folder)
            except psycopg.errors.ForeignKeyViolation:
                return None

        with ThreadPoolExecutor(5) as pool:
            uploads = [pool.submit(put, number) for number in range(12)]
            deleted = pool.submit(folders.delete, alice, folder, recursive=True)
            stored = {upload.result() for upload in uploads} - {None}
            assert deleted.result()["trashed_files"] == len(stored)
        with db.transaction() as tx:
            rows = tx.execute("select id from files where is_deleted and folder_id is null").fetchall()
            assert stored == {row[0] for row in rows}
            execute(tx, "delete from files")


def test_only_the_deletion_retries_in_a_deadlock(
    folders: Folders, db: Database, tree: dict[str, FolderRecord], alice: Principal
) -> None:
    """A move locks the file before the folder; the deletion locks them in the opposite order."""
    [moving] = sql(db, "select id from files where folder_id = %s", tree["b"].id)
    with ThreadPoolExecutor(1) as pool:
        with db.transaction() as tx:
            files.lock(tx, moving[0])
            deleted = pool.submit(folders.delete, alice, tree["a"].id, recursive=True)
            with pytest.raises(TimeoutError):
                deleted.result(1.3)  # longer than PostgreSQL's deadlock_timeout of a second
            assert files.update(tx, moving[0], folder_id=tree["c"].id, set_folder=True) is not None
        assert deleted.result(20) == {"trashed_files": 3, "deleted_folders": 3}


def test_concurrent_changes_of_folders_and_files_leave_a_valid_tree(
    folders: Folders, db: Database, alice: Principal
) -> None:
    """Only documented errors occur, and afterwards the tree is valid and the counters are right."""
    top = folders.create(alice, "top").id

    def work(number: int) -> str:
        try:
            below = folders.create(alice, f"n{number % 3}", parent_id=top).id
            add_file(db, f"{number}.pdf", folder=below)
            folders.update(alice, below, FolderChange(parent_id=None, name=f"m{number}"))
            folders.delete(alice, below, recursive=True)
        except GatewayError as error:
            return error.code
        except psycopg.errors.ForeignKeyViolation:
            return "not_found"
        return "done"

    with ThreadPoolExecutor(6) as pool:
        results = set(pool.map(work, range(24)))
    assert results <= {"done", "name_conflict", "not_found"} and "done" in results
    with db.connection() as tx:
        assert (
            tx.execute("select count(*) from files where not is_deleted").fetchone()
            == tx.execute("select file_count from owner_usage where owner_id = 'alice'").fetchone()
        )
