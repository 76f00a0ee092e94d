"""A lost answer to a COMMIT does not change the result of a scan."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from app import wire
from core.principal import Principal
from db import Database
from services import Services
from services.processing.previews import JSON, Shape
from services.processing.scanning import configured
from settings import Settings
from tests.clamd import EICAR
from tests.compressed_files import read, text, time_passes
from tests.conftest import NOTHING, Leftovers
from tests.direct_steps import checked
from tests.lost_commits import LossyGateway
from tests.rows import sql
from tests.services.uploads.test_intake import upload


def rescan(services: Services) -> None:
    scanning = configured(services.scanning)
    scanning.begin_rescan()
    while scanning.scan_next_batch():
        pass
    scanning.delete_quarantined()


@pytest.mark.parametrize("case", ["clean", "infected", "late hit"])
def test_T104_a_lost_commit_answer_does_not_change_the_verdict(
    services: Services,
    lossy: LossyGateway,
    settings: Settings,
    alice: Principal,
    db: Database,
    leftovers: Leftovers,
    case: str,
) -> None:
    unscanned = wire(settings.model_copy(update={"clamd_url": None}))  # a gateway without scanner
    for lost in lossy.lost_commits("at once"):
        data = os.urandom(20) + (b"" if case == "clean" else EICAR)
        file = upload(unscanned if case == "late hit" else services, alice, "a.bin", data)
        act: Callable[..., Any] = rescan if case == "late hit" else _check(file.id)
        if case == "late hit":
            unscanned.previews.keep(file, Shape("text", 0, JSON), b"{}")
            assert unscanned.delivery.url(alice, file.id)
        with lost:
            act(lossy.services)
        act(services)
        time_passes(db)
        services.janitor.run()
        now = checked(services, file)
        assert now.status == ("ready" if case == "clean" else "infected"), lost
        if case == "clean":
            assert read(services, now) == data
        assert leftovers() == NOTHING, lost
        services.files.purge(alice, file.id)
    unscanned.db.close()


def test_an_upload_that_repairs_damaged_bytes_is_scanned_and_processed(
    services: Services, alice: Principal, bucket: Any, db: Database, leftovers: Leftovers
) -> None:
    data = text(5000)
    old = checked(services, upload(services, alice, "a.txt", data))
    services.pipeline.process(old.id)
    bucket.delete(old.file_path)
    new = checked(services, upload(services, alice, "b.txt", data))
    old = services.files.get(alice, old.id)
    assert (new.status, old.status, old.file_path, old.scanned) == ("ready", "ready", new.file_path, True)
    assert read(services, old) == data
    due = sql(db, "select args ->> 'file_id' from procrastinate_jobs where task_name = 'process_file' order by id")
    assert due == [(str(old.id),)] * 2  # read again, once for both
    services.janitor.run()
    assert leftovers() == NOTHING


def _check(file_id: Any) -> Callable[[Services], None]:
    return lambda services: services.verification.check(file_id)
