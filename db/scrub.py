"""The scrub: passes over all objects, marks, and findings (tables in migration 0032).

A mark is ``checked_at``, the time at which the last check began. It is committed before the first byte is read, and decides which
object is next, so an object that kills or hangs its reader goes to the end of the queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from db import Tx, events, execute, many, one, scalar
from db.records import ScrubFindingRecord, ScrubObject, ScrubPassRecord

# As in the indexes: those with a known checksum that may be handed out. Demonstration rows whose bytes never were have
# in_bucket = false without a check.
_SCRUBBED = """status = 'stored' and sha256 is not null and scan_verdict is distinct from 'infected'
    and (in_bucket or checked_at is not null)"""

# -- passes ----------------------------------------------------------------------------------------------------------------

_COLUMNS = "id, requested, began_at, objects, read_objects, read_bytes, swept_at, finished_at"


def latest_pass(tx: Tx) -> ScrubPassRecord | None:
    """The latest pass, finished or not."""
    return one(tx, ScrubPassRecord, f"select {_COLUMNS} from scrub_passes order by id desc limit 1")


def begin_pass(tx: Tx, *, requested: bool) -> ScrubPassRecord | None:
    """Begin a pass over all objects. None if one is open; a requested pass takes the place of one that was not."""
    sql = f"""
    with replaced as (
        update scrub_passes set finished_at = now() where finished_at is null and %(requested)s and not requested returning 1
    )
    insert into scrub_passes (requested, objects)
    select %(requested)s, (select count(*) from objects where {_SCRUBBED}) where (select count(*) from replaced) >= 0
    on conflict ((true)) where finished_at is null do nothing returning {_COLUMNS}
    """
    return one(tx, ScrubPassRecord, sql, {"requested": requested})


def advance_pass(
    tx: Tx, pass_id: int, *, objects: int, size: int, swept: bool = False, finished: bool = False
) -> ScrubPassRecord | None:
    """Add to a pass what was read. Several readers may do so."""
    sql = f"""
    update scrub_passes set read_objects = read_objects + %(objects)s, read_bytes = read_bytes + %(size)s,
        swept_at = case when %(swept)s then coalesce(swept_at, now()) else swept_at end,
        finished_at = case when %(finished)s then coalesce(finished_at, now()) else finished_at end
    where id = %(id)s returning {_COLUMNS}
    """
    params = {"id": pass_id, "objects": objects, "size": size, "swept": swept, "finished": finished}
    return one(tx, ScrubPassRecord, sql, params)


# -- marks -----------------------------------------------------------------------------------------------------------------

# What is known to be damaged stays so, or it would be handed out while it is read.
_MARK = """
update objects o
set checked_at = clock_timestamp(),
    checksum_state = case when o.checksum_state = 'mismatch' then 'mismatch' else 'unverified' end
from next where o.object_key = next.object_key
returning o.object_key, o.owner_id, o.size, o.sha256, o.etag, o.content_type, o.encoding, coalesce(o.stored_size, o.size),
    o.public_key, o.public_sha256, o.public_etag, new.checked_at, old.checked_at, old.checksum_state
