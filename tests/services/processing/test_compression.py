"""Compressed objects: all ways of reading give the same bytes, and the old object is kept while its URLs are valid."""

from __future__ import annotations

import base64
import hashlib
import os
import time
from typing import Any
from uuid import UUID

import pytest
import requests
import zstandard
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app import wire
from core.content_types import may_shrink
from core.cursors import Cursors
from core.errors import FileInTrash, NotAuthenticated, NotFound
from core.principal import Principal
from core.ranges import ByteRange
from db import Database, objects, stats
from db.records import FileRecord
from services import Services
from services.library.delivery import Link, Redirect, RequestConditions, Stream
from services.objects import drafts
from services.objects.object_reader import FRAME
from settings import Settings
from tests.client import SANDBOX
from tests.compressed_files import compressed, raw, read, text, time_passes
from tests.conftest import NOTHING, Leftovers
from tests.rows import sql
from tests.services.uploads.test_intake import upload


def download(services: Services, file: FileRecord, **headers: str) -> tuple[int, dict[str, str], bytes]:
    found = services.delivery.open(
        Principal(file.owner_id), file.id, method="GET", conditions=RequestConditions(**headers)
    )
    assert isinstance(found, Stream)
    assert found.body is not None
    with_length = b"".join(found.body)
    assert len(with_length) == found.length
    return found.status, found.headers, with_length


# -- stored objects ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [4096, FRAME - 1, FRAME, FRAME + 1, 2 * FRAME - 1, 2 * FRAME, 2 * FRAME + 1, 3 * FRAME + 12345]
)
def test_sizes_around_frame_boundaries_are_read_back(
    services: Services, alice: Principal, bucket: Any, db: Database, leftovers: Leftovers, size: int
) -> None:
    data = text(size)
    before = upload(services, alice, "a.txt", data)
    services.compression.compress(before.id)
    file = services.files.get(alice, before.id)
    assert (file.encoding, file.file_size, file.file_hash) == ("zstd", size, hashlib.sha256(data).hexdigest())
    assert file.file_path != before.file_path
    assert file.file_path.endswith(file.stored_name)
    assert read(services, file) == data
    assert (
        zstandard.ZstdDecompressor().stream_reader(raw(bucket, file.file_path), read_across_frames=True).read() == data
    )
    for first, last in ((0, 0), (size - 1, size - 1), (0, size - 1), (FRAME - 1, FRAME), (FRAME, size - 1)):
        if first <= last < size:
            assert read(services, file, ByteRange(first, last)) == data[first : last + 1], (first, last)
    assert len(raw(bucket, file.file_path)) == file.stored_size
    with db.connection() as tx:
        assert stats.usage(tx, "alice").saved == size - (file.stored_size or 0)
        assert stats.usage(tx, "bob").saved == 0
        assert stats.usage(tx, None).saved == size - (file.stored_size or 0)
        usage = tx.execute("select used_bytes from owner_usage where owner_id = 'alice'").fetchone()
    assert usage == (size,)  # the quota counts the original size
    assert services.stats.storage(alice)["deduplicated_bytes"] == 0
    assert leftovers() | {"retired": []} == NOTHING
    time_passes(db)
    assert services.janitor.run(dry_run=True).retired_objects == 1
    assert services.janitor.run().retired_objects == 1
    assert leftovers() == NOTHING
    assert read(services, file) == data


def test_an_object_of_many_parts(
    services: Services, alice: Principal, monkeypatch: pytest.MonkeyPatch, leftovers: Leftovers, db: Database
) -> None:
    monkeypatch.setattr(drafts, "PART_SIZE", 5 * 1024 * 1024)
    noise = base64.b64encode(os.urandom(12 * FRAME))  # 16 MiB that shrink by a quarter: two parts and a rest
    file = compressed(services, alice, noise)
    assert file.encoding == "zstd"
    assert (file.stored_size or 0) > 2 * 5 * 1024 * 1024
    assert read(services, file) == noise
    assert read(services, file, ByteRange(7 * FRAME - 3, 9 * FRAME + 3)) == noise[7 * FRAME - 3 : 9 * FRAME + 4]
    time_passes(db)
    services.janitor.run()
    assert leftovers() == NOTHING


