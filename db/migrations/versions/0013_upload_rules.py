"""Upload tokens end with their key and outlive their folder; presigned URLs that clients still have."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    # A token keeps its folder_id after the folder is deleted. Otherwise it would be valid for any folder, or its rules be lost.
    """
    alter table upload_tokens
        drop constraint if exists upload_tokens_folder_id_fkey, drop constraint if exists token_folder
    """,
    """
    alter table upload_tokens
        add column key_id uuid references api_keys (id),                -- the key that made it, and with which it ends
        add column visibility text not null default 'private' check (visibility in ('private', 'public'))
    """,
    "create index uploads_by_token on uploads (token_id) where token_id is not null",
    # If the folder of a token's upload is deleted, the file becomes private.
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
    # A token has its own sessions: its id and a dot come before the name that the client gave.
    """
    alter table upload_sessions drop constraint upload_sessions_session_id_check,
        add constraint upload_sessions_session_id_check
        check (session_id ~ '^([0-9a-f]{32}\\.)?[A-Za-z0-9_-]{1,64}$') not valid
    """,
    "alter table upload_sessions validate constraint upload_sessions_session_id_check",
    # What a client may still send with its presigned URLs, and when the upload was last checked against its limits.
    """
    alter table uploads
        add column urls_until timestamptz,                              -- the last of its URLs is valid until then
        add column awaited_parts integer[] not null default '{}',       -- signed without a length, and not received yet
        add column weighed_at timestamptz
    """,
    "create index uploads_with_urls on uploads (urls_until) where urls_until is not null",
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
