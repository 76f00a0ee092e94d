"""What the gateway does. No Flask, no SQL text, no vendor SDK here: only the steps and their order.

A service is a small class whose constructor lists what it needs. A method is one thing a person could ask for; it takes
the principal first, opens the transaction itself, and never holds it while bytes move.
"""

from __future__ import annotations

from dataclasses import dataclass

from db import Database
from services.access.idempotency import Idempotency
from services.access.keys import Keys
from services.access.upload_tokens import UploadTokens
from services.library.delivery import Delivery
from services.library.files import Files
from services.library.folders import Folders
from services.library.public_copies import PublicCopies
from services.library.search import Search
from services.library.stats import Stats
from services.processing.compression import Compression
from services.processing.pipeline import Pipeline
from services.processing.previews import Previews
from services.processing.scanning import Scanning
from services.upkeep.health import Health
from services.upkeep.janitor import Janitor
from services.upkeep.jobs import Jobs
from services.uploads.direct import DirectUploads
from services.uploads.intake import Intake
from services.uploads.resumable import ResumableUploads
from services.uploads.s3_uploads import S3Uploads
from services.uploads.verification import Verification


@dataclass(frozen=True, slots=True)
class Services:
    """The bundle that app.wire() makes and both doors, api/ and jobs/, are given."""

    db: Database  # to be closed by whoever wired it
    keys: Keys
    intake: Intake
    files: Files
    folders: Folders
    verification: Verification
    scanning: Scanning | None  # None where no scanner is configured
    direct: DirectUploads | None  # None where the store can't presign
    resumable: ResumableUploads | None  # as direct
    s3_uploads: S3Uploads | None  # as direct
    delivery: Delivery
    compression: Compression
    previews: Previews
    pipeline: Pipeline
    public_copies: PublicCopies
    jobs: Jobs
    search: Search
    stats: Stats
    upload_tokens: UploadTokens
    idempotency: Idempotency
    health: Health
    janitor: Janitor
