"""Virus scans by a real clamd: the effect of each verdict, and no download without one."""

from __future__ import annotations

import io
import json
import os
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import ValidationError

import commands
from app import wire
from core.errors import Unavailable
from core.principal import Principal
from core.scan import read_answer, read_version
from db import Database
from db.records import FileRecord
from parsers import sandbox
from services import Services
from services.processing.clamd import Clamd as ClamdClient
from services.processing.clamd import ScannerSettings
from services.processing.scanning import configured
from services.upkeep.doctor.scanner import examine
from settings import Settings
from tests.clamd import EICAR, STREAM_LIMIT, Clamd, Proxy
from tests.conftest import NOTHING, Leftovers
from tests.direct_steps import begin, checked, send_all
from tests.rows import sql
from tests.samples import picture
from tests.services.processing.scanning.conftest import problem_of, refused_everywhere
from tests.services.uploads.test_intake import upload


def through(settings: Settings, proxy: Proxy, **changes: Any) -> Services:
    """A second gateway that connects to clamd through the proxy."""
    return wire(settings.model_copy(update={"clamd_url": proxy.url, "scan_timeout": 2} | changes))


def completed(services: Services, who: Principal, data: bytes, **options: Any) -> FileRecord:
    begun = begin(services, who, data, **options)
    send_all(begun, data)
    assert services.direct is not None
    return services.direct.complete(who, begun.upload.id)


def zipped(data: bytes, *, encrypted: bool = False) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.txt", data)
    raw = bytearray(out.getvalue())
    if encrypted:  # the scanner only needs the flag; the content is noise
        for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            raw[raw.index(signature) + at] |= 1
    return bytes(raw)


# -- T96: verdicts ---------------------------------------------------------------------------------------------------------


def test_T96_only_exact_answers_give_a_verdict() -> None:
    assert read_answer("OK", None) == ("clean", None)
    assert read_answer("FOUND", "Win.Test.EICAR_HDB-1") == ("infected", "Win.Test.EICAR_HDB-1")
    for heuristic in ("Limits.Exceeded.MaxFileSize", "Limits.Exceeded.MaxScanTime", "Encrypted.Zip", "Encrypted.PDF"):
        assert read_answer("FOUND", f"Heuristics.{heuristic}") == ("unscannable", f"Heuristics.{heuristic}")
    assert read_answer("FOUND", "Heuristics.Phishing.Email") == ("infected", "Heuristics.Phishing.Email")
    for status, found in (("ERROR", "lstat() failed"), ("", None), ("OK", "odd"), ("FOUND", None), ("ok", None)):
        assert read_answer(status, found) is None


def test_the_version_of_the_signatures() -> None:
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
def test_T96_status_after_each_verdict(
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
    ("data", "status"), [(zipped(EICAR, encrypted=True), "ready"), (zipped(EICAR), "infected"), (EICAR, "infected")]
)
def test_T96_a_deployment_may_accept_unscannable_files(
    settings: Settings, services: Services, alice: Principal, data: bytes, status: str
) -> None:
    lenient = wire(settings.model_copy(update={"scan_unscannable": "accept"}))
    assert checked(lenient, upload(lenient, alice, "a.zip", data)).status == status
    lenient.db.close()


def test_T96_clean_files_are_processed_once(services: Services, alice: Principal, db: Database) -> None:
    def due() -> int:
        [row] = sql(db, "select count(*) from procrastinate_jobs where task_name = 'process_file'")
        return int(row[0])

    data = picture("PNG")
    first, second = upload(services, alice, "a.png", data), upload(services, alice, "b.png", data)
    assert first.file_path == second.file_path
    assert due() == 0
    assert {checked(services, first).status, checked(services, second).status} == {"ready"}
    assert due() == 1


