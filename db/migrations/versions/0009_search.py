"""Tables for search: words of names and tags, newest file first; each owner's distinct words; the words of files' texts.

A GIN index of names finds all 50,000 files with a common word before the newest can be picked. The B-tree of words ends with the
upload time: the newest files with a word are its last entries, and counting them reads neighbouring entries.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# As in core/tokenizer.py; a test compares them.
RUN = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3007\u3040-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uaa60-\uaa7f\uf900-\ufaff\U00020000-\U0003ffff"
)
MARKS = (
    "\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u0963\u0966-\u0dff"
)

_LOCK = """
        perform from owner_usage where owner_id in (select owner_id from {rows}) order by owner_id for no key update;
"""
_ADD = """
        with w as materialized (
            select a.owner_id, a.is_deleted, s.word, a.uploaded_at, a.id
            from {rows} a, words_of_file(a.name_words, a.tags) s(word)
        ), known as (
            insert into owner_words (owner_id, word, plain)
            select distinct on (owner_id, word) owner_id, word, without_marks(word) from w
            where length(word) >= 4 and word !~ '^([/^#]|[0-9]+$)' order by owner_id, word
            on conflict do nothing
        )
        insert into file_words (owner_id, is_deleted, word, uploaded_at, file_id) select * from w;
"""
_REMOVE = """
        delete from file_words w using {rows} r, words_of_file(r.name_words, r.tags) s(word)
        where w.owner_id = r.owner_id and w.is_deleted = r.is_deleted and w.word = s.word
        and w.uploaded_at = r.uploaded_at and w.file_id = r.id;
        delete from owner_words o using {rows} r, search_words(r.name_words) s(word)
        where o.owner_id = r.owner_id and o.word = s.word and not exists (
            select from file_words w where w.owner_id = o.owner_id and w.is_deleted in (false, true) and w.word = o.word);
