"""The TCP ports that a process listens on."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

TIMEOUT = 60  # seconds


def listening(pid: int, *, at_least: int = 0) -> set[str]:
    """The addresses as ``/proc/net/tcp`` writes them: ``0100007F:1F90`` is 127.0.0.1:8080. Empty for a process that hides
    from this user.

    Waits up to a minute for ``at_least`` so many: SeaweedFS answers S3 requests before it has opened all its ports."""
    deadline = time.monotonic() + TIMEOUT
    while len(found := _listening(pid)) < at_least and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _listening(pid: int) -> set[str]:
    sockets = set()
    with contextlib.suppress(PermissionError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                sockets.add(os.readlink(link))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and f"socket:[{columns[9]}]" in sockets:
                found.add(columns[1])
    return found
