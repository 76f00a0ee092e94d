"""The commands behind ``python app.py``: the table at the end lists them, each with its arguments and its function."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import SecretStr, ValidationError

import telemetry
from core.cursors import Page
from core.errors import GatewayError
from core.ids import FILE_PREFIX
from core.origin import COMMAND, ORIGIN
from parsers.locks import hide, share_arenas
from parsers.sandbox import suffices
from settings import Settings, database_url, migration_database_url, storage_settings, version
from storage_backends import open_store
from storage_backends.base import ManagesBucket, ObjectStore, StorageError

if TYPE_CHECKING:
    from flask import Flask

    from db.records import KeyRecord
    from services import Services

# Commands import what only they need, because a deployment may lack the embedded servers, and the supervisor and gunicorn's
# master, which do little, would keep all of it in memory.


@dataclass(frozen=True, slots=True)
class Call:
    """A command's arguments and what it works on."""

    args: argparse.Namespace
    settings: Settings

    def services(self) -> Services:
        """All services."""
        import app

        return app.wire(_with_secret_key(self.settings))

    def store(self) -> ObjectStore:
        """The bucket alone."""
        return open_store(storage_settings(self.settings))

    def origins(self) -> tuple[str, ...]:
        """The origins of pages that may use the bucket."""
        page = urlsplit(self.settings.base_url)
        return tuple(dict.fromkeys((*self.settings.cors_origins, f"{page.scheme}://{page.netloc}")))


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
    """Run one command; returns the exit status. GatewayError, StorageError and ValueError are printed as one
    line."""
    args = _parser().parse_args(arguments)
    name = f"{args.command or 'start'} {getattr(args, 'action', '')}".strip()
    command = _COMMANDS[name]
    ORIGIN.set(COMMAND)
    try:
        if not command.standalone and not settings.is_complete:
            settings = _settings_of_running(settings)
        status = command.run(Call(args, settings))
        return status if isinstance(status, int) else 0
    except BrokenPipeError:  # whoever reads a list, as `head` does, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (GatewayError, StorageError, ValueError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1


def _with_secret_key(settings: Settings) -> Settings:
    """The settings; in development, where SECRET_KEY may be missing, with the one in DATA_DIR, which is made once."""
    if settings.secret_key is not None or settings.environment == "production":
        return settings
    from embedded.child import kept_secret

    try:
        kept = kept_secret(settings.data_dir / "secret-key")
    except OSError as error:
        raise ValueError(f"Set SECRET_KEY (openssl rand -hex 32): none can be kept in DATA_DIR ({error})") from error
    return settings.model_copy(update={"secret_key": SecretStr(kept)})


def _settings_of_running(settings: Settings) -> Settings:
    """The settings, completed with those of the embedded servers that are running on this DATA_DIR."""
    from embedded import supervisor

    return Settings(**{name.lower(): value for name, value in supervisor.environment(settings).items()})  # type: ignore[arg-type]


def _with_running(settings: Settings) -> Settings:
    """These settings if they name a bucket; else those of the gateway that is running on this DATA_DIR, if one is, except for
    what was set."""
    if settings.s3_endpoint is not None:
        return settings
    try:
        running = _settings_of_running(settings)
    except GatewayError:
        return settings
    return running.model_copy(update={name: getattr(settings, name) for name in settings.model_fields_set})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="app.py", description="An upload gateway in front of an S3 bucket.")
    parser.add_argument("--version", action="version", version=f"upload-gateway {version()}")
    title = "commands (none: start the whole gateway)"
    parsers = {"": parser.add_subparsers(dest="command", metavar="COMMAND", title=title)}
    for name, command in _COMMANDS.items():
        group, _, last = name.rpartition(" ")
        if group not in parsers:
            subcommands = parsers[""].add_parser(group, help=_GROUPS[group])
            parsers[group] = subcommands.add_subparsers(dest="action", required=True)
        if command.help:
            subparser = parsers[group].add_parser(last, help=command.help)
            for flag, options in command.arguments.items():
                subparser.add_argument(flag, **options)
    return parser


def _start(call: Call) -> int:
    from embedded import supervisor

    return supervisor.run(call.settings)


def _serve(call: Call) -> int:
    import web_server

    suffices(strict=call.settings.strict_sandbox)  # once, for all worker processes
    telemetry.share_metrics(call.settings.data_dir)
    database_url(call.settings)  # raises if it is missing, before worker processes start
    storage_settings(call.settings)

    settings = _with_secret_key(call.settings)  # once, for all worker processes

    def create_app() -> Flask:
        import app

        return app.create_app(settings)

    return web_server.run(create_app, settings)


