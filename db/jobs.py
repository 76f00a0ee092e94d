"""Putting work into the queue, inside the caller's transaction: the job exists exactly if the state change does."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import Any

import procrastinate
from procrastinate import SyncPsycopgConnector

from db import Tx, scalar


@cache
def _queue() -> procrastinate.App:
    # An app without a worker: names are enough to enqueue, and no connection of its own is ever opened.
    return procrastinate.App(connector=SyncPsycopgConnector())


def enqueue(
    tx: Tx,
    task: str,
    *,
    owner_id: str,
    lock: str | None = None,
    priority: int = 0,
    delay_seconds: int = 0,
    **arguments: Any,
) -> None:
    """Run ``task`` (a name from jobs/tasks.py) for ``owner_id`` once the transaction has committed. Jobs of one ``lock`` run
    one by one."""
    options: dict[str, Any] = {"connection": tx, "priority": priority, "lock": lock}
    if delay_seconds:
        options["schedule_in"] = {"seconds": delay_seconds}
    _queue().configure_task(task, allow_unknown=True, **options).defer(**arguments)


_WAITING = """
select exists (
    select from procrastinate_jobs j join procrastinate_events e on e.job_id = j.id and e.type = 'deferred'
    where j.status = 'todo' and j.scheduled_at is null and e.at < now() - %(longer_than)s)
"""


def any_waiting(tx: Tx, *, longer_than: timedelta) -> bool:
    """Whether a job that is due has been waiting for so long: then no worker is at work."""
    return scalar(tx, _WAITING, {"longer_than": longer_than}) is True
