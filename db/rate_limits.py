"""What rate limits have counted, for all processes (services/access/rate_limits.py). A row for each caller and limit, until its
window ends. The table is unlogged: what a crash of PostgreSQL forgets is worth a minute."""

from __future__ import annotations

from datetime import timedelta

from db import Tx, execute, scalar

_ADD = """
insert into rate_limits as r (key, count, expires_at) values (%(key)s, %(amount)s, now() + %(window)s)
on conflict (key) do update
set count = case when r.expires_at > now() then r.count else 0 end + excluded.count,
    expires_at = case when r.expires_at > now() then r.expires_at else excluded.expires_at end
returning count
"""


def add(tx: Tx, key: str, amount: int, *, window: timedelta) -> int:
    """Add to a count, which begins anew when its window has ended. Returns the new count."""
    return int(scalar(tx, _ADD, {"key": key, "amount": amount, "window": window}))


def count(tx: Tx, key: str) -> int:
    """The count; 0 after its window."""
    return scalar(tx, "select count from rate_limits where key = %(key)s and expires_at > now()", {"key": key}) or 0


def seconds_left(tx: Tx, key: str) -> float:
    """Seconds until the window ends."""
    sql = "select extract(epoch from expires_at - now())::float8 from rate_limits where key = %(key)s"
    return scalar(tx, sql, {"key": key}) or 0.0


def forget(tx: Tx, key: str | None = None) -> int:
    """Delete a count, or all. Returns how many."""
    return execute(tx, "delete from rate_limits where %(key)s::text is null or key = %(key)s", {"key": key})


_FORGET_EXPIRED = """
delete from rate_limits where key in (
    select key from rate_limits where expires_at < now() limit %(limit)s for update skip locked)
"""


def forget_expired(tx: Tx, *, limit: int) -> int:
    """Delete counts whose windows have ended. Returns how many."""
    return execute(tx, _FORGET_EXPIRED, {"limit": limit})
