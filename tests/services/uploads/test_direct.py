"""Direct uploads with a real bucket: permissions of URLs, resuming, and files that appear once and unchanged."""

from __future__ import annotations

import hashlib
import os
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from app import wire
from core.errors import (
    FileNotReady,
    FileTooLarge,
    GatewayError,
    InvalidInput,
    LimitReached,
    NotFound,
    PartsMismatch,
    QuotaExceeded,
    TypeNotAllowed,
    UploadGone,
)
from core.parts import PART_SIZE
from core.placement import Placement
from core.principal import Principal
from db import Database
from db.records import FileRecord
from services import Services
from services.uploads.direct import UploadPlan
from settings import Settings
from storage_backends.base import PresignedRequest
from tests.conftest import NOTHING, Leftovers
from tests.direct_steps import (
    begin,
    checked,
    direct,
    expire,
    files_of,
    incoming,
    send_all,
    send_parts,
    sql,
    stored,
    upload,
)
from tests.presigned import post_form, put, send
from tests.servers import KEEPS_EACH_PART

MIB = 1024 * 1024
PNG_BUT_HTML = b"<!DOCTYPE html><html><script>alert(1)</script></html>" + b" " * 100


# -- complete uploads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, PART_SIZE, PART_SIZE + 1, 2 * PART_SIZE, 20 * MIB + 7])
def test_stored_bytes_are_the_bytes_sent(
    services: Services, alice: Principal, bucket: Any, leftovers: Leftovers, size: int
) -> None:
    data = os.urandom(size)
    begun = begin(services, alice, data, placement=Placement(tags=("a",), metadata={"color": "red"}))
    assert begun.method == ("PUT" if size <= PART_SIZE else "multipart")
    assert begun.part_count == max(1, -(-size // PART_SIZE))
    before = direct(services).progress(alice, begun.upload.id)
    assert (before.bytes_received, before.missing) == (0, [(1, begun.part_count)])
    etags = send_all(begun, data)
    arrived = direct(services).progress(alice, begun.upload.id)
    assert (arrived.bytes_received, arrived.missing) == (size, [])
    assert [(p.number, f'"{p.etag}"') for p in arrived.parts] == etags

    file = direct(services).complete(alice, begun.upload.id, parts=etags)
    assert (file.status, file.file_hash, file.file_size) == ("processing", None, size)
    assert incoming(bucket) == []
    with pytest.raises(FileNotReady):
        services.delivery.url(alice, file.id, expires_in=None, disposition=None)
    done = direct(services).progress(alice, begun.upload.id)
    assert (done.upload.status, done.upload.file_id, done.bytes_received, done.missing) == ("done", file.id, size, [])

    file = checked(services, file)
    assert (file.status, file.file_hash) == ("ready", hashlib.sha256(data).hexdigest())
    assert (file.tags, file.metadata["custom"]) == (["a"], {"color": "red"})
    assert stored(bucket, file) == data
    assert leftovers() == NOTHING


def test_headers_can_be_set_by_a_browser(services: Services, alice: Principal) -> None:
    data = b"hello"
    begun = begin(
        services, alice, data, sha256=hashlib.sha256(data).hexdigest(), content_type="text/plain; charset=utf-8"
    )
    assert begun.request is not None
    assert dict(begun.request.headers) == {
        "Content-Type": "text/plain",
        "If-None-Match": "*",
        "x-amz-checksum-sha256": b64encode(hashlib.sha256(data).digest()).decode(),
    }
    many = begin(services, alice, bytes(PART_SIZE + 1))
    assert [dict(part.request.headers) for part in many.parts] == [{}, {}]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"size": 2_000_001}, FileTooLarge),
        ({"size": 1_000_001}, QuotaExceeded),
        ({"filename": "a.exe"}, TypeNotAllowed),
        ({"filename": "a.bin", "content_type": "text/x-php"}, TypeNotAllowed),
        ({"filename": "/"}, InvalidInput),
        ({"placement": Placement(folder_id=4711)}, NotFound),
    ],
)
@pytest.mark.settings(max_file_size=2_000_000, quota_bytes=1_000_000, denied_types=("exe", "text/x-php"))
def test_declared_values_are_checked_before_a_byte_is_sent(
    services: Services, alice: Principal, leftovers: Leftovers, options: dict[str, Any], error: type[GatewayError]
) -> None:
    with pytest.raises(error):
        begin(services, alice, b"x", **options)
    assert leftovers() == NOTHING


