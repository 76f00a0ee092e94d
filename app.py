"""The upload gateway, wired. Everything the backend consists of is named on this page; the rules live one step away.

python app.py                start the whole gateway: PostgreSQL and an S3 server where none are set, worker, server
python app.py serve          the HTTP server alone          python app.py worker     the job worker alone
python app.py bootstrap      migrate, make bucket and key   python app.py migrate    the database alone
python app.py env            settings of the running gateway as shell assignments
python app.py doctor         check the bucket               python app.py keys       make, list and revoke API keys
python app.py janitor        one clean-up run               python app.py jobs       what waits, and what failed
python app.py rescan         scan everything again          python app.py seed-demo  demonstration files, by the million
"""

from __future__ import annotations

import hashlib
import sys
from datetime import timedelta

import flask
from pydantic import ValidationError

import api
import commands
from core.content_types import Rules
from core.cursors import Cursors
from db import STATEMENT, STATEMENT_IN_REQUEST, Database
from parsers.locks import hide
from services import Services
from services.access.concurrency import ConcurrencyLimit
from services.access.idempotency import Idempotency
from services.access.keys import Keys
from services.access.upload_tokens import UploadTokens
from services.library.delivery import Delivery, DeliveryLimits
from services.library.files import Files
from services.library.folders import Folders
from services.library.public_copies import PublicCopies
from services.library.search import Search
from services.library.stats import Stats
from services.library.type_policy import TypePolicy
from services.objects.object_reader import ObjectReader
from services.processing.clamd import Clamd, ScannerSettings
from services.processing.compression import Compression
from services.processing.pipeline import Pipeline
from services.processing.previews import Previews
from services.processing.scanning import Scanning
from services.upkeep.health import Health
from services.upkeep.janitor import Janitor
from services.upkeep.jobs import Jobs
from services.uploads.completion import Completion
from services.uploads.concatenation import Concatenation
from services.uploads.direct import DirectLimits, DirectUploads
from services.uploads.intake import Intake
from services.uploads.policy import PolicyLimits, UploadPolicy
from services.uploads.resumable import ResumableUploads
from services.uploads.s3_uploads import S3Uploads
from services.uploads.verification import Verification
from settings import Settings
from storage_backends import StorageSettings, open_store
from storage_backends.base import Copies, Multipart, PresignsParts
from telemetry import configure_logging, metrics


def storage_settings(settings: Settings) -> StorageSettings:
    if settings.s3_endpoint is None or settings.s3_access_key is None or settings.s3_secret_key is None:
        raise SystemExit(
            "Set S3_ENDPOINT, S3_ACCESS_KEY and S3_SECRET_KEY, or run `python app.py` for an embedded S3 server."
        )
    return StorageSettings(
        backend=settings.storage_backend,
        endpoint=settings.s3_endpoint,
        public_endpoint=settings.s3_public_endpoint or settings.s3_endpoint,
        region=settings.s3_region,
        bucket=settings.s3_bucket,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key.get_secret_value(),
        connections=settings.web_threads,
        local_path=settings.s3_local_path,
    )


def database_url(settings: Settings) -> str:
    if settings.database_url is None:
        raise SystemExit("Set DATABASE_URL, or run `python app.py` for an embedded PostgreSQL.")
    return settings.database_url.get_secret_value()


