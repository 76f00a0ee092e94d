"""API keys. Only the digest of a key is stored. Its role says whose files it reaches, its scopes what it may do with them, and
its folder, if it has one, that it reaches only this and what is below it.

Each process remembers a key for CACHED seconds, counted from before it read it. A revocation is answered when this time has
passed, so no process accepts the key then, not even one that was suspended or lost its connections."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic, sleep
from uuid import UUID

from core.cursors import Cursors, Page
from core.errors import InvalidInput, LimitReached, NotAuthenticated, NotFound, Unavailable
from core.ids import new_secret, secret_digest
from core.principal import SCOPES, Principal, Role, Scope
from db import Database, events, keys
from db.records import KeyRecord
from services.access import idempotency
from services.access.idempotency import Claim

CACHED = 0.5  # seconds
MAX_KEYS = 1_000  # of one owner, not revoked (T73)
_MAX_CACHED = 10_000  # keys


class Keys:
    """Creates, lists, revokes and checks API keys."""

    def __init__(self, db: Database, cursors: Cursors):
        self._db = db
        self._cursors = cursors
        self._cache: dict[bytes, tuple[float, Principal]] = {}  # by digest, with the time until which it is valid

    def authenticate(self, credential: str) -> Principal:
        """The principal of an API key. Raises NotAuthenticated, with the same text whatever is wrong."""
        return self.of(secret_digest(credential))

    def of(self, digest: bytes) -> Principal:
        """The principal of the key with this digest. Raises NotAuthenticated if it has ended."""
        now = monotonic()
        until, principal = self._cache.get(digest, (0.0, None))
        if principal is not None and now < until:
            return principal
        with self._db.connection() as tx:
            key = keys.find(tx, digest)
        if key is None:
            raise NotAuthenticated()
        principal = Principal(
            key.owner_id,
            role=_role(key.role),
            key_id=key.id,
            has_quota=key.has_quota,
            scopes=SCOPES.intersection(key.scopes),
            folder_id=key.folder_id,
        )
        if len(self._cache) >= _MAX_CACHED:
            self._cache.clear()
        left = CACHED if key.seconds_left is None else min(CACHED, key.seconds_left)
        self._cache[digest] = now + left, principal
        if not key.use_noted:
            with suppress(Unavailable), self._db.connection() as tx:
                keys.note_use(tx, key.id)
        return principal

    def create_key(
        self,
        owner_id: str,
        *,
        name: str = "",
        role: Role = "user",
        scopes: Collection[Scope] | None = None,
        folder_id: int | None = None,
        expires_at: datetime | None = None,
        key: str | None = None,
        once: Claim | None = None,
    ) -> tuple[KeyRecord, str]:
        """A new key and its record, which is what ``once`` records: the key itself is not kept. ``scopes`` None: all that the
        role allows. Raises LimitReached, and NotFound for a folder that is not the owner's."""
        if not 1 <= len(owner_id) <= 255 or len(name) > 255 or "\0" in owner_id + name:
            raise InvalidInput("owner_id must have 1 to 255 characters, name at most 255.")
        if scopes is not None and not (scopes and SCOPES.issuperset(scopes)):
            raise _invalid("scopes", f"one or more of {', '.join(sorted(SCOPES))}")
        if role != "admin" and scopes is not None and "admin" in scopes:
            raise _invalid("scopes", "only a key with the role admin has the scope admin")
        if role == "admin" and folder_id is not None:
            raise _invalid("folder_id", "only a key with the role user is limited to a folder")
        if expires_at is not None and expires_at <= datetime.now(UTC):
            raise _invalid("expires_at", "must be in the future")
        configured, key = key is not None, key or new_secret("gw_")
        with self._db.transaction() as tx:
            keys.lock_owner(tx, owner_id)
            if not configured and keys.count_of(tx, owner_id, limit=MAX_KEYS) >= MAX_KEYS:
                raise LimitReached(f"An owner can have at most {MAX_KEYS:,} keys that are not revoked.")
            record = keys.create(
                tx,
                secret_digest(key),
                owner_id=owner_id,
                name=name,
                role=role,
                scopes=None if scopes is None else dict.fromkeys(scopes),
                folder_id=folder_id,
                expires_at=expires_at,
            )
            if record is None:
                raise NotFound("There is no such folder.")
            details = {"name": name, "role": role, "scopes": record.scopes, "folder_id": folder_id}
            events.record(tx, "key_created", owner_id=owner_id, target=record.id, details=details)
            idempotency.record(tx, once, record)
            return record, key

    def list_keys(self, *, limit: int, cursor: str | None) -> Page[KeyRecord]:
        """Keys that are not revoked, oldest first. Raises InvalidCursor."""
        after = self._cursors.after(cursor, UUID, scope="keys")
        with self._db.connection() as tx:
            records = keys.list_all(tx, after=after, limit=limit + 1)
        return self._cursors.page(records, lambda key: key.id, limit=limit, scope="keys")

    def revoke_key(self, key_id: UUID) -> None:
        """Revoke a key. Returns, or raises NotFound, when no process accepts it any more."""
        with self._db.transaction() as tx:
            owner_id = keys.revoke(tx, key_id)
            if owner_id is not None:
                events.record(tx, "key_revoked", owner_id=owner_id, target=key_id)
        sleep(CACHED * 1.1)  # clocks of other machines may run slower
        if owner_id is None:
            raise NotFound("There is no such key.")

    def ensure_admin_key(self, given: str | None) -> str | None:
        """Make sure that an admin key exists: the given one, or a new one, which is returned to be shown once."""
        with self._db.connection() as tx:
            if keys.any_admin(tx) if given is None else keys.find(tx, secret_digest(given)):
                return None
        if given is not None:
            self.create_key("admin", name="ADMIN_API_KEY", role="admin", key=given)
            return None
        return self.create_key("admin", name="first admin key", role="admin")[1]


def _invalid(name: str, message: str) -> InvalidInput:
    return InvalidInput(f"{name}: {message}.", errors=[{"field": name, "message": message}])


def _role(text: str) -> Role:
    return "admin" if text == "admin" else "user"
