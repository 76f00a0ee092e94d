"""What the gateway does. No Flask, no SQL text, no vendor SDK here: only the steps and their order.

A service is a small class whose constructor lists what it needs. A method is one thing a person could ask for; it takes
the principal first, opens the transaction itself, and never holds it while bytes move.
"""

from __future__ import annotations

from dataclasses import dataclass

from db import Database
from services.access import Access
from services.checking import Checking
from services.companion import Companion
from services.compression import Compression
from services.delivery import Delivery
from services.direct import DirectUploads
from services.files import Files
from services.folders import Folders
from services.health import Health
from services.idempotency import Idempotency
from services.intake import Intake
from services.jobs import Jobs
from services.previews import Previews
from services.processing import Processing
from services.publishing import Publishing
from services.scanning import Scanning
from services.search import Search
from services.stats import Stats
from services.tus import Tus
from services.upkeep import Upkeep
from services.upload_tokens import UploadTokens


@dataclass(frozen=True, slots=True)
class Services:
    """The bundle that app.wire() makes and both doors, api/ and jobs/, are given."""

    db: Database  # to be closed by whoever wired it
    access: Access
    intake: Intake
    files: Files
    folders: Folders
    checking: Checking
    scanning: Scanning | None  # None where no scanner is configured
    direct: DirectUploads | None  # None where the store can't presign
    tus: Tus | None  # as direct
    companion: Companion | None  # as direct
    delivery: Delivery
    compression: Compression
    previews: Previews
    processing: Processing
    publishing: Publishing
    jobs: Jobs
    search: Search
    stats: Stats
    upload_tokens: UploadTokens
    idempotency: Idempotency
    health: Health
    upkeep: Upkeep
