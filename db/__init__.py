"""PostgreSQL: the pool, transactions, and a few small verbs for running SQL.

Every other module here holds one aggregate: its record, then its SQL. Their functions take an open ``tx`` and never
open one themselves; a service opens it (``with db.transaction() as tx``) and never holds it while bytes move.

Rows are locked in one order everywhere, so that transactions can wait for each other but never in a circle:
folder tree -> name lock (``files.lock_names``) -> upload_sessions -> objects -> uploads -> upload_tokens -> files ->
owner_usage -> type_counters, folder_counters -> file_texts, file_words -> idempotency_keys. Triggers lock the owner's row in
owner_usage before the tables behind it (migrations 0009 and 0010).
Only the deletion of a folder departs from it: it waits but briefly and begins anew (services/library/folders.py).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from time import monotonic
from typing import Any, TypeVar

import orjson
import psycopg
from psycopg.abc import RV, PQGen
from psycopg.errors import _WaitTimeout
from psycopg.rows import class_row
from psycopg.types.json import set_json_loads
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from core.breaker import CallRejected, CircuitBreaker
from core.errors import Unavailable


def _json(text: str | bytes) -> Any:
    """By orjson, since pages of files are full of JSON; what it refuses (numbers beyond any double) was kept once."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)


set_json_loads(_json)

Record = TypeVar("Record")

# Seconds. A statement that runs longer is a defect or an attack (THREATS T81); in a request somebody waits for it.
STATEMENT, STATEMENT_IN_REQUEST = 30.0, 7.0
CHECK_OUT = 5.0  # seconds until a connection must be there
_CHECK = 3.0  # seconds for a connection that was idle to answer
# The server ends a statement in its time, and also one that waits so long for a lock. The client waits a little longer,
# since a server that hangs ends nothing.
_SESSION = (
    "-c statement_timeout={:.0f}ms -c lock_timeout=10s -c idle_in_transaction_session_timeout=60s -c timezone=UTC"
)
_GRACE = 1.0  # seconds
# What each connection is made with: a peer that vanished without a word is noticed within 20 seconds.
CONNECTION: Mapping[str, Any] = {
    "connect_timeout": 4,
    "tcp_user_timeout": 10_000,  # milliseconds
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
}


class Tx(psycopg.Connection[Any]):
    """A connection that gives up, and is broken then, where the server is silent for longer than ``answer_timeout``."""

    answer_timeout = _CHECK  # seconds
    breaker: CircuitBreaker  # of its Database

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        began = monotonic()
        try:
            result = super().wait(gen, interval, self.answer_timeout if timeout is None else timeout)
        except _WaitTimeout:
            if timeout is None:
                self.close()
                self.breaker.no_answer(began)
            raise
        except psycopg.Error as error:
            if error.sqlstate is not None:
                self.breaker.answered()
            raise
        self.breaker.answered()
        return result


class Database:
    """A connection pool that opens on first use, so that it is never carried over a fork (one pool per process)."""

    def __init__(
        self,
        url: str,
        *,
        max_connections: int = 16,
        cursor_factory: type[psycopg.Cursor[Any]] | None = None,
        statement: float = STATEMENT,
    ):
        self.url = url
        self._max = max_connections
        self._cursor_factory = cursor_factory
        self._statement = statement
        self._breaker = CircuitBreaker()
        self._lock = threading.Lock()
        self._pool: ConnectionPool[Tx] | None = None
        self._pid = 0

    def _open(self) -> ConnectionPool[Tx]:
        with self._lock:
            if self._pool is None or self._pid != os.getpid():
                kwargs = {**CONNECTION, "autocommit": True, "options": _SESSION.format(self._statement * 1000)}
                if self._cursor_factory is not None:
                    kwargs["cursor_factory"] = self._cursor_factory
                self._pool = ConnectionPool(
                    self.url,
                    min_size=1,
                    max_size=self._max,
                    timeout=CHECK_OUT,
                    reconnect_timeout=CHECK_OUT,  # then the next request tries
                    max_lifetime=1800,
                    connection_class=type("Tx", (Tx,), {"breaker": self._breaker}),
                    kwargs=kwargs,
                    open=True,
                    check=self._check,
                    name="gateway",
                )
                self._pid = os.getpid()
            return self._pool

    def _check(self, conn: Tx) -> None:
        conn.answer_timeout = _CHECK
        ConnectionPool.check_connection(conn)
        conn.answer_timeout = self._statement + _GRACE

    @contextmanager
    def connection(self) -> Iterator[Tx]:
        """A connection outside a transaction: each statement commits by itself. Loss of the server is Unavailable."""
        try:
            began = self._breaker.before_call()
            with self._open().connection() as conn:
                yield conn
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, PoolClosed, CallRejected) as error:
            if isinstance(error, PoolTimeout):
                self._breaker.no_answer(began)
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


def finished(cte: str) -> str:
    """A condition that is always true, but makes a step of a statement wait until the CTE has run, and has its row locks.

    PostgreSQL runs the data-modifying CTEs of one statement in no defined order. A step that reads another's RETURNING rows
    comes after it, so counting them fixes the order in which a statement locks rows."""
    return f"(select count(*) from {cte}) >= 0"


def set_timeout(tx: Tx, seconds: float) -> None:
    """Let each statement of this transaction run for ``seconds``."""
    execute(tx, "select set_config('statement_timeout', %(limit)s, true)", {"limit": f"{round(seconds)}s"})
    tx.answer_timeout = seconds + _GRACE


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
