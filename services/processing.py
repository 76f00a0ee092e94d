"""What happens to a file after its bytes are there: which work follows, enqueued in the transaction that makes it due."""

from __future__ import annotations

from core.content_types import PICTURES, may_shrink
from db import Tx, jobs
from db.files import FileRecord


def begin(tx: Tx, file: FileRecord) -> None:
    """Enqueue what follows a file's becoming ``ready`` on an object of its own. One that shares another's has all already."""
    if file.mime_type in PICTURES:
        jobs.enqueue(tx, "make_previews", owner_id=file.owner_id, file_id=str(file.id))
    if may_shrink(file.mime_type, file.file_size):
        # Behind what reads the object, by its lock: previews and texts are kept under the key that was read.
        jobs.enqueue(
            tx,
            "compress_object",
            owner_id=file.owner_id,
            lock=f"object:{file.file_path}",
            priority=-10,
            file_id=str(file.id),
        )
