"""The scrub: its passes, what it found, and the order in which it reads objects.

The indexes are made beside reads and writes. Older code keeps working: it writes none of this."""

from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    """
    create table scrub_passes (
        id            integer generated always as identity primary key,
        requested     boolean not null,                     -- by an admin or a command: read as fast as the rate allows
        began_at      timestamptz not null default now(),   -- objects whose last check began before are to be read
        objects       bigint not null,                      -- as many there were then
        read_objects  bigint not null default 0,
        read_bytes    bigint not null default 0,
        swept_at      timestamptz,                          -- when each had had its turn; then those whose reader died are read
        finished_at   timestamptz
    )
    """,
    "create unique index scrub_passes_open on scrub_passes ((true)) where finished_at is null",
    """
    create table scrub_findings (
        id              bigint generated always as identity primary key,
        object_key      text not null,                      -- of an object or a public copy, whose row may be gone by now
        owner_id        text not null,
        kind            text not null check (kind in ('missing', 'changed', 'swapped', 'unreadable')),
        tries           smallint not null default 1,        -- failed ones; see ``confirmed``
        confirmed       boolean not null generated always as (kind <> 'unreadable' or tries >= 3) stored,
        found_at        timestamptz not null default now(),
        next_check_at   timestamptz not null,
        expected_sha256 text not null,
        expected_size   bigint not null,                    -- bytes in the bucket
        expected_etag   text not null,
        found_sha256    text,                               -- of the bytes as stored, or of what they decompress to
        found_size      bigint,
        found_etag      text,
        belongs_to      text,                               -- the key of the object whose bytes these are
        error           text,                               -- the bucket's, if it can't be read
        repaired_at     timestamptz,
        repaired_from   text check (repaired_from in ('duplicate', 'backup', 'original')),
        repaired_key    text,                               -- the object that has the bytes since
        resolved_at     timestamptz
    )
    """,
    "create unique index scrub_findings_open on scrub_findings (object_key) where resolved_at is null",
    "create index scrub_findings_resolved on scrub_findings (resolved_at) where resolved_at is not null",
]

# Demonstration rows whose bytes never were have in_bucket = false without a check.
_SCRUBBED = """status = 'stored' and sha256 is not null and scan_verdict is distinct from 'infected'
    and (in_bucket or checked_at is not null)"""
_INDEXES = {
    "objects_to_scrub": f"(coalesce(checked_at, '-infinity'), object_key) where {_SCRUBBED}",
    "objects_unfinished": f"(checked_at) where checksum_state = 'unverified' and {_SCRUBBED}",
    "objects_damaged": f"(object_key) where (not in_bucket or checksum_state = 'mismatch') and {_SCRUBBED}",
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        _run("set lock_timeout = '5s'")
        for name, definition in _INDEXES.items():
            _run(f"drop index concurrently if exists {name}")  # an interrupted run left it behind, not valid
            _run(f"create index concurrently {name} on objects {definition}")
        _run("reset lock_timeout")
    for statement in _STATEMENTS:
        _run(statement)


def _run(statement: str) -> None:
    op.get_bind().exec_driver_sql(statement)
