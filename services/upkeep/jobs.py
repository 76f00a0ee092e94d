"""The job queue: what waits, what failed and why, and what happens to the jobs of dead workers.

A failing job is retried with growing delays. One that always fails, or whose workers die of it, ends as ``failed`` after a
bounded number of attempts, and its file says so in its ``problem``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog

from core.cursors import Cursors, Page
from core.errors import WAIT, Conflict, GatewayError, NotFound, Unavailable
from core.origin import Job, Origin
from db import Database, Tx, files, jobs, readings
from db.jobs import Status
from db.records import JobRecord, QueueRecord
from telemetry import Gauge

log = structlog.get_logger()

# Workers that may die of one job. While a machine crashes again and again, innocent jobs die several times too.
MAX_DEATHS = 5
_WAIT = timedelta(seconds=5)  # after the first death; doubled with each
_KEEP = timedelta(days=30)  # failed jobs
_REVIVE_AFTER, _REVIVE_FOR = timedelta(hours=1), timedelta(days=7)  # jobs that failed for want of bucket or database


@dataclass(frozen=True, slots=True)
class JobQuery:
    """Which jobs to list; None: all."""

    status: Status | None = None
    queue: str | None = None
    task: str | None = None
    owner: str | None = None
    limit: int = 50
    cursor: str | None = None


class Jobs:
    """List and change jobs, and record how they end."""

    def __init__(self, db: Database, cursors: Cursors):
        self._db = db
        self._cursors = cursors

    # -- for administrators --------------------------------------------------------------------------------------------

    def page(self, query: JobQuery) -> Page[JobRecord]:
        """Jobs that wait, run or did not succeed, newest first. Raises InvalidCursor."""
        scope = f"jobs:{query.status}:{query.queue}:{query.task}:{query.owner}"
        before = self._cursors.after(query.cursor, int, scope=scope)
        with self._db.connection() as tx:
            found = jobs.list_all(
                tx,
                status=query.status,
                queue=query.queue,
                task=query.task,
                owner_id=query.owner,
                before=before,
                limit=query.limit + 1,
            )
        return self._cursors.page(found, lambda job: job.id, limit=query.limit, scope=scope)

    def counts(self) -> dict[str, dict[str, int]]:
        """{queue: {status: number of jobs}}."""
        counts: dict[str, dict[str, int]] = {}
        with self._db.connection() as tx:
            for queue, status, count in jobs.counts(tx):
                counts.setdefault(queue, {})[status] = count
        return counts

    def queues(self) -> list[QueueRecord]:
        """Each queue with its backlog."""
        with self._db.connection() as tx:
            return jobs.queues(tx)

    def gauges(self) -> list[Gauge]:
        """The backlog for /metrics."""
        queues = self.queues()
        states = ("waiting", "scheduled", "running", "failed")
        counts = [((queue.queue, state), float(getattr(queue, state))) for queue in queues for state in states]
        ages = [((queue.queue,), queue.oldest_seconds) for queue in queues]
        return [
            Gauge("gateway_queue_jobs", "Jobs: waiting, scheduled, running, failed", ("queue", "state"), counts),
            Gauge("gateway_queue_oldest_seconds", "Seconds that the oldest due job has been waiting", ("queue",), ages),
        ]

    def retry(self, job_id: int) -> JobRecord:
        """Enqueue a failed or cancelled job again, with all its attempts. Raises NotFound, or Conflict for other jobs."""
        with self._db.transaction() as tx:
            done = jobs.retry(tx, job_id)
            job = jobs.get(tx, job_id)
            if job is None:
                raise NotFound("There is no such job.")
            if not done:
                raise Conflict("Only a failed job can be retried.")
        return job

    def remove(self, job_id: int) -> None:
        """Delete a job that is not running. Raises NotFound, Conflict."""
        with self._db.transaction() as tx:
            if jobs.remove(tx, job_id):
                return
            if jobs.get(tx, job_id) is None:
                raise NotFound("There is no such job.")
        raise Conflict("The job is running; it can be removed when it has ended.")

    # -- for workers ---------------------------------------------------------------------------------------------------

    def origin(self, job_id: int, task: str) -> Origin:
        """The origin of what a job does. Without its row's, also while the database is away."""
        try:
            with self._db.connection() as tx:
                return jobs.origin(tx, job_id, task)
        except Unavailable:
            return Origin("system", job=Job(job_id, task, "system"))

    def rescue(self, lease: timedelta) -> int:
        """Return the jobs of workers without a sign of life for ``lease`` to the queue; returns how many.

        A job of which too many workers died fails, and in the same transaction its file says so."""
        with self._db.transaction() as tx:
            rescued = jobs.rescue(tx, lease=lease, wait=_WAIT, max_deaths=MAX_DEATHS)
            for job in rescued:
                if job.status == "failed":
                    _set_problem(tx, job.task, job.arguments, f"{MAX_DEATHS} workers died during it")
        for job in rescued:
            log.warning("job_rescued", job=job.id, task=job.task, status=job.status, deaths=job.deaths)
        return len(rescued)

    def failed(
        self, job_id: int, task: str, arguments: Mapping[str, Any], error: BaseException, *, final: bool
    ) -> None:
        """Record why an attempt failed; if it was the ``final`` one, on the file too. If only the bucket or database was
        unavailable or full, ``revive`` retries the job, and an unchecked file stays unchecked."""
        with self._db.transaction() as tx:
            jobs.note_error(tx, job_id, _describe(error))
            if final and isinstance(error, WAIT):
                if task != "check_file":
                    reason = "the bucket or the database was unavailable or full; it will be tried again"
                    _set_problem(tx, task, arguments, reason)
            elif final:
                _set_problem(tx, task, arguments, f"it failed each time ({type(error).__name__})")

    def revive(self, *, dry_run: bool = False) -> int:
        """Retry, hourly for a week, jobs that failed because bucket or database was unavailable or full; returns how
        many.

        Checks are left to ``Verification.requeue_lost``."""
        with self._db.transaction(undo=dry_run) as tx:
            return jobs.revive(
                tx,
                errors=[error.code for error in WAIT],
                other_than=["check_file"],
                wait=_REVIVE_AFTER,
                within=_REVIVE_FOR,
            )

    def give_back(self, ids: list[int]) -> None:
        """Return the jobs of a stopping worker to the queue."""
        with self._db.transaction() as tx:
            jobs.give_back(tx, ids)

    def forget_old(self) -> int:
        """Delete old failed jobs; returns how many."""
        with self._db.transaction() as tx:
            return jobs.forget_old(tx, after=_KEEP)


def _describe(error: BaseException) -> str:
    # A library's message may hold an address or a key (T125); the log has it.
    return f"{error.code}: {error.detail}" if isinstance(error, GatewayError) else type(error).__name__


def _set_problem(tx: Tx, task: str, arguments: Mapping[str, Any], reason: str) -> None:
    """What a job's end means for its file: unchecked bytes are never served; a file without previews is still a file."""
    try:
        file = files.get(tx, UUID(str(arguments.get("file_id"))))
    except ValueError:
        return
    if file is None:
        return
    log.error("job_gave_up", task=task, file_id=str(file.id), why=reason)
    if task == "check_file":
        problem = {"code": "check_failed", "detail": f"The check failed: {reason}. The bytes are kept."}
        files.finish_check(tx, file.id, status="rejected", problem=problem)
    elif task == "process_file":
        problem = {"code": "processing_failed", "detail": f"No previews were made: {reason}."}
        readings.set_problem(tx, file.reading, problem)
