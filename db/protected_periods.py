"""Periods of which the database may have forgotten something: an older state of it was put back, or may have been.

Objects without a row that were written in such a period are kept until somebody has decided about them (T122)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from db import Tx, execute, many


class ProtectedPeriod(NamedTuple):
    """A period, both ends included."""

    id: int
    began: datetime
    ended: datetime
    reason: str


def add(tx: Tx, *, began: datetime, ended: datetime, reason: str) -> None:
    """Protect what was written from ``began`` to ``ended``. Raises CheckViolation if it ends before it begins."""
    sql = "insert into protected_periods (began, ended, reason) values (%(began)s, %(ended)s, %(reason)s)"
    execute(tx, sql, {"began": began, "ended": ended, "reason": reason})


def all(tx: Tx) -> list[ProtectedPeriod]:
    """All periods, the earliest first."""
    return many(tx, ProtectedPeriod, "select id, began, ended, reason from protected_periods order by began, id")


def forget(tx: Tx, ids: Sequence[int]) -> None:
    """Protect these periods no longer."""
    execute(tx, "delete from protected_periods where id = any(%(ids)s)", {"ids": list(ids)})
