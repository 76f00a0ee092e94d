"""Sessions of people who sign in with a browser."""

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in (
        "set local lock_timeout = '5s'",
        """
        create table login_sessions (
            id             uuid primary key default uuidv7(),
            session_digest bytea not null unique,
            owner_id       text not null,
            key_id         uuid references api_keys (id) on delete cascade,    -- null: signed in at the identity provider
            role           text not null,              -- what the provider said; a key's rights are those of its row
            scopes         text[] not null,
            max_bytes      bigint,
            max_files      bigint,
            created_at     timestamptz not null default now(),
            seen_at        timestamptz not null default now(),                 -- to the minute
            expires_at     timestamptz not null
        )
        """,
        "create index login_sessions_of_owner on login_sessions (owner_id, id)",
        "create index login_sessions_of_key on login_sessions (key_id) where key_id is not null",
    ):
        op.get_bind().exec_driver_sql(statement)
