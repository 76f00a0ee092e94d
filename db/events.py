"""Audit events: who did what, when and from where. They are also the history of files.

An event is recorded by the statement, or in the transaction, that does what it tells. Rows are only added (migration 0025):
``audit_events`` has a partition for each month, and old ones are dropped as a whole (``python app.py audit prune``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.sql import SQL, Identifier
from psycopg.types.json import Jsonb

from core.origin import ORIGIN
from db import Tx, column, execute, many, scalar, set_timeout
from db.records import AuditRecord, EventRecord

_COLUMNS = ", ".join(AuditRecord._fields)


def by() -> dict[str, Any]:
    """The parameters of ``recording``: who acts, and from where."""
    return ORIGIN.get()._asdict()


_BY = "%(actor)s, %(credential)s, %(credential_id)s, %(address)s, %(request_id)s"


def recording(source: str, *, action: str, file: str = "id", **others: str) -> str:
    """The statement that records an event for each row of ``source``, which has an ``owner_id`` and a file's ``id``. ``action``,
    ``file`` and ``others`` (``target``, ``details``) are SQL expressions."""
    names = ", ".join(["actor, credential, credential_id, address, request_id, owner_id, file_id, action", *others])
    values = ", ".join([_BY, "owner_id", file, action, *others.values()])
    return f"insert into audit_events ({names}) select {values} from {source}"


_RECORD = recording(
    "(select %(file_id)s::uuid as id, %(owner)s as owner_id) f",
    action="%(action)s",
    target="%(target)s",
    details="%(details)s",
)


def record(
    tx: Tx,
    action: str,
    *,
    owner_id: str | None,
    file_id: UUID | None = None,
    target: object = None,
    details: dict[str, Any] | None = None,
) -> None:
    """Record an event on something of ``owner_id``: a file, or the ``target``, which is an id. No secret may be among them."""
    params: dict[str, Any] = {"action": action, "owner": owner_id, "file_id": file_id}
    params |= {
        "target": None if target is None else str(target),
        "details": None if details is None else Jsonb(details),
    }
    execute(tx, _RECORD, params | by())


_RECORD_REFUSAL = f"""
insert into audit_events (actor, credential, credential_id, address, request_id, action, target, outcome, at)
select {_BY}, 'refused', %(route)s, %(code)s, date_trunc('minute', now())
on conflict do nothing
"""


def record_refusal(tx: Tx, *, route: str, code: str) -> None:
    """Record that a known caller was refused: once a minute for each route and code (T145), at the time when it began."""
    execute(tx, _RECORD_REFUSAL, {"route": route, "code": code} | by())


# -- files: counters, and their history ------------------------------------------------------------------------------------

# Heap-only updates: none of these columns has an index, and the table has a fill factor.
_COUNT_DOWNLOAD = """
update files set download_count = download_count + 1, first_access = least(first_access, now()),
    last_accessed = greatest(last_accessed, now())
where id = %(file_id)s
"""
_RECORD_DOWNLOAD = f"""
with f as ({_COUNT_DOWNLOAD} returning id, owner_id)
{recording("f", action="'downloaded'")}
"""
_COUNT_PREVIEW = """
update files set preview_count = preview_count + 1, first_access = least(first_access, now()),
    last_previewed = greatest(last_previewed, now())
where id = %(file_id)s
"""


def record_download(tx: Tx, file_id: UUID) -> None:
    """Record a download, count it, and set ``last_accessed``."""
    execute(tx, _RECORD_DOWNLOAD, {"file_id": file_id} | by())


def count_download(tx: Tx, file_id: UUID) -> None:
    """Count a download by a client without a credential, which gets no event."""
    execute(tx, _COUNT_DOWNLOAD, {"file_id": file_id})


def count_preview(tx: Tx, file_id: UUID) -> None:
    """Count a preview."""
    execute(tx, _COUNT_PREVIEW, {"file_id": file_id})


# The newest events of the file ``f``, in a column of its row. Partitions from before the file are not read.
NEWEST = """(
    select json_agg(json_build_array(id, file_id, action, actor, at))
    from (select * from audit_events where file_id = f.id and at >= f.uploaded_at order by id desc limit 50) e)"""


def parsed(column: list[list[Any]] | None) -> list[EventRecord]:
    """The value of ``NEWEST``."""
    return [
        EventRecord(number, UUID(file_id), action, actor, datetime.fromisoformat(at))
        for number, file_id, action, actor, at in column or ()
    ]


_OF_FILE = """
select id, file_id, action, actor, at from audit_events
where file_id = %(file_id)s and (%(before)s::bigint is null or id < %(before)s)
order by id desc limit %(limit)s
"""


def of_file(tx: Tx, file_id: UUID, *, before: int | None, limit: int) -> list[EventRecord]:
    """A file's history, newest first, from just before the event ``before``."""
    return many(tx, EventRecord, _OF_FILE, {"file_id": file_id, "before": before, "limit": limit})


