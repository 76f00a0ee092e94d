"""Who acts, and from where: what audit events tell beside what was done.

It belongs to the context of the request, job or command, so that services and statements need not pass it on."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple

from core.principal import Credential


class Origin(NamedTuple):
    """The caller of a request. Without a ``credential``, the actor is no owner but "anonymous", "command" (of an operator) or
    "system" (the gateway itself)."""

    actor: str
    credential: Credential | None = None
    credential_id: str | None = None  # of a key or token
    address: str | None = None
    request_id: str | None = None


SYSTEM, COMMAND = Origin("system"), Origin("command")

ORIGIN: ContextVar[Origin] = ContextVar("origin", default=SYSTEM)
