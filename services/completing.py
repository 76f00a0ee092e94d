"""The end of a direct upload: from bytes in the bucket to a file, once, whoever asks and how often.

    pending | uploading -> completing (one claim) -> done

A claim is a row's compare-and-set with a lease, so that a completer that died is followed by another. What came by a
single PUT or a POST form is copied to a key that no client ever heard of, and each attempt copies to a key of its own: a
slow attempt that was given up can then not change the bytes under a file that a later one made (THREATS R1, T45).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import batched
from typing import Protocol
from uuid import UUID

import psycopg
import structlog

from core import content_types, names
from core.errors import (
    ChecksumMismatch,
    FileTooLarge,
    GatewayError,
    Locked,
    NotFound,
    PartsMismatch,
    Unavailable,
    UploadGone,
)
from core.ids import object_key
from core.parts import PartPlan, missing, plan
from core.principal import Principal
from db import Database, files, jobs, uploads
from db.files import FileRecord, NewFile
from db.uploads import UploadRecord
from services.bucket import bucket_errors
from services.intake import FILE_PREFIX, INCOMING_PREFIX, PART_SIZE, Intake
from services.upload_tokens import uploader_of
from storage_backends.base import (
    Copies,
    InvalidPart,
    MultipartRef,
    ObjectNotFound,
    OutcomeUnknown,
    Part,
    PreconditionFailed,
    PresignsParts,
    StorageError,
    UploadNotFound,
)

log = structlog.get_logger()
