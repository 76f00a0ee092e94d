"""``/api/admin``: API keys, quotas, jobs, the janitor, the scrub and virus scans."""

from __future__ import annotations

from dataclasses import asdict
from uuid import UUID

from flask import Blueprint, Response

from api import render
from api.context import services
from api.idempotency import once
from api.operations import BY_SERVICE, operation
from api.request_models import JanitorBody, JobListQuery, KeyBody, PageQuery, QuotaBody, ScrubQuery
from api.response_models import (
    BackupsOut,
    JobOut,
    JobPageOut,
    KeyPageOut,
    NewKeyOut,
    OwnerQuotaOut,
    QuotaPageOut,
    ReportOut,
    RescanOut,
    ScrubOut,
    ScrubPassOut,
)
from core.errors import Conflict, LimitReached, NotFound
from core.principal import Quota
from db.records import KeyRecord
from services.processing.scanning import configured
from services.upkeep.jobs import JobQuery

routes = Blueprint("admin", __name__)

_quota = render.as_model(OwnerQuotaOut)


@routes.post("/keys")
@operation(
    "Create an API key",
    access="admin",
    body=KeyBody,
    responses={201: NewKeyOut},
    request_headers=("Idempotency-Key",),
    errors=(NotFound, LimitReached),
    audit=BY_SERVICE,
)
def create_key(body: KeyBody) -> Response:
    """The key is only in this response; the gateway stores its SHA-256. Its `role` says whose files it reaches, its `scopes` what
    it may do with them: `read`, `write`, `delete` (also `?permanent=true` and `purge`), and `admin`, without which a key of the
    role `admin` can't use `/api/admin`. With `folder_id` nothing outside that folder exists for it."""

    def answer(made: tuple[KeyRecord, str | None]) -> Response:
        return render.answer(render.key(made[0]) | {"key": made[1]}, 201)

    return once(
        lambda claim: services().keys.create_key(**body.model_dump(), once=claim),
        answer,
        lambda recorded: (recorded.read(KeyRecord), None),
    )


@routes.get("/keys")
@operation("List API keys", access="admin", query=PageQuery, responses={200: KeyPageOut})
def list_keys(query: PageQuery) -> Response:
    """Those that are not revoked, oldest first."""
    return render.page(services().keys.list_keys(limit=query.limit, cursor=query.cursor), render.key)


@routes.delete("/keys/<uuid:key_id>")
@operation("Revoke an API key", access="admin", responses={204: None}, audit=BY_SERVICE)
def revoke_key(key_id: UUID) -> Response:
    """The next request with it gets 401."""
    services().keys.revoke_key(key_id)
    return render.no_content()


@routes.post("/janitor")
@operation("Run the janitor now", access="admin", body=JanitorBody, responses={200: ReportOut}, audit="janitor_run")
def janitor(body: JanitorBody) -> Response:
    """Remove what crashes and abandoned uploads have left, empty the trash, and compare all of the bucket with the database. With
    `dry_run`, the default, only report what would be done. Objects without a row that were written in a protected period, of
    which the database may have forgotten something, are kept unless `delete_protected` is set."""
    report = services().janitor.run(dry_run=body.dry_run, delete_protected=body.delete_protected)
    return render.answer(report.as_dict())


# -- quotas ----------------------------------------------------------------------------------------------------------------


@routes.get("/quotas")
@operation("List quotas", access="admin", query=PageQuery, responses={200: QuotaPageOut})
def list_quotas(query: PageQuery) -> Response:
    """Of all owners that keep something or have a quota, by id: what they use, their own quota (`quota_*`; null if an admin has
    set none) and the one that applies (`max_*`): the owner's own, else as its identity provider claims, else the
    deployment's. The trash counts, and unfinished uploads do."""
    return render.page(services().quotas.page(limit=query.limit, cursor=query.cursor), _quota)


