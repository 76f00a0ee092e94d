"""Task name -> service call, with its retry policy. Services enqueue tasks by name (db/jobs.py) and never import this."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import procrastinate
from procrastinate import BaseRetryStrategy, RetryDecision
from procrastinate.jobs import Job

from core.errors import WAIT
from db.jobs import COMPARISON, MAINTENANCE
from services import Services

JANITOR_CRON = "*/5 * * * *"
ARCHIVE_CRON = "*/10 * * * *"
RESCAN_CRON = "23 * * * *"
FULL_JANITOR_CRON = "23 3 * * *"  # UTC
SCRUB_CRON = "* * * * *"  # a slice takes less than a minute


class RetryPolicy(BaseRetryStrategy):
    """Retry after 2, 4, 8 … seconds, with jitter: ten attempts in about half an hour if the bucket or database is
    unavailable or full, four if the job itself fails."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """The delay before the next attempt; None after the last."""
        max_attempts = 10 if isinstance(exception, WAIT) else 4
        if job.attempts + 1 >= max_attempts:
            return None
        delay = min(2 ** (job.attempts + 1), 600) * random.uniform(0.75, 1.25)  # noqa: S311 spreads load
        return RetryDecision(retry_in={"seconds": max(1, round(delay))})


def register(queue: procrastinate.App, services: Services) -> None:
    """Register all tasks and cron jobs with the queue."""
    scanning, retry = services.scanning, RetryPolicy()
    for name, process in {
        "check_file": services.verification.check,
        "process_file": services.pipeline.process,
        "compress_object": services.compression.compress,
        "publish_file": services.public_copies.publish,
        "archive_object": services.archive.archive,
        "unarchive_object": services.archive.unarchive,
    }.items():
        queue.task(name=name, retry=retry)(
            lambda file_id, process=process, **options: process(UUID(file_id), **options)
        )

    @queue.task(name="rescan", retry=retry)
    def rescan() -> None:
        if scanning is not None:
            scanning.scan_next_batch()

    queue.task(name="backup", retry=retry)(services.backups.back_up)

    for job in _cron_jobs(services):
        task = queue.task(name=job.name, queueing_lock=job.name, lock=job.name, queue=job.queue)
        queue.periodic(cron=job.cron)(task(job))


@dataclass(frozen=True, slots=True)
class CronJob:
    """A task that runs at certain times (UTC), one at a time."""

    name: str
    cron: str
    run: Callable[[], object]
    queue: str = MAINTENANCE

    def __call__(self, timestamp: int) -> None:
        """Run it; ``timestamp`` is the time that it was due."""
        self.run()


def _cron_jobs(services: Services) -> list[CronJob]:
    scanning = services.scanning

    def janitor() -> None:
        services.janitor.run(full=False)
        if scanning is not None:
            scanning.delete_quarantined()

    def full_janitor() -> None:
        services.janitor.run()
        services.search.repair_index()

    jobs = [
        CronJob("janitor", JANITOR_CRON, janitor),
        # Of a very large bucket it takes hours: it has a queue of its own, and runs beside the quick ones.
        CronJob("full_janitor", FULL_JANITOR_CRON, full_janitor, queue=COMPARISON),
        CronJob("archive", ARCHIVE_CRON, services.archive_rules.continue_pass),
        CronJob("unarchive", ARCHIVE_CRON, services.archive.continue_returns),
        CronJob("scrub", SCRUB_CRON, services.scrub.run),
        CronJob("forget_jobs", "17 * * * *", services.jobs.forget_old),
        CronJob("sample_capacity", "41 * * * *", services.capacity.sample),
    ]
    if services.backups.schedule is not None:
        jobs.append(CronJob("schedule_backup", services.backups.schedule, services.backups.start))
    return jobs if scanning is None else [*jobs, CronJob("keep_rescanning", RESCAN_CRON, scanning.continue_rescan)]
