"""The space in the bucket: what tells it, its levels, what is refused before it is full, and when that will be."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

import commands
from core.errors import StorageFull
from db import Database
from services import Services
from services.objects import capacity as module
from services.objects.capacity import CapacityLimits, StorageCapacity
from settings import Settings
from storage_backends import capacity, open_store
from storage_backends.base import Capacity, StorageUnavailable
from tests.client import GatewayClient
from tests.rows import add_file, sql

GB = 10**9
MINIO = """# HELP minio_cluster_capacity_usable_free_bytes Total free usable capacity online in bytes
# TYPE minio_cluster_capacity_usable_free_bytes gauge
minio_cluster_capacity_usable_free_bytes{server="127.0.0.1:9000"} 7.5e+10
# TYPE minio_cluster_capacity_usable_total_bytes gauge
minio_cluster_capacity_usable_total_bytes{server="127.0.0.1:9000"} 2.7e+11
"""
SEAWEEDFS = """# TYPE SeaweedFS_volumeServer_resource gauge
SeaweedFS_volumeServer_resource{name="/data1",type="all"} 2e+11
SeaweedFS_volumeServer_resource{name="/data1",type="avail"} 5e+10
SeaweedFS_volumeServer_resource{name="/data1",type="used"} 1.5e+11
SeaweedFS_volumeServer_resource{name="/data2",type="all"} 1e+11
SeaweedFS_volumeServer_resource{name="/data2",type="avail"} 3e+10
"""


class Disk:
    """The part of a store that tells the space."""

    def __init__(self, free: int, total: int = 100 * GB):
        self.free, self.total = free, total

    def capacity(self) -> Capacity | None:
        if self.free < 0:
            raise StorageUnavailable("down")
        return Capacity(self.free, self.total)


def measured(db: Database, disk: object, **limits: Any) -> StorageCapacity:
    given: dict[str, Any] = {"size": None, "warning": "10%", "kept": str(GB)} | limits
    return StorageCapacity(db, disk, CapacityLimits(**given))  # type: ignore[arg-type]


@pytest.fixture
def disk(services: Services, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """The disk that the gateway's uploads find, measured at each request."""
    disk = Disk(50 * GB)
    monkeypatch.setattr(services.capacity, "_reports", disk)
    monkeypatch.setattr(module, "_FRESH", -1.0)
    return disk


@pytest.mark.parametrize(
    ("free", "level"), [(50 * GB, "ok"), (10 * GB, "ok"), (10 * GB - 1, "warning"), (GB, "warning"), (GB - 1, "full")]
)
def test_free_space_has_three_levels(db: Database, free: int, level: str) -> None:
    found = measured(db, Disk(free)).space()
    assert found is not None and found.level == level


def test_limits_may_be_shares_of_the_total(db: Database) -> None:
    found = measured(db, Disk(30 * GB), warning="50%", kept="20%").space()
    assert found is not None and (found.level, found.kept, found.room) == ("warning", 20 * GB, 10 * GB)


def test_a_bucket_that_does_not_tell_its_space_has_the_size_of_the_settings(db: Database) -> None:
    add_file(db, "a.bin", size=3 * GB)
    assert measured(db, object()).space() is None
    found = measured(db, object(), size=5 * GB).space()
    assert found is not None and (found.free, found.total) == (2 * GB, 5 * GB)


def test_nothing_is_refused_while_the_space_is_not_known(db: Database) -> None:
    unknown = measured(db, Disk(-1))
    unknown.admit(10**15)
    assert unknown.space() is None and unknown.report() is None and unknown.gauges() == []


def test_what_was_admitted_counts_until_the_next_measurement(db: Database) -> None:
    space = measured(db, Disk(10 * GB))
    space.admit(5 * GB)
    with pytest.raises(StorageFull):
        space.admit(4 * GB + 1)
    space.admit(4 * GB)


def test_T105_uploads_are_refused_before_the_disk_is_full_and_deletions_are_not(
    client: GatewayClient, disk: Disk
) -> None:
    file = client.add("a.txt", b"kept")
    tus = client.post(
        "/api/tus", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "10", "Upload-Metadata": "filename YS50eHQ="}
    )
    direct = client.post("/api/uploads", json={"filename": "b.bin", "size": 20 * 1024 * 1024}).json
    disk.free = GB // 2
    refused = {
        "form": client.upload(("b.txt", b"b")),
        "raw": client.put("/api/upload/b.txt", data=b"b"),
        "direct": client.post("/api/uploads", json={"filename": "b.txt", "size": 1}),
        "parts": client.post(f"/api/uploads/{direct['id']}/parts", json={"part_numbers": [1]}),
        "s3": client.post("/s3/multipart", json={"filename": "b.txt", "type": "text/plain"}),
        "tus": client.post("/api/tus", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "1"}),
        "patch": client.patch(
            urlsplit(tus.headers["Location"]).path,
            data=b"a" * 10,
            headers={"Tus-Resumable": "1.0.0", "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"},
        ),
    }
    assert {way: answer.status for way, answer in refused.items()} == dict.fromkeys(refused, 507)
    assert {answer.code for answer in refused.values()} == {"storage_full"}
    assert client.get(f"/api/files/{file['id']}/download?mode=proxy").body == b"kept"
    assert client.delete(f"/api/files/{file['id']}?permanent=true").status == 200
    assert client.delete(f"/api/uploads/{direct['id']}").status == 204
    disk.free = 50 * GB
    assert client.upload(("b.txt", b"b")).status == 201


