"""Snapshots in a repository of backups, made without the backup's own code."""

from __future__ import annotations

import hashlib
import io
from datetime import UTC, datetime
from typing import Any

import orjson

from db import Database, dump, now
from services.objects.object_reader import Reader
from services.recovery.repository import Repository, Snapshot, decompressed


def _read(reader: Reader) -> bytes:
    return b"".join(iter(lambda: reader.read(1_000_000), b""))


def back_up(db: Database, store: Any, repository: Repository, *, number: int = 0) -> Snapshot:
    """Write a snapshot of this database and bucket."""
    with dump.snapshot(db) as tx:
        database, stored_keys, taken_at = list(dump.dump(tx)), list(dump.stored_keys(tx)), now(tx)
    entries, blobs = [], []
    for stored in stored_keys:
        with store.open(stored.key) as raw:
            data = _read(decompressed(raw) if stored.encoding else raw)
        digest = hashlib.sha256(data).hexdigest()
        assert stored.sha256 in (None, digest)
        blob = repository.write_blob(digest, io.BytesIO(data), zstd=False, size=len(data))
        entry = {"key": stored.key, "sha256": digest, "size": stored.size, "content_type": stored.content_type}
        entries.append(orjson.dumps(entry) + b"\n")
        blobs.append(f"{blob.name},{blob.form},{blob.size},\n".encode())
    snapshot_id, parts = f"20261130T010203Z-{number:08x}", {}
    for name, pieces in {"database": database, "entries": entries, "blobs": blobs}.items():
        packed = io.BytesIO()
        repository.pack(pieces, packed, encrypted=repository.encrypts and name != "blobs")
        packed.seek(0)
        parts[name] = repository.write_part(snapshot_id, name, packed, size=len(packed.getbuffer()))
    snapshot = Snapshot(
        id=snapshot_id,
        taken_at=taken_at,
        finished_at=datetime.now(UTC),
        files=len(entries),
        objects=len(entries),
        bytes=sum(stored.size for stored in stored_keys),
        revision="",
        encrypted=repository.encrypts,
        damaged=0,
        damaged_keys=[],
        parts=parts,
    )
    repository.write_manifest(snapshot)
    return snapshot
