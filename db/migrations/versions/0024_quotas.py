"""Quotas of files, quotas that an identity provider claims, and what they are compared with."""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

_COLUMNS = [
    "set local lock_timeout = '5s'",
    """
    alter table owner_usage
        add column trash_count    bigint not null default 0,                          -- files in the trash
        add column reserved_files bigint not null default 0,                          -- unfinished uploads
        add column quota_files    bigint check (quota_files >= 0),                    -- overrides QUOTA_FILES
        add column claimed_bytes  bigint check (claimed_bytes >= 0),                  -- by the identity provider
        add column claimed_files  bigint check (claimed_files >= 0)
    """,
    """
    update owner_usage u set trash_count = t.files
    from (select owner_id, sum(files) as files from type_counters where is_deleted group by owner_id) t
    where t.owner_id = u.owner_id
    """,
    # Older code does not count its uploads here. The nightly recount does.
    """
    update owner_usage u set reserved_files = o.files
    from (select owner_id, count(*) as files from uploads
          where status in ('pending', 'uploading', 'completing') group by owner_id) o
    where o.owner_id = u.owner_id
    """,
]
# The triggers of 0010, each with its count of the trash.
_TRIGGERS = {
    "files_count_inserted": [
        ("used_bytes, file_count)", "used_bytes, file_count, trash_count)"),
        (
            "sum(file_size), count(*) filter (where not is_deleted)",
            "sum(file_size), count(*) filter (where not is_deleted), count(*) filter (where is_deleted)",
        ),
        (
            "file_count = u.file_count + excluded.file_count",
            "file_count = u.file_count + excluded.file_count, trash_count = u.trash_count + excluded.trash_count",
        ),
    ],
    "files_count_deleted": [
        (
            "file_count = u.file_count - gone.files",
            "file_count = u.file_count - gone.files, trash_count = u.trash_count - gone.trashed",
        ),
        (
            "count(*) filter (where not is_deleted) as files",
            "count(*) filter (where not is_deleted) as files, count(*) filter (where is_deleted) as trashed",
        ),
    ],
    "files_count_updated": [
        (
            "file_count = file_count + old.is_deleted::integer - new.is_deleted::integer",
            "file_count = file_count + old.is_deleted::integer - new.is_deleted::integer,\n"
            "            trash_count = trash_count - old.is_deleted::integer + new.is_deleted::integer",
        )
    ],
}


def upgrade() -> None:
    bind = op.get_bind()
    for statement in _COLUMNS:
        bind.exec_driver_sql(statement)
    for name, changes in _TRIGGERS.items():
        text: str = bind.exec_driver_sql(f"select pg_get_functiondef('{name}'::regproc)").scalar_one()
        for old, new in changes:
            assert text.count(old) == 1, (name, old)
            text = text.replace(old, new)
        bind.exec_driver_sql(text.replace("%", "%%"))
