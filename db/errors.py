"""What PostgreSQL refuses, for services to catch. SQLSTATEs and the names of constraints have a meaning here only."""

from __future__ import annotations

from typing import Final

from psycopg import Error, Rollback
from psycopg.errors import (
    CheckViolation,
    DeadlockDetected,
    ForeignKeyViolation,
    LockNotAvailable,
    QueryCanceled,
    UniqueViolation,
)

__all__ = ["LOCKED", "CheckViolation", "ForeignKeyViolation", "QueryCanceled", "Rollback", "UniqueViolation"]

LOCKED: Final = (LockNotAvailable, DeadlockDetected)  # waited too long for a row, or in a circle: begin again


def constraint(error: Error) -> str | None:
    """The name of the violated constraint, as migrations give it."""
    return error.diag.constraint_name
