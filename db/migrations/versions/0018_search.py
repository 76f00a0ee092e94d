"""One table for search, filled by the worker from a queue, and a table of tags for lists.

The worker indexes existing files after the migration; until it is done, search finds only some of them."""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_INDEXED = "original_name, tags, status, file_type, mime_type, file_path, folder_id, is_deleted, uploaded_at, file_size"
_OLD, _NEW = (", ".join(f"{row}.{name}" for name in _INDEXED.split(", ")) for row in ("old", "new"))
_TAGGED = "tags, owner_id, is_deleted, uploaded_at"
_OLD_TAGS, _NEW_TAGS = (", ".join(f"{row}.{name}" for name in _TAGGED.split(", ")) for row in ("old", "new"))

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    *(f"drop trigger files_words_{event} on files" for event in ("inserted", "updated", "deleted")),
    *(f"drop trigger files_texts_{event} on files" for event in ("inserted", "updated")),
    *(f"drop function files_words_{event}()" for event in ("inserted", "updated", "deleted")),
    *(f"drop function files_texts_{event}()" for event in ("inserted", "updated")),
    "drop table file_words, owner_words, file_texts",
    "drop function add_file_texts, renamed, name_lexemes, text_mark, words_of_file, search_words, without_marks",
    "alter table files drop column name_words",
    "drop function name_words",
    # Files to index, in no order and maybe twice.
    "create table search_queue (file_id uuid not null)",
    "create sequence search_places",
    # What search looks up and tests, by file; db/search/index.py writes it. The columns that files have too are copies.
    """
    create table search_index (
        file_id     uuid primary key,
        digest      uuid not null,                          -- of what the words were made of
        folder_id   integer,
        is_deleted  boolean not null,
        uploaded_at timestamptz not null,
        file_size   bigint not null,
        owner_id    text not null,
        file_type   text not null,
        mime_type   text not null,
        tags        text[] not null,
        mark        text not null,                          -- of lexemes: owner and segment, 32,768 files indexed in turn
        name_key    text not null,
        name_words  text not null,                          -- each between spaces: " annual report 2026 pdf "
        name_tokens text not null,                          -- those that were split: " annualreport2026 "
        words       tsvector not null
    ) with (fillfactor = 85, toast_tuple_target = 512)      -- texts out of line; a move or the trash changes no index
    """,
    # No pending list: each search would read it.
    "create index search_index_words on search_index using gin (words) with (fastupdate = off)",
    # Distinct words of names, to look up parts of words and misspellings. Without numbers, which would be most of them.
    """
    create table search_words (
        owner_id text not null,
        word     text collate "C" not null,
        plain    text not null,                             -- without marks: é is e
        primary key (owner_id, word)
    )
    """,
    "create index search_words_parts on search_words using gin (owner_id, plain gin_trgm_ops) with (fastupdate = off)",
    """
    create function queue_for_search() returns trigger language plpgsql as $$
    begin
        insert into search_queue values (coalesce(new.id, old.id));
        return null;
    end $$
    """,
    "create trigger files_queue after insert or delete on files for each row execute function queue_for_search()",
    f"""
    create trigger files_queue_updated after update of {_INDEXED} on files for each row
    when (({_OLD}) is distinct from ({_NEW})) execute function queue_for_search()
    """,
    # Lists by tag, newest first.
    """
    create table file_tags (
        owner_id    text not null,
        tag         text collate "C" not null,
        is_deleted  boolean not null,
        uploaded_at timestamptz not null,
        file_id     uuid not null,
        primary key (owner_id, tag, is_deleted, uploaded_at, file_id)
    ) with (autovacuum_vacuum_insert_scale_factor = 0.02)   -- index-only scans need an all-visible heap
    """,
    """
    create function files_tag() returns trigger language plpgsql as $$
    begin
        if tg_op <> 'INSERT' then
            delete from file_tags where owner_id = old.owner_id and tag = any(old.tags) and is_deleted = old.is_deleted
                and uploaded_at = old.uploaded_at and file_id = old.id;
        end if;
        if tg_op <> 'DELETE' then
            insert into file_tags
            select distinct new.owner_id, tag, new.is_deleted, new.uploaded_at, new.id from unnest(new.tags) tag;
        end if;
        return null;
    end $$
    """,
    *(
        f"create trigger files_tag_{event} after {event} on files for each row when ({row}.tags <> '{{}}')"
        " execute function files_tag()"
        for event, row in (("insert", "new"), ("delete", "old"))
    ),
    f"""
    create trigger files_tag_update after update of {_TAGGED} on files for each row
    when (({_OLD_TAGS}) is distinct from ({_NEW_TAGS}) and (old.tags <> '{{}}' or new.tags <> '{{}}'))
    execute function files_tag()
    """,
    """
    insert into file_tags
    select distinct f.owner_id, tag, f.is_deleted, f.uploaded_at, f.id from files f, unnest(f.tags) tag
    """,
    "insert into search_queue select id from files order by uploaded_at",
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
