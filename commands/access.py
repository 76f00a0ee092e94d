"""Commands for API keys, quotas and sessions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import click

from commands.base import Call, Group, all_pages, json_option, pass_call, print_json, show, show_rows


@click.group(cls=Group)
def keys() -> None:
    """Create, list and revoke API keys."""


@keys.command("create")
@click.option("--owner", required=True, help="owner_id, up to 255 characters.")
@click.option("--role", type=click.Choice(["user", "admin"]), default="user", show_default=True)
@click.option("--name", default="", help="To recognise it by.")
@click.option("--scopes", metavar="LIST", help="Of read,write,delete,admin; default: all that the role allows.")
@click.option("--folder", type=int, metavar="ID", help="Only this folder of the owner and what is below it.")
@click.option("--expires-in", type=int, metavar="SECONDS", help="Default: never.")
@json_option
@pass_call
def create_key(call: Call, /, expires_in: int | None, scopes: str | None, as_json: bool, **of_key: Any) -> None:
    """Create a key, which is shown only once."""
    record, key = call.services().keys.create_key(
        of_key["owner"],
        name=of_key["name"],
        role=of_key["role"],
        scopes=None if scopes is None else scopes.split(","),  # type: ignore[arg-type]  # checked there
        folder_id=of_key["folder"],
        expires_at=None if expires_in is None else _from_now(expires_in),
    )
    if as_json:
        print_json({name: getattr(record, name) for name in record.__dataclass_fields__} | {"key": key})
    else:
        print(key)


def _from_now(seconds: int) -> datetime:
    try:
        return datetime.now(UTC) + timedelta(seconds=seconds)
    except OverflowError as error:
        raise ValueError("--expires-in is too large") from error


@keys.command("list")
@json_option
@pass_call
def list_keys(call: Call, as_json: bool) -> None:
    """List the active keys, oldest first."""
    keys = call.services().keys
    show_rows(all_pages(lambda cursor: keys.list_keys(limit=200, cursor=cursor)), as_json=as_json)


@keys.command("revoke")
@click.argument("id", type=UUID)
@pass_call
def revoke_key(call: Call, id: UUID) -> None:
    """Revoke a key at once."""
    call.services().keys.revoke_key(id)


@click.group(cls=Group)
def quotas() -> None:
    """List and set owners' quotas."""


@quotas.command("list")
@json_option
@pass_call
def list_quotas(call: Call, as_json: bool) -> None:
    """List what owners use and may use."""
    quotas = call.services().quotas
    show_rows(all_pages(lambda cursor: quotas.page(limit=200, cursor=cursor)), as_json=as_json)


_AMOUNT = click.IntRange(0, 2**63 - 1)


@quotas.command("set")
@click.argument("owner")
@click.option("--bytes", "max_bytes", type=_AMOUNT, help="Without it the owner has no limit of its own.")
@click.option("--files", "max_files", type=_AMOUNT, help="The same.")
@json_option
@pass_call
def set_quota(call: Call, owner: str, max_bytes: int | None, max_files: int | None, as_json: bool) -> None:
    """Replace an owner's own quota, and print what applies."""
    from core.principal import Quota

    show(call.services().quotas.set_own(owner, Quota(max_bytes, max_files)), as_json=as_json)


@click.group(cls=Group)
def sessions() -> None:
    """End sessions of browsers."""


@sessions.command("end")
@click.argument("owner")
@json_option
@pass_call
def end_sessions(call: Call, owner: str, as_json: bool) -> None:
    """Sign an owner out of all browsers."""
    show({"ended": call.services().login_sessions.end_all(owner)}, as_json=as_json)


COMMANDS = (keys, quotas, sessions)
