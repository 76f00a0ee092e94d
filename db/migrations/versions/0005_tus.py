"""Resumable uploads: what is durable of each, who writes it, and what writers may have left in the bucket."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    """
    create table resumable_uploads (
        upload_id  uuid primary key references uploads (id) on delete cascade,
        received   bigint not null default 0 check (received >= 0),       -- bytes: those of upload_parts and of the tail
        tail_key   text,                                                  -- the object that holds the bytes after the parts
        tail_size  bigint not null default 0 check (tail_size >= 0),
        next_part  integer not null default 1,                            -- part numbers are handed out once each
        token      bigint not null default 0,                             -- of the latest writer; an older one is fenced off
        held_until timestamptz,                                           -- the writer's lease; null: nobody writes
        asked_for  boolean not null default false,                        -- another request waits for the writer to end
        sealed     boolean not null default false,                        -- all is there, and where completion finds it
        deferred   boolean not null default false,                        -- began without a length
        metadata   text,                                                  -- Upload-Metadata as it was sent
        partial    boolean not null default false,                        -- tus concatenation: not a file of its own
        concat     text,                                                  -- Upload-Concat as it was sent
        sources    uuid[],                                                -- of a final upload: its partials in order
        constraint resumable_tail check (tail_key is not null or tail_size = 0)
    ) with (fillfactor = 50)
    """,
    """
    create table upload_parts (
        upload_id uuid not null references resumable_uploads (upload_id) on delete cascade,
        number    integer not null check (number between 1 and 10000),
        size      bigint not null check (size >= 0),
        etag      text not null,
        crc32     text,
        primary key (upload_id, number)
    )
    """,
    # Each key is here before anything is written under it, and until the bucket no longer holds it or a file has it.
    """
    create table upload_objects (
        object_key text primary key,
        upload_id  uuid not null references uploads (id) on delete cascade,
        created_at timestamptz not null default now()
    )
    """,
    "create index upload_objects_of_upload on upload_objects (upload_id)",
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
