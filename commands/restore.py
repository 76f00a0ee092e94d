"""The command that brings a backup back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast
from uuid import UUID

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
    show_rows,
    warn,
    with_secret_key,
)
from settings import Settings, database_url, migration_database_url, storage_settings
from storage_backends import open_store
from storage_backends.base import ManagesBucket, MultipartStore

if TYPE_CHECKING:
    from services.recovery.repository import Repository, Snapshot
    from services.recovery.restore_files import Wanted


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
@click.option("--file", "file_id", type=click.UUID, help="Bring back only this file, into the living deployment.")
@click.option("--folder", metavar="ID|PATH", help="Only what was in this folder: its id then, or its path, as /a/b.")
@click.option("--owner", help="Whose the folder of the path is.")
@click.option("--into", type=int, metavar="ID", help="The folder to bring it back into; default: where it was.")
@click.option("--stopped", is_flag=True, help="Don't look for processes of the gateway.")
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
    file_id: UUID | None,
    folder: str | None,
    owner: str | None,
    into: int | None,
    stopped: bool,
    unsigned: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Restore a backup into an empty database and the bucket.

    It writes all rows, and all objects that the bucket lacks. Stop the gateway and its workers before. What was
    interrupted goes on when it is started again. Status 1 if the bytes of a file are lost.

    With --file or --folder, files come back into the living deployment, as new files of their owner."""
    from db import Database
    from services.recovery.restore import Restore, choose
    from services.recovery.restore_files import Wanted

    if snapshot is not None and as_of is not None:
        raise click.UsageError("Give --snapshot or --as-of.")
    if file_id is not None or folder is not None:
        if folder is not None and (file_id is not None or (folder.startswith("/") and owner is None)):
            raise click.UsageError("Give --file, or --folder with its id, or --folder with its path and --owner.")
        repository = _repository(call.deployment(), location, identity, unsigned=unsigned)
        chosen = choose(repository, snapshot_id=snapshot, as_of=as_of)
        return _restore_files(call, repository, chosen, Wanted(owner, file_id, folder), into, dry_run, as_json)
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
                stopped=stopped,
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


def _restore_files(
    call: Call,
    repository: Repository,
    snapshot: Snapshot,
    wanted: Wanted,
    into: int | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    from services.recovery.restore_files import FileRestore

    services = call.services()
    with closing(services.db), progress("Files") as bar:
        work = FileRestore(services.db, services.intake, services.folders, repository)
        report = work.run(snapshot, wanted, into=into, dry_run=dry_run, advance=bar.advance)
    if as_json:
        show(report.as_dict(), as_json=True)
    else:
        for state in ("restored", "still_there", "failed"):
            if lines := getattr(report, state):
                show_rows([{"state": state.replace("_", " "), **line} for line in lines], as_json=False)
    return int(bool(report.failed))


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
        raise click.UsageError("Say where: --from a folder or s3://bucket/prefix, or set BACKUP_TO.")
    if identity is not None:
        settings = settings.model_copy(update={"backup_identity_file": identity})
    return open_repository(place, replace(app.repository_options(with_secret_key(settings)), unsigned=unsigned))


COMMANDS = (restore,)
