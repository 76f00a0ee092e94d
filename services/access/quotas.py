"""Quotas: admins read and set those of owners, and identity providers claim some. db/quotas.py says which one applies."""

from __future__ import annotations

from dataclasses import asdict

from core.cursors import Cursors, Page
from core.errors import InvalidInput
from core.principal import Principal, Quota
from db import Database, events, quotas
from db.quotas import OwnerQuota


class Quotas:
    """What admins ask for."""

    def __init__(self, db: Database, cursors: Cursors, default: Quota):
        self._db = db
        self._cursors = cursors
        self._default = default

    def page(self, *, limit: int, cursor: str | None) -> Page[OwnerQuota]:
        """Owners with what they use and may use, by id. Raises InvalidCursor."""
        after = self._cursors.after(cursor, str, scope="quotas")
        with self._db.connection() as tx:
            found = quotas.page(tx, self._default, after=after or "", limit=limit + 1)
        return self._cursors.page(found, lambda owner: owner.owner_id, limit=limit, scope="quotas")

    def set_own(self, owner_id: str, quota: Quota) -> OwnerQuota:
        """Replace an owner's own quota; None removes a limit of this kind. Lower ones than what is used delete nothing."""
        if not 1 <= len(owner_id) <= 255 or "\0" in owner_id:
            raise InvalidInput("owner_id must have 1 to 255 characters.")
        with self._db.transaction() as tx:
            quotas.set_own(tx, owner_id, quota)
            events.record(tx, "quota_set", owner_id=owner_id, target=owner_id, details=asdict(quota))
            return quotas.get(tx, owner_id, self._default)


def remember_claim(db: Database, principal: Principal) -> None:
    """Keep what the caller's identity provider claims now, before anything is decided by it."""
    if principal.credential == "jwt" or principal.quota is not None:
        with db.connection() as tx:
            quotas.claim(tx, principal.owner_id, principal.quota or Quota())
