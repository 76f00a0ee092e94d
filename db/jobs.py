"""The job queue: enqueue jobs in the caller's transaction, list and repair them.

The tables are procrastinate's, whose workers fetch, retry and finish jobs. Six columns are ours: the job's owner, how many
workers died while they ran it, the error of its last attempt, and of the request that led to it the id, the actor and the trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal

from psycopg.types.json import Jsonb

from core.origin import ORIGIN, Job, Origin
from db import Tx, column, execute, many, one, scalar
from db.records import JobRecord, QueueRecord

Status = Literal["todo", "doing", "failed", "cancelled", "succeeded"]

# Queues never wait for each other: a worker runs each with its own concurrency (jobs/worker.py).
CHECKS, PROCESSING, MAINTENANCE, DEFAULT = "checks", "processing", "maintenance", "default"
COMPARISON = "comparison"  # of all rows and objects, which may take long
BACKUPS = "backups"  # which take hours
QUEUES = (CHECKS, PROCESSING, DEFAULT, MAINTENANCE, COMPARISON, BACKUPS)
_QUEUE_OF = {"check_file": CHECKS, "process_file": PROCESSING, "backup": BACKUPS}  # others: DEFAULT

_CLASS = 1_000_000  # priorities in one class


def enqueue(
    tx: Tx,
    task: str,
    *,
    owner_id: str,
    lock: str | None = None,
    priority: int = 0,
    once: bool = False,
    **arguments: Any,
) -> None:
    """Run ``task`` (a name from jobs/tasks.py) for ``owner_id`` once the transaction has committed.

    Jobs with the same ``lock`` run one at a time; it defaults to the ``file_id``, if there is one. ``priority`` (-2000 to 2000)
    is a class: jobs of a higher class run first, and within a class owners take turns. ``once``: unless the same job waits."""
    # Start-time fair queueing: an owner's next job goes one priority behind the owner's last one, and an owner without waiting
    # jobs starts at the head of the queue. So owners take turns, however many jobs each has, and nobody waits for ever. This
    # reads two index entries, however long the queue is.
    sql = """
    insert into procrastinate_jobs (queue_name, task_name, priority, lock, args, scheduled_at, owner_id, request_id, actor, trace)
    select %(queue)s::text, %(task)s::text,
           greatest(%(low)s::integer, coalesce(least(
               (select priority from procrastinate_jobs
                where status = 'todo' and queue_name = %(queue)s::text and priority between %(low)s::integer and %(high)s::integer
                order by priority desc limit 1),
               (select priority from procrastinate_jobs
                where status = 'todo' and queue_name = %(queue)s::text and owner_id = %(owner)s::text
                and priority between %(low)s::integer and %(high)s::integer
                order by priority limit 1) - 1
           ), %(high)s::integer)),
           %(lock)s::text, %(arguments)s::jsonb, null, %(owner)s::text, %(request_id)s::text, %(actor)s::text, %(trace)s::text
    """
    if once:
        sql += """
    where not exists (
        select from procrastinate_jobs where status = 'todo' and queue_name = %(queue)s::text and owner_id = %(owner)s::text
        and task_name = %(task)s::text and args = %(arguments)s::jsonb)
    """
    if lock is None and "file_id" in arguments:
        lock = f"file:{arguments['file_id']}"
    origin = ORIGIN.get()
    params = {
        "queue": _QUEUE_OF.get(task, DEFAULT),
        "task": task,
        "owner": owner_id,
        "lock": lock,
        "low": (priority - 1) * _CLASS + 1,
        "high": priority * _CLASS,
        "arguments": Jsonb(arguments),
        "request_id": origin.request_id,
        "actor": origin.cause(),
        "trace": origin.trace,
    }
    execute(tx, sql, params)


# -- workers and the janitor ---------------------------------------------------------------------------------------


_COLUMNS = """
j.id, j.queue_name as queue, j.task_name as task, j.owner_id, j.args as arguments, j.status::text, j.attempts, j.deaths,
j.error, j.request_id, j.actor,
(select min(e.at) from procrastinate_events e where e.job_id = j.id and e.type = 'deferred') as enqueued_at,
(select max(e.at) from procrastinate_events e where e.job_id = j.id and e.type = 'started') as started_at, j.scheduled_at
"""

# Whatever goes back to the queue gives up its queueing_lock: since it began, another job may wait with the same one.
# The wait is random, so that jobs that ran beside one that kills its worker do not meet it again.
_RESCUE = f"""
with dead as (
    select j.id from procrastinate_jobs j left join procrastinate_workers w on w.id = j.worker_id
    where j.status = 'doing' and (w.id is null or w.last_heartbeat < now() - %(lease)s)
    for update of j skip locked
), j as (
    update procrastinate_jobs j
    set status = case when j.deaths + 1 >= %(max_deaths)s then 'failed' else 'todo' end::procrastinate_job_status,
        deaths = j.deaths + 1, attempts = j.attempts + 1, worker_id = null, abort_requested = false,
        scheduled_at = now() + %(wait)s * power(2, j.deaths) * (0.5 + random()),
        queueing_lock = null, error = 'Its worker ended or fell silent.'
    from dead where j.id = dead.id
    returning j.*
)
select {_COLUMNS} from j
"""


def rescue(tx: Tx, *, lease: timedelta, wait: timedelta, max_deaths: int) -> list[JobRecord]:
    """Take jobs back from workers without a heartbeat for ``lease``. They wait for about ``wait``, doubled with each death, and
    fail at the ``max_deaths``-th."""
    return many(tx, JobRecord, _RESCUE, {"lease": lease, "wait": wait, "max_deaths": max_deaths})


def origin(tx: Tx, job_id: int, task: str) -> Origin:
    """The origin of what the job does: the system, for the request that led to the job."""
    sql = "select request_id, coalesce(actor, 'system'), trace from procrastinate_jobs where id = %(id)s"
    request_id, actor, trace = tx.execute(sql, {"id": job_id}).fetchone() or (None, "system", None)
    return Origin("system", request_id=request_id, trace=trace, job=Job(job_id, task, actor))


def give_back(tx: Tx, ids: Sequence[int]) -> int:
    """Return jobs to the queue that a stopping worker can't finish. It does not count as an attempt."""
    sql = """
    update procrastinate_jobs set status = 'todo', worker_id = null, abort_requested = false, queueing_lock = null
    where id = any(%(ids)s) and status = 'doing'
    """
    return execute(tx, sql, {"ids": list(ids)})


