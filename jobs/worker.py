"""The worker process: takes jobs from PostgreSQL until SIGTERM, then finishes those it holds.

Beside the jobs it looks every few seconds for uploads that the bucket took without telling us. That is no job of the queue:
it has to happen within ten seconds also while every worker is busy reading back large files.
"""

from __future__ import annotations

import signal
import sys
import threading

import procrastinate
import structlog
from procrastinate import PsycopgConnector

from jobs.tasks import register
from services import Services

log = structlog.get_logger()

SWEEP_EVERY = 3.0  # seconds
_DRAIN = 20.0  # seconds that running jobs get after SIGTERM before they go back to the queue


def run(services: Services, *, database_url: str, concurrency: int = 2) -> None:
    """Work until told to stop (SIGTERM, SIGINT)."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until procrastinate, once it works, takes the signal over
    queue = procrastinate.App(
        connector=PsycopgConnector(conninfo=database_url, min_size=1, max_size=concurrency + 2)
    )
    register(queue, services)
    stopped = threading.Event()
    sweeper = threading.Thread(
        target=_sweep_until, args=(stopped, services), name="sweep", daemon=True
    )
    sweeper.start()
    try:
        queue.run_worker(
            concurrency=concurrency,
            wait=True,
            install_signal_handlers=True,
            shutdown_graceful_timeout=_DRAIN,
            fetch_job_polling_interval=5,
            delete_jobs="successful",
        )
    finally:
        stopped.set()
        sweeper.join(_DRAIN)


def _sweep_until(stopped: threading.Event, services: Services) -> None:
    """Safe in several workers at once: who completes an upload is decided by its row."""
    while services.direct is not None and services.tus is not None and not stopped.wait(SWEEP_EVERY):
        try:
            services.direct.sweep()
            services.tus.sweep()
        except Exception:  # whatever it was, the next look is due
            log.exception("sweep_failed")
