"""A gateway that is killed before its n-th call to bucket or database, for every n (T101).

    for crash in crashing.crash_points():
        with crash:                       # ends where the gateway is killed
            crashing.services.direct.complete(...)
        ...                               # what the client, the sweep or the janitor makes of it

Nothing durable happens between two calls: to be killed after one is to be killed before the next.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from app import wire
from db import Database
from settings import Settings, database_url, storage_settings
from storage_backends.s3 import S3Store


class Killed(BaseException):
    """kill -9, as far as this process is concerned: nothing that comes after happens."""


class CrashPoint:
    """The gateway is killed before its ``number``-th call, and makes none from then on."""

    def __init__(self, number: int):
        self.number = number
        self.crashed = False
        self.calls = 0

    def __repr__(self) -> str:
        return f"killed before call {self.number}"

    def before_call(self) -> None:
        if threading.current_thread().name == "heartbeat":  # the test's own gateway needs this thread too
            if self.crashed:
                raise ConnectionError("killed")
            return
        self.calls += 1
        if self.calls >= self.number:
            self.crashed = True
            raise Killed

    def __enter__(self) -> CrashPoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is Killed


class _Store(S3Store):
    crash_point: CrashPoint

    def _call(self, operation: str, request: Callable[[], Any], **options: Any) -> Any:
        self.crash_point.before_call()
        return super()._call(operation, request, **options)


class _Database(Database):
    crash_point: CrashPoint

    @contextmanager
    def connection(self) -> Iterator[Any]:
        self.crash_point.before_call()
        with super().connection() as tx:
            yield tx


class CrashingGateway:
    """A second gateway on the same bucket and database."""

    def __init__(self, settings: Settings):
        self._db = _Database(database_url(settings), max_connections=2)
        self._store = _Store(storage_settings(settings))
        self.arm(CrashPoint(sys.maxsize))
        self.services = wire(settings, db=self._db, store=self._store)

    def arm(self, crash_point: CrashPoint) -> None:
        self._db.crash_point = self._store.crash_point = crash_point

    def crash_points(self) -> Iterator[CrashPoint]:
        """One after another, up to the first that the action does not reach."""
        for number in range(1, 120):
            point = CrashPoint(number)
            self.arm(point)
            yield point
            if not point.crashed:
                assert point.calls > 0, "the action made no call"
                return
        raise AssertionError("the action makes more calls than there are crash points")
