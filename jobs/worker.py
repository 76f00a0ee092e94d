"""The worker process: takes jobs from PostgreSQL until SIGTERM, then finishes those it holds, or gives them back.

Each queue has places of its own (``concurrency``), so that checks never wait behind previews, nor the janitor behind either.
Any number of workers on any number of machines share the work; ``--queues`` gives one only some of it.

Beside the jobs threads look every few seconds for what has to happen also while every place is taken: uploads that the
bucket took without telling us (within ten seconds), jobs whose worker died, and, since copies may take long, in a thread of
its own, uploads that grow beyond what they may.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import procrastinate
import structlog
from procrastinate import PsycopgConnector
from procrastinate.exceptions import ConnectorException

from core.errors import Unavailable
from db import CONNECTION
from db.jobs import QUEUES
from jobs.tasks import register
from services import Services
from telemetry import metrics

log = structlog.get_logger()

Look = Callable[[], object]

SWEEP_EVERY = 3.0  # seconds
_DRAIN = 20.0  # seconds that running jobs get after SIGTERM before they go back to the queue
_POLL = 2.0  # seconds between looks for jobs that nothing announces: retries, and those whose lock became free
_REST = 2.0  # seconds before a queue whose connection broke is listened to again


def run(
    services: Services,
    *,
    database_url: str,
    queues: Sequence[str] = QUEUES,
    concurrency: int = 2,
    lease: int = 30,
) -> None:
    """Work until told to stop (SIGTERM, SIGINT). ``concurrency``: jobs of each queue at one time; ``lease``: seconds
    without a sign of life after which a worker's jobs are given to others."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the loop below takes the signal over
    stopped = threading.Event()
    direct, tus = services.direct, services.resumable
    looks: dict[str, list[Look]] = {
        "sweep": [
            *([direct.sweep] if direct else []),
            *([tus.sweep] if tus else []),
            lambda: services.jobs.rescue(timedelta(seconds=lease)),
        ],
        "watch": [direct.watch] if direct else [],
    }
    sweepers = [
        threading.Thread(target=_look_until, args=(stopped, of_one), name=name, daemon=True)
        for name, of_one in looks.items()
    ]
    for sweeper in sweepers:
        sweeper.start()
    worker = _Worker(services, database_url, list(queues), concurrency, lease)
    try:
        asyncio.run(worker.work())
    finally:
        stopped.set()
        for sweeper in sweepers:
            sweeper.join(_DRAIN)


class _Worker:
    def __init__(self, services: Services, database_url: str, queues: list[str], concurrency: int, lease: int):
        self._services = services
        self._queues, self._concurrency, self._lease = queues, concurrency, lease
        places = len(queues) * concurrency
        self._app = procrastinate.App(
            connector=PsycopgConnector(
                conninfo=database_url, kwargs=dict(CONNECTION), min_size=1, max_size=len(queues) + 4
            )
        )
        register(self._app, services)
        self._threads = ThreadPoolExecutor(places + 2, thread_name_prefix="job")
        self._running: set[int] = set()

    async def work(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(self._threads)  # a place is a thread: Python's own choice may be fewer
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with self._app.open_async():
            lanes = [asyncio.create_task(self._serve(queue), name=queue) for queue in self._queues]
            await stop.wait()
            for lane in lanes:
                lane.cancel()  # asks procrastinate to take no more jobs and to finish those it has
            _, late = await asyncio.wait(lanes, timeout=_DRAIN)
            if late:
                await self._leave()

    async def _serve(self, queue: str) -> None:
        """Work on one queue for ever. A lost connection ends procrastinate's worker, never ours."""
        while True:
            try:
                await self._app.run_worker_async(
                    queues=[queue],
                    name=queue,
                    concurrency=self._concurrency,
                    install_signal_handlers=False,
                    fetch_job_polling_interval=_POLL,
                    shutdown_graceful_timeout=_DRAIN,
                    update_heartbeat_interval=self._lease / 3,
                    stalled_worker_timeout=self._lease,
                    delete_jobs="successful",
                    worker_middleware=[self._watch],
                )
            except ConnectorException as error:
                log.warning("queue_lost", queue=queue, error=str(error))
            await asyncio.sleep(_REST)

    async def _watch(self, call: Callable[[], Awaitable[Any]], context: Any, worker: Any) -> Any:
        """Around each job: who runs, how long it took, why it failed."""
        job, begun, outcome = context.job, time.monotonic(), "ok"
        self._running.add(job.id)
        try:
            return await call()
        except Exception as error:
            task = self._app.tasks.get(job.task_name)
            final = task is None or task.get_retry_exception(exception=error, job=job) is None
            outcome = "failed" if final else "retried"
            await asyncio.to_thread(self._note, job, error, final)
            raise
        finally:
            self._running.discard(job.id)
            metrics().job(job.task_name, outcome, time.monotonic() - begun)

    def _note(self, job: Any, error: Exception, final: bool) -> None:
        away = isinstance(error, Unavailable)  # a bucket or database: the reason is enough
        log.warning(
            "job_failed",
            job=job.id,
            task=job.task_name,
            final=final,
            error=str(error),
            exc_info=None if away else error,
        )
        try:
            self._services.jobs.failed(job.id, job.task_name, job.task_kwargs, error, final=final)
        except Unavailable:
            log.warning("job_error_not_kept", job=job.id)

    async def _leave(self) -> None:
        """Give back what can't be finished in time, and end at once: a job in a thread can't be stopped otherwise. Its
        parsers die with this process, and whatever it was doing in the bucket will be done again."""
        held = sorted(self._running)
        log.warning("jobs_given_back", jobs=held)
        try:
            await asyncio.to_thread(self._services.jobs.give_back, held)
        finally:
            os._exit(0)


def _look_until(stopped: threading.Event, looks: Sequence[Look]) -> None:
    """Safe in several workers at once: who completes an upload, or takes a job back, is decided by its row."""
    while not stopped.wait(SWEEP_EVERY):
        for look in looks:
            try:
                look()
            except Exception:  # whatever it was, the next look is due
                log.exception("sweep_failed")
