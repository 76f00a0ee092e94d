"""Fair queueing: owners take turns, however many jobs each has."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta

from db import Database, dump, jobs


def enqueued(db: Database, owners: str, *, priority: int = 0, task: str = "work") -> None:
    with db.transaction() as tx:
        for owner in owners:
            jobs.enqueue(tx, task, owner_id=owner, priority=priority)


def taken(db: Database, count: int) -> str:
    """Fetch and finish the next jobs as a worker does; return their owners."""
    found = ""
    with db.connection() as tx:
        row = tx.execute("select procrastinate_register_worker_v1()").fetchone()
        assert row is not None
        for _ in range(count):
            job = tx.execute(
                "select id, owner_id from procrastinate_fetch_job_v2(array['default'], %s::bigint)", [row[0]]
            ).fetchone()
            assert job is not None
            found += job[1]
            tx.execute("select procrastinate_finish_job_v1(%s, 'succeeded', true)", [job[0]])
    return found


def test_owners_take_turns(db: Database) -> None:
    enqueued(db, "aaaaaa")
    enqueued(db, "bb")
    enqueued(db, "c")
    assert taken(db, 9) == "abcabaaaa"


def test_a_new_owner_starts_at_the_head_but_does_not_starve_others(db: Database) -> None:
    enqueued(db, "aaaaaaaa")
    assert taken(db, 4) == "aaaa"
    enqueued(db, "bbbb")
    assert taken(db, 8) == "abababab"
    enqueued(db, "aaa")
    order = ""
    for _ in range(3):  # b enqueues one job after another; a is served in between
        enqueued(db, "b")
        order += taken(db, 2)
    assert order.count("a") == 3


def test_a_higher_priority_goes_first_and_owners_take_turns_within_it(db: Database) -> None:
    enqueued(db, "aa", priority=-100)
    enqueued(db, "bb")
    enqueued(db, "ccd", priority=1)
    assert taken(db, 7) == "cdcbbaa"


def test_a_queue_with_a_running_job_does_not_lag(db: Database) -> None:
    enqueued(db, "ab")
    with db.connection() as tx:
        tx.execute("update procrastinate_events set at = now() - interval '1 hour'")
        assert jobs.lagging(tx, longer_than=timedelta(minutes=10)) == ["default"]
        [queue] = jobs.queues(tx)
        assert (queue.queue, queue.waiting, queue.running) == ("default", 2, 0)
        assert 3_500 < queue.oldest_seconds < 3_700
        tx.execute("select procrastinate_fetch_job_v2(array['default'], (select procrastinate_register_worker_v1()))")
        assert jobs.lagging(tx, longer_than=timedelta(minutes=10)) == []


def test_T106_a_job_goes_back_to_the_queue_though_one_with_its_queueing_lock_waits(
    db: Database, empty_url: str
) -> None:
    """A worker dies during the janitor, and the next janitor is due before another worker looks."""
    insert = (
        "insert into procrastinate_jobs (queue_name, task_name, queueing_lock, args, status)"
        " select 'maintenance', 'janitor', 'janitor', '{}', s::procrastinate_job_status"
        " from unnest(array['doing', 'doing', 'failed', 'todo']) s returning id"
    )
    with db.connection() as tx:
        abandoned, given_back, failed, _ = [row[0] for row in tx.execute(insert)]
    with dump.snapshot(db) as tx:
        dump.load(empty_url, list(dump.dump(tx)), name="one")
    with db.connection() as tx:
        assert jobs.give_back(tx, [given_back]) == 1
        [rescued] = jobs.rescue(tx, lease=timedelta(seconds=30), wait=timedelta(), max_deaths=5)
        assert (rescued.id, rescued.status) == (abandoned, "todo")
        assert jobs.retry(tx, failed)
        assert jobs.counts(tx) == [("maintenance", "todo", 4)]
    with closing(Database(empty_url)) as restored, restored.connection() as tx:
        assert jobs.counts(tx) == [("maintenance", "failed", 1), ("maintenance", "todo", 3)]
