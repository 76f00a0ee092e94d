"""Task name -> service call, with its retry policy. Services enqueue tasks by name (db/jobs.py) and never import this."""

from __future__ import annotations

import random
from uuid import UUID

import procrastinate
from procrastinate import BaseRetryStrategy, RetryDecision
from procrastinate.jobs import Job

from core.errors import Unavailable
from db.jobs import COMPARISON, MAINTENANCE
from services import Services

JANITOR_CRON = "*/5 * * * *"
RESCAN_CRON = "23 * * * *"
FULL_JANITOR_CRON = "23 3 * * *"  # UTC
SCRUB_CRON = "* * * * *"  # a slice takes less than a minute


class RetryPolicy(BaseRetryStrategy):
    """Retry after 2, 4, 8 … seconds, with jitter: ten attempts in about half an hour if the bucket or database is
    unavailable, four if the job itself fails."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """The delay before the next attempt; None after the last."""
        max_attempts = 10 if isinstance(exception, Unavailable) else 4
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
    }.items():
        queue.task(name=name, retry=retry)(lambda file_id, process=process: process(UUID(file_id)))

    @queue.task(name="rescan", retry=retry)
    def rescan() -> None:
        if scanning is not None:
            scanning.scan_next_batch()

    _register_upkeep(queue, services)


def _register_upkeep(queue: procrastinate.App, services: Services) -> None:
    scanning = services.scanning

    @queue.periodic(cron=RESCAN_CRON)
    @queue.task(name="keep_rescanning", queueing_lock="keep_rescanning", queue=MAINTENANCE)
    def keep_rescanning(timestamp: int) -> None:
        if scanning is not None:
            scanning.continue_rescan()

    @queue.periodic(cron=JANITOR_CRON)
    @queue.task(name="janitor", queueing_lock="janitor", lock="janitor", queue=MAINTENANCE)
    def janitor(timestamp: int) -> None:
        services.janitor.run(full=False)
        if scanning is not None:
            scanning.delete_quarantined()

    # Of a very large bucket it takes hours: it has a queue of its own, and runs beside the quick ones.
    @queue.periodic(cron=FULL_JANITOR_CRON)
    @queue.task(name="full_janitor", queueing_lock="full_janitor", lock="full_janitor", queue=COMPARISON)
    def full_janitor(timestamp: int) -> None:
        services.janitor.run()
        services.search.repair_index()

    @queue.periodic(cron=SCRUB_CRON)
    @queue.task(name="scrub", queueing_lock="scrub", lock="scrub", queue=MAINTENANCE)
    def scrub(timestamp: int) -> None:
        services.scrub.run()

    @queue.periodic(cron="17 * * * *")
    @queue.task(name="forget_jobs", queueing_lock="forget_jobs", queue=MAINTENANCE)
    def forget_jobs(timestamp: int) -> None:
        services.jobs.forget_old()
