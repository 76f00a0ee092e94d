"""The upload gateway: this page creates all of its parts. ``wire()`` lists them, in the order in which they need each other.

python app.py             start everything: PostgreSQL and an S3 server unless they are set, the worker, the server
python app.py serve       the HTTP server alone           python app.py worker     a job worker alone
python app.py --help      all commands (commands/)
"""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import timedelta
from functools import partial

if __name__ == "__main__":  # without the imports below, which take 50 MiB: only commands that wire() anything need them
    import commands

    sys.exit(commands.main(sys.argv[1:]))

import flask

import api
from core import archive_rules
from core.content_types import Rules
from core.cursors import Cursors
from core.principal import Quota
from core.secrets import Secrets
from db import STATEMENT, STATEMENT_IN_REQUEST, Database
from services import Services
from services.access.code_flow import Client, CodeFlow
from services.access.concurrency import ConcurrencyLimit
from services.access.failed_credentials import FailedCredentials
from services.access.idempotency import Idempotency
from services.access.identity_provider import IdentityProvider, ProviderSettings
from services.access.keys import Keys
from services.access.login_sessions import LoginSessions, SessionLimits
from services.access.quotas import Quotas
from services.access.rate_limits import NAMES, LimitName, RateLimits
from services.access.upload_tokens import UploadTokens
from services.library.archive import Archive
from services.library.delivery import Delivery, DeliveryLimits
from services.library.files import Files
from services.library.folders import Folders
from services.library.public_copies import PublicCopies
from services.library.search import Search
from services.library.stats import Stats
from services.library.trash import Trash
from services.library.type_policy import TypePolicy
from services.objects.capacity import CapacityLimits, StorageCapacity
from services.objects.object_reader import ObjectReader
from services.objects.rewriting import Rewriter
from services.processing.clamd import Clamd, ScannerSettings
from services.processing.compression import Compression
from services.processing.pipeline import Pipeline
from services.processing.previews import Previews
from services.processing.scanning import Scanning
from services.recovery.backup import Backups
from services.recovery.repository import RepositoryOptions
from services.upkeep.archive_rules import ArchiveRules
from services.upkeep.audit import Audit
from services.upkeep.health import Health
from services.upkeep.janitor import Janitor
from services.upkeep.jobs import Jobs
from services.upkeep.scrub import Scrub
from services.upkeep.scrub_reading import Examiner
from services.upkeep.scrub_repair import Repairs
from services.uploads.completion import Completion
from services.uploads.concatenation import Concatenation
from services.uploads.direct import DirectLimits, DirectUploads
from services.uploads.intake import Intake
from services.uploads.policy import PolicyLimits, UploadPolicy
from services.uploads.resumable import ResumableUploads
from services.uploads.s3_uploads import S3Uploads
from services.uploads.verification import Verification
from settings import Settings, backup_storage_settings, database_url, keep_rules, secret_keys, storage_settings
from storage_backends import open_store
from storage_backends.base import Archives, Copies, Multipart, ObjectStore, PresignsParts
from telemetry import bucket_call, processes


