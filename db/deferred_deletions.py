"""Keys in the bucket that belong to nothing in use and are deleted at a known time: see the table in 0007_scan.py.

Whoever deletes says so first (``deleting``), so that no replacement is put to use while it is being deleted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from db import Tx, execute


def reserve(tx: Tx, object_key: str, *, lease: timedelta) -> None:
    """Name a key that is about to be written, before its first byte (THREATS R1); if nobody puts it to use or renews it
    within the lease, what is there is deleted."""
    sql = "insert into deferred_deletions (object_key, delete_after) values (%(key)s, now() + %(lease)s)"
    execute(tx, sql, {"key": object_key, "lease": lease})


_RENEW = """
update deferred_deletions set delete_after = now() + %(lease)s, multipart_id = coalesce(%(multipart_id)s, multipart_id)
where object_key = %(key)s and not deleting
"""


def renew(tx: Tx, object_key: str, *, lease: timedelta, multipart_id: str | None = None) -> bool:
    """False where it is being deleted. ``multipart_id`` keeps the multipart from being taken for one that nobody owns."""
    return execute(tx, _RENEW, {"key": object_key, "lease": lease, "multipart_id": multipart_id}) == 1


def give_up(tx: Tx, object_key: str) -> None:
    """What was reserved is not needed; it is due now."""
    sql = "update deferred_deletions set delete_after = now() where object_key = %(key)s"
    execute(tx, sql, {"key": object_key})


_DUE = """
update deferred_deletions set deleting = true where object_key in (
    select object_key from deferred_deletions where delete_after <= now() order by delete_after limit %(limit)s
    for update skip locked)
returning object_key
"""


def claim_due(tx: Tx, *, limit: int) -> list[str]:
    """The keys of what is to be deleted now, the longest due first; from here on it can't be put to use."""
    return [row[0] for row in tx.execute(_DUE, {"limit": limit}).fetchall()]


def count_due(tx: Tx) -> int:
    row = tx.execute("select count(*) from deferred_deletions where delete_after <= now()").fetchone()
    assert row is not None
    return int(row[0])


def forget(tx: Tx, object_keys: Sequence[str]) -> None:
    """They are gone from the bucket."""
    execute(tx, "delete from deferred_deletions where object_key = any(%(keys)s)", {"keys": list(object_keys)})
