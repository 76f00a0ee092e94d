"""What the gateway does, without HTTP, SQL or vendors' SDKs.

A service is a class whose constructor lists what it needs. A public method is one thing that somebody can ask for. It opens
its own transaction, and never keeps it open while bytes move. What a user may ask for takes the principal first. app.wire()
makes all services.

By subject, each importing only those below it (an import contract holds this):

- upkeep      the janitor, health, the doctors, jobs, demonstration files
- recovery    backups and restores, moves to another bucket, import and export
- uploads     all ways to upload a file
- processing  scans, previews, texts and compression after an upload
- library     files and folders: list, search, change, download
- access      keys, upload tokens, visibility, Idempotency-Keys, quotas, rate limits
- objects     bytes in the bucket
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from db import Database
from services.access.code_flow import CodeFlow
from services.access.concurrency import ConcurrencyLimit
from services.access.failed_credentials import FailedCredentials
from services.access.idempotency import Idempotency
from services.access.identity_provider import IdentityProvider
from services.access.keys import Keys
from services.access.login_sessions import LoginSessions
from services.access.quotas import Quotas
from services.access.rate_limits import LimitName, RateLimits
from services.access.upload_tokens import UploadTokens
from services.library.archive import Archive
from services.library.delivery import Delivery
from services.library.files import Files
from services.library.folders import Folders
from services.library.public_copies import PublicCopies
from services.library.search import Search
from services.library.stats import Stats
from services.objects.capacity import StorageCapacity
from services.processing.compression import Compression
from services.processing.pipeline import Pipeline
from services.processing.previews import Previews
from services.processing.scanning import Scanning
from services.recovery.backup import Backups
from services.upkeep.archive_rules import ArchiveRules
from services.upkeep.audit import Audit
from services.upkeep.health import Health
from services.upkeep.janitor import Janitor
from services.upkeep.jobs import Jobs
from services.upkeep.scrub import Scrub
from services.uploads.direct import DirectUploads
from services.uploads.intake import Intake
from services.uploads.resumable import ResumableUploads
from services.uploads.s3_uploads import S3Uploads
from services.uploads.verification import Verification
from telemetry import Gauge


@dataclass(frozen=True, slots=True)
class Services:
    """All services, as app.wire() makes them for api/ and jobs/."""

    db: Database  # closed by whoever called wire()
    keys: Keys
    identity_provider: IdentityProvider | None  # None: none is configured
    code_flow: CodeFlow | None  # None: nobody signs in at the provider
    login_sessions: LoginSessions
    failed_credentials: FailedCredentials
    intake: Intake
    files: Files
    folders: Folders
    verification: Verification
    scanning: Scanning | None  # None: no scanner is configured
    direct: DirectUploads | None  # None: the store can't presign
    resumable: ResumableUploads | None  # as direct
    s3_uploads: S3Uploads | None  # as direct
    delivery: Delivery
    archive: Archive
    archive_rules: ArchiveRules
    compression: Compression
    previews: Previews
    pipeline: Pipeline
    public_copies: PublicCopies
    jobs: Jobs
    search: Search
    stats: Stats
    capacity: StorageCapacity
    upload_tokens: UploadTokens
    idempotency: Idempotency
    quotas: Quotas
    slots: Mapping[LimitName, ConcurrencyLimit]  # for expensive operations
    rate_limits: RateLimits | None  # None: RATE_LIMITS=off
    audit: Audit
    backups: Backups
    health: Health
    janitor: Janitor
    scrub: Scrub
    gauges: Sequence[Callable[[], list[Gauge]]]  # what /metrics measures when it is asked
