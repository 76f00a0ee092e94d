"""Compressible text, and steps of compression."""

from __future__ import annotations

import random
from typing import Any

from core.principal import Principal
from core.ranges import ByteRange
from db import Database
from db.records import FileRecord
from services import Services
from services.objects.object_reader import ObjectReader
from tests.rows import sql
from tests.services.uploads.test_intake import upload


def text(size: int, seed: int = 0) -> bytes:
    """Random words that compress to about a third, without repeated passages."""
    rng = random.Random(seed)
    words = [bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(400)]
    out = bytearray()
    while len(out) < size:
        out += b" ".join(rng.choices(words, k=50)) + b"\n"
    return bytes(out[:size])


def compressed(services: Services, who: Principal, data: bytes, name: str = "a.txt", **placement: Any) -> FileRecord:
    file = upload(services, who, name, data, **placement)
    services.compression.compress(file.id)
    return services.files.get(who, file.id)


def read(services: Services, file: FileRecord, span: ByteRange | None = None) -> bytes:
    with ObjectReader(services.db, services.intake._store).open(file, span) as reader:
        pieces = []
        while piece := reader.read(100_000):
            pieces.append(piece)
    return b"".join(pieces)


def raw(bucket: Any, key: str) -> bytes:
    with bucket.open(key) as reader:
        return bytes(reader.read(-1))


def time_passes(db: Database) -> None:
    sql(db, "update deferred_deletions set delete_after = now() - interval '1 second'")
