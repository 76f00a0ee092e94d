"""The locks of the processes that read untrusted files, where the kernel does not give all of them (parsers/locks.py).

In production nothing is parsed then, unless ALLOW_WEAK_SANDBOX says so (``strict``)."""

from __future__ import annotations

import structlog

from parsers import run as parsers
from services.upkeep.doctor import Check

log = structlog.get_logger()

_LOCKS = {
    "Landlock": "A decoder that a hostile file took over could read all that the gateway's user may read.",
    "seccomp": "A decoder that a hostile file took over could start programs, signal processes and use the network.",
}
_REFUSED = " No worker starts and no preview is made, unless ALLOW_WEAK_SANDBOX=on."


def missing() -> tuple[str, ...]:
    """The locks that can't be had; all where no parser can be started."""
    try:
        return parsers.missing_locks()
    except parsers.ParserFailed as error:
        log.error("parsers_do_not_start", error=error.reason)
        return tuple(_LOCKS)


def suffices(*, strict: bool) -> bool:
    """Whether files may be parsed here. What is missing is logged."""
    found = missing()
    if found:
        log.warning("weak_sandbox", missing=found, parsing="refused" if strict else "allowed")
    return not (found and strict)


def examine(*, strict: bool) -> list[Check]:
    """For the doctor. Never raises."""
    found = missing()
    return [
        Check(f"sandbox: {lock}", True, "parsers are locked in", "")
        if lock not in found
        else Check(
            f"sandbox: {lock}",
            False if strict else None,
            "this kernel, or the container, does not give it",
            consequence + (_REFUSED if strict else ""),
        )
        for lock, consequence in _LOCKS.items()
    ]
