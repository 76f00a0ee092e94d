"""Resumable uploads whose process crashes, loses its lease, or wakes up too late (T53, T54, T101)."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest

from core.errors import GatewayError, Locked, UploadGone
from core.parts import PART_SIZE
from core.placement import Placement
from core.principal import Principal
from db import Database
from services import Services
from services.library.files import FileQuery
from services.uploads.leases import Lease
from services.uploads.resumable import NewResumable
from tests.conftest import NOTHING, Leftovers
from tests.crash_points import CrashingGateway, CrashPoint
from tests.direct_steps import checked, direct, resumable
from tests.rows import sql
from tests.services.uploads.test_verification import time_passes

MIB = 1024 * 1024
PART = 5 * MIB  # the minimum of S3, so that many crashes cost little
NOISE = os.urandom(2 * PART + 5000)


class Bytes:
    """A request's body; ``step`` is called before each read."""

    def __init__(self, data: bytes, *, broken: bool = False, step: Callable[[], None] = lambda: None):
        self._data = data
        self._step = step
        self._hurried = False
        self.broken = broken

    def read(self, size: int, /) -> bytes:
        self._step()
        piece, self._data = self._data[:size], self._data[size:]
        return piece

    def stop_soon(self) -> None:
        self.broken = self.broken or bool(self._data)
        self._data = b""

    def acknowledge(self, offset: int, /) -> None:
        pass


def noise(size: int) -> bytes:
    """Unique bytes, made quickly."""
    mark = os.urandom(16)
    return (mark + NOISE)[: size - 16] + mark if size >= 32 else os.urandom(size)


def begin(services: Services, who: Principal, size: int | None, *, partial: bool = False) -> UUID:
    new = NewResumable("tus", "a.bin", None, size, Placement(), partial=partial)
    upload_id = resumable(services).create(who, new).upload.id
    sql(services.db, "update uploads set part_size = %s where id = %s", PART, upload_id)
    return upload_id


def send(services: Services, who: Principal, upload_id: UUID, at: int, data: bytes, **options: Any) -> int:
    return resumable(services).append(who, upload_id, offset=at, body=Bytes(data), length=len(data), **options).offset


def lease_passes(db: Database) -> None:
    sql(db, "update resumable_uploads set leased_until = now() - interval '1 second' where leased_until is not null")


def end(services: Services, who: Principal, upload_id: UUID, data: bytes, bucket: Any) -> None:
    """Resume at the gateway's offset, finish, check the file and purge it."""
    state = resumable(services).settle(who, upload_id)
    if state.file_id is None:
        send(services, who, upload_id, state.offset, data[state.offset :])
    file_id = resumable(services).settle(who, upload_id).file_id
    assert file_id is not None
    (listed,) = services.files.list(who, FileQuery()).items
    assert listed.id == file_id
    ready = checked(services, listed)
    assert (ready.status, ready.file_hash) == ("ready", hashlib.sha256(data).hexdigest()), ready.problem
    with bucket.open(ready.file_path) as reader:
        assert reader.read(-1) == data
    services.files.purge(who, ready.id, if_match=None)


# A tail, another tail, parts with a tail, a single part, the end.
PIECES = (300, 150, PART + 100, 700, 330)
SMALL = (30, 20, 5)


@pytest.mark.parametrize("pieces", [PIECES, SMALL])
def test_T53_T101_a_crash_at_any_call_loses_no_acknowledged_byte(
    services: Services,
    crashing: CrashingGateway,
    alice: Principal,
    db: Database,
    bucket: Any,
    leftovers: Leftovers,
    pieces: tuple[int, ...],
) -> None:
    for crash in crashing.crash_points():
        data = noise(sum(pieces))
        upload_id, told = begin(services, alice, len(data)), [0]

        with crash:
            for piece in pieces:
                told.append(send(crashing.services, alice, upload_id, told[-1], data[told[-1] : told[-1] + piece]))
        lease_passes(db)
        time_passes(db, expires=False)
        state = resumable(services).find(alice, upload_id)
        assert told[-1] <= state.offset <= told[-1] + max(pieces), crash
        end(services, alice, upload_id, data, bucket)
    services.janitor.run()  # after all crashes: it takes a third of a second
    assert leftovers() == NOTHING
    assert crash.number > 16