def wire(
    settings: Settings, *, statement: float = STATEMENT, db: Database | None = None, store: ObjectStore | None = None
) -> Services:
    """Create all parts of the gateway.

    ``statement``: seconds that one SQL statement may take. ``db`` and ``store`` replace those of the settings."""
    # Database, bucket, and what everything else needs
    storage = storage_settings(settings)
    connections = max(4, settings.web_threads // 2)
    db = db or Database(database_url(settings), max_connections=connections, statement=statement)
    # The scrub has a client of its own: an object that stalls must not open the others' circuit breaker.
    reading = store or open_store(replace(storage, connections=2), observe=bucket_call)
    store = store or open_store(storage, observe=bucket_call)
    if not isinstance(store, Multipart) or not isinstance(store, Copies):
        raise SystemExit(f"STORAGE_BACKEND {storage.backend} supports neither multipart uploads nor copies.")
    secrets = Secrets(secret_keys(settings))
    cursors, links, tickets = (Cursors(secrets.derive(purpose)) for purpose in ("cursors", "links", "tickets"))
    reader = ObjectReader(db, store)
    space = CapacityLimits(settings.s3_capacity, settings.capacity_warning, settings.capacity_full)
    capacity = StorageCapacity(db, store, space)
    rewriter = Rewriter(db, store, reader, capacity)
    archive = _archive(settings, db, store, rewriter)
    types = TypePolicy(Rules(allowed=settings.allowed_types, denied=settings.denied_types))
    quota, upload_ttl = Quota(settings.quota_bytes, settings.quota_files), timedelta(seconds=settings.upload_ttl)

    # Files and their previews
    files = Files(db, store, reader, types, archive, ConcurrencyLimit(), quota=quota, cursors=cursors)
    preview_limit = ConcurrencyLimit(concurrency=settings.preview_concurrency)
    public_copies = PublicCopies(db, store, reader, archive, preview_limit)
    scanning = _scanning(settings, db, store, reader)
    scans = scanning is not None
    previews = Previews(
        db, store, reader, preview_limit, public_copies, scanned_only=scans, strict=settings.strict_sandbox
    )
    download_limits = DeliveryLimits(
        mode=settings.download_mode,
        url_ttl=timedelta(seconds=settings.download_url_ttl),
        url_max_ttl=timedelta(seconds=settings.download_url_max_ttl),
        max_zip_files=settings.max_zip_files,
        max_zip_bytes=settings.max_zip_bytes,
    )
    delivery = Delivery(db, store, reader, public_copies, archive, download_limits, links=links, scanned_only=scans)

    # Uploads: direct and resumable ones only if the store has the abilities
    session_quota = Quota(settings.session_quota_bytes, settings.session_quota_files)
    bounds = PolicyLimits(settings.max_file_size, quota, session_quota, settings.max_open_uploads)
    policy = UploadPolicy(db, types, capacity, bounds)
    intake = Intake(db, store, reader, policy, scan=scans)
    direct = resumable = None
    if isinstance(store, PresignsParts):
        limits = DirectLimits(upload_ttl, url_ttl=timedelta(seconds=settings.upload_url_ttl))
        completion = Completion(db, store, intake)
        direct = DirectUploads(db, store, intake, completion, limits, cursors=cursors)
        concatenation = Concatenation(db, store, intake, completion)
        resumable = ResumableUploads(db, store, intake, completion, concatenation, ttl=upload_ttl)

    rate_limits = _rate_limits(db, settings)

    # Who may call
    keys = Keys(db, cursors)
    session_limits = SessionLimits(
        life=timedelta(seconds=settings.session_ttl),
        idle=timedelta(seconds=settings.session_idle_ttl),
        per_owner=settings.max_sessions,
    )
    provider = _identity_provider(settings)

    health = Health(db, store, capacity, scanning)
    verification = Verification(db, store, reader, intake, scanning)
    backups = Backups(
        db,
        store,
        partial(repository_options, settings),
        to=settings.backup_to,
        schedule=settings.backup_schedule,
        keep=keep_rules(settings.backup_keep) if settings.backup_keep else None,
    )
    jobs = Jobs(db, cursors)
    stats = Stats(db, capacity, quota)
    trash = Trash(db, files, keep=timedelta(days=settings.trash_days))
    requeues = (verification.requeue_lost, jobs.revive, public_copies.enqueue_missing)
    janitor = Janitor(db, store, intake, trash, requeues, upload_ttl=upload_ttl)
    repairs = Repairs(db, store, backups.repository if settings.backup_to else None)
    scrub = Scrub(
        db, Examiner(db, store, reading), repairs, cursors, days=settings.scrub_days, rate=settings.scrub_rate
    )

    return Services(
        db=db,
        keys=keys,
        identity_provider=provider,
        code_flow=_code_flow(settings, provider, secrets),
        failed_credentials=FailedCredentials(rate_limits),
        login_sessions=LoginSessions(db, keys, session_limits),
        upload_tokens=UploadTokens(db, cursors),
        idempotency=Idempotency(db),
        rate_limits=rate_limits,
        quotas=Quotas(db, cursors, quota),
        slots=_slots(settings),
        intake=intake,
        direct=direct,
        resumable=resumable,
        s3_uploads=S3Uploads(db, direct, bucket=storage.bucket, tickets=tickets) if direct else None,
        verification=verification,
        scanning=scanning,
        pipeline=Pipeline(db, previews),
        previews=previews,
        archive=archive,
        archive_rules=ArchiveRules(db, archive, rewriter, archive_rules.parse(settings.archive_rules or "")),
        compression=Compression(db, rewriter, on=settings.compression == "on"),
        files=files,
        folders=Folders(db, cursors),
        delivery=delivery,
        public_copies=public_copies,
        search=Search(db, cursors),
        stats=stats,
        capacity=capacity,
        jobs=jobs,
        audit=Audit(db, cursors),
        backups=backups,
        health=health,
        janitor=janitor,
        scrub=scrub,
        gauges=[
            backups.gauges,
            jobs.gauges,
            stats.gauges,
            capacity.gauges,
            health.gauges,
            janitor.gauges,
            scrub.gauges,
            processes,
        ],
    )


def _archive(settings: Settings, db: Database, store: ObjectStore, rewriter: Rewriter) -> Archive:
    if settings.s3_archive_class and not isinstance(store, Archives):
        raise SystemExit(f"STORAGE_BACKEND {settings.storage_backend} has no storage classes: unset S3_ARCHIVE_CLASS.")
    return Archive(db, store, rewriter, bucket_class=settings.s3_archive_class)


def _scanning(settings: Settings, db: Database, store: ObjectStore, reader: ObjectReader) -> Scanning | None:
    clamd = scanner(settings)
    if clamd is None:
        return None
    rescan_every = timedelta(days=settings.rescan_days) if settings.rescan_days else None
    return Scanning(db, store, reader, clamd, unscannable=settings.scan_unscannable, rescan_every=rescan_every)


def _rate_limits(db: Database, settings: Settings) -> RateLimits | None:
    rates = {name: getattr(settings, f"rate_limit_{name}") for name in NAMES}
    counts_url = settings.rate_limits_url.get_secret_value() if settings.rate_limits_url else None
    return RateLimits(db, rates, url=counts_url) if settings.rate_limits == "on" else None


def _slots(settings: Settings) -> dict[LimitName, ConcurrencyLimit]:
    """For each of these an owner gets a quarter of a process's threads, and may let as many requests wait (T75)."""
    share = max(1, settings.web_threads // 4)
    kinds: tuple[LimitName, ...] = ("search", "batches")
    return {kind: ConcurrencyLimit(concurrency=2 * share, per_owner=share, waiting=share, timeout=10) for kind in kinds}


def _identity_provider(settings: Settings) -> IdentityProvider | None:
    if settings.jwt_issuer is None:
        return None
    return IdentityProvider(
        ProviderSettings(
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            jwks_url=settings.jwt_jwks_url,
            algorithms=settings.jwt_algorithms,
            owner_claim=settings.jwt_owner_claim,
            role_claim=settings.jwt_role_claim,
            admin_role=settings.jwt_admin_role,
            scope_claim=settings.jwt_scope_claim,
            bytes_claim=settings.jwt_quota_claim,
            files_claim=settings.jwt_files_claim,
            leeway=settings.jwt_leeway,
        )
    )


def _code_flow(settings: Settings, provider: IdentityProvider | None, secrets: Secrets) -> CodeFlow | None:
    if provider is None or settings.oidc_client_id is None:
        return None
    client_secret = settings.oidc_client_secret.get_secret_value() if settings.oidc_client_secret else None
    client = Client(settings.oidc_client_id, client_secret, f"{settings.base_url}/api/session/oidc/callback")
    return CodeFlow(provider, client, Cursors(secrets.derive("logins")))


def scanner(settings: Settings) -> Clamd | None:
    """The virus scanner, if one is set."""
    if settings.clamd_url is None:
        return None
    return Clamd(
        ScannerSettings(
            settings.clamd_url,
            max_size=settings.scan_max_size,
            timeout=settings.scan_timeout,
            concurrency=settings.scan_concurrency,
        )
    )


def repository_options(settings: Settings) -> RepositoryOptions:
    """How backups are signed, encrypted and reached. Raises OSError if the identity file can't be read."""
    identities = settings.backup_identity_file
    return RepositoryOptions(
        keys=Secrets(secret_keys(settings)).derive("backups"),
        storage=backup_storage_settings(settings),
        gateway=storage_settings(settings),
        recipients=settings.backup_recipients,
        identities=identities.read_text() if identities else None,
    )


def create_app(settings: Settings | None = None, services: Services | None = None) -> flask.Flask:
    """The HTTP application, for the server and for tests."""
    settings = settings or Settings()
    return api.create(services or wire(settings, statement=STATEMENT_IN_REQUEST), settings)
