"""The command that brings a backup back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from commands.base import (
    Call,
    Command,
    Moment,
    dry_run_option,
    json_option,
    pass_call,
    progress,
    show,
    warn,
    with_secret_key,
)
from settings import Settings, database_url, migration_database_url, storage_settings
from storage_backends import open_store
from storage_backends.base import ManagesBucket, MultipartStore

if TYPE_CHECKING:
    from services.recovery.repository import Repository


@click.command(cls=Command)
@click.option("--from", "location", metavar="PLACE", help="A folder or s3://bucket/prefix; default: BACKUP_TO.")
@click.option("--snapshot", help="The snapshot's id; default: the newest.")
@click.option("--as-of", type=Moment(), help="The newest snapshot that is not younger.")
@click.option(
    "--bucket-only", is_flag=True, help="Write objects that the bucket has lost; leave the database as it is."
)
@click.option(
    "--identity",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of age identities, to read encrypted backups; default: BACKUP_IDENTITY_FILE.",
)
@click.option("--unsigned", is_flag=True, help="SECRET_KEY is lost: trust the backup, whoever has made it.")
@dry_run_option
@json_option
@pass_call
def restore(
    call: Call,
    location: str | None,
    snapshot: str | None,
    as_of: datetime | None,
    bucket_only: bool,
    identity: Path | None,
    unsigned: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Restore a backup: its rows into an empty database, and all objects that the bucket lacks.

    Stop the gateway and its workers before. What was interrupted goes on when it is started again. Status 1 if the bytes of
    a file are lost."""
    from db import Database
    from services.recovery.restore import Restore, choose

    if snapshot is not None and as_of is not None:
        raise click.UsageError("Give --snapshot or --as-of.")
    with _deployment(call.settings) as settings:
        repository = _repository(settings, location, identity, unsigned=unsigned)
        chosen = choose(repository, snapshot_id=snapshot, as_of=as_of)
        store = open_store(storage_settings(settings))
        if isinstance(store, ManagesBucket) and not dry_run:
            store.ensure_bucket()
        with closing(Database(database_url(settings))) as db, progress("Objects", total=chosen.objects) as bar:
            work = Restore(
                db,
                cast(MultipartStore, store),
                repository,
                owner_url=migration_database_url(settings),
                advance=bar.advance,
            )
            if dry_run:
                show(work.plan(chosen).as_dict(), as_json=as_json)
                return 0
            report = work.run_bucket(chosen) if bucket_only else work.run(chosen)
    show(report.as_dict(), as_json=as_json)
    if not report.complete:
        warn(f"{report.lost + report.differing} objects are not as they were; `problems` has the first.")
    return 0 if report.complete else 1


@contextmanager
def _deployment(settings: Settings) -> Iterator[Settings]:
    """The settings; those that name no database or bucket are completed by servers on this machine, for as long as it takes."""
    if settings.is_complete:
        yield settings
        return
    from embedded import supervisor

    with supervisor.servers(settings) as completed:
        yield completed


def _repository(settings: Settings, location: str | None, identity: Path | None, *, unsigned: bool) -> Repository:
    import app
    from services.recovery.repository import open_repository

    place = location or settings.backup_to
    if place is None:
        raise click.UsageError("Say where the backups are: --from, or BACKUP_TO.")
    if identity is not None:
        settings = settings.model_copy(update={"backup_identity_file": identity})
    return open_repository(place, replace(app.repository_options(with_secret_key(settings)), unsigned=unsigned))


COMMANDS = (restore,)
