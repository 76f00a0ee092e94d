"""The bound on an owner's tags (T73). Requests that run at the same time may exceed it by the tags that they bring."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import LimitReached
from db import Database, tags

MAX_TAGS_OF_OWNER = 5_000  # over all files


def check_tags(db: Database, owner_id: str, wanted: Sequence[str]) -> None:
    """Raises LimitReached if the owner has no room for those of the tags that are new."""
    if not wanted:
        return
    with db.connection() as tx:
        new = tags.count_new(tx, owner_id, wanted)
        if new and tags.count(tx, owner_id, limit=MAX_TAGS_OF_OWNER) + new > MAX_TAGS_OF_OWNER:
            raise LimitReached(f"An owner can have at most {MAX_TAGS_OF_OWNER:,} different tags.")
