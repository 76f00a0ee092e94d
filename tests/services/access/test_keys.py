"""Keys are remembered for a moment, and nobody accepts a revoked one after its revocation was answered (T63)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from app import wire
from core.errors import NotAuthenticated, NotFound
from db import Database, keys
from services import Services
from services.access.keys import CACHED, Keys
from settings import Settings
from tests.client import GatewayClient
from tests.live import Live
from tests.paths import ROOT
from tests.rows import sql
from tests.services.uploads.test_intake import counted

GIVEN = "ADMIN_API_KEY of the environment"


@pytest.fixture
def other_process(settings: Settings) -> Iterator[Keys]:
    """What another process has: a cache and connections of its own."""
    wired = wire(settings)
    yield wired.keys
    wired.db.close()


def refused(keys: Keys, key: str) -> bool:
    try:
        keys.authenticate(key)
    except NotAuthenticated:
        return True
    return False


def test_a_key_is_read_once_in_a_moment(services: Services, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("services.access.keys.monotonic", lambda: now)
    record, key = services.keys.create_key("alice", role="admin")
    first = services.keys.authenticate(key)
    assert (first.owner_id, first.is_admin, first.key_id) == ("alice", True, record.id)
    with db.connection() as tx:
        tx.execute("update api_keys set revoked_at = now()")
    again = services.keys.authenticate(key)
    assert again is first
    now += CACHED
    assert refused(services.keys, key)


def test_T63_an_expired_key_is_refused_at_once(
    services: Services, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the database's clock, however short ago the key was read."""
    now = 0.0
    monkeypatch.setattr("services.access.keys.monotonic", lambda: now)
    _, key = services.keys.create_key("alice")
    sql(db, "update api_keys set expires_at = now() + interval '0.45 s'")
    services.keys.authenticate(key)
    sql(db, "update api_keys set expires_at = now()")  # instead of waiting
    now += 0.45
    assert now < CACHED and refused(services.keys, key)


def test_T63_the_last_use_is_written_once_a_minute(
    services: Services, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("services.access.keys.monotonic", lambda: now)
    _, key = services.keys.create_key("alice")
    numbers = []
    with counted(services) as log:
        for minutes in (None, "0", "0.9", "1.1"):
            if minutes is not None:
                sql(db, "update api_keys set last_used_at = now() - %s * interval '1 minute'", minutes)
            log.statements.clear()
            services.keys.authenticate(key)
            services.keys.authenticate(key)
            numbers.append(len(log.statements))
            now += CACHED
    assert numbers == [2, 1, 1, 2]
    assert sql(db, "select now() - last_used_at < interval '1 minute' from api_keys") == [(True,)]


def test_T63_requests_do_not_wait_for_a_key_that_another_one_writes(services: Services, db: Database) -> None:
    _, key = services.keys.create_key("alice")
    with db.transaction() as tx:
        tx.execute("select from api_keys for update")
        assert services.keys.authenticate(key).owner_id == "alice"
    assert sql(db, "select last_used_at from api_keys") == [(None,)]


def test_T63_an_unknown_key_is_not_remembered(services: Services) -> None:
    assert refused(services.keys, "gw_later")
    services.keys.create_key("alice", key="gw_later")
    assert services.keys.authenticate("gw_later").owner_id == "alice"


@pytest.mark.parametrize("run", range(3))
def test_T63_a_revoked_key_is_refused_everywhere(run: int, services: Services, other_process: Keys) -> None:
    """While other threads keep using it, in this process and another."""
    record, key = services.keys.create_key("alice")
    answered, accepted_after = threading.Event(), list[str]()

    def use(keys: Keys) -> None:
        with suppress(NotAuthenticated):
            while True:
                late = answered.is_set()
                keys.authenticate(key)
                if late:
                    accepted_after.append(key)
                    return

    users = [threading.Thread(target=use, args=(keys,)) for keys in (services.keys, other_process) * 2]
    for user in users:
        user.start()
    time.sleep(0.1)
    services.keys.revoke_key(record.id)
    answered.set()
    for user in users:
        user.join()
    assert accepted_after == []


def test_T63_a_repeated_revocation_waits_too(services: Services, other_process: Keys) -> None:
    """The answer to the first may have been lost."""
    record, key = services.keys.create_key("alice")
    other_process.authenticate(key)
    with services.db.connection() as tx:
        assert keys.revoke(tx, record.id)
    with pytest.raises(NotFound):
        services.keys.revoke_key(record.id)
    assert refused(other_process, key)


def test_T63_a_revoked_admin_api_key_stays_revoked_at_the_next_deployments(services: Services, db: Database) -> None:
    services.keys.ensure_admin_key(GIVEN)
    admin = services.keys.authenticate(GIVEN)
    assert admin.key_id is not None
    services.keys.revoke_key(admin.key_id)
    sql(db, "update api_keys set revoked_at = now() - interval '1 year' where id = %s", admin.key_id)
    services.janitor.run(full=False)
    services.keys.ensure_admin_key(GIVEN)
    assert refused(services.keys, GIVEN)


def test_T63_a_process_that_was_suspended_refuses_it_too(
    settings: Settings, services: Services, bucket: object, tmp_path: Path
) -> None:
    """Revoked from the command line, while all processes of the server are stopped, so that no message reaches them."""
    live = Live(settings, tmp_path / "log")
    live.start()
    try:
        record, key = services.keys.create_key("alice")
        for _ in range(20):  # both processes
            assert GatewayClient(live.address, key).get("/api/files").status == 200
        assert live.process is not None
        os.killpg(live.process.pid, signal.SIGSTOP)
        environment = {**live.environment, "ADMIN_API_KEY": ""}
        subprocess.run(
            [sys.executable, "app.py", "keys", "revoke", str(record.id)], cwd=ROOT, env=environment, check=True
        )
        os.killpg(live.process.pid, signal.SIGCONT)
        statuses = {GatewayClient(live.address, key).get("/api/files").status for _ in range(20)}
        assert statuses == {401}
    finally:
        live.kill()


def test_T63_a_lost_connection_to_the_database_lets_nobody_in(services: Services, db: Database) -> None:
    record, key = services.keys.create_key("alice")
    services.keys.authenticate(key)
    with db.connection() as tx:
        tx.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = current_database()"
            " and pid <> pg_backend_pid()"
        )
    Keys(db, services.keys._cursors).revoke_key(record.id)
    assert refused(services.keys, key)
