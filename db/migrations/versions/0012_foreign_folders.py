"""The folder of an upload or upload token belongs to its owner; failed attempts to complete an upload."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    # New rows are checked at once, old ones after they are corrected.
    """
    alter table uploads
        add column tries integer not null default 0,         -- of the sweep, that failed for what the upload is
        add column retry_at timestamptz,                     -- the sweep leaves it alone until then
        add column in_folder boolean not null default false, -- it was begun for a folder, which may be gone by now
        drop constraint if exists uploads_folder_id_fkey,
        add constraint upload_folder foreign key (folder_id, owner_id) references folders (id, owner_id)
            on delete set null (folder_id) not valid
    """,
    """
    update uploads u set folder_id = null
    where not exists (select from folders f where f.id = u.folder_id and f.owner_id = u.owner_id) and folder_id is not null
    """,
    """
    delete from upload_tokens t using folders f where f.id = t.folder_id and f.owner_id <> t.owner_id
    """,
    """
    update uploads set in_folder = true where folder_id is not null and status in ('pending', 'uploading', 'completing')
    """,
    "alter table uploads validate constraint upload_folder",
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
