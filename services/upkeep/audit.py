"""The audit log: events of requests that no other service records, pages for admins, export, and what becomes of old events."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from core.cursors import Cursors, Page
from core.errors import InvalidInput, NotAllowed, Unavailable
from core.origin import ORIGIN
from db import Database, errors, events
from db.events import EventFilter as EventFilter
from db.records import AuditRecord

_MOST_COUNTED = 10_000
_BATCH = 1_000
_ATTEMPTS = 20  # to drop a partition, each of which waits 3 seconds for its lock


@dataclass(frozen=True, slots=True)
class Pruned:
    """A partition that was, or would be, summed and dropped."""

    partition: str
    dry_run: bool


class Audit:
    """Records events, and reads them."""

    def __init__(self, db: Database, cursors: Cursors):
        self._db = db
        self._cursors = cursors
        self._minute = 0
        self._refused: set[tuple[str, str, str]] = set()  # in this minute: actor, route, code

    def record(self, action: str, *, target: object = None) -> None:
        """Record what the caller has done. Raises Unavailable."""
        with self._db.connection() as tx:
            events.record(tx, action, owner_id=None, target=target)

    def record_refusal(self, *, route: str, code: str) -> None:
        """Record that the caller was refused, once a minute for each route and code. Raises Unavailable."""
        minute, refusal = int(time.time() / 60), (ORIGIN.get().actor, route, code)
        if minute != self._minute:
            self._minute, self._refused = minute, set()
        if refusal not in self._refused:
            self._refused.add(refusal)
            with self._db.connection() as tx:
                events.record_refusal(tx, route=route, code=code)

    def page(self, wanted: EventFilter, *, limit: int, cursor: str | None) -> Page[AuditRecord]:
        """A page of events, newest first. Raises InvalidCursor, and InvalidInput if it takes too long to find them."""
        scope = f"audit:{wanted}"
        before = self._cursors.after(cursor, int, scope=scope)
        with self._db.connection() as tx:
            try:
                found = events.page(tx, wanted, before=before, limit=limit + 1)
                counted = events.count(tx, wanted, limit=_MOST_COUNTED + 1)
            except errors.QueryCanceled as error:
                raise InvalidInput("There are too many events to search; narrow date_from and date_to.") from error
        total = counted if counted <= _MOST_COUNTED else None
        return self._cursors.page(found, lambda event: event.id, limit=limit, scope=scope, total=total)

    def export(self, wanted: EventFilter) -> Iterator[AuditRecord]:
        """All events, oldest first, read in batches."""
        last = 0
        while True:
            with self._db.connection() as tx:
                batch = events.after(tx, wanted, after=last, limit=_BATCH)
            yield from batch
            if len(batch) < _BATCH:
                return
            last = batch[-1].id


def prune(db: Database, *, months: int, dry_run: bool) -> Iterator[Pruned]:
    """Sum and drop the partitions that end before the last ``months`` whole months; none if it is 0. ``db`` is opened by the
    role that owns the tables. Raises NotAllowed for another role, and Unavailable if a partition stays in use."""
    if not months:
        return
    with db.connection() as tx:
        old = events.old_partitions(tx, months=months)
        if old and not dry_run and not events.owned_by_gateway(tx):
            raise NotAllowed("Only the role that owns the tables can drop events: set MIGRATION_DATABASE_URL.")
    for partition in old:
        if not dry_run:
            _drop(db, partition)
        yield Pruned(partition, dry_run)


def _drop(db: Database, partition: str) -> None:
    for _ in range(_ATTEMPTS):
        with db.connection() as tx:
            try:
                with tx.transaction():
                    events.drop_partition(tx, partition)
                return
            except errors.LOCKED:
                pass
    raise Unavailable(f"{partition} is in use; try again later.")
