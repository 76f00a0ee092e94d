"""Migrations on a database that is in use."""

from __future__ import annotations

from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

import db
from embedded.postgres import Postgres
from tests.conftest import _address, _admin


def test_T134_migration_0012_clears_folders_of_other_owners(postgres_server: Postgres) -> None:
    _admin(
        postgres_server,
        "drop database if exists gateway_migrated with (force)",
        "create database gateway_migrated template template0 locale_provider builtin builtin_locale 'C.UTF-8'"
        " lc_ctype 'C.UTF-8' encoding utf8",
    )
    url = _address(postgres_server.admin_url, "gateway_migrated")
    config = Config()
    config.set_main_option("script_location", str(Path(db.__file__).parent / "migrations"))
    config.attributes["url"] = url
    before = ScriptDirectory.from_config(config).get_revision("0012").down_revision
    command.upgrade(config, str(before))
    with psycopg.connect(url, autocommit=True) as tx:
        tx.execute("insert into folders (owner_id, name) values ('alice', 'hers'), ('bob', 'his')")
        tx.execute(
            "insert into uploads (owner_id, protocol, object_key, original_name, content_type, folder_id, expires_at)"
            " select owner, 'tus', owner || folder, 'a', 'text/plain', folder, now()"
            " from unnest(array['alice', 'bob']) owner, generate_series(1, 2) folder"
        )
        command.upgrade(config, "0012")
        found = tx.execute("select object_key, folder_id, in_folder from uploads order by 1").fetchall()
    assert found == [("alice1", 1, True), ("alice2", None, False), ("bob1", None, False), ("bob2", 2, True)]
