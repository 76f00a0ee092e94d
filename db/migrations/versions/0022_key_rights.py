"""API keys have scopes, an optional folder and expiry, and tell when they were last used."""

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in (
        "set local lock_timeout = '5s'",
        # The folder is no foreign key: a key whose folder was deleted must not become valid for all folders.
        """
        alter table api_keys
            add column scopes text[] check (scopes <> '{}'),    -- null: all that the role allows
            add column folder_id integer,                       -- only this folder and what is below it
            add column expires_at timestamptz,
            add column last_used_at timestamptz,                -- to the minute
            add constraint folder_of_user check (folder_id is null or role = 'user')
        """,
    ):
        op.get_bind().exec_driver_sql(statement)
