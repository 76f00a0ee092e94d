"""A worker like ``python app.py worker`` with more tasks: one kills it, one always fails, one is slow and logs its start
and end. test_worker.py runs it as a program."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from uuid import UUID

import procrastinate

import app
from jobs import tasks, worker
from services import Services
from services.upkeep import jobs
from settings import Settings, database_url


def register(queue: procrastinate.App, services: Services) -> None:
    poisoned = os.environ.get("POISONED")
    if poisoned:
        services.verification.check = lambda file_id: (  # type: ignore[method-assign]
            os.kill(os.getpid(), signal.SIGKILL) if file_id == UUID(poisoned) else None
        )
    tasks.register(queue, services)
    notes = Path(sys.argv[1])

    def note(word: str) -> None:
        with notes.open("a") as file:
            file.write(f"{word} {os.getpid()}\n")

    @queue.task(name="kill_worker", retry=tasks.RetryPolicy())
    def kill_worker() -> None:
        note("kill")
        os.kill(os.getpid(), signal.SIGKILL)

    @queue.task(name="always_fails", retry=tasks.RetryPolicy())
    def always_fails(file_id: str = "") -> None:
        note("fail")
        raise ValueError("secret words")

    @queue.task(name="slow", retry=tasks.RetryPolicy())
    def slow(seconds: float, name: str = "slow", file_id: str = "") -> None:
        note(f"begin-{name}")
        time.sleep(seconds)
        note(f"end-{name}")

    @queue.task(name="slow_check", retry=tasks.RetryPolicy())
    def slow_check(file_id: str) -> None:
        note("begin-check")
        while not notes.with_name("go").exists():
            time.sleep(0.05)
        services.verification.check(UUID(file_id))
        note("end-check")


if __name__ == "__main__":
    settings = Settings(_env_file=None)
    worker.register = register  # type: ignore[attr-defined]
    worker.SWEEP_EVERY = worker._POLL = worker._RECONNECT = 0.3
    worker._DRAIN = float(os.environ.get("DRAIN", "20"))
    jobs._WAIT *= 0.02
    wired = app.wire(settings)
    worker.run(wired, database_url=database_url(settings), lease=3, concurrency=int(os.environ.get("PLACES", "1")))
