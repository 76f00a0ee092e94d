r"""A dump: the rows of the whole database, of one moment, as text; and its way back into an empty database.

PostgreSQL's COPY writes and reads the rows, so no program has to be of the server's version. A dump is lines of UTF-8:

    {"format": 1, "revision": "0036", "taken_at": "2026-11-30T12:00:00+00:00", "partitions": {…}}
    {"table": "folders", "columns": ["id", "owner_id", …]}
    1\talice\t…                                                  rows, as COPY's text format has them
    \.                                                           the end of a table
    {"sequences": {"folders_id_seq": [42, true], …}, "tables": {"folders": 1, …}}

It is loaded into tables of its own revision, which are then migrated: an old dump fits a new program."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from graphlib import TopologicalSorter
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.errors import InsufficientPrivilege
from psycopg.rows import class_row
from psycopg.sql import SQL, Composed, Identifier, Literal

from core.errors import Conflict, NotAllowed, Unprocessable
from db import CONNECTION, Database, Tx, column, execute, many, now, scalar, set_timeout, uploads
from db.migrate import migrate

# Every table is in one of these two lists; tests/db/test_dump.py compares them with the schema. A table that is in neither is
# dumped.
KEPT: Final[Mapping[str, str]] = {
    "api_keys": "whoever has a key keeps it; keys are stored as digests",
    "audit_events": "the record of who did what, and each file's history",
    "audit_summaries": "what is left of months that were dropped",
    "deleted_folders": "uploads and keys of a folder that was deleted are sent on",
    "file_previews": "previews are in the bucket, and backed up with it",
    "file_tags": "lists by tag are complete at once",
    "files": "the library",
    "folder_counters": "of the same moment as what they count, like the next two",
    "folders": "the library",
    "idempotency_keys": "a request that is repeated is not done twice",
    "object_texts": "to read all files again takes days",
    "objects": "where the bytes are, and their SHA-256",
    "owner_usage": "quotas, and counters",
    "preview_failures": "files that can't be shown are not tried again",
    "procrastinate_events": "when jobs were enqueued",
    "procrastinate_jobs": "what follows an upload is done, or listed as failed",
    "protected_periods": "what the janitor must keep is to be kept on",
    "readings": "what was read from the bytes",
    "rescans": "when everything was last scanned",
    "resumable_uploads": "clients ask what became of an upload",
    "search_index": "search works at once",
    "search_queue": "what the index lacks",
    "search_words": "search works at once",
    "type_counters": "counters",
    "upload_sessions": "clients ask for them",
    "upload_tokens": "whoever has a token keeps it",
    "uploads": "clients ask what became of an upload; unfinished ones end (`end_unfinished`)",
}
# Rows about keys of objects that nothing uses yet must not come back: by now a file may use such an object, and the janitor
# would delete it (T122).
LEFT_OUT: Final[Mapping[str, str]] = {
    "alembic_version": "the revision is in the first line",
    "archive_pass": "how far a pass has come, which starts over",
    "backup_holds": "nothing is backed up now",
    "backup_runs": "the repository's manifests tell which backups there are",
    "buckets": "the rows may come back beside another bucket; so may those of `copies`",
    "capacity_samples": "how full another bucket was",
    "copies": "what another bucket had then, it may have no more",
    "deferred_deletions": "keys that nothing used; what is left in the bucket is found by the janitor as an orphan",
    "janitor_runs": "when the janitor ran; the restore itself tells what it must keep",
    "login_sessions": "a session that was ended must not live again; people sign in again",
    "procrastinate_periodic_defers": "only tells which periodic jobs were enqueued",
    "procrastinate_workers": "processes that no longer run",
    "rate_limits": "counts of the last minute",
    "reserved_keys": "keys for uploads that were in progress",
    "scrub_findings": "of another bucket; what was damaged is compared when it is restored",
    "scrub_passes": "how far a pass has come, which starts over",
    "upload_objects": "keys that uploads in progress had written",
    "upload_parts": "parts of uploads in progress, which end",
}
_COLUMNS_LEFT_OUT = {"procrastinate_jobs": {"worker_id"}}  # refers to a table that is left out

_FORMAT = 1
_PIECE = 256 * 1024  # bytes; rows are sent on in pieces of at least this size
_SLOW = 6 * 3600.0  # seconds that COPY of one table may take
_END = b"\\."


@dataclass(frozen=True, slots=True)
class Header:
    """A dump's first line."""

    revision: str  # of the schema
    taken_at: datetime
    partitions: Mapping[str, str]  # of audit_events: their names and bounds


