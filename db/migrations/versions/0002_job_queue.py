"""The job queue's own tables (procrastinate), created as that library defines them."""

from alembic import op
from procrastinate.schema import SchemaManager

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql("set local lock_timeout = '5s'")
    # Many statements in one string: only the driver's own connection takes that.
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    connection.execute(SchemaManager.get_schema())