"""
_NEXT = f"""
with next as (
    select object_key from objects
    where {_SCRUBBED} and coalesce(checked_at, '-infinity') < %(before)s
    and (coalesce(checked_at, '-infinity'), object_key) > (coalesce(%(checked)s::timestamptz, '-infinity'), %(key)s)
    order by coalesce(checked_at, '-infinity'), object_key limit 1 for no key update skip locked
)
{_MARK}
"""
_UNFINISHED = f"""
with next as (
    select object_key from objects
    where {_SCRUBBED} and checksum_state = 'unverified' and checked_at >= %(began)s and checked_at < %(swept)s
    and not exists (select from scrub_findings f where f.object_key = objects.object_key and f.resolved_at is null)
    order by checked_at limit 1 for no key update skip locked
)
{_MARK}
"""
_AGAIN = f"""
with next as (
    select object_key from objects
    where {_SCRUBBED} and (object_key = %(key)s or public_key = %(key)s) for no key update skip locked
)
{_MARK}
"""


def mark_next(tx: Tx, *, before: datetime, after: ScrubObject | None) -> ScrubObject | None:
    """Mark the object whose check is the oldest, if it began before this moment.

    The search begins where ``after`` was found: PostgreSQL keeps the index entries of earlier marks while an old snapshot
    lives, as that of a backup, and would step over all of them each time."""
    params = {"before": before, "checked": after and after.checked_before, "key": after.object_key if after else ""}
    return one(tx, ScrubObject, _NEXT, params)


def mark_unfinished(tx: Tx, *, began: datetime, swept: datetime) -> ScrubObject | None:
    """Mark an object whose check began in this time and found nothing out."""
    return one(tx, ScrubObject, _UNFINISHED, {"began": began, "swept": swept})


def mark(tx: Tx, key: str) -> ScrubObject | None:
    """Mark the object with this key, or with this public copy. None if it is gone."""
    return one(tx, ScrubObject, _AGAIN, {"key": key})


_UNMARK = """
update objects set checksum_state = %(state)s, checked_at = case when %(keep)s then checked_at else %(checked_at)s end
where object_key = %(key)s and checked_at = %(began)s and checksum_state in (%(state)s, 'unverified')
"""


def unmark(tx: Tx, marked: ScrubObject, *, keep_place: bool) -> None:
    """Put back what the row said before the mark: nothing was found out. With ``keep_place`` the object stays where it is in the
    queue, else it is the next one again."""
    params = {"key": marked.object_key, "state": marked.state_before, "began": marked.began_at}
    execute(tx, _UNMARK, params | {"checked_at": marked.checked_before, "keep": keep_place})


# The row that was read is still as it was: neither purged nor replaced, nor accepted with another ETag.
_SAME = """object_key = %(key)s and status = 'stored' and sha256 = %(sha256)s and etag = %(etag)s
    and encoding is not distinct from %(encoding)s and scan_verdict is distinct from 'infected'"""


def _row(marked: ScrubObject) -> dict[str, object]:
    return {
        "key": marked.object_key,
        "sha256": marked.sha256,
        "etag": marked.etag,
        "encoding": marked.encoding,
        "public_key": marked.public_key,
    }


def is_current(tx: Tx, marked: ScrubObject) -> bool:
    """Whether the row is still as it was when the check began."""
    sql = f"select exists (select from objects where {_SAME} and public_key is not distinct from %(public_key)s)"
    return scalar(tx, sql, _row(marked)) is True


def record_verified(tx: Tx, marked: ScrubObject, *, etag: str, public_etag: str | None) -> bool:
    """Record that the bytes are right. The ETags are those of now, since a bucket that was restored may give equal bytes another
    one; None: the public copy was not read. False if the row has changed meanwhile."""
    sql = f"""
    update objects set in_bucket = true, checksum_state = 'verified', etag = %(new_etag)s,
        public_etag = coalesce(%(public_etag)s, public_etag)
    where {_SAME} and public_key is not distinct from %(public_key)s
    """
    return execute(tx, sql, _row(marked) | {"new_etag": etag, "public_etag": public_etag}) == 1


# -- findings --------------------------------------------------------------------------------------------------------------

_FINDING_COLUMNS = """id, object_key, owner_id, kind, found_at, expected_sha256, expected_size, expected_etag, found_sha256,
    found_size, found_etag, belongs_to, error, repaired_at, repaired_from, repaired_key, resolved_at"""


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong with an object, or with its public copy."""

    key: str
    kind: str  # missing, changed, swapped or unreadable
    sha256: str  # as it should be
    size: int  # bytes in the bucket, the same
    etag: str
    found_sha256: str | None = None
    found_size: int | None = None
    found_etag: str | None = None
    belongs_to: str | None = None
    error: str | None = None


_REPORT = """
insert into scrub_findings as f (object_key, owner_id, kind, next_check_at, expected_sha256, expected_size, expected_etag,
    found_sha256, found_size, found_etag, belongs_to, error)
values (%(damaged)s, %(owner)s, %(kind)s, now() + case when %(kind)s = 'unreadable' then %(soon)s else %(later)s end,
    %(expected_sha256)s, %(expected_size)s, %(expected_etag)s, %(found_sha256)s, %(found_size)s, %(found_etag)s,
    %(belongs_to)s, %(error)s)
on conflict (object_key) where resolved_at is null do update set
    kind = case when excluded.kind = 'unreadable' and f.confirmed then f.kind else excluded.kind end,
    tries = least(f.tries + 1, 1000),
    found_at = case when f.confirmed then f.found_at else now() end,
    next_check_at = case when f.tries >= 2 then now() + %(later)s else excluded.next_check_at end,
    found_sha256 = coalesce(excluded.found_sha256, f.found_sha256), found_size = coalesce(excluded.found_size, f.found_size),
    found_etag = coalesce(excluded.found_etag, f.found_etag), belongs_to = coalesce(excluded.belongs_to, f.belongs_to),
    error = coalesce(excluded.error, f.error)
returning new.confirmed, coalesce(old.confirmed, false)
"""


