"""Files found to be infected after they were ready (T98): re-scans, and the effects of a late hit."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import requests

from app import wire
from core.errors import FileNotReady, Unavailable
from core.principal import Principal
from core.scan import read_version
from db import Database, deferred_deletions, previews
from db.records import PreviewRecord
from services import Services
from services.library.delivery import Link, RequestConditions
from services.library.search import SearchRequest
from services.processing import scanning as scanning_module
from services.processing.previews import JSON, Shape
from services.processing.scanning import Scanning, configured
from settings import Settings
from storage_backends.base import PresignedRequest
from tests.clamd import EICAR, Clamd
from tests.compressed_files import text, time_passes
from tests.conftest import NOTHING, Leftovers
from tests.crash_points import CrashingGateway
from tests.direct_steps import checked
from tests.rows import previews_of, put_text, sql
from tests.samples import picture
from tests.services.processing.scanning.conftest import not_handed_out, problem_of, refused_everywhere
from tests.services.uploads.test_intake import upload


def rescan(services: Services) -> dict[str, int]:
    """Run all jobs of a re-scan."""
    scanning = configured(services.scanning)
    scanning.begin_rescan()
    while scanning.scan_next_batch():
        pass
    found = scanning.latest_rescan()
    assert found is not None
    assert found.finished_at is not None
    return {"scanned": found.scanned, "infected": found.infected, "failed": found.failed}


def test_T96_files_from_before_the_scanner_are_withheld_until_scanned(
    services: Services, alice: Principal, db: Database
) -> None:
    file = checked(services, upload(services, alice, "old.png", picture("PNG")))
    sql(db, "update objects set scan_verdict = null, scanned_with = null, scanned_at = null")
    assert services.files.get(alice, file.id).status == "ready"
    not_handed_out(services, file)
    assert rescan(services)["scanned"] == 1
    assert services.delivery.url(alice, file.id)


def test_T98_a_late_hit_removes_links_previews_and_text_of_all_equal_files(
    services: Services,
    scanner: Clamd,
    alice: Principal,
    bob: Principal,
    db: Database,
    bucket: Any,
    leftovers: Leftovers,
) -> None:
    bad = picture("PNG") + b"late hit"
    first = checked(services, upload(services, alice, "a.png", bad))
    shared = services.files.copy(alice, first.id)
    separate = checked(services, upload(services, alice, "c.png", bad, on_duplicate="copy"))
    trashed = services.files.trash(alice, services.files.copy(alice, first.id).id)
    theirs = checked(services, upload(services, bob, "d.png", bad))
    good = checked(services, upload(services, alice, "good.png", picture("PNG")))
    for file in (first, good):
        services.pipeline.process(file.id)
    with db.transaction() as tx:
        assert put_text(tx, first.file_path, content="words", language=None)
    assert len(previews_of(services.db, first)) == 4
    services.search.index()
    secret = SearchRequest("content:words")
    assert services.search.search(alice, secret).total
    assert rescan(services) == {"scanned": 4, "infected": 0, "failed": 0}
    scanner.learn("Test.Late", b"late hit")
    assert rescan(services)["infected"] >= 2  # alice's two objects at once, then bob's
    for file in (first, shared, separate, trashed, theirs):
        now = services.files.get(Principal(file.owner_id), file.id)
        assert (now.status, problem_of(now)) == ("infected", "infected"), file.original_name
        if not file.is_deleted:
            refused_everywhere(services, now)
    assert previews_of(services.db, first) == []
    assert services.files.get(alice, good.id).status == "ready"
    assert len(previews_of(services.db, good)) == 4
    assert sql(db, "select count(*) from object_texts") == [(0,)]
    assert services.search.search(alice, secret).total == 0  # before the worker has indexed them anew
    assert leftovers() == NOTHING
    assert rescan(services) == {"scanned": 1, "infected": 0, "failed": 0}


@pytest.mark.parametrize("stored", ["as it is", "compressed since"])
def test_T98_urls_signed_before_the_hit_stop_working(
    services: Services, scanner: Clamd, alice: Principal, leftovers: Leftovers, bucket: Any, stored: str
) -> None:
    data = text(9000) + b"late hit"
    file = checked(services, upload(services, alice, "a.txt", data))
    found = services.delivery.url(alice, file.id, expires_in=600)
    assert isinstance(found, PresignedRequest)
    assert requests.get(found.url, timeout=30).content == data
    if stored == "compressed since":
        services.compression.compress(file.id)
        link = services.delivery.url(alice, file.id)
    scanner.learn("Test.Late", b"late hit")
    rescan(services)
    assert requests.get(found.url, timeout=30).status_code == 404
    if stored == "compressed since":
        assert isinstance(link, Link)
        with pytest.raises(FileNotReady):
            services.delivery.open_link(link.token, method="GET", conditions=RequestConditions())
    now = services.files.get(alice, file.id)
    assert now.status == "infected"
    assert bucket.stat(now.file_path).size == (now.stored_size or now.file_size)  # kept for an administrator
    assert leftovers() == NOTHING
    services.files.purge(alice, file.id)
    assert leftovers() == NOTHING


def test_T98_a_preview_or_text_made_during_the_hit_is_discarded(
    services: Services, alice: Principal, scanner: Clamd, db: Database
) -> None:
    file = checked(services, upload(services, alice, "a.png", picture("PNG") + b"late hit"))
    scanner.learn("Test.Late", b"late hit")
    rescan(services)
    late = PreviewRecord(file.file_path, "thumbnail", 128, "previews/x.webp", "image/webp", 1, 1, 1, file.read_as)
    with db.connection() as tx:
        deferred_deletions.reserve(tx, late.preview_path, lease=timedelta(hours=1))
        assert not previews.add(tx, late, file_id=file.id)
        assert not put_text(tx, file.file_path, content="words", language=None)


def test_T98_a_rescan_survives_an_unavailable_scanner_and_dead_workers(
    services: Services, scanner: Clamd, alice: Principal, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning_module, "_BATCH", 2)
    scanning = configured(services.scanning)
    for number in range(5):
        checked(services, upload(services, alice, f"{number}.txt", b"%d" % number))
    begun = scanning.begin_rescan()
    assert scanning.begin_rescan().id == begun.id  # only one at a time
    assert scanning.scan_next_batch()
    scanner.stop()
    with pytest.raises(Unavailable):
        scanning.scan_next_batch()
    scanner.start()
    with db.connection() as tx:
        tx.execute("delete from procrastinate_jobs")
        tx.execute("update rescans set updated_at = now() - interval '1 hour'")
    scanning.continue_rescan()
    assert sql(db, "select task_name, priority / 1_000_000 from procrastinate_jobs") == [("rescan", -100)]
    while scanning.scan_next_batch():
        pass
    found = scanning.latest_rescan()
    assert found is not None
    assert (found.scanned, found.failed, found.finished_at is not None) == (5, 0, True)


def test_T98_a_due_rescan_starts_automatically(
    services: Services, alice: Principal, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanning = configured(services.scanning)
    checked(services, upload(services, alice, "a.txt", b"hello"))
    known = {"version": 1}
    monkeypatch.setattr(
        type(scanning.clamd),
        "signatures",
        lambda self: read_version(f"ClamAV 1.4.3/{known['version']}/Wed Nov 26 09:24:47 2026"),
    )
    runs = []
    for days, known["version"] in ((0, 1), (0, 2), (8, 1), (8, 2)):
        sql(db, "update rescans set started_at = now() - %s * interval '1 day', finished_at = now()", days)
        scanning.continue_rescan()
        latest = scanning.latest_rescan()
        assert latest is not None
        runs.append(latest.id)
    assert len(set(runs[:3])) == 1  # the first scan; not due; due, but with the same signatures
    assert runs[3] != runs[2]


def test_T101_killed_at_any_call_of_a_late_hit_the_result_is_the_same(
    services: Services,
    crashing: CrashingGateway,
    settings: Settings,
    alice: Principal,
    db: Database,
    leftovers: Leftovers,
) -> None:
    before = wire(settings.model_copy(update={"clamd_url": None}))  # a gateway without scanner

    def everything(scanning: Scanning) -> None:
        scanning.begin_rescan()
        while scanning.scan_next_batch():
            pass

    for crash in crashing.crash_points():
        file = upload(before, alice, "a.png", picture("PNG") + EICAR + b"%d" % crash.number)
        before.previews.keep(file, Shape("text", 0, JSON), b"{}")
        given = before.delivery.url(alice, file.id)
        assert isinstance(given, PresignedRequest)
        with crash:
            everything(configured(crashing.services.scanning))
        everything(configured(services.scanning))
        configured(services.scanning).delete_quarantined()
        time_passes(db)
        services.janitor.run()
        assert services.files.get(alice, file.id).status == "infected", crash
        assert requests.get(given.url, timeout=30).status_code == 404, crash
        assert leftovers() == NOTHING, crash
        services.files.purge(alice, file.id)
    assert crash.number > 8
    before.db.close()


def test_a_missing_object_does_not_stop_a_rescan(services: Services, alice: Principal, bucket: Any) -> None:
    files = [checked(services, upload(services, alice, f"{n}.txt", b"%d" % n)) for n in range(3)]
    bucket.delete(sorted(file.file_path for file in files)[1])
    assert rescan(services) == {"scanned": 2, "infected": 0, "failed": 1}
