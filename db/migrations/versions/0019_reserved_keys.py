"""Object keys that are reserved before small uploads use them, many by one statement."""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql(
        """
        create table reserved_keys (
            id         uuid primary key default uuidv7(),
            stem       text not null,                  -- the object key without its extension
            expires_at timestamptz not null            -- -infinity: nobody may use it any more
        )
        """
    )
