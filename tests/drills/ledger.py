"""What the gateway has acknowledged: each file with its content, each deletion, and what was wrong on the way."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class Entry:
    """A file as the last acknowledged request left it."""

    id: str
    owner: str
    name: str
    sha256: str
    size: int
    folder: int | None = None
    tags: tuple[str, ...] = ()
    state: Literal["here", "trashed", "purged"] = "here"
    seen_ready: bool = False


@dataclass
class Ledger:
    """Shared by all clients of a drill. An entry is changed by the one client that it belongs to."""

    entries: dict[str, Entry] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)  # what was acknowledged, by kind
    unanswered: int = 0  # requests without an answer, whose outcome a repeat has told
    refused: int = 0  # 503 and the like
    findings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def add(self, kind: str, entry: Entry) -> Entry:
        with self._lock:
            if entry.id in self.entries:
                self.findings.append(f"{kind}: two requests were told that they made file {entry.id}")
            self.entries[entry.id] = entry
            self.requests[kind] += 1
        return entry

    def did(self, kind: str) -> None:
        with self._lock:
            self.requests[kind] += 1

    def count(self, *, unanswered: int = 0, refused: int = 0) -> None:
        with self._lock:
            self.unanswered += unanswered
            self.refused += refused

    def finding(self, text: str, **details: Any) -> None:
        """Something that must never happen."""
        with self._lock:
            self.findings.append(text + "".join(f" {name}={value!r}" for name, value in details.items()))

    @property
    def acknowledged(self) -> int:
        return len(self.entries)

    @property
    def deletions(self) -> int:
        return sum(entry.state == "purged" for entry in self.entries.values())
