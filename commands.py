"""The commands behind ``python app.py``: each parses its words and calls one service."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from uuid import UUID

import flask
from rich.console import Console
from rich.table import Table

import telemetry
from core.errors import GatewayError
from core.ids import FILE_PREFIX
from core.principal import Role
from db.jobs import QUEUES
from services import Services
from services.upkeep.doctor import sandbox
from services.upkeep.jobs import JobQuery
from settings import Settings, version
from storage_backends import StorageSettings, open_store
from storage_backends.base import ManagesBucket


@dataclass(frozen=True, slots=True)
class Wiring:
    """What app.py hands over: how the parts are made from the settings."""

    wire: Callable[[Settings], Services]
    create_app: Callable[[Settings], flask.Flask]
    storage_settings: Callable[[Settings], StorageSettings]
    database_url: Callable[[Settings], str]


def run(arguments: list[str], settings: Settings, wiring: Wiring) -> int:
    """Parse and run one command; the process's exit status. An error that a client would be told is one line here."""
    words = _parser().parse_args(arguments)
    try:
        if words.command in _OF_RUNNING and not (settings.database_url and settings.s3_endpoint):
            settings = _running(settings)
        return _COMMANDS[words.command or "start"](words, settings, wiring)
    except (GatewayError, ValueError) as error:
        print(f"{words.command or 'start'}: {error}", file=sys.stderr)
        return 1


def _running(settings: Settings) -> Settings:
    """The settings with what the supervisor chose for the embedded servers that run on this DATA_DIR."""
    from embedded import supervisor

    return Settings(**{name.lower(): value for name, value in supervisor.environment(settings).items()})  # type: ignore[arg-type]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="app.py", description="An upload gateway in front of an S3 bucket.")
    parser.add_argument("--version", action="version", version=f"upload-gateway {version()}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", title="commands (none: start the whole gateway)"
    )
    commands.add_parser("serve", help="the HTTP server alone")
    worker = commands.add_parser("worker", help="the job worker alone; any number of them, on any machine")
    worker.add_argument("--queues", default=",".join(QUEUES), help="comma-separated; default: %(default)s")
    worker.add_argument(
        "--concurrency", type=int, metavar="N", help="jobs of each queue at one time (WORKER_CONCURRENCY)"
    )
    commands.add_parser("migrate", help="bring the database to the newest revision")
    commands.add_parser("bootstrap", help="migrate, make bucket, CORS rules and a first admin key")
    commands.add_parser("env", help="print the running deployment's settings as shell assignments")
    doctor = commands.add_parser("doctor", help="check what bucket, virus scanner and sandbox can do")
    doctor.add_argument("--json", action="store_true", help="print JSON instead of a table")
    janitor = commands.add_parser("janitor", help="one clean-up run")
    janitor.add_argument("--dry-run", action="store_true", help="only say what would be done")
    jobs = commands.add_parser("jobs", help="what waits in the queue, and what failed").add_subparsers(
        dest="action", required=True
    )
    listed = jobs.add_parser("list", help="jobs that wait, run or failed, one JSON object a line")
    listed.add_argument("--status", choices=["todo", "doing", "failed", "cancelled"])
    for name in ("queue", "task", "owner"):
        listed.add_argument(f"--{name}")
    jobs.add_parser("counts", help="how many, by queue and status, as JSON")
    jobs.add_parser("retry", help="try a failed job again").add_argument("id", type=int)
    jobs.add_parser("remove", help="forget a failed job, or cancel one that waits").add_argument("id", type=int)
    commands.add_parser("rescan", help="scan everything for viruses again, in the background")
    demo = commands.add_parser("seed-demo", help="add demonstration files, under owners of their own")
    demo.add_argument("--files", type=int, required=True, metavar="N", help="how many")
    demo.add_argument("--objects", type=int, default=300, metavar="N", help="how many of them with real bytes (300)")
    demo.add_argument("--folders", type=int, default=50, metavar="N", help="of each owner (50; at most 10000)")
    demo.add_argument("--owners", type=int, default=1, metavar="N", help="how many: demo-1, demo-2 … (1)")
    demo.add_argument("--owner", metavar="ID", help="instead, an owner who has nothing yet")
    demo.add_argument("--seed", type=int, default=1, metavar="N", help="other numbers invent other files (1)")
    keys = commands.add_parser("keys", help="make, list and revoke API keys").add_subparsers(
        dest="action", required=True
    )
    create = keys.add_parser("create", help="make a key; it is shown this once")
    create.add_argument("--owner", required=True, help="owner_id, any text of up to 255 characters")
    create.add_argument("--role", choices=["user", "admin"], default="user")
    create.add_argument("--name", default="")
    create.add_argument("--json", action="store_true", help="print JSON instead of the bare key")
    keys.add_parser("list", help="list the keys in use, one JSON object a line")
    keys.add_parser("revoke", help="end a key at once").add_argument("id", type=UUID)
    return parser


