"""What happens to a file after its bytes are there: which work follows, enqueued in the transaction that makes it due."""

from __future__ import annotations

from core.content_types import PICTURES
from db import Tx, jobs
from db.files import FileRecord


def begin(tx: Tx, file: FileRecord) -> None:
    """Enqueue what follows a file's becoming ``ready`` on an object of its own. One that shares another's has all already."""
    if file.mime_type in PICTURES:
        jobs.enqueue(tx, "make_previews", owner_id=file.owner_id, file_id=str(file.id))