def wire(settings: Settings, *, statement: float = STATEMENT) -> Services:
    """Everything the gateway is made of, in order of dependence. ``statement``: seconds that one may take."""
    storage = storage_settings(settings)
    db = Database(database_url(settings), max_connections=max(4, settings.web_threads // 2), statement=statement)
    store = open_store(storage, observe=lambda *call: metrics().bucket_call(*call))
    if not isinstance(store, Multipart):
        raise SystemExit(f"STORAGE_BACKEND {storage.backend} can't take files in parts.")
    # Cursors, tickets and links are signed with a secret that is the same in all processes and after a restart.
    cursors = Cursors(hashlib.sha256(b"seals\0" + storage.secret_key.encode()).digest())
    quota = settings.quota_bytes
    upload_ttl = timedelta(seconds=settings.upload_ttl)

    keys = Keys(db, cursors)
    reader = ObjectReader(db, store)
    types = TypePolicy(Rules(allowed=settings.allowed_types, denied=settings.denied_types))
    policy = UploadPolicy(db, types, PolicyLimits(settings.max_file_size, quota, settings.max_open_uploads))
    scanning = (
        Scanning(
            db,
            store,
            reader,
            Clamd(
                ScannerSettings(
                    settings.clamd_url,
                    max_size=settings.scan_max_size,
                    timeout=settings.scan_timeout,
                    concurrency=settings.scan_concurrency,
                )
            ),
            unscannable=settings.scan_unscannable,
            rescan_every=timedelta(days=settings.rescan_days) if settings.rescan_days else None,
        )
        if settings.clamd_url is not None
        else None
    )
    intake = Intake(db, store, reader, policy, scan=scanning is not None)
    files = Files(db, store, reader, types, ConcurrencyLimit(), quota_bytes=quota, cursors=cursors)
    preview_limit = ConcurrencyLimit(concurrency=settings.preview_concurrency)
    public_copies = PublicCopies(db, store, reader, preview_limit)
    delivery = Delivery(
        db,
        store,
        reader,
        public_copies,
        DeliveryLimits(
            mode=settings.download_mode,
            url_ttl=timedelta(seconds=settings.download_url_ttl),
            url_max_ttl=timedelta(seconds=settings.download_url_max_ttl),
            max_zip_files=settings.max_zip_files,
            max_zip_bytes=settings.max_zip_bytes,
        ),
        cursors=cursors,
        scanned_only=scanning is not None,
    )
    # What the store can do is asked here, once; what it can't is not mounted.
    direct = resumable = None
    if isinstance(store, PresignsParts) and isinstance(store, Copies):
        limits = DirectLimits(upload_ttl, url_ttl=timedelta(seconds=settings.upload_url_ttl))
        completion = Completion(db, store, intake)
        direct = DirectUploads(db, store, intake, completion, limits, cursors=cursors)
        concatenation = Concatenation(db, store, intake, completion)
        resumable = ResumableUploads(db, store, intake, completion, concatenation, ttl=upload_ttl)
    previews = Previews(
        db,
        store,
        reader,
        preview_limit,
        public_copies,
        scanned_only=scanning is not None,
        strict=settings.strict_sandbox,
    )
    return Services(
        db=db,
        keys=keys,
        intake=intake,
        files=files,
        verification=Verification(db, reader, intake, files, scanning),
        scanning=scanning,
        direct=direct,
        resumable=resumable,
        s3_uploads=S3Uploads(db, direct, bucket=storage.bucket, cursors=cursors) if direct else None,
        folders=Folders(db, cursors),
        delivery=delivery,
        compression=Compression(db, store, reader, on=settings.compression == "on"),
        previews=previews,
        pipeline=Pipeline(db, previews),
        public_copies=public_copies,
        jobs=Jobs(db, cursors),
        search=Search(db, cursors),
        stats=Stats(db, store, quota),
        upload_tokens=UploadTokens(db, cursors),
        idempotency=Idempotency(db),
        health=Health(db, store, scanning),
        janitor=Janitor(db, store, intake, files, upload_ttl=upload_ttl),
    )


def create_app(settings: Settings | None = None, services: Services | None = None) -> flask.Flask:
    """The HTTP application, for gunicorn and for tests."""
    settings = settings or Settings()
    return api.create(services or wire(settings, statement=STATEMENT_IN_REQUEST), settings)


def main(arguments: list[str]) -> int:
    hide()  # the settings below are secrets, and decoders run as the same user
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            print(f"{'.'.join(map(str, problem['loc'])).upper()}: {problem['msg']}", file=sys.stderr)  # noqa: T201
        return 2
    configure_logging(settings.log_level)
    return commands.run(arguments, settings, commands.Wiring(wire, create_app, storage_settings, database_url))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