def note_error(tx: Tx, job_id: int, error: str) -> None:
    """Record why an attempt failed, for admins."""
    execute(tx, "update procrastinate_jobs set error = %(error)s where id = %(id)s", {"id": job_id, "error": error})


def revive(tx: Tx, *, errors: Sequence[str], other_than: Sequence[str], wait: timedelta, within: timedelta) -> int:
    """Retry failed jobs whose error starts with one of these codes, if they failed at least ``wait`` ago and were enqueued no
    longer ago than ``within``. Returns their number."""
    sql = """
    update procrastinate_jobs j set status = 'todo', attempts = 0, scheduled_at = null, queueing_lock = null
    where j.status = 'failed' and split_part(j.error, ':', 1) = any(%(errors)s) and j.task_name <> all(%(others)s)
    and not exists (select from procrastinate_events e where e.job_id = j.id and e.type = 'failed' and e.at > now() - %(wait)s)
    and exists (select from procrastinate_events e where e.job_id = j.id and e.type = 'deferred' and e.at > now() - %(within)s)
    """
    params = {"errors": list(errors), "others": list(other_than), "wait": wait, "within": within}
    return execute(tx, sql, params)


def forget_old(tx: Tx, *, after: timedelta) -> int:
    """Delete ended jobs without an event for ``after``."""
    sql = """
    delete from procrastinate_jobs j where j.status in ('failed', 'cancelled', 'succeeded', 'aborted') and not exists (
        select from procrastinate_events e where e.job_id = j.id and e.at > now() - %(after)s)
    """
    return execute(tx, sql, {"after": after})