def _start(words: argparse.Namespace, settings: Settings, wiring: Wiring) -> int:
    from embedded import supervisor  # only here: a deployment does without the embedded servers

    return supervisor.run(settings)


def _serve(words: argparse.Namespace, settings: Settings, wiring: Wiring) -> int:
    import web_server

    sandbox.suffices(strict=settings.strict_sandbox)  # looked up here once for all its processes
    telemetry.share_metrics(settings.data_dir)
    (wiring.database_url(settings), wiring.storage_settings(settings))  # say what is missing before workers start
    return web_server.run(lambda: wiring.create_app(settings), settings)


def _worker(words: argparse.Namespace, settings: Settings, wiring: Wiring) -> int:
    from jobs import worker

    if not sandbox.suffices(strict=settings.strict_sandbox):
        raise ValueError("parsers can't be locked in here, see `python app.py doctor` (ALLOW_WEAK_SANDBOX=on)")
    queues = [name.strip() for name in words.queues.split(",") if name.strip()]
    if not queues or not set(queues) <= set(QUEUES):
        raise ValueError(f"--queues takes some of {', '.join(QUEUES)}")
    if words.concurrency is not None and not 1 <= words.concurrency <= 64:
        raise ValueError("--concurrency takes 1 to 64")
    telemetry.share_metrics(settings.data_dir)
    if settings.worker_metrics_port is not None:
        telemetry.serve_metrics(settings.host, settings.worker_metrics_port)
    worker.run(
        wiring.wire(settings),
        database_url=wiring.database_url(settings),
        queues=queues,
        concurrency=words.concurrency or settings.worker_concurrency,
        lease=settings.worker_lease,
    )
    return 0


def _migrate(words: argparse.Namespace, settings: Settings, wiring: Wiring) -> int:
    from db.migrate import migrate

    migrate(wiring.database_url(settings))
    return 0


