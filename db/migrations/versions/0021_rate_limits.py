"""Counts of rate limits."""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql(
        """
        create unlogged table rate_limits (
            key        text primary key,               -- the limit and the caller
            count      bigint not null,
            expires_at timestamptz not null            -- the end of the window
        ) with (fillfactor = 50)
        """
    )
