"""Whether this machine can lock parsers in (locks.py): worker and server ask at their start, and so does the doctor."""

from __future__ import annotations

import structlog

from parsers import ParserFailed
from parsers.run import missing_locks

log = structlog.get_logger()


def missing() -> tuple[str, ...]:
    """The locks that parsers don't get here: all of them if no parser can be started."""
    try:
        return missing_locks()
    except ParserFailed as error:
        log.error("parsers_do_not_start", error=error.reason)
        return ("Landlock", "seccomp")


def suffices(*, strict: bool) -> bool:
    """Whether files may be parsed here. Logs missing locks."""
    found = missing()
    if found:
        log.warning("weak_sandbox", missing=found, parsing="refused" if strict else "allowed")
    return not (found and strict)
