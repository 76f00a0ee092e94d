"""Idempotency-Keys: the first answer to a request, kept for a day.

The time at which a key was claimed names the claim: once another has taken the key over, no statement of the first one's
finds it. Where the answer is recorded in the transaction that does the work, that rolls the work back."""

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
        response_status = null, response = null, headers = '{}'
    where k.created_at < now() - %(keep)s or (k.response_status is null and k.lease_until < now())
       or k.created_at = %(instead_of)s
    returning true as mine, request_digest, response_status, response, headers, created_at, lease_until
),
found as (
    select * from claimed
    union all
    select false, request_digest, response_status, response, headers, created_at, lease_until from idempotency_keys
    where owner_id = %(owner)s and key = %(key)s and not exists (select from claimed)
)
select mine, request_digest, response_status, response, headers, created_at,
       extract(epoch from lease_until - now())::float as lease_left
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
    """Take the key for this request, or tell what became of the first one. A lease that its holder let run out is taken
    over, and so is the claim that ``instead_of`` names. What a transaction that it waited for has just changed is not told
    yet: None, or as it was before."""
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
update idempotency_keys
set request_digest = %(digest)s, response_status = %(status)s, response = %(response)s, headers = %(headers)s
where owner_id = %(owner)s and key = %(key)s and created_at = %(claim)s
"""


def record(
    tx: Tx,
    owner_id: str,
    key: str,
    claim: datetime,
    *,
    request_digest: bytes,
    status: int,
    response: Any,
    headers: dict[str, str],
) -> bool:
    """Keep the answer; False where another has taken the key over."""
    params = {
        "owner": owner_id,
        "key": key,
        "claim": claim,
        "digest": request_digest,
        "status": status,
        "response": Jsonb(response),
        "headers": Jsonb(headers),
    }
    return execute(tx, _RECORD, params) == 1


# A row that a transaction holds is recording the answer, and needs no renewal.
_RENEW = """
update idempotency_keys set lease_until = now() + %(lease)s where (owner_id, key) in (
    select owner_id, key from idempotency_keys
    where owner_id = %(owner)s and key = %(key)s and created_at = %(claim)s and response_status is null
    for update skip locked)
"""


def renew(tx: Tx, owner_id: str, key: str, claim: datetime, *, lease: timedelta) -> None:
    execute(tx, _RENEW, {"owner": owner_id, "key": key, "claim": claim, "lease": lease})


_DROP = """
delete from idempotency_keys
where owner_id = %(owner)s and key = %(key)s and created_at = %(claim)s and response_status is null
"""


def drop(tx: Tx, owner_id: str, key: str, claim: datetime) -> None:
    """Free the key, unless an answer was recorded. Waits for a transaction that has recorded one and whose COMMIT is still
    under way, so it can't be wrong about that."""
    execute(tx, _DROP, {"owner": owner_id, "key": key, "claim": claim})


def forget_old(tx: Tx, *, keep: timedelta, limit: int) -> int:
    sql = """
    delete from idempotency_keys where (owner_id, key) in (
        select owner_id, key from idempotency_keys where created_at < now() - %(keep)s limit %(limit)s)
    """
    return execute(tx, sql, {"keep": keep, "limit": limit})
