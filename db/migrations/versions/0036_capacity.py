"""Samples of the bucket's space."""

from alembic import op

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None

_STATEMENTS = [
    """
    create table capacity_samples (
        day date primary key,
        stored bigint not null,    -- bytes of all objects, as the bucket holds them
        free bigint,               -- bytes on its disk; null: not known
        total bigint
    )
    """
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