@routes.put("/quotas/<path:owner_id>")
@operation("Set an owner's quota", access="admin", body=QuotaBody, responses={200: OwnerQuotaOut}, audit=BY_SERVICE)
def set_quota(owner_id: str, body: QuotaBody) -> Response:
    """It replaces the owner's own quota; null, or a member that is left out, means that the owner has none of this kind. If it is
    lower than what the owner uses, nothing is deleted, and nothing more is accepted."""
    return render.answer(_quota(services().quotas.set_own(owner_id, Quota(body.max_bytes, body.max_files))))


# -- jobs ------------------------------------------------------------------------------------------------------------------


@routes.get("/jobs")
@operation("List jobs", access="admin", query=JobListQuery, responses={200: JobPageOut})
def list_jobs(query: JobListQuery) -> Response:
    """Waiting, running and failed jobs, newest first; jobs that succeeded are not kept. `counts` are those of all jobs, by queue
    and status."""
    found = services().jobs.page(JobQuery(**query.model_dump()))
    return render.page(found, render.job, counts=services().jobs.counts())


@routes.post("/jobs/<job_id:job_id>/retry")
@operation("Retry a failed job", access="admin", responses={200: JobOut}, errors=(Conflict,), audit="job_retried")
def retry_job(job_id: int) -> Response:
    """Put it back into its queue and reset its attempts. `409` if it did not fail."""
    return render.answer(render.job(services().jobs.retry(job_id)))


@routes.delete("/jobs/<job_id:job_id>")
@operation("Remove a job", access="admin", responses={204: None}, errors=(Conflict,), audit="job_removed")
def remove_job(job_id: int) -> Response:
    """`409` if the job is running."""
    services().jobs.remove(job_id)
    return render.no_content()


# -- the virus scan --------------------------------------------------------------------------------------------------------


@routes.post("/rescan")
@operation(
    "Scan all files for viruses again",
    access="admin",
    responses={202: RescanOut},
    errors=(Conflict,),
    audit="rescan_begun",
)
def rescan() -> Response:
    """In the background, at the lowest priority. If a scan is running already, this returns its progress."""
    return render.answer(render.rescan(configured(services().scanning).begin_rescan()), 202)


@routes.get("/rescan")
@operation("Get the latest scan of all files", access="admin", responses={200: RescanOut}, errors=(Conflict, NotFound))
def latest_rescan() -> Response:
    """The running one, or the last one."""
    found = configured(services().scanning).latest_rescan()
    if found is None:
        raise NotFound("There has been no scan of all files yet.")
    return render.answer(render.rescan(found))


# -- the scrub -------------------------------------------------------------------------------------------------------------


@routes.get("/scrub")
@operation("Get damaged objects", access="admin", query=ScrubQuery, responses={200: ScrubOut})
def scrub(query: ScrubQuery) -> Response:
    """How reading all stored objects back goes, and what was found, newest first: open findings, or all with `resolved`."""
    found = services().scrub.findings(limit=query.limit, cursor=query.cursor, resolved=query.resolved)
    state = services().scrub.state()
    latest = state.latest_pass and render.scrub_pass(state.latest_pass)
    return render.page(found, render.scrub_finding, **asdict(state) | {"latest_pass": latest})


@routes.post("/scrub")
@operation("Read all stored objects back now", access="admin", responses={202: ScrubPassOut}, audit="scrub_begun")
def begin_scrub() -> Response:
    """In the background, as fast as `SCRUB_RATE` allows. If such a pass is running already, this returns its progress."""
    return render.answer(render.scrub_pass(services().scrub.begin()), 202)


# -- backups ---------------------------------------------------------------------------------------------------------------


@routes.get("/backups")
@operation("List backups", access="admin", responses={200: BackupsOut})
def list_backups() -> Response:
    """The last hundred that this deployment has made, newest first. `python app.py backup list` tells which of them are still in
    the repository."""
    return render.answer({"items": list(map(render.backup, services().backups.runs()))})


@routes.post("/backups")
@operation("Make a backup", access="admin", responses={202: BackupsOut}, errors=(Conflict,), audit="backup_started")
def start_backup() -> Response:
    """To `BACKUP_TO`, in the background, unless one waits already. Returns the last ones."""
    services().backups.start()
    return render.answer({"items": list(map(render.backup, services().backups.runs()))}, 202)
