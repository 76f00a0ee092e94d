"""Whether the bucket is the one that the database's rows belong to."""

from __future__ import annotations

from core.errors import Unavailable
from db import Database, copies
from services.objects import bucket_mark
from services.upkeep.doctor import Check, Failed, NotTried, check
from storage_backends.base import ObjectStore

_CONSEQUENCE = "No file can be read, and what is uploaded now would not be found later."


def examine(db: Database, store: ObjectStore) -> list[Check]:
    """One check."""

    def attempt() -> str:
        try:
            with db.connection() as tx:
                wanted = copies.bucket_in_use(tx)
        except Unavailable as error:
            raise NotTried(error.detail) from error
        if wanted is None:
            raise NotTried("nothing was ever copied to another bucket, so this one has no mark")
        if bucket_mark.read(store) != wanted:
            raise Failed(bucket_mark.WRONG_BUCKET)
        return f"the bucket and the database name the same id, {wanted}"

    return [check("bucket: belongs to the database", attempt, _CONSEQUENCE)]
