"""Upload sessions: several uploads that a client shows as one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from db import Tx, one


@dataclass(frozen=True, slots=True)
class SessionRecord:
    session_id: str
    files_uploaded: int
    total_size: int             # bytes
    started_at: datetime
    completed_at: datetime | None


_TOUCH = """
with opened as (
    insert into upload_sessions (owner_id, session_id) values (%(owner)s, %(session)s)
    on conflict (owner_id, session_id) do nothing
    returning session_id, files_uploaded, total_size, started_at, completed_at
)
select * from opened
union all
select session_id, files_uploaded, total_size, started_at, completed_at from upload_sessions
where owner_id = %(owner)s and session_id = %(session)s
limit 1
"""


def get_or_open(tx: Tx, owner_id: str, session_id: str) -> SessionRecord:
    """The owner's session of this id, opened now where it is new."""
    record = one(tx, SessionRecord, _TOUCH, {"owner": owner_id, "session": session_id})
    assert record is not None
    return record
