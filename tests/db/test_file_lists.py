"""T84: keyset pages neither skip nor repeat rows, for all sorts, filters and query plans."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import InvalidInput
from db import Database, Tx, file_lists, folders
from db.file_lists import FileFilter

KEYS = ("uploaded_at", "original_name", "file_size", "mime_type", "download_count", "last_accessed")
SORTS = [sign + key for key in KEYS for sign in ("", "-")]
START = datetime(2026, 1, 1, tzinfo=UTC)
TYPES = (("image/png", "image"), ("image/jpeg", "image"), ("application/pdf", "document"), ("text/plain", "text"))

_ADD = """
with o as (insert into objects (object_key, owner_id, size, etag, content_type)
           values (%(key)s, %(owner)s, 1, 'e', 'x/y') returning object_key)
insert into files (owner_id, original_name, file_path, mime_type, file_type, file_size, folder_id, status, tags, uploaded_at,
                   last_accessed, download_count, is_deleted, deleted_at)
select %(owner)s, %(name)s, object_key, %(mime_type)s, %(file_type)s, %(size)s, %(folder)s, %(status)s, %(tags)s, %(at)s,
       %(accessed)s, %(downloads)s, %(deleted)s, case when %(deleted)s then now() end
from o returning id
"""


def add(tx: Tx, owner: str, chosen: random.Random, folder: int | None = None) -> UUID:
    """Add a file whose sort values equal those of many others, so that ids decide. Some files were never accessed."""
    mime_type, file_type = chosen.choice(TYPES)
    row = tx.execute(
        _ADD,
        {
            "key": f"files/{uuid4().hex}",
            "owner": owner,
            "name": f"{chosen.choice('aB√é0')}{uuid4().hex[:6]}",
            "mime_type": mime_type,
            "file_type": file_type,
            "size": chosen.randrange(3),
            "folder": chosen.choice([None, folder]),
            "status": chosen.choice(["ready", "ready", "rejected"]),
            "tags": chosen.choice([[], ["x"], ["x", "y"]]),
            "at": START + timedelta(days=chosen.randrange(3)),
            "accessed": chosen.choice([None, None, START, START + timedelta(seconds=1)]),
            "downloads": chosen.randrange(3),
            "deleted": chosen.random() < 0.2,
        },
    ).fetchone()
    assert row is not None
    file_id: UUID = row[0]
    return file_id


def filters(owner: str | None, folder: int) -> list[FileFilter]:
    return [
        FileFilter(owner),
        FileFilter(owner, deleted=True),
        FileFilter(owner, file_type="image"),
        FileFilter(owner, file_type="application/pdf"),
        FileFilter(owner, file_type="image/*"),
        FileFilter(owner, in_root=True),
        FileFilter(owner, folder_id=folder, recursive=True),
        FileFilter(owner, status="rejected"),
        FileFilter(owner, tag="x", file_type="image"),
        FileFilter(owner, tag="x"),
        FileFilter(owner, tag="y", date_from=START + timedelta(days=1), deleted=True),
        FileFilter(owner, min_size=1, date_from=START + timedelta(days=1)),
    ]


def matching(tx: Tx, wanted: FileFilter) -> set[UUID]:
    where, params = file_lists.conditions(wanted)
    return {row[0] for row in tx.execute(f"select f.id from files f where {where}", params)}


def value(file: Any, sort: str) -> Any:
    key = sort.removeprefix("-")
    if key == "original_name":
        return file.original_name.casefold()
    if key == "last_accessed":
        return file.last_accessed or datetime.min.replace(tzinfo=UTC)
    return getattr(file, key)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    sort=st.sampled_from(SORTS),
    number=st.integers(0, 9),
    limit=st.integers(1, 7),
    everybody=st.booleans(),
    expected=st.sampled_from([None, 0, 1_000_000]),
)
def test_T84_pages_neither_skip_nor_repeat_during_uploads_and_purges(
    db: Database, seed: int, sort: str, number: int, limit: int, everybody: bool, expected: int | None
) -> None:
    chosen, owner = random.Random(seed), uuid4().hex
    with db.connection() as tx:
        if everybody:  # lists of all owners' files must not include files of earlier examples
            tx.execute("delete from files")
        folder = folders.create(tx, owner, name="f", description="", parent_id=None)
        owners = [owner, owner, f"{owner}-2"]
        for _ in range(chosen.randrange(40)):
            who = chosen.choice(owners)
            add(tx, who, chosen, folder if who == owner else None)
        wanted = filters(None if everybody else owner, folder)[number]
        before = matching(tx, wanted)
        seen: list[Any] = []
        after: list[Any] | None = None
        for _ in range(100):
            page, after = file_lists.page(tx, wanted, sort=sort, after=after, limit=limit, expected=expected)
            assert len(page) <= limit
            seen += [listed.file for listed in page]
            if after is None:
                break
            for _ in range(chosen.randrange(3)):  # concurrent uploads and purges
                add(tx, owner, chosen, folder)
                tx.execute("delete from files where id = %s", [chosen.choice(sorted(before, key=str))])
        else:
            pytest.fail("the pages have no end")
        stayed = before & matching(tx, wanted)
    ids = [file.id for file in seen]
    assert len(ids) == len(set(ids))
    assert stayed <= set(ids)
    order = [(value(file, sort), file.id) for file in seen]
    assert order == sorted(order, reverse=sort.startswith("-"))


@pytest.mark.parametrize("everybody", [False, True])
def test_all_three_query_plans_return_the_same_rows(db: Database, everybody: bool) -> None:
    chosen = random.Random(11)
    with db.connection() as tx:
        folder = folders.create(tx, "alice", name="f", description="", parent_id=None)
        for _ in range(60):
            who = chosen.choice(["alice", "alice", "bob"])
            add(tx, who, chosen, folder if who == "alice" else None)
        for wanted in filters(None if everybody else "alice", folder):
            everything = matching(tx, wanted)
            for sort in SORTS:
                found: list[Sequence[UUID]] = []
                for expected in (None, 0, 1_000_000):
                    page, _ = file_lists.page(tx, wanted, sort=sort, after=None, limit=200, expected=expected)
                    found.append([listed.file.id for listed in page])
                assert found[0] == found[1] == found[2] and set(found[0]) == everything


@pytest.mark.parametrize("sort", ["", "-", "id", "name_key", "uploaded_at; drop table files", "--uploaded_at"])
def test_T84_unknown_sorts_are_refused(db: Database, sort: str) -> None:
    with db.connection() as tx, pytest.raises(InvalidInput):
        file_lists.page(tx, FileFilter("alice"), sort=sort, after=None, limit=1)


@pytest.mark.parametrize(
    ("fields", "sort", "index"),
    [
        ({}, "-uploaded_at", "files_newest"),
        ({}, "uploaded_at", "files_newest"),
        ({}, "original_name", "files_by_name"),
        ({}, "-file_size", "files_by_size"),
        ({}, "mime_type", "files_by_kind_and_type"),
        ({"file_type": "image"}, "-file_size", "files_by_kind_and_size"),
        ({"file_type": "image"}, "mime_type", "files_by_kind_and_type"),
        ({"folder_id": 1}, "-uploaded_at", "files_newest_in_folder"),
        ({"folder_id": 1, "recursive": True}, "-uploaded_at", "files_newest_in_folder"),
        ({"in_root": True}, "uploaded_at", "files_newest_in_folder"),
        ({"status": "rejected"}, "-uploaded_at", "files_not_ready"),
        ({"tag": "x"}, "-uploaded_at", "file_tags_pkey"),
        ({"deleted": True}, "-uploaded_at", "files_newest"),
        ({"date_from": datetime(2026, 1, 1, tzinfo=UTC)}, "uploaded_at", "files_newest"),
        ({"owner_id": None}, "-uploaded_at", "files_newest_of_all"),
        ({"owner_id": None}, "original_name", "files_by_name"),
        ({"owner_id": None}, "-file_size", "files_by_size"),
    ],
)
def test_an_index_has_the_files_of_a_list_in_order(db: Database, fields: dict[str, Any], sort: str, index: str) -> None:
    """So a page of a million files costs what a page of a hundred does."""
    wanted, asked = FileFilter(**{"owner_id": "alice", **fields}), list[tuple[str, Any]]()

    class Recorder(psycopg.Cursor[Any]):
        def execute(self, query: Any, params: Any = None, **options: Any) -> Recorder:
            asked.append((query, params))
            return super().execute(query, params, **options)

    with db.transaction() as tx:
        # All that could take an index's place: tables with a few rows are rather read and sorted.
        for way in ("seqscan", "bitmapscan", "sort"):
            tx.execute(f"set local enable_{way} = off")
        usual, tx.cursor_factory = tx.cursor_factory, Recorder
        try:
            file_lists.page(tx, wanted, sort=sort, after=None, limit=51)
        finally:
            tx.cursor_factory = usual
        [[plan]] = tx.execute("explain (format json) " + asked[-1][0], asked[-1][1]).fetchone() or [[]]
    page = [node for node in nodes(plan["Plan"]) if node["Node Type"] == "Limit"][-1]
    used = list(nodes(page))
    assert not [node for node in used if "Sort" in node["Node Type"]]
    assert [node["Index Name"] for node in used if "Index Name" in node and node["Alias"].startswith("f")] == [index]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The nodes of a plan, the outer ones first."""
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)
