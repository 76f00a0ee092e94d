"""Gateways that die: kill -9 at the n-th call to bucket or database (THREATS T101)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from app import storage_settings
from db import Database
from settings import Settings
from storage_backends.s3 import S3Store

MOMENTS = [(number, after) for number in range(1, 40) for after in (False, True)]
# To die before a call is to die after the one before it.
AFTER_EACH_CALL = [(1, False), *((number, after) for number, after in MOMENTS if after)]


class Killed(BaseException):
    """kill -9, as far as this process is concerned: nothing that comes after happens."""


class Fuse:
    """Burns at the n-th call to bucket or database, before it happens or after, and lets nothing through from then on."""

    def __init__(self, number: int, *, after: bool):
        self._number = number
        self._after = after
        self._calls = 0
        self.burnt = False

    @contextmanager
    def call(self) -> Iterator[None]:
        if self.burnt:
            raise Killed
        self._calls += 1
        mine = self._calls == self._number
        if mine and not self._after:
            self.burnt = True
            raise Killed
        yield
        if mine or self.burnt:
            self.burnt = True
            raise Killed


class FusedStore(S3Store):
    fuse: Fuse

    def _call(self, operation: str, request: Callable[[], Any], *, repeatable: bool = True) -> Any:
        with self.fuse.call():
            return super()._call(operation, request, repeatable=repeatable)


class FusedDatabase(Database):
    fuse: Fuse

    @contextmanager
    def connection(self) -> Iterator[Any]:
        with self.fuse.call(), super().connection() as tx:
            yield tx


class CrashingGateway:
    """A second gateway on the same bucket and database, which dies when its fuse burns. What it consists of is the test's."""

    def __init__(self, settings: Settings, database_url: str):
        self.db = FusedDatabase(database_url, max_connections=2)
        self.store = FusedStore(storage_settings(settings))
        self.db.fuse = self.store.fuse = Fuse(0, after=False)

    def survives(self, number: int, after: bool, action: Callable[[], Any]) -> bool:
        """Whether the action came to its end with no call being the last."""
        fuse = Fuse(number, after=after)
        self.db.fuse = self.store.fuse = fuse
        with suppress(Killed):
            action()
        return not fuse.burnt
