"""Demonstration files: complete, for new owners only, and equal for equal seeds."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from core.errors import InvalidInput
from core.principal import Principal
from db import Database
from services import Services
from services.library.files import FileQuery
from services.upkeep.demo import Demo, DemoPlan
from tests.rows import add_file

PLAN = DemoPlan(files=400, objects=20, folders=30, owners=2, seed=7)


def names(db: Database, owner: str) -> list[Any]:
    sql = (
        "select original_name, file_type, tags, status, is_deleted from files where owner_id = %s order by uploaded_at"
    )
    with db.connection() as tx:
        return tx.execute(sql, [owner]).fetchall()


def test_every_file_has_a_row_and_some_have_objects(services: Services, db: Database, bucket: Any) -> None:
    report = Demo(db, bucket).seed(PLAN)
    assert report.owners == ["demo-1", "demo-2"] and (report.files, report.folders) == (400, 60)
    with db.connection() as tx:
        found = tx.execute("select object_key, sha256, size from objects where in_bucket").fetchall()
        assert len(found) == report.objects > 15
        for key, sha256, size in found:
            with bucket.open(key) as reader:
                content = reader.read()
            assert (hashlib.sha256(content).hexdigest(), len(content)) == (sha256, size)
        assert len(list(bucket.list_objects("files/"))) == report.objects
        counts = tx.execute(
            "select count(*), count(distinct file_path), count(distinct mime_type), bool_or(is_deleted), min(cardinality(tags)),"
            " sum(file_size) from files"
        ).fetchone()
        assert counts[0] == 400 and counts[1] == 400 - report.shared and counts[2] > 10 and counts[3]  # type: ignore[index]
        assert counts[4] == 0 and counts[5] == report.bytes  # type: ignore[index]
        assert tx.execute("select sum(used_bytes) from owner_usage").fetchone() == (report.bytes,)
        languages = tx.execute("select count(*), count(distinct language) from object_texts").fetchone()
        assert languages[0] == report.texts >= 35 and languages[1] >= 4  # type: ignore[index]
    page = services.files.list(Principal("demo-1"), FileQuery(limit=200))
    assert page.total and all(file.owner_id == "demo-1" for file in page.items)
    assert services.stats.storage(Principal("demo-1"))["total_files"] == page.total


def test_the_same_seed_gives_new_owners_the_same_files(db: Database, bucket: Any) -> None:
    plan = DemoPlan(files=200, objects=5, folders=10, owners=1, seed=3)
    first = Demo(db, bucket).seed(plan)
    before = names(db, "demo-1")
    second = Demo(db, bucket).seed(plan)
    assert (first.owners, second.owners) == (["demo-1"], ["demo-2"])
    assert names(db, "demo-1") == before == names(db, "demo-2")
    other = Demo(db, bucket).seed(DemoPlan(files=200, objects=0, folders=10, owners=1, seed=4, owner_id="zoe"))
    assert other.owners == ["zoe"] and names(db, "zoe") != before


def test_copies_of_files_with_bytes_have_different_names(db: Database, bucket: Any) -> None:
    report = Demo(db, bucket).seed(DemoPlan(files=300, objects=150, folders=0, owners=1, seed=5))
    assert report.files == 300 and report.objects > 100 and report.shared > 5


def test_owners_with_files_are_refused(db: Database, bucket: Any) -> None:
    add_file(db, "a.pdf", owner="alice")
    for plan in (
        DemoPlan(files=1, objects=0, folders=0, owners=1, seed=1, owner_id="alice"),
        DemoPlan(files=0, objects=0, folders=0, owners=1, seed=1),
        DemoPlan(files=1, objects=0, folders=10_001, owners=1, seed=1),
    ):
        with pytest.raises(InvalidInput):
            Demo(db, bucket).seed(plan)
    assert len(names(db, "alice")) == 1
