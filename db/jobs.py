"""Putting work into the queue, inside the caller's transaction: the job exists exactly if the state change does."""

from __future__ import annotations

from functools import cache
from typing import Any

import procrastinate
from procrastinate import SyncPsycopgConnector

from db import Tx


@cache
def _queue() -> procrastinate.App:
    # An app without a worker: names are enough to enqueue, and no connection of its own is ever opened.
    return procrastinate.App(connector=SyncPsycopgConnector())


def enqueue(
    tx: Tx, task: str, *, lock: str | None = None, priority: int = 0, delay_seconds: int = 0, **arguments: Any
) -> None:
    """Run ``task`` (a name from jobs/tasks.py) once the transaction has committed. Jobs of one ``lock`` run one by one."""
    options: dict[str, Any] = {"connection": tx, "priority": priority, "lock": lock}
    if delay_seconds:
        options["schedule_in"] = {"seconds": delay_seconds}
    _queue().configure_task(task, allow_unknown=True, **options).defer(**arguments)
