"""Migrates a database to the newest revision with alembic. Each revision is plain SQL.

Several processes may start at once. They poll for an advisory lock: a process that waits in pg_advisory_lock holds a snapshot,
and CREATE INDEX CONCURRENTLY would wait for that.
"""

from __future__ import annotations

import time
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config

from core.errors import Unavailable

_LOCK = 0x6761_7465  # any number that no other lock in this database uses
_WAIT = 300  # seconds for another process that migrates
_REQUIRED = 180000  # PostgreSQL 18, for uuidv7() and casefold()


def migrate(url: str) -> None:
    """Run all outstanding revisions. Raises Unavailable if the server is older than 18, or the lock was not free in time."""
    with psycopg.connect(url, autocommit=True, connect_timeout=10) as conn:
        if conn.info.server_version < _REQUIRED:
            raise Unavailable(f"PostgreSQL 18 or newer is needed; this server is {conn.info.server_version // 10000}.")
        deadline = time.monotonic() + _WAIT
        while True:
            row = conn.execute("select pg_try_advisory_lock(%s)", [_LOCK]).fetchone()
            if row and row[0]:
                break
            if time.monotonic() > deadline:
                raise Unavailable("Another process has been migrating the database for too long.")
            time.sleep(0.2)
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.attributes["url"] = url
        command.upgrade(config, "head")
