"""Whether the database can still write to its disk."""

from __future__ import annotations

from db import Tx, execute

# Half a megabyte of rows with little work_mem goes through a temporary file on the disk of the database's own tablespace. It
# writes no row and no WAL, and takes no lock.
_SPILL = "select count(*) from generate_series(1, 40000)"


def check(tx: Tx) -> None:
    """Raise psycopg's DiskFull, an OperationalError, when the disk is full."""
    execute(tx, "set local work_mem = '64kB'")
    execute(tx, _SPILL)
