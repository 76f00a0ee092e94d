from __future__ import annotations

import pytest

from core.errors import NotAllowed
from core.principal import Principal, Quota
from db import Database, events, execute
from services.library.stats import Stats
from services.objects.capacity import CapacityLimits, StorageCapacity
from tests.rows import add_file, sql


def stats(db: Database, quota: int | None = None) -> Stats:
    capacity = StorageCapacity(db, object(), CapacityLimits(size=None, warning="10%", kept="0"))  # type: ignore[arg-type]
    return Stats(db, capacity, Quota(quota))


def test_statistics_without_files(db: Database, alice: Principal) -> None:
    assert stats(db).storage(alice) == {
        "total_files": 0,
        "total_size": 0,
        "by_type": [],
        "by_folder": [],
        "by_status": {},
        "deduplicated_bytes": 0,
        "compressed_bytes_saved": 0,
        "quota": {"used": 0, "limit": None, "files": 0, "max_files": None},
        "capacity": None,
        "recent_activity": [],
    }


def test_counts_leave_out_the_trash_and_other_owners(
    db: Database, alice: Principal, bob: Principal, root: Principal
) -> None:
    [row] = sql(db, "insert into folders (owner_id, name) values ('alice', 'plans') returning id")
    shared = add_file(db, "a.pdf", size=100, folder=row[0], key="files/shared")
    add_file(db, "b.pdf", size=100, folder=row[0], key="files/shared")
    add_file(db, "c.jpg", size=7, file_type="image", status="processing")
    add_file(db, "trash.jpg", size=1000, file_type="image", deleted=True)
    add_file(db, "d.pdf", size=5, owner="bob")
    with db.transaction() as tx:
        events.record(tx, "uploaded", owner_id="alice", file_id=shared)
        events.record_download(tx, shared)
        row_id = add_file(db, "gone.pdf", size=1)
        events.record(tx, "purged", owner_id="alice", file_id=row_id)
        execute(tx, "delete from files where id = %(id)s", {"id": row_id})
        execute(tx, "delete from objects where size = 1")
    found = stats(db, 5_000).storage(alice)
    assert (found["total_files"], found["total_size"]) == (3, 207)
    assert found["by_type"] == [
        {"file_type": "document", "count": 2, "size": 200},
        {"file_type": "image", "count": 1, "size": 7},
    ]
    assert found["by_folder"] == [
        {"folder_id": row[0], "name": "plans", "count": 2, "size": 200},
        {"folder_id": None, "name": None, "count": 1, "size": 7},
    ]
    assert found["by_status"] == {"ready": 2, "processing": 1}
    assert found["deduplicated_bytes"] == 100
    assert found["quota"] == {"used": 1207, "limit": 5_000, "files": 4, "max_files": None}
    assert [(event["action"], event["original_name"]) for event in found["recent_activity"]] == [
        ("purged", None),
        ("downloaded", "a.pdf"),
        ("uploaded", "a.pdf"),
    ]
    assert stats(db).storage(bob)["total_files"] == 1 and stats(db).storage(root)["total_files"] == 0
    everybody = stats(db, quota=5_000).storage(root, "*")
    assert everybody["total_size"] == 212 and everybody["quota"]["used"] == 1212 and everybody["quota"]["limit"] is None
    assert stats(db).storage(root, "bob")["total_size"] == 5
    with pytest.raises(NotAllowed):
        stats(db).storage(alice, "bob")


def test_an_owners_own_quota_overrides_the_default(db: Database, alice: Principal) -> None:
    add_file(db, "a.pdf")
    with db.transaction() as tx:
        execute(tx, "update owner_usage set quota_bytes = 0")
    assert stats(db, quota=9).storage(alice)["quota"]["limit"] == 0