def report(
    tx: Tx, marked: ScrubObject, damage: Damage, *, soon: timedelta, later: timedelta
) -> tuple[bool, bool] | None:
    """Record damage: whether it is certain now, and whether that is news. What can't be read is certain at the third try; until
    then it is tried again ``soon``, and what is certain ``later``. None if the row has changed meanwhile."""
    params = _row(marked) | {
        "damaged": damage.key,
        "owner": marked.owner_id,
        "kind": damage.kind,
        "expected_sha256": damage.sha256,
        "expected_size": damage.size,
        "expected_etag": damage.etag,
        "found_sha256": damage.found_sha256,
        "found_size": damage.found_size,
        "found_etag": damage.found_etag,
        "belongs_to": damage.belongs_to,
        "error": damage.error,
        "soon": soon,
        "later": later,
    }
    lock = f"select 1 from objects where {_SAME} and public_key is not distinct from %(public_key)s for no key update"
    if scalar(tx, lock, params) is None:
        return None
    if damage.key == marked.object_key and damage.kind != "unreadable":
        sql = """
        update objects set in_bucket = %(kind)s <> 'missing',
            checksum_state = case %(kind)s when 'missing' then checksum_state else 'mismatch' end
        where object_key = %(key)s
        """
        execute(tx, sql, params)
    row = tx.execute(_REPORT, params).fetchone()
    assert row is not None
    confirmed, known = row
    if confirmed and not known:
        details = {"kind": damage.kind}
        events.record(tx, "object_damaged", owner_id=marked.owner_id, target=damage.key, details=details)
    return confirmed, confirmed and not known


def resolve(tx: Tx) -> int:
    """Close findings whose object is gone, or is known to be right again. Suspicions that did not hold are forgotten."""
    sql = """
    with ended as (
        select f.id, f.confirmed from scrub_findings f where f.resolved_at is null and not exists (
            select from objects o where o.status = 'stored' and o.object_key = f.object_key
            and not (o.in_bucket and o.checksum_state = 'verified')
            union all
            select from objects o where o.status = 'stored' and o.public_key = f.object_key)
        for update skip locked
    ),
    forgotten as (delete from scrub_findings f using ended where f.id = ended.id and not ended.confirmed)
    update scrub_findings f set resolved_at = now() from ended where f.id = ended.id and ended.confirmed
    """
    return execute(tx, sql)


def resolve_public(tx: Tx, public_key: str) -> None:
    """Close the finding on a public copy whose bytes are right again."""
    sql = """
    with held as (
        update scrub_findings set resolved_at = now() where object_key = %(key)s and resolved_at is null and confirmed
    )
    delete from scrub_findings where object_key = %(key)s and resolved_at is null and not confirmed
    """
    execute(tx, sql, {"key": public_key})


def record_repair(tx: Tx, damage: Damage, owner_id: str, *, source: str, new_key: str | None) -> None:
    """Close a finding: its object was repaired."""
    sql = """
    update scrub_findings set repaired_at = now(), resolved_at = now(), repaired_from = %(source)s, repaired_key = %(new)s
    where object_key = %(key)s and resolved_at is null
    """
    execute(tx, sql, {"key": damage.key, "source": source, "new": new_key})
    events.record(tx, "object_repaired", owner_id=owner_id, target=damage.key, details={"kind": damage.kind})


def to_check_again(tx: Tx, *, limit: int) -> list[str]:
    """Keys of findings that are due to be looked at again, and of objects that a reader found damaged."""
    sql = f"""
    (select object_key from scrub_findings where resolved_at is null and next_check_at <= now()
     order by next_check_at limit %(limit)s)
    union all
    (select object_key from objects o where (not in_bucket or checksum_state = 'mismatch') and {_SCRUBBED} and not exists (
        select from scrub_findings f where f.object_key = o.object_key and f.resolved_at is null)
     limit %(limit)s)
    """
    return [row[0] for row in tx.execute(sql, {"limit": limit})]