def test_T105_an_upload_that_does_not_fit_beside_others_is_refused(client: GatewayClient, disk: Disk) -> None:
    def begin(size: int) -> int:
        return client.post("/api/uploads", json={"filename": "film.mp4", "size": size}).status

    disk.free = 4 * GB + 2**30  # which is kept free
    assert [begin(3 * GB), begin(2 * GB), begin(GB), begin(1)] == [201, 507, 201, 507]


def test_the_level_is_shown_by_readyz_metrics_and_statistics(
    client: GatewayClient, admin: GatewayClient, disk: Disk
) -> None:
    disk.free = 5 * GB
    ready = client.get("/readyz")
    assert (ready.status, ready.json["checks"]["capacity"]) == (200, "warning")
    disk.free = 0
    assert client.get("/readyz").json["checks"]["capacity"] == "full"
    lines = client.get("/metrics").body.decode().splitlines()
    assert {"gateway_capacity_free_bytes 0.0", "gateway_capacity_level 2.0"} <= set(lines)
    assert client.get("/api/storage/stats").json["capacity"] == {
        "free": 0,
        "total": 100 * GB,
        "level": "full",
        "growth_per_day": None,
        "days_until_full": None,
    }


def test_the_growth_of_a_month_tells_when_it_is_full(db: Database) -> None:
    space = measured(db, Disk(21 * GB))
    sql(
        db,
        "insert into capacity_samples (day, stored) select current_date - n, 90000000000 - n * 1000000000::bigint"
        " from generate_series(1, 20) n",
    )
    add_file(db, "a.bin", size=90 * GB)
    space.sample()
    space.sample()  # replaces the first one of today
    report = space.report()
    assert report is not None and (report["growth_per_day"], report["days_until_full"]) == (GB, 20.0)
    assert sql(db, "select count(*) from capacity_samples") == [(21,)]


def test_a_bucket_that_shrinks_is_never_full(db: Database) -> None:
    space = measured(db, Disk(21 * GB))
    sql(db, "insert into capacity_samples (day, stored) values (current_date - 1, 5), (current_date, 4)")
    report = space.report()
    assert report is not None and (report["growth_per_day"], report["days_until_full"]) == (-1, None)


@pytest.mark.parametrize(
    ("text", "free", "total"), [(MINIO, 75 * GB, 270 * GB), (SEAWEEDFS, 80 * GB, 300 * GB)], ids=["minio", "seaweedfs"]
)
def test_metrics_of_the_server_tell_the_space(text: str, free: int, total: int) -> None:
    assert capacity.parse(text) == Capacity(free, total)


@pytest.mark.parametrize("text", ["", "up 1", SEAWEEDFS.replace("avail", "x"), "a{b", MINIO.replace("7.5e+10", "NaN")])
def test_other_metrics_do_not(text: str) -> None:
    with pytest.raises(StorageUnavailable):
        capacity.parse(text)


@pytest.fixture
def metrics_server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers["Authorization"] == "Bearer token"
            self.send_response(200 if allowed else 403)
            self.end_headers()
            self.wfile.write(MINIO.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/minio/v2/metrics/cluster"
        server.shutdown()


@pytest.mark.parametrize("backend", ["s3", "minio"])
def test_a_store_reads_the_metrics_of_its_server(backend: str, metrics_server: str, s3_server: Any) -> None:
    settings = replace(s3_server.settings(backend), metrics_url=metrics_server, metrics_token="token")
    store: Any = open_store(settings)
    assert store.capacity() == Capacity(75 * GB, 270 * GB)
    for wrong in ({"metrics_token": "other"}, {"metrics_url": "http://127.0.0.1:9"}):
        other: Any = open_store(replace(settings, **wrong))
        with pytest.raises(StorageUnavailable):
            other.capacity()


def test_command(settings: Settings, services: Services, disk: Disk, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(commands.Call, "services", lambda _: services)
    assert commands.run(["capacity"], settings) == 0
    assert "level            ok" in capsys.readouterr().out
    disk.free = 0
    assert commands.run(["capacity", "--json"], settings) == 1
    disk.free = -1
    assert commands.run(["capacity"], settings) == 1
    assert "S3_CAPACITY" in capsys.readouterr().err


@pytest.mark.parametrize("amount", ["100%", "-1", "ten", "1.5%", "%", ""])
def test_an_amount_is_bytes_or_a_share(amount: str) -> None:
    if amount:
        with pytest.raises(ValueError, match="capacity_full"):
            Settings(_env_file=None, capacity_full=amount)


def test_a_measurement_that_hangs_holds_no_request(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.01)
    disk, answer = Disk(0), threading.Event()
    told = disk.capacity

    def hangs() -> Capacity | None:
        answer.wait(60)
        return told()

    monkeypatch.setattr(disk, "capacity", hangs)
    space = measured(db, disk)
    space.admit(1)  # nothing is known yet
    answer.set()
    space._measuring.join(60)
    with pytest.raises(StorageFull):
        space.admit(1)


def test_metrics_that_come_slowly_or_do_not_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"# " + b"x" * 100_000 + b"\n")
            except OSError:
                pass

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(StorageUnavailable, match="too long or too slow"):
            capacity.of_metrics(f"http://127.0.0.1:{server.server_port}/", None)
        monkeypatch.setattr(capacity, "_SECONDS", 0.0)
        monkeypatch.setattr(capacity, "_MOST", 10**12)
        with pytest.raises(StorageUnavailable, match="too long or too slow"):
            capacity.of_metrics(f"http://127.0.0.1:{server.server_port}/", None)
    finally:
        server.shutdown()
        server.server_close()
