"""A database that loses answers: the n-th commit is done by the server, or is not, and the connection breaks before the client
hears which. A statement outside a transaction commits by itself."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from unittest import mock

import psycopg
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool

import app
from core.errors import Unavailable
from db import Database, Tx
from services import Services
from settings import Settings

Done = Literal["at once", "never", "later"]
_CHANGES = re.compile(r"\b(insert into|update|delete from)\b", re.IGNORECASE)


class Line:
    """The way to the database. It loses the answer to the ``lose``-th commit; ``done``: when the server does it."""

    def __init__(self) -> None:
        self.lose = self.passed = 0
        self.done: Done = "at once"

    def survives(self, lose: int, done: Done, action: Callable[[], Any]) -> bool:
        """Whether the action came to its end before that many commits."""
        self.lose, self.passed, self.done = lose, 0, done
        try:
            action()
        except Unavailable:  # what a client is told
            assert self.passed >= lose
        finally:
            self.lose = 0
        return self.passed < lose

    def before_commit(self, connection: psycopg.Connection[Any]) -> bool:
        """Whether the answer is to be lost."""
        self.passed += 1
        mine = self.passed == self.lose
        if mine and self.done == "later":
            self.commits_later(connection)
        if mine and self.done != "at once":
            self.break_(connection)
        return mine

    @staticmethod
    def commits_later(connection: psycopg.Connection[Any]) -> None:
        """The server gets this COMMIT once somebody waits for it, when the client has long been told that the line is dead."""
        url, on_its_way = connection.info.dsn + f" password={connection.info.password}", connection.pgconn
        connection.pgconn = psycopg.pq.PGconn.connect(b"host=/nowhere")

        def arrive() -> None:
            with psycopg.connect(url, autocommit=True) as observer:
                for _ in range(500):
                    if observer.execute("select from pg_locks where not granted").fetchall():
                        break
                    time.sleep(0.02)
            on_its_way.exec_(b"COMMIT")
            on_its_way.finish()

        threading.Thread(target=arrive).start()

    def break_(self, connection: psycopg.Connection[Any]) -> None:
        connection.close()
        raise psycopg.OperationalError("the connection is lost")


class _Connection(Tx):
    line: Line

    def __init__(self, *arguments: Any, **keywords: Any):
        super().__init__(*arguments, **keywords)
        self.cursor_factory = _Cursor

    @contextmanager
    def transaction(self, *arguments: Any, **keywords: Any) -> Iterator[psycopg.Transaction]:
        nested = self.info.transaction_status != TransactionStatus.IDLE
        mine = False
        with super().transaction(*arguments, **keywords) as transaction:
            yield transaction
            mine = not nested and self.line.before_commit(self)
        if mine:
            self.line.break_(self)


class _Cursor(psycopg.Cursor[Any]):
    def execute(self, query: Any, *arguments: Any, **keywords: Any) -> Any:
        connection: Any = self.connection
        alone = connection.info.transaction_status == TransactionStatus.IDLE and _CHANGES.search(str(query))
        mine = bool(alone) and connection.line.done != "later" and connection.line.before_commit(connection)
        result = super().execute(query, *arguments, **keywords)
        if mine:
            connection.line.break_(connection)
        return result


def wire(settings: Settings) -> tuple[Services, Line]:
    """A second gateway on the same bucket and database, behind a line of its own."""
    line = Line()

    class Pool(ConnectionPool[Any]):
        def __init__(self, *arguments: Any, connection_class: type[Tx], **keywords: Any):
            lossy = type("Connection", (_Connection, connection_class), {"line": line})
            super().__init__(*arguments, connection_class=lossy, **keywords)

    class LossyDatabase(Database):
        def _open(self) -> Any:
            with mock.patch("db.ConnectionPool", Pool):
                return super()._open()

    with mock.patch("app.Database", LossyDatabase):
        return app.wire(settings), line