def postpone(tx: Tx, key: str, *, by: timedelta) -> None:
    """Look at a finding again after this time at the earliest."""
    sql = "update scrub_findings set next_check_at = now() + %(by)s where object_key = %(key)s and resolved_at is null"
    execute(tx, sql, {"key": key, "by": by})


def suspicions(tx: Tx) -> int:
    """The number of objects that could not be read, and are to be tried again."""
    return int(scalar(tx, "select count(*) from scrub_findings where resolved_at is null and not confirmed"))


def findings(tx: Tx, *, resolved: bool, before: int | None, limit: int) -> list[ScrubFindingRecord]:
    """Findings, newest first, from just before the finding ``before``; without ``resolved`` only open ones."""
    sql = f"""
    select {_FINDING_COLUMNS} from scrub_findings
    where confirmed and (%(resolved)s or resolved_at is null) and (%(before)s::bigint is null or id < %(before)s)
    order by id desc limit %(limit)s
    """
    return many(tx, ScrubFindingRecord, sql, {"resolved": resolved, "before": before, "limit": limit})


def count_open(tx: Tx) -> dict[str, int]:
    """The number of open findings, by kind."""
    sql = "select kind, count(*) from scrub_findings where confirmed and resolved_at is null group by 1 order by 1"
    return dict(tx.execute(sql).fetchall())


def oldest_check(tx: Tx) -> datetime | None:
    """When the check began that is the oldest: of an object that was never checked, when it was stored. None without objects."""
    sql = f"""
    select coalesce(checked_at, created_at) from objects where {_SCRUBBED}
    order by coalesce(checked_at, '-infinity') limit 1
    """
    found: datetime | None = scalar(tx, sql)
    return found


def forget_old(tx: Tx, *, keep: timedelta) -> int:
    """Delete findings that were resolved, and passes that ended, longer ago than this."""
    execute(tx, "delete from scrub_passes where finished_at < now() - %(keep)s", {"keep": keep})
    return execute(tx, "delete from scrub_findings where resolved_at < now() - %(keep)s", {"keep": keep})


# -- other objects ---------------------------------------------------------------------------------------------------------


def others(tx: Tx, *, than: str, limit: int) -> list[str]:
    """Keys of other objects that were read successfully a short time ago."""
    sql = f"""
    select object_key from objects
    where {_SCRUBBED} and checksum_state = 'verified' and in_bucket and size > 0 and object_key <> %(key)s
    order by coalesce(checked_at, '-infinity') desc limit %(limit)s
    """
    return [row[0] for row in tx.execute(sql, {"key": than, "limit": limit})]


_EQUAL = """
select object_key, owner_id, size, sha256, etag, content_type, encoding, coalesce(stored_size, size), public_key, public_sha256,
    public_etag, now(), checked_at, checksum_state
from objects where sha256 = %(sha256)s and status = 'stored' and in_bucket and checksum_state <> 'mismatch'
and scan_verdict is distinct from 'infected' and object_key <> %(key)s
"""


def equals(tx: Tx, marked: ScrubObject, *, limit: int) -> Sequence[ScrubObject]:
    """Objects that should have the same bytes and are not known to be damaged: the owner's first, then those of others."""
    # Files stay where they are: not in the archive.
    mine = "(owner_id <> %(owner)s or storage_class = 'standard')"
    sql = f"{_EQUAL} and size = %(size)s and {mine} order by owner_id <> %(owner)s, created_at limit %(limit)s"
    params = {"sha256": marked.sha256, "size": marked.size, "key": marked.object_key, "owner": marked.owner_id}
    return many(tx, ScrubObject, sql, params | {"limit": limit})


def owner_of_bytes(tx: Tx, sha256: str, *, other_than: str) -> str | None:
    """The key of another object that should have these bytes."""
    # The index has the owner before the checksum, so each owner costs a look-up: this is asked for damaged objects only.
    sql = "select object_key from objects where sha256 = %(sha256)s and object_key <> %(key)s and status = 'stored' limit 1"
    key: str | None = scalar(tx, sql, {"sha256": sha256, "key": other_than})
    return key