@pytest.mark.settings(max_open_uploads=3)
def test_T73_unfinished_uploads_are_limited(services: Services, alice: Principal) -> None:
    def one(_: int) -> bool:
        try:
            return begin(services, alice, b"x") is not None
        except LimitReached:
            return False

    with ThreadPoolExecutor(12) as pool:
        assert sum(pool.map(one, range(24))) == 3


@pytest.mark.settings(quota_bytes=10_000_000)
def test_T71_concurrent_uploads_share_one_quota(services: Services, alice: Principal, db: Database) -> None:
    def one(_: int) -> bool:
        try:
            return begin(services, alice, bytes(1_000_000)) is not None
        except QuotaExceeded:
            return False

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(one, range(40))) == 10


# -- T41, T42: permissions of URLs -----------------------------------------------------------------------------------------


def test_T41_a_put_url_accepts_the_declared_size_once(services: Services, alice: Principal) -> None:
    data = b"hello world"
    begun = begin(services, alice, data, content_type="text/plain", filename="a.txt")
    assert begun.request is not None
    url, headers = begun.request.url, dict(begun.request.headers)
    assert send(url, data + b"!", headers).status_code == 403
    assert send(url, data[:-1], headers).status_code == 403
    assert send(url, data, {**headers, "Content-Type": "text/html"}).status_code == 403
    assert send(url, data, {k: v for k, v in headers.items() if k != "If-None-Match"}).status_code in (403, 400)
    assert send(url, data, {**headers, "x-amz-meta-a": "1"}).status_code in (403, 400)
    assert send(url, data, headers, method="POST").status_code in (400, 403, 405)
    assert send(url, b"", method="DELETE").status_code in (400, 403)
    put(url, data, headers)
    assert send(url, b"HELLO WORLD", headers).status_code == 412


def test_T41_a_declared_checksum_is_enforced_by_the_bucket(
    services: Services, alice: Principal, bucket: Any, leftovers: Leftovers
) -> None:
    data = b"hello world"
    begun = begin(services, alice, data, sha256=hashlib.sha256(data).hexdigest())
    assert begun.request is not None
    assert send(begun.request.url, b"HELLO WORLD", begun.request.headers).status_code == 400
    assert incoming(bucket) == []
    put(begun.request.url, data, begun.request.headers)
    assert checked(services, direct(services).complete(alice, begun.upload.id)).status == "ready"
    assert leftovers() == NOTHING


def test_T41_a_post_form_fixes_key_type_and_size_and_its_replay_changes_nothing(
    services: Services, alice: Principal, bucket: Any, leftovers: Leftovers
) -> None:
    admitted = direct(services).admit(
        alice, protocol="s3", filename="a.txt", size=11, content_type="text/plain", single=True
    )
    form = direct(services).sign_post(alice, admitted)
    assert form.url.endswith("/")
    assert post_form(form, b"hello world!").status_code in (400, 403)
    assert post_form(form, b"hello").status_code in (400, 403)
    assert post_form(form, b"hello world", **{"Content-Type": "text/html"}).status_code == 403
    assert post_form(form, b"hello world", key=admitted.object_key).status_code == 403
    assert post_form(form, b"hello world").ok
    assert post_form(form, b"HELLO WORLD").ok  # a policy can't forbid overwriting
    file = direct(services).complete(alice, admitted.id)
    assert post_form(form, b"replayed!!!").ok
    file = checked(services, file)
    assert post_form(form, b"replayed!!!").ok
    assert stored(bucket, file) == b"HELLO WORLD"
    assert file.file_hash == hashlib.sha256(b"HELLO WORLD").hexdigest()
    assert direct(services).sweep() == 0 and len(files_of(services, alice)) == 1
    services.janitor.run()
    assert leftovers() == NOTHING


