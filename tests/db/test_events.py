"""Counters of downloads and previews, and the newest events."""

from __future__ import annotations

from typing import Any

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db import Database, events, files, scalar
from db.records import FileRecord
from tests.rows import add_file

ACTIONS = st.sampled_from(["download", "preview", "anonymous download", "anonymous preview", "other"])


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(actions=st.lists(ACTIONS, max_size=12))
def test_counters_are_what_the_events_say(db: Database, actions: list[str]) -> None:
    file_id = add_file(db, f"{len(actions)} {hash(tuple(actions))}.pdf")
    moments = []
    for action in actions:
        with db.transaction() as tx:
            moments.append(scalar(tx, "select now()"))
            if action == "download":
                events.record_download(tx, file_id, actor="alice")
            elif action == "preview":
                events.record_preview(tx, file_id, actor="alice")
            elif action == "other":
                events.record(tx, file_id, owner_id="alice", action="url_issued", actor="alice")
                moments.pop()
            else:
                events.count_anonymous(tx, file_id, preview=action == "anonymous preview")
    with db.connection() as tx:
        found = files.details(tx, file_id)
        happened = tx.execute("select action, count(*) from file_events group by 1").fetchall()
    assert found is not None
    assert found.statistics == {
        "downloads": sum("download" in action for action in actions),
        "previews": sum("preview" in action for action in actions),
        "first_access": min(moments, default=None),
        "last_access": max(moments, default=None),
    }
    assert dict(happened).get("previewed", 0) >= actions.count("preview")


def test_an_earlier_transaction_that_ends_later_keeps_the_counters_right(db: Database) -> None:
    file_id = add_file(db, "a.pdf")
    with db.transaction() as early:
        first = scalar(early, "select now()")
        with db.transaction() as late:
            last = scalar(late, "select now()")
            events.record_download(late, file_id, actor="alice")
        events.record_download(early, file_id, actor="bob")
    with db.connection() as tx:
        found = files.details(tx, file_id)
    assert found is not None
    assert (found.first_access, found.last_access, found.file.last_accessed) == (first, last, last)


def test_the_newest_events_are_read_by_index(db: Database) -> None:
    """Not all of them: a file may have hundreds of thousands."""
    file_id, other = add_file(db, "a.pdf"), add_file(db, "b.pdf")
    with db.connection() as tx:
        tx.execute(
            "insert into file_events (file_id, owner_id, action, actor, at)"
            " select f, 'alice', 'downloaded', n::text, now() - n * interval '1 minute'"
            " from generate_series(3000, 1, -1) n, unnest(%s::uuid[]) f",
            [[file_id, other]],
        )
        tx.execute("analyze file_events")
        found = files.details(tx, file_id)
        plan = scalar(tx, f"explain (analyze, format json) {files._DETAILS}", {"id": file_id})
    assert found is not None
    assert [event.actor for event in found.history] == [str(n) for n in range(1, 51)]
    assert {event.file_id for event in found.history} == {file_id}
    (scan,) = [node for node in _nodes(plan[0]["Plan"]) if node.get("Relation Name") == "file_events"]
    assert (scan["Index Name"], scan["Actual Rows"]) == ("file_events_by_file", 50)


def _nodes(node: dict[str, Any]) -> list[dict[str, Any]]:
    return [node, *(below for child in node.get("Plans", []) for below in _nodes(child))]


def test_columns_are_the_fields_in_order(db: Database) -> None:
    with db.connection() as tx, psycopg.ClientCursor(tx) as cursor:
        cursor.execute(f"select {files.COLUMNS} from {files.FROM}")
        assert cursor.description is not None
        assert tuple(column.name for column in cursor.description) == FileRecord._fields
