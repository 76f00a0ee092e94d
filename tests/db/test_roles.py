"""The audit log under two roles: one owns the tables, the other is the gateway's (T125)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

import commands
from app import create_app, wire
from core.errors import NotAllowed
from db import Database
from db.migrate import migrate
from embedded.postgres import Postgres
from services.upkeep.doctor import audit as doctor
from settings import Settings
from tests.client import GatewayClient
from tests.conftest import _admin
from tests.rows import sql

ATTEMPTS = [
    "update audit_events set actor = 'nobody'",
    "delete from audit_events",
    "truncate audit_events",
    "update {partition} set actor = 'nobody'",
    "delete from {partition}",
    "truncate {partition}",
    "delete from file_events",
]
OF_OWNERS = [
    "select * from {partition}",
    "alter table audit_events disable trigger all",
    "alter table {partition} disable trigger all",
    "alter table audit_events drop column actor",
    "drop trigger audit_events_unchanged on audit_events",
    "drop table audit_events",
    "drop table {partition}",
    "alter table audit_events detach partition {partition}",
    "create or replace function refuse_change() returns trigger language plpgsql as 'begin return null; end'",
    "set session_replication_role = replica",
    "update audit_summaries set events = 0",
    "insert into audit_summaries values (now(), 'alice', 'trashed', 'ok', 1)",
    "update alembic_version set version_num = '0001'",
    "create table pretended (id integer)",
]


@pytest.fixture
def gateway_url(postgres_server: Postgres, database_url: str) -> Iterator[str]:
    """The database's address for a role that ``migrate`` creates."""
    parts = urlsplit(database_url)
    url = urlunsplit(parts._replace(netloc=f"gateway:secret@{parts.hostname}:{parts.port}"))
    migrate(database_url, gateway_url=url)
    yield url
    _admin(postgres_server, "drop database if exists gateway_test with (force)", "drop role gateway")


@pytest.fixture
def client(settings: Settings, gateway_url: str, bucket: Any) -> Iterator[GatewayClient]:
    """A client of a gateway that uses this role."""
    limited = settings.model_copy(update={"database_url": type(settings.database_url)(gateway_url)})
    services = wire(limited)
    yield GatewayClient(create_app(limited, services), services.keys.create_key("alice")[1])
    services.db.close()


def _refused(url: str, statements: list[str]) -> None:
    with psycopg.connect(url, autocommit=True) as tx:
        [(partition,)] = tx.execute("select tableoid::regclass::text from audit_events limit 1").fetchall()
        for statement in statements:
            with pytest.raises(InsufficientPrivilege):
                tx.execute(statement.format(partition=partition))


def test_T125_the_gateways_role_can_add_and_read_events_only(
    client: GatewayClient, gateway_url: str, database_url: str
) -> None:
    file = client.add()
    assert client.get(f"/api/files/{file['id']}").json["access_history"][0]["action"] == "uploaded"
    assert client.get("/api/search?query=note").status == 200
    assert client.get(f"/api/files/{file['id']}/preview?type=text").status == 200
    assert client.delete(f"/api/files/{file['id']}?permanent=true").status == 200
    _refused(gateway_url, ATTEMPTS + OF_OWNERS)
    with psycopg.connect(gateway_url, autocommit=True) as tx:
        tx.execute("select add_audit_partitions()")
        tx.execute("insert into file_events (file_id, owner_id, action, actor) values (uuidv7(), 'a', 'moved', 'a')")
        found = tx.execute("select action from audit_events where owner_id = 'alice' order by id").fetchall()
    assert [row[0] for row in found] == ["key_created", "uploaded", "purged"]
    migrate(database_url, gateway_url=gateway_url)  # again: the role exists
    _refused(gateway_url, ATTEMPTS)


def test_T125_an_owner_who_can_not_create_roles_is_told_so(postgres_server: Postgres, database_url: str) -> None:
    parts = urlsplit(database_url)
    plain = urlunsplit(parts._replace(netloc=f"plain:secret@{parts.hostname}:{parts.port}"))
    _admin(postgres_server, f"create role plain login password 'secret' in role {parts.username}")
    try:
        with pytest.raises(NotAllowed, match="create nobody"):
            migrate(plain, gateway_url="postgresql://nobody:secret@postgres/gw")
    finally:
        _admin(postgres_server, "drop role plain")


