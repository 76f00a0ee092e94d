"""Work on many things at once, with bounded memory, and again while a bucket or the database is unavailable."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from contextvars import copy_context
from threading import Event
from typing import TypeVar

import structlog

from core.errors import Unavailable
from storage_backends.base import StorageRefused, StorageUnavailable

log = structlog.get_logger()

_WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # seconds

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def in_parallel(work: Callable[[T], R], items: Iterable[T], *, threads: int, stopping: Event) -> Generator[Iterator[R]]:
    """``work`` on each item, in ``threads`` threads; results come as they are ready. At most twice as many items are taken ahead.

    If work fails, or the caller ends early, no further item is begun, and ``stopping`` is set for those that are being
    worked on, which end first."""
    with closing(_results(work, items, threads, stopping)) as results:
        yield results


def _results(work: Callable[[T], R], items: Iterable[T], threads: int, stopping: Event) -> Generator[R]:
    source = iter(items)
    running: set[Future[R]] = set()
    with ThreadPoolExecutor(threads) as pool:
        try:
            while True:
                for item in source:
                    running.add(pool.submit(copy_context().run, work, item))
                    if len(running) >= 2 * threads:
                        break
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BaseException:
            stopping.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def again(call: Callable[[], R], stopping: Event | None = None) -> R:
    """What ``call`` returns. For about a minute it is called again while a bucket or the database is unavailable, but not once
    ``stopping`` is set. Raises what ``call`` raises."""
    stopping = stopping or Event()
    for wait_for in _WAITS:
        try:
            return call()
        except (Unavailable, StorageUnavailable) as error:
            if isinstance(error, StorageRefused) or stopping.wait(wait_for):
                raise
            log.warning("trying_again", seconds=wait_for, reason=str(error))
    return call()
