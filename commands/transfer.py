"""Commands that move files: to another bucket, into the gateway, out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.base import (
    Call,
    Command,
    Progress,
    dry_run_option,
    json_option,
    pass_call,
    progress,
    show,
    warn,
    with_secret_key,
)
from core.errors import GatewayError
from settings import Settings, storage_settings
from storage_backends import StorageSettings, open_store

if TYPE_CHECKING:
    from services import Services
    from services.recovery.importing import TransferReport

_STORAGE = ("storage_backend", "s3_endpoint", "s3_bucket", "s3_access_key", "s3_secret_key", "s3_region")


@click.command("copy-storage", cls=Command)
@click.option(
    "--to",
    "target",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="Settings of the other bucket, like .env: " + ", ".join(name.upper() for name in _STORAGE) + ".",
)
@click.option("--follow", is_flag=True, help="Copy what is new every few seconds, until Ctrl-C.")
@click.option("--switch", is_flag=True, help="Use the other bucket from now on. The gateway must be stopped.")
@click.option("--end-uploads", is_flag=True, help="With --switch: abort unfinished uploads, which can't be moved.")
@click.option("--leave-damaged", is_flag=True, help="With --switch: leave objects behind that are damaged here.")
@click.option("--stopped", is_flag=True, help="With --switch: don't look for processes of the gateway.")
@click.option("--parallel", type=click.IntRange(1, 64), default=8, show_default=True, help="Objects at once.")
@json_option
@pass_call
def copy_storage(
    call: Call,
    target: Path,
    follow: bool,
    switch: bool,
    end_uploads: bool,
    leave_damaged: bool,
    stopped: bool,
    parallel: int,
    as_json: bool,
) -> int:
    """Copy all objects to another bucket, and switch to it.

    The gateway keeps running while it copies. It can be broken off and repeated at any time. After --switch, start
    the gateway with the other bucket's settings. The way back is the same, while both buckets are kept."""
    from services.recovery.copy_storage import CopyReport, CopyStorage

    with _deployment(call, start=switch) as (services, settings):
        here, there = storage_settings(settings), _storage(target, connections=4 * parallel)
        copying: Any = CopyStorage(
            services.db,
            open_store(here),  # type: ignore[arg-type]
            open_store(there),  # type: ignore[arg-type]
            services.intake,
            source_name=f"{here.endpoint}/{here.bucket}",
            target_name=f"{there.endpoint}/{there.bucket}",
            threads=parallel,
        )
        with progress("objects") as bar:
            count = _counting(bar, lambda report: report.copied)
            if switch:
                report = copying.switch(
                    end_uploads=end_uploads, leave_damaged=leave_damaged, stopped=stopped, progress=count
                )
            elif follow:
                for report in copying.follow(progress=count):
                    if report.copied or report.removed or report.problems:
                        _show(report, as_json=as_json)
            else:
                report = copying.run(progress=count)
    assert isinstance(report, CopyReport)
    _show(report, as_json=as_json)
    if switch:
        warn(f"Start the gateway with the settings in {target}.")
    return 0 if report.switched or report.complete else 1


