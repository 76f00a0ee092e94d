"""Owner, deaths and last error of jobs; extracted metadata and problems of objects; previews that failed."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    # Three more columns in the queue's own table. Its functions name their columns, so they keep working.
    """
    alter table procrastinate_jobs
        add column owner_id text,                                           -- for fair queueing (db/jobs.py)
        add column deaths   smallint not null default 0,                    -- workers that died while they ran it
        add column error    text                                            -- why the last attempt failed
    """,
    # The last job of each owner in a queue, and the first of the queue: to enqueue a job reads one entry of each.
    """
    create index jobs_turns on procrastinate_jobs (queue_name, owner_id, priority) where status = 'todo'
    """,
    "create index jobs_heads on procrastinate_jobs (queue_name, priority) where status = 'todo'",
    # For each candidate, a worker checks whether another job holds its lock.
    """
    create index jobs_locks on procrastinate_jobs (lock)
    where status = any (array['todo'::procrastinate_job_status, 'doing'::procrastinate_job_status])
    """,
    "create index jobs_failed on procrastinate_jobs (id) where status = 'failed'",
    # Results of processing belong to the bytes: all files on the object show them, also those linked later.
    """
    alter table objects
        add column measured jsonb not null default '{}',                    -- width, height, exif, …
        add column problem  jsonb                                           -- {"code", "detail"} of a step that failed
    """,
    # Previews that can't be made, so that a hostile file is not opened again for every request.
    """
    create table preview_failures (
        object_key   text not null references objects (object_key) on delete cascade on update cascade,
        preview_type text not null check (preview_type in ('thumbnail', 'text', 'page', 'contents')),
        variant      integer not null,                                      -- a page; 0 for the other types
        code         text not null,
        detail       text not null,
        failed_at    timestamptz not null default now(),
        primary key (object_key, preview_type, variant)
    )
    """,
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
