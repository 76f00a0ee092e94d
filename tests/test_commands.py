"""What all commands have in common, as their users see it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import pytest

from commands import cli, run
from commands.base import show, show_rows
from settings import Settings


def _all(group: click.Group, name: str = "") -> Iterator[tuple[str, click.Command]]:
    for part, command in group.commands.items():
        yield f"{name} {part}".strip(), command
        if isinstance(command, click.Group):
            yield from _all(command, f"{name} {part}".strip())


def test_lists_of_commands_are_not_cut_off_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    for name, command in [("", cli), *_all(cli)]:
        if isinstance(command, click.Group):
            assert run([*name.split(), "--help"], Settings(_env_file=None)) == 0
            assert "..." not in capsys.readouterr().out.rpartition("Commands:")[2], name


def test_options_that_are_alike_are_named_alike() -> None:
    for name, command in _all(cli):
        options = {option for param in command.params for option in param.opts}
        assert command.help, name
        assert not options & {"--dryrun", "--output", "--format", "--user", "--user-id", "--owner-id"}, name


@pytest.mark.parametrize("print_nothing", [lambda: show_rows([], as_json=False), lambda: show({}, as_json=False)])
def test_people_are_told_that_there_is_nothing_and_programs_get_nothing(
    print_nothing: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    print_nothing()
    assert capsys.readouterr() == ("", "There is nothing to show.\n")
    show_rows([], as_json=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "arguments",
    ["nothing", "janitor --fast", "worker --queues none", "backup prune --to /backups --keep all=1", "restore"],
)
def test_wrong_usage_is_status_2(arguments: str, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments.split(), settings) == 2
    assert "--help" in capsys.readouterr().err
