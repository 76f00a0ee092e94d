"""Verdicts of the virus scanner, re-scans of all objects, and keys to be deleted at a known time."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    """
    alter table objects
        add column scan_verdict text check (scan_verdict in ('clean', 'infected', 'unscannable')),  -- null: not scanned
        add column scan_finding text,              -- the signature or limit that the scanner reported
        add column scanned_with text,              -- version of the signatures, if the scanner reports it
        add column scanned_at   timestamptz
    """,
    # Keys in the bucket that are not in use: replaced objects whose presigned URLs may still be valid, replacements being
    # written, previews of infected objects. The janitor deletes them after their time.
    """
    create table retired_objects (
        object_key   text primary key,
        multipart_id text,                                     -- while it is being written in parts
        delete_after timestamptz not null,
        deleting     boolean not null default false            -- it can't be put to use any more
    )
    """,
    "create index retired_objects_due on retired_objects (delete_after)",
    # A scan of all objects in the order of their keys; at most one runs.
    """
    create table rescans (
        id           bigint generated always as identity primary key,
        scanned_with text,
        after_key    text not null default '',                 -- objects up to this key are done
        scanned      bigint not null default 0,
        infected     bigint not null default 0,
        failed       bigint not null default 0,                -- could not be scanned and keep their old verdict
        started_at   timestamptz not null default now(),
        updated_at   timestamptz not null default now(),
        finished_at  timestamptz
    )
    """,
    "create unique index rescans_one_at_a_time on rescans ((true)) where finished_at is null",
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