class StoredKey(NamedTuple):
    """An object that the bucket should hold."""

    key: str
    sha256: str | None  # of the original bytes; None: not known, as of previews
    size: int  # of the original bytes
    content_type: str
    encoding: str | None  # zstd, or None
    stored_size: int  # bytes in the bucket
    etag: str | None  # None: of previews
    kind: str  # object, public_copy, preview


# -- writing ---------------------------------------------------------------------------------------------------------------


@contextmanager
def snapshot(db: Database) -> Iterator[Tx]:
    """A read-only transaction whose statements all see the database of one moment, however long they take.

    It holds back vacuum, so end it soon."""
    with db.transaction() as tx:
        execute(tx, "set transaction isolation level repeatable read, read only")
        set_timeout(tx, _SLOW)
        execute(tx, "set local idle_in_transaction_session_timeout = '1h'")
        yield tx


_TABLES = """
select c.relname,
       array(select attname::text from pg_attribute a
             where a.attrelid = c.oid and attnum > 0 and not attisdropped and attgenerated = '' order by attnum),
       array(select distinct confrelid::regclass::text from pg_constraint f
             where f.conrelid = c.oid and f.contype = 'f' and f.confrelid <> c.oid)
from pg_class c
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition order by 1
"""
_PARTITIONS = """
select c.relname, pg_get_expr(c.relpartbound, c.oid) from pg_inherits i join pg_class c on c.oid = i.inhrelid
where i.inhparent = 'audit_events'::regclass and pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT'
"""
_SEQUENCES = """
select sequencename::text, coalesce(last_value, start_value), last_value is not null
from pg_sequences where schemaname = 'public' order by 1
"""


def dump(tx: Tx) -> Iterator[bytes]:
    """The dump of a ``snapshot``, in pieces of about 256 KiB."""
    head = {
        "format": _FORMAT,
        "revision": scalar(tx, "select version_num from alembic_version"),
        "taken_at": now(tx).isoformat(),
        "partitions": dict(tx.execute(_PARTITIONS).fetchall()),
    }
    yield _line(head)
    counts = {}
    for table, columns in _tables(tx):
        yield _line({"table": table, "columns": columns})
        statement = SQL("copy (select {} from {}) to stdout").format(_names(columns), Identifier(table))
        counts[table], rows = 0, bytearray()
        with tx.cursor() as cursor, cursor.copy(statement) as copy:
            for row in copy:
                counts[table] += 1
                rows += row
                if len(rows) >= _PIECE:
                    yield bytes(rows)
                    rows.clear()
        yield bytes(rows) + _END + b"\n"
    # Sequences are of no transaction: read last, they are beyond every row.
    sequences = {name: [value, called] for name, value, called in tx.execute(_SEQUENCES).fetchall()}
    yield _line({"sequences": sequences, "tables": counts})


def _tables(tx: psycopg.Connection[Any]) -> list[tuple[str, list[str]]]:
    """The tables of a dump with their columns; each comes after those that it refers to."""
    found = {
        name: (columns, refers) for name, columns, refers in tx.execute(_TABLES).fetchall() if name not in LEFT_OUT
    }
    order = TopologicalSorter({name: refers for name, (_, refers) in found.items()}).static_order()
    return [
        (name, [column for column in found[name][0] if column not in _COLUMNS_LEFT_OUT.get(name, ())])
        for name in order
        if name in found
    ]


def _line(members: Mapping[str, Any]) -> bytes:
    return json.dumps(members).encode() + b"\n"


def _names(columns: Iterable[str]) -> Composed:
    return SQL(", ").join(map(Identifier, columns))


_STORED_KEYS = """
select object_key as key, sha256, size, content_type, encoding, coalesce(stored_size, size) as stored_size, etag, 'object' as kind
from objects where status = 'stored'
union all
select public_key, public_sha256, size, content_type, null, size, public_etag, 'public_copy'
from objects where status = 'stored' and public_key is not null
union all
select preview_path, null, p.size, mime_type, null, p.size, null, 'preview'
from file_previews p join objects o using (object_key) where o.status = 'stored'
"""


def stored_keys(tx: Tx) -> Iterator[StoredKey]:
    """Every key that rows name as stored: objects, public copies and previews. Read through a cursor of the server's, so that
    memory does not grow; the transaction stays open meanwhile."""
    with tx.cursor(name="stored_keys", row_factory=class_row(StoredKey)) as cursor:
        cursor.itersize = 2_000
        yield from cursor.execute(_STORED_KEYS)


