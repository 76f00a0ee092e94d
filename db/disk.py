"""Whether the database can still write to its disk."""

from __future__ import annotations

from db import Tx, execute

# Half a megabyte of rows in less memory than they need goes through a temporary file on the disk of the database's own
# tablespace; it writes no row and no log, and takes no lock.
_SPILL = "select count(*) from generate_series(1, 40000)"


def check(tx: Tx) -> None:
    """Raises psycopg's DiskFull, an OperationalError."""
    execute(tx, "set local work_mem = '64kB'")
    execute(tx, _SPILL)
