"""Virus scans by a real clamd: what its verdicts lead to, and that nothing but a verdict lets a file be downloaded."""

from __future__ import annotations

import io
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
import requests
from pydantic import ValidationError

import commands
from app import create_app, storage_settings, wire
from app import database_url as database_url_of
from core.errors import FileNotReady, Unavailable
from core.principal import Principal
from core.scan import read_answer, read_version
from db import Database, previews, texts
from db.files import FileRecord
from db.previews import PreviewRecord
from services import Services, scanner_doctor
from services import scanning as scanning_module
from services.clamd import Clamd as ClamdClient
from services.clamd import ScannerSettings
from services.contents import Contents
from services.delivery import Link, RequestConditions
from services.previews import PreviewWish
from services.scanning import Scanning, configured
from settings import Settings
from storage_backends.base import PresignedRequest
from tests.clamd import EICAR, STREAM_LIMIT, Clamd, Proxy
from tests.conftest import NOTHING
from tests.direct import begin, checked, send_all
from tests.material import Source
from tests.services.test_checking import Fuse, FusedDatabase, FusedStore, Killed
from tests.services.test_compression import AFTER_EACH_CALL, text, time_passes
from tests.services.test_intake import upload

Leftovers = Callable[[], dict[str, list[str]]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clamd]:
    scanner = Clamd(tmp_path_factory.mktemp("clamd"))
    scanner.start()
    yield scanner
    scanner.stop()


@pytest.fixture
def scanner(running: Clamd) -> Iterator[Clamd]:
    running.start()
    yield running
    running.forget()


@pytest.fixture
def proxy(scanner: Clamd) -> Iterator[Proxy]:
    between = Proxy(scanner.port)
    yield between
    between.close()


@pytest.fixture
def settings(settings: Settings, scanner: Clamd) -> Settings:
    return settings.model_copy(update={"clamd_url": scanner.url, "scan_max_size": STREAM_LIMIT})


def through(settings: Settings, proxy: Proxy, **changes: Any) -> Services:
    """A second gateway, which asks clamd by way of the proxy."""
    return wire(settings.model_copy(update={"clamd_url": proxy.url, "scan_timeout": 2} | changes))


def completed(services: Services, who: Principal, data: bytes, **options: Any) -> FileRecord:
    begun = begin(services, who, data, **options)
    send_all(begun, data)
    assert services.direct is not None
    return services.direct.complete(who, begun.upload.id)


def problem_of(file: FileRecord) -> str | None:
    return file.problem["code"] if file.problem else None


def zipped(data: bytes, *, encrypted: bool = False) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.txt", data)
    raw = bytearray(out.getvalue())
    if encrypted:  # the flag is all that a scanner can see of it: what follows is noise either way
        for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            raw[raw.index(signature) + at] |= 1
    return bytes(raw)


def refused_everywhere(services: Services, file: FileRecord) -> None:
    """No way of handing out bytes, or what was made of them, works, and no copy can be made."""
    not_handed_out(services, file)
    with pytest.raises(FileNotReady):
        services.files.copy(Principal(file.owner_id), file.id)


def not_handed_out(services: Services, file: FileRecord) -> None:
    who = Principal(file.owner_id)
    for attempt in (
        lambda: services.delivery.open(who, file.id, method="GET", mode="proxy"),
        lambda: services.delivery.open(who, file.id, method="GET", mode="redirect"),
        lambda: services.delivery.open(who, file.id, method="HEAD"),
        lambda: services.delivery.url(who, file.id),
        lambda: services.delivery.zip(who, ids=[str(file.id)]),
        lambda: services.previews.show(who, file.id, PreviewWish("thumbnail", size=256)),
    ):
        with pytest.raises(FileNotReady):
            attempt()


# -- T96: verdicts ---------------------------------------------------------------------------------------------------------


