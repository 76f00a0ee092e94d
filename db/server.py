"""What PostgreSQL tells about itself."""

from __future__ import annotations

from psycopg.conninfo import conninfo_to_dict

from db import Tx, column, scalar


def connections(tx: Tx) -> dict[str, int]:
    """The connections to this database by state, those of other users without one as ``other``."""
    sql = """
    select coalesce(state, 'other'), count(*) from pg_stat_activity
    where datname = current_database() and backend_type = 'client backend' group by 1 order by 1
    """
    return dict(tx.execute(sql).fetchall())


def others_connected(tx: Tx, *, gateway_url: str | None = None) -> list[str]:
    """Connections to this database by this user or that of ``gateway_url``, other than those of this process: process and client
    of each."""
    sql = """
    select concat_ws(' ', pid, nullif(application_name, ''), client_addr) from pg_stat_activity
    where datname = current_database() and usename in (current_user, %(role)s)
    and coalesce(backend_type, 'client backend') = 'client backend'  -- null: of a role whose sessions are not shown
    and application_name <> current_setting('application_name') order by pid
    """
    role = None if gateway_url is None else conninfo_to_dict(gateway_url).get("user")
    return column(tx, sql, {"role": role})


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
