"""The janitor: when it last ran, and what a run must not delete."""

from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    # Objects without a row that were written in such a time may belong to a newer state of the database.
    """
    create table protected_periods (
        id     bigint generated always as identity primary key,
        began  timestamptz not null,
        ended  timestamptz not null check (ended >= began),
        reason text not null
    )
    """,
    """
    create table janitor_runs (
        kind     text primary key check (kind in ('quick', 'full')),
        last_at  timestamptz not null,                      -- when it last gave a sign of life
        seconds  double precision,                          -- that the last one took
        database oid not null                               -- where; a dump that is put back may be elsewhere
    )
    """,
    # If this is an older database that was put back, its newest event is its last sign of life.
    """
    insert into janitor_runs (kind, last_at, database)
    select 'quick', at, (select oid from pg_database where datname = current_database())
    from audit_events order by id desc limit 1
    """,
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
