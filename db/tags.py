"""How many tags an owner uses, over all files (file_tags, which a trigger keeps)."""

from __future__ import annotations

from collections.abc import Sequence

from db import Tx, scalar

_NEW = """
select count(*) from unnest(%(tags)s::text[]) wanted (tag)
where not exists (select from file_tags f where f.owner_id = %(owner)s and f.tag = wanted.tag collate "C")
"""
# From each tag to the next one in the index, however many files have it.
_COUNT = """
with recursive tags (tag) as (
    (select tag from file_tags where owner_id = %(owner)s order by tag limit 1)
    union all
    select (select f.tag from file_tags f where f.owner_id = %(owner)s and f.tag > t.tag order by f.tag limit 1)
    from tags t where t.tag is not null
)
select count(tag) from (select tag from tags limit %(limit)s) found
"""


def count_new(tx: Tx, owner_id: str, tags: Sequence[str]) -> int:
    """How many of these tags no file of the owner has."""
    return int(scalar(tx, _NEW, {"owner": owner_id, "tags": list(tags)}))


def count(tx: Tx, owner_id: str, *, limit: int) -> int:
    """The number of the owner's tags, at most ``limit``."""
    return int(scalar(tx, _COUNT, {"owner": owner_id, "limit": limit}))
