"""Migrates a database to the newest revision with alembic. Each revision is plain SQL. If another role than the gateway's owns
the tables (MIGRATION_DATABASE_URL), the gateway's gets the rights that it needs: it may only add and read audit events (T125).

Several processes may start at once. They poll for an advisory lock: a process that waits in pg_advisory_lock holds a snapshot,
and CREATE INDEX CONCURRENTLY would wait for that.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import InsufficientPrivilege
from psycopg.sql import SQL, Identifier, Literal

from core.errors import NotAllowed, Unavailable, Unprocessable

_LOCK = 0x6761_7465  # any number that no other lock in this database uses
_WAIT = 300  # seconds for another process that migrates
_REQUIRED = 180000  # PostgreSQL 18, for uuidv7() and casefold()


_GRANTS = (
    "grant usage on schema public to {role}",
    "grant select, insert, update, delete on all tables in schema public to {role}",
    "grant usage, select on all sequences in schema public to {role}",
    "revoke all on audit_events, audit_summaries, file_events, alembic_version from {role}",
    "grant select, insert on audit_events, file_events to {role}",
    "grant select on audit_summaries, alembic_version to {role}",
)


def migrate(url: str, *, gateway_url: str | None = None, revision: str = "head") -> None:
    """Run all outstanding revisions, and admit the role of ``gateway_url``; it is created if it does not exist.

    Raises Unavailable if the server is older than 18, or the lock was not free in time, NotAllowed if ``url``'s role can't
    create the other, and Unprocessable if this program has no such ``revision``."""
    # Here, since db/dump.py is part of every process: with SQLAlchemy that is a third of a second and 20 MB.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

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
        try:
            command.upgrade(config, revision)
        except CommandError as error:
            raise Unprocessable(f"This program can't migrate the database: {error}") from error
        gateway = conninfo_to_dict(gateway_url or url)
        if gateway.get("user") not in (None, conn.info.user):
            _admit(conn, str(gateway["user"]), str(gateway.get("password") or ""))


def _admit(conn: psycopg.Connection[Any], role: str, password: str) -> None:
    name = Identifier(role)
    with conn.transaction():
        if conn.execute("select from pg_roles where rolname = %s", [role]).fetchone() is None:
            verifier = conn.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
            try:
                conn.execute(SQL("create role {} login password {}").format(name, Literal(verifier)))
            except InsufficientPrivilege as error:
                raise NotAllowed(f"{conn.info.user} can't create roles: create {role}, with its password.") from error
        for grant in _GRANTS:
            conn.execute(SQL(grant).format(role=name))
        partitions = conn.execute("select relid::regclass::text from pg_partition_tree('audit_events') where level > 0")
        for (partition,) in partitions.fetchall():
            conn.execute(SQL("revoke all on {} from {}").format(Identifier(partition), name))
