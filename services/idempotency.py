"""Idempotency-Keys: the same request again gets the first answer, for a day (THREATS T14, T104)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any

from core.errors import IdempotencyConflict, IdempotencyInProgress, InvalidInput
from core.principal import Principal
from db import Database, Tx, idempotency

KEEP = timedelta(hours=24)
COMMITTED = "$committed"
LEASE = timedelta(minutes=10)  # a first request that neither ends nor renews in this time is taken for dead


@dataclass(frozen=True, slots=True)
class Replay:
    """The first answer under a key. An upload's caller compares the digest itself, once it has read the body."""

    request_digest: bytes
    status: int
    body: Any
    headers: dict[str, str]

    @property
    def facts(self) -> Any:
        """What ``committed`` kept, where the first answer was never finished; else None."""
        return self.body.get(COMMITTED) if isinstance(self.body, dict) else None

    def check_same(self, request_digest: bytes) -> None:
        if request_digest != self.request_digest:
            raise IdempotencyConflict()


class Idempotency:
    def __init__(self, db: Database):
        self._db = db

    def begin(self, principal: Principal, key: str, request_digest: bytes | None) -> Replay | None:
        """None: this request is the first, and must ``finish`` or ``drop``. Otherwise the first one's answer.

        ``request_digest`` None leaves the comparison to the caller (a streamed body is not known yet). Raises
        IdempotencyConflict for another request under the key and IdempotencyInProgress while the first is running."""
        if not 1 <= len(key) <= 255 or not key.isprintable():
            raise InvalidInput("An Idempotency-Key has 1 to 255 printable characters.")
        with self._db.connection() as tx:
            found = idempotency.claim(
                tx, principal.owner_id, _scoped(principal, key), request_digest or b"", lease=LEASE, keep=KEEP
            )
        if found is not None and found.mine:
            return None
        if found is None or found.response_status is None:
            if (
                found is not None
                and request_digest is not None
                and found.request_digest not in (b"", request_digest)
            ):
                raise IdempotencyConflict()
            raise IdempotencyInProgress()
        replay = Replay(found.request_digest, found.response_status, found.response, found.headers)
        if request_digest is not None:
            replay.check_same(request_digest)
        return replay

    def renew(self, principal: Principal, key: str) -> None:
        """Say that the first request is still alive: a long upload calls this every few minutes."""
        with self._db.connection() as tx:
            idempotency.renew(tx, principal.owner_id, _scoped(principal, key), lease=LEASE)

    def committed(
        self, tx: Tx, principal: Principal, key: str, *, request_digest: bytes, status: int, facts: Any
    ) -> None:
        """Keep, in the transaction that does what was asked, enough to answer the request again: if the process dies
        before ``finish``, a retry finds out instead of doing it twice (THREATS T104)."""
        idempotency.finish(
            tx,
            principal.owner_id,
            _scoped(principal, key),
            request_digest=request_digest,
            status=status,
            response={COMMITTED: facts},
            headers={},
        )

    def finish(
        self,
        principal: Principal,
        key: str,
        *,
        request_digest: bytes,
        status: int,
        body: Any,
        headers: dict[str, str],
    ) -> None:
        with self._db.connection() as tx:
            idempotency.finish(
                tx,
                principal.owner_id,
                _scoped(principal, key),
                request_digest=request_digest,
                status=status,
                response=body,
                headers=headers,
            )

    def drop(self, principal: Principal, key: str) -> None:
        """The request failed and changed nothing: the next one with the key is a first one again."""
        with self._db.connection() as tx:
            idempotency.drop(tx, principal.owner_id, _scoped(principal, key))


def _scoped(principal: Principal, key: str) -> str:
    """An upload token's keys are its own: it must not be told the answers that its owner's key was given."""
    return key if principal.token_id is None else sha256(f"{principal.token_id} {key}".encode()).hexdigest()
