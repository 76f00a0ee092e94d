"""Backups: make, list, verify and prune them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.base import Call, Group, dry_run_option, json_option, pass_call, progress, show, show_rows, warn
from settings import keep_rules

if TYPE_CHECKING:
    from services.recovery.repository import Repository, RepositoryOptions

_to = click.option("--to", metavar="PLACE", help="A folder or s3://bucket/prefix; default: BACKUP_TO.")
_identity = click.option(
    "--identity",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of age identities, to read encrypted backups; default: BACKUP_IDENTITY_FILE.",
)


@click.group(cls=Group, invoke_without_command=True)
@_to
@click.option(
    "--recipient", "recipients", multiple=True, metavar="KEY", help="Encrypt for this age public key; repeatable."
)
@json_option
@click.pass_context
def backup(context: click.Context, to: str | None, recipients: tuple[str, ...], as_json: bool) -> int:
    """Back up the database and every object that it names.

    What is there already is not sent again, and a run that was cut off is continued. Status 1 if objects were missing
    or damaged."""
    if context.invoked_subcommand is not None:
        return 0
    call: Call = context.obj
    with progress("Backing up") as bar:

        def advance(done: int, total: int) -> None:
            bar.expect(total)
            bar.advance(done - advance.done)  # type: ignore[attr-defined]
            advance.done = done  # type: ignore[attr-defined]

        advance.done = 0  # type: ignore[attr-defined]
        report = call.services().backups.run(to, options=_options(call, recipients=recipients), progress=advance)
    show(report, as_json=as_json)
    if report.damaged:
        warn(f"backup: {report.damaged} objects are missing or damaged; the manifest of {report.snapshot} lists them")
    return int(report.damaged > 0)


@backup.command("list")
@_to
@json_option
@pass_call
def list_snapshots(call: Call, to: str | None, as_json: bool) -> None:
    """List the snapshots of a repository, oldest first."""
    rows = [
        {
            "id": found.id,
            "taken_at": found.taken_at,
            "files": found.files,
            "objects": found.objects,
            "bytes": found.bytes,
            "revision": found.revision,
            "encrypted": found.encrypted,
            "damaged": found.damaged,
        }
        for found in _repository(call, to).snapshots()
    ]
    show_rows(rows, as_json=as_json)


@backup.command("verify")
@click.argument("snapshot", required=False)
@_to
@click.option("--quick", is_flag=True, help="Only look whether all is there with its size; needs no identity.")
@_identity
@json_option
@pass_call
def verify_snapshots(
    call: Call, snapshot: str | None, to: str | None, quick: bool, identity: Path | None, as_json: bool
) -> int:
    """Read everything back, of one snapshot or of all. Status 1 if anything is wrong."""
    from services.recovery.verify import verify

    with progress("Verifying") as bar:
        report = verify(_repository(call, to, identity), snapshot, quick=quick, progress=bar.advance)
    show(report, as_json=as_json)
    return int(report.findings > 0)


@backup.command("prune")
@_to
@click.option("--keep", metavar="RULES", help="daily=7,weekly=5,monthly=12, in UTC; default: BACKUP_KEEP.")
@dry_run_option
@json_option
@pass_call
def prune_snapshots(call: Call, to: str | None, keep: str | None, dry_run: bool, as_json: bool) -> None:
    """Delete all but some snapshots, and what none of these needs. The newest is always kept."""
    from services.recovery.prune import prune

    rules = keep or call.settings.backup_keep
    if rules is None:
        raise click.UsageError("Say what to keep: --keep daily=7,weekly=5,monthly=12, or set BACKUP_KEEP.")
    try:
        parsed = keep_rules(rules)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--keep") from None
    show(prune(_repository(call, to), parsed, dry_run=dry_run), as_json=as_json)


def _options(call: Call, *, recipients: tuple[str, ...] = (), identity: Path | None = None) -> RepositoryOptions:
    import app
    from commands.base import with_secret_key

    options = app.repository_options(with_secret_key(call.deployment()))
    if recipients:
        options = replace(options, recipients=recipients)
    return replace(options, identities=identity.read_text()) if identity else options


def _repository(call: Call, to: str | None, identity: Path | None = None) -> Repository:
    from services.recovery.repository import open_repository

    place = to or call.settings.backup_to
    if place is None:
        raise click.UsageError("Say where: --to a folder or s3://bucket/prefix, or set BACKUP_TO.")
    return open_repository(place, _options(call, identity=identity))


COMMANDS = (backup,)