def test_files_that_are_not_compressed(
    services: Services, settings: Settings, alice: Principal, leftovers: Leftovers
) -> None:
    off = wire(settings.model_copy(update={"compression": "off"}))
    for gateway, name, data in (
        (services, "short.txt", text(4095)),
        (services, "photo.png", b"\x89PNG\r\n\x1a\n" + text(50_000)),
        (services, "noise.wav", b"RIFF\x24\x00\x01\x00WAVEfmt " + os.urandom(50_000)),
        (services, "first.csv", os.urandom(60_000).hex().encode()[: FRAME // 20] + b"," * 3),
        (off, "off.txt", text(50_000)),
    ):
        file = upload(gateway, alice, name, data)
        gateway.compression.compress(file.id)
        now = services.files.get(alice, file.id)
        if name == "first.csv":  # hex shrinks by half, so only this file is replaced
            assert now.encoding == "zstd"
        else:
            assert (now.encoding, now.file_path) == (None, file.file_path), name
    shrunk = compressed(services, alice, text(50_000, seed=1))
    assert read(off, off.files.get(alice, shrunk.id)) == text(50_000, seed=1)  # compressed objects stay readable
    off.db.close()


def test_a_file_that_shrinks_only_at_its_beginning_is_not_compressed(
    services: Services, alice: Principal, leftovers: Leftovers
) -> None:
    data = text(FRAME) + b"RIFF" + os.urandom(8 * FRAME)
    file = upload(
        services,
        alice,
        "a.wav",
        b"RIFF\xff\xff\xff\x00WAVEfmt \x10\0\0\0\1\0\1\0\x44\xac\0\0\x88\x58\1\0\2\0\x10\0data" + data,
    )
    assert may_shrink(file.mime_type, file.file_size)
    services.compression.compress(file.id)
    assert services.files.get(alice, file.id).file_path == file.file_path
    services.janitor.run()  # the written part is deleted at once
    assert leftovers() == NOTHING


@pytest.mark.parametrize(
    ("mime", "expected"),
    [
        ("text/plain", True),
        ("text/csv", True),
        ("application/json", True),
        ("text/xml", True),
        ("image/svg+xml", True),
        ("image/bmp", True),
        ("image/tiff", True),
        ("application/msword", True),
        ("application/vnd.ms-excel", True),
        ("image/png", False),
        ("image/jpeg", False),
        ("application/zip", False),
        ("application/pdf", False),
        ("video/mp4", False),
        ("application/octet-stream", False),
    ],
)
def test_types_that_may_shrink(mime: str, expected: bool) -> None:
    assert may_shrink(mime, 4096) is expected
    assert may_shrink(mime, 4095) is False


def test_the_job_is_enqueued_once_after_the_jobs_that_read_the_object(
    services: Services, alice: Principal, db: Database
) -> None:
    def queued() -> list[tuple[str, str]]:
        sql = "select args ->> 'file_id', lock from procrastinate_jobs where task_name = 'compress_object' order by id"
        with db.connection() as tx:
            return tx.execute(sql).fetchall()

    read_first = upload(services, alice, "a.txt", text(5000))
    upload(services, alice, "b.txt", b"short")
    linked = upload(services, alice, "c.txt", text(5000))
    assert linked.file_path == read_first.file_path
    assert queued() == []
    services.pipeline.process(read_first.id)
    unread = upload(services, alice, "d.sqlite", b"SQLite format 3\0" + text(5000))
    assert queued() == [(str(file.id), f"object:{file.file_path}") for file in (read_first, unread)]


# -- ranges ----------------------------------------------------------------------------------------------------------------


def test_ranges_equal_those_of_the_original(services: Services, alice: Principal) -> None:
    size = 3 * FRAME + 777
    data = text(size)
    file = compressed(services, alice, data)

    @given(st.integers(0, size - 1), st.integers(0, size - 1))
    @hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    def holds(one: int, other: int) -> None:
        first, last = sorted((one, other))
        status, headers, body = download(services, file, range=f"bytes={first}-{last}")
        assert body == data[first : last + 1]
        assert (status, headers["Content-Range"]) == (206, f"bytes {first}-{last}/{size}")

    holds()
    assert download(services, file)[1]["ETag"] == f'"{hashlib.sha256(data).hexdigest()}"'
    assert download(services, file, range="bytes=-5")[2] == data[-5:]
    assert download(services, file, range=f"bytes={size - 1}-")[2] == data[-1:]


def test_a_range_reads_only_its_frames(services: Services, alice: Principal, monkeypatch: pytest.MonkeyPatch) -> None:
    file = compressed(services, alice, text(8 * FRAME))
    asked: list[Any] = []
    store = type(services.intake._store)
    real = store.open

    def seen(self: Any, key: str, **options: Any) -> Any:
        asked.append(options.get("byte_range"))
        return real(self, key, **options)

    monkeypatch.setattr(store, "open", seen)
    read(services, file, ByteRange(5 * FRAME + 10, 5 * FRAME + 20))
    assert [wanted.length for wanted in asked] == [pytest.approx((file.stored_size or 0) / 8, rel=0.2)]


# -- serving -----------------------------------------------------------------------------------------------------------


def url_of(services: Services, file: FileRecord, **options: Any) -> Any:
    return services.delivery.url(Principal(file.owner_id), file.id, **options)


def test_a_compressed_object_is_streamed_without_redirect(services: Services, alice: Principal) -> None:
    file = upload(services, alice, "a.txt", text(9000))
    assert isinstance(services.delivery.open(alice, file.id, method="GET"), Redirect)
    services.compression.compress(file.id)
    for mode in (None, "redirect", "proxy"):
        found = services.delivery.open(alice, file.id, method="GET", mode=mode)
        assert isinstance(found, Stream)
        found.close()
    found = services.delivery.open(alice, file.id, method="HEAD")
    assert isinstance(found, Stream)
    assert (found.length, found.body) == (9000, None)
    linked = upload(services, alice, "b.txt", text(9000))  # equal bytes, uploaded later
    assert linked.encoding == "zstd"
    assert isinstance(services.delivery.open(alice, linked.id, method="GET"), Stream)
    zipped = b"".join(services.delivery.zip(alice, ids=[str(file.id), str(linked.id)]).body)
    assert zipped.count(text(9000)) == 2


@pytest.mark.settings(download_url_ttl=7200)
def test_the_old_object_is_kept_as_long_as_its_urls_are_valid(
    services: Services, alice: Principal, db: Database, bucket: Any, leftovers: Leftovers
) -> None:
    data = text(9000)
    file = upload(services, alice, "a.txt", data)
    url = url_of(services, file, expires_in=7200).url
    services.compression.compress(file.id)
    with db.connection() as tx:
        row = tx.execute("select delete_after - now() > interval '7190 seconds' from deferred_deletions").fetchone()
    assert row == (True,)
    services.janitor.run()
    assert requests.get(url, timeout=30).content == data
    assert download(services, file)[2] == data
    sql(db, "update deferred_deletions set delete_after = delete_after - interval '3 hours'")
    services.janitor.run()
    assert requests.get(url, timeout=30).status_code == 200  # kept for twice the URL lifetime
    time_passes(db)
    services.janitor.run()
    assert requests.get(url, timeout=30).status_code == 404
    assert leftovers() == NOTHING


@pytest.mark.settings(download_url_ttl=7200)
def test_a_purge_deletes_the_old_object_too(services: Services, alice: Principal, leftovers: Leftovers) -> None:
    file = upload(services, alice, "a.txt", text(9000))
    url = url_of(services, file, expires_in=7200).url
    services.compression.compress(file.id)
    services.files.purge(alice, file.id)
    services.janitor.run()
    assert requests.get(url, timeout=30).status_code == 404
    assert leftovers() == NOTHING


def test_urls_of_busy_files_are_recorded_now_and_then(services: Services, alice: Principal, db: Database) -> None:
    file = upload(services, alice, "a.txt", text(9000))

    def written() -> Any:
        with db.connection() as tx:
            return tx.execute("select xmin::text, urls_until from objects").fetchone()

    url_of(services, file, expires_in=60)
    first = written()
    for _ in range(5):
        url_of(services, file, expires_in=60)
    assert written() == first
    services.delivery.open(alice, file.id, method="GET")
    assert written()[1] > first[1]


def test_an_object_replaced_while_its_url_is_signed(
    services: Services, alice: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job replaces the object after it was found uncompressed: every URL for the old object is recorded."""
    file = upload(services, alice, "a.txt", text(9000))
    real = objects.record_url

    def late(*arguments: Any, **keywords: Any) -> bool:
        services.compression.compress(file.id)
        return real(*arguments, **keywords)

    monkeypatch.setattr(objects, "record_url", late)
    assert isinstance(url_of(services, file), Link)


def test_T62_a_link_is_valid_for_one_file_until_it_expires(
    services: Services, settings: Settings, alice: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = text(9000)
    file, other = compressed(services, alice, data), compressed(services, alice, text(9000, seed=2))
    link, another = url_of(services, file, expires_in=60), url_of(services, other)

    def opened(token: str, method: Any = "GET", **headers: str) -> Any:
        return services.delivery.open_link(token, method=method, conditions=RequestConditions(**headers))

    found = opened(link.token)
    assert b"".join(found.body) == data
    assert found.headers["Content-Disposition"].startswith("attachment")
    assert b"".join(opened(link.token, range="bytes=5-9").body) == data[5:10]
    assert opened(link.token, "HEAD").length == 9000
    inline = opened(url_of(services, file, disposition="inline").token)
    assert inline.headers["Content-Disposition"].startswith("inline")
    inline.close()
    links = services.delivery._links
    half = len(link.token) // 2
    for bad in (
        "",
        "x",
        link.token[:-1],
        link.token + "A",
        link.token[:half] + another.token[half:],
        link.token[:22] + another.token[22:],
        another.token[:22] + link.token[22:],
        links.sign([str(file.id), 2**40, "", "public"], scope="s3 routes"),
        services.files._cursors.sign([str(file.id), 2**40, "", "public"], scope="download link"),
        Cursors([b"another"]).sign([str(file.id), 2**40, "", "public"], scope="download link"),
    ):
        with pytest.raises(NotAuthenticated):
            opened(bad)
    with pytest.raises(NotAuthenticated):
        services.keys.authenticate(link.token)
    moment = time.time() + 61
    with monkeypatch.context() as patch:
        patch.setattr("services.library.delivery.time.time", lambda: moment)
        with pytest.raises(NotAuthenticated):
            opened(link.token)
    services.files.trash(alice, file.id)
    with pytest.raises(FileInTrash):
        opened(link.token)
    services.files.purge(alice, file.id)
    with pytest.raises(NotFound):
        opened(link.token)


def test_links_over_http(client: Any, anonymous: Any, services: Services) -> None:
    data = text(9000)
    made = client.add("Plan (final).txt", data)
    services.compression.compress(UUID(made["id"]))
    assert client.get(f"/api/files/{made['id']}").json["file_hash"] == hashlib.sha256(data).hexdigest()
    answer = client.get(f"/api/files/{made['id']}/download")
    assert (answer.status, answer.body) == (200, data)
    url = client.get(f"/api/files/{made['id']}/url").json["url"]
    path = url.removeprefix("http://gateway.test")
    assert path.startswith("/d/")
    got = anonymous.get(path)
    assert (got.status, got.body) == (200, data)
    for name in ("ETag", "Content-Disposition", "Content-Type", "Accept-Ranges", "X-Content-Type-Options"):
        assert got.headers[name] == answer.headers[name]
    assert got.headers["Content-Security-Policy"] == SANDBOX
    part = anonymous.get(path, headers={"Range": "bytes=100-199"})
    assert (part.status, part.body, part.headers["Content-Range"]) == (206, data[100:200], "bytes 100-199/9000")
    assert anonymous.get(path, headers={"If-None-Match": got.headers["ETag"]}).status == 304
    assert anonymous.get(path, headers={"Range": "bytes=9000-"}).status == 416
    head = anonymous.request("HEAD", path)
    assert (head.status, head.headers["Content-Length"]) == (200, "9000")
    assert (anonymous.get(path[:-2]).status, anonymous.get(path[:-2]).code) == (401, "not_authenticated")
    assert client.get(f"/api/files/{made['id']}", headers={"Authorization": f"Bearer {path[3:]}"}).status == 401
