"""A gateway that loses the answer to its n-th commit, for every n: the connection breaks before it hears whether the server
has committed. A statement outside a transaction commits by itself.

    for lost in lossy.lost_commits("never"):
        with lost:                        # may end with Unavailable
            lossy.services.files.purge(...)
        ...                               # what the client, the sweep or the janitor makes of it
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from unittest import mock

import psycopg
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool

from app import wire
from core.errors import Unavailable
from db import Database, Tx
from settings import Settings, database_url

Done = Literal["at once", "never", "later"]  # when the server commits
_CHANGES = re.compile(r"\b(insert into|update|delete from)\b", re.IGNORECASE)


class LostCommit:
    """The answer to the ``number``-th commit is lost."""

    def __init__(self, number: int, done: Done):
        self.number = number
        self.done = done
        self.commits = 0
        self.over = False

    def __repr__(self) -> str:
        return f"answer to commit {self.number} lost, which is done {self.done}"

    @property
    def lost(self) -> bool:
        return self.commits >= self.number

    def __enter__(self) -> LostCommit:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self.over = True
        return self.lost and kind is Unavailable

    def before_commit(self, connection: psycopg.Connection[Any]) -> bool:
        """Whether the answer is to be lost."""
        if self.over:
            return False
        self.commits += 1
        mine = self.commits == self.number
        if mine and self.done == "later":
            _commit_later(connection)
        if mine and self.done != "at once":
            _break(connection)
        return mine


def _commit_later(connection: psycopg.Connection[Any]) -> None:
    """The server gets this COMMIT once another transaction waits for it, long after the client found its connection dead."""
    url, delayed = connection.info.dsn + f" password={connection.info.password}", connection.pgconn
    connection.pgconn = psycopg.pq.PGconn.connect(b"host=/nowhere")

    def arrive() -> None:
        with psycopg.connect(url, autocommit=True) as observer:
            for _ in range(500):
                if observer.execute("select from pg_locks where not granted").fetchall():
                    break
                time.sleep(0.02)
        delayed.exec_(b"COMMIT")
        delayed.finish()

    threading.Thread(target=arrive).start()


def _break(connection: psycopg.Connection[Any]) -> None:
    connection.close()
    raise psycopg.OperationalError("the connection is lost")


class _Connection(Tx):
    gateway: LossyGateway

    def __init__(self, *arguments: Any, **keywords: Any):
        super().__init__(*arguments, **keywords)
        self.cursor_factory = _Cursor

    @contextmanager
    def transaction(self, *arguments: Any, **keywords: Any) -> Iterator[psycopg.Transaction]:
        nested = self.info.transaction_status != TransactionStatus.IDLE
        mine = False
        with super().transaction(*arguments, **keywords) as transaction:
            yield transaction
            mine = not nested and self.gateway.lost_commit.before_commit(self)
        if mine:
            _break(self)


class _Cursor(psycopg.Cursor[Any]):
    def execute(self, query: Any, *arguments: Any, **keywords: Any) -> Any:
        connection: Any = self.connection
        lost = connection.gateway.lost_commit
        alone = connection.info.transaction_status == TransactionStatus.IDLE and _CHANGES.search(str(query))
        mine = bool(alone) and lost.done != "later" and lost.before_commit(connection)
        result = super().execute(query, *arguments, **keywords)
        if mine:
            _break(connection)
        return result


class LossyGateway:
    """A second gateway on the same bucket and database."""

    def __init__(self, settings: Settings):
        gateway = self

        class Pool(ConnectionPool[Any]):
            def __init__(self, *arguments: Any, connection_class: type[Tx], **keywords: Any):
                lossy = type("Connection", (_Connection, connection_class), {"gateway": gateway})
                super().__init__(*arguments, connection_class=lossy, **keywords)

        class LossyDatabase(Database):
            def _open(self) -> Any:
                with mock.patch("db.ConnectionPool", Pool):
                    return super()._open()

        self.lost_commit = LostCommit(sys.maxsize, "at once")
        self.services = wire(settings, db=LossyDatabase(database_url(settings)))

    def lose(self, number: int, done: Done) -> LostCommit:
        self.lost_commit = LostCommit(number, done)
        return self.lost_commit

    def lost_commits(self, *ends: Done) -> Iterator[LostCommit]:
        """One after another, up to the first that the action does not reach. With several ends, each in turn."""
        for number in range(1, 60):
            for done in ends:
                yield self.lose(number, done)
            if not self.lost_commit.lost:
                assert number > 1, "the action committed nothing"
                return
        raise AssertionError("the action commits without end")
