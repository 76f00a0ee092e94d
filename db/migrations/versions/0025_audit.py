"""The history of files becomes the audit log: ``audit_events``, with a partition for each month, to which rows are only added.

The table ``file_events`` becomes its first partition, without a copy. What may take long (indexes, and the proof that its rows
belong there) is done before, beside reads and writes; all of it can be repeated. A view keeps the name for processes that
still run the code from before."""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

_BESIDE = [
    "set lock_timeout = '5s'",
    *(
        f"alter table file_events add column if not exists {column}"
        for column in (
            "outcome text not null default 'ok'",
            "credential text",
            "credential_id text",
            "address text",
            "request_id text",
            "target text",
            "details jsonb",
        )
    ),
    # An index that an interrupted run left behind is not valid.
    *(
        statement
        for name, of in {
            "file_events_id": "index concurrently {name} on file_events (id)",
            "file_events_by_actor": "index concurrently {name} on file_events (actor, id)",
            "file_events_refused": "unique index concurrently {name} on file_events (actor, target, outcome, at)"
            " where action = 'refused'",
        }.items()
        for statement in (f"drop index concurrently if exists {name}", f"create {of.format(name=name)}")
    ),
    # Rows are added while this runs: the month that begins in more than a day is out of their reach.
    "alter table file_events drop constraint if exists file_events_until",
    """
    do $$ begin
        execute format('alter table file_events add constraint file_events_until check (at < %L) not valid',
                       (date_trunc('month', now() at time zone 'UTC' + interval '1 day') + interval '1 month')
                       at time zone 'UTC');
    end $$
    """,
    "alter table file_events validate constraint file_events_until",
    "reset lock_timeout",
]

_ATTACH = [
    "set local lock_timeout = '5s'",
    "set local timezone = 'UTC'",
    """
    create table audit_events (
        id            bigint generated always as identity,
        at            timestamptz not null default now(),
        action        text not null,
        outcome       text not null default 'ok',           -- or the code of the error
        actor         text not null,                        -- owner_id of the credential; without one: core/origin.py
        credential    text,                                 -- key, token, jwt, session
        credential_id text,                                 -- of a key or token
        address       text,
        request_id    text,
        owner_id      text,                                 -- whose it is
        file_id       uuid,
        target        text,                                 -- the folder, key, token, upload or job; of a refusal the route
        details       jsonb
    ) partition by range (at)
    """,
    "create index audit_events_id on audit_events (id)",
    "create index audit_events_by_file on audit_events (file_id, id)",
    "create index audit_events_by_owner on audit_events (owner_id, id)",
    "create index audit_events_by_actor on audit_events (actor, id)",
    # One refusal of its kind in a minute.
    "create unique index audit_events_refused on audit_events (actor, target, outcome, at) where action = 'refused'",
    "alter table file_events drop constraint file_events_pkey",
    "alter table file_events drop constraint file_events_action_check",
    "alter table file_events alter column id drop identity",
    "alter table file_events alter column file_id drop not null",
    "alter table file_events alter column owner_id drop not null",
    """
    do $$
    declare
        until timestamptz := substring(pg_get_constraintdef(oid) from '''([^'']+)''') from pg_constraint
            where conname = 'file_events_until';
        first text := 'audit_events_' || to_char(until - interval '1 month', 'YYYY_MM');
    begin
        execute format('alter table file_events rename to %I', first);
        execute format('alter table audit_events attach partition %I for values from (minvalue) to (%L)', first, until);
        execute format('alter table %I drop constraint file_events_until', first);
        execute format('select setval(pg_get_serial_sequence(''audit_events'', ''id''), max(id)) from %I', first);
    end $$
    """,
    # No write fails, even if nobody has added partitions for months.
    "create table audit_events_default partition of audit_events default",
    """
    create function refuse_change() returns trigger language plpgsql as $$
    begin
        raise insufficient_privilege using message = 'audit events are only added';
    end $$
    """,
    "create trigger audit_events_unchanged before update or delete on audit_events for each row execute function refuse_change()",
    """
    do $$
    declare
        name regclass;
    begin
        for name in select relid from pg_partition_tree('audit_events') loop
            execute format('create trigger audit_events_kept before truncate on %s execute function refuse_change()', name);
        end loop;
    end $$
    """,
    # Adds the partitions that begin soon, and no more: statements look into each. A month that has rows in the default partition
    # keeps them there.
    """
    create function add_audit_partitions(ahead interval default '1 month') returns void language plpgsql security definer
    set search_path = public, pg_temp set timezone = 'UTC' set lock_timeout = '3s' as $$
    declare
        month timestamp;
        name text;
    begin
        select to_date(max(right(inhrelid::regclass::text, 7)), 'YYYY_MM') into month from pg_inherits
        where inhparent = 'audit_events'::regclass and inhrelid::regclass::text ~ '^audit_events_\\d{4}_\\d\\d$';
        loop
            month := month + interval '1 month';
            exit when month > now() + ahead;
            name := 'audit_events_' || to_char(month, 'YYYY_MM');
            begin
                execute format('create table %I (like audit_events including defaults)', name);
                execute format('create trigger audit_events_kept before truncate on %I execute function refuse_change()', name);
                execute format('alter table audit_events attach partition %I for values from (%L) to (%L)', name, month,
                               month + interval '1 month');
            exception when check_violation then
                null;
            end;
        end loop;
    end $$
    """,
    "select add_audit_partitions()",
    # What is left of partitions that `python app.py audit prune` has dropped.
    """
    create table audit_summaries (
        month    date not null,
        owner_id text not null,                             -- '' for events of nobody's
        action   text not null,
        outcome  text not null,
        events   bigint not null,
        primary key (month, owner_id, action, outcome)
    )
    """,
    "create view file_events as select id, file_id, owner_id, action, actor, at from audit_events where file_id is not null",
]


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in _BESIDE:
            _run(statement)
    for statement in _ATTACH:
        _run(statement)


def _run(statement: str) -> None:
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))  # it has no parameters
