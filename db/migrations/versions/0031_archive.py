"""Archived objects: since when one is wanted back, and how far the rules have been applied."""

from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

_COLUMNS = [
    "set lock_timeout = '5s'",
    # When an archived object was last wanted back; kept when it is back, as a use of its bytes.
    "alter table objects add column if not exists restore_requested_at timestamptz",
    # How far the objects have been looked at: one pass through them at a time, by age.
    """
    create table if not exists archive_pass (
        one           boolean primary key default true check (one),
        began_at      timestamptz not null default now(),
        after_created timestamptz not null default '-infinity',    -- objects up to here are done
        after_key     text not null default '',
        finished_at   timestamptz
    )
    """,
]
# Beside writes. An interrupted run leaves an index behind that is not valid.
_INDEXES = {
    "objects_standard": "(created_at, object_key) where storage_class = 'standard' and status = 'stored'",
    "objects_archived": "(owner_id, object_key) where storage_class = 'archived'",
    "objects_wanted_back": "(restore_requested_at) where storage_class = 'archived' and restore_requested_at is not null",
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in _COLUMNS:
            op.get_bind().exec_driver_sql(statement)
        for name, of in _INDEXES.items():
            op.get_bind().exec_driver_sql(f"drop index concurrently if exists {name}")
            op.get_bind().exec_driver_sql(f"create index concurrently {name} on objects {of}")
        op.get_bind().exec_driver_sql("reset lock_timeout")
