"""The worker process: it takes jobs from PostgreSQL until SIGTERM, then finishes those it has, or returns them.

Each queue has slots of its own (``concurrency``). Any number of workers on any number of machines share the work;
``--queues`` limits one to some queues.

Three threads do, every few seconds, what must also happen while all slots are taken: "sweep" completes uploads that the bucket
received without the gateway (within ten seconds) and rescues the jobs of dead workers; "watch", apart since copies may take
long, ends uploads that exceed their limits; "index" makes new and changed files searchable, each second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
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

import tracing
from core.errors import WAIT, Unavailable
from core.origin import ORIGIN, SYSTEM
from db import CONNECTION
from db.jobs import QUEUES
from jobs.tasks import register
from services import Services
from telemetry import metrics

log = structlog.get_logger()

SWEEP_EVERY = 3.0  # seconds
_INDEX_EVERY = 1.0  # seconds
_DRAIN = 20.0  # seconds that running jobs get after SIGTERM before they are returned to the queue
_POLL = 2.0  # seconds between polls for jobs that nothing announces: retries, and jobs whose lock was released
_RECONNECT = 2.0  # seconds before a queue whose connection broke is listened to again


def run(
    services: Services, *, database_url: str, queues: Sequence[str] = QUEUES, concurrency: int = 2, lease: int = 30
) -> None:
    """Work until SIGTERM or SIGINT. ``concurrency``: jobs of each queue at one time. ``lease``: seconds without a sign of
    life after which a worker's jobs are given to others."""
    ORIGIN.set(SYSTEM)  # no longer the command that has started this
    for handler in logging.getLogger().handlers:
        handler.addFilter(_without_traceback)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the event loop handles it
    stopped = threading.Event()
    direct, resumable = services.direct, services.resumable
    sweeps = [service.sweep for service in (direct, resumable) if service]
    loops: dict[str, list[Callable[[], object]]] = {
        "sweep": [*sweeps, lambda: services.jobs.rescue(timedelta(seconds=lease))],
        "watch": [direct.watch] if direct else [],
        "index": [services.search.index],
    }
    threads = [
        threading.Thread(
            target=_repeat,
            args=(stopped, calls, _INDEX_EVERY if name == "index" else SWEEP_EVERY),
            name=name,
            daemon=True,
        )
        for name, calls in loops.items()
    ]
    for thread in threads:
        thread.start()
    try:
        asyncio.run(_Worker(services, database_url, queues, concurrency, lease).work())
    finally:
        stopped.set()
        for thread in threads:
            thread.join(_DRAIN)


class _Worker:
    def __init__(self, services: Services, database_url: str, queues: Sequence[str], concurrency: int, lease: int):
        self._services = services
        self._queues, self._concurrency, self._lease = queues, concurrency, lease
        self._app = procrastinate.App(
            connector=PsycopgConnector(
                conninfo=database_url, kwargs=dict(CONNECTION), min_size=1, max_size=len(queues) + 4
            )
        )
        register(self._app, services)
        self._threads = ThreadPoolExecutor(len(queues) * concurrency + 2, thread_name_prefix="job")
        self._running: set[int] = set()

    async def work(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(self._threads)  # a slot is a thread: Python's default may have fewer
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with self._app.open_async():
            queues = [asyncio.create_task(self._serve(queue, stop), name=queue) for queue in self._queues]
            await stop.wait()
            for queue in queues:
                queue.cancel()  # procrastinate takes no more jobs and finishes those it has
            _, late = await asyncio.wait(queues, timeout=_DRAIN)
            if late:
                await self._abandon()

    async def _serve(self, queue: str, stop: asyncio.Event) -> None:
        """Work on one queue until ``stop``. A lost connection ends procrastinate's worker, not ours."""
        while not stop.is_set():
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
                    worker_middleware=[self._observe],
                )
            except ConnectorException as error:
                log.warning("queue_lost", queue=queue, error=str(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _RECONNECT)

    async def _observe(self, call: Callable[[], Awaitable[Any]], context: Any, worker: Any) -> Any:
        """Around each job: record that it runs, how long it takes, and why it fails."""
        job, begun, outcome, span = context.job, time.monotonic(), "ok", None
        self._running.add(job.id)
        try:
            origin = await asyncio.to_thread(self._services.jobs.origin, job.id, job.task_name)
            span = tracing.begin(job.task_name, "CONSUMER", origin.trace)
            # In the context of this job's asyncio task, which its thread gets too.
            ORIGIN.set(origin._replace(trace=span.traceparent if span else None))
            return await call()
        except Exception as error:
            task = self._app.tasks.get(job.task_name)
            final = task is None or task.get_retry_exception(exception=error, job=job) is None
            outcome = "failed" if final else "retried"
            await asyncio.to_thread(self._record_failure, job, error, final)
            raise
        finally:
            self._running.discard(job.id)
            seconds = time.monotonic() - begun
            metrics().job(job.task_name, outcome, seconds)
            log.info("job", outcome=outcome, seconds=round(seconds, 6))
            if span is not None:
                told = {"outcome": outcome, "job": job.id, "request_id": ORIGIN.get().request_id}
                span.end(job.task_name, failed=outcome != "ok", **told)

    def _record_failure(self, job: Any, error: Exception, final: bool) -> None:
        traceback = None if isinstance(error, WAIT) else error  # the message says enough
        log.warning("job_failed", final=final, error=str(error), exc_info=traceback)
        try:
            self._services.jobs.failed(job.id, job.task_name, job.task_kwargs, error, final=final)
        except Unavailable:
            log.warning("job_error_not_kept")

    async def _abandon(self) -> None:
        """Return unfinished jobs to the queue and exit at once, since a job in a thread can't be stopped. Its parsers die
        with this process, and its work in the bucket will be done again."""
        running = sorted(self._running)
        log.warning("jobs_given_back", jobs=running)
        try:
            await asyncio.to_thread(self._services.jobs.give_back, running)
        finally:
            os._exit(0)


def _repeat(stopped: threading.Event, calls: Sequence[Callable[[], object]], every: float) -> None:
    """Make the calls again and again, ``every`` seconds. Several workers may do so at once: rows decide who does what."""
    while not stopped.wait(every):
        for call in calls:
            try:
                call()
            except WAIT as error:
                log.warning("sweep_failed", error=str(error))
            except Exception:  # the next call must still happen
                log.exception("sweep_failed")


def _without_traceback(record: logging.LogRecord) -> bool:
    """procrastinate logs each lost connection with its traceback, several times in an outage; the message says enough."""
    if record.exc_info and isinstance(record.exc_info[1], ConnectorException):
        record.exc_info = None
    return True
