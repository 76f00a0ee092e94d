"""One writer for each resumable upload, over all processes and machines.

The right to write is a lease in the upload's row, renewed while bytes arrive. No database connection is held for it. A
request that finds a holder asks it for a handover: the holder stores what has arrived and ends, at its next read or renewal.
The lease of a dead or stuck holder runs out within LEASE. Each lease has a fence, a number that grows; statements with an
old fence change nothing, so a holder that was overtaken unnoticed does no harm (db/resumable.py)."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType
from uuid import UUID

import structlog

from core.errors import Locked, NotFound, Unavailable
from core.principal import Principal
from db import Database, resumable
from db.records import UploadState

log = structlog.get_logger()

LEASE = timedelta(seconds=6)
RENEW = 1.5  # seconds between renewals while bytes arrive
TIMEOUT = 8.0  # seconds that a request waits for a handover; longer than a dead holder's lease
_FIRST_POLL, _MAX_POLL = 0.02, 0.25  # seconds


class Lease:
    """``with Lease.of(…) as lease`` holds it until the end of the block, unless ``held`` is false or it is lost."""

    def __init__(self, db: Database, state: UploadState, *, held: bool):
        self._db = db
        self._renewed_at = time.monotonic()
        self.state = state  # when the lease began
        self.held = held
        self.fence = state.record.fence
        self.handover_requested = False

    @classmethod
    def of(
        cls, db: Database, principal: Principal, upload_id: UUID, *, offset: int | None = None, timeout: float = TIMEOUT
    ) -> Lease:
        """Take the lease of the caller's upload; ask its holder for a handover, and wait. It is not ``held`` if the upload
        is over or can't come to have this ``offset``.

        Raises NotFound, and Locked after ``timeout`` seconds."""
        deadline, pause = time.monotonic() + timeout, _FIRST_POLL
        while True:
            with db.connection() as tx:
                found = resumable.take(tx, principal, upload_id, offset=offset, lease=LEASE)
            if found is None:
                raise NotFound("There is no such upload.")
            state, taken = found
            if taken or not _worth_waiting(state, offset):
                return cls(db, state, held=taken)
            if time.monotonic() > deadline:
                raise Locked("Another request is writing to this upload and does not end; try again.", retry_after=2)
            time.sleep(pause)
            pause = min(2 * pause, _MAX_POLL)

    def renew(self) -> None:
        """Called as often as bytes arrive. Raises Locked if the lease is lost."""
        if time.monotonic() - self._renewed_at < RENEW:
            return
        with self._db.connection() as tx:
            requested = resumable.renew(tx, self.state.upload.id, fence=self.fence, lease=LEASE)
        if requested is None:
            raise lost()
        self.renewed(handover_requested=requested)

    def renewed(self, *, handover_requested: bool) -> None:
        """Called after a statement that renewed the lease along with something else."""
        self._renewed_at = time.monotonic()
        self.handover_requested |= handover_requested

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.held:
            return
        try:
            with self._db.connection() as tx:
                resumable.release(tx, self.state.upload.id, fence=self.fence)
        except Unavailable as unavailable:  # it runs out by itself
            log.warning("lease_not_released", upload_id=str(self.state.upload.id), error=str(unavailable))


def _worth_waiting(state: UploadState, offset: int | None) -> bool:
    """Whether the lease can be had later. An offset that is less than the upload's is wrong for good."""
    if not state.upload.open or state.upload.overdue:
        return False
    if offset is None or offset == state.offset:
        return state.record.sources is None or offset is None
    return offset > state.offset and state.record.leased


def lost() -> Locked:
    """The error of a writer whose lease was taken over."""
    return Locked("Another request has taken over this upload, or the upload has ended.", retry_after=1)
