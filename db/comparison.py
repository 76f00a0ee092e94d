"""What the rows say about the bucket, for its comparison with a listing (services/upkeep/comparison.py).

Ranges of keys are read by the indexes of the keys, in the database's order. In a database with the locale C that is the order of
their bytes, as in listings. With another one, nothing is missed either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from db import Tx, column, events, many, one

Kind = Literal["object", "public_copy", "preview"]

# Where keys are that the bucket must hold: table, column, condition, and whether the last check found it there.
_SOURCES: Mapping[Kind, tuple[str, str, str, str]] = {
    "object": ("objects", "object_key", "status = 'stored'", "in_bucket"),
    "public_copy": ("objects", "public_key", "public_key is not null and status = 'stored'", "true"),
    "preview": ("file_previews", "preview_path", "true", "true"),
}
KINDS = tuple(_SOURCES)


class Expected(NamedTuple):
    """A key that the bucket must hold."""

    kind: Kind
    key: str
    in_bucket: bool  # whether the last check found it
    range: int  # the number of the range that it was found by, from 0


@dataclass(frozen=True, slots=True)
class Range:
    """Keys of a folder after ``after`` up to ``last``."""

    folder: str  # ends in a slash
    after: str
    last: str


_BETWEEN = " union all ".join(
    f"""(
    select '{kind}', {key}, {found} from {table}
    where {condition} and {key} > r.after and {key} <= r.last order by {key} limit %(limit)s)"""
    for kind, (table, key, condition, found) in _SOURCES.items()
)
_EXPECTED = f"""
select s.kind, s.key, s.found, r.number::integer - 1
from unnest(%(afters)s::text[], %(lasts)s::text[]) with ordinality r (after, last, number)
cross join lateral (select * from ({_BETWEEN}) s (kind, key, found) order by key limit %(limit)s) s
order by r.number, s.key
"""


def expected(tx: Tx, ranges: Sequence[Range], *, limit: int) -> list[Expected]:
    """The first ``limit`` keys in each range that the bucket must hold, by range and key. Those of folders below are among
    them."""
    params = {"afters": [r.after for r in ranges], "lasts": [r.last for r in ranges], "limit": limit}
    return many(tx, Expected, _EXPECTED, params)


class Walk(NamedTuple):
    """A step through all keys of a kind."""

    last: str | None  # where the next step begins; None after the last one
    unlisted: Sequence[tuple[str, bool]]  # keys that no listing has reached, and whether the last check found them


def _walk(kind: Kind) -> str:
    table, key, condition, found = _SOURCES[kind]
    return f"""
    with scanned as materialized (
        select {key} as key, {found} as found from {table} where {condition} and {key} > %(after)s order by {key} limit %(limit)s
    )
    select (select max(key) from scanned), (
        select coalesce(json_agg(json_build_array(s.key, s.found)), '[]') from scanned s
        left join unnest(%(folders)s::text[], %(reached)s::text[]) r (folder, reached)
        on r.folder = regexp_replace(s.key, '[^/]*$', '')
        where r.folder is null or s.key > r.reached)
    """


_WALKS = {kind: _walk(kind) for kind in _SOURCES}


def walk(tx: Tx, kind: Kind, reached: Mapping[str, str], *, after: str, limit: int) -> Walk:
    """Look at the next ``limit`` keys of a kind after ``after``. ``reached`` has the folders that were listed, each with the last
    key up to which its keys were compared."""
    params: dict[str, Any] = {
        "folders": list(reached),
        "reached": list(reached.values()),
        "after": after,
        "limit": limit,
    }
    found = one(tx, Walk, _WALKS[kind], params)
    assert found is not None
    return found


# -- findings ------------------------------------------------------------------------------------------------------------


def _mark(found: str, where: str, action: str) -> str:
    """Record whether objects are in the bucket, with an event for each file on them."""
    return f"""
    with chosen as (
        select object_key from objects where object_key = any(%(keys)s) and status = 'stored' and {where}
        order by object_key for update
    ),
    marked as (
        update objects o set in_bucket = {found}, checked_at = now() from chosen
        where o.object_key = chosen.object_key returning o.object_key
    ),
    of_files as (select f.id, f.owner_id from files f join marked on f.file_path = marked.object_key),
    event as ({events.recording("of_files", action=f"'{action}'")})
    select object_key from marked
    """


_MARK_MISSING = _mark("false", "in_bucket", "content_missing")
_MARK_FOUND = _mark("true", "not in_bucket", "content_found")


def mark_missing(tx: Tx, keys: Sequence[str]) -> list[str]:
    """Record that the bucket does not hold these objects. Returns those of which nobody knew."""
    return column(tx, _MARK_MISSING, {"keys": list(keys)} | events.by())


def mark_found(tx: Tx, keys: Sequence[str]) -> list[str]:
    """Record that the bucket holds these objects after all. Returns those of which nobody knew."""
    return column(tx, _MARK_FOUND, {"keys": list(keys)} | events.by())