def hashed_keys(tx: Tx, *, after: str, limit: int) -> list[StoredKey]:
    """Stored keys whose SHA-256 rows have, in order, from behind ``after``."""
    sql = f"select * from ({_STORED_KEYS}) s where sha256 is not null and key > %(after)s order by key limit %(limit)s"
    return many(tx, StoredKey, sql, {"after": after, "limit": limit})


def unhashed_keys(tx: Tx, keys: Sequence[str]) -> list[StoredKey]:
    """Those of the keys that rows name as stored, without their SHA-256."""
    sql = f"select * from ({_STORED_KEYS}) s where sha256 is null and key = any(%(keys)s)"
    return many(tx, StoredKey, sql, {"keys": list(keys)})


# -- reading ---------------------------------------------------------------------------------------------------------------


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their ends. Raises Unprocessable if the last one has no end."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest:
        raise Unprocessable("The dump is cut off.")


def _parsed(lines: Iterator[bytes]) -> dict[str, Any]:
    try:
        members = json.loads(next(lines))
    except (StopIteration, ValueError) as error:
        raise Unprocessable("The dump is cut off or damaged.") from error
    if not isinstance(members, dict):
        raise Unprocessable("The dump is damaged.")
    return members


def _header(lines: Iterator[bytes]) -> Header:
    members = _parsed(lines)
    if members.get("format") != _FORMAT:
        raise Unprocessable(f"The dump has the format {members.get('format')}; this program reads {_FORMAT}.")
    return Header(members["revision"], datetime.fromisoformat(members["taken_at"]), members["partitions"])


def _rows(lines: Iterator[bytes]) -> Iterator[bytes]:
    for line in lines:
        if line == _END:
            return
        yield line
    raise Unprocessable("The dump is cut off.")


_ESCAPED = re.compile(r"\\(.)")
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def records(pieces: Iterable[bytes], tables: Set[str]) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Rows of some tables of a dump, without a database: the table, and each column's text as COPY writes it.

    Tables come after those that they refer to. Raises Unprocessable if the dump is damaged."""
    lines = _lines(pieces)
    _header(lines)
    while "table" in (block := _parsed(lines)):
        table, columns = block["table"], block["columns"]
        for row in _rows(lines):
            if table in tables:
                yield table, dict(zip(columns, map(_value, row.decode().split("\t")), strict=True))


def _value(text: str) -> str | None:
    if "\\" not in text:
        return text
    return None if text == r"\N" else _ESCAPED.sub(lambda match: _ESCAPES.get(match[1], match[1]), text)


_ITEM = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,{}]+)')


def text_array(text: str) -> list[str]:
    """The items of a column of type text[] in ``records``; it has no nulls."""
    return [plain if plain else re.sub(r"\\(.)", r"\1", quoted) for quoted, plain in _ITEM.findall(text)]


# -- loading ---------------------------------------------------------------------------------------------------------------

_HOLDS = """
select exists (select from files) or exists (select from objects) or exists (select from folders) or exists (select from uploads)
    or (select count(*) from api_keys) > 1