@pytest.mark.settings(upload_url_ttl=600)
def test_T42_upload_urls_are_short_lived(services: Services, alice: Principal) -> None:
    def life(url: str) -> int:
        return int(parse_qs(urlsplit(url).query)["X-Amz-Expires"][0])

    begun = begin(services, alice, b"x")
    assert begun.request is not None and life(begun.request.url) == 600
    many = begin(services, alice, bytes(PART_SIZE + 1))
    assert {life(part.request.url) for part in many.parts} == {600}
    assert life(direct(services).sign_parts(alice, many.upload.id, [2])[0].request.url) == 600


def test_T42_upload_urls_are_valid_for_an_hour_at_most(settings: Settings) -> None:
    with pytest.raises(ValueError):
        Settings(_env_file=None, upload_url_ttl=3601)


# -- T43: parts ------------------------------------------------------------------------------------------------------------


def test_T43_large_plans_and_part_urls_with_an_exact_length(
    services: Services, alice: Principal, leftovers: Leftovers
) -> None:
    begun = direct(services).begin(alice, filename="huge.bin", size=50 * 1024**3)
    assert begun.part_count <= 10_000 and begun.part_size >= 5 * MIB and len(begun.parts) == 100
    direct(services).abort(alice, begun.upload.id)
    data = os.urandom(PART_SIZE + 10)
    small = begin(services, alice, data)
    first, last = small.parts
    assert send(first.request.url, data[: PART_SIZE - 1]).status_code == 403
    assert send(last.request.url, data[PART_SIZE:] + b"!").status_code == 403
    assert send(last.request.url, data[:PART_SIZE]).status_code == 403
    for numbers in ([0], [3], [], [1] * 1001):
        with pytest.raises(InvalidInput):
            direct(services).sign_parts(alice, small.upload.id, numbers)
    assert len(direct(services).sign_parts(alice, small.upload.id, [2, 1, 2])) == 2


def test_T43_missing_or_different_parts_are_listed_and_the_upload_continues(
    services: Services, alice: Principal, bucket: Any, leftovers: Leftovers
) -> None:
    data = os.urandom(4 * PART_SIZE + 5)
    begun = begin(services, alice, data)
    etags = send_parts([begun.parts[0], begun.parts[3]], data)
    with pytest.raises(PartsMismatch) as refused:
        direct(services).complete(alice, begun.upload.id)
    assert refused.value.extra["missing"] == [(2, 3), (5, 5)]
    assert direct(services).progress(alice, begun.upload.id).missing == [(2, 3), (5, 5)]
    etags += send_parts(direct(services).sign_parts(alice, begun.upload.id, [2, 3, 5]), data)
    for wrong in (
        etags[:-1],
        [*etags, (6, etags[0][1])],
        [*etags[:-1], (5, '"' + "0" * 32 + '"')],
        [*etags, etags[0]],
        [],
        [(n, "</ETag><x>") for n, _ in etags],
    ):
        with pytest.raises(PartsMismatch):
            direct(services).complete(alice, begun.upload.id, parts=wrong)
    mixed = [(n, etag.strip('"') if n % 2 else etag) for n, etag in reversed(etags)]
    file = checked(services, direct(services).complete(alice, begun.upload.id, parts=mixed))
    assert stored(bucket, file) == data
    assert leftovers() == NOTHING


