"""How much the bucket holds: bytes now, bytes that uploads may still store, and a sample of each day."""

from __future__ import annotations

from dataclasses import dataclass

from db import Tx, execute, one, scalar

_KEPT_DAYS, _FORECAST_DAYS = 400, 30


@dataclass(frozen=True, slots=True)
class Growth:
    """How the stored bytes have grown, by the samples of the last month."""

    days: int  # of which there are samples
    per_day: float | None  # bytes; None with less than two


def stored(tx: Tx) -> int:
    """Bytes of all objects as the bucket holds them, without previews and unfinished uploads."""
    return int(scalar(tx, "select coalesce(sum(stored_bytes - saved_bytes), 0) from owner_usage"))


def outstanding(tx: Tx) -> int:
    """Bytes that unfinished uploads may still store: what they declared or reserved, less what is known to have arrived; of
    direct uploads nothing is."""
    sql = """
    select coalesce(sum(greatest(greatest(u.size, u.reserved) - coalesce(r.received, 0), 0)), 0)
    from uploads u left join resumable_uploads r on r.upload_id = u.id where u.status in ('pending', 'uploading', 'completing')
    """
    return int(scalar(tx, sql))


def sample(tx: Tx, *, free: int | None, total: int | None) -> None:
    """Record how much is stored today, in the place of an earlier sample of the day, and forget those of the year before last."""
    sql = """
    insert into capacity_samples (day, stored, free, total) values (current_date, %(stored)s, %(free)s, %(total)s)
    on conflict (day) do update set stored = excluded.stored, free = excluded.free, total = excluded.total
    """
    execute(tx, sql, {"stored": stored(tx), "free": free, "total": total})
    execute(tx, "delete from capacity_samples where day < current_date - %(kept)s::int", {"kept": _KEPT_DAYS})


def growth(tx: Tx) -> Growth:
    """The slope of the line through the samples of the last month."""
    sql = """
    select count(*)::int as days, regr_slope(stored, day - current_date) as per_day
    from capacity_samples where day > current_date - %(days)s::int
    """
    found = one(tx, Growth, sql, {"days": _FORECAST_DAYS})
    assert found is not None
    return found
