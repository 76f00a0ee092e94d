"""Copies of the bucket's objects in another bucket."""

from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

_STATEMENTS: list[str] = [
    # Buckets that have a mark of this gateway in them; without any, nothing was ever copied.
    """
    create table buckets (
        id         uuid primary key,                           -- what the mark says
        name       text not null,                              -- endpoint and bucket, for people
        in_use     boolean not null default false,             -- the ETags of objects are of this bucket
        created_at timestamptz not null default now()
    )
    """,
    "create unique index buckets_one_in_use on buckets (in_use) where in_use",
    """
    create table copies (
        bucket_id  uuid not null references buckets (id) on delete cascade,
        object_key text not null,
        size       bigint,                                     -- bytes in the bucket
        etag       text,                                       -- there
        copied_at  timestamptz,                                -- null: begun, perhaps not complete
        primary key (bucket_id, object_key)
    )
    """,
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
