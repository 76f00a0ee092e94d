"""Whether the gateway is stopped, for what must not meet it."""

from __future__ import annotations

import time

from core.errors import GatewayRunning
from db import Database, server


def check_stopped(db: Database, *, gateway_url: str | None = None) -> None:
    """Raises GatewayRunning if another process is connected to the database, as this user or that of ``gateway_url``."""
    for _ in range(50):  # a server that was stopped a moment ago has connections for as long
        with db.connection() as tx:
            others = server.others_connected(tx, gateway_url=gateway_url)
        if not others:
            return
        time.sleep(0.1)
    raise GatewayRunning(
        f"Stop the gateway and its workers first: {len(others)} other connection(s) to the database"
        f" ({', '.join(others[:5])})."
    )
