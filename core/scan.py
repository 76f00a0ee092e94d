"""What clamd's responses mean (T96).

clamd answers OK, FOUND or ERROR. By default it also answers OK for content that it skipped: encrypted archives, and what exceeds
its limits. With AlertExceedsMax and AlertEncrypted… it reports such content as FOUND, under the names of heuristics.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

Verdict = Literal["clean", "infected", "unscannable"]

_NOT_SCANNED = re.compile(r"Heuristics\.(?:Limits\.Exceeded|Encrypted)\b")
_VERSION = re.compile(r"ClamAV [^/]+/(\d+)/(\w{3} \w{3} +\d+ [\d:]+ \d{4})")


@dataclass(frozen=True, slots=True)
class Signatures:
    """The version of the scanner's signatures and their date; None if only local ones are loaded."""

    version: str | None
    made_at: datetime | None


@dataclass(frozen=True, slots=True)
class Scan:
    """The result of a scan."""

    verdict: Verdict
    finding: str | None = None  # the signature, or why it was not scanned
    signatures: str | None = None  # their version


def read_answer(status: str, found: str | None) -> tuple[Verdict, str | None] | None:
    """The verdict in clamd's response to INSTREAM; None if it has none."""
    if status == "OK" and not found:
        return "clean", None
    if status == "FOUND" and found:
        return ("unscannable" if _NOT_SCANNED.match(found) else "infected"), found[:200]
    return None


def read_version(text: str) -> Signatures:
    """The signatures in clamd's response to VERSION, such as ``ClamAV 1.4.3/27832/Wed Nov 26 09:24:47 2026``. Without
    ClamAV's own database it has only the program's version."""
    found = _VERSION.fullmatch(text.strip())
    if not found:
        return Signatures(None, None)
    try:
        made_at = datetime.strptime(found[2], "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC)
    except ValueError:
        made_at = None
    return Signatures(found[1], made_at)
