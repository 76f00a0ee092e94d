"""Copies of stored objects in other buckets, and which bucket the rows belong to.

``objects`` has the ETags that the bucket in use gave. A row of ``copies`` says that another bucket has the object too, with the
ETag there. To switch is to exchange the two, in one transaction. As a key is never used for other bytes, a copy stays right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple
from uuid import UUID

from db import Tx, column, execute, many, scalar

Kind = Literal["object", "public copy", "preview"]

# Of each kind, what rows name as stored; ``after`` and ``limit`` come in the order of an index. The bytes of a compressed object
# have no SHA-256 of their own.
_STORED: Mapping[Kind, str] = {
    "object": """
        select object_key, sha256, size as original_size, coalesce(stored_size, size) as size, encoding, etag,
               not in_bucket or checksum_state = 'mismatch' as damaged
        from objects where status = 'stored'
        """,
    "public copy": """
        select public_key as object_key, public_sha256 as sha256, null::bigint as original_size, null::bigint as size,
               null as encoding, public_etag as etag, false as damaged
        from objects where status = 'stored' and public_key is not null
        """,
    "preview": """
        select p.preview_path as object_key, null as sha256, null::bigint as original_size, p.size, null as encoding,
               null as etag, false as damaged
        from file_previews p join objects o on o.object_key = p.object_key where o.status = 'stored'
        """,
}
_KEY_COLUMNS: Mapping[Kind, str] = {"object": "object_key", "public copy": "public_key", "preview": "preview_path"}
KINDS: tuple[Kind, ...] = tuple(_STORED)
_ALL = " union all ".join(_STORED.values())


class StoredObject(NamedTuple):
    """An object that rows name as stored, and how far its copy is."""

    key: str
    sha256: str | None  # of the original bytes
    original_size: int | None
    size: int | None  # bytes in the bucket
    encoding: str | None
    etag: str | None  # in the bucket in use
    damaged: bool  # known not to be in the bucket, or to hold other bytes
    begun: bool
    copied: bool


class Copied(NamedTuple):
    """A copy as the other bucket describes it. None: not known, of a bucket that was used before."""

    key: str
    size: int | None
    etag: str | None


class Counts(NamedTuple):
    """How many stored objects are not copied."""

    missing: int
    damaged: int  # besides


# -- buckets ---------------------------------------------------------------------------------------------------------------


def bucket_in_use(tx: Tx) -> UUID | None:
    """What the mark in the bucket must say; None if it was never marked."""
    found: UUID | None = scalar(tx, "select id from buckets where in_use")
    return found


def is_known(tx: Tx, bucket_id: UUID) -> bool:
    """Whether copies in this bucket have rows."""
    return bool(scalar(tx, "select exists (select from buckets where id = %(id)s)", {"id": bucket_id}))


def add_bucket(tx: Tx, bucket_id: UUID, *, name: str, in_use: bool) -> None:
    """Add a bucket, or note its present name."""
    sql = """
    insert into buckets (id, name, in_use) values (%(id)s, %(name)s, %(in_use)s)
    on conflict (id) do update set name = excluded.name
    """
    execute(tx, sql, {"id": bucket_id, "name": name, "in_use": in_use})


# -- copying ---------------------------------------------------------------------------------------------------------------


def page(tx: Tx, bucket_id: UUID, kind: Kind, *, after: str, limit: int) -> list[StoredObject]:
    """Stored objects of one kind, by key, with the state of their copies."""
    sql = f"""
    select s.object_key, s.sha256, s.original_size, s.size, s.encoding, s.etag, s.damaged,
           c.object_key is not null, c.copied_at is not null
    from ({_STORED[kind]} and {_KEY_COLUMNS[kind]} > %(after)s order by {_KEY_COLUMNS[kind]} limit %(limit)s) s
    left join copies c on c.bucket_id = %(bucket)s and c.object_key = s.object_key
    order by s.object_key
    """
    return many(tx, StoredObject, sql, {"bucket": bucket_id, "after": after, "limit": limit})


def begin(tx: Tx, bucket_id: UUID, keys: Sequence[str]) -> None:
    """Record keys before anything is written under them."""
    sql = """
    insert into copies (bucket_id, object_key) select %(bucket)s, k from unnest(%(keys)s::text[]) k order by k
    on conflict do nothing
    """
    execute(tx, sql, {"bucket": bucket_id, "keys": list(keys)})


def finish(tx: Tx, bucket_id: UUID, copied: Sequence[Copied]) -> set[str]:
    """Record copies as complete. Returns their keys, without those that were forgotten meanwhile."""
    sql = """
    update copies c set size = n.size, etag = n.etag, copied_at = now()
    from unnest(%(keys)s::text[], %(sizes)s::bigint[], %(etags)s::text[]) n (object_key, size, etag)
    where c.bucket_id = %(bucket)s and c.object_key = n.object_key
    returning c.object_key
    """
    keys, sizes, etags = map(list, zip(*copied, strict=True)) if copied else ([], [], [])
    return set(column(tx, sql, {"bucket": bucket_id, "keys": keys, "sizes": sizes, "etags": etags}))


def unused(tx: Tx, bucket_id: UUID, *, after: str, limit: int) -> tuple[list[str], str | None]:
    """Of the next ``limit`` copies by key, those whose object no row names any more; and the last key, None at the end."""
    # What waits for its deletion in the bucket in use may still be downloaded by a URL of the other one.
    sql = """
    select c.object_key,
        exists (select from objects where object_key = c.object_key and status = 'stored')
        or exists (select from objects where public_key = c.object_key and status = 'stored')
        or exists (select from file_previews p join objects o on o.object_key = p.object_key
                   where p.preview_path = c.object_key and o.status = 'stored')
        or exists (select from deferred_deletions where object_key = c.object_key)
    from (select object_key from copies where bucket_id = %(bucket)s and object_key > %(after)s
          order by object_key limit %(limit)s) c order by 1
    """
    rows = tx.execute(sql, {"bucket": bucket_id, "after": after, "limit": limit}).fetchall()
    return [key for key, used in rows if not used], rows[-1][0] if rows else None


def recorded(tx: Tx, bucket_id: UUID, *, after: str, limit: int) -> list[Copied]:
    """Complete copies, by key."""
    sql = """
    select object_key, size, etag from copies
    where bucket_id = %(bucket)s and object_key > %(after)s and copied_at is not null order by object_key limit %(limit)s
    """
    return many(tx, Copied, sql, {"bucket": bucket_id, "after": after, "limit": limit})


def count_complete(tx: Tx, bucket_id: UUID) -> int:
    """The number of complete copies."""
    sql = "select count(*) from copies where bucket_id = %(bucket)s and copied_at is not null"
    return int(scalar(tx, sql, {"bucket": bucket_id}))


def count_same(tx: Tx, bucket_id: UUID, listed: Sequence[Copied]) -> int:
    """How many of the objects that the bucket lists are complete copies, as recorded."""
    sql = """
    select count(*) from copies c
    join unnest(%(keys)s::text[], %(sizes)s::bigint[], %(etags)s::text[]) l (object_key, size, etag)
    on c.object_key = l.object_key and coalesce(c.size, l.size) = l.size and coalesce(c.etag, l.etag) = l.etag
    where c.bucket_id = %(bucket)s and c.copied_at is not null
    """
    keys, sizes, etags = map(list, zip(*listed, strict=True))
    return int(scalar(tx, sql, {"bucket": bucket_id, "keys": keys, "sizes": sizes, "etags": etags}))


def forget(tx: Tx, bucket_id: UUID, keys: Sequence[str]) -> None:
    """Forget copies that the bucket no longer holds."""
    sql = "delete from copies where bucket_id = %(bucket)s and object_key = any(%(keys)s)"
    execute(tx, sql, {"bucket": bucket_id, "keys": list(keys)})


# -- the switch --------------------------------------------------------------------------------------------------------------


def lock(tx: Tx) -> None:
    """Let nobody else change what is stored."""
    execute(tx, "lock table uploads, objects, file_previews in share row exclusive mode")


def open_uploads(tx: Tx) -> list[UUID]:
    """Unfinished uploads: their bytes are in the bucket in use only."""
    return column(tx, "select id from uploads where status in ('pending', 'uploading', 'completing')")


def count_missing(tx: Tx, bucket_id: UUID) -> Counts:
    """Stored objects without a complete copy."""
    sql = f"""
    select count(*) filter (where not s.damaged), count(*) filter (where s.damaged) from ({_ALL}) s
    where not exists (select from copies c
                      where c.bucket_id = %(bucket)s and c.object_key = s.object_key and c.copied_at is not null)
    """
    return Counts._make(tx.execute(sql, {"bucket": bucket_id}).fetchone() or (0, 0))


# All that rows know to be in the bucket that was used: also what is still to be deleted there.
_REMEMBER = """
insert into copies (bucket_id, object_key, size, etag, copied_at)
select %(old)s, object_key, size, etag, now() from (
    select object_key, coalesce(stored_size, size) as size, etag from objects
    union all select public_key, null, public_etag from objects where public_key is not null
    union all select preview_path, size, null from file_previews
    union all select object_key, null, null from deferred_deletions
) known
on conflict (bucket_id, object_key) do update
set size = excluded.size, etag = excluded.etag, copied_at = excluded.copied_at
"""
_SWITCH = (
    _REMEMBER,
    """
    update objects o set etag = c.etag from copies c
    where c.bucket_id = %(new)s and c.object_key = o.object_key and c.copied_at is not null and o.status = 'stored'
    """,
    """
    update objects o set public_etag = c.etag from copies c
    where c.bucket_id = %(new)s and c.object_key = o.public_key and c.copied_at is not null and o.status = 'stored'
    """,
    # What is unused has to be deleted there by the next run in the other direction, or as an orphan.
    "delete from copies where bucket_id = %(new)s",
    "update buckets set in_use = false where id = %(old)s",
    "update buckets set in_use = true where id = %(new)s",
)


def switch(tx: Tx, *, old: UUID, new: UUID) -> None:
    """Let the rows belong to the bucket ``new``, and remember the ETags of ``old``. The caller holds ``lock`` and has seen that
    nothing is missing. Objects that are damaged keep the ETag that they had."""
    for sql in _SWITCH:
        execute(tx, sql, {"old": old, "new": new})
