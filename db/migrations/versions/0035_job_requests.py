"""A job has the request that led to it: its id, who made it, and its trace."""

from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    """
    alter table procrastinate_jobs
        add column request_id text,
        add column actor text,
        add column trace text                                  -- W3C's traceparent
    """,
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
