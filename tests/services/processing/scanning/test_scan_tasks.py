"""Scan and compression jobs as a worker runs them, from the transaction of the upload."""

from __future__ import annotations

from collections.abc import Callable

import procrastinate
from procrastinate import PsycopgConnector

from core.principal import Principal
from db import Database
from jobs.tasks import register
from services import Services
from services.processing.scanning import configured
from tests.clamd import EICAR
from tests.compressed_files import read, text, time_passes
from tests.conftest import NOTHING
from tests.rows import sql
from tests.services.uploads.test_intake import upload


def work(services: Services, database_url: str) -> None:
    """Run jobs, and those that they enqueue, until none is due."""

    def due() -> bool:
        with services.db.connection() as tx:
            sql = "select exists (select from procrastinate_jobs where status = 'todo' and scheduled_at is null)"
            return tx.execute(sql).fetchone() == (True,)

    while due():
        queue = procrastinate.App(connector=PsycopgConnector(conninfo=database_url, min_size=1, max_size=3))
        register(queue, services)
        queue.run_worker(wait=False, install_signal_handlers=False, concurrency=2)


def test_uploads_are_scanned_then_compressed_and_scanned_again(
    services: Services, database_url: str, db: Database, alice: Principal, leftovers: Callable[[], dict[str, list[str]]]
) -> None:
    data = text(9000)
    good, twin, bad = (
        upload(services, alice, name, content)
        for name, content in (("a.txt", data), ("b.txt", data), ("c.txt", EICAR + text(9000)))
    )
    work(services, database_url)
    ended = {name: services.files.get(alice, file.id) for name, file in (("good", good), ("twin", twin), ("bad", bad))}
    assert {name: file.status for name, file in ended.items()} == {"good": "ready", "twin": "ready", "bad": "infected"}
    assert ended["good"].file_path == ended["twin"].file_path
    assert (ended["good"].encoding, ended["bad"].encoding) == ("zstd", None)
    assert read(services, ended["twin"]) == data
    configured(services.scanning).begin_rescan()
    work(services, database_url)
    latest = configured(services.scanning).latest_rescan()
    assert latest is not None
    assert (latest.scanned, latest.failed, latest.finished_at is not None) == (1, 0, True)
    left = sql(db, "select task_name, status from procrastinate_jobs where status in ('failed', 'doing')")
    assert left == []
    time_passes(db)
    services.janitor.run()
    assert leftovers() == NOTHING
