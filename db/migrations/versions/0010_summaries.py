"""Counters of files, kept by triggers, so that statistics, folder trees and totals never scan the files."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def _saved(row: str) -> str:
    """Bytes that compression saves for an object: of ``row`` ("old.", "new." or "")."""
    return f"coalesce({row}size - {row}stored_size, 0)"


# The columns that are counted by. Downloads and edits don't change them.
_COUNTED = ("is_deleted", "file_size", "folder_id", "file_type", "status")
_CHANGES = " or ".join(f"old.{column} is distinct from new.{column}" for column in _COUNTED)

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    # Of objects that are not being purged: their bytes, and those that compression saves.
    "alter table owner_usage add column stored_bytes bigint not null default 0 check (stored_bytes >= 0)",
    "alter table owner_usage add column saved_bytes bigint not null default 0",
    """
    create table type_sums (
        owner_id   text not null,
        is_deleted boolean not null,
        file_type  text not null,
        status     text not null,
        files      bigint not null check (files >= 0),
        bytes      bigint not null check (bytes >= 0),
        primary key (owner_id, is_deleted, file_type, status)
    ) with (fillfactor = 50)
    """,
    # Files directly in a folder, without the trash. A null folder_id is the root.
    """
    create table folder_sums (
        owner_id  text not null,
        folder_id integer,
        files     bigint not null check (files >= 0),
        bytes     bigint not null check (bytes >= 0),
        constraint folder_sums_key unique nulls not distinct (owner_id, folder_id),
        foreign key (folder_id, owner_id) references folders (id, owner_id) on delete cascade
    ) with (fillfactor = 50)
    """,
    "create index folder_sums_largest on folder_sums (owner_id, bytes desc, files desc, folder_id)",
    # Each of these updates or locks the owner's row in owner_usage first, even if it does not change: transactions that change an
    # owner's counters wait for each other in one place, and never in a circle.
    """
    create or replace function files_count_inserted() returns trigger language plpgsql as $$
    begin
        insert into owner_usage as u (owner_id, used_bytes, file_count)
        select owner_id, sum(file_size), count(*) filter (where not is_deleted)
        from added group by owner_id order by owner_id
        on conflict (owner_id) do update
        set used_bytes = u.used_bytes + excluded.used_bytes, file_count = u.file_count + excluded.file_count;
        insert into type_sums as s (owner_id, is_deleted, file_type, status, files, bytes)
        select owner_id, is_deleted, file_type, status, count(*), sum(file_size) from added group by 1, 2, 3, 4
        on conflict (owner_id, is_deleted, file_type, status) do update
        set files = s.files + excluded.files, bytes = s.bytes + excluded.bytes;
        insert into folder_sums as s (owner_id, folder_id, files, bytes)
        select owner_id, folder_id, count(*), sum(file_size) from added where not is_deleted group by 1, 2
        on conflict (owner_id, folder_id) do update
        set files = s.files + excluded.files, bytes = s.bytes + excluded.bytes;
        return null;
    end $$
    """,
    """
    create or replace function files_count_deleted() returns trigger language plpgsql as $$
    begin
        perform from owner_usage where owner_id in (select owner_id from removed) order by owner_id for no key update;
        update owner_usage u set used_bytes = u.used_bytes - gone.bytes, file_count = u.file_count - gone.files
        from (select owner_id, sum(file_size) as bytes, count(*) filter (where not is_deleted) as files
              from removed group by owner_id) gone
        where u.owner_id = gone.owner_id;
        update type_sums s set files = s.files - gone.files, bytes = s.bytes - gone.bytes
        from (select owner_id, is_deleted, file_type, status, count(*) as files, sum(file_size) as bytes
              from removed group by 1, 2, 3, 4) gone
        where (s.owner_id, s.is_deleted, s.file_type, s.status)
            = (gone.owner_id, gone.is_deleted, gone.file_type, gone.status);
        update folder_sums s set files = s.files - gone.files, bytes = s.bytes - gone.bytes
        from (select owner_id, folder_id, count(*) as files, sum(file_size) as bytes
              from removed where not is_deleted group by 1, 2) gone
        where s.owner_id = gone.owner_id and s.folder_id is not distinct from gone.folder_id;
        return null;
    end $$
    """,
    """
    create or replace function files_count_updated() returns trigger language plpgsql as $$
    begin
        update owner_usage
        set used_bytes = used_bytes + new.file_size - old.file_size,
            file_count = file_count + old.is_deleted::integer - new.is_deleted::integer
        where owner_id = new.owner_id;
        if (old.is_deleted, old.file_type, old.status, old.file_size)
            <> (new.is_deleted, new.file_type, new.status, new.file_size) then
            update type_sums set files = files - 1, bytes = bytes - old.file_size
            where (owner_id, is_deleted, file_type, status) = (old.owner_id, old.is_deleted, old.file_type, old.status);
            insert into type_sums as s (owner_id, is_deleted, file_type, status, files, bytes)
            values (new.owner_id, new.is_deleted, new.file_type, new.status, 1, new.file_size)
            on conflict (owner_id, is_deleted, file_type, status) do update
            set files = s.files + 1, bytes = s.bytes + excluded.bytes;
        end if;
        if (old.is_deleted, old.folder_id, old.file_size) is distinct from (new.is_deleted, new.folder_id, new.file_size) then
            if not old.is_deleted then
                -- A folder that is being deleted has no counters any more.
                if old.folder_id is null then
                    update folder_sums set files = files - 1, bytes = bytes - old.file_size
                    where owner_id = old.owner_id and folder_id is null;
                else
                    update folder_sums set files = files - 1, bytes = bytes - old.file_size
                    where owner_id = old.owner_id and folder_id = old.folder_id;
                end if;
            end if;
            if not new.is_deleted then
                insert into folder_sums as s (owner_id, folder_id, files, bytes)
                values (new.owner_id, new.folder_id, 1, new.file_size)
                on conflict (owner_id, folder_id) do update
                set files = s.files + 1, bytes = s.bytes + excluded.bytes;
            end if;
        end if;
        return null;
    end $$
    """,
    "drop trigger files_count_updated on files",
    f"""
    create trigger files_count_updated after update of {", ".join(_COUNTED)} on files for each row
    when ({_CHANGES}) execute function files_count_updated()
    """,
    # The same for objects. The difference to used_bytes is what deduplication saves.
    f"""
    create function objects_count_inserted() returns trigger language plpgsql as $$
    begin
        insert into owner_usage as u (owner_id, stored_bytes, saved_bytes)
        select owner_id, sum(size), sum({_saved("")}) from added where status = 'stored' group by owner_id order by owner_id
        on conflict (owner_id) do update
        set stored_bytes = u.stored_bytes + excluded.stored_bytes, saved_bytes = u.saved_bytes + excluded.saved_bytes;
        return null;
    end $$
    """,
    f"""
    create function objects_count_changed() returns trigger language plpgsql as $$
    begin
        if tg_op = 'DELETE' then
            update owner_usage set stored_bytes = stored_bytes - old.size, saved_bytes = saved_bytes - {_saved("old.")}
            where owner_id = old.owner_id;
            return null;
        end if;
        update owner_usage
        set stored_bytes = stored_bytes + (new.status = 'stored')::integer * new.size
                                        - (old.status = 'stored')::integer * old.size,
            saved_bytes = saved_bytes + (new.status = 'stored')::integer * {_saved("new.")}
                                      - (old.status = 'stored')::integer * {_saved("old.")}
        where owner_id = new.owner_id;
        return null;
    end $$
    """,
    """
    create trigger objects_count_inserted after insert on objects referencing new table as added
    for each statement execute function objects_count_inserted()
    """,
    f"""
    create trigger objects_count_updated after update on objects for each row
    when (old.status <> new.status or old.size <> new.size or {_saved("old.")} <> {_saved("new.")})
    execute function objects_count_changed()
    """,
    """
    create trigger objects_count_deleted after delete on objects for each row
    when (old.status = 'stored') execute function objects_count_changed()
    """,
    # Count existing rows. The triggers' locks keep others from changing them until this transaction ends.
    """
    insert into type_sums
    select owner_id, is_deleted, file_type, status, count(*), sum(file_size) from files group by 1, 2, 3, 4
    """,
    """
    insert into folder_sums
    select owner_id, folder_id, count(*), sum(file_size) from files where not is_deleted group by 1, 2
    """,
    f"""
    insert into owner_usage as u (owner_id, stored_bytes, saved_bytes)
    select owner_id, sum(size), sum({_saved("")}) from objects where status = 'stored' group by owner_id
    on conflict (owner_id) do update set stored_bytes = excluded.stored_bytes, saved_bytes = excluded.saved_bytes
    """,
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
