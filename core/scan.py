"""What a virus scanner's answer means (THREATS T96).

clamd knows OK, FOUND and ERROR. It says OK also of what it did not look into: encrypted archives, and what lies beyond its
limits, unless it is configured to say so (AlertExceedsMax, AlertEncrypted…). Then it reports these like viruses, under the
names of heuristics: they are no viruses, but nothing that was scanned either.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

Verdict = Literal["clean", "infected", "unscannable"]

_NOT_LOOKED_INTO = re.compile(r"Heuristics\.(?:Limits\.Exceeded|Encrypted)\b")
_VERSION = re.compile(r"ClamAV [^/]+/(\d+)/(\w{3} \w{3} +\d+ [\d:]+ \d{4})")


@dataclass(frozen=True, slots=True)
class Signatures:
    """The scanner's knowledge: its version, None where only local signatures are loaded, and when it was made."""

    version: str | None
    made_at: datetime | None


@dataclass(frozen=True, slots=True)
class Scan:
    verdict: Verdict
    finding: str | None = None  # the signature, or why it was not scanned
    signatures: str | None = None  # their version


def read_answer(status: str, found: str | None) -> tuple[Verdict, str | None] | None:
    """The verdict in clamd's answer to INSTREAM; None where it holds none."""
    if status == "OK" and not found:
        return "clean", None
    if status == "FOUND" and found:
        return ("unscannable" if _NOT_LOOKED_INTO.match(found) else "infected"), found[:200]
    return None


def read_version(text: str) -> Signatures:
    """clamd's answer to VERSION: ``ClamAV 1.4.3/27832/Wed Nov 26 09:24:47 2026``; without a database of ClamAV's own only
    the program's version is told."""
    found = _VERSION.fullmatch(text.strip())
    if not found:
        return Signatures(None, None)
    try:
        made_at = datetime.strptime(found[2], "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC)
    except ValueError:
        made_at = None
    return Signatures(found[1], made_at)
