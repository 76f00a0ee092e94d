"""Which locks this kernel, or the container, denies to the processes that parse untrusted files (parsers/locks.py).

In production nothing is parsed without all of them (``strict``), unless ALLOW_WEAK_SANDBOX is on."""

from __future__ import annotations

import structlog

from parsers import ParserFailed
from parsers.run import missing_locks
from services.upkeep.doctor import Check, Failed, NotTried, check

log = structlog.get_logger()

_LOCKS = {
    "Landlock": "A decoder taken over by a hostile file could read all that the gateway's user may read.",
    "seccomp": "A decoder taken over by a hostile file could start programs, signal processes and use the network.",
}
_REFUSED = " No worker starts and no preview is made, unless ALLOW_WEAK_SANDBOX=on."


def missing() -> tuple[str, ...]:
    """The locks that parsers don't get here: all of them if no parser can be started."""
    try:
        return missing_locks()
    except ParserFailed as error:
        log.error("parsers_do_not_start", error=error.reason)
        return tuple(_LOCKS)


def suffices(*, strict: bool) -> bool:
    """Whether files may be parsed here. Logs missing locks."""
    found = missing()
    if found:
        log.warning("weak_sandbox", missing=found, parsing="refused" if strict else "allowed")
    return not (found and strict)


def examine(*, strict: bool) -> list[Check]:
    """One check for each lock."""
    found = missing()

    def attempt(lock: str) -> str:
        if lock in found:
            raise (Failed if strict else NotTried)("this kernel, or the container, does not offer it")
        return "parsers are locked in"

    return [
        check(f"sandbox: {lock}", lambda lock=lock: attempt(lock), consequence + (_REFUSED if strict else ""))  # type: ignore[misc]
        for lock, consequence in _LOCKS.items()
    ]
