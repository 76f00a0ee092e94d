"""Objects stored compressed."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    """
    alter table objects
        add column encoding    text check (encoding = 'zstd'),         -- null: the original bytes
        add column stored_size bigint check (stored_size >= 0),        -- bytes in the bucket; null: same as size
        add column frame_ends  bigint[],                               -- the end of each frame of 1 MiB of original bytes
        add column urls_until  timestamptz,                            -- no presigned URL is valid longer
        add constraint object_encoding check (
            (encoding is null) = (stored_size is null) and (encoding is null) = (frame_ends is null))
    """,
    # A replaced object does not outlive its files: it is deleted when they are purged or found infected.
    """
    alter table retired_objects
        add column replaced_by text references objects (object_key) on update cascade on delete set null
    """,
    "create index retired_objects_replaced on retired_objects (replaced_by) where replaced_by is not null",
    # Infected objects whose presigned URLs may still be valid.
    "create index objects_exposed on objects (urls_until) where scan_verdict = 'infected' and urls_until is not null",
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
