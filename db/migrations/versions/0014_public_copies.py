"""Public copies of pictures without their location, and counts of anonymous access."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    # Whether a picture's bytes tell where it was taken (renamed to location_state in 0015).
    """
    alter table objects
        add column place         text check (place in ('none', 'found', 'cut', 'stuck')),
        add column public_key    text,
        add column public_sha256 text,
        add column public_etag   text,
        add constraint object_public_copy check ((place is not distinct from 'cut') = (public_key is not null))
    """,
    "create unique index objects_by_public_key on objects (public_key) where public_key is not null",
    "create index objects_to_copy on objects (object_key) where place = 'found'",
    """
    alter table files
        add column keep_location   boolean not null default false,     -- the public may see the location
        add column public_previews bigint not null default 0,          -- to clients without a credential
        add column first_public    timestamptz                         -- the first access without a credential
    """,
    "alter table uploads add column keep_location boolean not null default false",
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
