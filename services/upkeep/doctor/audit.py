"""Whether the gateway's role in PostgreSQL could change audit events (T125)."""

from __future__ import annotations

from core.errors import Unavailable
from db import Database, events
from services.upkeep.doctor import Check, NotTried, check

_CONSEQUENCE = (
    "Whoever has the gateway's credential of the database could remove the trigger, and then change or drop events. To prevent"
    " it, let another role own the tables (MIGRATION_DATABASE_URL)."
)


def examine(db: Database) -> list[Check]:
    """One check."""

    def attempt() -> str:
        try:
            with db.connection() as tx:
                owned = events.owned_by_gateway(tx)
        except Unavailable as error:
            raise NotTried(error.detail) from error
        if owned:
            raise NotTried("one role owns the tables and serves requests; a trigger refuses changes of events")
        return "the gateway's role may add events and read them, and nothing else"

    return [check("audit log: append-only", attempt, _CONSEQUENCE)]