"""


def _trigger_function(name: str, *steps: str) -> str:
    return f"create function {name}() returns trigger language plpgsql as $$ begin {''.join(steps)} return null; end $$"


_STATEMENTS = [
    "set local lock_timeout = '5s'",
    "create extension if not exists btree_gin",
    "drop index files_by_name_parts",
    "alter table files drop column name_words",
    # The words of a name (core/tokenizer.py), and after a slash the tokens that were split:
    # " annual report 2026 final pdf / annualreport2026 ".
    f"""
    create or replace function name_words(name text) returns text language plpgsql immutable strict parallel safe as $$
    declare
        token text collate pg_unicode_fast;
        pieces text collate pg_unicode_fast;
        found text := ' ';
        whole text := '';
    begin
        for token in select m[1] from regexp_matches(
            normalize(name, NFKC) collate pg_unicode_fast, '([{RUN}]+|(?:(?![{RUN}])[[:alnum:]]|[{MARKS}])+)', 'g') m
        loop
            if token ~ '^[{RUN}]' then
                select string_agg(substr(token, at, 2), ' ' order by at) into pieces
                from generate_series(1, length(token)) at;
            elsif token ~ '^([[:upper:]]?[[:lower:]]+|[[:digit:]]+)$' then
                pieces := token;
            else
                pieces := regexp_replace(token, '([[:lower:]])([[:upper:]])', '\\1 \\2', 'g');
                pieces := regexp_replace(pieces, '([[:upper:]])([[:upper:]][[:lower:]])', '\\1 \\2', 'g');
                pieces := regexp_replace(pieces, '((?![{MARKS}])[[:alpha:]])((?![{MARKS}])[[:digit:]])', '\\1 \\2', 'g');
                pieces := regexp_replace(pieces, '((?![{MARKS}])[[:digit:]])((?![{MARKS}])[[:alpha:]])', '\\1 \\2', 'g');
                if length(pieces) - length(token) > 7 then          -- a hash or an id
                    pieces := token;
                elsif pieces <> token then
                    whole := whole || token || ' ';
                end if;
            end if;
            found := found || pieces || ' ';
        end loop;
        return name_key(case when whole = '' then found else found || '/ ' || whole end);
    end $$
    """,
    "alter table files add column name_words text not null generated always as (name_words(original_name)) stored",
    # The entries of a name: its words, its split tokens after a slash, and its first word after ^. Tokens are kept apart, since
    # there are as many as names, and would hide the words with a prefix.
    """
    create function search_words(name_words text) returns setof text language sql immutable strict parallel safe as $$
        select distinct left(word, 64) from (
            select unnest(string_to_array(btrim(split_part(name_words, '/', 1)), ' '))
            union all
            select '/' || unnest(string_to_array(btrim(split_part(name_words, '/', 2)), ' '))
            union all
            select '^' || split_part(name_words, ' ', 2)
        ) w(word) where word not in ('', '^', '/')
    $$
    """,
    # Tags are entries too, after #, which no word of a name has.
    """
    create function words_of_file(name_words text, tags text[]) returns setof text
    language sql immutable strict parallel safe as $$
        select search_words(name_words) union all select distinct '#' || tag from unnest(tags) tag
    $$
    """,
    """
    create function without_marks(word text) returns text language sql immutable strict parallel safe
    return regexp_replace(normalize(word, NFD), '[\\u0300-\\u036f]', '', 'g')
    """,
    """
    create table file_words (
        owner_id    text not null,
        is_deleted  boolean not null,
        word        text collate "C" not null,
        uploaded_at timestamptz not null,
        file_id     uuid not null
    ) with (autovacuum_vacuum_insert_scale_factor = 0.02)               -- index-only scans need an all-visible heap
    """,
    # Distinct words, to look up parts of words and misspellings. Without numbers, which would be most of them.
    """
    create table owner_words (
        owner_id text not null,
        word     text collate "C" not null,
        plain    text not null,                                         -- without marks: é is e
        primary key (owner_id, word)
    )
    """,
    # A word is added with its first file and removed with its last. The owner's row in owner_usage is locked first, so that no
    # word is removed while another transaction adds a file with it.
    _trigger_function("files_words_inserted", _LOCK.format(rows="added"), _ADD.format(rows="added")),
    _trigger_function("files_words_deleted", _LOCK.format(rows="removed"), _REMOVE.format(rows="removed")),
    _trigger_function(
        "files_words_updated",
        _LOCK.format(rows="(select old.owner_id union select new.owner_id) f"),
        _REMOVE.format(rows="(select old.*)"),
        _ADD.format(rows="(select new.*)"),
    ),
    # Triggers fire in the order of their names: these after files_count_*, which lock owner_usage.
    """
    create trigger files_words_inserted after insert on files referencing new table as added
    for each statement execute function files_words_inserted()
    """,
    """
    create trigger files_words_deleted after delete on files referencing old table as removed
    for each statement execute function files_words_deleted()
    """,
    """
    create trigger files_words_updated after update of original_name, tags, is_deleted, uploaded_at, owner_id on files
    for each row when ((old.original_name, old.tags, old.is_deleted, old.uploaded_at, old.owner_id)
                       is distinct from (new.original_name, new.tags, new.is_deleted, new.uploaded_at, new.owner_id))
    execute function files_words_updated()
    """,
    """
    insert into file_words (owner_id, is_deleted, word, uploaded_at, file_id)
    select f.owner_id, f.is_deleted, s.word, f.uploaded_at, f.id from files f, words_of_file(f.name_words, f.tags) s(word)
    """,
    """
    insert into owner_words (owner_id, word, plain)
    select distinct owner_id, word, without_marks(word) from file_words
    where length(word) >= 4 and word !~ '^([/^#]|[0-9]+$)'
    """,
    "create index file_words_newest on file_words (owner_id, is_deleted, word, uploaded_at, file_id)",
    "create index owner_words_parts on owner_words using gin (owner_id, plain gin_trgm_ops) with (fastupdate = off)",
    "alter table object_texts add column owner_id text",
    "update object_texts t set owner_id = o.owner_id from objects o where o.object_key = t.object_key",
    "alter table object_texts alter column owner_id set not null",
    # The words of each file with a text: words of the text, its stems as word/language, and the words of the name as /word and
    # /word word; null: they can't be indexed. By file and not by object, so that texts with a word are counted, and the newest
    # picked, from this table alone. With the name, so that one lookup finds files with some words in the name and others in the
    # text.
    """
    create table file_texts (
        file_id     uuid primary key references files (id) on delete cascade,
        uploaded_at timestamptz not null,
        is_deleted  boolean not null,
        searchable  boolean not null,                                   -- only the text of a ready file counts
        owner_id    text not null,                                      -- after the fixed-width columns
        words       tsvector
    ) with (
        toast_tuple_target = 128,                                       -- words out of line: many rows in a page
        fillfactor = 85                                                 -- trashing a file changes no index
    )
    """,
    # No pending list: each search would read it.
    "create index file_texts_words on file_texts using gin (words) with (fastupdate = off)",
    # All lexemes of an owner start with one of 64 characters. With the owner as an index column, a search reads all texts of the
    # owner; without, the texts of all owners that have the word.
    """
    create function text_mark(owner_id text) returns text language sql immutable strict parallel safe
    return left(encode(decode(md5(owner_id), 'hex'), 'base64'), 1)
    """,
    """
    create function name_lexemes(owner_id text, name_words text) returns text[]
    language sql immutable strict parallel safe as $$
        select array(
            select text_mark(owner_id) || '/' || s.word from search_words(name_words) s(word) where not starts_with(s.word, '^')
            union
            select text_mark(owner_id) || '/' || left(word, 64) || ' ' || left(next, 64) from (
                select word, lead(word) over (order by place) as next
                from unnest(string_to_array(btrim(name_words), ' ')) with ordinality w(word, place)
            ) w where '/' not in (word, next)
        )
    $$
    """,
    """
    create function renamed(words tsvector, owner_id text, before text, after text) returns tsvector
    language sql immutable parallel safe
    return ts_delete(words, name_lexemes(owner_id, before)) || array_to_tsvector(name_lexemes(owner_id, after))
    """,
    # A file that is added to an object with a text shares it. Its transaction holds the object FOR SHARE, and
    # db/search/texts.put locks the object against that.
    """
    create function add_file_texts(file_ids uuid[]) returns void language sql as $$
        insert into file_texts (file_id, owner_id, is_deleted, searchable, uploaded_at, words)
        select f.id, f.owner_id, f.is_deleted, f.status = 'ready', f.uploaded_at,
               renamed(t.words, f.owner_id, t.name_words, f.name_words)
        from files f, lateral (
            select t.words, other.name_words from files other join file_texts t on t.file_id = other.id
            where other.file_path = f.file_path limit 1
        ) t
        where f.id = any(file_ids)
        on conflict do nothing
    $$
    """,
    _trigger_function(
        "files_texts_inserted",
        """
        perform add_file_texts(array_agg(a.id)) from added a
        where exists (select from object_texts t where t.object_key = a.file_path);
""",
    ),
    _trigger_function(
        "files_texts_updated",
        """
        update file_texts
        set is_deleted = new.is_deleted, searchable = new.status = 'ready',
            uploaded_at = new.uploaded_at
        where file_id = new.id;
        if not found then
            perform add_file_texts(array[new.id]);
        elsif new.name_words <> old.name_words then
            begin
                update file_texts set words = renamed(words, owner_id, old.name_words, new.name_words) where file_id = new.id;
            exception when program_limit_exceeded then
                update file_texts set words = null where file_id = new.id;
            end;
        end if;
""",
    ),
    """
    create trigger files_texts_inserted after insert on files referencing new table as added
    for each statement execute function files_texts_inserted()
    """,
    """
    create trigger files_texts_updated
    after update of original_name, status, is_deleted, uploaded_at, file_path on files
    for each row when ((old.original_name, old.status, old.is_deleted, old.uploaded_at, old.file_path)
        is distinct from (new.original_name, new.status, new.is_deleted, new.uploaded_at, new.file_path))
    execute function files_texts_updated()
    """,
    # One expression, so that it serves only the languages of an owner: the planner used an index that begins with the owner to
    # read all texts.
    "create index object_texts_languages on object_texts ((owner_id || '/' || language))",
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
