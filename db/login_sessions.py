"""Sessions of people who signed in with a browser. Only the SHA-256 of a session's secret is stored."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from uuid import UUID

from db import Tx, execute, one
from db.records import LoginSessionRecord

_COLUMNS = """s.id, s.owner_id, s.role, s.scopes, s.max_bytes, s.max_files, s.expires_at, s.key_id, k.key_digest,
    s.seen_at < now() - interval '1 minute' as unseen"""


def create(
    tx: Tx,
    session_digest: bytes,
    *,
    owner_id: str,
    key_id: UUID | None,
    role: str,
    scopes: Collection[str],
    max_bytes: int | None,
    max_files: int | None,
    life: timedelta,
) -> LoginSessionRecord:
    """Add a session."""
    sql = f"""
    with s as (
        insert into login_sessions (session_digest, owner_id, key_id, role, scopes, max_bytes, max_files, expires_at)
        values (%(digest)s, %(owner)s, %(key)s, %(role)s, %(scopes)s, %(max_bytes)s, %(max_files)s, now() + %(life)s)
        returning *
    )
    select {_COLUMNS} from s left join api_keys k on k.id = s.key_id
    """
    params = {"digest": session_digest, "owner": owner_id, "key": key_id, "role": role, "scopes": sorted(scopes)}
    made = one(tx, LoginSessionRecord, sql, params | {"max_bytes": max_bytes, "max_files": max_files, "life": life})
    assert made is not None
    return made


def lock_owner(tx: Tx, owner_id: str) -> None:
    """Let one transaction at a time add sessions of an owner."""
    execute(tx, "select pg_advisory_xact_lock(hashtextextended('sessions:' || %(owner)s, 0))", {"owner": owner_id})


def end_oldest(tx: Tx, owner_id: str, *, keep: int) -> int:
    """End all of an owner's sessions but the newest ``keep``. Returns how many."""
    sql = """
    delete from login_sessions where id in (
        select id from login_sessions where owner_id = %(owner)s order by id desc offset %(keep)s)
    """
    return execute(tx, sql, {"owner": owner_id, "keep": keep})


def find(tx: Tx, session_digest: bytes, *, idle: timedelta) -> LoginSessionRecord | None:
    """The session, unless it has expired or was not used for ``idle``. Its key may have ended."""
    sql = f"""
    select {_COLUMNS} from login_sessions s left join api_keys k on k.id = s.key_id
    where s.session_digest = %(digest)s and s.expires_at > now() and s.seen_at > now() - %(idle)s
    """
    return one(tx, LoginSessionRecord, sql, {"digest": session_digest, "idle": idle})


def note_use(tx: Tx, session_id: UUID) -> None:
    """Set the time of the last use, unless another request has just done it."""
    sql = "update login_sessions set seen_at = now() where id = %(id)s and seen_at < now() - interval '1 minute'"
    execute(tx, sql, {"id": session_id})


def end(tx: Tx, session_digest: bytes) -> None:
    """End a session, if it is there."""
    execute(tx, "delete from login_sessions where session_digest = %(digest)s", {"digest": session_digest})


def forget_expired(tx: Tx) -> int:
    """Delete sessions that have expired. Returns how many."""
    return execute(tx, "delete from login_sessions where expires_at < now()")
