"""``python app.py doctor``: what bucket, virus scanner and sandbox can do, and what follows for this deployment."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import click

from commands.base import Call, Command, json_option, pass_call, print_json, settings_of_running
from core.errors import GatewayError
from settings import Settings, database_url


@click.command(cls=Command)
@json_option
@pass_call
def doctor(call: Call, as_json: bool) -> int:
    """Check bucket, virus scanner and sandbox."""
    import app
    from db import Database
    from services.upkeep.doctor import Check, audit, bucket, mark, sandbox, scanner

    call = replace(call, settings=_with_running(call.settings))
    settings = call.settings
    if settings.s3_endpoint is None:
        checks = [
            Check("bucket", None, "no gateway is running and S3_ENDPOINT is not set", "Set it, or start the gateway.")
        ]
    else:
        allow_lock = settings.allow_object_lock == "on"
        checks = bucket.examine(call.store(), origins=call.origins(), allow_lock=allow_lock)
    checks += sandbox.examine(strict=settings.strict_sandbox)
    if settings.database_url is not None:
        with closing(Database(database_url(settings))) as db:
            checks += audit.examine(db)
            checks += mark.examine(db, call.store()) if settings.s3_endpoint is not None else []
    if (clamd := app.scanner(settings)) is not None:
        checks += scanner.examine(clamd)
    if as_json:
        print_json(checks)
    else:
        for check in checks:
            answer = {True: "yes", False: "no", None: "?"}[check.ok]
            print(f"{check.name}: {answer}\n  {check.detail}" + ("" if check.ok else f"\n  {check.consequence}"))
    return 0 if all(check.ok is not False for check in checks) else 1


def _with_running(settings: Settings) -> Settings:
    """These settings if they name a bucket; else those of the gateway that is running on this DATA_DIR, if one is, except for
    what was set."""
    if settings.s3_endpoint is not None:
        return settings
    try:
        running = settings_of_running(settings)
    except GatewayError:
        return settings
    return running.model_copy(update={name: getattr(settings, name) for name in settings.model_fields_set})


COMMANDS = (doctor,)
