"""What all commands share: the group, what a command works on, how it prints, and its progress bar.

A command returns its exit status: 0 (or nothing) if all is well, 1 if it failed or found something wrong. Wrong usage is 2.
Modules that only one command needs are imported in its function: a deployment may lack the embedded servers, and the supervisor
and gunicorn's master, which do little, would keep all of it in memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
import orjson
from pydantic import SecretStr

from core.cursors import Page
from core.errors import GatewayError
from settings import Settings, storage_settings
from storage_backends import open_store
from storage_backends.base import ObjectStore, StorageError

if TYPE_CHECKING:
    from services import Services


@dataclass(frozen=True, slots=True)
class Call:
    """What a command works on."""

    settings: Settings  # of this process alone

    def deployment(self) -> Settings:
        """The settings, completed with those of the embedded servers that are running on this DATA_DIR. Raises GatewayError if
        none are, and some are needed."""
        return self.settings if self.settings.is_complete else settings_of_running(self.settings)

    def services(self) -> Services:
        """All services."""
        import app

        return app.wire(with_secret_key(self.deployment()))

    def store(self) -> ObjectStore:
        """The bucket alone: the one that the settings name, also without a database."""
        return open_store(storage_settings(self.deployment() if self.settings.s3_endpoint is None else self.settings))

    def origins(self) -> tuple[str, ...]:
        """The origins of pages that may use the bucket."""
        page = urlsplit(self.settings.base_url)
        return tuple(dict.fromkeys((*self.settings.cors_origins, f"{page.scheme}://{page.netloc}")))


def settings_of_running(settings: Settings) -> Settings:
    """The settings of the gateway that is running on this DATA_DIR. Raises GatewayError if none is."""
    from embedded import supervisor

    return Settings(**{name.lower(): value for name, value in supervisor.environment(settings).items()})  # type: ignore[arg-type]


def with_secret_key(settings: Settings) -> Settings:
    """The settings; in development, where SECRET_KEY may be missing, with the one in DATA_DIR, which is made once."""
    if settings.secret_key is not None or settings.environment == "production":
        return settings
    from embedded.child import kept_secret

    try:
        kept = kept_secret(settings.data_dir / "secret-key")
    except OSError as error:
        raise ValueError(f"Set SECRET_KEY (openssl rand -hex 32): none can be kept in DATA_DIR ({error})") from error
    return settings.model_copy(update={"secret_key": SecretStr(kept)})


class Command(click.Command):
    """A command whose errors are one line on standard error."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; GatewayError, StorageError and ValueError end it with status 1."""
        try:
            return super().invoke(ctx)
        except (GatewayError, StorageError, ValueError) as error:
            warn(f"{ctx.command_path.partition(' ')[2] or 'start'}: {error}")
            return 1
        except BrokenPipeError:  # whoever reads a list, as `head` does, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


class Group(click.Group):
    """Commands of one subject."""

    command_class = Command
    group_class = type  # a group in a group is of this class too


pass_call = click.make_pass_decorator(Call)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_NOTHING = "There is nothing to show."
dry_run_option = click.option("--dry-run", is_flag=True, help="Only report what would be done.")


class Moment(click.ParamType[datetime]):
    """A date or time; without a zone it is UTC."""

    name = "date"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Fails, as wrong usage, for what is no ISO 8601 date or time."""
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail("takes a date or time such as 2026-11-23, or 2026-11-23T04:15:00Z", param, ctx)
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


# -- output ----------------------------------------------------------------------------------------------------------------


def print_json(value: object) -> None:
    """One line of JSON on standard output. A time is in UTC, ending in Z."""
    print(orjson.dumps(value, default=_as_json, option=orjson.OPT_UTC_Z).decode())


def show(value: Any, *, as_json: bool) -> None:
    """Print a mapping, dataclass or named tuple: as JSON, or each member on a line; of an empty one that there is nothing."""
    if as_json:
        return print_json(value)
    members = _members(value)
    if not members:
        warn(_NOTHING)
    width = max((len(name) for name in members), default=0)
    for name, member in members.items():
        print(f"{name:<{width}}  {_as_text(member)}")


def show_rows(rows: Iterable[Any], *, as_json: bool) -> None:
    """Print mappings, dataclasses or named tuples of equal members: as one line of JSON each, or as columns that tabs separate,
    under a line of their names. Without rows, people are told so on standard error."""
    empty = True
    for row in rows:
        if as_json:
            print_json(row)
            continue
        members = _members(row)
        if empty:
            print("\t".join(members))
        empty = False
        print("\t".join(map(_as_text, members.values())))
    if empty and not as_json:
        warn(_NOTHING)


def _members(value: Any) -> Mapping[str, Any]:
    if is_dataclass(value):
        return {name: getattr(value, name) for name in value.__dataclass_fields__}
    return value if isinstance(value, Mapping) else _as_json(value)


def _as_json(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return value._asdict()
    return str(value)


def _as_text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | int | float):
        return str(value)
    return orjson.dumps(value, default=_as_json, option=orjson.OPT_UTC_Z).decode().strip('"')


def warn(line: str) -> None:
    """A line on standard error."""
    print(line, file=sys.stderr)


class Progress:
    """How far a command has come. Threads may use it."""

    def __init__(self, bar: Any, task: Any):
        self._bar, self._task = bar, task

    def expect(self, total: int | None) -> None:
        """Set how much there is to do; None: not known."""
        if self._bar is not None:
            self._bar.update(self._task, total=total)

    def advance(self, done: int = 1) -> None:
        """Count what was done."""
        if self._bar is not None:
            self._bar.advance(self._task, done)


@contextmanager
def progress(text: str, *, total: int | None = None, in_bytes: bool = False) -> Iterator[Progress]:
    """A progress bar on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield Progress(None, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    amount = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn(elapsed_when_finished=True)
    with Bar(*columns, console=Console(stderr=True)) as bar:
        yield Progress(bar, bar.add_task(text, total=total))


def all_pages(page_after: Callable[[str | None], Page[Any]]) -> Iterator[Any]:
    """The items of all pages. ``page_after`` gets the cursor of the page before."""
    cursor = None
    while True:
        page = page_after(cursor)
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return
