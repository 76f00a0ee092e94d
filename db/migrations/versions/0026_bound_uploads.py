"""Uploads of a key that is limited to a folder end with their folder: their files never go to the root."""

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in (
        "set local lock_timeout = '5s'",
        "alter table uploads add column bound boolean not null default false",
    ):
        op.get_bind().exec_driver_sql(statement)