def test_T96_only_the_exact_words_are_a_verdict() -> None:
    assert read_answer("OK", None) == ("clean", None)
    assert read_answer("FOUND", "Win.Test.EICAR_HDB-1") == ("infected", "Win.Test.EICAR_HDB-1")
    for heuristic in (
        "Limits.Exceeded.MaxFileSize",
        "Limits.Exceeded.MaxScanTime",
        "Encrypted.Zip",
        "Encrypted.PDF",
    ):
        assert read_answer("FOUND", f"Heuristics.{heuristic}") == ("unscannable", f"Heuristics.{heuristic}")
    assert read_answer("FOUND", "Heuristics.Phishing.Email") == ("infected", "Heuristics.Phishing.Email")
    for status, found in (
        ("ERROR", "lstat() failed"),
        ("", None),
        ("OK", "odd"),
        ("FOUND", None),
        ("ok", None),
    ):
        assert read_answer(status, found) is None


def test_the_version_of_the_signatures_is_read() -> None:
    known = read_version("ClamAV 1.4.3/27832/Wed Nov 26 09:24:47 2026")
    assert known.version == "27832"
    assert known.made_at is not None
    assert known.made_at.isoformat() == "2026-11-26T09:24:47+00:00"
    assert read_version("ClamAV 1.4.6").version is None


@pytest.mark.parametrize("way", ["raw", "direct"])
@pytest.mark.parametrize(
    ("name", "data", "status", "problem"),
    [
        ("note.txt", b"nothing bad", "ready", None),
        ("eicar.txt", EICAR, "infected", "infected"),
        ("eicar.zip", zipped(EICAR), "infected", "infected"),
        ("locked.zip", zipped(EICAR, encrypted=True), "rejected", "unscannable"),
        ("large.bin", bytes(STREAM_LIMIT + 1), "rejected", "unscannable"),
        ("limit.bin", bytes(STREAM_LIMIT), "ready", None),
        ("empty.txt", b"", "ready", None),
    ],
)
def test_T96_what_each_verdict_leads_to(
    services: Services,
    alice: Principal,
    leftovers: Leftovers,
    way: str,
    name: str,
    data: bytes,
    status: str,
    problem: str | None,
) -> None:
    by_way = upload(services, alice, name, data) if way == "raw" else None
    file = by_way or completed(services, alice, data, filename=name)
    assert file.status == "processing"
    refused_everywhere(services, file)
    ended = checked(services, file)
    assert (ended.status, problem_of(ended)) == (status, problem)
    if status == "ready":
        services.delivery.open(alice, file.id, method="HEAD")
    else:
        refused_everywhere(services, ended)
    assert leftovers() == NOTHING


@pytest.mark.parametrize(
    ("data", "status"),
    [(zipped(EICAR, encrypted=True), "ready"), (zipped(EICAR), "infected"), (EICAR, "infected")],
)
def test_T96_a_deployment_may_accept_what_can_not_be_scanned(
    settings: Settings, services: Services, alice: Principal, data: bytes, status: str
) -> None:
    lenient = wire(settings.model_copy(update={"scan_unscannable": "accept"}))
    assert checked(lenient, upload(lenient, alice, "a.zip", data)).status == status
    lenient.db.close()


def test_T96_clean_files_get_what_follows_once(services: Services, alice: Principal, db: Database) -> None:
    def due() -> int:
        with db.connection() as tx:
            row = tx.execute(
                "select count(*) from procrastinate_jobs where task_name = 'process_file'"
            ).fetchone()
        assert row is not None
        return int(row[0])

    data = Source.png()
    first, second = upload(services, alice, "a.png", data), upload(services, alice, "b.png", data)
    assert first.file_path == second.file_path
    assert due() == 0
    assert {checked(services, first).status, checked(services, second).status} == {"ready"}
    assert due() == 1


