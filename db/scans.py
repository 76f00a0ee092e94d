"""Verdicts of the virus scanner, and re-scans. A verdict belongs to the object, so files on one object share it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from psycopg.types.json import Jsonb

from core.scan import Scan
from db import Tx, column, execute, many, one, scalar
from db.files import COLUMNS, FROM
from db.records import FileRecord, RescanRecord


def find_verdict(tx: Tx, owner_id: str, sha256: str, size: int, *, signatures: str) -> Scan | None:
    """The verdict on the owner's equal bytes by these signatures. Never on another owner's: a fast answer would tell that
    somebody has them (T15)."""
    sql = """
    select scan_verdict, scan_finding, scanned_with from objects
    where owner_id = %(owner)s and sha256 = %(sha256)s and size = %(size)s and status = 'stored'
    and scan_verdict is not null and scanned_with = %(signatures)s
    order by scanned_at desc limit 1
    """
    params = {"owner": owner_id, "sha256": sha256, "size": size, "signatures": signatures}
    row = tx.execute(sql, params).fetchone()
    return Scan(*row) if row else None


def record(tx: Tx, scan: Scan, *, owner_id: str, sha256: str, size: int, object_key: str) -> None:
    """Record the verdict for the object and the owner's objects of the same bytes. An infected object stays infected; a new
    upload of the bytes is scanned again."""
    sql = """
    update objects set scan_verdict = %(verdict)s, scan_finding = %(finding)s, scanned_with = %(signatures)s, scanned_at = now()
    where status = 'stored' and scan_verdict is distinct from 'infected'
    and (object_key = %(key)s or (owner_id = %(owner)s and sha256 = %(sha256)s and size = %(size)s))
    """
    execute(
        tx,
        sql,
        {
            "verdict": scan.verdict,
            "finding": scan.finding,
            "signatures": scan.signatures,
            "key": object_key,
            "owner": owner_id,
            "sha256": sha256,
            "size": size,
        },
    )


_LOCK_EQUAL = """
select object_key from objects
where object_key = %(key)s or (owner_id = %(owner)s and sha256 = %(sha256)s and size = %(size)s)
order by object_key for update
"""
_QUARANTINE = """
with quarantined as (
    update objects set scan_verdict = 'infected', scan_finding = %(finding)s, scanned_with = %(signatures)s, scanned_at = now(),
        location_state = null, public_key = null, public_sha256 = null, public_etag = null
    where object_key = any(%(keys)s)
    returning old.public_key
),
deleted_object_texts as (delete from object_texts where object_key = any(%(keys)s)),
deleted_previews as (delete from file_previews where object_key = any(%(keys)s) returning preview_path),
due as (
    insert into deferred_deletions (object_key, delete_after, urgent)
    select preview_path, now(), true from deleted_previews union all
    select public_key, now(), true from quarantined where public_key is not null
    on conflict (object_key) do update set delete_after = excluded.delete_after, urgent = true
),
due_earlier as (
    update deferred_deletions set delete_after = now(), urgent = true where replaced_by = any(%(keys)s)
)
update files set status = 'infected', problem = %(problem)s, version = version + 1
where file_path = any(%(keys)s) and status in ('processing', 'ready')
"""


def quarantine(
    tx: Tx, scan: Scan, *, owner_id: str, sha256: str, size: int, object_key: str, problem: dict[str, Any]
) -> list[str]:
    """Mark all files on the object, and on the owner's objects of the same bytes, as ``infected``. Their texts and previews are
    removed; previews, public copies and replaced objects in the bucket become due for deletion (T98).

    Returns the keys of these objects. They are found by content too, since a rewrite changes the key."""
    params = {"owner": owner_id, "sha256": sha256, "size": size, "key": object_key}
    keys = column(tx, _LOCK_EQUAL, params)
    found = {"keys": keys, "finding": scan.finding, "signatures": scan.signatures, "problem": Jsonb(problem)}
    execute(tx, _QUARANTINE, found)
    return keys


def exposed(tx: Tx, *, limit: int) -> list[str]:
    """Keys of infected objects whose presigned URLs may still be valid."""
    sql = """
    select object_key from objects where scan_verdict = 'infected' and urls_until > now() and status = 'stored' limit %(limit)s
    """
    return column(tx, sql, {"limit": limit})


# -- re-scans --------------------------------------------------------------------------------------------------------------

_RESCAN = "id, scanned_with, after_key, scanned, infected, failed, started_at, updated_at, finished_at"


def latest_rescan(tx: Tx) -> RescanRecord | None:
    """The latest re-scan, finished or not."""
    return one(tx, RescanRecord, f"select {_RESCAN} from rescans order by id desc limit 1")


def begin_rescan(tx: Tx, *, signatures: str | None) -> RescanRecord | None:
    """Start a re-scan. None if one is running."""
    sql = (
        "insert into rescans (scanned_with) values (%(signatures)s)"
        f" on conflict ((true)) where finished_at is null do nothing returning {_RESCAN}"
    )
    return one(tx, RescanRecord, sql, {"signatures": signatures})


def rescan_due(tx: Tx, *, every: timedelta) -> bool:
    """Whether no re-scan is running, and none has started within ``every``."""
    sql = "select not exists (select from rescans where finished_at is null or started_at > now() - %(every)s)"
    return scalar(tx, sql, {"every": every}) is True


def next_objects(tx: Tx, *, after: str, limit: int) -> Sequence[FileRecord]:
    """One file of each downloadable object, the trash included, in the order of the object keys from after ``after``."""
    sql = f"""
    select distinct on (o.object_key) {COLUMNS} from {FROM}
    where o.object_key > %(after)s and o.status = 'stored' and o.scan_verdict is distinct from 'infected' and f.status = 'ready'
    order by o.object_key, f.id limit %(limit)s
    """
    return many(tx, FileRecord, sql, {"after": after, "limit": limit})


def advance_rescan(
    tx: Tx, rescan: RescanRecord, *, to: str, scanned: int, infected: int, failed: int, finished: bool
) -> RescanRecord | None:
    """Record the progress of a re-scan. None if another worker has recorded it; this one then stops."""
    sql = f"""
    update rescans set after_key = %(to)s, scanned = scanned + %(scanned)s, infected = infected + %(infected)s,
        failed = failed + %(failed)s, updated_at = now(), finished_at = case when %(finished)s then now() end
    where id = %(id)s and after_key = %(from)s and finished_at is null
    returning {_RESCAN}
    """
    return one(
        tx,
        RescanRecord,
        sql,
        {
            "id": rescan.id,
            "from": rescan.after_key,
            "to": to,
            "scanned": scanned,
            "infected": infected,
            "failed": failed,
            "finished": finished,
        },
    )


def lost_rescan(tx: Tx, *, after: timedelta) -> RescanRecord | None:
    """A re-scan that is running and has no job."""
    sql = f"""
    select {_RESCAN} from rescans r where finished_at is null and updated_at < now() - %(after)s and not exists (
        select from procrastinate_jobs j where j.task_name = 'rescan' and j.status in ('todo', 'doing'))
    """
    return one(tx, RescanRecord, sql, {"after": after})