@click.command("import", cls=Command)
@click.argument("source", metavar="FOLDER|s3://BUCKET/PREFIX")
@click.option("--owner", required=True, metavar="ID", help="Whose files they become.")
@click.option("--folder", "folder_id", type=int, metavar="ID", help="Into this folder of the owner; default: the root.")
@click.option("--visibility", type=click.Choice(["private", "public"]), default="private", show_default=True)
@click.option(
    "--from",
    "settings_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="For s3://: settings of another server, as of copy-storage; default: the gateway's own.",
)
@click.option("--parallel", type=click.IntRange(1, 64), default=4, show_default=True, help="Files at once.")
@dry_run_option
@json_option
@pass_call
def import_files(
    call: Call,
    source: str,
    owner: str,
    folder_id: int | None,
    visibility: Any,
    settings_file: Path | None,
    parallel: int,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Import a folder, or objects of a bucket, for an owner.

    Folders and times are kept; type rules, quota and scans apply. What is there already is left out, so an import
    that was broken off is simply repeated. Status 1 if a file failed."""
    from services.recovery.importing import Importing
    from services.recovery.trees import bucket_tree, local_tree

    with _deployment(call) as (services, settings):
        if source.startswith("s3://"):
            bucket, _, prefix = source.removeprefix("s3://").partition("/")
            here = _storage(settings_file) if settings_file else storage_settings(settings)
            tree = bucket_tree(open_store(_of_bucket(here, bucket)), prefix)
        elif Path(source).is_dir():
            tree = local_tree(Path(source))
        else:
            raise click.BadParameter(f"{source} is neither a folder nor s3://bucket/prefix")
        importing = Importing(services.db, services.intake, services.folders, owner, visibility=visibility)
        return _transfer(
            lambda **options: importing.run(tree, folder_id=folder_id, threads=parallel, dry_run=dry_run, **options),
            as_json=as_json,
        )


@click.command("export", cls=Command)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--owner", required=True, metavar="ID", help="Whose files to write.")
@click.option("--folder", "folder_id", type=int, metavar="ID", help="Only this folder of the owner; default: all.")
@click.option("--trash", is_flag=True, help="Also what is in the trash, into a folder Trash.")
@click.option("--parallel", type=click.IntRange(1, 64), default=4, show_default=True, help="Files at once.")
@json_option
@pass_call
def export_files(
    call: Call, folder: Path, owner: str, folder_id: int | None, trash: bool, parallel: int, as_json: bool
) -> int:
    """Write an owner's files into a folder.

    Folders and times are kept, and each file is checked by its SHA-256. Nothing is overwritten; what is there already
    is left out, so an export that was broken off is simply repeated. Status 1 if a file failed."""
    from services.objects.object_reader import ObjectReader
    from services.recovery.exporting import Exporting

    with _deployment(call) as (services, settings):
        exporting = Exporting(services.db, ObjectReader(services.db, open_store(storage_settings(settings))), owner)
        return _transfer(
            lambda **options: exporting.run(folder, folder_id=folder_id, trash=trash, threads=parallel, **options),
            as_json=as_json,
        )


@contextmanager
def _deployment(call: Call, *, start: bool = False) -> Iterator[tuple[Services, Settings]]:
    """All services of the running deployment, and its settings. ``start``: if it is stopped, with its embedded servers, which run
    for this command."""
    with _running(call, start=start) as settings:
        import app

        settings = with_secret_key(settings)
        services = app.wire(settings)
        with closing(services.db):
            services.health.refuse_wrong_bucket()
            yield services, settings


@contextmanager
def _running(call: Call, *, start: bool) -> Iterator[Settings]:
    try:
        running = call.deployment()
    except GatewayError:
        if not start:
            raise
    else:
        yield running
        return
    from embedded import supervisor

    with supervisor.servers(call.settings) as settings:
        yield settings


def _storage(file: Path, *, connections: int = 32) -> StorageSettings:
    """How to reach the bucket that an env file names; this deployment's own settings do not count. Raises ValueError."""
    from pydantic_settings import DotEnvSettingsSource

    given = DotEnvSettingsSource(Settings, env_file=file)()
    missing = [name.upper() for name in _STORAGE[1:5] if not given.get(name)]
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)}")
    endpoint = given["s3_endpoint"].rstrip("/")
    if not endpoint.startswith(("http://", "https://")):
        raise ValueError(f"{file}: S3_ENDPOINT must begin with http:// or https://")
    return StorageSettings(
        backend=given.get("storage_backend") or "s3",
        endpoint=endpoint,
        public_endpoint=endpoint,
        region=given.get("s3_region") or "us-east-1",
        bucket=given["s3_bucket"],
        access_key=given["s3_access_key"],
        secret_key=given["s3_secret_key"],
        connections=max(32, connections),
    )


def _of_bucket(settings: StorageSettings, bucket: str) -> StorageSettings:
    if not bucket:
        raise click.BadParameter("s3:// needs the name of a bucket")
    return replace(settings, bucket=bucket)


def _transfer(run: Callable[..., TransferReport], *, as_json: bool) -> int:
    """Run an import or export, show its report, also when Ctrl-C ends it, and return the exit status."""
    from services.recovery.importing import TransferReport

    report, status = TransferReport(), 0
    try:
        with progress("files") as bar:
            run(report=report, progress=_counting(bar, lambda report: report.files + report.present))
    except KeyboardInterrupt:
        warn("Broken off; run it again to go on.")
        status = 130
    _show(report, as_json=as_json)
    return status or (1 if report.failed else 0)


def _counting(bar: Progress, counted: Callable[[Any], int]) -> Callable[[Any], None]:
    """Moves the bar to what a report has counted."""
    shown = 0

    def count(report: Any) -> None:
        nonlocal shown
        now = counted(report)
        if now != shown:
            bar.advance(now - shown)
            shown = now

    return count


def _show(report: Any, *, as_json: bool) -> None:
    if as_json:
        return show(report.as_dict(), as_json=True)
    members = report.as_dict()
    for problem in members.pop("problems"):
        warn(": ".join(problem.values() if isinstance(problem, dict) else problem))
    show(members, as_json=False)


COMMANDS = (copy_storage, import_files, export_files)
