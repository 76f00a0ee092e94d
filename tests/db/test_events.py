"""Counters of downloads and previews, and the newest events."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db import Database, events, files, scalar, stats
from db.events import EventFilter
from db.records import FileRecord
from tests.rows import add_file

ACTIONS = st.sampled_from(["download", "preview", "anonymous download", "other"])


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(actions=st.lists(ACTIONS, max_size=12))
def test_counters_are_what_the_events_say(db: Database, actions: list[str]) -> None:
    file_id = add_file(db, f"{len(actions)} {hash(tuple(actions))}.pdf")
    moments = []
    for action in actions:
        with db.transaction() as tx:
            moments.append(scalar(tx, "select now()"))
            if action == "download":
                events.record_download(tx, file_id)
            elif action == "preview":
                events.count_preview(tx, file_id)
            elif action == "other":
                events.record(tx, "url_issued", owner_id="alice", file_id=file_id)
                moments.pop()
            else:
                events.count_download(tx, file_id)
    with db.connection() as tx:
        found = files.details(tx, file_id)
        happened = tx.execute("select action from audit_events where file_id = %s", [file_id]).fetchall()
    assert found is not None
    assert found.statistics == {
        "downloads": sum("download" in action for action in actions),
        "previews": sum("preview" in action for action in actions),
        "first_access": min(moments, default=None),
        "last_access": max(moments, default=None),
    }
    recorded = [row[0] for row in happened]
    assert [recorded.count(action) for action in ("downloaded", "url_issued")] == [
        actions.count("download"),
        actions.count("other"),
    ]
    assert not set(recorded) - {"downloaded", "url_issued"}


def test_an_earlier_transaction_that_ends_later_keeps_the_counters_right(db: Database) -> None:
    file_id = add_file(db, "a.pdf")
    with db.transaction() as early:
        first = scalar(early, "select now()")
        with db.transaction() as late:
            last = scalar(late, "select now()")
            events.record_download(late, file_id)
        events.record_download(early, file_id)
    with db.connection() as tx:
        found = files.details(tx, file_id)
    assert found is not None
    assert (found.first_access, found.last_access, found.file.last_accessed) == (first, last, last)


_MONTHS = """
do $$
declare
    month timestamptz;
begin
    for n in 0..24 loop
        month := date_trunc('month', now()) - n * interval '1 month';
        execute format('create table audit_events_%s partition of audit_events for values from (%L) to (%L)',
                       to_char(month, 'YYYY_MM'), month, month + interval '1 month');
    end loop;
end $$
"""


@pytest.fixture
def old_events(db: Database) -> list[UUID]:
    """Two files, each with 3,000 events in 24 months, a partition for each month."""
    found = [add_file(db, name, at=datetime.now(UTC) - timedelta(days=800)) for name in ("a.pdf", "b.pdf")]
    with db.connection() as tx:
        for (name,) in tx.execute(
            "select inhrelid::regclass::text from pg_inherits where inhparent = 'audit_events'::regclass"
        ):
            tx.execute(f"drop table {name}")
        tx.execute(_MONTHS)
        tx.execute(
            "insert into audit_events (file_id, owner_id, action, actor, at)"
            " select f, 'alice', 'downloaded', n::text, now() - n * interval '5 hours'"
            " from generate_series(3000, 1, -1) n, unnest(%s::uuid[]) f",
            [found],
        )
        tx.execute("vacuum analyze audit_events")
    return found


def test_T145_a_files_history_is_read_by_index_however_old_it_is(db: Database, old_events: list[UUID]) -> None:
    """Not all of it: a file may have hundreds of thousands of events."""
    file_id = old_events[0]
    with db.connection() as tx:
        found = files.details(tx, file_id)
        pages = [events.of_file(tx, file_id, before=None, limit=50)]
        pages.append(events.of_file(tx, file_id, before=pages[0][-1].id, limit=50))
        assert _events_read(tx, files._DETAILS, {"id": file_id}) <= 50 + 25
        before = pages[1][-1].id
        sql = events._OF_FILE
        assert _events_read(tx, sql, {"file_id": file_id, "before": before, "limit": 50}) <= 50 + 25
    assert found is not None
    assert [event.actor for event in found.history] == [str(n) for n in range(1, 51)]
    assert [event.actor for page in pages for event in page] == [str(n) for n in range(1, 101)]
    assert {event.file_id for event in found.history} == {file_id}


def test_T145_months_before_a_file_are_not_read(db: Database, old_events: list[UUID]) -> None:
    file_id = add_file(db, "new.pdf")
    with db.connection() as tx:
        [plan] = scalar(tx, f"explain (analyze, format json) {files._DETAILS}", {"id": file_id})
    scans = [node for node in _nodes(plan["Plan"]) if node.get("Relation Name", "").startswith("audit_events")]
    assert sum(scan["Actual Loops"] for scan in scans) == 1 < len(scans)


@pytest.mark.parametrize("owner", ["alice", None])
def test_T145_recent_activity_is_read_by_index(db: Database, old_events: list[UUID], owner: str | None) -> None:
    sql = stats._RECENT if owner is None else stats._RECENT_OF_OWNER
    with db.connection() as tx:
        assert len(stats.recent(tx, owner, limit=20)) == 20
        assert _events_read(tx, sql, {"owner": owner, "limit": 20}) <= 20 + 25


@pytest.mark.parametrize(
    "wanted",
    [EventFilter(), EventFilter(actor="7"), EventFilter(owner_id="alice"), EventFilter(date_to=datetime.now(UTC))],
)
def test_T145_a_page_of_the_audit_log_is_read_by_index(
    db: Database, old_events: list[UUID], wanted: EventFilter
) -> None:
    with db.connection() as tx:
        found = events.page(tx, wanted, before=None, limit=51)
        assert len(found) == (2 if wanted.actor else 51)
        params = {**asdict(wanted), "before": None, "limit": 51}
        sql = f"select {events._COLUMNS} from audit_events where {events._where(asdict(wanted))} order by id desc limit %(limit)s"
        assert _events_read(tx, sql, params) <= 51 + 25


def _events_read(tx: Any, sql: str, params: dict[str, Any]) -> int:
    """How many events a statement reads."""
    [plan] = scalar(tx, f"explain (analyze, format json) {sql}", params)
    scans = [node for node in _nodes(plan["Plan"]) if node.get("Relation Name", "").startswith("audit_events")]
    assert len(scans) == 25
    return sum(scan["Actual Rows"] * scan["Actual Loops"] + scan.get("Rows Removed by Filter", 0) for scan in scans)


def _nodes(node: dict[str, Any]) -> list[dict[str, Any]]:
    return [node, *(below for child in node.get("Plans", []) for below in _nodes(child))]


def test_columns_are_the_fields_in_order(db: Database) -> None:
    with db.connection() as tx, psycopg.ClientCursor(tx) as cursor:
        cursor.execute(f"select {files.COLUMNS} from {files.FROM}")
        assert cursor.description is not None
        assert tuple(column.name for column in cursor.description) == FileRecord._fields
