"""The job that compresses stored objects of types that shrink (services/objects/rewriting.py)."""

from __future__ import annotations

from uuid import UUID

import structlog

from core import content_types
from core.errors import ContentMissing
from db import Database, files
from services.objects.rewriting import Rewriter, may_rewrite
from storage_backends.base import ObjectNotFound

log = structlog.get_logger()

LEVEL = 3  # of zstd; level 9 takes five times as long and saves a tenth


class Compression:
    """Compress objects of types that shrink."""

    def __init__(self, db: Database, rewriter: Rewriter, *, on: bool):
        self._db = db
        self._rewriter = rewriter
        self._on = on

    def compress(self, file_id: UUID) -> None:
        """Replace the file's object if that saves a tenth. Raises Unavailable: try again later."""
        with self._db.connection() as tx:
            file = may_rewrite(files.get(tx, file_id))
        if file is None or not self._on or file.encoding is not None or file.storage_class != "standard":
            return
        if not content_types.may_shrink(file.mime_type, file.file_size):
            return
        try:
            self._rewriter.compress(file, level=LEVEL)
        except (ObjectNotFound, ContentMissing):
            log.warning("compression_without_object", file_id=str(file_id))