def test_T96_equal_bytes_of_one_owner_share_a_verdict(
    services: Services, alice: Principal, bob: Principal, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signatures need a version, which the local ones of this clamd lack."""
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
    rows = sql(db, "select owner_id, scan_verdict, scanned_with from objects order by owner_id")
    assert rows == [("alice", "clean", "27833"), ("bob", "clean", "27832")]


def test_T96_infected_bytes_are_not_deduplicated(services: Services, alice: Principal, leftovers: Leftovers) -> None:
    first = checked(services, upload(services, alice, "a.txt", EICAR))
    again = upload(services, alice, "b.txt", EICAR)
    assert again.file_path != first.file_path
    assert checked(services, again).status == "infected"
    for file in (first, again):
        services.files.purge(alice, file.id)
    assert leftovers() == NOTHING


def test_without_a_scanner_files_become_ready(settings: Settings, services: Services, alice: Principal) -> None:
    waiting = upload(services, alice, "a.txt", b"hello")
    bare = wire(settings.model_copy(update={"clamd_url": None}))
    assert upload(bare, alice, "b.txt", b"hello!").status == "ready"
    assert checked(bare, waiting).status == "ready"
    bare.db.close()


# -- T97: no verdict -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["raw", "direct"])
def test_T97_files_stay_in_processing_while_the_scanner_is_down(
    services: Services, scanner: Clamd, alice: Principal, leftovers: Leftovers, capfd: Any, way: str
) -> None:
    scanner.stop()
    good, bad = (
        upload(services, alice, "a.txt", data) if way == "raw" else completed(services, alice, data)
        for data in (b"good", EICAR)
    )
    for file in (good, bad):
        with pytest.raises(Unavailable):
            services.verification.check(file.id)
        assert services.files.get(alice, file.id).status == "processing"
        refused_everywhere(services, file)
    scanner.start()
    assert checked(services, good).status == "ready"
    assert checked(services, bad).status == "infected"
    assert leftovers() == NOTHING


def test_T97_a_scanner_that_restarts_during_a_scan_gives_no_verdict(
    services: Services, settings: Settings, scanner: Clamd, proxy: Proxy, alice: Principal
) -> None:
    gateway = through(settings, proxy, scan_timeout=60)
    file = upload(gateway, alice, "a.bin", os.urandom(STREAM_LIMIT - 1000))
    proxy.stall_after = STREAM_LIMIT // 2
    with ThreadPoolExecutor(1) as pool:
        check = pool.submit(gateway.verification.check, file.id)
        assert proxy.stalled.wait(60)
        scanner.stop()  # with the stream open
        proxy.released.set()
        with pytest.raises(Unavailable):
            check.result(60)
    assert gateway.files.get(alice, file.id).status == "processing"
    scanner.start()
    assert checked(services, file).status == "ready"
    gateway.db.close()


@pytest.mark.parametrize(
    ("fault", "after"), [("stall_after", 100_000), ("cut_after", 0), ("cut_after", 40), ("cut_after", 100_000)]
)
def test_T97_a_slow_or_disconnecting_scanner_times_out(
    services: Services, settings: Settings, proxy: Proxy, alice: Principal, fault: str, after: int
) -> None:
    gateway = through(settings, proxy)
    files = [upload(gateway, alice, "a.bin", data) for data in (os.urandom(1_000_000), EICAR + bytes(900_000))]
    setattr(proxy, fault, after)
    started = time.monotonic()
    for file in files:
        with pytest.raises(Unavailable):
            gateway.verification.check(file.id)
        assert gateway.files.get(alice, file.id).status == "processing"
    assert time.monotonic() - started < 60
    setattr(proxy, fault, None)
    assert checked(gateway, files[0]).status == "ready"
    gateway.db.close()


def test_T97_a_stream_that_clamd_ends_early_gives_no_verdict(
    services: Services, settings: Settings, alice: Principal
) -> None:
    """If StreamMaxLength is below SCAN_MAX_SIZE by mistake, no file counts as clean."""
    mistaken = wire(settings.model_copy(update={"scan_max_size": 10 * STREAM_LIMIT}))
    file = upload(mistaken, alice, "a.bin", bytes(2 * STREAM_LIMIT))
    with pytest.raises(Unavailable):
        mistaken.verification.check(file.id)
    assert mistaken.files.get(alice, file.id).status == "processing"
    mistaken.db.close()


def test_T97_files_waiting_for_the_scanner_are_not_rejected(
    services: Services, scanner: Clamd, alice: Principal, db: Database
) -> None:
    file = upload(services, alice, "a.txt", b"hello")
    with db.connection() as tx:
        tx.execute("delete from procrastinate_jobs")
        tx.execute("update files set uploaded_at = now() - interval '8 days'")
    scanner.stop()
    assert services.verification.requeue_lost() == 1
    assert services.files.get(alice, file.id).status == "processing"


def test_T97_concurrent_scans_are_limited(settings: Settings, proxy: Proxy, alice: Principal) -> None:
    gateway = through(settings, proxy, scan_concurrency=1, scan_timeout=1)
    files = [upload(gateway, alice, "a.bin", os.urandom(200_000)) for _ in range(3)]
    proxy.stall_after = 100_000
    with ThreadPoolExecutor(3) as pool:
        ends = [pool.submit(gateway.verification.check, file.id) for file in files]
        for end in ends:
            with pytest.raises(Unavailable):
                end.result(60)
    assert {gateway.files.get(alice, file.id).status for file in files} == {"processing"}
    gateway.db.close()


# -- operations ------------------------------------------------------------------------------------------------------------


def test_T124_readiness_includes_the_scanner(services: Services, scanner: Clamd, anonymous: Any) -> None:
    assert anonymous.get("/readyz").json["checks"] == {
        "database": True,
        "bucket": True,
        "queue": True,
        "disk": True,
        "sandbox": "weak" if sandbox.missing() else True,
        "clamd": True,
        "signature_age": "unknown",
    }
    scanner.stop()
    answer = anonymous.get("/readyz")
    assert answer.status == 503
    assert answer.json["checks"]["clamd"] is False


def test_the_doctor_names_the_options_to_set_in_clamd(
    services: Services, scanner: Clamd, tmp_path_factory: pytest.TempPathFactory
) -> None:
    good = examine(configured(services.scanning).clamd)
    assert [(check.name, check.detail) for check in good if not check.ok] == []
    scanner.stop()
    assert {check.ok for check in examine(configured(services.scanning).clamd)} == {False}
    as_it_comes = Clamd(tmp_path_factory.mktemp("lax"), AlertExceedsMax="no", AlertEncryptedArchive="no")
    as_it_comes.start()
    found = examine(ClamdClient(ScannerSettings(as_it_comes.url, max_size=2 * STREAM_LIMIT, timeout=60, concurrency=1)))
    as_it_comes.stop()
    assert [check.ok for check in found] == [True, True, False, False, False]
    told = " ".join(check.consequence for check in found)
    for name in ("AlertEncryptedArchive", "AlertExceedsMax", "StreamMaxLength"):
        assert name in told


def test_a_scanner_on_a_unix_socket(services: Services, settings: Settings, scanner: Clamd, alice: Principal) -> None:
    near = wire(settings.model_copy(update={"clamd_url": f"unix://{scanner.socket}"}))
    assert checked(near, upload(near, alice, "a.txt", b"hello")).status == "ready"
    assert checked(near, upload(near, alice, "a.txt", EICAR)).status == "infected"
    near.db.close()


@pytest.mark.parametrize("url", ["clamd:3310", "tcp://clamd", "http://clamd:3310", "unix://relative", "tcp://:3310"])
def test_an_invalid_address_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ValidationError, match="tcp://host:port"):
        Settings(_env_file=None, clamd_url=url)


def test_an_admin_starts_a_rescan_and_sees_its_progress(
    services: Services, alice: Principal, admin: Any, client: Any
) -> None:
    checked(services, upload(services, alice, "a.txt", b"hello"))
    assert admin.get("/api/admin/rescan").status == 404
    begun = admin.post("/api/admin/rescan")
    assert (begun.status, begun.json["scanned"]) == (202, 0)
    assert client.post("/api/admin/rescan").status == 403
    while configured(services.scanning).scan_next_batch():
        pass
    found = admin.get("/api/admin/rescan").json
    assert (found["id"], found["scanned"], found["finished_at"] is not None) == (begun.json["id"], 1, True)


def test_commands_for_rescans_and_the_scanners_checks(
    services: Services,
    settings: Settings,
    scanner: Clamd,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.wire", lambda _: services)
    configured(services.scanning)
    assert commands.run(["rescan", "--json"], settings) == 0
    assert json.loads(capsys.readouterr().out) == {"id": 1, "scanned": 0, "infected": 0}
    commands.run(["doctor", "--json"], settings)
    found = {check["name"]: check["ok"] for check in json.loads(capsys.readouterr().out)}
    assert {ok for name, ok in found.items() if name.startswith("scanner")} == {True}
    scanner.stop()
    assert commands.run(["rescan"], settings) == 1
    assert "scanner" in capsys.readouterr().err


def test_clients_see_processing_then_ready_or_infected(client: Any, services: Services) -> None:
    good, bad = client.add(), client.add("b.txt", EICAR)
    assert {good["status"], bad["status"]} == {"processing"}
    assert client.get(f"/api/files/{good['id']}/download").code == "file_not_ready"
    for made in (good, bad):
        services.verification.check(made["id"])
    assert client.get(f"/api/files/{good['id']}").json["status"] == "ready"
    found = client.get(f"/api/files/{bad['id']}").json
    assert (found["status"], found["problem"]["code"]) == ("infected", "infected")
    assert client.get(f"/api/files/{bad['id']}/download").code == "file_not_ready"
