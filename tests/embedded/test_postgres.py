"""The embedded PostgreSQL alone: a killed parent, a stale lock file, an unusual folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from embedded import postgres
from embedded.child import EmbeddedError, command_line, free_port
from tests.paths import ROOT


def test_names_sort_by_code_point_and_fold_case(tmp_path: Path) -> None:
    server = postgres.start(tmp_path / "data", fsync=False)
    try:
        with psycopg.connect(server.url) as connection:
            row = connection.execute(
                "select datlocprovider, datlocale, pg_encoding_to_char(encoding),"
                " casefold('ÄẞA' collate pg_unicode_fast) from pg_database where datname = current_database()"
            ).fetchone()
            assert row == ("b", "C.UTF-8", "UTF8", "ässa")
            connection.execute("create extension pg_trgm")
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(server.url.replace("gw:", "gw:wrong"))
    finally:
        server.stop()


def test_a_long_path_with_spaces_works(tmp_path: Path) -> None:
    server = postgres.start(tmp_path / ("a long folder name " * 8).strip() / "dätä", fsync=False)
    server.stop()


def test_it_ends_with_its_killed_parent_and_restarts_with_its_data(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys, time; from embedded import postgres;"
        "server = postgres.start(pathlib.Path(sys.argv[1]));"
        "print(server.child.process.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "data")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        mark = command_line(pid)
        assert "postgres" in mark
        parent.kill()
    server = postgres.start(tmp_path / "data", fsync=False)
    try:
        assert command_line(pid) != mark
        psycopg.connect(server.url).close()
    finally:
        server.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the start fails")
def test_a_busy_session_of_a_killed_server_is_ended(tmp_path: Path) -> None:
    first = postgres.start(tmp_path / "data", fsync=False)
    connection = psycopg.connect(first.url, autocommit=True)
    session, deadline = connection.info.backend_pid, time.monotonic() + 30
    connection.pgconn.send_query(b"do $$ begin loop end loop; end $$")
    while not command_line(session).rstrip().endswith("DO"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first.child.kill()
    assert command_line(session)
    connection.close()
    second = postgres.start(tmp_path / "data", fsync=False)
    try:
        assert not command_line(session)
        psycopg.connect(second.url).close()
    finally:
        second.stop()


@pytest.mark.parametrize(
    "pid", ["1", str(os.getpid()), "999999999", "", "rubbish"], ids=["init", "own", "none", "empty", "rubbish"]
)
def test_a_lock_file_with_another_programs_process_id_is_ignored(tmp_path: Path, pid: str) -> None:
    postgres.start(tmp_path / "data", fsync=False).stop()
    cluster = tmp_path / "data" / "cluster"
    (cluster / "postmaster.pid").write_text(f"{pid}\n{cluster}\n{int(time.time())}\n5432\n\n127.0.0.1\n\n")
    server = postgres.start(tmp_path / "data", fsync=False)
    try:
        psycopg.connect(server.url).close()
    finally:
        server.stop()


def test_a_port_in_use_is_replaced(tmp_path: Path) -> None:
    first = postgres.start(tmp_path / "one", fsync=False)
    try:
        (tmp_path / "two").mkdir()
        (tmp_path / "two" / "port.json").write_text(str(first.port))
        second = postgres.start(tmp_path / "two", fsync=False)
        second.stop()
        assert second.port != first.port
    finally:
        first.stop()


def test_a_platform_without_a_wheel_gets_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EmbeddedError, match="set DATABASE_URL"):
        postgres.start(tmp_path)


def test_free_ports_and_their_grpc_ports_are_below_the_ephemeral_range() -> None:
    ports = [free_port(also_above=10_000) for _ in range(20)]
    assert all(port + 10_000 < 32_768 for port in ports)
