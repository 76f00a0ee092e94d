"""Dumps of the database: whole, of one moment, and loaded into an empty database (T122)."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from core.errors import Conflict, Unprocessable
from core.principal import Principal, Quota
from db import Database, counters, dump
from db.migrate import migrate
from embedded.postgres import Postgres
from services import Services
from services.access.upload_tokens import Budget
from tests.conftest import EMPTY, _admin
from tests.direct_steps import begin
from tests.rows import add_file, index_now, sql
from tests.services.uploads.test_intake import upload


def dumped(db: Database) -> list[bytes]:
    with dump.snapshot(db) as tx:
        return list(dump.dump(tx))


def rows(db: Database) -> dict[str, list[Any]]:
    """All rows of the tables that are dumped."""
    with db.connection() as tx:
        return {
            table: sorted(map(str, tx.execute(SQL("select * from {}").format(Identifier(table))).fetchall()))
            for table in dump.KEPT
        }


@pytest.fixture
def filled(services: Services, db: Database, alice: Principal, root: Principal) -> Services:
    """Rows of most kinds, some with characters that COPY escapes."""
    plans = services.folders.create(alice, "Pläne", "a\nb\tc")
    deep = services.folders.create(alice, "deep", parent_id=plans.id)
    upload(services, alice, "N.txt", b"some words", tags=("one", "zwei"), folder_id=deep.id)
    upload(services, alice, "same.txt", b"some words", visibility="public")
    kept = upload(services, alice, "gone.txt", b"in the trash", metadata={"a": "\t\n\\\u2028"})
    services.files.trash(alice, kept.id)
    add_file(db, "\\.", owner="bob", size=7)
    services.upload_tokens.create(alice, "alice", Budget(folder_id=plans.id, max_total_size=10**9))
    services.quotas.set_own("alice", Quota(10**9, 1_000))
    services.keys.create_key("alice", name="mine")
    begin(services, alice, b"x" * 1_000)
    index_now(db)
    return services


def test_each_table_is_kept_or_left_out_for_a_reason(db: Database) -> None:
    tables = {name for (name,) in sql(db, "select relname from pg_class where relnamespace = 'public'::regnamespace"
                                          " and relkind in ('r', 'p') and not relispartition")}  # fmt: skip
    assert tables == dump.KEPT.keys() | dump.LEFT_OUT.keys()
    assert not dump.KEPT.keys() & dump.LEFT_OUT.keys()


def test_T122_rows_and_sequences_are_as_they_were_at_one_moment(
    filled: Services, db: Database, alice: Principal, empty_url: str
) -> None:
    before = rows(db)
    with dump.snapshot(db) as tx:
        pieces = dump.dump(tx)
        first = next(pieces)
        upload(filled, alice, "later.txt", b"later")
        whole = [first, *pieces]
    header = dump.load(empty_url, whole, name="one")
    restored = Database(empty_url)
    try:
        assert rows(restored) == before
        assert header.revision == sql(restored, "select version_num from alembic_version")[0][0]
        sequences = "select sequencename, last_value from pg_sequences where schemaname = 'public' order by 1"
        assert sql(restored, sequences) == sql(db, sequences)
        partitions = "select relid::text from pg_partition_tree('audit_events') order by 1"
        assert sql(restored, partitions) == sql(db, partitions)
        assert not sql(restored, "select from pg_trigger where tgenabled <> 'O' and not tgisinternal")
    finally:
        restored.close()


def test_T72_T122_unfinished_uploads_end_and_release_their_quota(
    filled: Services, db: Database, empty_url: str
) -> None:
    dump.load(empty_url, dumped(db), name="one")
    restored = Database(empty_url)
    try:
        with restored.transaction() as tx:
            assert dump.end_unfinished(tx) == 1
            assert not counters.differences(tx)
        assert sql(restored, "select status, cleaned, reserved from uploads where status <> 'done'") == [
            ("expired", True, 0)
        ]
        assert sql(restored, "select reserved_bytes, reserved_files from owner_usage where owner_id = 'alice'") == [
            (0, 0)
        ]
        add_file(restored, "new.txt")  # triggers count again
        with restored.transaction() as tx:
            assert not counters.differences(tx)
    finally:
        restored.close()


def test_T122_what_is_alive_is_never_overwritten(filled: Services, db: Database, database_url: str) -> None:
    before = rows(db)
    with pytest.raises(Conflict, match="not empty"):
        dump.load(database_url, dumped(db), name="one")
    assert rows(db) == before


def test_T122_a_load_that_was_interrupted_can_be_started_again(filled: Services, db: Database, empty_url: str) -> None:
    before, whole = rows(db), b"".join(dumped(db))
    for part in (len(whole) // 2, len(whole) - 10):
        with pytest.raises(Unprocessable):
            dump.load(empty_url, [whole[:part]], name="one")
    dump.load(empty_url, [whole[start : start + 7] for start in range(0, len(whole), 7)], name="one")
    dump.load(empty_url, [whole], name="one")  # is loaded already
    with pytest.raises(Conflict, match="not empty"):
        dump.load(empty_url, [whole], name="another")
    restored = Database(empty_url)
    try:
        assert rows(restored) == before
        with restored.connection() as tx:
            assert dump.loading(tx) == "one"
        dump.finish(empty_url)
        with pytest.raises(Conflict, match="not empty"):
            dump.load(empty_url, [whole], name="one")
    finally:
        restored.close()


def test_T122_a_dump_with_other_rows_than_it_says_is_refused(filled: Services, db: Database, empty_url: str) -> None:
    lines = b"".join(dumped(db)).split(b"\n")
    del lines[next(n for n, line in enumerate(lines) if b"in the trash" in line or b"gone.txt" in line)]
    with pytest.raises(Unprocessable, match="other rows"):
        dump.load(empty_url, [b"\n".join(lines)], name="one")
    with psycopg.connect(empty_url) as conn:
        assert conn.execute("select count(*) from files").fetchone() == (0,)


def test_T122_a_dump_of_an_older_version_is_loaded_and_migrated(
    empty_url: str, db: Database, database_url: str, postgres_server: Postgres
) -> None:
    _admin(postgres_server, "drop database gateway_restored", f"create database gateway_restored {EMPTY}")
    migrate(empty_url, revision="0029")
    old = Database(empty_url)
    add_file(old, "a.txt", tags=["x"], deleted=True)
    pieces = dumped(old)
    old.close()
    header = dump.load(database_url, pieces, name="old")
    assert header.revision == "0029"
    assert sql(db, "select original_name, tags from files") == [("a.txt", ["x"])]
    assert sql(db, "select version_num > '0029' from alembic_version") == [(True,)]


def test_T122_a_dump_of_a_newer_version_is_refused(db: Database, empty_url: str) -> None:
    revision = sql(db, "select version_num from alembic_version")[0][0].encode()
    with pytest.raises(Unprocessable, match="9999"):
        dump.load(empty_url, [b"".join(dumped(db)).replace(revision, b"9999", 1)], name="new")


def test_T122_T125_the_gateways_role_dumps_and_the_owners_loads(
    filled: Services, db: Database, database_url: str, empty_url: str, postgres_server: Postgres
) -> None:
    before = rows(db)
    names = {"gateway": "secret", "owner": "secret"}

    def as_role(url: str, role: str) -> str:
        parts = urlsplit(url)
        return urlunsplit(parts._replace(netloc=f"{role}:{names[role]}@{parts.hostname}:{parts.port}"))

    _admin(
        postgres_server,
        "drop database gateway_restored",
        "create role owner login password 'secret'",
        f"create database gateway_restored owner owner {EMPTY}",
    )
    migrate(database_url, gateway_url=as_role(database_url, "gateway"))
    gateway, restored = Database(as_role(database_url, "gateway")), Database(as_role(empty_url, "owner"))
    try:
        pieces = dumped(gateway)
        dump.load(as_role(empty_url, "owner"), pieces, name="one", gateway_url=as_role(empty_url, "gateway"))
        assert rows(restored) == before
        with psycopg.connect(as_role(empty_url, "gateway")) as conn:
            assert conn.execute("select count(*) from files").fetchone() == (4,)
    finally:
        gateway.close()
        restored.close()
        _admin(
            postgres_server,
            "drop database gateway_restored with (force)",
            "drop database gateway_test with (force)",
            "drop role gateway",
            "drop role owner",
        )


def test_records_are_read_without_a_database(filled: Services, db: Database) -> None:
    found = list(dump.records(dumped(db), {"files", "folders"}))
    folders = [(row["name"], row["description"]) for table, row in found if table == "folders"]
    assert folders == [("Pläne", "a\nb\tc"), ("deep", "")]
    files = {row["original_name"]: row for table, row in found if table == "files"}
    assert files.keys() == {"N.txt", "same.txt", "gone.txt", "\\."}
    assert files["same.txt"]["folder_id"] is None and files["N.txt"]["tags"] == "{one,zwei}"
    assert [table for table, _ in found] == ["folders", "folders", "files", "files", "files", "files"]


def test_stored_keys_are_those_of_objects_copies_and_previews(filled: Services, db: Database) -> None:
    copied = (
        "update objects set location_state = 'removed', public_key = 'copy', public_sha256 = sha256, public_etag = 'e'"
        " where object_key = (select file_path from files where original_name = 'same.txt')"
    )
    sql(db, copied)
    with dump.snapshot(db) as tx:
        found = list(dump.stored_keys(tx))
    assert sorted(key.kind for key in found) == ["object", "object", "object", "public_copy"]
    copy = next(key for key in found if key.kind == "public_copy")
    assert (copy.key, copy.size, copy.encoding, copy.etag) == ("copy", 10, None, "e")
