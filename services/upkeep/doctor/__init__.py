"""``python app.py doctor``: try what the gateway relies on, and say what users lose where it is missing.

Documentation does not tell what a server, its proxy or a kernel really do, so each check tries it. No check raises, and
none leaves anything behind.

bucket.py    what the S3 server enforces, seen by the gateway and by clients of presigned URLs
scanner.py   what clamd finds, and what it reports as not scanned
sandbox.py   which locks parsers get on this kernel
mark.py      whether it is the bucket that the rows belong to
audit.py     whether the gateway could change audit events
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    name: str
    ok: bool | None  # None: not tried, or does not apply here
    detail: str  # what was seen
    consequence: str  # what it means for users; "" if ok


class Failed(Exception):
    """Something is not as it should be; the message says what was seen."""


class NotTried(Exception):
    """The check does not apply here; the message says why."""


def check(name: str, attempt: Callable[[], str], consequence: str) -> Check:
    """Run one check: ``attempt`` returns what it saw, or raises Failed or NotTried. Other errors are failures too."""
    try:
        return Check(name, True, attempt(), "")
    except NotTried as reason:
        return Check(name, None, str(reason), consequence)
    except Exception as error:
        return Check(name, False, str(error) or type(error).__name__, consequence)
