"""Who acts, and from where: what audit events tell beside what was done.

It belongs to the context of the request, job or command, so that services and statements need not pass it on."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple

from core.principal import Credential


class Job(NamedTuple):
    """A job that runs."""

    id: int
    task: str
    actor: str  # who made the request that led to it; itself, the job acts as "system"


class Origin(NamedTuple):
    """The caller of a request. Without a ``credential``, the actor is no owner but "anonymous", "command" (of an operator) or
    "system" (the gateway itself)."""

    actor: str
    credential: Credential | None = None
    credential_id: str | None = None  # of a key or token
    address: str | None = None
    request_id: str | None = None  # of the request, or of the one that led to the job
    trace: str | None = None  # the innermost span, as W3C's traceparent; None unless spans are sent
    job: Job | None = None

    def cause(self) -> str:
        """Who made the request that leads to what is enqueued now."""
        return self.actor if self.job is None else self.job.actor


SYSTEM, COMMAND = Origin("system"), Origin("command")

ORIGIN: ContextVar[Origin] = ContextVar("origin", default=SYSTEM)
