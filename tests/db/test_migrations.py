"""Migrations of a database that has rows."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from alembic import command
from alembic.config import Config

import db
from embedded.postgres import Postgres
from tests.conftest import _address, _admin

Upgrade = Callable[[str], psycopg.Connection[Any]]


@pytest.fixture
def upgrade(postgres_server: Postgres) -> Upgrade:
    """Migrate a new database to a revision, or continue to a later one, and connect to it."""
    _admin(
        postgres_server,
        "drop database if exists gateway_migrated with (force)",
        "create database gateway_migrated template template0 locale_provider builtin builtin_locale 'C.UTF-8'"
        " lc_ctype 'C.UTF-8' encoding utf8",
    )
    config = Config()
    config.set_main_option("script_location", str(Path(db.__file__).parent / "migrations"))
    config.attributes["url"] = url = _address(postgres_server.admin_url, "gateway_migrated")

    def upgrade(revision: str) -> psycopg.Connection[Any]:
        command.upgrade(config, revision)
        return psycopg.connect(url, autocommit=True)

    return upgrade


def test_T123_T134_migration_0012_clears_folders_of_other_owners(upgrade: Upgrade) -> None:
    with upgrade("0011") as tx:
        tx.execute("insert into folders (owner_id, name) values ('alice', 'hers'), ('bob', 'his')")
        tx.execute(
            "insert into uploads (owner_id, protocol, object_key, original_name, content_type, folder_id, expires_at)"
            " select owner, 'tus', owner || folder, 'a', 'text/plain', folder, now()"
            " from unnest(array['alice', 'bob']) owner, generate_series(1, 2) folder"
        )
    with upgrade("0012") as tx:
        found = tx.execute("select object_key, folder_id, in_folder from uploads order by 1").fetchall()
    assert found == [("alice1", 1, True), ("alice2", None, False), ("bob1", None, False), ("bob2", 2, True)]


def test_migration_0015_keeps_rows_and_counters(upgrade: Upgrade) -> None:
    objects = "insert into objects (object_key, owner_id, size, etag, content_type) values (%s, 'alice', 5, 'e', 'image/jpeg')"
    files = (
        "insert into files (owner_id, original_name, file_path, mime_type, file_type, file_size, status)"
        " values ('alice', %s, %s, 'image/jpeg', 'image', 5, 'ready')"
    )
    states = [(None, None), ("none", None), ("found", None), ("cut", "copy"), ("stuck", None)]
    with upgrade("0014") as tx:
        for number, (state, copy) in enumerate(states):
            tx.execute(objects, [str(number)])
            tx.execute(
                "update objects set place = %s, public_key = %s where object_key = %s", [state, copy, str(number)]
            )
            tx.execute(files, [str(number), str(number)])
    with upgrade("0015") as tx:
        found = tx.execute("select location_state from objects order by object_key").fetchall()
        tx.execute(objects, ["new"])
        tx.execute(files, ["new", "new"])
        tx.execute("update files set is_deleted = true, deleted_at = now() where original_name = '0'")
        tx.execute("delete from files where original_name = '1'")
        counted = tx.execute("select files, bytes from type_counters where not is_deleted").fetchall()
        inside = tx.execute("select files, bytes from folder_counters").fetchall()
    assert [row[0] for row in found] == [None, "none", "present", "removed", "unremovable"]
    assert counted == inside == [(4, 20)]


def test_migration_0016_finds_free_names_by_index_before_the_first_analyze(upgrade: Upgrade) -> None:
    with upgrade("0016") as tx:
        tx.execute("alter table files set (autovacuum_enabled = false)")
        tx.execute(
            "insert into objects (object_key, owner_id, size, etag, content_type) values ('k', 'alice', 5, 'e', 'image/jpeg')"
        )
        tx.execute(
            "insert into files (owner_id, original_name, file_path, mime_type, file_type, file_size, status)"
            " select 'alice', 'x' || coalesce(' (' || nullif(n, 0) || ')', ''), 'k', 'image/jpeg', 'image', 5, 'ready'"
            " from generate_series(0, 1999) n"
        )
        reads = "select idx_tup_fetch from pg_stat_xact_user_tables where relname = 'files'"
        with tx.transaction():
            found = tx.execute("select free_name('alice', null, 'x', '{x,x,x,x}', '')").fetchone()
            fetched = tx.execute(reads).fetchone()
    assert found == ("x (2000)",)
    assert fetched is not None and fetched[0] < 200  # rows; there are 2,000 in the folder


def test_migration_0017_counts_existing_events(upgrade: Upgrade) -> None:
    at = "'2026-01-01T00:00:00Z'::timestamptz + %s * interval '1 day'"
    with upgrade("0015") as tx:
        tx.execute(
            "insert into objects (object_key, owner_id, size, etag, content_type) values ('k', 'alice', 5, 'e', 'a/b')"
        )
        for name in ("used", "anonymous", "unused"):
            tx.execute(
                "insert into files (owner_id, original_name, file_path, mime_type, file_type, file_size, status)"
                " values ('alice', %s, 'k', 'a/b', 'other', 5, 'ready')",
                [name],
            )
        tx.execute(
            f"update files set public_previews = 2, first_public_access = {at}, last_accessed = {at}"
            " where original_name <> 'unused'",
            [3, 4],
        )
        for day, action in ((1, "uploaded"), (2, "downloaded"), (5, "previewed"), (6, "previewed"), (7, "moved")):
            tx.execute(
                "insert into file_events (file_id, owner_id, action, actor, at)"
                f" select id, 'alice', %s, 'alice', {at} from files where original_name = 'used'",
                [action, day],
            )
    with upgrade("0017") as tx:
        found = tx.execute(
            "select original_name, preview_count, extract(day from first_access at time zone 'utc')::int - 1,"
            " extract(day from greatest(last_accessed, last_previewed) at time zone 'utc')::int - 1 from files order by 1"
        ).fetchall()
    assert found == [("anonymous", 2, 3, 4), ("unused", 0, None, None), ("used", 4, 2, 6)]


def test_migration_0018_lists_tags_and_queues_all_files_for_the_index(upgrade: Upgrade) -> None:
    with upgrade("0017") as tx:
        tx.execute(
            "insert into objects (object_key, owner_id, size, etag, content_type) values ('a', 'alice', 5, 'e', 'a/b')"
        )
        tx.execute(
            "insert into files (owner_id, original_name, file_path, mime_type, file_type, file_size, status, tags)"
            " values ('alice', 'plan.txt', 'a', 'a/b', 'other', 5, 'ready', '{x,y,x}'),"
            " ('alice', 'else.txt', 'a', 'a/b', 'other', 5, 'ready', '{}')"
        )
        tx.execute("insert into object_texts (object_key, owner_id, content) values ('a', 'alice', 'some words')")
    with upgrade("0018") as tx:
        found = tx.execute("select f.original_name, t.tag from file_tags t join files f on f.id = t.file_id order by 2")
        assert found.fetchall() == [("plan.txt", "x"), ("plan.txt", "y")]
        assert tx.execute("select count(*) from search_queue").fetchone() == (2,)


_OLD_EVENT = "insert into file_events (file_id, owner_id, action, actor) values (%s, 'alice', %s, 'alice')"


def test_T123_migration_0025_keeps_events_and_what_older_code_adds(upgrade: Upgrade) -> None:
    file_id = uuid4()
    with upgrade("0024") as tx:
        tx.execute(_OLD_EVENT, [file_id, "uploaded"])
        # An interrupted run left these behind.
        tx.execute("alter table file_events add column target text")
        tx.execute("create index file_events_id on file_events (id)")
        tx.execute("alter table file_events add constraint file_events_until check (at < '2100-01-01') not valid")
    with upgrade("0025") as tx:
        tx.execute(_OLD_EVENT, [file_id, "previewed"])
        tx.execute("insert into audit_events (action, actor, file_id) values ('moved', 'bob', %s)", [file_id])
        of_file = "from file_events where file_id = %s order by id desc limit 50"
        found = tx.execute(f"select action, actor, id {of_file}", [file_id]).fetchall()
        assert found == [("moved", "bob", 3), ("previewed", "alice", 2), ("uploaded", "alice", 1)]
        [(partitions,)] = tx.execute("select count(distinct tableoid) from audit_events").fetchall()
        tx.execute("insert into audit_events (action, actor, at) values ('moved', 'bob', now() + interval '9 years')")
        tx.execute("select add_audit_partitions('3 months')")
        months = "select count(*) from pg_inherits where inhparent = 'audit_events'::regclass"
        assert partitions == 1 and (tx.execute(months).fetchone() or [0])[0] >= 4


def test_T123_migration_0025_runs_beside_reads_and_writes(upgrade: Upgrade) -> None:
    with upgrade("0024") as older, ThreadPoolExecutor(1) as pool:
        older.execute(
            "insert into file_events (file_id, owner_id, action, actor)"
            " select uuidv7(), 'alice', 'uploaded', 'alice' from generate_series(1, 20000)"
        )
        running = pool.submit(upgrade, "0025")
        written = 0
        while not running.done():
            older.execute(_OLD_EVENT, [uuid4(), "downloaded"])
            written += 1
        with running.result() as tx:
            counts = tx.execute("select count(*), count(distinct id) from audit_events").fetchone()
    assert written > 10
    assert counts == (20_000 + written, 20_000 + written)


def test_T123_migration_0029_keeps_what_was_read_of_objects_whose_files_are_read_alike(upgrade: Upgrade) -> None:
    preview = "insert into file_previews (object_key, preview_type, variant, preview_path, mime_type, size)"
    with upgrade("0028") as tx:
        for key, *names in (
            ("alike", "a.csv", "B.CSV"),
            ("mixed", "c.txt", "c.csv"),
            ("purging",),
            ("unread", "d.csv"),
        ):
            tx.execute(
                "insert into objects (object_key, owner_id, size, etag, content_type, extracted, problem)"
                " values (%s, 'alice', 5, 'e', 'a/b', %s::jsonb, %s::jsonb)",
                [key, *(("{}", None) if key == "unread" else ('{"width": 1}', '{"code": "x"}'))],
            )
            for name in names:
                tx.execute(
                    "insert into files (owner_id, original_name, file_path, mime_type, file_type, file_size, status)"
                    " values ('alice', %s, %s, %s, 'text', 5, 'ready')",
                    [name, key, "text/plain" if name.endswith("txt") else "text/csv"],
                )
            if key != "unread":
                tx.execute(f"{preview} values (%(key)s, 'text', 0, %(key)s, 'a/b', 1)", {"key": key})
                tx.execute("insert into object_texts (object_key, owner_id, content) values (%s, 'alice', 'x')", [key])
                tx.execute(
                    "insert into preview_failures (object_key, preview_type, variant, code, detail)"
                    " values (%s, 'text', 0, 'x', 'x')",
                    [key],
                )
        # An interrupted run left these behind.
        tx.execute("alter table object_texts add column read_as text")
        tx.execute("create index object_texts_key on object_texts (content)")
    with upgrade("0029") as tx:
        expected = [("alike", "text/csv csv"), ("mixed", ""), ("purging", "")]
        for table in ("readings", "file_previews", "preview_failures", "object_texts"):
            assert tx.execute(f"select object_key, read_as from {table} order by 1").fetchall() == expected
        found = tx.execute("select distinct extracted, problem from readings").fetchall()
        again = tx.execute(
            "select f.original_name from procrastinate_jobs j join files f on f.id::text = j.args ->> 'file_id' order by 1"
        ).fetchall()
        tx.execute("update objects set object_key = 'renamed' where object_key = 'alike'")
        assert tx.execute("select count(*) from object_texts where object_key = 'renamed'").fetchone() == (1,)
    assert found == [({"width": 1}, {"code": "x"})]
    assert again == [("c.csv",), ("c.txt",)]


def test_T123_migrations_run_beside_uploads_and_resume_after_interruptions(upgrade: Upgrade) -> None:
    statements = (
        "insert into objects (object_key, owner_id, size, etag, content_type) values (%(n)s, 'alice', 5, 'e', 'a/b')",
        "insert into files (owner_id, original_name, file_path, mime_type, file_type, file_size, status, tags)"
        " values ('alice', %(n)s, %(n)s, 'a/b', 'other', 5, 'ready', '{x}')",
        "update files set is_deleted = true, deleted_at = now() where original_name = %(n)s",
    )
    others = "from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    with upgrade("0015") as older, ThreadPoolExecutor(1) as pool:  # the last one that says: stop the gateway
        older.execute("set statement_timeout = '25s'")  # five times the migrations' lock_timeout
        written = interruptions = 0
        running = pool.submit(lambda: upgrade("head").close())
        while not running.done() or running.exception() is not None:
            if running.done():
                running = pool.submit(lambda: upgrade("head").close())
            for statement in statements:
                older.execute(statement, {"n": str(written)})
            written += 1
            if interruptions < 3:
                interruptions += bool(older.execute(f"select pg_terminate_backend(pid) {others}").fetchall())
        counted = older.execute("select files, bytes from type_counters where is_deleted").fetchall()
    assert interruptions
    assert counted == [(written, 5 * written)]
