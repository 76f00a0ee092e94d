"""Task name -> one service call, with its retry rule. Services enqueue by these names (db/jobs.py) and never import this.

Every task may run twice, or be cut off anywhere: what it changes, it changes by compare-and-set.
"""

from __future__ import annotations

import random
from uuid import UUID

import procrastinate
from procrastinate import BaseRetryStrategy, RetryDecision
from procrastinate.jobs import Job

from core.errors import Unavailable
from db.jobs import MAINTENANCE
from services import Services

JANITOR_CRON = "*/5 * * * *"
RESCAN_CRON = "23 * * * *"
RECOUNT_CRON = "23 3 * * *"  # UTC; it reads all files


class RetryPolicy(BaseRetryStrategy):
    """Again after 2, 4, 8 … seconds, not all at once: ten times, about half an hour in all, where a bucket or database is
    away; four times where it is the job itself that fails."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        most = 10 if isinstance(exception, Unavailable) else 4
        if job.attempts + 1 >= most:
            return None
        wait = min(2 ** (job.attempts + 1), 600) * random.uniform(0.75, 1.25)  # noqa: S311 spreads load
        return RetryDecision(retry_in={"seconds": max(1, round(wait))})


_RETRY = RetryPolicy()


def register(queue: procrastinate.App, services: Services) -> None:
    @queue.task(name="check_file", retry=_RETRY)
    def check_file(file_id: str) -> None:
        services.verification.check(UUID(file_id))

    @queue.task(name="process_file", retry=_RETRY)
    def process_file(file_id: str) -> None:
        services.pipeline.process(UUID(file_id))

    @queue.task(name="compress_object", retry=_RETRY)
    def compress_object(file_id: str) -> None:
        services.compression.compress(UUID(file_id))

    @queue.task(name="publish_file", retry=_RETRY)
    def publish_file(file_id: str) -> None:
        services.public_copies.publish(UUID(file_id))

    @queue.task(name="rescan", retry=_RETRY)
    def rescan() -> None:
        if services.scanning is not None:
            services.scanning.scan_next_batch()

    @queue.periodic(cron=RESCAN_CRON)
    @queue.task(name="keep_rescanning", queueing_lock="keep_rescanning", queue=MAINTENANCE)
    def keep_rescanning(timestamp: int) -> None:
        if services.scanning is not None:
            services.scanning.continue_rescan()

    @queue.periodic(cron=JANITOR_CRON)
    @queue.task(name="janitor", queueing_lock="janitor", lock="janitor", queue=MAINTENANCE)
    def janitor(timestamp: int) -> None:
        services.verification.requeue_lost()
        services.jobs.revive()
        services.public_copies.enqueue_missing()
        if services.scanning is not None:
            services.scanning.delete_quarantined()
        services.janitor.run(recount=False)

    @queue.periodic(cron=RECOUNT_CRON)
    @queue.task(name="recount", queueing_lock="recount", lock="janitor", queue=MAINTENANCE)
    def recount(timestamp: int) -> None:
        services.janitor.run()

    @queue.periodic(cron="17 * * * *")
    @queue.task(name="forget_jobs", queueing_lock="forget_jobs", queue=MAINTENANCE)
    def forget_jobs(timestamp: int) -> None:
        services.jobs.forget_old()
