"""PostgreSQL's errors that services catch. No other module of services names SQLSTATEs or psycopg."""

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

LOCKED: Final = (LockNotAvailable, DeadlockDetected)  # waited too long for a lock, or in a circle: try again


def constraint(error: Error) -> str | None:
    """The name of the violated constraint, as the migrations define it."""
    return error.diag.constraint_name