# -- lists ---------------------------------------------------------------------------------------------------------------


def list_all(
    tx: Tx,
    *,
    status: Status | None,
    queue: str | None,
    task: str | None,
    owner_id: str | None,
    before: int | None,
    limit: int,
) -> list[JobRecord]:
    """Jobs, newest first, from just before the job ``before``. Succeeded jobs are not kept."""
    sql = f"""
    select {_COLUMNS} from procrastinate_jobs j
    where (%(status)s::text is null or j.status = %(status)s::procrastinate_job_status)
    and (%(queue)s::text is null or j.queue_name = %(queue)s) and (%(task)s::text is null or j.task_name = %(task)s)
    and (%(owner)s::text is null or j.owner_id = %(owner)s) and (%(before)s::bigint is null or j.id < %(before)s)
    order by j.id desc limit %(limit)s
    """
    params = {"status": status, "queue": queue, "task": task, "owner": owner_id, "before": before, "limit": limit}
    return many(tx, JobRecord, sql, params)


def get(tx: Tx, job_id: int) -> JobRecord | None:
    """The job with this id."""
    return one(tx, JobRecord, f"select {_COLUMNS} from procrastinate_jobs j where j.id = %(id)s", {"id": job_id})


_COUNTS = "select queue_name, status::text, count(*) from procrastinate_jobs group by 1, 2 order by 1, 2"


def counts(tx: Tx) -> list[tuple[str, str, int]]:
    """Queue, status, number of jobs."""
    return tx.execute(_COUNTS).fetchall()


def retry(tx: Tx, job_id: int) -> bool:
    """failed | cancelled -> todo, with all attempts again. False if it is neither."""
    sql = """
    update procrastinate_jobs set status = 'todo', scheduled_at = null, attempts = 0, deaths = 0, queueing_lock = null
    where id = %(id)s and status in ('failed', 'cancelled')
    """
    return execute(tx, sql, {"id": job_id}) == 1


_REMOVE = "delete from procrastinate_jobs where id = %(id)s and status <> 'doing'"


def remove(tx: Tx, job_id: int) -> bool:
    """Delete a job that is not running. False if it is running or gone."""
    return execute(tx, _REMOVE, {"id": job_id}) == 1


def queues(tx: Tx) -> list[QueueRecord]:
    """All queues that have jobs."""
    sql = """
    select queue, waiting, scheduled, running, failed,
           coalesce(extract(epoch from now() - (
               select min(e.at) from procrastinate_events e where e.job_id = first and e.type = 'deferred'
           )), 0)::float as oldest_seconds
    from (
        select queue_name as queue, count(*) filter (where status = 'todo' and due) as waiting,
               count(*) filter (where status = 'todo' and not due) as scheduled,
               count(*) filter (where status = 'doing') as running,
               count(*) filter (where status = 'failed') as failed, min(id) filter (where status = 'todo' and due) as first
        from (select *, coalesce(scheduled_at <= now(), true) as due from procrastinate_jobs) j
        group by 1
    ) q order by 1
    """
    return many(tx, QueueRecord, sql)


def workers(tx: Tx) -> int:
    """How many queues of workers have shown a sign of life within a minute: each worker has a row for each of its queues."""
    sql = "select count(*) from procrastinate_workers where last_heartbeat > now() - interval '1 minute'"
    return int(scalar(tx, sql))


def lagging(tx: Tx, *, longer_than: timedelta) -> list[str]:
    """Queues without a worker: a due job has waited ``longer_than`` this, and no job is running."""
    sql = """
    select distinct j.queue_name from procrastinate_jobs j
    join procrastinate_events e on e.job_id = j.id and e.type = 'deferred'
    where j.status = 'todo' and j.scheduled_at is null and e.at < now() - %(longer_than)s and not exists (
        select from procrastinate_jobs d join procrastinate_workers w on w.id = d.worker_id
        where d.queue_name = j.queue_name and d.status = 'doing' and w.last_heartbeat > now() - interval '1 minute')
    """
    return column(tx, sql, {"longer_than": longer_than})
