"""What a run has to do, in a temporary SQLite file: a million objects take disk, not memory. Threads may share one."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from core.batches import batches
from db.dump import StoredKey
from services.recovery.repository import Blob, Need

_BATCH = 2_000
_SCHEMA = """
pragma journal_mode = off; pragma synchronous = off; pragma cache_size = -32000;
create table wanted (
    id integer primary key, object_key text, sha256 text, size int, content_type text, encoding text, stored_size int,
    recorded int, name text, damaged text
);
create table stored (name text primary key, form text, size int) without rowid;
create table hashed (key_digest text primary key, masked text) without rowid;
create table needed (path text primary key, size int) without rowid;
create table listed (path text primary key, size int) without rowid;
"""


class Wanted(NamedTuple):
    """An object to back up."""

    id: int
    key: str
    sha256: str | None
    size: int  # bytes of the original
    encoding: str | None
    stored_size: int


class Worklist:
    """``with Worklist() as work``: its file is removed at the end."""

    def __enter__(self) -> Worklist:
        self._folder = tempfile.TemporaryDirectory(prefix="backup-")
        path = Path(self._folder.name, "list")
        path.touch(mode=0o600)
        self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._file.executescript(_SCHEMA)
        self._file.execute("begin")
        self._lock = threading.Lock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._folder.cleanup()

    def _all(self, sql: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._file.execute(sql, values).fetchall()

    def _add(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
        for batch in batches(rows, _BATCH):
            with self._lock:
                self._file.executemany(sql, batch)

    # -- a backup ----------------------------------------------------------------------------------------------------------

    def want(self, keys: Iterable[StoredKey]) -> None:
        """Add the objects of a snapshot."""
        self._add(
            "insert into wanted (object_key, sha256, size, content_type, encoding, stored_size, recorded)"
            " values (?, ?, ?, ?, ?, ?, ?)",
            (
                (key.key, key.sha256, key.size, key.content_type, key.encoding, key.stored_size, key.sha256 is not None)
                for key in keys
            ),
        )

    def note_stored(self, blobs: Iterable[Blob]) -> None:
        """Add blobs that the repository has."""
        self._add("insert or ignore into stored values (?, ?, ?)", blobs)

    def note_hashed(self, needs: Iterable[Need]) -> None:
        """Add what an earlier snapshot found out about objects whose rows have no SHA-256."""
        self._add(
            "insert or ignore into hashed values (?, ?)",
            ((need.key_digest, need.masked) for need in needs if need.key_digest),
        )

    def is_stored(self, name: str) -> bool:
        """Whether the repository has a blob of this name."""
        return bool(self._all("select 1 from stored where name = ?", name))

    def masked(self, key_digest: str) -> str | None:
        """What an earlier snapshot found out."""
        found = self._all("select masked from hashed where key_digest = ?", key_digest)
        return found[0][0] if found else None

    def wanted(self, *, damaged: bool = False) -> Iterator[Wanted]:
        """All objects without a blob yet, and not damaged; or the damaged ones."""
        condition = "damaged is not null" if damaged else "name is null and damaged is null"
        last = 0
        while rows := self._all(
            "select id, object_key, sha256, size, encoding, stored_size from wanted"
            f" where id > ? and {condition} order by id limit {_BATCH}",
            last,
        ):
            yield from map(Wanted._make, rows)
            last = rows[-1][0]

    def found(self, item: int, sha256: str, name: str) -> None:
        """Record the blob of an object."""
        self._all("update wanted set sha256 = ?, name = ?, damaged = null where id = ?", sha256, name, item)

    def lost(self, item: int, reason: str) -> None:
        """Record that an object can't be backed up."""
        self._all("update wanted set damaged = ? where id = ?", reason, item)

    def totals(self) -> tuple[int, int, int]:
        """Objects, their bytes, and how many are damaged."""
        ((objects, size, damaged),) = self._all("select count(*), coalesce(sum(size), 0), count(damaged) from wanted")
        return objects, size, damaged

    def entries(self) -> Iterator[tuple[Any, ...]]:
        """Of each object: key, SHA-256, size, content type, damage, whether its row has the SHA-256; its blob."""
        last = 0
        while rows := self._all(
            "select w.id, object_key, sha256, w.size, content_type, damaged, recorded, s.name, s.form, s.size"
            f" from wanted w left join stored s on s.name = w.name where w.id > ? order by w.id limit {_BATCH}",
            last,
        ):
            yield from (row[1:] for row in rows)
            last = rows[-1][0]

    # -- pruning and verifying ---------------------------------------------------------------------------------------------

    def need(self, needs: Iterable[Need]) -> None:
        """Add blobs that a snapshot needs."""
        self._add("insert or ignore into needed values (?, ?)", ((need.blob.path, need.blob.size) for need in needs))

    def needed_size(self, path: str) -> int | None:
        """Stored bytes of a blob that a snapshot needs; None if none does."""
        found = self._all("select size from needed where path = ?", path)
        return found[0][0] if found else None

    def list_blobs(self, blobs: Iterable[Blob]) -> None:
        """Add blobs by their paths."""
        self._add("insert or ignore into listed values (?, ?)", ((blob.path, blob.size) for blob in blobs))

    def listed(self) -> Iterator[tuple[str, int]]:
        """Their paths, with their stored bytes."""
        return self._paged("select path, size from listed where path > ? order by path")

    def compared(self) -> Iterator[tuple[str, int, int | None]]:
        """Blobs that snapshots need: path, stored bytes, and what they are in the repository; None if it is not there."""
        sql = "select n.path, n.size, l.size from needed n left join listed l on l.path = n.path"
        return self._paged(f"{sql} where n.path > ? order by n.path")

    def add_names(self, names: Iterable[str]) -> None:
        """Add names to ``stored``."""
        self._add("insert or ignore into stored values (?, '', 0)", ((name,) for name in names))

    def names(self) -> Iterator[str]:
        """The names in ``stored``."""
        return (row[0] for row in self._paged("select name from stored where name > ? order by name"))

    def _paged(self, sql: str) -> Iterator[Any]:
        """Rows in the order of their first column, which ``sql`` compares with the last one."""
        last = ""
        while rows := self._all(f"{sql} limit {_BATCH}", last):
            yield from rows
            last = rows[-1][0]
