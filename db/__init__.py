"""PostgreSQL: the connection pool, transactions, and a few functions that run SQL.

Each module holds the SQL of one subject. Its functions take an open ``tx`` and never open one themselves. A service opens it
(``with db.transaction() as tx``) and never keeps it open while bytes move between client and bucket. records.py has the
dataclasses that rows become. Constraints and triggers hold what must hold whatever the code does: names are unique in a
folder, folders are trees, counters equal what they count. ARCHITECTURE.md lists the triggers, migrations/ has the schema.

Lock order. Every transaction locks rows in this order, so that transactions wait for each other but never in a circle:

    folder tree -> name lock (``files.lock_names``) -> content lock -> upload_sessions -> objects -> uploads, reserved_keys
    -> upload_tokens -> files -> owner_usage -> type_counters, folder_counters -> search_index -> search_words -> idempotency_keys

Triggers lock the owner's row in owner_usage before the tables behind it. ``finished`` holds the order inside one statement.
Only the deletion of a folder departs from the order: it waits briefly and starts again (services/library/folders.py).

Read files.py first: ``publish`` makes an upload a file.

- files, file_lists, folders, events           files, pages of files, the folder tree, the history of files
- objects, archive, scans, deferred_deletions  stored bytes, which are archived, scan results, keys to delete later
- scrub                                        which object is read back next, and what was found
- copies                                       copies of stored objects in another bucket
- readings, previews                           what was read from the bytes, and made of that
- uploads, resumable, upload_tokens            uploads in progress, and the quota they reserve
- reserved_keys                                object keys for small uploads
- keys, login_sessions, idempotency            API keys, sessions of browsers, answers to repeated requests
- comparison, janitor_runs, protected_periods  what the janitor compares with the bucket, when it ran, and what it must keep
- counters, stats, quotas, capacity            counters kept by triggers, statistics read from them, quotas, space in the bucket
- rate_limits                                  requests counted in a time
- backup_holds, backup_runs                    backups: what must not be deleted meanwhile, and how they ended
- search/                                      search in names and texts
- dump                                         all rows of one moment as text, and back
- jobs, demo, disk, migrate, errors            the job queue, demonstration rows, a disk check, migrations, SQLSTATEs
- server                                       what PostgreSQL tells about itself
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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
from telemetry import metrics


def _json(text: str | bytes) -> Any:
    """Parse with orjson, which is fast; the standard library reads the numbers beyond a double that orjson refuses."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)


set_json_loads(_json)

Record = TypeVar("Record")

# Seconds that one statement may take (T81); less in a request, where a client waits.
STATEMENT, STATEMENT_IN_REQUEST = 30.0, 7.0
CHECK_OUT = 5.0  # seconds to wait for a free connection
_CHECK = 3.0  # seconds in which a connection must answer that has been idle for _IDLE seconds
_IDLE = 1.0
# The server cancels a statement that takes too long. The client waits _GRACE longer, in case the server hangs. Pages are read
# from memory or a solid-state disk: with the default random_page_cost, a page of 100 files would read all of ``objects``.
_SESSION = (
    "-c statement_timeout={:.0f}ms -c lock_timeout=10s -c idle_in_transaction_session_timeout=60s -c timezone=UTC"
    " -c random_page_cost=1.1"
)
_GRACE = 1.0  # seconds
# Options of every connection. A peer that vanished is noticed within 20 seconds.
CONNECTION: Mapping[str, Any] = {
    "connect_timeout": 4,
    "tcp_user_timeout": 10_000,  # milliseconds
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
}


