"""Object keys that are reserved before they are used, so that the janitor finds what a crash leaves under them.

An upload of at most one part reserves no quota and has no row in ``uploads``: a reserved key is all that it needs, and many are
reserved by one statement. ``files.publish`` takes its id as that of an upload."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from db import Tx, column, execute

_RESERVE = """
insert into reserved_keys (stem, expires_at) select stem, now() + %(expires_in)s from unnest(%(stems)s::text[]) stem
returning id
"""


def reserve(tx: Tx, stems: Sequence[str], *, expires_in: timedelta) -> list[UUID]:
    """Reserve object keys, given without extension. Returns their ids, in the same order."""
    return column(tx, _RESERVE, {"stems": list(stems), "expires_in": expires_in})


# Rows that a transaction has locked are being published. To wait for them would delay the others.
_KEEP_ALIVE = """
update reserved_keys set expires_at = greatest(expires_at, now() + %(expires_in)s) where id in (
    select id from reserved_keys where id = any(%(ids)s) and expires_at > '-infinity' for update skip locked)
"""


def keep_alive(tx: Tx, ids: Sequence[UUID], *, expires_in: timedelta) -> None:
    """Postpone the expiry of keys in use."""
    execute(tx, _KEEP_ALIVE, {"ids": list(ids), "expires_in": expires_in})


def end(tx: Tx, ids: Sequence[UUID]) -> None:
    """Let nobody use these keys any more. Waits for a publication in progress."""
    execute(tx, "update reserved_keys set expires_at = '-infinity' where id = any(%(ids)s)", {"ids": list(ids)})


_END_EXPIRED = """
update reserved_keys set expires_at = '-infinity' where id in (
    select id from reserved_keys where expires_at < now() order by expires_at limit %(limit)s for update skip locked)
returning id, stem
"""


def end_expired(tx: Tx, *, limit: int) -> list[tuple[UUID, str]]:
    """Let nobody use keys past their expiry any more. Returns them, and those that were ended before, with their stems."""
    return tx.execute(_END_EXPIRED, {"limit": limit}).fetchall()


def forget(tx: Tx, ids: Sequence[UUID]) -> None:
    """Delete ended keys that have no object, or a file's."""
    execute(tx, "delete from reserved_keys where id = any(%(ids)s) and expires_at = '-infinity'", {"ids": list(ids)})
