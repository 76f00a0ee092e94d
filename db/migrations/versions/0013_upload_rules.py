"""Upload tokens end with their maker's key and outlive their folder; URLs that are about, and how long an upload may live."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    # A token remembers its folder also when that is gone: else it would become one for any folder, or vanish with its rules.
    """
    alter table upload_tokens
        drop constraint if exists upload_tokens_folder_id_fkey, drop constraint if exists token_folder
    """,
    """
    alter table upload_tokens
        add column key_id uuid references api_keys (id),                -- of the maker; null: it ends by itself alone
        add column visibility text not null default 'private' check (visibility in ('private', 'public'))
    """,
    "create index uploads_by_token on uploads (token_id) where token_id is not null",
    # What a token's user wanted in a folder that is deleted meanwhile is shown to nobody by that.
    """
    create function uploads_lose_folder() returns trigger language plpgsql as $$
    begin
        new.visibility := 'private';
        return new;
    end $$
    """,
    """
    create trigger lose_folder before update of folder_id on uploads for each row
    when (new.token_id is not null and old.folder_id is not null and new.folder_id is null)
    execute function uploads_lose_folder()
    """,
    # The sessions of a token are its own: its id and a dot stand before the name that its user gave.
    """
    alter table upload_sessions drop constraint upload_sessions_session_id_check,
        add constraint upload_sessions_session_id_check
        check (session_id ~ '^([0-9a-f]{32}\\.)?[A-Za-z0-9_-]{1,64}$') not valid
    """,
    "alter table upload_sessions validate constraint upload_sessions_session_id_check",
    # What a client may still send by URLs that it was given, and when that was last compared with what it may.
    """
    alter table uploads
        add column urls_until timestamptz,                              -- the last of its URLs is good until then
        add column awaited_parts integer[] not null default '{}',       -- signed without a length, and not seen to have come
        add column weighed_at timestamptz
    """,
    "create index uploads_with_urls on uploads (urls_until) where urls_until is not null",
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
