"""Files, folders, objects, uploads, keys and what belongs to them."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    "create extension if not exists pg_trgm",
    # Names are the same if they differ only in case or Unicode form (T24).
    """
    create function name_key(name text) returns text language sql immutable strict parallel safe
    return casefold(normalize(name, NFKC) collate pg_unicode_fast)
    """,
    """
    create table api_keys (
        id          uuid primary key default uuidv7(),
        key_digest  bytea not null unique check (octet_length(key_digest) = 32),  -- SHA-256; the key itself is not stored
        owner_id    text not null check (length(owner_id) between 1 and 255),
        name        text not null default '' check (length(name) <= 255),
        role        text not null check (role in ('user', 'admin')),
        created_at  timestamptz not null default now(),
        revoked_at  timestamptz
    )
    """,
    """
    create table folders (
        id          integer generated always as identity primary key,
        owner_id    text not null check (length(owner_id) between 1 and 255),
        name        text not null check (octet_length(name) between 1 and 255),
        name_key    text not null generated always as (name_key(name)) stored,
        description text not null default '' check (length(description) <= 4000),
        parent_id   integer,
        created_at  timestamptz not null default now(),
        updated_at  timestamptz not null default now(),
        constraint folder_owner unique (id, owner_id),
        constraint folder_parent foreign key (parent_id, owner_id) references folders (id, owner_id),
        constraint folder_name_conflict unique nulls not distinct (owner_id, parent_id, name_key)
    )
    """,
    "create index folders_by_parent on folders (parent_id)",
    # A tree stays a tree, at most 32 deep. One transaction at a time changes an owner's tree: two moves that are correct alone
    # can form a cycle together.
    """
    create function folders_keep_tree() returns trigger language plpgsql as $$
    declare
        above integer := 0;
        below integer := 1;
        cyclic boolean := false;
    begin
        perform pg_advisory_xact_lock(hashtextextended('folders:' || new.owner_id, 0));
        if new.parent_id is not null then
            with recursive up (id, parent_id, depth) as (
                select id, parent_id, 1 from folders where id = new.parent_id
                union all
                select f.id, f.parent_id, up.depth + 1 from folders f join up on f.id = up.parent_id where up.depth < 64
            )
            select coalesce(max(depth), 0), coalesce(bool_or(id = new.id), false) into above, cyclic from up;
            if cyclic then
                raise exception 'folder cycle' using errcode = 'check_violation', constraint = 'folder_cycle';
            end if;
        end if;
        if tg_op = 'UPDATE' then
            with recursive down (id, depth) as (
                select new.id, 1
                union all
                select f.id, down.depth + 1 from folders f join down on f.parent_id = down.id where down.depth < 64
            )
            select max(depth) into below from down;
        end if;
        if above + below > 32 then
            raise exception 'folder too deep' using errcode = 'check_violation', constraint = 'folder_too_deep';
        end if;
        return new;
    end $$
    """,
    """
    create trigger folders_keep_tree before insert or update of parent_id on folders
    for each row execute function folders_keep_tree()
    """,
    # Stored bytes. Files of one owner may share an object; files of different owners never do (T15).
    """
    create table objects (
        object_key     text primary key,
        owner_id       text not null,
        size           bigint not null check (size >= 0),
        sha256         text check (sha256 ~ '^[0-9a-f]{64}$'),        -- null until the gateway has hashed the bytes
        etag           text not null,
        content_type   text not null,
        storage_class  text not null default 'standard' check (storage_class in ('standard', 'archived')),
        status         text not null default 'stored' check (status in ('stored', 'purging')),
        found          boolean not null default true,                  -- whether the last check found it in the bucket
        checksum_state text not null default 'unverified' check (checksum_state in ('verified', 'unverified', 'mismatch')),
        checked_at     timestamptz,
        created_at     timestamptz not null default now()
    )
    """,
    "create index objects_by_content on objects (owner_id, sha256, size) where sha256 is not null and status = 'stored'",
    "create index objects_purging on objects (created_at) where status = 'purging'",
    """
    create table files (
        id             uuid primary key default uuidv7(),
        owner_id       text not null check (length(owner_id) between 1 and 255),
        original_name  text not null check (octet_length(original_name) between 1 and 255),
        name_key       text not null generated always as (name_key(original_name)) stored,
        file_path      text not null constraint file_object references objects (object_key) on update cascade,
        stored_name    text not null generated always as (substring(file_path from '[^/]+$')) stored,
        mime_type      text not null,
        file_type      text not null
                       check (file_type in ('image', 'video', 'audio', 'document', 'text', 'archive', 'other')),
        file_size      bigint not null check (file_size >= 0),
        file_hash      text check (file_hash ~ '^[0-9a-f]{64}$'),
        folder_id      integer,
        status         text not null check (status in ('processing', 'ready', 'rejected', 'infected')),
        visibility     text not null default 'private' check (visibility in ('private', 'public')),
        tags           text[] not null default '{}' check (cardinality(tags) <= 50),
        metadata       jsonb not null default '{}',
        problem        jsonb,
        uploaded_at    timestamptz not null default now(),
        last_accessed  timestamptz,
        download_count bigint not null default 0 check (download_count >= 0),
        is_deleted     boolean not null default false,
        deleted_at     timestamptz,
        expires_at     timestamptz,
        version        integer not null default 1,                     -- the ETag of the metadata
        constraint file_trash check (is_deleted = (deleted_at is not null)),
        constraint file_folder foreign key (folder_id, owner_id) references folders (id, owner_id)
                   on delete set null (folder_id)
    ) with (fillfactor = 85)
    """,
    # Files in the trash hold no name.
    """
    create unique index file_name_conflict on files (owner_id, folder_id, name_key) nulls not distinct
    where not is_deleted
    """,
    "create index files_by_object on files (file_path)",
    "create index files_by_folder on files (folder_id) where folder_id is not null",
    "create index files_newest on files (owner_id, is_deleted, uploaded_at, id)",
    "create index files_by_name on files (owner_id, is_deleted, name_key, id)",
    "create index files_by_size on files (owner_id, is_deleted, file_size, id)",
    "create index files_by_type on files (owner_id, is_deleted, mime_type, id)",
    "create index files_by_tag on files using gin (tags)",
    "create index files_expiring on files (expires_at) where expires_at is not null and not is_deleted",
    "create index files_trashed on files (deleted_at) where is_deleted",
    "create index files_unchecked on files (uploaded_at) where status = 'processing'",
    # Previews belong to the object, so that files on it share them. file_id is the file they were made for.
    """
    create table file_previews (
        object_key   text not null references objects (object_key) on delete cascade on update cascade,
        file_id      uuid references files (id) on delete set null,
        preview_type text not null check (preview_type in ('thumbnail', 'text', 'page', 'contents')),
        variant      integer not null,                                  -- size of a thumbnail in pixels, or a page
        preview_path text not null unique,
        mime_type    text not null,
        width        integer check (width > 0),
        height       integer check (height > 0),
        size         bigint not null check (size >= 0),
        created_at   timestamptz not null default now(),
        primary key (object_key, preview_type, variant, mime_type)
    )
    """,
    "create index file_previews_by_file on file_previews (file_id)",
    """
    create table upload_sessions (
        id             bigint generated always as identity primary key,
        owner_id       text not null,
        session_id     text not null check (session_id ~ '^[A-Za-z0-9_-]{1,64}$'),
        files_uploaded integer not null default 0 check (files_uploaded >= 0),
        total_size     bigint not null default 0 check (total_size >= 0),
        started_at     timestamptz not null default now(),
        completed_at   timestamptz,
        unique (owner_id, session_id)
    )
    """,
    # A short-lived credential for uploads within a budget, and how much of the budget is used.
    """
    create table upload_tokens (
        id             uuid primary key default uuidv7(),
        token_digest   bytea not null unique check (octet_length(token_digest) = 32),
        owner_id       text not null check (length(owner_id) between 1 and 255),
        folder_id      integer references folders (id) on delete cascade,
        max_files      integer check (max_files > 0),
        max_size       bigint check (max_size >= 0),                    -- bytes of one file
        max_total_size bigint check (max_total_size >= 0),
        allowed_types  text[] not null default '{}',
        files_used     integer not null default 0 check (files_used >= 0),
        bytes_used     bigint not null default 0 check (bytes_used >= 0),
        created_at     timestamptz not null default now(),
        expires_at     timestamptz not null
    )
    """,
    "create index upload_tokens_over on upload_tokens (expires_at)",
    # An upload in progress, of any protocol. The row and its object key exist before the first byte is sent.
    """
    create table uploads (
        id            uuid primary key default uuidv7(),
        owner_id      text not null check (length(owner_id) between 1 and 255),
        protocol      text not null check (protocol in ('form', 'raw', 'direct', 's3', 'tus', 'ietf')),
        status        text not null default 'pending'
                      check (status in ('pending', 'uploading', 'completing', 'done', 'aborted', 'expired')),
        object_key    text not null unique,                             -- the final key; never given to a client's POST
        incoming_key  text unique,                                      -- where a single direct PUT or POST writes them first
        multipart_id  text,
        original_name text not null,
        content_type  text not null,
        size          bigint check (size >= 0),                         -- as declared; null while unknown
        reserved      bigint not null default 0 check (reserved >= 0),  -- reserved bytes of quota
        part_size     bigint check (part_size > 0),
        folder_id     integer references folders (id) on delete set null,
        visibility    text not null default 'private' check (visibility in ('private', 'public')),
        tags          text[] not null default '{}',
        on_duplicate  text not null default 'link' check (on_duplicate in ('link', 'copy', 'reject')),
        metadata      jsonb not null default '{}',
        sha256        text check (sha256 ~ '^[0-9a-f]{64}$'),           -- as the client declared it
        session_id    text,
        token_id      uuid references upload_tokens (id) on delete set null,
        file_id       uuid references files (id) on delete set null,
        problem       jsonb,
        cleaned       boolean not null default false,                   -- nothing of it is left in the bucket
        created_at    timestamptz not null default now(),
        updated_at    timestamptz not null default now(),
        expires_at    timestamptz not null
    )
    """,
    "create index uploads_unfinished on uploads (owner_id, id) where status in ('pending', 'uploading', 'completing')",
    "create index uploads_expiring on uploads (expires_at) where status in ('pending', 'uploading', 'completing')",
    "create index uploads_unclean on uploads (updated_at) where status in ('aborted', 'expired') and not cleaned",
    "create index uploads_over on uploads (updated_at) where status in ('done', 'aborted', 'expired')",
    "create index uploads_incoming on uploads (incoming_key) where status in ('pending', 'uploading')",
    "create index uploads_by_file on uploads (file_id) where file_id is not null",
    """
    create table owner_usage (
        owner_id       text primary key,
        used_bytes     bigint not null default 0 check (used_bytes >= 0),      -- all files, including the trash
        file_count     bigint not null default 0 check (file_count >= 0),      -- without the trash
        reserved_bytes bigint not null default 0 check (reserved_bytes >= 0),  -- reserved by unfinished uploads
        quota_bytes    bigint check (quota_bytes >= 0)                         -- overrides QUOTA_BYTES
    ) with (fillfactor = 50)
    """,
    # used_bytes and file_count are exact, because no statement can change files without these triggers (T72). Inserts
    # and deletes are counted once a statement, updates by row, if they change a counted column.
    """
    create function files_count_inserted() returns trigger language plpgsql as $$
    begin
        insert into owner_usage as u (owner_id, used_bytes, file_count)
        select owner_id, sum(file_size), count(*) filter (where not is_deleted) from added group by owner_id
        on conflict (owner_id) do update
        set used_bytes = u.used_bytes + excluded.used_bytes, file_count = u.file_count + excluded.file_count;
        return null;
    end $$
    """,
    """
    create function files_count_deleted() returns trigger language plpgsql as $$
    begin
        update owner_usage u set used_bytes = u.used_bytes - gone.bytes, file_count = u.file_count - gone.files
        from (select owner_id, sum(file_size) as bytes, count(*) filter (where not is_deleted) as files
              from removed group by owner_id) gone
        where u.owner_id = gone.owner_id;
        return null;
    end $$
    """,
    """
    create function files_count_updated() returns trigger language plpgsql as $$
    begin
        update owner_usage
        set used_bytes = used_bytes + new.file_size - old.file_size,
            file_count = file_count + old.is_deleted::integer - new.is_deleted::integer
        where owner_id = new.owner_id;
        return null;
    end $$
    """,
    """
    create trigger files_count_inserted after insert on files referencing new table as added
    for each statement execute function files_count_inserted()
    """,
    """
    create trigger files_count_deleted after delete on files referencing old table as removed
    for each statement execute function files_count_deleted()
    """,
    """
    create trigger files_count_updated after update of is_deleted, file_size on files for each row
    when (old.is_deleted <> new.is_deleted or old.file_size <> new.file_size)
    execute function files_count_updated()
    """,
    # The history of a file. It is kept when the file is purged.
    """
    create table file_events (
        id       bigint generated always as identity primary key,
        file_id  uuid not null,
        owner_id text not null,
        action   text not null check (action in ('uploaded', 'downloaded', 'previewed', 'url_issued', 'updated', 'moved',
                                                 'copied', 'trashed', 'restored', 'purged', 'verified')),
        actor    text not null,                                          -- owner_id of the key, or 'anonymous'
        at       timestamptz not null default now()
    )
    """,
    "create index file_events_by_file on file_events (file_id, id)",
    "create index file_events_recent on file_events (owner_id, id)",
    """
    create table idempotency_keys (
        owner_id        text not null,
        key             text not null check (length(key) between 1 and 255),
        request_digest  bytea not null,
        response_status integer,                                         -- null while the first request is running
        response        jsonb,
        headers         jsonb not null default '{}',
        created_at      timestamptz not null default now(),
        lease_until     timestamptz not null,
        primary key (owner_id, key)
    )
    """,
    "create index idempotency_keys_old on idempotency_keys (created_at)",
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
