"""API keys. Only the SHA-256 of a key is stored: a random key of 256 bits needs no slow hash."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from db import Tx, execute, many, one, quotas, scalar
from db.records import KeyRecord

# All that the role allows, if none were named.
_SCOPES = """coalesce(scopes, '{read,write,delete}'::text[] || case role when 'admin' then '{admin}'::text[] end)"""
_COLUMNS = f"id, owner_id, name, role, {_SCOPES} as scopes, folder_id, expires_at, last_used_at, created_at, revoked_at"


class FoundKey(NamedTuple):
    """A valid key."""

    id: UUID
    owner_id: str
    role: str
    scopes: list[str]
    folder_id: int | None
    seconds_left: float | None  # None: it does not expire
    use_noted: bool  # within the last minute
    has_quota: bool  # the owner has a quota of its own


def find(tx: Tx, key_digest: bytes) -> FoundKey | None:
    """The key with this digest, unless it is revoked or has expired."""
    sql = f"""
    select k.id, k.owner_id, k.role, {_SCOPES}, k.folder_id, extract(epoch from k.expires_at - now())::float,
           coalesce(k.last_used_at > now() - interval '1 minute', false), {quotas.OWN}
    from api_keys k left join owner_usage u on u.owner_id = k.owner_id
    where k.key_digest = %(digest)s and k.revoked_at is null and coalesce(k.expires_at > now(), true)
    """
    return one(tx, FoundKey, sql, {"digest": key_digest})


def note_use(tx: Tx, key_id: UUID) -> None:
    """Set the time of the last use, unless another request does it just now."""
    sql = """
    update api_keys set last_used_at = now() where id = (
        select id from api_keys where id = %(id)s and coalesce(last_used_at <= now() - interval '1 minute', true)
        for no key update skip locked)
    """
    execute(tx, sql, {"id": key_id})


def create(
    tx: Tx,
    key_digest: bytes,
    *,
    owner_id: str,
    name: str,
    role: str,
    scopes: Collection[str] | None,
    folder_id: int | None,
    expires_at: datetime | None,
) -> KeyRecord | None:
    """Add a key. One that exists already is returned unchanged. None if the folder is not the owner's."""
    sql = f"""
    insert into api_keys (key_digest, owner_id, name, role, scopes, folder_id, expires_at)
    select %(digest)s, %(owner)s, %(name)s, %(role)s, %(scopes)s::text[], %(folder)s::integer, %(expires_at)s::timestamptz
    where %(folder)s::integer is null or exists (select from folders where id = %(folder)s and owner_id = %(owner)s)
    on conflict (key_digest) do update set owner_id = api_keys.owner_id
    returning {_COLUMNS}
    """
    params = {"digest": key_digest, "owner": owner_id, "name": name, "role": role, "folder": folder_id}
    return one(
        tx, KeyRecord, sql, params | {"scopes": None if scopes is None else list(scopes), "expires_at": expires_at}
    )


def lock_owner(tx: Tx, owner_id: str) -> None:
    """Let one transaction at a time add keys of an owner."""
    execute(tx, "select pg_advisory_xact_lock(hashtextextended('keys:' || %(owner)s, 0))", {"owner": owner_id})


def count_of(tx: Tx, owner_id: str, *, limit: int) -> int:
    """The number of an owner's keys that are not revoked, at most ``limit``."""
    sql = "select count(*) from (select from api_keys where owner_id = %(owner)s and revoked_at is null limit %(limit)s) found"
    return int(scalar(tx, sql, {"owner": owner_id, "limit": limit}))


def forget_old(tx: Tx, *, keep: timedelta, limit: int) -> int:
    """Delete keys that were revoked or expired ``keep`` ago and that no upload token refers to. Returns how many.

    Admins' keys stay: the next deployment would make a revoked ADMIN_API_KEY anew (T63)."""
    sql = """
    delete from api_keys where id in (
        select k.id from api_keys k where least(k.revoked_at, k.expires_at) < now() - %(keep)s and k.role = 'user'
        and not exists (select from upload_tokens t where t.key_id = k.id) limit %(limit)s)
    """
    return execute(tx, sql, {"keep": keep, "limit": limit})


def any_admin(tx: Tx) -> bool:
    """Whether there is an admin key that stays valid and has the scope ``admin``."""
    sql = f"""
    select exists (select from api_keys where role = 'admin' and revoked_at is null and expires_at is null
                   and 'admin' = any({_SCOPES}))
    """
    return bool(scalar(tx, sql))


def list_all(tx: Tx, *, after: UUID | None, limit: int) -> list[KeyRecord]:
    """Keys that are not revoked, oldest first, from after the key ``after``."""
    sql = f"""
    select {_COLUMNS} from api_keys where revoked_at is null and (%(after)s::uuid is null or id > %(after)s)
    order by id limit %(limit)s
    """
    return many(tx, KeyRecord, sql, {"after": after, "limit": limit})


def revoke(tx: Tx, key_id: UUID) -> str | None:
    """Revoke a key, and return its owner; None if there is no such key or it is revoked already."""
    sql = "update api_keys set revoked_at = now() where id = %(id)s and revoked_at is null returning owner_id"
    owner_id: str | None = scalar(tx, sql, {"id": key_id})
    return owner_id