@KEEPS_EACH_PART
def test_T43_the_clients_etag_decides_between_repeated_parts(services: Services, alice: Principal, bucket: Any) -> None:
    for _ in range(4):  # the order in which a server lists them is random
        old, data = os.urandom(PART_SIZE + 5), os.urandom(PART_SIZE + 5)
        begun = begin(services, alice, data)
        first = send_all(begun, old)
        again = send_parts(begun.parts[1:], data)
        assert direct(services).progress(alice, begun.upload.id).missing == [(2, 2)]
        with pytest.raises(PartsMismatch):  # it is unclear which one is meant
            direct(services).complete(alice, begun.upload.id)
        with pytest.raises(PartsMismatch):
            direct(services).complete(alice, begun.upload.id, parts=[*first, *again])
        send_parts(begun.parts[1:], data)  # as a client does for a missing part
        file = direct(services).complete(alice, begun.upload.id, parts=[first[0], again[0]])
        assert stored(bucket, file) == old[:PART_SIZE] + data[PART_SIZE:]


# -- resume ----------------------------------------------------------------------------------------------------------------


def test_resume_from_another_process_and_device(
    services: Services, settings: Settings, alice: Principal, bucket: Any
) -> None:
    data = os.urandom(3 * PART_SIZE + 1)
    begun = begin(services, alice, data)
    send_parts(begun.parts[1:3], data)
    restarted = wire(settings)
    try:
        found = direct(restarted).unfinished(alice, limit=10, cursor=None).items
        assert [record.id for record in found] == [begun.upload.id]
        progress = direct(restarted).progress(alice, begun.upload.id)
        assert (progress.missing, progress.bytes_received) == ([(1, 1), (4, 4)], 2 * PART_SIZE)
        send_parts(direct(restarted).sign_parts(alice, begun.upload.id, [1, 4]), data)
        file = checked(restarted, direct(restarted).complete(alice, begun.upload.id))
    finally:
        restarted.db.close()
    assert stored(bucket, file) == data


def test_an_expired_put_url_is_replaced(services: Services, alice: Principal, bucket: Any) -> None:
    begun = begin(services, alice, b"hello")
    (fresh,) = direct(services).sign_parts(alice, begun.upload.id, [1])
    put(fresh.request.url, b"hello", fresh.request.headers)
    assert begun.request is not None
    assert send(begun.request.url, b"HELLO", begun.request.headers).status_code == 412
    assert stored(bucket, direct(services).complete(alice, begun.upload.id)) == b"hello"


def test_requesting_urls_extends_the_upload(services: Services, alice: Principal, db: Database) -> None:
    begun = begin(services, alice, bytes(PART_SIZE + 1))
    sql(db, "update uploads set expires_at = now() + interval '1 minute'")
    direct(services).sign_parts(alice, begun.upload.id, [1])
    left = direct(services).get(alice, begun.upload.id).expires_at - begun.upload.expires_at
    assert left > timedelta(minutes=-1)


def test_unfinished_uploads_are_paged_newest_first(services: Services, alice: Principal, bob: Principal) -> None:
    ids = [begin(services, alice, b"x").upload.id for _ in range(5)]
    begin(services, bob, b"x")
    seen, cursor = [], None
    for _ in range(3):
        page = direct(services).unfinished(alice, limit=2, cursor=cursor)
        seen += [record.id for record in page.items]
        cursor = page.next_cursor
    assert seen == ids[::-1] and cursor is None


def test_progress_of_a_running_form_upload(services: Services, alice: Principal) -> None:
    data, seen = os.urandom(3 * PART_SIZE), []

    class Watched:
        at = 0

        def read(self, size: int, /) -> bytes:
            piece = data[self.at : self.at + size]
            self.at += len(piece)
            if not piece:
                (found,) = direct(services).unfinished(alice, limit=10, cursor=None).items
                seen.append(direct(services).progress(alice, found.id))
            return piece

    with services.intake.batch(alice, protocol="raw") as batch:
        batch.receive(name="a.bin", claimed_type=None, stream=Watched(), size=len(data))
        batch.commit(Placement())
    assert seen[0].upload.protocol == "raw" and seen[0].bytes_received >= 2 * PART_SIZE


