"""What was read from an object is kept for each way to read it: metadata, problem, previews and text follow a file's own type.

What takes long is done before, beside reads and writes; all of it can be repeated. The columns ``extracted`` and ``problem`` of
objects stay for processes that still run the code from before, as nothing reads them any more. Jobs of such a process fail
and are repeated."""

from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

_TABLES = {  # what each primary key has after the object key
    "file_previews": "read_as, preview_type, variant, mime_type",
    "preview_failures": "read_as, preview_type, variant",
    "object_texts": "read_as",
}
_BATCH = 2_000  # objects

_NEW = [
    "set lock_timeout = '5s'",
    # All that a parser sees of a file's type and name: the type, and of texts the extension, as ``core.names.extension`` has it.
    # Lists compute it for each file, so ASCII names get a quick form, which may only tell more.
    """
    alter table files add column if not exists read_as text generated always as (case
        when file_type <> 'text' and mime_type <> 'application/octet-stream' then mime_type
        when octet_length(original_name) > length(original_name) then mime_type || ' ' || coalesce(substring(
            rtrim(casefold(normalize(original_name, NFKC) collate pg_unicode_fast), '. ') from '\\.([a-z0-9]{1,16})$'), '')
        when strpos(rtrim(original_name, '. '), '.') > 0
        then mime_type || ' ' || lower(split_part(rtrim(original_name, '. '), '.', -1))
        else mime_type || ' '
        end) virtual
    """,
    """
    create table if not exists readings (
        object_key text not null references objects (object_key) on delete cascade on update cascade,
        read_as    text not null,
        extracted  jsonb not null default '{}',             -- width, height, exif, …; processed_at once all steps are done
        problem    jsonb,                                   -- {"code", "detail"} of a step that failed
        primary key (object_key, read_as)
    )
    """,
    *(f"alter table {table} add column if not exists read_as text" for table in _TABLES),
]
# What an object has was read as its files say. If they say several things, it can't be known as which: it is kept as '', which
# no file says, and read again.
_READ_AS = """
select case when min(read_as) = max(read_as) then min(read_as) else '' end as read_as
from files f where f.file_path = o.object_key
"""
_MOVE = [
    f"""
    insert into readings (object_key, read_as, extracted, problem)
    select o.object_key, f.read_as, o.extracted, o.problem from objects o cross join lateral ({_READ_AS}) f
    where o.object_key = any(%(keys)s) and (o.extracted <> '{{}}' or o.problem is not null
        {" ".join(f"or exists (select from {table} t where t.object_key = o.object_key)" for table in _TABLES)})
    on conflict (object_key, read_as) do update set extracted = excluded.extracted, problem = excluded.problem
    """,
    *(
        f"""
        update {table} t set read_as = r.read_as from readings r
        where t.object_key = any(%(keys)s) and t.read_as is null and r.object_key = t.object_key
        """
        for table in _TABLES
    ),
]
_KEYS = f"select object_key from objects where object_key > %(after)s order by object_key limit {_BATCH}"
_MISSED = " union ".join(f"select object_key from {table} where read_as is null" for table in _TABLES)

_SWAP = [
    statement
    for table, columns in _TABLES.items()
    for statement in (
        f"alter table {table} alter column read_as set not null",
        f"alter table {table} drop constraint {table}_pkey, drop constraint {table}_object_key_fkey",
        f"alter table {table} add constraint {table}_pkey primary key using index {table}_key",
        f"alter table {table} add constraint {table}_reading foreign key (object_key, read_as)"
        " references readings (object_key, read_as) on delete cascade on update cascade not valid",
    )
]
# Later, since a worker with the code from before takes these files for read.
_READ_AGAIN = """
insert into procrastinate_jobs (queue_name, task_name, priority, lock, args, scheduled_at, owner_id)
select distinct on (f.file_path, f.read_as) 'processing', 'process_file', -999999, 'object:' || f.file_path,
       jsonb_build_object('file_id', f.id), now() + interval '15 minutes', f.owner_id
from readings r join files f on f.file_path = r.object_key where r.read_as = '' and f.status = 'ready'
"""


def upgrade() -> None:
    bind = op.get_bind()
    with op.get_context().autocommit_block():
        if bind.exec_driver_sql("select from pg_constraint where conname = 'object_texts_reading'").first() is None:
            for statement in _NEW:
                _run(statement)
            after = ""
            while keys := bind.exec_driver_sql(_KEYS, {"after": after}).scalars().all():
                _move(keys)
                after = keys[-1]
            for table, columns in _TABLES.items():
                _run(f"drop index concurrently if exists {table}_key")  # an interrupted run left it behind, not valid
                _run(f"create unique index concurrently {table}_key on {table} (object_key, {columns})")
    _run("set local lock_timeout = '5s'")
    if bind.exec_driver_sql("select from pg_constraint where conname = 'object_texts_reading'").first() is None:
        _run(f"lock table {', '.join(_TABLES)} in access exclusive mode")
        _move(bind.exec_driver_sql(_MISSED).scalars().all())
        for statement in _SWAP:
            _run(statement)
        _run(_READ_AGAIN)
    with op.get_context().autocommit_block():
        for table in _TABLES:
            _run(f"alter table {table} validate constraint {table}_reading")
        _run("reset lock_timeout")


def _move(keys: object) -> None:
    for statement in _MOVE:
        op.get_bind().exec_driver_sql(statement, {"keys": keys})


def _run(statement: str) -> None:
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))  # it has no parameters
