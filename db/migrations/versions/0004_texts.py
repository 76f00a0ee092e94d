"""The texts of stored objects."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    """
    create table object_texts (
        object_key text primary key references objects (object_key) on delete cascade on update cascade,
        content    text not null,
        language   text check (language ~ '^[a-z]{2,3}$'),                 -- ISO 639; null if unknown
        created_at timestamptz not null default now()
    )
    """,
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
