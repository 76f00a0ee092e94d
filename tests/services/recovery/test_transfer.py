"""Trees go in and come out with their folders, names, times and bytes, however often an import or export is broken off."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from core.errors import InvalidInput, NotFound, StorageFull, Unavailable
from core.principal import Principal, Quota
from db import Database
from services import Services
from services.objects.object_reader import ObjectReader
from services.recovery import exporting, parallel
from services.recovery.exporting import Exporting
from services.recovery.importing import Importing, TransferReport
from services.recovery.trees import EXPORTING, Entry, bucket_tree, local_tree
from tests.conftest import NOTHING, Leftovers
from tests.memory_store import MemoryStore
from tests.rows import sql
from tests.services.uploads.test_intake import upload

pytestmark = pytest.mark.memory_store

ALICE = Principal("alice")
OLD = datetime(2019, 5, 4, 3, 2, 1, 123456, UTC)
ODD = [
    "plain.txt", "UPPER.TXT", "two  spaces.txt", " leading", "trailing.", ".hidden", "no extension", "a.tar.gz", "..three",
    "con", "nul.txt", "semi;colon", "quote'\"", "per%20cent", "star*", "question?", "colon:", "pipe|", "less<greater>", "-rf",
    "$(touch x)", "~", "tab\tname", "ünïcode", "e\u0301 combined", "日本語.txt", "emoji 🎉.txt", "عربى", "a (1).txt",
    "a (1) (1).txt", "x" * 251 + ".txt", "é" * 120, "#hash&amp;", "new\nline", "ﬁ ligature", "İstanbul", "ß", "back\\slash",
    "comma,", "=1+1",
]  # fmt: skip


def imported(services: Services, tree: Any, owner: str = "alice", **options: Any) -> TransferReport:
    entries = local_tree(tree) if isinstance(tree, Path) else tree
    return Importing(services.db, services.intake, services.folders, owner).run(entries, **options)


def exported(services: Services, target: Path, owner: str = "alice", **options: Any) -> TransferReport:
    reader = ObjectReader(services.db, services.intake._store)
    return Exporting(services.db, reader, owner).run(target, **options)


def write(path: Path, data: bytes = b"data", at: datetime = OLD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    microseconds = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    os.utime(path, ns=(0, microseconds * 1_000))
    return path


def listed(db: Database, owner: str = "alice") -> list[tuple[str, str, int, datetime, str]]:
    """Path, size, time and SHA-256 of all files, and empty folders."""
    rows = sql(
        db,
        "with recursive f (id, path) as (select id, name || '/' from folders where owner_id = %s and parent_id is null"
        " union all select c.id, f.path || c.name || '/' from folders c join f on c.parent_id = f.id)"
        " select coalesce(f.path, ''), x.original_name, x.file_size, x.uploaded_at, x.file_hash from f full join"
        " (select * from files where owner_id = %s and not is_deleted) x on x.folder_id = f.id order by 1, 2",
        owner,
        owner,
    )
    return [tuple(row) for row in rows]


def test_a_tree_keeps_its_folders_names_times_and_bytes(
    services: Services, db: Database, tmp_path: Path, leftovers: Leftovers
) -> None:
    write(tmp_path / "a.txt", b"one")
    write(tmp_path / "sub" / "deep" / "b.bin", b"two", OLD + timedelta(days=1))
    (tmp_path / "empty").mkdir()
    report = imported(services, tmp_path, threads=2)
    assert (report.files, report.folders, report.failed, report.bytes) == (2, 3, 0, 6)
    assert listed(db) == [
        ("", "a.txt", 3, OLD, hashlib.sha256(b"one").hexdigest()),
        ("empty/", None, None, None, None),
        ("sub/", None, None, None, None),
        ("sub/deep/", "b.bin", 3, OLD + timedelta(days=1), hashlib.sha256(b"two").hexdigest()),
    ]
    assert leftovers() == NOTHING
    again = imported(services, tmp_path)
    assert (again.files, again.present, again.folders) == (0, 2, 0)


def test_what_comes_out_and_goes_in_again_is_the_same_tree(services: Services, db: Database, tmp_path: Path) -> None:
    at = OLD
    for number, name in enumerate(ODD):
        at += timedelta(seconds=1, microseconds=17)
        write(tmp_path / "in" / name, b"%d" % number, at)
        if number % 7 == 0 and len(name) < 200:
            write(tmp_path / "in" / f"folder {name}" / name, b"inside %d" % number, at)
    report = imported(services, tmp_path / "in")
    assert (report.failed, report.skipped) == (0, 0)
    assert exported(services, tmp_path / "out").failed == 0
    assert imported(services, tmp_path / "out", owner="bob").failed == 0
    assert listed(db, "bob") == listed(db)
    assert len(listed(db)) >= len(ODD)
    for tree in (tmp_path / "in", tmp_path / "out"):
        again = imported(services, tree)
        assert (again.files, again.folders) == (0, 0) and again.present == report.files
    again = exported(services, tmp_path / "out")
    assert (again.files, again.present, again.folders) == (0, report.files, 0)
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.name.startswith(".")) == ["..three", ".hidden"]


def test_one_bad_file_does_not_stop_the_others(
    services: Services, db: Database, tmp_path: Path, leftovers: Leftovers
) -> None:
    write(tmp_path / "good.txt")
    write(tmp_path / "picture.png", b"<html><script>alert(1)</script></html>")
    write(tmp_path / " ")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "folder-link").symlink_to("/etc")
    os.mkfifo(tmp_path / "pipe")
    write(tmp_path / "...", b"x")
    report = imported(services, tmp_path)
    assert (report.files, report.failed, report.skipped) == (1, 3, 3)
    codes = {problem.path: problem.code for problem in report.problems}
    assert codes.pop("picture.png") in ("type_mismatch", "type_not_allowed")
    assert codes == {" ": "invalid_name", "...": "invalid_name"} | dict.fromkeys(
        ["link", "folder-link", "pipe"], "skipped"
    )
    assert [row[1] for row in listed(db)] == ["good.txt"]
    assert leftovers() == NOTHING


def test_an_unreadable_file_is_told(services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.txt")
    write(tmp_path / "b.txt")
    real = os.open

    def refuse(path: Any, *arguments: Any, **keywords: Any) -> int:
        if path == "a.txt":
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **keywords)

    monkeypatch.setattr(os, "open", refuse)
    report = imported(services, tmp_path)
    assert (report.files, report.problems) == (1, [("a.txt", "unreadable", "Permission denied")])


def test_names_that_are_not_utf8_are_decoded(services: Services, db: Database, tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9 cr\xe8me.txt", "wb") as file:
        file.write(b"x")
    assert imported(services, tmp_path).failed == 0
    assert [row[1] for row in listed(db)] == ["café crème.txt"]
    assert imported(services, tmp_path).present == 1


def test_changed_files_are_added_and_touched_ones_are_not(services: Services, db: Database, tmp_path: Path) -> None:
    for name in ("changed.txt", "touched.txt", "same.txt"):
        write(tmp_path / name, b"before")
    imported(services, tmp_path)
    write(tmp_path / "changed.txt", b"after!", OLD + timedelta(hours=1))
    write(tmp_path / "touched.txt", b"before", OLD + timedelta(hours=1))
    report = imported(services, tmp_path)
    assert (report.files, report.present) == (1, 2)
    for _ in range(2):
        assert [row[1] for row in listed(db)] == ["changed (1).txt", "changed.txt", "same.txt", "touched.txt"]
        assert imported(services, tmp_path).files == 0


def test_names_that_differ_by_case_are_numbered_once(services: Services, db: Database, tmp_path: Path) -> None:
    for name, data in (("A.txt", b"1"), ("a.txt", b"2"), ("a (1).txt", b"3"), ("Dir/x", b"4"), ("dir/x", b"5")):
        write(tmp_path / name, data)
    assert imported(services, tmp_path, threads=1).files == 5
    before = listed(db)
    assert len(before) == 5
    again = imported(services, tmp_path)
    assert (again.files, again.present) == (0, 5) and listed(db) == before


def test_a_time_to_come_is_not_kept(services: Services, db: Database, tmp_path: Path) -> None:
    write(tmp_path / "a.txt", at=datetime.now(UTC) + timedelta(days=300))
    imported(services, tmp_path)
    assert listed(db)[0][3] <= datetime.now(UTC)
    assert imported(services, tmp_path).present == 1


def test_a_dry_run_changes_nothing_and_tells_the_same(services: Services, db: Database, tmp_path: Path) -> None:
    write(tmp_path / "sub" / "b.txt")
    write(tmp_path / "sub" / "sub" / "b.txt")
    write(tmp_path / "...", b"x")
    dry = imported(services, tmp_path, dry_run=True)
    assert (dry.files, dry.folders, dry.failed) == (2, 2, 1) and listed(db) == []
    report = imported(services, tmp_path)
    assert (report.files, report.folders, report.failed) == (2, 2, 1)
    dry = imported(services, tmp_path, dry_run=True)
    assert (dry.files, dry.present, dry.folders) == (0, 2, 0)


def test_quota_type_rules_and_folders_hold(services: Services, db: Database, tmp_path: Path, bob: Principal) -> None:
    services.quotas.set_own("alice", Quota(10, None))
    write(tmp_path / "large.txt", b"x" * 11)
    write(tmp_path / "small.txt", b"x" * 9)
    folder = services.folders.create(ALICE, "inbox")
    report = imported(services, tmp_path, folder_id=folder.id)
    assert (report.files, [problem.code for problem in report.problems]) == (1, ["quota_exceeded"])
    assert [row[:2] for row in listed(db)] == [("inbox/", "small.txt")]
    with pytest.raises(NotFound):
        imported(services, tmp_path, folder_id=services.folders.create(bob, "his").id)


def test_a_folder_that_can_not_be_made_costs_only_what_is_in_it(
    services: Services, db: Database, tmp_path: Path
) -> None:
    write(tmp_path / Path(*["d"] * 33) / "deep.txt")
    write(tmp_path / "a.txt")
    report = imported(services, tmp_path)
    assert (report.files, report.failed, report.problems[0].code) == (1, 2, "folder_too_deep")


def test_objects_under_a_prefix_become_files(services: Services, db: Database) -> None:
    store = MemoryStore()
    for key in ("in/a.txt", "in/sub/b.txt", "in/empty/", "in/sub//c.txt", "other.txt"):
        store.put(key, b"" if key.endswith("/") else key.encode(), content_type="text/plain")
    report = imported(services, bucket_tree(store, "in"))
    assert (report.files, report.folders) == (3, 2)
    assert [row[:2] for row in listed(db)] == [("", "a.txt"), ("empty/", None), ("sub/", "b.txt"), ("sub/", "c.txt")]
    assert listed(db)[0][3] == store.stat("in/a.txt").last_modified
    assert imported(services, bucket_tree(store, "in/")).present == 3


def test_T101_an_import_killed_at_any_file_is_completed_by_the_next(
    services: Services, db: Database, tmp_path: Path, leftovers: Leftovers
) -> None:
    for number in range(6):
        write(tmp_path / "sub" / f"{number}.txt", b"%d" % number)
    expected = {f"{number}.txt" for number in range(6)}

    def broken(after: int) -> Iterator[Entry]:
        for count, entry in enumerate(local_tree(tmp_path)):
            if count == after:
                raise KeyboardInterrupt
            yield entry

    for after in range(1, 7):
        with pytest.raises(KeyboardInterrupt):
            imported(services, broken(after), threads=2)
        assert leftovers() == NOTHING
    imported(services, tmp_path)
    assert {row[1] for row in listed(db)} == expected and len(listed(db)) == 6


def test_an_outage_is_waited_for_and_makes_no_duplicate(
    services: Services, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leftovers: Leftovers
) -> None:
    monkeypatch.setattr(parallel, "_WAITS", (0.01, 0.01))
    write(tmp_path / "a.txt")
    real, failures = services.intake.batch, iter([1])

    @contextmanager
    def batch(*arguments: Any, **keywords: Any) -> Iterator[Any]:
        with real(*arguments, **keywords) as opened:
            yield opened
        if next(failures, None):
            raise Unavailable("no answer")  # after the COMMIT

    monkeypatch.setattr(services.intake, "batch", batch)
    report = imported(services, tmp_path)
    assert (report.files + report.present, len(listed(db))) == (1, 1)
    failures = iter([1] * 10)
    write(tmp_path / "b.txt", b"b")

    def full(*arguments: Any, **keywords: Any) -> Any:
        raise StorageFull("full")

    monkeypatch.setattr(services.intake, "batch", full)
    with pytest.raises(StorageFull):
        imported(services, tmp_path)
    assert leftovers() == NOTHING


def test_export_tells_what_it_leaves_out(services: Services, db: Database, tmp_path: Path, bucket: Any) -> None:
    names = ("ready.txt", "processing.txt", "infected.txt", "trashed.txt", "gone.txt", "altered.txt", "expired.txt")
    found = {name: upload(services, ALICE, name, name.encode()) for name in names}
    for name in ("processing", "infected"):
        sql(db, "update files set status = %s where original_name = %s", name, f"{name}.txt")
    sql(db, "update files set expires_at = now() where original_name = 'expired.txt'")
    services.files.trash(ALICE, found["trashed.txt"].id)
    bucket.delete(found["gone.txt"].file_path)
    info = bucket.put(found["altered.txt"].file_path, b"ALTERED.TXT", content_type="text/plain")
    sql(db, "update objects set etag = %s where object_key = %s", info.etag, info.key)
    report = exported(services, tmp_path / "out")
    assert (report.files, report.failed, report.skipped) == (1, 2, 3)
    codes = {problem.path: problem.code for problem in report.problems}
    assert codes == dict.fromkeys(["processing.txt", "infected.txt", "expired.txt"], "left_out") | {
        "gone.txt": "content_missing",
        "altered.txt": "content_altered",
    }
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ready.txt"]
    exported(services, tmp_path / "out", trash=True)
    assert (tmp_path / "out" / "Trash" / "trashed.txt").read_bytes() == b"trashed.txt"


def test_export_overwrites_nothing_and_stays_in_its_folder(services: Services, db: Database, tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        upload(services, ALICE, name, name.encode())
    folder = services.folders.create(ALICE, "dir")
    upload(services, ALICE, "in.txt", b"in", folder_id=folder.id)
    upload(services, ALICE, "dir", b"a file with a folder's name")
    upload(services, ALICE, "dir (1)", b"and one with its number")
    sql(db, "update files set original_name = '../escaped' where original_name = 'c.txt'")
    target = tmp_path / "out"
    write(target / "a.txt", b"mine")
    (target / "b.txt").symlink_to(tmp_path / "outside")
    report = exported(services, target)
    assert (target / "a.txt").read_bytes() == b"mine"
    assert {problem.path: problem.code for problem in report.problems} == dict.fromkeys(
        ["a.txt", "b.txt"], "file_exists"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert (target / ".._escaped").read_bytes() == b"c.txt"
    assert (target / "dir" / "in.txt").read_bytes() == b"in"
    assert (target / "dir (1)").read_bytes() == b"and one with its number"
    assert (target / "dir (2)").read_bytes() == b"a file with a folder's name"
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "second").mkdir()
    elsewhere.mkdir()
    (tmp_path / "second" / "dir").symlink_to(elsewhere)
    exported(services, tmp_path / "second")
    assert list(elsewhere.iterdir()) == []


def test_one_folder_is_exported(services: Services, tmp_path: Path) -> None:
    folder = services.folders.create(ALICE, "dir")
    services.folders.create(ALICE, "below", parent_id=folder.id)
    upload(services, ALICE, "in.txt", b"in", folder_id=folder.id)
    upload(services, ALICE, "out.txt", b"out")
    exported(services, tmp_path / "out", folder_id=folder.id)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"in.txt", "below"}
    with pytest.raises(NotFound):
        exported(services, tmp_path / "out", owner="bob", folder_id=folder.id)
    write(tmp_path / "taken")
    with pytest.raises(InvalidInput):
        exported(services, tmp_path / "taken")


def test_an_export_that_was_broken_off_goes_on(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        upload(services, ALICE, f"{number}.txt", b"%d" % number)
    left, real = iter([None, None, KeyboardInterrupt()]), exporting.os.utime  # type: ignore[attr-defined]

    def killed(*arguments: Any, **keywords: Any) -> None:
        if (error := next(left, None)) is not None:
            raise error
        real(*arguments, **keywords)

    monkeypatch.setattr(os, "utime", killed)
    with pytest.raises(KeyboardInterrupt):
        exported(services, tmp_path / "out", threads=1)
    report = exported(services, tmp_path / "out")
    assert report.files + report.present == 5 and report.present >= 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{number}.txt" for number in range(5)}


def test_one_export_at_a_time_writes_into_a_folder_and_removes_what_a_killed_one_left(
    services: Services, tmp_path: Path
) -> None:
    upload(services, ALICE, "a.txt", b"a")
    write(tmp_path / "out" / EXPORTING / "left", b"by a killed export")
    with exporting._unfinished(tmp_path / "out"), pytest.raises(InvalidInput, match="Another export"):
        exported(services, tmp_path / "out")
    assert exported(services, tmp_path / "out").files == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.txt"]


def test_the_folder_itself_may_be_a_symbolic_link(services: Services, tmp_path: Path) -> None:
    write(tmp_path / "tree" / "a.txt")
    (tmp_path / "link").symlink_to("tree")
    assert imported(services, local_tree(tmp_path / "link"), dry_run=True).files == 1
