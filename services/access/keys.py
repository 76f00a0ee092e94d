"""API keys: each has an owner and a role. Only its digest is stored.

Each process remembers a key for CACHED seconds, counted from before it read it. A revocation is answered when this time has
passed, so no process accepts the key then, not even one that was suspended or lost its connections."""

from __future__ import annotations

from time import monotonic, sleep
from uuid import UUID

from core.cursors import Cursors, Page
from core.errors import InvalidInput, NotAuthenticated, NotFound
from core.ids import new_secret, secret_digest
from core.principal import Principal, Role
from db import Database, keys
from db.records import KeyRecord
from services.access import idempotency
from services.access.idempotency import Claim

CACHED = 0.5  # seconds
_MAX_CACHED = 10_000  # keys


class Keys:
    """Creates, lists, revokes and checks API keys."""

    def __init__(self, db: Database, cursors: Cursors):
        self._db = db
        self._cursors = cursors
        self._cache: dict[bytes, tuple[float, Principal]] = {}  # by digest, with the time until which it is valid

    def authenticate(self, credential: str) -> Principal:
        """The principal of an API key. Raises NotAuthenticated, with the same text whatever is wrong."""
        digest, now = secret_digest(credential), monotonic()
        until, principal = self._cache.get(digest, (0.0, None))
        if principal is not None and now < until:
            return principal
        with self._db.connection() as tx:
            key = keys.find(tx, digest)
        if key is None:
            raise NotAuthenticated()
        key_id, owner_id, role, has_quota = key
        principal = Principal(owner_id, role=_role(role), key_id=key_id, has_quota=has_quota)
        if len(self._cache) >= _MAX_CACHED:
            self._cache.clear()
        self._cache[digest] = now + CACHED, principal
        return principal

    def create_key(
        self, owner_id: str, *, name: str = "", role: Role = "user", key: str | None = None, once: Claim | None = None
    ) -> tuple[KeyRecord, str]:
        """A new key and its record, which is what ``once`` records: the key itself is not kept."""
        if not 1 <= len(owner_id) <= 255 or len(name) > 255 or "\0" in owner_id + name:
            raise InvalidInput("owner_id must have 1 to 255 characters, name at most 255.")
        key = key or new_secret("gw_")
        with self._db.transaction() as tx:
            record = keys.create(tx, secret_digest(key), owner_id=owner_id, name=name, role=role)
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
        with self._db.connection() as tx:
            revoked = keys.revoke(tx, key_id)
        sleep(CACHED * 1.1)  # clocks of other machines may run slower
        if not revoked:
            raise NotFound("There is no such key.")

    def ensure_admin_key(self, given: str | None) -> str | None:
        """Make sure that an admin key exists: the given one, or a new one, which is returned to be shown once."""
        if given is not None:
            self.create_key("admin", name="ADMIN_API_KEY", role="admin", key=given)
            return None
        with self._db.connection() as tx:
            if keys.any_admin(tx):
                return None
        return self.create_key("admin", name="first admin key", role="admin")[1]


def _role(text: str) -> Role:
    return "admin" if text == "admin" else "user"