@pytest.mark.parametrize("size", [500, PART + 100])
def test_T101_a_repeated_end_keeps_the_bytes(
    services: Services,
    crashing: CrashingGateway,
    alice: Principal,
    db: Database,
    bucket: Any,
    leftovers: Leftovers,
    size: int,
) -> None:
    """The gateway crashes at any call; the client sends what is missing, which is nothing if only the file is."""
    repeated = 0
    for crash in crashing.crash_points():
        data = noise(size)
        upload_id = begin(services, alice, size)
        with crash:
            send(crashing.services, alice, upload_id, 0, data)
        lease_passes(db)
        time_passes(db, expires=False)
        state = resumable(services).find(alice, upload_id)
        if state.upload.status != "done":
            repeated += state.complete
            assert send(services, alice, upload_id, state.offset, data[state.offset :]) == size
        end(services, alice, upload_id, data, bucket)
    services.janitor.run()
    assert leftovers() == NOTHING
    assert repeated > 2


def test_T101_the_sweep_makes_a_file_of_a_complete_upload(
    services: Services, crashing: CrashingGateway, alice: Principal, db: Database, bucket: Any, leftovers: Leftovers
) -> None:
    """The gateway crashes after the last byte, before the file exists."""
    rescued = 0
    for crash in crashing.crash_points():
        data = noise(PART + 200)
        upload_id = begin(services, alice, len(data))
        send(services, alice, upload_id, 0, data[: PART + 100])
        with crash:
            send(crashing.services, alice, upload_id, PART + 100, data[PART + 100 :])
        lease_passes(db)
        time_passes(db, expires=False)
        was_there = resumable(services).find(alice, upload_id).offset == len(data)
        swept = resumable(services).sweep() + direct(services).sweep()
        assert swept == 0 or was_there
        if was_there and crash.crashed:
            rescued += 1
            assert len(services.files.list(alice, FileQuery()).items) == 1, crash
        end(services, alice, upload_id, data, bucket)
    services.janitor.run()
    assert leftovers() == NOTHING
    assert rescued > 4


def test_T101_a_crash_at_any_call_of_an_abandoned_upload_leaves_nothing(
    services: Services, crashing: CrashingGateway, alice: Principal, db: Database, leftovers: Leftovers
) -> None:
    abandoned = []
    for crash in crashing.crash_points():
        data = noise(PART + 600)
        upload_id = begin(services, alice, None)
        abandoned.append(upload_id)
        with crash:
            send(crashing.services, alice, upload_id, 0, data[:200])
            send(crashing.services, alice, upload_id, 200, data[200:])
            resumable(crashing.services).terminate(alice, upload_id)
    lease_passes(db)
    time_passes(db, expires=True)
    services.janitor.run()
    assert leftovers() == NOTHING
    for upload_id in abandoned:
        with pytest.raises(UploadGone):
            resumable(services).settle(alice, upload_id)


def test_T57_T101_a_crash_at_any_call_of_a_concatenation(
    services: Services, crashing: CrashingGateway, db: Database, leftovers: Leftovers
) -> None:
    new = NewResumable("tus", "all.bin", None, None, Placement())
    for crash in crashing.crash_points():
        alice = Principal(f"alice {crash.number}")
        pieces = [noise(PART + 10), noise(200)]
        ids = []
        for piece in pieces:
            ids.append(begin(services, alice, len(piece), partial=True))
            send(services, alice, ids[-1], 0, piece)
        with crash:
            resumable(crashing.services).concatenate(alice, new, ids, concat="final;x")
        lease_passes(db)
        time_passes(db, expires=False)
        resumable(services).sweep()
        direct(services).sweep()
        if not services.files.list(alice, FileQuery()).items:  # the client can repeat it
            resumable(services).concatenate(alice, new, ids, concat="final;x")
        (file,) = services.files.list(alice, FileQuery()).items
        assert checked(services, file).file_hash == hashlib.sha256(b"".join(pieces)).hexdigest()
        services.files.purge(alice, file.id, if_match=None)
    time_passes(db, expires=True)
    services.janitor.run()
    assert leftovers() == NOTHING