"""
_LOADED = "select obj_description(to_regclass('public.files'), 'pg_class')"
_MARK = "loaded from "
_LOCK = 0x6C6F_6164  # held by the one process that loads


def load(url: str, pieces: Iterable[bytes], *, name: str, gateway_url: str | None = None) -> Header:
    """Load a dump into an empty database and migrate it; ``url`` is of the role that owns the tables.

    A database counts as empty without files, folders, uploads and keys, but one (bootstrap's). Until ``finish``, it
    remembers ``name``, the dump's: to load it again then only migrates, so that an interrupted restore can go on. Raises
    Conflict if the database is not empty or another process loads, Unprocessable if the dump is damaged, NotAllowed for a role
    that does not own the tables, and Unavailable as ``migrate`` does."""
    try:
        return _load(url, _lines(pieces), name=name, gateway_url=gateway_url)
    except InsufficientPrivilege as error:
        raise NotAllowed("The tables' owner restores a backup: set MIGRATION_DATABASE_URL to its address.") from error


def _load(url: str, lines: Iterator[bytes], *, name: str, gateway_url: str | None) -> Header:
    header = _header(lines)
    with psycopg.connect(url, autocommit=True, **CONNECTION, options="-c timezone=UTC") as conn:
        if not _scalar(conn, f"select pg_try_advisory_lock({_LOCK})"):
            raise Conflict("Another process is loading a dump into this database.")
        if _scalar(conn, _LOADED) != _MARK + name:
            if _scalar(conn, "select to_regclass('public.files') is not null") and _scalar(conn, _HOLDS):
                raise Conflict(
                    "The database is not empty. A backup is restored into an empty one, which may be beside it."
                )
            _prepare(conn, url, header.revision)
            with conn.transaction():
                _copy(conn, header, lines)
                conn.execute(SQL("comment on table files is {}").format(Literal(_MARK + name)))
            conn.execute("analyze")
        migrate(url, gateway_url=gateway_url)
    return header


def _scalar(conn: psycopg.Connection[Any], sql: str) -> Any:
    row = conn.execute(sql).fetchone()
    return row[0] if row else None


def _prepare(conn: psycopg.Connection[Any], url: str, revision: str) -> None:
    """Make empty tables of a revision in a database that holds nothing; its own may be of a later one."""
    migrated = _scalar(conn, "select to_regclass('public.alembic_version') is not null")
    if migrated and _scalar(conn, "select version_num from alembic_version") == revision:
        return
    if migrated:
        with conn.transaction():
            conn.execute("set local lock_timeout = '10s'")
            conn.execute("drop schema public cascade")
            conn.execute("create schema public")
            conn.execute("grant usage on schema public to public")
    migrate(url, revision=revision)


def _copy(conn: psycopg.Connection[Any], header: Header, lines: Iterator[bytes]) -> None:
    # Without triggers: counters and the search queue come with the dump. Foreign keys are checked.
    for table, _ in reversed(_tables(conn)):
        conn.execute(SQL("alter table {} disable trigger user").format(Identifier(table)))
        conn.execute(SQL("delete from {}").format(Identifier(table)))  # bootstrap's key, and events
    _make_partitions(conn, header.partitions)
    tables: dict[str, int] = {}
    while "table" in (block := _parsed(lines)):
        table, columns = block["table"], block["columns"]
        statement = SQL("copy {} ({}) from stdin").format(Identifier(table), _names(columns))
        with conn.cursor() as cursor:
            with cursor.copy(statement) as copy:
                for row in _rows(lines):
                    copy.write(row + b"\n")
            tables[table] = cursor.rowcount
    if tables != block.get("tables"):
        raise Unprocessable("The dump is damaged: its tables have other rows than it says.")
    for table in tables:
        conn.execute(SQL("alter table {} enable trigger user").format(Identifier(table)))
    for sequence, (value, called) in block["sequences"].items():
        conn.execute("select setval(%s::regclass, %s, %s)", [f'public."{sequence}"', value, called])
    # Their workers are gone, and another job may wait with the same queueing_lock.
    conn.execute("update procrastinate_jobs set status = 'todo', queueing_lock = null where status = 'doing'")


_BOUND = re.compile(r"FOR VALUES FROM \((MINVALUE|'[-+:. \d]+')\) TO \('[-+:. \d]+'\)")


def _make_partitions(conn: psycopg.Connection[Any], partitions: Mapping[str, str]) -> None:
    """Give audit_events the dump's months instead of one from which everything earlier would be dropped at once."""
    for name, _ in conn.execute(_PARTITIONS).fetchall():
        conn.execute(SQL("drop table {}").format(Identifier(name)))
    for name, bound in partitions.items():
        if not _BOUND.fullmatch(bound):
            raise Unprocessable("The dump is damaged: a partition's bound is none.")
        table = Identifier(name)
        conn.execute(SQL("create table {} (like audit_events including defaults)").format(table))
        kept = "create trigger audit_events_kept before truncate on {} execute function refuse_change()"
        conn.execute(SQL(kept).format(table))
        attach = SQL("alter table audit_events attach partition {} ").format(table)
        conn.execute(attach + SQL(bound))


def end_unfinished(tx: Tx) -> int:
    """End the uploads that a loaded dump shows in progress, and release what they reserved; returns their number.

    What they wrote since then may be a file's that the dump does not know, so it is not removed: the janitor finds it as an
    orphan."""
    ended = uploads.end(
        tx,
        column(tx, "select id from uploads where status in ('pending', 'uploading', 'completing')"),
        status="expired",
    )
    for upload_id in ended:
        uploads.mark_cleaned(tx, upload_id)
    return len(ended)


def loading(tx: Tx) -> str | None:
    """The name of the dump that was loaded and is not ``finish``ed."""
    mark: str | None = scalar(tx, _LOADED)
    return mark.removeprefix(_MARK) if mark else None


def finish(url: str) -> None:
    """Forget that a dump was loaded: its restore is complete."""
    with psycopg.connect(url, autocommit=True, **CONNECTION) as conn:
        conn.execute("comment on table files is null")
