"""Task name -> one service call, with its retry rule. Services enqueue by these names (db/jobs.py) and never import this."""

from __future__ import annotations

from uuid import UUID

import procrastinate
from procrastinate import RetryStrategy

from services import Services

JANITOR_CRON = "*/5 * * * *"
RECOUNT_CRON = "23 3 * * *"  # UTC; it reads all files
STALLED_CRON = "* * * * *"

# A bucket or database that is away for some minutes must not cost a job: 2, 4, 8 … seconds, about half an hour in all.
_PATIENT = RetryStrategy(max_attempts=10, exponential_wait=2)


def register(queue: procrastinate.App, services: Services) -> None:
    @queue.task(name="make_previews", retry=_PATIENT)
    def make_previews(file_id: str) -> None:
        services.previews.make_all(UUID(file_id))

    @queue.task(name="check_file", retry=_PATIENT)
    def check_file(file_id: str) -> None:
        services.checking.check(UUID(file_id))

    @queue.periodic(cron=JANITOR_CRON)
    @queue.task(name="janitor", queueing_lock="janitor", lock="janitor")
    def janitor(timestamp: int) -> None:
        services.checking.requeue_lost()
        services.upkeep.janitor(recount=False)

    @queue.periodic(cron=RECOUNT_CRON)
    @queue.task(name="recount", queueing_lock="recount", lock="janitor")
    def recount(timestamp: int) -> None:
        services.upkeep.janitor()

    @queue.periodic(cron=STALLED_CRON)
    @queue.task(name="retry_stalled", queueing_lock="retry_stalled", pass_context=True)
    async def retry_stalled(context: procrastinate.JobContext, timestamp: int) -> None:
        """Give jobs of workers that died (no heartbeat for 30 s) to the living."""
        for job in await queue.job_manager.get_stalled_jobs(seconds_since_heartbeat=30):
            await queue.job_manager.retry_job(job)

    @queue.periodic(cron="17 * * * *")
    @queue.task(name="forget_jobs", queueing_lock="forget_jobs", pass_context=True)
    async def forget_jobs(context: procrastinate.JobContext, timestamp: int) -> None:
        await queue.job_manager.delete_old_jobs(nb_hours=24, include_failed=False)
