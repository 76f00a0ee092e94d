"""The worker process: takes jobs from PostgreSQL until SIGTERM, then finishes those it holds."""

from __future__ import annotations

import procrastinate
from procrastinate import PsycopgConnector

from jobs.tasks import register
from services import Services

_DRAIN = 20.0          # seconds that running jobs get after SIGTERM before they go back to the queue


def run(services: Services, *, database_url: str, concurrency: int = 2) -> None:
    """Work until told to stop (SIGTERM, SIGINT)."""
    queue = procrastinate.App(connector=PsycopgConnector(conninfo=database_url, min_size=1, max_size=concurrency + 2))
    register(queue, services)
    queue.run_worker(
        concurrency=concurrency, wait=True, install_signal_handlers=True, shutdown_graceful_timeout=_DRAIN,
        fetch_job_polling_interval=5, delete_jobs="successful",
    )