# -- one writer at a time --------------------------------------------------------------------------------------------------


def test_T54_a_writer_that_lost_its_lease_changes_nothing(
    services: Services, crashing: CrashingGateway, alice: Principal, db: Database, bucket: Any, leftovers: Leftovers
) -> None:
    """The writer is paused before each of its calls in turn; another one stores different bytes; then the first continues."""
    size, first = PART + 900, PART + 500
    for number in range(1, 60):
        right, wrong = noise(size), noise(size)
        upload_id = begin(services, alice, size)
        send(services, alice, upload_id, 0, right[:100])

        def go_on(upload_id: UUID = upload_id, right: bytes = right) -> None:
            lease_passes(db)
            stands = resumable(services).settle(alice, upload_id).offset
            send(services, alice, upload_id, stands, right[stands:first])

        pause = Pause(number, go_on)
        crashing.arm(pause)
        with suppress(GatewayError):
            send(crashing.services, alice, upload_id, 100, wrong[100:first])
        at = resumable(services).settle(alice, upload_id).offset
        send(services, alice, upload_id, at, right[at:])
        file_id = resumable(services).settle(alice, upload_id).file_id
        assert file_id is not None
        file = checked(services, services.files.get(alice, file_id))
        with bucket.open(file.file_path) as reader:
            stored = reader.read(-1)
        # The first writer's recorded bytes, then the second's: never mixed.
        edges = [100, PART, first] if pause.happened else [first]
        assert any(stored == right[:100] + wrong[100:edge] + right[edge:] for edge in edges), number
        services.files.purge(alice, file_id, if_match=None)
        services.janitor.run()
        assert leftovers() == NOTHING, number
        if not pause.happened:
            break
    assert number > 10


def test_the_lease_is_held_before_the_body_is_read(services: Services, alice: Principal) -> None:
    """After the interim answer, no request may get an offset from before the body."""
    upload_id, data = begin(services, alice, 100), noise(100)
    offsets: list[int] = []

    def look() -> None:
        with pytest.raises(Locked), Lease.of(services.db, alice, upload_id, timeout=0):
            pass
        offsets.append(resumable(services).find(alice, upload_id).offset)

    resumable(services).append(alice, upload_id, offset=0, body=Bytes(data, step=look), length=100)
    assert offsets and set(offsets) == {0}


class Pause(CrashPoint):
    """Runs an action before the n-th call, instead of a crash."""

    def __init__(self, number: int, action: Callable[[], None]):
        super().__init__(number)
        self._action = action
        self.happened = False

    def before_call(self) -> None:
        self.calls += 1
        if self.calls == self.number and not self.happened:
            self.happened = True
            self._action()


# -- memory ----------------------------------------------------------------------------------------------------------------


class Flood:
    """A stream of zeros of the given size, created as they are read."""

    broken = False

    def __init__(self, size: int):
        self.left = size

    def read(self, size: int, /) -> bytes:
        size = min(size, self.left)
        self.left -= size
        return bytes(size)

    def stop_soon(self) -> None:
        self.left, self.broken = 0, True

    def acknowledge(self, offset: int, /) -> None:
        pass


@pytest.mark.parametrize("size", [6 * PART_SIZE, None])
def test_memory_is_bounded_by_one_part(services: Services, alice: Principal, size: int | None) -> None:
    new = NewResumable("tus", "a.bin", None, size, Placement())
    warm, upload_id = (resumable(services).create(alice, new).upload.id for _ in range(2))
    resumable(services).append(
        alice, warm, offset=0, body=Flood(PART_SIZE + 5)
    )  # a first upload loads what is loaded once
    tracemalloc.start()
    try:
        state = resumable(services).append(alice, upload_id, offset=0, body=Flood(5 * PART_SIZE + 5))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert state.offset == 5 * PART_SIZE + 5
    assert peak < 2 * PART_SIZE, peak
