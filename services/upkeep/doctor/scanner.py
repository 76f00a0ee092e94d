"""What the configured clamd finds, and what it reports as not scanned.

By default clamd reports OK for encrypted archives and for content beyond its limits, and it cuts streams at a size that
only its configuration knows. The checks name the options to set."""

from __future__ import annotations

import io
import zipfile

from services.objects.object_reader import Reader
from services.processing.clamd import Clamd
from services.upkeep.doctor import Check, Failed, check

_DEPTH = 60  # archives in archives; clamd's MaxRecursion is 17
# In two pieces: in one, scanners would take this file for the test virus (https://www.eicar.org).
_EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-" + b"ANTIVIRUS-TEST-FILE!$H+H*"


def examine(clamd: Clamd) -> list[Check]:
    """Five checks, each of which scans a file made here."""
    stream = f"its StreamMaxLength must be at least SCAN_MAX_SIZE ({clamd.max_size} bytes)"

    def scan(verdict: str, reader: Reader, size: int) -> str:
        found = clamd.scan(reader, size)
        seen = f"{found.verdict} {found.finding or ''}".strip()
        if found.verdict != verdict:
            raise Failed(seen)
        return seen

    def scan_bytes(verdict: str, data: bytes) -> str:
        return scan(verdict, io.BytesIO(data), len(data))

    return [
        check("scanner", lambda: scan_bytes("clean", b"harmless"), "Uploads stay in processing: check CLAMD_URL."),
        check(
            "scanner: finds the test virus",
            lambda: scan_bytes("infected", _EICAR),
            "It has no signatures: run freshclam.",
        ),
        check(
            "scanner: reports encrypted archives",
            lambda: scan_bytes("unscannable", _encrypted()),
            "Viruses in them pass as clean: set AlertEncryptedArchive and AlertEncryptedDoc to yes.",
        ),
        check(
            "scanner: reports its limits",
            lambda: scan_bytes("unscannable", _nested()),
            "Content beyond its limits passes as clean: set AlertExceedsMax to yes.",
        ),
        check(
            "scanner: takes files of SCAN_MAX_SIZE",
            lambda: scan("clean", _Zeros(clamd.max_size), clamd.max_size),
            f"Larger files stay in processing for ever: {stream}, MaxFileSize and MaxScanSize too.",
        ),
    ]


class _Zeros:
    def __init__(self, size: int):
        self._left = size

    def read(self, size: int = -1, /) -> bytes:
        count = self._left if size < 0 else min(size, self._left)
        self._left -= count
        return bytes(count)


def _zip(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return out.getvalue()


def _encrypted() -> bytes:
    """A ZIP whose member is marked as encrypted: a scanner without the password sees no more than that."""
    raw = bytearray(_zip("inside.txt", b"harmless"))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(signature) + at] |= 1
    return bytes(raw)


def _nested() -> bytes:
    data = b"harmless"
    for level in range(_DEPTH):
        data = _zip(f"{level}.zip", data)
    return data
