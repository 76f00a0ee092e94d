"""Commands that run the gateway: all of it, the server, a worker; and what prepares database and bucket."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

import telemetry
import tracing
from commands.base import Call, Command, pass_call, warn, with_secret_key
from core.ids import FILE_PREFIX
from parsers.sandbox import suffices
from settings import Settings, database_url, migration_database_url, storage_settings
from storage_backends.base import ManagesBucket

if TYPE_CHECKING:
    from flask import Flask


def start(call: Call) -> int:
    """Start everything on this machine; returns the exit status."""
    from embedded import supervisor

    return supervisor.run(call.settings)


@click.command(cls=Command)
@pass_call
def serve(call: Call) -> int:
    """Run the HTTP server alone."""
    import web_server

    tracing.check()
    suffices(strict=call.settings.strict_sandbox)  # once, for all worker processes
    telemetry.share_metrics(call.settings.data_dir)
    _require_servers(call.settings)  # before worker processes start
    settings = with_secret_key(call.settings)  # once, for all worker processes

    def create_app() -> Flask:
        import app
        from db import STATEMENT_IN_REQUEST

        services = app.wire(settings, statement=STATEMENT_IN_REQUEST)
        services.health.refuse_wrong_bucket()
        return app.create_app(settings, services)

    return web_server.run(create_app, settings)


@click.command(cls=Command)
@click.option("--queues", default="", help="Comma-separated; default: all.")
@click.option("--concurrency", type=click.IntRange(1, 64), help="Concurrent jobs of each queue (WORKER_CONCURRENCY).")
@pass_call
def worker(call: Call, queues: str, concurrency: int | None) -> None:
    """Run a job worker alone; any number of them, on any machine."""
    from db.jobs import QUEUES
    from jobs import worker

    settings = call.settings
    tracing.check()
    if not suffices(strict=settings.strict_sandbox):
        raise ValueError("parsers can't be sandboxed here, see `python app.py doctor` (ALLOW_WEAK_SANDBOX=on)")
    names = [name.strip() for name in queues.split(",") if name.strip()] or QUEUES
    if not set(names) <= set(QUEUES):
        raise click.BadParameter(f"takes some of {', '.join(QUEUES)}", param_hint="--queues")
    _require_servers(settings)
    telemetry.share_metrics(settings.data_dir)
    if settings.worker_metrics_port is not None:
        telemetry.serve_metrics(settings.host, settings.worker_metrics_port)
    services = call.services()
    services.health.refuse_wrong_bucket()
    worker.run(
        services,
        database_url=database_url(settings),
        queues=names,
        concurrency=concurrency or settings.worker_concurrency,
        lease=settings.worker_lease,
    )


def _require_servers(settings: Settings) -> None:
    """Raises SystemExit if the database's or the bucket's settings are missing."""
    database_url(settings)
    storage_settings(settings)


@click.command(cls=Command)
@pass_call
def migrate(call: Call) -> None:
    """Migrate the database."""
    _migrate(call.deployment())


def _migrate(settings: Settings) -> None:
    from db.migrate import migrate

    migrate(migration_database_url(settings), gateway_url=database_url(settings))


@click.command(cls=Command)
@click.option("--no-key", is_flag=True, help="Create no admin key, which would be printed.")
@pass_call
def bootstrap(call: Call, no_key: bool) -> None:
    """Migrate; make the bucket, its CORS rules and a first key."""
    settings = call.settings
    _migrate(settings)
    _require_servers(settings)
    store = call.store()
    if isinstance(store, ManagesBucket):
        _prepare_bucket(store, call)
    if settings.clamd_url is not None:
        warn(
            "CLAMD_URL is set. clamd must have AlertExceedsMax, AlertEncryptedArchive and AlertEncryptedDoc set to yes, and"
            f" StreamMaxLength, MaxFileSize and MaxScanSize to {settings.scan_max_size} bytes or more (SCAN_MAX_SIZE);"
            " `python app.py doctor` checks this."
        )
    from services.recovery.restore import unfinished

    if snapshot := unfinished(call.services().db):
        warn(f"The restore of {snapshot} was interrupted: stop the gateway, and run `python app.py restore` again.")
    key = settings.admin_api_key.get_secret_value() if settings.admin_api_key else None
    if key is None and no_key:
        return
    new_key = call.services().keys.ensure_admin_key(key)
    if new_key is not None:
        print(f"ADMIN_API_KEY={new_key}")


def _prepare_bucket(store: ManagesBucket, call: Call) -> None:
    store.ensure_bucket()
    _check_object_lock(store, call.settings)
    if not store.set_cors(call.origins()):
        warn(
            "The bucket's server takes no CORS rules by request. MinIO has them in its own settings:"
            f" MINIO_API_CORS_ALLOW_ORIGIN={','.join(call.origins())}"
        )
    # The rule counts from an upload's start, but clients extend an upload's lifetime: so it is generous.
    days = max(30, -(-call.settings.upload_ttl // 86_400) + 1)
    if not store.set_abort_incomplete_rule(FILE_PREFIX, days=days):
        warn(
            "The bucket's server takes no rule that ends unfinished uploads. MinIO ends them after 24 h, however active,"
            f" without MINIO_API_STALE_UPLOADS_EXPIRY={24 * days}h"
        )


def _check_object_lock(store: ManagesBucket, settings: Settings) -> None:
    keeping = store.keeping()
    if keeping is None or not keeping.days:
        return
    kept = (
        f"The bucket's object lock keeps the bytes of purged files until {keeping.days} day(s) after they were written"
    )
    if settings.allow_object_lock == "off":
        raise ValueError(f"{kept}. Take another bucket, or set ALLOW_OBJECT_LOCK=on.")
    warn(f"{kept} (ALLOW_OBJECT_LOCK=on).")


@click.command(cls=Command)
@pass_call
def env(call: Call) -> None:
    """Print the settings of what runs, as shell assignments."""
    from embedded import supervisor

    for name, value in supervisor.environment(call.settings).items():
        print(f"{name}={shlex.quote(value)}")


COMMANDS = (serve, worker, bootstrap, migrate, env)
