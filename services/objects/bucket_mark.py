"""Which bucket this is: an object in it has the id of a row, once there are two buckets that could be mistaken for each other.

With the wrong one, every file would look altered, and uploads would go where nobody reads them later. A bucket without an id is
known to be the wrong one if it holds none of many objects that the rows name, chosen at random (``require_objects``)."""

from __future__ import annotations

from uuid import UUID

from core.errors import Unavailable
from core.ids import MARK_KEY, new_id
from db import Database, copies, objects
from storage_backends.base import ObjectNotFound, ObjectStore

WRONG_BUCKET = (
    "This is not the bucket that the database belongs to (`python app.py copy-storage` has switched it to another one, or"
    " from there): check S3_ENDPOINT and S3_BUCKET."
)
EMPTY_BUCKET = (
    "The bucket holds none of {count} objects that the database names, chosen at random: check S3_ENDPOINT and S3_BUCKET."
    " Nothing was changed. If the bucket has lost everything, bring it back by `python app.py restore --bucket-only`."
)
_SAMPLE = 100  # objects
_FEWEST = 20  # so many may really be lost together


def read(store: ObjectStore) -> UUID | None:
    """The id in the bucket; None if it has none. Raises StorageError."""
    try:
        with store.open(MARK_KEY) as reader:
            return UUID(reader.read(64).decode())
    except (ObjectNotFound, ValueError):
        return None


def read_or_write(store: ObjectStore) -> UUID:
    """The id in the bucket, which gets one if it has none. Raises StorageError."""
    found = read(store)
    if found is None:
        store.put(MARK_KEY, str(new_id()).encode(), content_type="text/plain")
        found = read(store)
        assert found is not None
    return found


def is_right(db: Database, store: ObjectStore) -> bool:
    """Whether the rows belong to this bucket, as far as is known. Raises Unavailable, StorageError."""
    with db.connection() as tx:
        wanted = copies.bucket_in_use(tx)
    return wanted is None or read(store) == wanted


def check(db: Database, store: ObjectStore) -> None:
    """Raise Unavailable if the rows belong to another bucket."""
    if not is_right(db, store):
        raise Unavailable(WRONG_BUCKET)


def require_objects(db: Database, store: ObjectStore) -> bool:
    """Raise Unavailable if none of many objects is in the bucket, which is then another one; a single one that is found ends the
    search. False if there are too few rows to tell. Raises StorageError."""
    with db.connection() as tx:
        keys = objects.sample(tx, limit=_SAMPLE)
    if len(keys) < _FEWEST:
        return False
    if not any(_is_there(store, key) for key in keys):
        raise Unavailable(EMPTY_BUCKET.format(count=len(keys)))
    return True


def _is_there(store: ObjectStore, key: str) -> bool:
    try:
        store.stat(key)
    except ObjectNotFound:
        return False
    return True
