"""Resumable uploads: what is durable, who writes, and which keys writers may have left in the bucket."""

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
        received   bigint not null default 0 check (received >= 0),       -- bytes in upload_parts and in the tail
        tail_key   text,                                                  -- the object with the bytes after the parts
        tail_size  bigint not null default 0 check (tail_size >= 0),
        next_part  integer not null default 1,                            -- each part number is used once
        token      bigint not null default 0,                             -- of the latest writer; fences off older ones
        held_until timestamptz,                                           -- the end of the writer's lease; null: no writer
        asked_for  boolean not null default false,                        -- another request waits for the writer to stop
        sealed     boolean not null default false,                        -- all bytes are there, in parts or as one object
        deferred   boolean not null default false,                        -- begun without a length
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
    # A key is here before anything is written under it, until the bucket no longer holds it or a file uses it.
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
