"""Tables and columns named for what they hold. Stop the gateway, migrate, start it: older code does not know these names."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_COUNTERS = [
    "alter table type_sums rename to type_counters",
    "alter table folder_sums rename to folder_counters",
    "alter index folder_sums_largest rename to folder_counters_largest",
    # The trigger functions that name these tables, as they are, with the new names.
    """
    do $$ declare f regproc; begin
        foreach f in array array['files_count_inserted', 'files_count_deleted', 'files_count_updated']::regproc[] loop
            execute replace(replace(pg_get_functiondef(f), 'type_sums', 'type_counters'), 'folder_sums', 'folder_counters');
        end loop;
    end $$
    """,
]

_OBJECTS = [
    "alter table retired_objects rename to deferred_deletions",
    "alter index retired_objects_due rename to deferred_deletions_due",
    "alter index retired_objects_replaced rename to deferred_deletions_replaced",
    "alter table objects rename column found to in_bucket",
    "alter table objects rename column measured to extracted",
    # Whether a picture's bytes tell where it was taken. null: not looked at yet; present: a copy without the location is to
    # be made; removed: it is made, under public_key; unremovable: it can't be made, so the public gets nothing.
    "alter table objects rename column place to location_state",
    "alter table objects drop constraint objects_place_check, drop constraint object_public_copy",
    "drop index objects_to_copy",
    """
    update objects set location_state = case location_state
        when 'found' then 'present' when 'cut' then 'removed' when 'stuck' then 'unremovable' end
    where location_state <> 'none'
    """,
    """
    alter table objects
        add constraint object_location_state check (location_state in ('none', 'present', 'removed', 'unremovable')),
        add constraint object_public_copy check ((location_state is not distinct from 'removed') = (public_key is not null))
    """,
    "create index objects_to_copy on objects (object_key) where location_state = 'present'",
    "alter table files rename column first_public to first_public_access",
]

_UPLOADS = [
    "alter table uploads rename column tries to attempts",
    "alter table uploads rename column weighed_at to measured_at",
    "alter table uploads rename column awaited_parts to outstanding_parts",
    "alter table uploads rename column in_folder to had_folder",
    "alter table resumable_uploads rename column token to fence",
    "alter table resumable_uploads rename column held_until to leased_until",
    "alter table resumable_uploads rename column asked_for to handover_requested",
    "alter table resumable_uploads rename column sealed to bytes_complete",
    "alter table resumable_uploads rename column metadata to metadata_header",
    "alter table resumable_uploads rename column concat to concat_header",
    "alter table resumable_uploads drop column deferred",
]

# Constraints keep the names that PostgreSQL made of their tables'.
_CONSTRAINTS = [
    """
    do $$ declare c record; begin
        for c in select conrelid::regclass as relation, conname from pg_constraint
                 where conname ~ '^(type_sums|folder_sums|retired_objects)_' loop
            execute format('alter table %%s rename constraint %%I to %%I', c.relation, c.conname,
                replace(replace(c.conname, '_sums_', '_counters_'), 'retired_objects_', 'deferred_deletions_'));
        end loop;
    end $$
    """
]

_IDEMPOTENCY = [  # an outcome is data (null while the first request runs), where it was a rendered response
    "delete from idempotency_keys",
    "alter table idempotency_keys drop column response_status, drop column headers",
    "alter table idempotency_keys rename column response to outcome",
]


def upgrade() -> None:
    for statement in ["set local lock_timeout = '5s'", *_COUNTERS, *_OBJECTS, *_UPLOADS, *_CONSTRAINTS, *_IDEMPOTENCY]:
        op.get_bind().exec_driver_sql(statement)
