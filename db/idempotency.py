"""Idempotency-Keys: the first answer to a request, kept for a day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from psycopg.types.json import Jsonb

from db import Tx, execute, one


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    mine: bool  # this request is the first and holds the key now
    request_digest: bytes
    response_status: int | None  # None while the first request is running
    response: Any
    headers: dict[str, str]


_CLAIM = """
with claimed as (
    insert into idempotency_keys as k (owner_id, key, request_digest, lease_until)
    values (%(owner)s, %(key)s, %(digest)s, now() + %(lease)s)
    on conflict (owner_id, key) do update
    set request_digest = excluded.request_digest, lease_until = excluded.lease_until, created_at = now(),
        response_status = null, response = null, headers = '{}'
    where k.created_at < now() - %(keep)s or (k.response_status is null and k.lease_until < now())
    returning true as mine, request_digest, response_status, response, headers
)
select * from claimed
union all
select false, request_digest, response_status, response, headers from idempotency_keys
where owner_id = %(owner)s and key = %(key)s and not exists (select from claimed)
"""


def claim(
    tx: Tx,
    owner_id: str,
    key: str,
    request_digest: bytes,
    *,
    lease: timedelta,
    keep: timedelta,
) -> IdempotencyRecord | None:
    """Take the key for this request, or tell what became of the first one. A lease that its holder let run out is taken
    over. None where the other claimed it in this very moment and has not committed."""
    params = {"owner": owner_id, "key": key, "digest": request_digest, "lease": lease, "keep": keep}
    return one(tx, IdempotencyRecord, _CLAIM, params)


_FINISH = """
update idempotency_keys
set request_digest = %(digest)s, response_status = %(status)s, response = %(response)s, headers = %(headers)s
where owner_id = %(owner)s and key = %(key)s
"""


def finish(
    tx: Tx,
    owner_id: str,
    key: str,
    *,
    request_digest: bytes,
    status: int,
    response: Any,
    headers: dict[str, str],
) -> None:
    execute(
        tx,
        _FINISH,
        {
            "owner": owner_id,
            "key": key,
            "digest": request_digest,
            "status": status,
            "response": Jsonb(response),
            "headers": Jsonb(headers),
        },
    )


def renew(tx: Tx, owner_id: str, key: str, *, lease: timedelta) -> None:
    sql = "update idempotency_keys set lease_until = now() + %(lease)s where owner_id = %(owner)s and key = %(key)s"
    execute(tx, sql, {"owner": owner_id, "key": key, "lease": lease})


def drop(tx: Tx, owner_id: str, key: str) -> None:
    """The request failed: the next one with this key is a first one again."""
    sql = "delete from idempotency_keys where owner_id = %(owner)s and key = %(key)s and response_status is null"
    execute(tx, sql, {"owner": owner_id, "key": key})


def forget_old(tx: Tx, *, keep: timedelta, limit: int) -> int:
    sql = """
    delete from idempotency_keys where (owner_id, key) in (
        select owner_id, key from idempotency_keys where created_at < now() - %(keep)s limit %(limit)s)
    """
    return execute(tx, sql, {"keep": keep, "limit": limit})
