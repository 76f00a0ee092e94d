"""What the public gets: pictures without the place they were taken at, and accesses of the public counted without a row each."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    # Whether the bytes tell where a picture was taken: null: nobody has looked; found: a copy without it is to be made;
    # cut: it is made, under public_key; stuck: it can't be taken out, so the public gets nothing.
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
        add column keep_location   boolean not null default false,     -- the owner's word that the public may see the place
        add column public_previews bigint not null default 0,          -- shown to those without a credential
        add column first_public    timestamptz                         -- when they first had the file or a preview
    """,
    "alter table uploads add column keep_location boolean not null default false",
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
