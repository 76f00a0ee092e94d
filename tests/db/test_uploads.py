"""Concurrent uploads of one session wait for each other without a deadlock."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

from core.placement import Placement
from core.principal import Quota
from db import Database, counters, files, uploads
from db.files import NewFile
from db.uploads import NewUpload


def test_concurrent_uploads_of_one_session_do_not_deadlock(db: Database) -> None:
    """Admission and publication once locked the owner's usage and the session in opposite orders, which deadlocked (503)."""

    def upload(number: int) -> bool:
        key = f"files/{uuid4().hex}"
        new = NewUpload(
            owner_id="alice",
            protocol="raw",
            object_key=key,
            original_name="a.txt",
            content_type="text/plain",
            size=1,
            reserve=1,
            session_id=f"s{number // 40}",
            expires_in=timedelta(hours=1),
        )
        with db.transaction() as tx:
            admitted = uploads.admit(tx, new, quota=Quota(10_000), session_quota=Quota(), max_open=100)
        assert admitted is not None
        made = NewFile(
            upload_id=admitted.id,
            owner_id="alice",
            original_name=f"{number}.txt",
            object_key=key,
            etag="e",
            size=1,
            sha256=None,
            mime_type="text/plain",
            file_type="text",
            status="ready",
            placement=Placement(),
            metadata={},
        )
        with db.transaction() as tx:
            files.open_publication(tx, "alice", None, session_id=new.session_id, count=1, size=1)
            return files.publish(tx, made, link=True, forget=True) is not None

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(upload, range(160)))
    with db.connection() as tx:
        found = tx.execute("select session_id, files_uploaded from upload_sessions order by 1").fetchall()
        assert found == [(f"s{number}", 40) for number in range(4)]
        assert counters.differences(tx) == []