def _bootstrap(words: argparse.Namespace, settings: Settings, wiring: Wiring) -> int:
    _migrate(words, settings, wiring)
    store = open_store(wiring.storage_settings(settings))
    if isinstance(store, ManagesBucket):
        store.ensure_bucket()
        origins = settings.cors_origins or (settings.base_url,)
        if not store.set_cors(origins):
            print("The bucket's CORS rules can't be set by request; see `python app.py doctor`.", file=sys.stderr)
        # Counted from the beginning, while an upload's life is renewed as long as its client is at it: so, generously.
        store.set_abort_incomplete_rule(FILE_PREFIX, days=max(30, -(-settings.upload_ttl // 86_400) + 1))
    if settings.clamd_url is not None:
        print(
            "CLAMD_URL is set. clamd must have AlertExceedsMax, AlertEncryptedArchive and AlertEncryptedDoc set to yes, and"
            f" StreamMaxLength, MaxFileSize and MaxScanSize to {settings.scan_max_size} bytes or more (SCAN_MAX_SIZE);"
            " `python app.py doctor` tries it out.",
            file=sys.stderr,
        )
    given = settings.admin_api_key.get_secret_value() if settings.admin_api_key else None
    made = wiring.wire(settings).keys.ensure_admin_key(given)
    if made is not None:
        print(f"ADMIN_API_KEY={made}")
    return 0


def _env(words: argparse.Namespace, settings: Settings, wiring: Wiring) -> int:
    from embedded import supervisor

    for name, value in supervisor.environment(settings).items():
        print(f"{name}={shlex.quote(value)}")
    return 0


def _doctor(words: argparse.Namespace, settings: Settings, wiring: Wiring) -> int:
    from services.processing.scanning import configured
    from services.upkeep.doctor import bucket, scanner

    store = open_store(wiring.storage_settings(settings))
    checks = bucket.examine(store, origins=settings.cors_origins or (settings.base_url,))
    checks += sandbox.examine(strict=settings.strict_sandbox)
    if settings.clamd_url is not None:
        checks += scanner.examine(configured(wiring.wire(settings).scanning).clamd)
    if words.json:
        print(
            json.dumps([{"name": c.name, "ok": c.ok, "detail": c.detail, "consequence": c.consequence} for c in checks])
        )
    else:
        table = Table("check", "", "found", "if it is missing")
        for check in checks:
            mark = {True: "[green]yes", False: "[red]no", None: "[yellow]?"}[check.ok]
            table.add_row(check.name, mark, check.detail, "" if check.ok else check.consequence)
        Console().print(table)
    return 0 if all(check.ok is not False for check in checks) else 1


def _janitor(words: argparse.Namespace, settings: Settings, wiring: Wiring) -> int:
    print(json.dumps(wiring.wire(settings).janitor.run(dry_run=words.dry_run).as_dict()))
    return 0


def _rescan(words: argparse.Namespace, settings: Settings, wiring: Wiring) -> int:
    from services.processing.scanning import configured

    begun = configured(wiring.wire(settings).scanning).begin_rescan()
    print(json.dumps({"id": begun.id, "scanned": begun.scanned, "infected": begun.infected}))
    return 0


def _seed_demo(words: argparse.Namespace, settings: Settings, wiring: Wiring) -> int:
    from services.upkeep.demo import Demo, DemoPlan

    store = open_store(wiring.storage_settings(settings))
    plan = DemoPlan(words.files, words.objects, words.folders, words.owners, words.seed, words.owner)
    report = Demo(wiring.wire(settings).db, store).seed(plan, progress=lambda line: print(line, file=sys.stderr))
    print(json.dumps(report.as_dict(), ensure_ascii=False))
    return 0


def _keys(words: argparse.Namespace, settings: Settings, wiring: Wiring) -> int:
    keys = wiring.wire(settings).keys
    if words.action == "create":
        role: Role = words.role
        record, key = keys.create_key(words.owner, name=words.name, role=role)
        shown = {
            "id": str(record.id),
            "key": key,
            "owner_id": record.owner_id,
            "name": record.name,
            "role": record.role,
            "created_at": record.created_at.isoformat().replace("+00:00", "Z"),
        }
        print(json.dumps(shown) if words.json else key)
    elif words.action == "revoke":
        keys.revoke_key(words.id)
    else:
        cursor = None
        while True:
            page = keys.list_keys(limit=200, cursor=cursor)
            for record in page.items:
                print(
                    json.dumps(
                        {"id": str(record.id), "owner_id": record.owner_id, "name": record.name, "role": record.role}
                    )
                )
            cursor = page.next_cursor
            if cursor is None:
                break
    return 0


def _jobs(words: argparse.Namespace, settings: Settings, wiring: Wiring) -> int:
    service = wiring.wire(settings).jobs
    if words.action == "retry":
        service.retry(words.id)
    elif words.action == "remove":
        service.remove(words.id)
    elif words.action == "counts":
        print(json.dumps(service.counts()))
    else:
        cursor = None
        while True:
            query = JobQuery(words.status, words.queue, words.task, words.owner, limit=200, cursor=cursor)
            page = service.page(query)
            for job in page.items:
                print(json.dumps(asdict(job), default=str))
            cursor = page.next_cursor
            if cursor is None:
                break
    return 0


# These speak to a deployment that runs already, embedded servers included.
_OF_RUNNING = frozenset({"migrate", "doctor", "janitor", "jobs", "keys", "rescan", "seed-demo"})

_COMMANDS: dict[str, Callable[[argparse.Namespace, Settings, Wiring], int]] = {
    "start": _start,
    "serve": _serve,
    "worker": _worker,
    "migrate": _migrate,
    "bootstrap": _bootstrap,
    "env": _env,
    "doctor": _doctor,
    "janitor": _janitor,
    "jobs": _jobs,
    "rescan": _rescan,
    "seed-demo": _seed_demo,
    "keys": _keys,
}
