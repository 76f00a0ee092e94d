"""An upload whose folder is deleted goes on to the nearest folder above that lives."""

from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    # uploads.had_folder is not used any more.
    "alter table uploads add column folder_gone boolean not null default false",
    """
    update uploads set folder_gone = true
    where had_folder and folder_id is null and status in ('pending', 'uploading', 'completing')
    """,
    # db/folders.py does what these did.
    "drop trigger lose_folder on uploads",
    "drop function uploads_lose_folder",
    """
    create table deleted_folders (
        id integer primary key,
        owner_id text not null,
        heir_id integer,                                       -- the folder above; null: the root
        deleted_at timestamptz not null default clock_timestamp()
    )
    """,
    "create index deleted_folders_oldest on deleted_folders (deleted_at)",
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
