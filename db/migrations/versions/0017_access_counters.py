"""Previews and first and last access are counted in the file's row, where they were computed from all of its events."""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    "alter table files rename column public_previews to preview_count",  # from now on with those by key
    "alter table files rename column first_public_access to first_access",
    "alter table files add column last_previewed timestamptz",  # by key; the others set last_accessed
    """
    update files f set
        preview_count = f.preview_count + e.previews,
        first_access = least(f.first_access, e.first),
        last_previewed = e.last_previewed,
        last_accessed = greatest(f.last_accessed, e.last_downloaded)
    from (
        select file_id, count(*) filter (where action = 'previewed') as previews, min(at) as first,
               max(at) filter (where action = 'previewed') as last_previewed,
               max(at) filter (where action = 'downloaded') as last_downloaded
        from file_events where action in ('downloaded', 'previewed') group by file_id
    ) e
    where f.id = e.file_id
    """,
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
