"""Who may write a resumable upload: one request at a time, over all processes and machines.

The right is a lease in the upload's row, renewed while bytes move, with a fencing token that grows with each holder. No
database connection is held for it. A request that finds a holder asks it to end: a living one keeps what it has and does so
at its next read or renewal, the lease of a dead or stuck one passes within LEASE. Whoever was overtaken without noticing
changes nothing when it wakes, since each of its statements names a token that is no longer the row's."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType
from uuid import UUID

import structlog

from core.errors import Locked, NotFound, Unavailable
from db import Database, resumable
from db.records import ResumableRecord

log = structlog.get_logger()

LEASE = timedelta(seconds=6)
RENEW = 1.5  # seconds between renewals while bytes move
PATIENCE = 8.0  # seconds that a request waits for the holder to end; longer than a dead holder's lease
_POLL_FIRST, _POLL_MOST = 0.02, 0.25  # seconds


class Lease:
    """``with Lease.of(db, upload_id) as lease``: the writer until the end of the block, or until ``lost``."""

    def __init__(self, db: Database, record: ResumableRecord):
        self._db = db
        self._renewed = time.monotonic()
        self.record = record  # as it was when the lease began
        self.token = record.token
        self.asked_for = False  # another request waits

    @classmethod
    def of(cls, db: Database, upload_id: UUID, *, patience: float = PATIENCE) -> Lease:
        """Become the writer; ask a present one to end, and wait for that. Raises Locked after ``patience`` seconds."""
        deadline, pause = time.monotonic() + patience, _POLL_FIRST
        while True:
            with db.connection() as tx:
                record = resumable.take(tx, upload_id, lease=LEASE)
                if record is None:
                    resumable.ask_for(tx, upload_id)
            if record is not None:
                return cls(db, record)
            if time.monotonic() > deadline:
                break
            time.sleep(pause)
            pause = min(2 * pause, _POLL_MOST)
        with db.connection() as tx:
            if resumable.get(tx, upload_id) is None:
                raise NotFound("There is no such upload.")
        raise Locked("Another request writes this upload and does not end; try again.", retry_after=2)

    def renew(self) -> None:
        """Called as often as bytes come. Raises Locked where another has become the writer."""
        if time.monotonic() - self._renewed < RENEW:
            return
        with self._db.connection() as tx:
            asked = resumable.renew(tx, self.record.upload_id, token=self.token, lease=LEASE)
        self.renewed(asked)

    def renewed(self, asked: bool | None) -> None:
        """What a statement that renews the lease beside its own purpose has told."""
        if asked is None:
            raise lost()
        self._renewed = time.monotonic()
        self.asked_for = self.asked_for or asked

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._db.connection() as tx:
                resumable.release(tx, self.record.upload_id, token=self.token)
        except Unavailable as unavailable:  # it passes by itself
            log.warning("lease_left", upload_id=str(self.record.upload_id), error=str(unavailable))


def lost() -> Locked:
    return Locked("Another request has taken this upload over, or it is over.", retry_after=1)
