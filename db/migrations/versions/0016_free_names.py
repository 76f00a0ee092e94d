"""Free names are looked up in a few steps, however many files have the name."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_STATEMENTS = [
    "set local lock_timeout = '5s'",
    # The name if it is free in the folder, else with a number: the stem for the number's digits, the number, the suffix. The
    # first 16 numbers are tried in turn; then steps of up to twice the number find a free one, and bisection one that follows a
    # taken one. The steps are random, so that nobody can take just the numbers that they meet.
    """
    create function free_name(owner text, folder integer, name text, stems text[], suffix text) returns text
    language plpgsql as $$
    declare
        candidate text := name;
        key text;
        free text;
        above integer;          -- the number of ``free``
        taken integer := 0;     -- the highest that is known to be taken; 0 is the name without a number
        n integer := 0;
    begin
        loop
            key := name_key(candidate);
            if exists (select from files f where f.owner_id = owner and f.folder_id = folder and f.name_key = key
                       and not f.is_deleted)
            or folder is null and exists (select from files f where f.owner_id = owner and f.folder_id is null
                                          and f.name_key = key and not f.is_deleted) then
                taken := n;
            else
                free := candidate;
                above := n;
            end if;
            if above is null then
                n := taken + 1 + case when taken < 16 then 0 else floor(random() * taken)::integer end;
            elsif above - taken > 1 then
                n := (taken + above) / 2;
            else
                return free;
            end if;
            candidate := stems[length(n::text)] || ' (' || n || ')' || suffix;
        end loop;
    end $$
    """,
    # Before the first ANALYZE, PostgreSQL takes any folder for almost empty, and looks a name up by reading the whole folder.
    """
    select pg_restore_attribute_stats(
        'schemaname', current_schema()::text, 'relname', 'files', 'attname', s.attname, 'inherited', false,
        'null_frac', s.null_frac, 'avg_width', s.avg_width, 'n_distinct', s.n_distinct)
    from (values ('owner_id', 0::real, 8, 10::real), ('folder_id', 0.5::real, 4, 10::real))
        s (attname, null_frac, avg_width, n_distinct)
    where not exists (select from pg_stats where schemaname = current_schema() and tablename = 'files')
    """,
]


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