# -- T44, T45: one file, for its owner -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, PART_SIZE + 100])
def test_T44_20_concurrent_completions_make_one_file(
    services: Services, alice: Principal, bucket: Any, leftovers: Leftovers, size: int
) -> None:
    data = os.urandom(size)
    begun = begin(services, alice, data)
    etags = send_all(begun, data)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: direct(services).complete(alice, begun.upload.id, parts=etags), range(20)))
    assert len({(file.id, file.file_path, file.original_name) for file in answers}) == 1
    assert [file.id for file in files_of(services, alice)] == [answers[0].id]
    file = checked(services, answers[0])
    assert direct(services).complete(alice, begun.upload.id).id == file.id
    assert stored(bucket, file) == data
    assert leftovers() == NOTHING


@pytest.mark.parametrize("size", [100, PART_SIZE + 100])
def test_T44_complete_after_abort_or_expiry_is_gone(
    services: Services, alice: Principal, db: Database, leftovers: Leftovers, size: int
) -> None:
    data = os.urandom(size)
    for end in ("abort", "expire"):
        begun = begin(services, alice, data)
        send_all(begun, data)
        if end == "abort":
            direct(services).abort(alice, begun.upload.id)
            direct(services).abort(alice, begun.upload.id)
        else:
            expire(db, begun.upload.id)
            services.janitor.run()
        with pytest.raises(UploadGone):
            direct(services).complete(alice, begun.upload.id)
        with pytest.raises(UploadGone):
            direct(services).sign_parts(alice, begun.upload.id, [1])
        assert direct(services).progress(alice, begun.upload.id).bytes_received == 0
    assert leftovers() == NOTHING


def test_abort_during_completion_has_one_outcome(services: Services, alice: Principal, leftovers: Leftovers) -> None:
    for _ in range(5):
        data = os.urandom(PART_SIZE + 1)
        begun = begin(services, alice, data)
        send_all(begun, data)

        def complete(begun: UploadPlan = begun) -> FileRecord | None:
            try:
                return direct(services).complete(alice, begun.upload.id)
            except (UploadGone, PartsMismatch):
                return None

        with ThreadPoolExecutor(2) as pool:
            completing = pool.submit(complete)
            pool.submit(direct(services).abort, alice, begun.upload.id).result()
            file = completing.result()
        status = direct(services).get(alice, begun.upload.id).status
        assert status == ("done" if file else "aborted")
        assert [f.id for f in files_of(services, alice)] == ([file.id] if file else [])
        assert leftovers() == NOTHING
        if file:
            services.files.purge(alice, file.id, if_match=None)


def test_T45_another_owners_upload_is_not_found(
    services: Services, alice: Principal, bob: Principal, bucket: Any
) -> None:
    data = os.urandom(PART_SIZE + 1)
    begun = begin(services, alice, data)
    send_all(begun, data)
    for call in (
        lambda: direct(services).get(bob, begun.upload.id),
        lambda: direct(services).progress(bob, begun.upload.id),
        lambda: direct(services).sign_parts(bob, begun.upload.id, [1]),
        lambda: direct(services).complete(bob, begun.upload.id),
        lambda: direct(services).abort(bob, begun.upload.id),
    ):
        with pytest.raises(NotFound):
            call()
    assert direct(services).unfinished(bob, limit=10, cursor=None).items == []
    assert checked(services, direct(services).complete(alice, begun.upload.id)).status == "ready"


