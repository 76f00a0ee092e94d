"""Backups: what they recorded, and the leases while which nothing that a snapshot may name is deleted."""

from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    """
    create table backup_holds (
        id         uuid primary key,
        held_until timestamptz not null               -- nothing that a row named since it was taken is deleted before
    )
    """,
    """
    create table backup_runs (
        id           uuid primary key,
        place        text not null,                   -- the repository
        started_at   timestamptz not null default now(),
        ended_at     timestamptz,                     -- null: it runs, or was killed
        outcome      text check (outcome in ('complete', 'incomplete', 'failed')),
        snapshot_id  text,
        taken_at     timestamptz,                     -- the moment of the database that the snapshot shows
        files        bigint,
        objects      bigint,
        bytes        bigint,                          -- of the objects, uncompressed
        sent_objects bigint,                          -- those that the repository did not have
        sent_bytes   bigint,
        damaged      bigint,                          -- objects that were missing or had other bytes
        error        text                             -- why it failed
    )
    """,
    "create index backup_runs_by_time on backup_runs (started_at desc)",
    # Of infected files: deleted also while a backup runs.
    "alter table deferred_deletions add column urgent boolean not null default false",
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
