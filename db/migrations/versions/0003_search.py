"""Indexes for searching names and counting folders."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    # A name as its folded words, each between spaces: " annual report 2026 pdf ". A LIKE then tells words from parts of words in
    # a third of a microsecond; replacing separators during the search took ten.
    """
    create function name_words(name text) returns text language sql immutable strict parallel safe
    return ' ' || regexp_replace(name_key(name) collate pg_unicode_fast, '[^[:alnum:]]+', ' ', 'g') || ' '
    """,
    """
    alter table files add column name_words text not null generated always as (name_words(original_name)) stored
    """,
    # Parts and misspellings of names. The pending list is short, since each search reads it and an upload flushes it.
    """
    create index files_by_name_parts on files using gin (name_key gin_trgm_ops) with (gin_pending_list_limit = 512)
    """,
    # Counts and sizes of folders without reading the files.
    "drop index files_by_folder",
    """
    create index files_by_folder on files (folder_id, is_deleted) include (file_size) where folder_id is not null
    """,
    # The newest files of all owners, for admins: files_newest begins with the owner.
    "create index files_newest_of_all on files (is_deleted, uploaded_at, id)",
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
