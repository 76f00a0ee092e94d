"""Idempotency-Keys: the same request again gets the first answer, for a day (THREATS T14, T104).

The answer is recorded in the transaction that does the work, under the claim that the request holds. So what is recorded
was done, what was done is recorded, and a request whose key another has taken over meanwhile does nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import structlog

from core.errors import IdempotencyConflict, IdempotencyInProgress, InvalidInput, Unavailable
from core.heartbeat import beating
from core.principal import Principal
from db import Database, Tx, idempotency

log = structlog.get_logger()

KEEP = timedelta(hours=24)
_BEGUN = "$begun"
LEASE = timedelta(seconds=90)  # a first request that neither ends nor renews in this time is taken for dead


@dataclass(frozen=True, slots=True)
class Claim:
    """A request's right to be the first under its key, until another takes the key over."""

    owner_id: str
    key: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Replay:
    """The first answer under a key. An upload's caller compares the digest itself, once it has read the body."""

    claim: Claim
    request_digest: bytes
    status: int
    body: Any
    headers: dict[str, str]

    @property
    def begun(self) -> UUID | None:
        """The upload that the first request began, where that is all that is known of its answer."""
        begun = self.body.get(_BEGUN) if isinstance(self.body, dict) else None
        return None if begun is None else UUID(begun)

    def check_same(self, request_digest: bytes) -> None:
        if request_digest != self.request_digest:
            raise IdempotencyConflict()


class Idempotency:
    def __init__(self, db: Database):
        self._db = db

    def begin(
        self, principal: Principal, key: str, request_digest: bytes | None, *, instead_of: Claim | None = None
    ) -> Claim | Replay:
        """A Claim where this request is the first: it is to run ``under`` it. Otherwise the first one's answer.

        ``request_digest`` None leaves the comparison to the caller (a streamed body is not known yet); ``instead_of`` is a
        claim whose work has come to nothing. Raises IdempotencyConflict for another request under the key and
        IdempotencyInProgress while the first is running."""
        if not 1 <= len(key) <= 255 or not key.isprintable():
            raise InvalidInput("An Idempotency-Key has 1 to 255 printable characters.")
        owner_id, scoped, found = principal.owner_id, _scoped(principal, key), None
        for _ in range(2):  # the second time sees what the first one had to wait for
            with self._db.connection() as tx:
                found = idempotency.claim(
                    tx,
                    owner_id,
                    scoped,
                    request_digest or b"",
                    lease=LEASE,
                    keep=KEEP,
                    instead_of=instead_of.at if instead_of else None,
                )
            if found is not None and found.mine:
                return Claim(owner_id, scoped, found.created_at)
            if found is not None and found.response_status is not None:
                break
        if found is None:
            raise IdempotencyInProgress(retry_after=1)
        if found.response_status is None:
            if request_digest is not None and found.request_digest not in (b"", request_digest):
                raise IdempotencyConflict()
            raise IdempotencyInProgress(retry_after=math.ceil(found.lease_left))
        replay = Replay(
            Claim(owner_id, scoped, found.created_at),
            found.request_digest,
            found.response_status,
            found.response,
            found.headers,
        )
        if request_digest is not None:
            replay.check_same(request_digest)
        return replay

    @contextmanager
    def under(self, claim: Claim) -> Iterator[None]:
        """The block does what was asked, the claim being renewed. Where it fails the key is free again, unless an answer was
        recorded; where the outcome of that can't be learned, it is left to the lease."""
        try:
            with beating(lambda: self._renew(claim)):
                yield
        except BaseException:
            self.drop(claim)
            raise

    def _renew(self, claim: Claim) -> None:
        with self._db.connection() as tx:
            idempotency.renew(tx, claim.owner_id, claim.key, claim.at, lease=LEASE)

    def record(
        self,
        tx: Tx,
        claim: Claim,
        *,
        request_digest: bytes,
        status: int,
        body: Any,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Keep the answer, in the transaction that does the work. Raises IdempotencyInProgress where another has taken the key
        over: then the work is to be rolled back."""
        if not idempotency.record(
            tx,
            claim.owner_id,
            claim.key,
            claim.at,
            request_digest=request_digest,
            status=status,
            response=body,
            headers=headers or {},
        ):
            raise IdempotencyInProgress("Another request with this Idempotency-Key took over.", retry_after=1)

    def record_begun(self, tx: Tx, claim: Claim, upload_id: UUID, *, request_digest: bytes) -> None:
        """Keep that the upload was begun, where more has to be done before there is an answer."""
        body = {_BEGUN: str(upload_id), "id": str(upload_id)}
        self.record(tx, claim, request_digest=request_digest, status=201, body=body)

    def finish(self, claim: Claim, **answer: Any) -> None:
        """``record`` the answer of work that may be done twice, or of which enough was recorded to answer again."""
        with suppress(IdempotencyInProgress), self._db.connection() as tx:
            self.record(tx, claim, **answer)

    def drop(self, claim: Claim) -> None:
        """The next request with the key is a first one again, unless this one's work was done."""
        try:
            with self._db.connection() as tx:
                idempotency.drop(tx, claim.owner_id, claim.key, claim.at)
        except Unavailable as error:
            log.warning("idempotency_key_left", error=str(error))


def _scoped(principal: Principal, key: str) -> str:
    """An upload token's keys are its own: it must not be told the answers that its owner's key was given."""
    return key if principal.token_id is None else sha256(f"{principal.token_id} {key}".encode()).hexdigest()
