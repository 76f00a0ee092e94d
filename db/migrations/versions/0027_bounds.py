"""Indexes for bounds on an owner's rows."""

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    "create index api_keys_of_owner on api_keys (owner_id) where revoked_at is null",
    "create index api_keys_valid on api_keys (id) where revoked_at is null",
    "create index upload_tokens_of_owner on upload_tokens (owner_id, expires_at)",
    "create index upload_tokens_of_key on upload_tokens (key_id, expires_at) where key_id is not null",
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
