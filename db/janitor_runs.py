"""When the janitor last ran. The row of the quick runs tells how long ago this database was last in use: each run renews it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NamedTuple

from db import Tx, execute, many, one

Kind = Literal["quick", "full"]
_HERE = "(select oid from pg_database where datname = current_database())"


class Run(NamedTuple):
    """The last run of its kind."""

    kind: Kind
    last_at: datetime  # when it last gave a sign of life
    seconds: float | None  # that it took; None until one was recorded
    elsewhere: bool  # whether it ran on another database than this one


_COLUMNS = f"kind, last_at, seconds, database <> {_HERE}"


def lock(tx: Tx) -> Run | None:
    """The last sign of life, locked until the transaction ends. None if there was none."""
    return one(tx, Run, f"select {_COLUMNS} from janitor_runs where kind = 'quick' for update")


def record(tx: Tx, kind: Kind = "quick", *, seconds: float | None = None) -> None:
    """Record a sign of life, or a run that took ``seconds``."""
    sql = f"""
    insert into janitor_runs as r (kind, last_at, seconds, database) values (%(kind)s, now(), %(seconds)s, {_HERE})
    on conflict (kind) do update
    set last_at = excluded.last_at, seconds = coalesce(excluded.seconds, r.seconds), database = excluded.database
    """
    execute(tx, sql, {"kind": kind, "seconds": seconds})


def all(tx: Tx) -> list[Run]:
    """The last run of each kind."""
    return many(tx, Run, f"select {_COLUMNS} from janitor_runs order by kind")
