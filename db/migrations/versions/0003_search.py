"""What searching names and counting folders rest on, beside the indexes of the lists."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    # A name as its words, folded, with one space around each: " annual report 2026 pdf ". Telling words from parts of
    # words is then a LIKE of a third of a microsecond; translating separators while searching took ten.
    """
    create function name_words(name text) returns text language sql immutable strict parallel safe
    return ' ' || regexp_replace(name_key(name) collate pg_unicode_fast, '[^[:alnum:]]+', ' ', 'g') || ' '
    """,
    """
    alter table files add column name_words text not null generated always as (name_words(original_name)) stored
    """,
    # Parts and misspellings of names. Each search reads the pending list, an upload now and then flushes it: short.
    """
    create index files_by_name_parts on files using gin (name_key gin_trgm_ops) with (gin_pending_list_limit = 512)
    """,
    # Counts and sizes of folders without touching the files themselves.
    "drop index files_by_folder",
    """
    create index files_by_folder on files (folder_id, is_deleted) include (file_size) where folder_id is not null
    """,
    # The newest of everybody's, for admins: files_newest begins with the owner.
    "create index files_newest_of_all on files (is_deleted, uploaded_at, id)",
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
