"""Connections of the pool that died while nobody used them."""

from __future__ import annotations

import importlib
import pkgutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psycopg
import pytest
from psycopg._queries import MAX_CACHED_STATEMENT_LENGTH

import db as database
from core.errors import Unavailable
from db import Database, scalar
from db.errors import Rollback
from tests.fault_proxy import Fault, FaultProxy


def _open(db: Database, count: int) -> list[int]:
    """Open connections and leave them in the pool; their backends' process ids."""
    with ExitStack() as stack:
        return [stack.enter_context(db.connection()).info.backend_pid for _ in range(count)]


def _end(url: str, backends: list[int]) -> None:
    """End sessions as a stopping server does, and return when they are gone."""
    with psycopg.connect(url, autocommit=True) as admin:
        assert admin.execute(
            "select bool_and(pg_terminate_backend(pid, 5000)) from unnest(%s) pid", [backends]
        ).fetchone()


@pytest.mark.parametrize("idle", [0.0, 1000.0], ids=["asked", "looked at"])
def test_T102_dead_connections_are_replaced_before_use(
    idle: float, db: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_IDLE", idle)
    backends = _open(db, 6)
    _end(database_url, backends)

    def ask(number: int) -> int:
        with db.connection() as tx:
            return int(scalar(tx, "select %(n)s::int", {"n": number}))

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(100))) == list(range(100))


def test_T102_a_change_is_made_once_on_a_fresh_connection(db: Database, database_url: str) -> None:
    with db.connection() as tx:
        tx.execute("create table counted (n int)")
    for _ in range(3):
        _end(database_url, _open(db, 2))
        with db.transaction() as tx:
            tx.execute("insert into counted values (1)")
    with db.connection() as tx:
        assert scalar(tx, "select count(*) from counted") == 3


def test_T101_a_statement_whose_connection_dies_is_not_tried_again(db: Database) -> None:
    """It may have been committed."""
    with db.connection() as tx:
        tx.execute("create sequence tries")  # counts also what is rolled back
    with pytest.raises(Unavailable), db.connection() as tx:
        tx.execute("select nextval('tries'), pg_terminate_backend(pg_backend_pid())")
    with db.connection() as tx:
        assert scalar(tx, "select nextval('tries')") == 2


def test_a_busy_connection_is_not_asked_before_use(
    db: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_IDLE", 1000.0)
    with db.connection() as tx:
        host, port = tx.info.host, tx.info.port
    with FaultProxy(host, port) as proxy:
        url = psycopg.conninfo.make_conninfo(database_url, host="127.0.0.1", port=int(proxy.url.rsplit(":", 1)[1]))
        beyond = Database(url)
        with beyond.connection() as tx:
            tx.execute("select 1")
        proxy.arm(Fault("stall", times=1_000_000))
        with beyond.connection():
            pass
        assert proxy.struck == 0
        proxy.heal()
        beyond.close()


def test_a_statement_timeout_ends_with_its_transaction(db: Database) -> None:
    """The next user of the connection gets the usual limits."""
    with db.transaction() as tx:
        usual = tx.answer_timeout
        database.set_timeout(tx, 60)
    with db.connection() as tx:
        assert tx.answer_timeout == usual


def test_a_connection_that_is_left_in_a_transaction_is_rolled_back(db: Database) -> None:
    with db.connection() as tx:
        tx.execute("create table counted (n int)")
        tx.execute("begin")
        tx.execute("insert into counted values (1)")
    with db.connection() as tx:
        assert scalar(tx, "select count(*) from counted") == 0


def test_T102_a_wish_to_roll_back_on_a_lost_connection_is_no_error(db: Database, database_url: str) -> None:
    with db.transaction() as tx:
        tx.execute("insert into owner_usage (owner_id) values ('alice')")
        _end(database_url, [tx.info.backend_pid])
        raise Rollback
    with db.connection() as tx:
        assert scalar(tx, "select count(*) from owner_usage") == 0


def test_statements_are_short_enough_for_psycopg_to_remember_how_it_parsed_them() -> None:
    found = {}
    for module in pkgutil.walk_packages(database.__path__, "db."):
        if not module.name.startswith("db.migrations"):
            for name, value in vars(importlib.import_module(module.name)).items():
                if isinstance(value, str) and not name.startswith("__"):
                    found[f"{module.name}.{name}"] = len(value)
    assert len(found) > 100
    assert {name for name, length in found.items() if length > MAX_CACHED_STATEMENT_LENGTH} == set()
