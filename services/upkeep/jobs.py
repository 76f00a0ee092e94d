"""The job queue as people and workers see it: what waits, what failed and why, and what is done about dead workers.

A job that fails is tried again with a growing wait; one that fails always, or whose workers die of it, ends ``failed``
after a bounded number of tries, and the file it was about says so in its ``problem``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog

from core.cursors import Cursors, Page
from core.errors import Conflict, GatewayError, NotFound, Unavailable
from db import Database, Tx, files, jobs, objects
from db.jobs import Status
from db.records import JobRecord, QueueRecord

log = structlog.get_logger()

MAX_DEATHS = 3  # workers that may die of one job
_WAIT = timedelta(seconds=5)  # after the first death; doubled with each
_KEEP = timedelta(days=30)  # failed jobs
_AGAIN, _GIVE_UP = timedelta(hours=1), timedelta(days=7)  # where a bucket or database was away


@dataclass(frozen=True, slots=True)
class JobQuery:
    status: Status | None = None
    queue: str | None = None
    task: str | None = None
    owner: str | None = None
    limit: int = 50
    cursor: str | None = None


class Jobs:
    def __init__(self, db: Database, cursors: Cursors):
        self._db = db
        self._cursors = cursors

    # -- for people ----------------------------------------------------------------------------------------------------

    def page(self, query: JobQuery) -> Page[JobRecord]:
        """Jobs that wait, run, or ended otherwise than well, newest first. Raises InvalidCursor."""
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
        found: dict[str, dict[str, int]] = {}
        with self._db.connection() as tx:
            for queue, status, count in jobs.counts(tx):
                found.setdefault(queue, {})[status] = count
        return found

    def queues(self) -> list[QueueRecord]:
        with self._db.connection() as tx:
            return jobs.queues(tx)

    def retry(self, job_id: int) -> JobRecord:
        """A failed or cancelled job once more, with all its tries. Raises NotFound, Conflict where it is neither."""
        with self._db.transaction() as tx:
            done = jobs.retry(tx, job_id)
            job = jobs.get(tx, job_id)
            if job is None:
                raise NotFound("There is no such job.")
            if not done:
                raise Conflict("Only a failed job can be tried again; this one is still in the queue.")
        return job

    def remove(self, job_id: int) -> None:
        """Forget a failed job, or cancel one that waits. Raises NotFound, Conflict for one that a worker holds."""
        with self._db.transaction() as tx:
            if jobs.remove(tx, job_id):
                return
            if jobs.get(tx, job_id) is None:
                raise NotFound("There is no such job.")
        raise Conflict("A worker is at this job; it can be removed when it has ended.")

    # -- for workers ---------------------------------------------------------------------------------------------------

    def rescue(self, lease: timedelta) -> int:
        """Give the jobs of workers without a sign of life for ``lease`` to the living; how many there were.

        A job whose workers die time and again is failed in the same transaction as its file says so."""
        with self._db.transaction() as tx:
            rescued = jobs.rescue(tx, lease=lease, wait=_WAIT, max_deaths=MAX_DEATHS)
            for job in rescued:
                if job.status == "failed":
                    _say_on_file(tx, job.task, job.arguments, f"{MAX_DEATHS} workers ended while they did it")
        for job in rescued:
            log.warning("job_rescued", job=job.id, task=job.task, status=job.status, deaths=job.deaths)
        return len(rescued)

    def failed(
        self, job_id: int, task: str, arguments: Mapping[str, Any], error: BaseException, *, final: bool
    ) -> None:
        """Keep why an attempt failed; with ``final``, that none will follow, on the file too. Where all that was missing is a
        bucket or database, ``revive`` will ask for it again, and an unchecked file is nothing worse than unchecked."""
        with self._db.transaction() as tx:
            jobs.note_error(tx, job_id, _words(error))
            if final and isinstance(error, Unavailable):
                if task != "check_file":
                    _say_on_file(tx, task, arguments, "the bucket or the database was away; it will be tried again")
            elif final:
                _say_on_file(tx, task, arguments, f"it failed each time ({type(error).__name__})")

    def revive(self) -> int:
        """Try again, each hour for a week, what failed because the bucket or the database was away; how many. Checks are not
        among them: ``checking.requeue_lost`` looks after these."""
        with self._db.transaction() as tx:
            return jobs.revive(tx, error=Unavailable.code, other_than=["check_file"], wait=_AGAIN, within=_GIVE_UP)

    def give_back(self, ids: list[int]) -> None:
        """Return the jobs that a stopping worker can't finish."""
        with self._db.transaction() as tx:
            jobs.give_back(tx, ids)

    def forget_old(self) -> int:
        with self._db.transaction() as tx:
            return jobs.forget_old(tx, after=_KEEP)


def _words(error: BaseException) -> str:
    # A library's own message may hold an address or a key (THREATS T125); the log has it with its traceback.
    return f"{error.code}: {error.detail}" if isinstance(error, GatewayError) else type(error).__name__


def _say_on_file(tx: Tx, task: str, arguments: Mapping[str, Any], why: str) -> None:
    """What a job's end means for its file: unchecked bytes are never served, a file without previews is still a file."""
    try:
        file = files.get(tx, UUID(str(arguments.get("file_id"))))
    except ValueError:
        return
    if file is None:
        return
    log.error("job_gave_up", task=task, file_id=str(file.id), why=why)
    if task == "check_file":
        problem = {"code": "check_failed", "detail": f"The check was given up: {why}. The bytes are kept."}
        files.finish_check(tx, file.id, status="rejected", problem=problem)
    elif task == "process_file":
        problem = {"code": "processing_failed", "detail": f"Making its previews was given up: {why}."}
        objects.set_problem(tx, file.file_path, problem)
