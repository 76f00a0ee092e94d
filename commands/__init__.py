"""The commands behind ``python app.py``. Each is a function in the module of its subject and calls one service.

base.py       what they share: the group, how they print, the progress bar
servers.py    what runs: start, serve, worker, bootstrap, migrate, env
doctor.py     what this deployment's bucket, scanner and sandbox can do
access.py     keys, quotas, sessions
backup.py     backup, and its list, verify and prune
restore.py    restore
transfer.py   copy-storage, import, export
upkeep.py     janitor, scrub, jobs, audit, rescan, stats, seed-demo
"""

from __future__ import annotations

import sys

import click
from pydantic import ValidationError

import telemetry
from commands import access, backup, doctor, restore, servers, transfer, upkeep
from commands.base import Call as Call
from commands.base import Group
from core.origin import COMMAND, ORIGIN
from parsers.locks import hide, share_arenas
from settings import Settings, version


@click.group(cls=Group, invoke_without_command=True)
@click.version_option(version(), prog_name="upload-gateway", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> int:
    """An upload gateway in front of an S3 bucket. Without a command it starts all that it needs on this machine."""
    return servers.start(context.obj) if context.invoked_subcommand is None else 0


for module in (servers, doctor, access, backup, restore, transfer, upkeep):
    for command in module.COMMANDS:
        cli.add_command(command)


def main(arguments: list[str]) -> int:
    """Run the command of this process; returns the exit status."""
    hide()  # this process will hold secrets, and parsers run as the same user
    share_arenas()
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            print(f"{'.'.join(map(str, problem['loc'])).upper()}: {problem['msg']}", file=sys.stderr)
        return 2
    telemetry.configure_logging(settings.log_level, settings.secrets)
    return run(arguments, settings)


def run(arguments: list[str], settings: Settings) -> int:
    """Run one command; returns the exit status."""
    ORIGIN.set(COMMAND)
    try:
        status = cli.main(arguments, prog_name="app.py", obj=Call(settings), standalone_mode=False)
    except click.Abort:  # Ctrl-C
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return status if isinstance(status, int) else 0