def test_T96_equal_bytes_share_a_verdict_but_never_across_owners(
    services: Services, alice: Principal, bob: Principal, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With signatures whose version is known; local ones alone, as clamd has them here, tell none."""
    scanning = configured(services.scanning)
    version = read_version("ClamAV 1.4.3/27832/Wed Nov 26 09:24:47 2026")
    monkeypatch.setattr(type(scanning.clamd), "signatures", lambda self: version)
    scans: list[Any] = []
    scan = type(scanning.clamd).scan
    monkeypatch.setattr(type(scanning.clamd), "scan", lambda *a: scans.append(a) or scan(*a))
    data = os.urandom(1000)
    for way in (upload, upload):
        assert checked(services, way(services, alice, "a.bin", data)).status == "ready"
    assert checked(services, completed(services, alice, data)).status == "ready"
    assert len(scans) == 1
    assert checked(services, upload(services, bob, "a.bin", data)).status == "ready"
    assert len(scans) == 2
    version = read_version("ClamAV 1.4.3/27833/Thu Nov 27 09:24:47 2026")
    assert checked(services, upload(services, alice, "a.bin", data)).status == "ready"
    assert len(scans) == 3
    with db.connection() as tx:
        rows = tx.execute(
            "select owner_id, scan_verdict, scanned_with from objects order by owner_id"
        ).fetchall()
    assert rows == [("alice", "clean", "27833"), ("bob", "clean", "27832")]


def test_T96_infected_bytes_are_never_linked_to(
    services: Services, alice: Principal, leftovers: Leftovers
) -> None:
    first = checked(services, upload(services, alice, "a.txt", EICAR))
    again = upload(services, alice, "b.txt", EICAR)
    assert again.file_path != first.file_path
    assert checked(services, again).status == "infected"
    for file in (first, again):
        services.files.purge(alice, file.id)
    assert leftovers() == NOTHING


def test_without_a_scanner_files_are_ready_at_once_and_waiting_ones_get_ready(
    settings: Settings, services: Services, alice: Principal
) -> None:
    waiting = upload(services, alice, "a.txt", b"hello")
    bare = wire(settings.model_copy(update={"clamd_url": None}))
    assert upload(bare, alice, "b.txt", b"hello!").status == "ready"
    assert checked(bare, waiting).status == "ready"
    bare.db.close()


# -- T97: no verdict -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["raw", "direct"])
def test_T97_a_scanner_that_is_down_leaves_files_processing_until_it_is_back(
    services: Services, scanner: Clamd, alice: Principal, leftovers: Leftovers, capfd: Any, way: str
) -> None:
    scanner.stop()
    good, bad = (
        upload(services, alice, "a.txt", data) if way == "raw" else completed(services, alice, data)
        for data in (b"good", EICAR)
    )
    for file in (good, bad):
        with pytest.raises(Unavailable):
            services.checking.check(file.id)
        assert services.files.get(alice, file.id).status == "processing"
        refused_everywhere(services, file)
    scanner.start()
    assert checked(services, good).status == "ready"
    assert checked(services, bad).status == "infected"
    assert leftovers() == NOTHING


def test_T97_a_scanner_that_restarts_midway_gives_no_verdict(
    services: Services, settings: Settings, scanner: Clamd, proxy: Proxy, alice: Principal
) -> None:
    gateway = through(settings, proxy, scan_timeout=60)
    file = upload(gateway, alice, "a.bin", os.urandom(STREAM_LIMIT - 1000))
    proxy.stall_after = STREAM_LIMIT // 2
    with ThreadPoolExecutor(1) as pool:
        check = pool.submit(gateway.checking.check, file.id)
        time.sleep(0.5)
        scanner.stop()  # with the stream open
        proxy.released.set()
        with pytest.raises(Unavailable):
            check.result(60)
    assert gateway.files.get(alice, file.id).status == "processing"
    scanner.start()
    assert checked(services, file).status == "ready"
    gateway.db.close()


@pytest.mark.parametrize(
    ("fault", "after"),
    [("stall_after", 100_000), ("cut_after", 0), ("cut_after", 40), ("cut_after", 100_000)],
)
def test_T97_a_slow_or_cutting_scanner_is_given_up_in_time(
    services: Services, settings: Settings, proxy: Proxy, alice: Principal, fault: str, after: int
) -> None:
    gateway = through(settings, proxy)
    files = [
        upload(gateway, alice, "a.bin", data) for data in (os.urandom(1_000_000), EICAR + bytes(900_000))
    ]
    setattr(proxy, fault, after)
    started = time.monotonic()
    for file in files:
        with pytest.raises(Unavailable):
            gateway.checking.check(file.id)
        assert gateway.files.get(alice, file.id).status == "processing"
    assert time.monotonic() - started < 60
    setattr(proxy, fault, None)
    assert checked(gateway, files[0]).status == "ready"
    gateway.db.close()


def test_T97_a_stream_that_clamd_cuts_is_no_verdict(
    services: Services, settings: Settings, alice: Principal
) -> None:
    """Its StreamMaxLength is below what the gateway was told: an operator's mistake, which makes no file clean."""
    mistaken = wire(settings.model_copy(update={"scan_max_size": 10 * STREAM_LIMIT}))
    file = upload(mistaken, alice, "a.bin", bytes(2 * STREAM_LIMIT))
    with pytest.raises(Unavailable):
        mistaken.checking.check(file.id)
    assert mistaken.files.get(alice, file.id).status == "processing"
    mistaken.db.close()


def test_T97_files_that_wait_for_the_scanner_are_not_given_up(
    services: Services, scanner: Clamd, alice: Principal, db: Database
) -> None:
    file = upload(services, alice, "a.txt", b"hello")
    with db.connection() as tx:
        tx.execute("delete from procrastinate_jobs")
        tx.execute("update files set uploaded_at = now() - interval '8 days'")
    scanner.stop()
    assert services.checking.requeue_lost() == 1
    assert services.files.get(alice, file.id).status == "processing"


def test_T97_scans_at_one_time_are_bounded(settings: Settings, proxy: Proxy, alice: Principal) -> None:
    gateway = through(settings, proxy, scan_concurrency=1, scan_timeout=3)
    files = [upload(gateway, alice, "a.bin", os.urandom(200_000)) for _ in range(3)]
    proxy.stall_after = 100_000
    with ThreadPoolExecutor(3) as pool:
        ends = [pool.submit(gateway.checking.check, file.id) for file in files]
        for end in ends:
            with pytest.raises(Unavailable):
                end.result(60)
    assert {gateway.files.get(alice, file.id).status for file in files} == {"processing"}
    gateway.db.close()


# -- T98: late hits --------------------------------------------------------------------------------------------------------


def rescan(services: Services) -> dict[str, int]:
    """All links of the chain."""
    scanning = configured(services.scanning)
    scanning.begin_rescan()
    while scanning.rescan_some():
        pass
    found = scanning.latest_rescan()
    assert found is not None
    assert found.finished_at is not None
    return {"scanned": found.scanned, "infected": found.infected, "failed": found.failed}


def test_T96_what_was_ready_before_scans_were_turned_on_waits_for_its_first(
    services: Services, alice: Principal, db: Database
) -> None:
    file = checked(services, upload(services, alice, "old.png", Source.png()))
    with db.connection() as tx:
        tx.execute("update objects set scan_verdict = null, scanned_with = null, scanned_at = null")
    assert services.files.get(alice, file.id).status == "ready"
    not_handed_out(services, file)
    assert rescan(services)["scanned"] == 1
    assert services.delivery.url(alice, file.id)


def test_T98_a_late_hit_ends_links_previews_and_text_of_every_file_on_the_bytes(
    services: Services,
    scanner: Clamd,
    alice: Principal,
    bob: Principal,
    db: Database,
    bucket: Any,
    leftovers: Leftovers,
) -> None:
    bad = Source.png() + b"late hit"
    first = checked(services, upload(services, alice, "a.png", bad))
    shared = services.files.copy(alice, first.id)
    separate = checked(services, upload(services, alice, "c.png", bad, on_duplicate="copy"))
    trashed = services.files.trash(alice, services.files.copy(alice, first.id).id)
    theirs = checked(services, upload(services, bob, "d.png", bad))
    good = checked(services, upload(services, alice, "good.png", Source.png()))
    for file in (first, good):
        services.processing.process(file.id)
    with db.transaction() as tx:
        assert texts.put(tx, first.file_path, content="words", language=None)
    assert len(services.files.previews_of([first])[first.id]) == 4
    assert rescan(services) == {"scanned": 4, "infected": 0, "failed": 0}
    scanner.learn("Test.Late", b"late hit")
    assert rescan(services)["infected"] >= 2  # alice's two objects at the first, bob's
    for file in (first, shared, separate, trashed, theirs):
        now = services.files.get(Principal(file.owner_id), file.id)
        assert (now.status, problem_of(now)) == ("infected", "infected"), file.original_name
        if not file.is_deleted:
            refused_everywhere(services, now)
    assert services.files.previews_of([first])[first.id] == []
    assert services.files.get(alice, good.id).status == "ready"
    assert len(services.files.previews_of([good])[good.id]) == 4
    with db.connection() as tx:
        assert tx.execute("select count(*) from object_texts").fetchone() == (0,)
    assert leftovers() == NOTHING
    assert rescan(services) == {"scanned": 1, "infected": 0, "failed": 0}


@pytest.mark.parametrize("stored", ["as it is", "compressed since"])
def test_T98_urls_given_out_before_the_hit_lead_nowhere(
    services: Services, scanner: Clamd, alice: Principal, leftovers: Leftovers, bucket: Any, stored: str
) -> None:
    data = text(9000) + b"late hit"
    file = checked(services, upload(services, alice, "a.txt", data))
    found = services.delivery.url(alice, file.id, expires_in=3600)
    assert isinstance(found, PresignedRequest)
    assert requests.get(found.url, timeout=30).content == data
    if stored == "compressed since":
        services.compression.compress(file.id)
        link = services.delivery.url(alice, file.id)
        assert isinstance(link, Link)
    scanner.learn("Test.Late", b"late hit")
    rescan(services)
    assert requests.get(found.url, timeout=30).status_code == 404
    if stored == "compressed since":
        with pytest.raises(FileNotReady):
            services.delivery.open_link(link.token, method="GET", conditions=RequestConditions())
    now = services.files.get(alice, file.id)
    assert now.status == "infected"
    assert bucket.stat(now.file_path).size == (now.stored_size or now.file_size)  # kept for the operator
    assert leftovers() == NOTHING
    services.files.purge(alice, file.id)
    assert leftovers() == NOTHING


def test_T98_a_preview_or_text_made_meanwhile_is_not_kept(
    services: Services, alice: Principal, scanner: Clamd, db: Database
) -> None:
    file = checked(services, upload(services, alice, "a.png", Source.png() + b"late hit"))
    scanner.learn("Test.Late", b"late hit")
    rescan(services)
    late = PreviewRecord(file.file_path, "thumbnail", 128, "previews/x.webp", "image/webp", 1, 1, 1)
    with db.connection() as tx:
        assert not previews.add(tx, late, file_id=file.id)
        assert not texts.put(tx, file.file_path, content="words", language=None)


def test_T98_a_rescan_survives_a_scanner_that_goes_away_and_workers_that_die(
    services: Services, scanner: Clamd, alice: Principal, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning_module, "_BATCH", 2)
    scanning = configured(services.scanning)
    for number in range(5):
        checked(services, upload(services, alice, f"{number}.txt", b"%d" % number))
    begun = scanning.begin_rescan()
    assert scanning.begin_rescan().id == begun.id  # one at a time
    assert scanning.rescan_some()
    scanner.stop()
    with pytest.raises(Unavailable):
        scanning.rescan_some()
    scanner.start()
    with db.connection() as tx:
        tx.execute("delete from procrastinate_jobs")
        tx.execute("update rescans set updated_at = now() - interval '1 hour'")
    scanning.keep_rescanning()
    with db.connection() as tx:
        assert tx.execute("select task_name, priority / 1_000_000 from procrastinate_jobs").fetchall() == [
            ("rescan", -100)
        ]
    while scanning.rescan_some():
        pass
    found = scanning.latest_rescan()
    assert found is not None
    assert (found.scanned, found.failed, found.finished_at is not None) == (5, 0, True)


def test_T98_a_rescan_begins_by_itself_when_one_is_due(
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
        with db.connection() as tx:
            tx.execute(
                "update rescans set started_at = now() - %s * interval '1 day', finished_at = now()", [days]
            )
        scanning.keep_rescanning()
        latest = scanning.latest_rescan()
        assert latest is not None
        runs.append(latest.id)
    assert len(set(runs[:3])) == 1  # the first ever; nothing due; due, but nothing learnt since
    assert runs[3] != runs[2]


def test_T101_killed_anywhere_in_a_late_hit_it_comes_to_the_same_end(
    services: Services,
    settings: Settings,
    alice: Principal,
    db: Database,
    database_url: str,
    leftovers: Leftovers,
) -> None:
    before = wire(
        settings.model_copy(update={"clamd_url": None})
    )  # as the gateway was before it had a scanner
    fused_db, store = FusedDatabase(database_url, max_connections=2), FusedStore(storage_settings(settings))
    dying = Scanning(
        fused_db,
        store,
        Contents(fused_db, store),
        configured(services.scanning).clamd,
        unscannable="reject",
        rescan_every=None,
    )

    def everything(scanning: Scanning) -> None:
        scanning.begin_rescan()
        while scanning.rescan_some():
            pass

    deaths, survived = 0, False
    for number, after in AFTER_EACH_CALL:
        file = upload(before, alice, "a.png", Source.png() + EICAR + b"%d" % number)
        before.previews.keep(file, "text", 0, "application/json", b"{}")
        given = before.delivery.url(alice, file.id)
        assert isinstance(given, PresignedRequest)
        fused_db.fuse = store.fuse = fuse = Fuse(number, after=after)
        with suppress(Killed):
            everything(dying)
        survived = not fuse.burnt
        deaths += fuse.burnt
        everything(configured(services.scanning))
        configured(services.scanning).bury()
        time_passes(db)
        services.upkeep.janitor()
        assert services.files.get(alice, file.id).status == "infected", (number, after)
        assert requests.get(given.url, timeout=30).status_code == 404, (number, after)
        assert leftovers() == NOTHING, (number, after)
        services.files.purge(alice, file.id)
        if survived:
            break
    assert survived
    assert deaths >= 8
    before.db.close()
    fused_db.close()


def test_an_object_that_is_gone_does_not_stop_a_rescan(
    services: Services, alice: Principal, bucket: Any
) -> None:
    files = [checked(services, upload(services, alice, f"{n}.txt", b"%d" % n)) for n in range(3)]
    bucket.delete(sorted(file.file_path for file in files)[1])
    assert rescan(services) == {"scanned": 2, "infected": 0, "failed": 1}


# -- operations ------------------------------------------------------------------------------------------------------------


def test_T124_readiness_names_the_scanner(services: Services, scanner: Clamd, anonymous: Any) -> None:
    assert anonymous.get("/readyz").json["checks"] == {
        "database": True,
        "bucket": True,
        "queue": True,
        "clamd": True,
        "signature_age": "unknown",
    }
    scanner.stop()
    answer = anonymous.get("/readyz")
    assert answer.status == 503
    assert answer.json["checks"]["clamd"] is False


def test_the_doctor_tells_what_clamd_must_be_set_to(
    services: Services, scanner: Clamd, tmp_path_factory: pytest.TempPathFactory
) -> None:
    good = scanner_doctor.examine(configured(services.scanning).clamd)
    assert [(check.name, check.detail) for check in good if not check.ok] == []
    scanner.stop()
    assert {check.ok for check in scanner_doctor.examine(configured(services.scanning).clamd)} == {False}
    as_it_comes = Clamd(tmp_path_factory.mktemp("lax"), AlertExceedsMax="no", AlertEncryptedArchive="no")
    as_it_comes.start()
    found = scanner_doctor.examine(
        ClamdClient(ScannerSettings(as_it_comes.url, max_size=2 * STREAM_LIMIT, timeout=60, at_once=1))
    )
    as_it_comes.stop()
    assert [check.ok for check in found] == [True, True, False, False, False]
    told = " ".join(check.consequence for check in found)
    for name in ("AlertEncryptedArchive", "AlertExceedsMax", "StreamMaxLength"):
        assert name in told


def test_a_scanner_on_a_unix_socket(
    services: Services, settings: Settings, scanner: Clamd, alice: Principal
) -> None:
    near = wire(settings.model_copy(update={"clamd_url": f"unix://{scanner.socket}"}))
    assert checked(near, upload(near, alice, "a.txt", b"hello")).status == "ready"
    assert checked(near, upload(near, alice, "a.txt", EICAR)).status == "infected"
    near.db.close()


@pytest.mark.parametrize(
    "url", ["clamd:3310", "tcp://clamd", "http://clamd:3310", "unix://relative", "tcp://:3310"]
)
def test_an_address_that_is_none_stops_the_start(url: str) -> None:
    with pytest.raises(ValidationError, match="tcp://host:port"):
        Settings(_env_file=None, clamd_url=url)


def test_an_admin_asks_for_a_rescan_and_sees_how_far_it_is(
    services: Services, alice: Principal, admin: Any, client: Any
) -> None:
    checked(services, upload(services, alice, "a.txt", b"hello"))
    assert admin.get("/api/admin/rescan").status == 404
    begun = admin.post("/api/admin/rescan")
    assert (begun.status, begun.json["scanned"]) == (202, 0)
    assert client.post("/api/admin/rescan").status == 403
    while configured(services.scanning).rescan_some():
        pass
    found = admin.get("/api/admin/rescan").json
    assert (found["id"], found["scanned"], found["finished_at"] is not None) == (begun.json["id"], 1, True)


def test_the_commands_begin_a_rescan_and_examine_the_scanner(
    services: Services, settings: Settings, scanner: Clamd, capsys: pytest.CaptureFixture[str]
) -> None:
    wiring = commands.Wiring(lambda _: services, create_app, storage_settings, database_url_of)
    configured(services.scanning)
    assert commands.run(["rescan"], settings, wiring) == 0
    assert json.loads(capsys.readouterr().out) == {"id": 1, "scanned": 0, "infected": 0}
    commands.run(["doctor", "--json"], settings, wiring)
    found = {check["name"]: check["ok"] for check in json.loads(capsys.readouterr().out)}
    assert {ok for name, ok in found.items() if name.startswith("scanner")} == {True}
    scanner.stop()
    assert commands.run(["rescan"], settings, wiring) == 1
    assert "scanner" in capsys.readouterr().err


def test_a_client_sees_an_upload_go_from_processing_to_ready_or_infected(
    client: Any, services: Services
) -> None:
    good, bad = client.add(), client.add("b.txt", EICAR)
    assert {good["status"], bad["status"]} == {"processing"}
    assert client.get(f"/api/files/{good['id']}/download").code == "file_not_ready"
    for made in (good, bad):
        services.checking.check(made["id"])
    assert client.get(f"/api/files/{good['id']}").json["status"] == "ready"
    found = client.get(f"/api/files/{bad['id']}").json
    assert (found["status"], found["problem"]["code"]) == ("infected", "infected")
    assert client.get(f"/api/files/{bad['id']}/download").code == "file_not_ready"
