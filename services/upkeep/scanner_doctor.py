"""What the configured clamd can do, found out by showing it things: the scanner's part of ``python app.py doctor``.

clamd as it comes says OK of encrypted archives and of what lies beyond its limits, and cuts streams at a size that only its
configuration knows. What it should be told to do instead is named where it does not."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

from core.errors import Unavailable
from core.scan import Scan
from services.processing.clamd import Clamd
from services.upkeep.doctor import Check

_DEPTH = 60  # archives in archives; clamd's MaxRecursion is 17
# In two pieces: whole, this file would be taken for the test virus (https://www.eicar.org) itself.
_EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-" + b"ANTIVIRUS-TEST-FILE!$H+H*"


def examine(clamd: Clamd) -> list[Check]:
    """Never raises."""
    stream = f"its StreamMaxLength must be at least SCAN_MAX_SIZE ({clamd.max_size} bytes)"
    return [
        _check(
            "scanner",
            lambda: _expect(clamd, b"harmless", "clean"),
            "Uploads stay in processing: check CLAMD_URL.",
        ),
        _check(
            "scanner: finds the test virus",
            lambda: _expect(clamd, _EICAR, "infected"),
            "It has no signatures: run freshclam.",
        ),
        _check(
            "scanner: tells encrypted archives",
            lambda: _expect(clamd, _encrypted(), "unscannable"),
            "Viruses in them pass as clean: set AlertEncryptedArchive and AlertEncryptedDoc to yes.",
        ),
        _check(
            "scanner: tells its limits",
            lambda: _expect(clamd, _nested(), "unscannable"),
            "What lies beyond its limits passes as clean: set AlertExceedsMax to yes.",
        ),
        _check(
            "scanner: takes files of SCAN_MAX_SIZE",
            lambda: _expect_zeros(clamd),
            f"Larger files stay in processing for ever: {stream}, MaxFileSize and MaxScanSize too.",
        ),
    ]


def _check(name: str, attempt: Callable[[], tuple[bool, str]], consequence: str) -> Check:
    try:
        ok, detail = attempt()
    except Unavailable as error:
        ok, detail = False, str(error)
    return Check(name, ok, detail, "" if ok else consequence)


def _expect(clamd: Clamd, data: bytes, verdict: str) -> tuple[bool, str]:
    return _told(clamd.scan(io.BytesIO(data), len(data)), verdict)


def _expect_zeros(clamd: Clamd) -> tuple[bool, str]:
    return _told(clamd.scan(_Zeros(clamd.max_size), clamd.max_size), "clean")


def _told(scan: Scan, verdict: str) -> tuple[bool, str]:
    return scan.verdict == verdict, f"{scan.verdict} {scan.finding or ''}".strip()


class _Zeros:
    def __init__(self, size: int):
        self._left = size

    def read(self, size: int = -1, /) -> bytes:
        given = self._left if size < 0 else min(size, self._left)
        self._left -= given
        return bytes(given)


def _zip(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return out.getvalue()


def _encrypted() -> bytes:
    """A ZIP whose member is marked as encrypted, which is all that a scanner without the password can see."""
    raw = bytearray(_zip("inside.txt", b"harmless"))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(signature) + at] |= 1
    return bytes(raw)


def _nested() -> bytes:
    data = b"harmless"
    for level in range(_DEPTH):
        data = _zip(f"{level}.zip", data)
    return data
