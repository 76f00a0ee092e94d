"""Commands that keep a deployment in order: the janitor, the scrub, jobs, audit events, scans, statistics, demonstrations."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from commands.base import (
    Call,
    Command,
    Group,
    Moment,
    all_pages,
    dry_run_option,
    json_option,
    pass_call,
    print_json,
    progress,
    show,
    show_rows,
    warn,
)
from settings import migration_database_url

if TYPE_CHECKING:
    from db.records import ScrubPassRecord


@click.command(cls=Command)
@dry_run_option
@click.option(
    "--delete-protected",
    is_flag=True,
    help="Also delete objects without a row that were written in a protected period, of which the database may have forgotten"
    " something: an older state was put back, or the gateway did not run.",
)
@json_option
@pass_call
def janitor(call: Call, dry_run: bool, delete_protected: bool, as_json: bool) -> int:
    """Clean up, and compare all of the bucket with the database.

    Ends abandoned uploads, empties the trash, corrects what is counted wrong. Status 1 if the bucket lacks an object
    that a file needs, or could not be compared."""
    with progress("Objects compared") as bar:
        report = call.services().janitor.run(dry_run=dry_run, delete_protected=delete_protected, listed=bar.advance)
    if as_json:
        print_json(report.as_dict())
    else:
        print("This would be done:" if dry_run else "This was done:")
        for kind, count in report.counts().items():
            print(f"  {kind.replace('_', ' '):<24}{count:>12}")
            for example in report.examples.get(kind, ()):
                print(f"      {example}")
        if not report.compared:
            print("The bucket could not be compared to its end.")
    return int(not report.compared or bool(report.missing_objects or report.still_missing_objects))


@click.command(cls=Command)
@click.option("--all", "everything", is_flag=True, help="Read all objects, not only those that are due now.")
@click.option("--report", is_flag=True, help="Read nothing; print what was found, as a text that can be mailed.")
@json_option
@pass_call
def scrub(call: Call, everything: bool, report: bool, as_json: bool) -> int:
    """Read stored objects back, and repair what is damaged.

    Each is compared with its SHA-256, and repaired from an equal object or a backup, at SCRUB_RATE. Status 1 if
    objects are damaged, or the bucket could not be read."""
    service = call.services().scrub
    interrupted, shown = None, 0
    if not report:
        if everything:
            service.begin()
        with progress("Objects read") as bar:

            def advance(current: ScrubPassRecord) -> None:
                nonlocal shown
                bar.expect(current.objects)
                bar.advance(current.read_objects - shown)
                shown = current.read_objects

            interrupted = service.run(seconds=None, progress=advance).interrupted
            while everything and interrupted is None and service.suspected():
                time.sleep(5)  # they are tried again in a minute
                interrupted = service.run(seconds=None, progress=advance).interrupted
    state = service.state()
    if as_json:
        found = all_pages(lambda cursor: service.findings(limit=200, cursor=cursor))
        print_json(asdict(state) | {"interrupted": interrupted, "findings": list(map(asdict, found))})
    else:
        print(service.report(), end="")
        if interrupted is not None:
            warn(f"The bucket or the database could not be read: {interrupted}")
    return int(bool(state.open) or interrupted is not None)


@click.command(cls=Command)
@json_option
@pass_call
def rescan(call: Call, as_json: bool) -> None:
    """Scan all files for viruses again, in the background."""
    from services.processing.scanning import configured

    begun = configured(call.services().scanning).begin_rescan()
    show({"id": begun.id, "scanned": begun.scanned, "infected": begun.infected}, as_json=as_json)


@click.command(cls=Command)
@click.option("--owner", default="*", metavar="ID", help="Of one owner; default: of all.")
@json_option
@pass_call
def stats(call: Call, owner: str, as_json: bool) -> None:
    """Show how much is stored, of which types, and the space left."""
    from core.principal import Principal

    show(call.services().stats.storage(Principal("", role="admin"), owner), as_json=as_json)


@click.command(cls=Command)
@json_option
@pass_call
def capacity(call: Call, as_json: bool) -> int:
    """Show the space in the bucket and when it will be full. Status 1 if uploads are refused."""
    report = call.services().capacity.report()
    if report is None:
        raise ValueError("nothing tells the space: set S3_LOCAL_PATH, S3_METRICS_URL or S3_CAPACITY")
    show(report, as_json=as_json)
    return 1 if report["level"] == "full" else 0


@click.command(cls=Command)
@click.option("--rules", "text", metavar="RULES", help="Rules as in ARCHIVE_RULES, instead of these.")
@dry_run_option
@json_option
@pass_call
def archive(call: Call, text: str | None, dry_run: bool, as_json: bool) -> int:
    """Archive now what ARCHIVE_RULES say.

    With --dry-run: tell, for each rule, what that would be and save. Status 1 if an object could not be archived."""
    from core import archive_rules

    rules = call.services().archive_rules
    if text is not None:
        try:
            rules = rules.instead(archive_rules.parse(text))
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--rules") from None
    if not rules.rules:
        warn("archive: ARCHIVE_RULES is not set, so nothing is archived by itself.")
        return 0
    if dry_run:
        reports = rules.preview()
    else:
        with progress("Archiving") as bar:
            reports = rules.run(bar.advance)
    show_rows([report.as_dict() for report in reports], as_json=as_json)
    if dry_run and not as_json:
        warn("estimated_saved_bytes: by compression, from the first MiB of each sampled object.")
    return 0 if dry_run or all(report.archived_objects == report.objects for report in reports) else 1


@click.command("seed-demo", cls=Command)
@click.option("--files", type=int, required=True, help="Number of files.")
@click.option("--objects", type=int, default=300, show_default=True, help="How many of them have content.")
@click.option("--folders", type=int, default=50, show_default=True, help="Folders of each owner; at most 10000.")
@click.option("--owners", type=int, default=1, show_default=True, help="Number of owners: demo-1, demo-2 …")
@click.option("--owner", "owner_id", metavar="ID", help="Instead, an owner who has nothing yet.")
@click.option("--seed", type=int, default=1, show_default=True, help="Other numbers invent other files.")
@json_option
@pass_call
def seed_demo(call: Call, /, as_json: bool, **plan: Any) -> None:
    """Add demonstration files, for owners of their own."""
    from services.upkeep.demo import Demo, DemoPlan

    show(Demo(call.services().db, call.store()).seed(DemoPlan(**plan), progress=warn), as_json=as_json)


# -- audit events ----------------------------------------------------------------------------------------------------------


@click.group(cls=Group)
def audit() -> None:
    """Export audit events, and drop old ones."""


@audit.command("export")
@click.option("--since", type=Moment(), required=True, help="2026-11-23, or 2026-11-23T04:15:00Z.")
@click.option("--until", type=Moment(), help="Before this moment (now).")
@click.option("--json", is_flag=True, help="Changes nothing: events are always JSON.")
@pass_call
def export_events(call: Call, since: datetime, until: datetime | None, json: bool) -> None:
    """Print events, oldest first, one JSON object per line."""
    from services.upkeep.audit import EventFilter

    services = call.services()
    with closing(services.db):
        for event in services.audit.export(EventFilter(date_from=since, date_to=until)):
            print_json(event._asdict())


@audit.command("prune")
@dry_run_option
@json_option
@pass_call
def prune_events(call: Call, dry_run: bool, as_json: bool) -> None:
    """Sum and drop whole months older than AUDIT_MONTHS."""
    from db import Database
    from services.upkeep import audit

    settings = call.deployment()
    with closing(Database(migration_database_url(settings))) as db:
        show_rows(audit.prune(db, months=settings.audit_months, dry_run=dry_run), as_json=as_json)


# -- jobs ------------------------------------------------------------------------------------------------------------------


@click.group(cls=Group)
def jobs() -> None:
    """List, retry and remove jobs."""


@jobs.command("list")
@click.option("--status", type=click.Choice(["todo", "doing", "failed", "cancelled"]))
@click.option("--queue")
@click.option("--task")
@click.option("--owner")
@json_option
@pass_call
def list_jobs(call: Call, /, as_json: bool, **wanted: Any) -> None:
    """List waiting, running and failed jobs, newest first."""
    from services.upkeep.jobs import JobQuery

    jobs = call.services().jobs
    found = all_pages(lambda cursor: jobs.page(JobQuery(**wanted, limit=200, cursor=cursor)))
    show_rows(found, as_json=as_json)


@jobs.command("counts")
@json_option
@pass_call
def count_jobs(call: Call, as_json: bool) -> None:
    """Print the number of jobs by queue and status."""
    show(call.services().jobs.counts(), as_json=as_json)


@jobs.command("retry")
@click.argument("id", type=int)
@pass_call
def retry_job(call: Call, id: int) -> None:
    """Retry a failed job."""
    call.services().jobs.retry(id)


@jobs.command("remove")
@click.argument("id", type=int)
@pass_call
def remove_job(call: Call, id: int) -> None:
    """Remove a failed job, or cancel one that waits."""
    call.services().jobs.remove(id)


COMMANDS = (janitor, archive, scrub, rescan, stats, capacity, seed_demo, audit, jobs)
