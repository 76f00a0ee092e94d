"""Sessions of people who sign in with a browser: the secret in a cookie stands for a key, or for what the identity provider said.

A session of a key has the key's rights as they are now, and ends with it. One of the identity provider keeps the role, scopes
and quota of its login. Both end when they are not used for a while, and at the latest after a fixed time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from core.errors import NotAllowed, NotAuthenticated
from core.ids import new_secret, secret_digest
from core.principal import SCOPES, Principal, Quota
from db import Database, events, login_sessions
from db.records import LoginSessionRecord
from services.access.keys import Keys

_PREFIX = "gws_"


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How long sessions live, and how many an owner may have."""

    life: timedelta
    idle: timedelta
    per_owner: int  # a further one ends the oldest (T145)


class LoginSessions:
    """Begins, checks and ends sessions."""

    def __init__(self, db: Database, keys: Keys, limits: SessionLimits):
        self._db = db
        self._keys = keys
        self._limits = limits

    def begin(self, principal: Principal) -> tuple[LoginSessionRecord, str]:
        """A new session of the caller, and its secret, whose digest alone is stored. Raises NotAllowed for upload tokens."""
        if principal.budget is not None:
            raise NotAllowed("An upload token only allows uploads.")
        quota, life, secret = principal.quota or Quota(), self._limits.life, new_secret(_PREFIX)
        if principal.seconds_left is not None and principal.seconds_left < life.total_seconds():
            life = timedelta(seconds=principal.seconds_left)
        with self._db.transaction() as tx:
            login_sessions.lock_owner(tx, principal.owner_id)
            record = login_sessions.create(
                tx,
                secret_digest(secret),
                owner_id=principal.owner_id,
                key_id=principal.key_id,
                role=principal.role,
                scopes=principal.scopes,
                max_bytes=quota.max_bytes,
                max_files=quota.max_files,
                life=life,
            )
            login_sessions.end_oldest(tx, principal.owner_id, keep=self._limits.per_owner)
        return record, secret

    def authenticate(self, secret: str) -> Principal:
        """The principal of a session. Raises NotAuthenticated if it, or its key, has ended."""
        with self._db.connection() as tx:
            record = login_sessions.find(tx, secret_digest(secret), idle=self._limits.idle)
            if record is None:
                raise NotAuthenticated()
            if record.unseen:
                login_sessions.note_use(tx, record.id)
        if record.key_digest is not None:
            return replace(self._keys.of(record.key_digest), credential="session")
        quota = Quota(record.max_bytes, record.max_files)
        return Principal(
            record.owner_id,
            role="admin" if record.role == "admin" else "user",
            credential="session",
            scopes=SCOPES.intersection(record.scopes),
            quota=quota if quota != Quota() else None,
        )

    def end(self, secret: str) -> None:
        """End a session, if there is one; the next request with it is refused."""
        with self._db.connection() as tx:
            login_sessions.end(tx, secret_digest(secret))

    def end_all(self, owner_id: str) -> int:
        """End all sessions of an owner; the next request with one is refused. Returns how many there were."""
        with self._db.transaction() as tx:
            ended = login_sessions.end_oldest(tx, owner_id, keep=0)
            events.record(tx, "sessions_ended", owner_id=owner_id, details={"sessions": ended})
        return ended