def test_T125_with_one_role_a_trigger_refuses_changes(client: GatewayClient, database_url: str) -> None:
    client.add()
    _refused(database_url, ATTEMPTS)


def test_T125_the_doctor_tells_one_role_from_two(db: Database, gateway_url: str) -> None:
    with_two = Database(gateway_url)
    try:
        assert [check.ok for check in doctor.examine(with_two)] == [True]
    finally:
        with_two.close()
    [found] = doctor.examine(db)
    assert found.ok is None and "MIGRATION_DATABASE_URL" in found.consequence


@pytest.fixture
def old_month(db: Database, database_url: str) -> str:
    """A partition of two years ago, with four events; its name."""
    with db.connection() as tx:
        [(name,)] = tx.execute("select 'audit_events_' || to_char(now() - interval '24 months', 'YYYY_MM')").fetchall()
        tx.execute(f"create table {name} (like audit_events including defaults)")
        for owner, actions in (("alice", ["moved", "moved", "trashed"]), (None, ["janitor_run"])):
            for action in actions:
                tx.execute(
                    f"insert into {name} (id, actor, owner_id, action, at)"
                    " values (1, 'x', %s, %s, date_trunc('month', now()) - interval '23 months 5 days')",
                    [owner, action],
                )
        tx.execute(
            "drop table audit_events_default"
        )  # beside the first partition, which has no lower end, there is no room
        [(first,)] = tx.execute(
            "select inhrelid::regclass::text from pg_inherits where inhparent = 'audit_events'::regclass"
            " and pg_get_expr((select relpartbound from pg_class where oid = inhrelid), inhrelid) like '%%MINVALUE%%'"
        ).fetchall()
        tx.execute(f"drop table {first}")
        tx.execute(
            f"do $$ begin execute format('alter table audit_events attach partition {name} for values from (minvalue) to (%L)',"
            " date_trunc('month', now()) - interval '23 months'); end $$"
        )
    return str(name)


def _run(settings: Settings, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[Any]:
    assert commands.run(["audit", *arguments, "--json"], settings) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_T145_prune_sums_and_drops_old_months(
    settings: Settings, db: Database, old_month: str, capsys: pytest.CaptureFixture[str]
) -> None:
    count = "select count(*) from audit_events"
    for kept in (0, 24, 30):
        assert _run(settings.model_copy(update={"audit_months": kept}), capsys, "prune") == []
    assert _run(settings, capsys, "prune", "--dry-run") == [{"partition": old_month, "dry_run": True}]
    assert sql(db, count) == [(4,)]
    assert _run(settings, capsys, "prune") == [{"partition": old_month, "dry_run": False}]
    assert sql(db, count) == [(0,)]
    summed = sql(db, "select owner_id, action, outcome, events from audit_summaries order by 1, 2")
    assert summed == [("", "janitor_run", "ok", 1), ("alice", "moved", "ok", 2), ("alice", "trashed", "ok", 1)]
    assert _run(settings, capsys, "prune") == []


def test_T125_the_gateways_role_is_told_that_it_can_not_prune(
    settings: Settings, gateway_url: str, old_month: str, capsys: pytest.CaptureFixture[str]
) -> None:
    limited = settings.model_copy(update={"database_url": type(settings.database_url)(gateway_url)})
    assert commands.run(["audit", "prune"], limited) == 1
    assert "MIGRATION_DATABASE_URL" in capsys.readouterr().err


def test_export_prints_events_as_json_lines(
    settings: Settings, db: Database, client: GatewayClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client.add()
    sql(
        db,
        "insert into audit_events (action, actor, at) select 'moved', n::text, now() - n * interval '1 hour'"
        " from generate_series(1, 2500) n",
    )
    found = _run(settings, capsys, "export", "--since", "2020-01-01")
    assert [event["action"] for event in found[:2]] == ["key_created", "uploaded"]
    assert (found[1]["credential"], found[1]["address"], found[1]["outcome"]) == ("key", "127.0.0.1", "ok")
    assert len(found) == 2502 and len({event["id"] for event in found}) == 2502
    assert _run(settings, capsys, "export", "--since", "2020-01-01", "--until", "2020-02-01T00:00:00Z") == []
    assert commands.run(["audit", "export", "--since", "yesterday"], settings) == 2
