"""The index of search repeats the status of files, so that a row that differs from its file is known by itself."""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in (
        "set local lock_timeout = '5s'",
        "alter table search_index add column status text not null default 'ready'",
        "insert into search_queue select id from files where status <> 'ready'",
    ):
        op.get_bind().exec_driver_sql(statement)
