"""The rules of the folder tree, as named constraints, and its counts."""

from __future__ import annotations

import threading

import psycopg
import pytest

from db import Database, Tx, folders
from db.folders import FolderFilter
from tests.rows import add_file


def make(tx: Tx, name: str, parent: int | None = None, owner: str = "alice") -> int:
    return folders.create(tx, owner, name=name, description="", parent_id=parent)


def refused(
    db: Database, kind: type[psycopg.Error], name: str, parent: int | None = None, owner: str = "alice"
) -> str | None:
    """The name of the constraint that a new folder violates."""
    with pytest.raises(kind) as caught, db.transaction() as tx:
        make(tx, name, parent, owner)
    return caught.value.diag.constraint_name


def test_T24_sibling_names_are_unique_ignoring_case_and_normal_form(db: Database) -> None:
    with db.transaction() as tx:
        first = make(tx, "Café")
        make(tx, "Café", first)
        make(tx, "Café", owner="bob")
    for name in ("café", "CAFÉ", "Cafe\u0301", "Ｃafé"):
        assert refused(db, psycopg.errors.UniqueViolation, name) == "folder_name_conflict"
        assert refused(db, psycopg.errors.UniqueViolation, name, first) == "folder_name_conflict"


def test_a_parent_must_exist_and_have_the_same_owner(db: Database) -> None:
    with db.transaction() as tx:
        hers = make(tx, "hers")
    assert refused(db, psycopg.errors.ForeignKeyViolation, "mine", hers, "bob") == "folder_parent"
    assert refused(db, psycopg.errors.ForeignKeyViolation, "mine", 2**31 - 1) == "folder_parent"


def test_T73_the_depth_limit_also_holds_for_moved_subtrees(db: Database) -> None:
    with db.transaction() as tx:
        chain = [make(tx, "1")]
        for depth in range(2, 33):
            chain.append(make(tx, str(depth), chain[-1]))
        pair = make(tx, "pair")
        make(tx, "below", pair)
    assert refused(db, psycopg.errors.CheckViolation, "33", chain[-1]) == "folder_too_deep"

    def move(parent: int) -> None:
        with db.transaction() as tx:
            folders.update(tx, pair, name=None, description=None, parent_id=parent, set_parent=True)

    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        move(chain[30])
    assert caught.value.diag.constraint_name == "folder_too_deep"
    move(chain[29])


def test_concurrent_moves_make_no_cycle(db: Database) -> None:
    with db.transaction() as tx:
        a, b = make(tx, "a"), make(tx, "b")
    errors: list[str | None] = []

    def move(folder: int, parent: int, moved: threading.Event | None) -> None:
        try:
            with db.transaction() as tx:
                folders.update(tx, folder, name=None, description=None, parent_id=parent, set_parent=True)
                if moved is not None:
                    moved.set()
                    other.join(0.5)  # give the other move time to start before the commit
        except psycopg.errors.CheckViolation as error:
            errors.append(error.diag.constraint_name)

    first_moved = threading.Event()
    other = threading.Thread(target=lambda: (first_moved.wait(5), move(b, a, None)))
    other.start()
    move(a, b, first_moved)
    other.join(10)
    assert errors == ["folder_cycle"]


def test_paths_and_counts(db: Database) -> None:
    with db.transaction() as tx:
        top = make(tx, "top")
        middle = make(tx, "middle", top)
        low = make(tx, "low", middle)
        beside = make(tx, "beside")
    for folder, name, size in ((top, "1", 1), (middle, "2", 10), (middle, "3", 100), (low, "4", 1000), (None, "5", 7)):
        add_file(db, name, folder=folder, size=size)
    add_file(db, "6", folder=low, size=10_000, deleted=True)
    with db.connection() as tx:
        everything = {record.id: record for record in folders.tree(tx, FolderFilter("alice"))}
        assert {id: (r.path, r.file_count, r.total_file_count, r.total_size) for id, r in everything.items()} == {
            top: ("/top", 1, 4, 1111),
            middle: ("/top/middle", 2, 3, 1110),
            low: ("/top/middle/low", 1, 1, 1000),
            beside: ("/beside", 0, 0, 0),
        }
        assert [record.id for record in everything.values()] == [beside, top, middle, low]  # as a tree
        assert all(folders.get(tx, id) == record for id, record in everything.items())
        assert folders.page(tx, FolderFilter("alice"), after=top, limit=2) == [everything[middle], everything[low]]
        assert folders.tree(tx, FolderFilter("bob")) == folders.page(tx, FolderFilter("bob"), after=0, limit=9) == []
        assert folders.tree(tx, FolderFilter(None)) == list(everything.values())
        assert folders.get(tx, 2**31 - 1) is None
        assert folders.paths_below(tx, top) == {top: "", middle: "middle/", low: "middle/low/"}
        assert (
            folders.count(tx, FolderFilter("alice")) == folders.count(tx, FolderFilter(None)) == 4
            and folders.count(tx, FolderFilter("bob")) == 0
        )


def test_trashing_in_batches_counts_files_that_were_in_the_trash(db: Database) -> None:
    with db.transaction() as tx:
        folder = make(tx, "a")
    ids = [add_file(db, str(n), folder=folder) for n in range(3)]
    before = add_file(db, "before", folder=folder, deleted=True)
    with db.transaction() as tx:
        steps = [folders.trash_inside(tx, [folder], limit=3) for _ in range(3)]
    assert [taken for taken, _ in steps] == [3, 1, 0] and sum(new for _, new in steps) == 3
    with db.connection() as tx:
        events = tx.execute("select file_id from audit_events where action = 'trashed'").fetchall()
        assert sorted(row[0] for row in events) == sorted(ids)
        versions = dict(tx.execute("select id, version from files where is_deleted and folder_id is null").fetchall())
        assert versions == dict.fromkeys(ids, 2) | {before: 1}
        assert tx.execute("select file_count from owner_usage").fetchone() == (0,)