class Tx(psycopg.Connection[Any]):
    """A connection that closes itself when the server does not answer within ``answer_timeout``."""

    answer_timeout = _CHECK  # seconds
    breaker: CircuitBreaker  # of its Database

    def __init__(self, *arguments: Any, **keywords: Any):
        super().__init__(*arguments, **keywords)
        self._answered = monotonic()  # when the server last answered

    def check(self) -> None:
        """Raise OperationalError if the connection is dead, before anything is sent on it.

        A server that closed it (a restart) is noticed without a round trip, and one that vanished when the connection was
        idle before. A busy connection costs only two system calls."""
        if monotonic() - self._answered > _IDLE:
            self.answer_timeout = _CHECK
            self.execute("")
        else:
            self.pgconn.consume_input()  # reads the server's last words,
            self.pgconn.consume_input()  # and fails at the end of the connection

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait for the server, as psycopg does, but no longer than ``answer_timeout``."""
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
                self._answered = self.breaker.answered()
            raise
        self._answered = self.breaker.answered()
        return result


class Database:
    """A connection pool for each process. It opens on first use, so that no connection is inherited by a fork."""

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
        pool = self._pool
        if pool is not None and self._pid == os.getpid():
            return pool
        with self._lock:
            if self._pool is None or self._pid != os.getpid():
                kwargs = {**CONNECTION, "autocommit": True, "options": _SESSION.format(self._statement * 1000)}
                kwargs["application_name"] = f"gateway {os.getpid()} on {socket.gethostname()}"[:63]
                if self._cursor_factory is not None:
                    kwargs["cursor_factory"] = self._cursor_factory
                self._pool = ConnectionPool(
                    self.url,
                    min_size=1,
                    max_size=self._max,
                    timeout=CHECK_OUT,
                    reconnect_timeout=CHECK_OUT,  # after that the next request tries
                    max_lifetime=1800,
                    max_idle=60,  # each holds 5 MiB in the server
                    connection_class=type("Tx", (Tx,), {"breaker": self._breaker}),
                    kwargs=kwargs,
                    open=True,
                    name="gateway",
                )
                self._pid = os.getpid()
            return self._pool

    @contextmanager
    def connection(self) -> Iterator[Tx]:
        """A connection in which each statement commits by itself. Raises Unavailable when the server can't be reached."""
        try:
            began = self._breaker.before_call()
            pool = self._open()
            conn = self._check_out(pool)
            try:
                yield conn
            finally:
                pool.putconn(conn)
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, PoolClosed, CallRejected) as error:
            if isinstance(error, PoolTimeout):
                self._breaker.no_answer(began)
            raise Unavailable("The database can't be reached or is too busy; try again.") from error

    def _check_out(self, pool: ConnectionPool[Tx]) -> Tx:
        """A connection that is alive. Dead ones are replaced: nothing was sent on them yet."""
        began = monotonic()
        while True:
            try:
                conn = pool.getconn(began + pool.timeout - monotonic())
            finally:
                metrics().database_wait(monotonic() - began)
            try:
                conn.check()
            except BaseException as error:
                pool.putconn(conn)
                if not isinstance(error, psycopg.Error):
                    raise
            else:
                conn.answer_timeout = self._statement + _GRACE
                return conn

    @contextmanager
    def transaction(self, *, undo: bool = False) -> Iterator[Tx]:
        """A transaction that commits at the end of the block and rolls back on any error. Raises Unavailable. With ``undo`` it
        rolls back in any case, to see what its statements would do."""
        # psycopg lets Rollback through if the connection has been lost; then the server rolls back.
        with self.connection() as conn, suppress(psycopg.Rollback), conn.transaction(force_rollback=undo):
            yield conn

    def close(self) -> None:
        """Close this process's connections."""
        with self._lock:
            if self._pool is not None and self._pid == os.getpid():
                self._pool.close()
            self._pool = None


def finished(cte: str) -> str:
    """A condition that is always true, but makes a step of a statement wait until the CTE has run, and has its row locks.

    PostgreSQL runs the data-modifying CTEs of one statement in no defined order. A step that reads another's RETURNING rows
    comes after it, so counting them fixes the order in which a statement locks rows."""
    return f"(select count(*) from {cte}) >= 0"


_LOCK = "hashtextextended('job:' || %(work)s, 0)"


def serialize(tx: Tx, work: str) -> None:
    """Do some work in one transaction at a time: wait until the others that do it have ended."""
    execute(tx, f"select pg_advisory_xact_lock({_LOCK})", {"work": work})


def try_claim(tx: Tx, work: str) -> bool:
    """Claim some work until the transaction ends. False if another one has claimed it."""
    return scalar(tx, f"select pg_try_advisory_xact_lock({_LOCK})", {"work": work}) is True


def set_timeout(tx: Tx, seconds: float) -> None:
    """Let each statement of this transaction run for ``seconds``."""
    execute(tx, "select set_config('statement_timeout', %(limit)s, true)", {"limit": f"{round(seconds)}s"})
    tx.answer_timeout = seconds + _GRACE


def _rows_of(record: type[Record]) -> Any:
    """psycopg's row factory for a dataclass, by the names of the columns, or for a named tuple, by their order."""
    make = getattr(record, "_make", None)
    return class_row(record) if make is None else lambda cursor: make


def one(tx: Tx, record: type[Record], sql: str, params: Mapping[str, Any] | None = None) -> Record | None:
    """The first row as a record, or None when there is none."""
    with tx.cursor(row_factory=_rows_of(record)) as cursor:
        row: Record | None = cursor.execute(sql, params).fetchone()
        return row


def many(tx: Tx, record: type[Record], sql: str, params: Mapping[str, Any] | None = None) -> list[Record]:
    """All rows as records."""
    with tx.cursor(row_factory=_rows_of(record)) as cursor:
        rows: list[Record] = cursor.execute(sql, params).fetchall()
        return rows


def scalar(tx: Tx, sql: str, params: Mapping[str, Any] | None = None) -> Any:
    """The first column of the first row, or None when there is none."""
    row = tx.execute(sql, params).fetchone()
    return row[0] if row else None


def now(tx: Tx) -> datetime:
    """PostgreSQL's time. All ages are measured by it, since the clocks of processes differ."""
    moment: datetime = scalar(tx, "select now()")
    return moment


def column(tx: Tx, sql: str, params: Mapping[str, Any] | None = None) -> list[Any]:
    """The first column of all rows."""
    return [row[0] for row in tx.execute(sql, params)]


def execute(tx: Tx, sql: str, params: Mapping[str, Any] | None = None) -> int:
    """Run a statement and return the number of rows it changed."""
    return tx.execute(sql, params).rowcount
