"""Idempotency-Keys: a request that is sent again gets the first answer, for a day (T14, T104).

The outcome of the first request is recorded as data, in the transaction that does the work, under the claim that the
request holds. So an outcome is recorded if and only if the work was done, and a request whose key was taken over does
nothing. An API key or token is never part of an outcome; neither are presigned URLs, which a repeat signs anew."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar

import structlog
from pydantic import TypeAdapter

from core.errors import IdempotencyConflict, IdempotencyInProgress, InvalidInput, Unavailable
from core.heartbeat import beating
from core.principal import Principal
from db import Database, Tx, idempotency

log = structlog.get_logger()
T = TypeVar("T")

KEEP = timedelta(hours=24)
LEASE = timedelta(seconds=90)  # a first request that neither ends nor renews its claim in this time counts as dead


@dataclass(slots=True)
class Claim:
    """The right of a request to be the first under its key, until another request takes the key over."""

    owner_id: str
    key: str
    at: datetime
    request: hashlib._Hash  # over what makes two requests the same; complete when the outcome is recorded
    recorded: bool = False


@dataclass(frozen=True, slots=True)
class Recorded:
    """The outcome of the first request under a key."""

    claim: Claim
    request_digest: bytes
    outcome: Any  # as JSON

    def check_same(self, request: hashlib._Hash) -> None:
        """IdempotencyConflict unless the first request was the same."""
        if request.digest() != self.request_digest:
            raise IdempotencyConflict()

    def read(self, kind: type[T]) -> T:
        """The outcome as the value that ``record`` was given."""
        outcome: T = _adapters(kind).validate_python(self.outcome)
        return outcome


def record(tx: Tx, claim: Claim | None, outcome: object) -> None:
    """Record a dataclass, named tuple or id, in the transaction that does the work; nothing without a claim. Raises
    IdempotencyInProgress, which rolls the work back, if another request has taken the key over."""
    if claim is None:
        return
    data = _adapters(type(outcome)).dump_python(outcome, mode="json")
    if not idempotency.record(
        tx, claim.owner_id, claim.key, claim.at, request_digest=claim.request.digest(), outcome=data
    ):
        raise IdempotencyInProgress("Another request with this Idempotency-Key took over.", retry_after=1)
    claim.recorded = True


_adapters: Callable[[Any], TypeAdapter[Any]] = lru_cache(TypeAdapter)  # made once for each type


class Idempotency:
    """Claims on Idempotency-Keys."""

    def __init__(self, db: Database):
        self._db = db

    def begin(
        self,
        principal: Principal,
        key: str,
        request: hashlib._Hash,
        *,
        streamed: bool = False,
        instead_of: Claim | None = None,
    ) -> Claim | Recorded:
        """A Claim if this request is the first: do its work ``under`` it. Otherwise what the first one recorded.

        If the body is ``streamed``, ``request`` is not complete yet, and the caller must ``check_same`` once it is.
        ``instead_of`` is a claim whose outcome no longer exists. Raises IdempotencyConflict for another request under the key,
        and IdempotencyInProgress while the first one is running."""
        if not 1 <= len(key) <= 255 or not key.isprintable():
            raise InvalidInput("An Idempotency-Key has 1 to 255 printable characters.")
        digest = b"" if streamed else request.digest()
        owner_id, scoped, found = principal.owner_id, _scoped(principal, key), None
        for _ in range(2):  # the second read sees what the first one waited for
            with self._db.connection() as tx:
                found = idempotency.claim(
                    tx,
                    owner_id,
                    scoped,
                    digest,
                    lease=LEASE,
                    keep=KEEP,
                    instead_of=instead_of.at if instead_of else None,
                )
            if found is not None and found.mine:
                return Claim(owner_id, scoped, found.created_at, request)
            if found is not None and found.outcome is not None:
                break
        if found is None:
            raise IdempotencyInProgress(retry_after=1)
        if digest and found.request_digest not in (b"", digest):
            raise IdempotencyConflict()
        if found.outcome is None:
            raise IdempotencyInProgress(retry_after=math.ceil(found.lease_left))
        return Recorded(
            Claim(owner_id, scoped, found.created_at, request, recorded=True), found.request_digest, found.outcome
        )

    @contextmanager
    def under(self, claim: Claim) -> Iterator[None]:
        """Renew the claim while the block does the work. The key is free afterwards unless an outcome was recorded; if the
        database can't tell whether one was, the key stays claimed until the lease expires."""
        try:
            with beating(lambda: self._renew(claim)):
                yield
        except BaseException:
            self.drop(claim)
            raise
        if not claim.recorded:
            self.drop(claim)

    def _renew(self, claim: Claim) -> None:
        with self._db.connection() as tx:
            idempotency.renew(tx, claim.owner_id, claim.key, claim.at, lease=LEASE)

    def drop(self, claim: Claim) -> None:
        """Free the key unless an outcome was recorded."""
        try:
            with self._db.connection() as tx:
                idempotency.drop(tx, claim.owner_id, claim.key, claim.at)
        except Unavailable as error:
            log.warning("idempotency_key_left", error=str(error))


def _scoped(principal: Principal, key: str) -> str:
    """A credential must not get the answers that its owner's wider ones got: each upload token, each folder that keys are
    limited to, and the role admin have Idempotency-Keys of their own."""
    apart = principal.apart or ("admin" if principal.is_admin else None)
    return key if apart is None else hashlib.sha256(f"{apart} {key}".encode()).hexdigest()