# -- the log as a whole ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are wanted; None: any. Dates are a half-open interval."""

    actor: str | None = None
    owner_id: str | None = None
    action: str | None = None
    outcome: str | None = None
    file_id: UUID | None = None
    target: str | None = None
    request_id: str | None = None
    date_from: datetime | None = None
    date_to: datetime | None = None


_CONDITIONS = {
    "date_from": "at >= %(date_from)s",
    "date_to": "at < %(date_to)s",
    "before": "id < %(before)s",
    "after": "id > %(after)s",
}


def _where(params: Mapping[str, Any]) -> str:
    """The conditions on the parameters that are not None."""
    conditions = [_CONDITIONS.get(name, f"{name} = %({name})s") for name, value in params.items() if value is not None]
    return " and ".join(conditions) or "true"


def page(tx: Tx, wanted: EventFilter, *, before: int | None, limit: int) -> list[AuditRecord]:
    """Events, newest first, from just before the event ``before``."""
    params = asdict(wanted) | {"before": before}
    sql = f"select {_COLUMNS} from audit_events where {_where(params)} order by id desc limit %(limit)s"
    return many(tx, AuditRecord, sql, params | {"limit": limit})


def count(tx: Tx, wanted: EventFilter, *, limit: int) -> int:
    """The number of events, at most ``limit``."""
    params = asdict(wanted)
    sql = f"select count(*) from (select from audit_events where {_where(params)} limit %(limit)s) found"
    return int(scalar(tx, sql, params | {"limit": limit}))


def after(tx: Tx, wanted: EventFilter, *, after: int, limit: int) -> list[AuditRecord]:
    """Events, oldest first, from just after the event ``after``."""
    params = asdict(wanted) | {"after": after}
    sql = f"select {_COLUMNS} from audit_events where {_where(params)} order by id limit %(limit)s"
    return many(tx, AuditRecord, sql, params | {"limit": limit})


def owned_by_gateway(tx: Tx) -> bool:
    """Whether this connection's role could change events, if it disabled the trigger or dropped the table."""
    sql = """
    select pg_has_role(relowner, 'member') or has_table_privilege(oid, 'update, delete, truncate, maintain, trigger')
    from pg_class where oid = 'audit_events'::regclass
    """
    return scalar(tx, sql) is True


# -- partitions ------------------------------------------------------------------------------------------------------------


def add_partitions(tx: Tx) -> None:
    """Add the partitions of the next months. A lock that is not free soon raises an error of ``errors.LOCKED``."""
    execute(tx, "select add_audit_partitions()")


def old_partitions(tx: Tx, *, months: int) -> list[str]:
    """Names of the partitions that end before the last ``months`` whole months, oldest first."""
    sql = r"""
    select name from (select inhrelid::regclass::text as name from pg_inherits where inhparent = 'audit_events'::regclass) p
    where name ~ '_\d{4}_\d\d$'
    and to_date(right(name, 7), 'YYYY_MM') < date_trunc('month', now()) - make_interval(months => %(months)s)
    order by name
    """
    return column(tx, sql, {"months": months})


_SUM = """
insert into audit_summaries as s (month, owner_id, action, outcome, events)
select date_trunc('month', at), coalesce(owner_id, ''), action, outcome, count(*) from {} group by 1, 2, 3, 4
on conflict (month, owner_id, action, outcome) do update set events = s.events + excluded.events
"""
_SUM_SECONDS = 3600.0


def drop_partition(tx: Tx, name: str) -> None:
    """Sum a partition's events by month, owner, action and outcome, and drop it. The caller owns the table."""
    set_timeout(tx, _SUM_SECONDS)
    partition = Identifier(name)
    tx.execute(SQL(_SUM).format(partition))
    tx.execute("set local lock_timeout = '3s'")  # until it has the lock, all other statements on events wait behind it
    tx.execute(SQL("drop table {}").format(partition))