def test_T45_no_url_can_change_the_bytes_afterwards(
    services: Services, alice: Principal, bucket: Any, leftovers: Leftovers
) -> None:
    """Every URL of both kinds of upload is tried in every state, with other bytes of the declared length."""
    small, large = b"good bytes", os.urandom(2 * PART_SIZE)
    evil = {len(small): b"EVIL BYTES", PART_SIZE: os.urandom(PART_SIZE)}
    one, many = begin(services, alice, small), begin(services, alice, large)
    form_upload = direct(services).admit(alice, protocol="s3", filename="f", size=10, content_type=None, single=True)
    form = direct(services).sign_post(alice, form_upload)
    assert post_form(form, small).ok
    send_all(one, small)
    send_all(many, large)
    assert one.request is not None
    urls = [(one.request.url, one.request.headers, evil[len(small)])]
    for begun in (one, many):
        numbers = range(1, begun.part_count + 1)
        for part in [*begun.parts, *direct(services).sign_parts(alice, begun.upload.id, numbers)]:
            urls.append((part.request.url, part.request.headers, evil[min(PART_SIZE, begun.upload.size or 0)]))
    files = [
        direct(services).complete(alice, upload_id) for upload_id in (one.upload.id, many.upload.id, form_upload.id)
    ]

    def attack() -> None:
        for url, headers, body in urls:
            for changed in (headers, {}, {**headers, "If-Match": "*"}):
                send(url, body, changed)
            for method in ("GET", "HEAD", "DELETE", "POST"):
                send(url, b"", headers, method=method)
            key = urlsplit(url).path
            for file in files:
                send(url.replace(key, f"/uploads/{file.file_path}"), body, headers)
        assert post_form(form, b"EVIL BYTES").ok
        for file in files:
            post_form(form, b"EVIL BYTES", key=file.file_path)

    attack()
    assert direct(services).sweep() == 0
    files = [checked(services, file) for file in files]
    attack()
    assert direct(services).sweep() == 0
    for file, good in zip(files, (small, large, small), strict=True):
        now = services.files.get(alice, file.id)
        assert now.status == "ready" and now.file_hash == hashlib.sha256(good).hexdigest()
        assert stored(bucket, now) == good
        found = services.delivery.url(alice, file.id, expires_in=None, disposition=None)
        assert isinstance(found, PresignedRequest)
        assert send(found.url, b"", method="GET").content == good
    assert len(files_of(services, alice)) == 3
    services.janitor.run()
    assert leftovers() == NOTHING  # objects of the attack in incoming/ are deleted too


# -- T48: the bucket itself ------------------------------------------------------------------------------------------------


def test_T48_the_bucket_is_private(services: Services, settings: Settings, alice: Principal, bucket: Any) -> None:
    file = upload(services, alice, b"secret")
    base = f"{settings.s3_endpoint}/{settings.s3_bucket}"
    for method, path in (
        ("GET", f"/{file.file_path}"),
        ("HEAD", f"/{file.file_path}"),
        ("PUT", f"/{file.file_path}"),
        ("DELETE", f"/{file.file_path}"),
        ("GET", "?list-type=2"),
        ("GET", "?uploads"),
        ("POST", f"/{file.file_path}?uploads"),
        ("PUT", "/incoming/x"),
        ("PUT", "?cors"),
        ("PUT", "?policy"),
        ("DELETE", ""),
    ):
        assert send(base + path, b"", method=method).status_code == 403, (method, path)
    assert stored(bucket, file) == b"secret"


@pytest.mark.parametrize("moment", ["before", "while it is copied"])
def test_T146_a_folder_deleted_meanwhile_leaves_the_file_in_the_root(
    services: Services, alice: Principal, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The file has a problem until it is moved."""
    folder = services.folders.create(alice, "Plans", "", None)
    other = services.folders.create(alice, "Other", "", None)
    begun = begin(services, alice, b"hello", placement=Placement(folder_id=folder.id))
    send_all(begun, b"hello")
    copy = direct(services)._store.copy

    def late(*arguments: Any, **options: Any) -> Any:
        services.folders.delete(alice, folder.id, recursive=True)
        return copy(*arguments, **options)

    if moment == "before":
        services.folders.delete(alice, folder.id, recursive=True)
    else:
        monkeypatch.setattr(direct(services)._store, "copy", late)
    file = checked(services, direct(services).complete(alice, begun.upload.id))
    assert (file.status, file.folder_id) == ("ready", None)
    assert file.problem is not None and file.problem["code"] == "folder_gone"
    assert services.files.copy(alice, file.id).problem is None
    assert services.files.move(alice, file.id, other.id, if_match=None).problem is None
    monkeypatch.undo()
    begun = begin(services, alice, b"in the root")
    send_all(begun, b"in the root")
    assert direct(services).complete(alice, begun.upload.id).problem is None
