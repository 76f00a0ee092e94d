"""Verdicts of the virus scanner, re-scans of everything, and objects that are to be deleted at a known time."""

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
        add column scan_finding text,              -- the signature or limit that the scanner named
        add column scanned_with text,              -- version of the signatures; null where the scanner does not tell
        add column scanned_at   timestamptz
    """,
    # What the bucket may hold beside the objects in use: an object that was replaced and to which URLs are still about, a
    # replacement that is being written, a preview of what turned out infected. Deleted by the janitor after that time.
    """
    create table retired_objects (
        object_key   text primary key,
        multipart_id text,                                     -- while it is being written in parts
        delete_after timestamptz not null,
        deleting     boolean not null default false            -- from here on nothing makes it an object in use again
    )
    """,
    "create index retired_objects_due on retired_objects (delete_after)",
    # One walk over all objects in the order of their keys; at most one is under way.
    """
    create table rescans (
        id           bigint generated always as identity primary key,
        scanned_with text,
        after_key    text not null default '',                 -- objects up to this key are done
        scanned      bigint not null default 0,
        infected     bigint not null default 0,
        failed       bigint not null default 0,                -- could not be scanned; their old verdict stands
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
