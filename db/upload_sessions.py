"""Upload sessions: several uploads that a client shows as one. Opened by ``uploads.admit``, counted as files appear."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class SessionRecord:
    session_id: str
    files_uploaded: int
    total_size: int  # bytes
    started_at: datetime
    completed_at: datetime | None
