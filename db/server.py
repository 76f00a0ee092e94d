"""What PostgreSQL tells about itself."""

from __future__ import annotations

from db import Tx, scalar


def connections(tx: Tx) -> dict[str, int]:
    """The connections to this database by state, those of other users without one as ``other``."""
    sql = """
    select coalesce(state, 'other'), count(*) from pg_stat_activity
    where datname = current_database() and backend_type = 'client backend' group by 1 order by 1
    """
    return dict(tx.execute(sql).fetchall())


def limit(tx: Tx) -> int:
    """How many connections the server accepts from users like this one, to all its databases."""
    sql = """
    select sum(setting::integer * case name when 'max_connections' then 1 else -1 end) from pg_settings
    where name in ('max_connections', 'superuser_reserved_connections', 'reserved_connections')
    """
    return int(scalar(tx, sql))


def size(tx: Tx) -> int:
    """Bytes of this database, without the write-ahead log."""
    return int(scalar(tx, "select pg_database_size(current_database())"))
