"""Idempotency-Keys: the outcome of the first request under each key, kept for a day.

``created_at``, the time at which a key was claimed, identifies the claim: once another request has taken the key over, no
statement of the first request finds the row. An outcome is recorded in the transaction that does the work, so the work is
then rolled back."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from psycopg.types.json import Jsonb

from db import Tx, execute, one
from db.records import IdempotencyRecord

_CLAIM = """
with claimed as (
    insert into idempotency_keys as k (owner_id, key, request_digest, lease_until, created_at)
    values (%(owner)s, %(key)s, %(digest)s, now() + %(lease)s, clock_timestamp())
    on conflict (owner_id, key) do update
    set request_digest = excluded.request_digest, lease_until = excluded.lease_until, created_at = clock_timestamp(),
        outcome = null
    where k.created_at < now() - %(keep)s or (k.outcome is null and k.lease_until < now())
       or k.created_at = %(instead_of)s
    returning true as mine, request_digest, outcome, created_at, lease_until
),
found as (
    select * from claimed
    union all
    select false, request_digest, outcome, created_at, lease_until from idempotency_keys
    where owner_id = %(owner)s and key = %(key)s and not exists (select from claimed)
)
select mine, request_digest, outcome, created_at, extract(epoch from lease_until - now())::float as lease_left
from found
"""


def claim(
    tx: Tx,
    owner_id: str,
    key: str,
    request_digest: bytes,
    *,
    lease: timedelta,
    keep: timedelta,
    instead_of: datetime | None = None,
) -> IdempotencyRecord | None:
    """Claim the key for this request, or return the row of the request that holds it. A claim is taken over if its lease has
    expired or if ``instead_of`` names it. If the statement waited for another transaction, that one's change is not visible
    yet: the row is as it was before, or None."""
    params = {
        "owner": owner_id,
        "key": key,
        "digest": request_digest,
        "lease": lease,
        "keep": keep,
        "instead_of": instead_of,
    }
    return one(tx, IdempotencyRecord, _CLAIM, params)


_RECORD = """
update idempotency_keys set request_digest = %(digest)s, outcome = %(outcome)s
where owner_id = %(owner)s and key = %(key)s and created_at = %(claim)s
"""


def record(tx: Tx, owner_id: str, key: str, claim: datetime, *, request_digest: bytes, outcome: Any) -> bool:
    """Record the outcome, as JSON; False if another request has taken the key over."""
    params = {"owner": owner_id, "key": key, "claim": claim, "digest": request_digest, "outcome": Jsonb(outcome)}
    return execute(tx, _RECORD, params) == 1


# A row that another transaction has locked is recording the outcome, and needs no renewal.
_RENEW = """
update idempotency_keys set lease_until = now() + %(lease)s where (owner_id, key) in (
    select owner_id, key from idempotency_keys
    where owner_id = %(owner)s and key = %(key)s and created_at = %(claim)s and outcome is null
    for update skip locked)
"""


def renew(tx: Tx, owner_id: str, key: str, claim: datetime, *, lease: timedelta) -> None:
    """Extend the lease of a claim without an outcome."""
    execute(tx, _RENEW, {"owner": owner_id, "key": key, "claim": claim, "lease": lease})


_DROP = """
delete from idempotency_keys where owner_id = %(owner)s and key = %(key)s and created_at = %(claim)s and outcome is null
"""


def drop(tx: Tx, owner_id: str, key: str, claim: datetime) -> None:
    """Free the key unless an outcome was recorded. Waits for a transaction that has recorded one and is still committing."""
    execute(tx, _DROP, {"owner": owner_id, "key": key, "claim": claim})


def forget_old(tx: Tx, *, keep: timedelta, limit: int) -> int:
    """Delete rows older than ``keep``; how many."""
    sql = """
    delete from idempotency_keys where (owner_id, key) in (
        select owner_id, key from idempotency_keys where created_at < now() - %(keep)s limit %(limit)s)
    """
    return execute(tx, sql, {"keep": keep, "limit": limit})
