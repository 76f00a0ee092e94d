"""PostgreSQL: the pool, transactions, and a few small verbs for running SQL.

Every other module here holds one aggregate: its record, then its SQL. Their functions take an open ``tx`` and never
open one themselves; a service opens it (``with db.transaction() as tx``) and never holds it while bytes move.

Rows are locked in one order everywhere, so that transactions can wait for each other but never in a circle:
folder tree -> name lock (``files.lock_names``) -> upload_sessions -> objects -> uploads -> upload_tokens -> files ->
owner_usage -> type_sums, folder_sums -> file_texts, file_words -> idempotency_keys. The triggers take an owner's owner_usage
before the rest (migrations 0009 and 0010).
Only the deletion of a folder departs from it: it waits but briefly and begins anew (services/folders.py).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

import orjson
import psycopg
from psycopg.rows import class_row
from psycopg.types.json import set_json_loads
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from core.errors import Unavailable


def _json(text: str | bytes) -> Any:
    """By orjson, since pages of files are full of JSON; what it refuses (numbers beyond any double) was kept once."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)


set_json_loads(_json)

Tx = psycopg.Connection[Any]
Record = TypeVar("Record")

# A statement that runs longer than this is a defect or an attack (THREATS T81); a lock waited for so long, a stuck peer.
_SESSION = (
    "-c statement_timeout=30s -c lock_timeout=10s -c idle_in_transaction_session_timeout=60s -c timezone=UTC"
)


class Database:
    """A connection pool that opens on first use, so that it is never carried over a fork (one pool per process)."""

    def __init__(
        self, url: str, *, max_connections: int = 16, cursor_factory: type[psycopg.Cursor[Any]] | None = None
    ):
        self.url = url
        self._max = max_connections
        self._cursor_factory = cursor_factory
        self._lock = threading.Lock()
        self._pool: ConnectionPool[Tx] | None = None
        self._pid = 0

    def _open(self) -> ConnectionPool[Tx]:
        with self._lock:
            if self._pool is None or self._pid != os.getpid():
                kwargs: dict[str, Any] = {"autocommit": True, "options": _SESSION, "connect_timeout": 5}
                if self._cursor_factory is not None:
                    kwargs["cursor_factory"] = self._cursor_factory
                self._pool = ConnectionPool(
                    self.url,
                    min_size=1,
                    max_size=self._max,
                    timeout=5,
                    max_lifetime=1800,
                    kwargs=kwargs,
                    open=True,
                    check=ConnectionPool.check_connection,
                    name="gateway",
                )
                self._pid = os.getpid()
            return self._pool

    @contextmanager
    def connection(self) -> Iterator[Tx]:
        """A connection outside a transaction: each statement commits by itself. Loss of the server is Unavailable."""
        try:
            with self._open().connection() as conn:
                yield conn
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, PoolClosed) as error:
            raise Unavailable("The database can't be reached or is too busy; try again.") from error

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        """A connection inside a transaction that commits at the end of the block and rolls back on any error."""
        with self.connection() as conn, conn.transaction():
            yield conn

    def close(self) -> None:
        with self._lock:
            if self._pool is not None and self._pid == os.getpid():
                self._pool.close()
            self._pool = None


def one(tx: Tx, record: type[Record], sql: str, params: Mapping[str, Any] | None = None) -> Record | None:
    """The first row as a record, or None."""
    with tx.cursor(row_factory=class_row(record)) as cursor:
        return cursor.execute(sql, params).fetchone()


def many(tx: Tx, record: type[Record], sql: str, params: Mapping[str, Any] | None = None) -> list[Record]:
    with tx.cursor(row_factory=class_row(record)) as cursor:
        return cursor.execute(sql, params).fetchall()


def scalar(tx: Tx, sql: str, params: Mapping[str, Any] | None = None) -> Any:
    """The first column of the first row, or None."""
    row = tx.execute(sql, params).fetchone()
    return row[0] if row else None


def now(tx: Tx) -> datetime:
    """The time by PostgreSQL's clock, by which all ages are told: every process has a clock of its own."""
    moment: datetime = scalar(tx, "select now()")
    return moment


def execute(tx: Tx, sql: str, params: Mapping[str, Any] | None = None) -> int:
    """Run a statement; the number of rows it changed."""
    return tx.execute(sql, params).rowcount
