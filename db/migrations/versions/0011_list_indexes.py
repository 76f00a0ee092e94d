"""Indexes for lists by file type and by a rare status."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    # Sizes depend on the file type, so a scan of all sizes for one type may read all other types first.
    "create index files_by_kind_and_size on files (owner_id, is_deleted, file_type, file_size, id)",
    "drop index files_by_type",
    "create index files_by_kind_and_type on files (owner_id, is_deleted, file_type, mime_type, id)",
    # The most common list of a folder: its newest files.
    "create index files_newest_in_folder on files (owner_id, folder_id, uploaded_at, id) where not is_deleted",
    # Few files are not ready, and most uploads do not change this index.
    """
    create index files_not_ready on files (owner_id, status, is_deleted, uploaded_at, id) where status <> 'ready'
    """,
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
