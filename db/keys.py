"""API keys. Only the SHA-256 of a key is stored: a random key of 256 bits needs no slow hash."""

from __future__ import annotations

from uuid import UUID

from db import Tx, execute, many, one, scalar
from db.records import KeyRecord

_COLUMNS = "id, owner_id, name, role, created_at, revoked_at"


def find(tx: Tx, key_digest: bytes) -> tuple[UUID, str, str, bool] | None:
    """Id, owner and role of the key with this digest, unless it is revoked, and whether the owner has a quota of its own."""
    sql = """
    select k.id, k.owner_id, k.role, u.quota_bytes is not null
    from api_keys k left join owner_usage u on u.owner_id = k.owner_id
    where k.key_digest = %(digest)s and k.revoked_at is null
    """
    return tx.execute(sql, {"digest": key_digest}).fetchone()


def create(tx: Tx, key_digest: bytes, *, owner_id: str, name: str, role: str) -> KeyRecord:
    """Add a key. One that exists already is returned unchanged."""
    sql = f"""
    insert into api_keys (key_digest, owner_id, name, role) values (%(digest)s, %(owner)s, %(name)s, %(role)s)
    on conflict (key_digest) do update set owner_id = api_keys.owner_id
    returning {_COLUMNS}
    """
    record = one(tx, KeyRecord, sql, {"digest": key_digest, "owner": owner_id, "name": name, "role": role})
    assert record is not None
    return record


def any_admin(tx: Tx) -> bool:
    """Whether there is an admin key that is not revoked."""
    return bool(scalar(tx, "select exists (select from api_keys where role = 'admin' and revoked_at is null)"))


def list_all(tx: Tx, *, after: UUID | None, limit: int) -> list[KeyRecord]:
    """Keys that are not revoked, oldest first, from after the key ``after``."""
    sql = f"""
    select {_COLUMNS} from api_keys where revoked_at is null and (%(after)s::uuid is null or id > %(after)s)
    order by id limit %(limit)s
    """
    return many(tx, KeyRecord, sql, {"after": after, "limit": limit})


def revoke(tx: Tx, key_id: UUID) -> bool:
    """False if there is no such key or it is revoked already."""
    sql = "update api_keys set revoked_at = now() where id = %(id)s and revoked_at is null"
    return execute(tx, sql, {"id": key_id}) == 1
