"""Work on many things at once, with bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from threading import Event
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(work: Callable[[T], R], items: Iterable[T], *, threads: int, stopping: Event) -> Generator[R]:
    """``work`` on each item, in ``threads`` threads; results come as they are ready. At most twice as many items are taken ahead.

    If work fails, or the caller ends early, no further item is begun, and ``stopping`` is set for those that are being
    worked on, which end first."""
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