def _worker(call: Call) -> None:
    from db.jobs import QUEUES
    from jobs import worker

    settings, args = call.settings, call.args
    if not suffices(strict=settings.strict_sandbox):
        raise ValueError("parsers can't be sandboxed here, see `python app.py doctor` (ALLOW_WEAK_SANDBOX=on)")
    queues = [name.strip() for name in args.queues.split(",") if name.strip()] or QUEUES
    if not set(queues) <= set(QUEUES):
        raise ValueError(f"--queues takes some of {', '.join(QUEUES)}")
    if args.concurrency is not None and not 1 <= args.concurrency <= 64:
        raise ValueError("--concurrency takes 1 to 64")
    telemetry.share_metrics(settings.data_dir)
    if settings.worker_metrics_port is not None:
        telemetry.serve_metrics(settings.host, settings.worker_metrics_port)
    worker.run(
        call.services(),
        database_url=database_url(settings),
        queues=queues,
        concurrency=args.concurrency or settings.worker_concurrency,
        lease=settings.worker_lease,
    )


def _migrate(call: Call) -> None:
    from db.migrate import migrate

    settings = call.settings
    migrate(migration_database_url(settings), gateway_url=database_url(settings))


def _bootstrap(call: Call) -> None:
    settings = call.settings
    _migrate(call)
    store = call.store()
    if isinstance(store, ManagesBucket):
        store.ensure_bucket()
        _check_object_lock(store, settings)
        if not store.set_cors(call.origins()):
            _warn(
                "The bucket's server takes no CORS rules by request. MinIO has them in its own settings:"
                f" MINIO_API_CORS_ALLOW_ORIGIN={','.join(call.origins())}"
            )
        # The rule counts from an upload's start, but clients extend an upload's lifetime: so it is generous.
        days = max(30, -(-settings.upload_ttl // 86_400) + 1)
        if not store.set_abort_incomplete_rule(FILE_PREFIX, days=days):
            _warn(
                "The bucket's server takes no rule that ends unfinished uploads. MinIO ends them after 24 h, however active,"
                f" without MINIO_API_STALE_UPLOADS_EXPIRY={24 * days}h"
            )
    if settings.clamd_url is not None:
        _warn(
            "CLAMD_URL is set. clamd must have AlertExceedsMax, AlertEncryptedArchive and AlertEncryptedDoc set to yes, and"
            f" StreamMaxLength, MaxFileSize and MaxScanSize to {settings.scan_max_size} bytes or more (SCAN_MAX_SIZE);"
            " `python app.py doctor` checks this."
        )
    key = settings.admin_api_key.get_secret_value() if settings.admin_api_key else None
    if key is None and call.args.no_key:
        return
    new_key = call.services().keys.ensure_admin_key(key)
    if new_key is not None:
        print(f"ADMIN_API_KEY={new_key}")


def _check_object_lock(store: ManagesBucket, settings: Settings) -> None:
    keeping = store.keeping()
    if keeping is None or not keeping.days:
        return
    kept = (
        f"The bucket's object lock keeps the bytes of purged files until {keeping.days} day(s) after they were written"
    )
    if settings.allow_object_lock == "off":
        raise ValueError(f"{kept}. Take another bucket, or set ALLOW_OBJECT_LOCK=on.")
    _warn(f"{kept} (ALLOW_OBJECT_LOCK=on).")


def _env(call: Call) -> None:
    from embedded import supervisor

    for name, value in supervisor.environment(call.settings).items():
        print(f"{name}={shlex.quote(value)}")


def _doctor(call: Call) -> int:
    import app
    from db import Database
    from services.upkeep.doctor import Check, audit, bucket, sandbox, scanner

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
    if (clamd := app.scanner(settings)) is not None:
        checks += scanner.examine(clamd)
    if call.args.json:
        _print_json([{name: getattr(c, name) for name in ("name", "ok", "detail", "consequence")} for c in checks])
    else:
        for check in checks:
            mark = {True: "yes", False: "no", None: "?"}[check.ok]
            print(f"{check.name}: {mark}\n  {check.detail}" + ("" if check.ok else f"\n  {check.consequence}"))
    return 0 if all(check.ok is not False for check in checks) else 1


def _janitor(call: Call) -> None:
    _print_json(call.services().janitor.run(dry_run=call.args.dry_run).as_dict())


def _audit_export(call: Call) -> None:
    import orjson

    from services.upkeep.audit import EventFilter

    services = call.services()
    with closing(services.db):
        for event in services.audit.export(EventFilter(date_from=call.args.since, date_to=call.args.until)):
            print(orjson.dumps(event._asdict(), option=orjson.OPT_UTC_Z).decode())


def _audit_prune(call: Call) -> None:
    from db import Database
    from services.upkeep import audit

    settings = call.settings
    with closing(Database(migration_database_url(settings))) as db:
        for pruned in audit.prune(db, months=settings.audit_months, dry_run=call.args.dry_run):
            _print_json(asdict(pruned))


def _rescan(call: Call) -> None:
    from services.processing.scanning import configured

    begun = configured(call.services().scanning).begin_rescan()
    _print_json({"id": begun.id, "scanned": begun.scanned, "infected": begun.infected})


def _seed_demo(call: Call) -> None:
    from services.upkeep.demo import Demo, DemoPlan

    args = call.args
    plan = DemoPlan(args.files, args.objects, args.folders, args.owners, args.seed, args.owner)
    report = Demo(call.services().db, call.store()).seed(plan, progress=_warn)
    print(json.dumps(report.as_dict(), ensure_ascii=False))


def _keys_create(call: Call) -> None:
    args = call.args
    record, key = call.services().keys.create_key(
        args.owner,
        name=args.name,
        role=args.role,
        scopes=None if args.scopes is None else args.scopes.split(","),
        folder_id=args.folder,
        expires_at=args.expires_at,
    )
    if args.json:
        _print_json(_key(record) | {"key": key})
    else:
        print(key)


def _keys_list(call: Call) -> None:
    keys = call.services().keys
    for record in _all_pages(lambda cursor: keys.list_keys(limit=200, cursor=cursor)):
        _print_json(_key(record))


def _key(record: KeyRecord) -> dict[str, Any]:
    members = asdict(record) | {"id": str(record.id)}
    times = {name: at.isoformat().replace("+00:00", "Z") for name, at in members.items() if isinstance(at, datetime)}
    return members | times


def _seconds_from_now(text: str) -> datetime:
    try:
        return datetime.now(UTC) + timedelta(seconds=int(text))
    except OverflowError as error:
        raise ValueError from error


def _keys_revoke(call: Call) -> None:
    call.services().keys.revoke_key(call.args.id)


def _quotas_list(call: Call) -> None:
    quotas = call.services().quotas
    for record in _all_pages(lambda cursor: quotas.page(limit=200, cursor=cursor)):
        _print_json(asdict(record))


def _quotas_set(call: Call) -> None:
    from core.principal import Quota

    args = call.args
    _print_json(asdict(call.services().quotas.set_own(args.owner, Quota(args.bytes, args.files))))


def _sessions_end(call: Call) -> None:
    _print_json({"ended": call.services().login_sessions.end_all(call.args.owner)})


def _jobs_list(call: Call) -> None:
    from services.upkeep.jobs import JobQuery

    args, jobs = call.args, call.services().jobs
    for job in _all_pages(
        lambda cursor: jobs.page(JobQuery(args.status, args.queue, args.task, args.owner, limit=200, cursor=cursor))
    ):
        print(json.dumps(asdict(job), default=str))


def _jobs_counts(call: Call) -> None:
    _print_json(call.services().jobs.counts())


def _jobs_retry(call: Call) -> None:
    call.services().jobs.retry(call.args.id)


def _jobs_remove(call: Call) -> None:
    call.services().jobs.remove(call.args.id)


def _all_pages(page_after: Callable[[str | None], Page[Any]]) -> Iterator[Any]:
    cursor = None
    while True:
        page = page_after(cursor)
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return


def _amount(text: str) -> int:
    """A number of bytes or files."""
    if not 0 <= int(text) < 2**63:
        raise ValueError
    return int(text)


def _moment(text: str) -> datetime:
    """A date or time; without a zone it is UTC."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _print_json(value: object) -> None:
    print(json.dumps(value))


def _warn(line: str) -> None:
    print(line, file=sys.stderr)


@dataclass(frozen=True, slots=True)
class Command:
    """A command. Unless it is ``standalone``, it needs a running deployment, whose embedded servers it looks up."""

    run: Callable[[Call], object]  # an int is the exit status
    help: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    standalone: bool = False


_JSON = {"action": "store_true", "help": "print JSON"}
_WORKER = {
    "--queues": {"default": "", "help": "comma-separated; default: all"},
    "--concurrency": {"type": int, "metavar": "N", "help": "concurrent jobs of each queue (WORKER_CONCURRENCY)"},
}
_BOOTSTRAP = {"--no-key": {"action": "store_true", "help": "create no admin key, which would be printed"}}
_DEMO = {
    "--files": {"type": int, "required": True, "metavar": "N", "help": "number of files"},
    "--objects": {"type": int, "default": 300, "metavar": "N", "help": "how many of them have content (300)"},
    "--folders": {"type": int, "default": 50, "metavar": "N", "help": "folders of each owner (50; at most 10000)"},
    "--owners": {"type": int, "default": 1, "metavar": "N", "help": "number of owners: demo-1, demo-2 … (1)"},
    "--owner": {"metavar": "ID", "help": "instead, an owner who has nothing yet"},
    "--seed": {"type": int, "default": 1, "metavar": "N", "help": "other numbers invent other files (1)"},
}
_KEY = {
    "--owner": {"required": True, "help": "owner_id, up to 255 characters"},
    "--role": {"choices": ["user", "admin"], "default": "user"},
    "--name": {"default": ""},
    "--scopes": {"metavar": "LIST", "help": "of read,write,delete,admin; default: all that the role allows"},
    "--folder": {"type": int, "metavar": "ID", "help": "only this folder of the owner and what is below it"},
    "--expires-in": {"type": _seconds_from_now, "dest": "expires_at", "metavar": "SECONDS", "help": "default: never"},
    "--json": _JSON,
}
_JOBS = {"--status": {"choices": ["todo", "doing", "failed", "cancelled"]}, "--queue": {}, "--task": {}, "--owner": {}}
_DRY_RUN = {"--dry-run": {"action": "store_true", "help": "only report what would be done"}}

_QUOTA = {
    "owner": {"help": "owner_id"},
    "--bytes": {
        "type": _amount,
        "metavar": "N",
        "help": "the most bytes; without it the owner has no limit of its own",
    },
    "--files": {"type": _amount, "metavar": "N", "help": "the most files; the same"},
}

_EXPORT = {
    "--since": {"type": _moment, "required": True, "metavar": "DATE", "help": "2026-11-23, or 2026-11-23T04:15:00Z"},
    "--until": {"type": _moment, "metavar": "DATE", "help": "before this moment (now)"},
}

_GROUPS = {
    "audit": "export audit events, and drop old ones",
    "jobs": "list, retry and remove jobs",
    "keys": "create, list and revoke API keys",
    "quotas": "list and set owners' quotas",
    "sessions": "end sessions of browsers",
}
_COMMANDS = {
    "start": Command(_start, standalone=True),
    "serve": Command(_serve, "the HTTP server alone", standalone=True),
    "worker": Command(_worker, "a job worker alone; any number of them, on any machine", _WORKER, standalone=True),
    "migrate": Command(_migrate, "migrate the database"),
    "bootstrap": Command(
        _bootstrap, "migrate; create bucket, CORS rules and a first admin key", _BOOTSTRAP, standalone=True
    ),
    "env": Command(_env, "print the running deployment's settings as shell assignments", standalone=True),
    "doctor": Command(_doctor, "check bucket, virus scanner and sandbox", {"--json": _JSON}, standalone=True),
    "janitor": Command(_janitor, "clean up once", _DRY_RUN),
    "rescan": Command(_rescan, "scan all files for viruses again, in the background"),
    "seed-demo": Command(_seed_demo, "add demonstration files, for owners of their own", _DEMO),
    "audit export": Command(_audit_export, "print events, oldest first, one JSON object per line", _EXPORT),
    "audit prune": Command(_audit_prune, "sum and drop whole months older than AUDIT_MONTHS", _DRY_RUN),
    "jobs list": Command(_jobs_list, "list waiting, running and failed jobs, one JSON object per line", _JOBS),
    "jobs counts": Command(_jobs_counts, "print the number of jobs by queue and status as JSON"),
    "jobs retry": Command(_jobs_retry, "retry a failed job", {"id": {"type": int}}),
    "jobs remove": Command(_jobs_remove, "remove a failed job, or cancel one that waits", {"id": {"type": int}}),
    "keys create": Command(_keys_create, "create a key, which is shown only once", _KEY),
    "keys list": Command(_keys_list, "list the active keys, one JSON object per line"),
    "keys revoke": Command(_keys_revoke, "revoke a key at once", {"id": {"type": UUID}}),
    "quotas list": Command(_quotas_list, "list what owners use and may use, one JSON object per line"),
    "quotas set": Command(_quotas_set, "replace an owner's own quota, and print what applies as JSON", _QUOTA),
    "sessions end": Command(_sessions_end, "sign an owner out of all browsers", {"owner": {"help": "owner_id"}}),
}
