"""Direct uploads against a real bucket: what its URLs allow, what survives, and that a file appears once and unchanged."""

from __future__ import annotations

import hashlib
import os
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest

from app import storage_settings, wire
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
from core.placement import Placement
from core.principal import Principal
from db import Database
from db.files import FileRecord
from services import Services
from services.direct import DirectLimits, DirectUploads, PartUrl, UploadPlan
from services.intake import INCOMING_PREFIX, PART_SIZE
from settings import Settings
from storage_backends import open_store
from tests.conftest import NOTHING
from tests.presigned import post_form, put, send

Leftovers = Callable[[], dict[str, list[str]]]
MIB = 1024 * 1024
PNG_BUT_HTML = b"<!DOCTYPE html><html><script>alert(1)</script></html>" + b" " * 100


def direct(services: Services) -> DirectUploads:
    assert services.direct is not None
    return services.direct


def begin(services: Services, who: Principal, data: bytes, **options: Any) -> UploadPlan:
    return direct(services).begin(who, **{"filename": "Plan (final).bin", "size": len(data), **options})


def slice_of(data: bytes, number: int) -> bytes:
    return data[(number - 1) * PART_SIZE : number * PART_SIZE]


def send_parts(parts: list[PartUrl], data: bytes) -> list[tuple[int, str]]:
    return [
        (p.part_number, put(p.request.url, slice_of(data, p.part_number), p.request.headers)) for p in parts
    ]


def send_all(begun: UploadPlan, data: bytes) -> list[tuple[int, str]]:
    if begun.request is not None:
        return [(1, put(begun.request.url, data, begun.request.headers))]
    return send_parts(begun.parts, data)


def upload(services: Services, who: Principal, data: bytes, **options: Any) -> FileRecord:
    """All the way to the check."""
    begun = begin(services, who, data, **options)
    send_all(begun, data)
    return checked(services, direct(services).complete(who, begun.upload.id))


def checked(services: Services, file: FileRecord) -> FileRecord:
    services.checking.check(file.id)
    return services.files.get(Principal(file.owner_id), file.id)


def stored(bucket: Any, file: FileRecord) -> bytes:
    with bucket.open(file.file_path) as reader:
        return bytes(reader.read(-1))


def sql(db: Database, statement: str, *values: Any) -> None:
    with db.connection() as tx:
        tx.execute(statement, values)


def expire(db: Database, upload_id: UUID) -> None:
    sql(db, "update uploads set expires_at = now() - interval '1 second' where id = %s", upload_id)


def let_lease_pass(db: Database) -> None:
    sql(
        db,
        "update uploads set updated_at = now() - interval '10 minutes' where status in ('completing', 'aborted', 'expired')",
    )


def incoming(bucket: Any) -> list[str]:
    return [info.key for info in bucket.list_objects(INCOMING_PREFIX)]


def files_of(services: Services, who: Principal) -> list[FileRecord]:
    from services.files import FileQuery

    return services.files.list(who, FileQuery()).items


# -- all the way -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, PART_SIZE, PART_SIZE + 1, 2 * PART_SIZE, 20 * MIB + 7])
def test_what_was_sent_is_what_is_stored(
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
    assert (done.upload.status, done.upload.file_id, done.bytes_received, done.missing) == (
        "done",
        file.id,
        size,
        [],
    )

    file = checked(services, file)
    assert (file.status, file.file_hash) == ("ready", hashlib.sha256(data).hexdigest())
    assert (file.tags, file.metadata["custom"]) == (["a"], {"color": "red"})
    assert stored(bucket, file) == data
    assert leftovers() == NOTHING


def test_headers_are_those_a_browser_may_set(services: Services, alice: Principal) -> None:
    data = b"hello"
    begun = begin(
        services,
        alice,
        data,
        sha256=hashlib.sha256(data).hexdigest(),
        content_type="text/plain; charset=utf-8",
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
def test_what_is_known_is_judged_before_a_byte_moves(
    services: Services,
    alice: Principal,
    leftovers: Leftovers,
    options: dict[str, Any],
    error: type[GatewayError],
) -> None:
    with pytest.raises(error):
        begin(services, alice, b"x", **options)
    assert leftovers() == NOTHING


@pytest.mark.settings(max_open_uploads=3)
def test_T73_unfinished_uploads_are_limited(services: Services, alice: Principal) -> None:
    for _ in range(3):
        begin(services, alice, b"x")
    with pytest.raises(LimitReached):
        begin(services, alice, b"x")


@pytest.mark.settings(quota_bytes=10_000_000)
def test_T71_uploads_begun_at_once_share_one_quota(
    services: Services, alice: Principal, db: Database
) -> None:
    def one(_: int) -> bool:
        try:
            return begin(services, alice, bytes(1_000_000)) is not None
        except QuotaExceeded:
            return False

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(one, range(40))) == 10


# -- T41, T42: what a URL allows -------------------------------------------------------------------------------------------


def test_T41_a_put_url_takes_exactly_what_was_announced_and_once(
    services: Services, alice: Principal
) -> None:
    data = b"hello world"
    begun = begin(services, alice, data, content_type="text/plain", filename="a.txt")
    assert begun.request is not None
    url, headers = begun.request.url, dict(begun.request.headers)
    assert send(url, data + b"!", headers).status_code == 403
    assert send(url, data[:-1], headers).status_code == 403
    assert send(url, data, {**headers, "Content-Type": "text/html"}).status_code == 403
    assert send(url, data, {k: v for k, v in headers.items() if k != "If-None-Match"}).status_code == 403
    assert send(url, data, {**headers, "x-amz-acl": "public-read"}).status_code == 403
    assert send(url, data, headers, method="POST").status_code in (403, 405)
    assert send(url, b"", method="DELETE").status_code == 403
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


def test_T41_a_post_form_takes_its_key_type_and_size_only_and_its_replay_changes_nothing(
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
    assert post_form(form, b"HELLO WORLD").ok  # what a policy can't forbid
    file = direct(services).complete(alice, admitted.id)
    assert post_form(form, b"replayed!!!").ok
    file = checked(services, file)
    assert post_form(form, b"replayed!!!").ok
    assert stored(bucket, file) == b"HELLO WORLD"
    assert file.file_hash == hashlib.sha256(b"HELLO WORLD").hexdigest()
    assert direct(services).sweep() == 0 and len(files_of(services, alice)) == 1
    services.upkeep.janitor()
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


def test_T42_the_longest_life_that_can_be_set_is_an_hour(settings: Settings) -> None:
    with pytest.raises(ValueError):
        Settings(_env_file=None, upload_url_ttl=3601)


# -- T43: parts ------------------------------------------------------------------------------------------------------------


def test_T43_the_plan_holds_any_size_and_a_part_url_takes_its_exact_length(
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


def test_T43_missing_or_different_parts_are_told_and_the_upload_goes_on(
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


def test_T43_of_a_part_sent_twice_the_one_that_the_client_names_counts(
    services: Services, alice: Principal, bucket: Any
) -> None:
    for _ in range(4):  # which one a server lists first is chance
        old, data = os.urandom(PART_SIZE + 5), os.urandom(PART_SIZE + 5)
        begun = begin(services, alice, data)
        first = send_all(begun, old)
        again = send_parts(begun.parts[1:], data)
        assert direct(services).progress(alice, begun.upload.id).missing == [(2, 2)]
        with pytest.raises(PartsMismatch):  # nobody can tell which is meant
            direct(services).complete(alice, begun.upload.id)
        with pytest.raises(PartsMismatch):
            direct(services).complete(alice, begun.upload.id, parts=[*first, *again])
        send_parts(begun.parts[1:], data)  # what a client does that was told it is missing
        file = direct(services).complete(alice, begun.upload.id, parts=[first[0], again[0]])
        assert stored(bucket, file) == old[:PART_SIZE] + data[PART_SIZE:]


# -- resume ----------------------------------------------------------------------------------------------------------------


def test_another_process_and_another_device_go_on_where_it_stopped(
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


def test_a_put_whose_url_expired_gets_another(services: Services, alice: Principal, bucket: Any) -> None:
    begun = begin(services, alice, b"hello")
    (fresh,) = direct(services).sign_parts(alice, begun.upload.id, [1])
    put(fresh.request.url, b"hello", fresh.request.headers)
    assert begun.request is not None
    assert send(begun.request.url, b"HELLO", begun.request.headers).status_code == 412
    assert stored(bucket, direct(services).complete(alice, begun.upload.id)) == b"hello"


def test_asking_for_urls_keeps_an_upload_alive(services: Services, alice: Principal, db: Database) -> None:
    begun = begin(services, alice, bytes(PART_SIZE + 1))
    sql(db, "update uploads set expires_at = now() + interval '1 minute'")
    direct(services).sign_parts(alice, begun.upload.id, [1])
    left = direct(services).get(alice, begun.upload.id).expires_at - begun.upload.expires_at
    assert left > timedelta(minutes=-1)


def test_unfinished_uploads_are_paged_newest_first(
    services: Services, alice: Principal, bob: Principal
) -> None:
    ids = [begin(services, alice, b"x").upload.id for _ in range(5)]
    begin(services, bob, b"x")
    seen, cursor = [], None
    for _ in range(3):
        page = direct(services).unfinished(alice, limit=2, cursor=cursor)
        seen += [record.id for record in page.items]
        cursor = page.next_cursor
    assert seen == ids[::-1] and cursor is None


def test_progress_of_a_form_upload_under_way(services: Services, alice: Principal) -> None:
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


# -- T44, T45: once, and nobody else's -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, PART_SIZE + 100])
def test_T44_complete_20_times_at_once_is_one_file(
    services: Services, alice: Principal, bucket: Any, leftovers: Leftovers, size: int
) -> None:
    data = os.urandom(size)
    begun = begin(services, alice, data)
    etags = send_all(begun, data)
    with ThreadPoolExecutor(20) as pool:
        answers = list(
            pool.map(lambda _: direct(services).complete(alice, begun.upload.id, parts=etags), range(20))
        )
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
            services.upkeep.janitor()
        with pytest.raises(UploadGone):
            direct(services).complete(alice, begun.upload.id)
        with pytest.raises(UploadGone):
            direct(services).sign_parts(alice, begun.upload.id, [1])
        assert direct(services).progress(alice, begun.upload.id).bytes_received == 0
    assert leftovers() == NOTHING


def test_abort_during_completion_ends_in_one_of_both(
    services: Services, alice: Principal, leftovers: Leftovers
) -> None:
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


def test_T45_anothers_upload_is_not_there(
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


def test_T45_no_url_given_out_can_change_the_bytes_afterwards(
    services: Services, alice: Principal, bucket: Any, leftovers: Leftovers
) -> None:
    """Every URL of both kinds of upload, tried in every state, with other bytes of the announced length."""
    small, large = b"good bytes", os.urandom(2 * PART_SIZE)
    evil = {len(small): b"EVIL BYTES", PART_SIZE: os.urandom(PART_SIZE)}
    one, many = begin(services, alice, small), begin(services, alice, large)
    form_upload = direct(services).admit(
        alice, protocol="s3", filename="f", size=10, content_type=None, single=True
    )
    form = direct(services).sign_post(alice, form_upload)
    assert post_form(form, small).ok
    send_all(one, small)
    send_all(many, large)
    assert one.request is not None
    urls = [(one.request.url, one.request.headers, evil[len(small)])]
    for begun in (one, many):
        numbers = range(1, begun.part_count + 1)
        for part in [*begun.parts, *direct(services).sign_parts(alice, begun.upload.id, numbers)]:
            urls.append(
                (part.request.url, part.request.headers, evil[min(PART_SIZE, begun.upload.size or 0)])
            )
    files = [
        direct(services).complete(alice, upload_id)
        for upload_id in (one.upload.id, many.upload.id, form_upload.id)
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
        url = services.delivery.url(alice, file.id, expires_in=None, disposition=None).url
        assert send(url, b"", method="GET").content == good
    assert len(files_of(services, alice)) == 3
    services.upkeep.janitor()
    assert leftovers() == NOTHING  # what the attack left in incoming/ is gone too


# -- T46: abandoned --------------------------------------------------------------------------------------------------------


def test_T46_abandoned_uploads_are_gone_after_one_janitor_run(
    services: Services, alice: Principal, db: Database, leftovers: Leftovers
) -> None:
    small, large = b"hello", os.urandom(3 * PART_SIZE)
    never = begin(services, alice, small)
    arrived = begin(services, alice, small)
    send_all(arrived, small)
    half = begin(services, alice, large)
    send_parts(half.parts[:2], large)
    assert leftovers()["reservations"] == ["alice"] and leftovers()["multiparts"]
    for begun in (never, arrived, half):
        expire(db, begun.upload.id)
    assert services.upkeep.janitor().expired_uploads == 3
    assert leftovers() == NOTHING
    # URLs that live on can bring bytes once more, or not at all; the next run takes them.
    assert never.request is not None
    put(never.request.url, small, never.request.headers)
    assert send(half.parts[2].request.url, large[2 * PART_SIZE :]).status_code == 404
    assert direct(services).sweep() == 0
    services.upkeep.janitor()
    assert leftovers() == NOTHING


def test_T46_the_janitor_leaves_living_uploads_alone(
    services: Services, alice: Principal, bucket: Any
) -> None:
    small, large = b"hello", os.urandom(2 * PART_SIZE)
    one, many = begin(services, alice, small), begin(services, alice, large)
    send_all(one, small)
    send_parts(many.parts[:1], large)
    services.upkeep.janitor()
    send_parts(many.parts[1:], large)
    assert stored(bucket, direct(services).complete(alice, one.upload.id)) == small
    assert stored(bucket, direct(services).complete(alice, many.upload.id)) == large


def test_T46_a_lifecycle_rule_is_the_second_net(services: Services, settings: Settings, bucket: Any) -> None:
    import commands
    from app import create_app, database_url

    wiring = commands.Wiring(lambda settings: services, create_app, storage_settings, database_url)
    assert commands.run(["bootstrap"], settings, wiring) == 0
    rules = bucket._ask("look", "get_bucket_lifecycle_configuration")["Rules"]
    (rule,) = [rule for rule in rules if "AbortIncompleteMultipartUpload" in rule]
    assert rule["Status"] == "Enabled" and rule["Filter"]["Prefix"] == "files/"
    assert rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] * 86_400 > settings.upload_ttl


# -- T48: the bucket itself ------------------------------------------------------------------------------------------------


def test_T48_the_bucket_is_private(
    services: Services, settings: Settings, alice: Principal, bucket: Any
) -> None:
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


# -- what the bucket took without telling us -------------------------------------------------------------------------------


@pytest.fixture
def counted(settings: Settings, services: Services) -> Iterator[tuple[DirectUploads, Counter[str]]]:
    """Direct uploads whose requests to the bucket are counted."""
    requests: Counter[str] = Counter()
    store = open_store(
        storage_settings(settings), observe=lambda operation, outcome, seconds: requests.update([operation])
    )
    limits = DirectLimits(timedelta(days=1), timedelta(hours=1))
    yield DirectUploads(services.db, store, services.intake, limits, cursor_secret=b"x"), requests  # type: ignore[arg-type]


def test_the_sweep_finds_what_arrived_by_one_listing(
    services: Services,
    alice: Principal,
    bucket: Any,
    counted: tuple[DirectUploads, Counter[str]],
    leftovers: Leftovers,
) -> None:
    sweeper, requests = counted
    assert sweeper.sweep() == 0 and not requests  # nobody is bringing anything: not one request
    pending = [begin(services, alice, b"never arrives") for _ in range(40)]
    assert sweeper.sweep() == 0 and requests == {"list_objects": 1}
    requests.clear()
    for begun in pending[:3]:
        send_all(begun, b"never arrives")
    form_upload = direct(services).admit(
        alice, protocol="s3", filename="f.txt", size=None, content_type=None, single=True
    )
    assert post_form(direct(services).sign_post(alice, form_upload), b"from a form").ok
    assert sweeper.sweep() == 4
    assert requests == {
        "list_objects": 1,
        "stat": 8,
        "copy": 4,
    }  # the copy looks at what it made; deletes are the intake's
    assert sorted(stored(bucket, file) for file in files_of(services, alice)) == [
        b"from a form",
        *[b"never arrives"] * 3,
    ]
    assert sweeper.sweep() == 0
    assert incoming(bucket) == []
    many = begin(services, alice, bytes(PART_SIZE + 1))
    send_all(many, bytes(PART_SIZE + 1))
    assert sweeper.sweep() == 0  # a multipart is completed at its client's word only


def test_the_sweep_and_the_client_make_one_file(services: Services, alice: Principal, bucket: Any) -> None:
    for _ in range(5):
        data = os.urandom(100)
        begun = begin(services, alice, data)
        send_all(begun, data)
        with ThreadPoolExecutor(3) as pool:
            swept = [pool.submit(direct(services).sweep) for _ in range(2)]
            file = pool.submit(direct(services).complete, alice, begun.upload.id).result()
            assert sum(done.result() for done in swept) <= 1
        assert stored(bucket, file) == data
    assert len(files_of(services, alice)) == 5


@pytest.mark.settings(quota_bytes=1000, max_file_size=2000)
@pytest.mark.parametrize(("size", "error"), [(1500, QuotaExceeded), (2001, None)])
def test_a_size_that_nobody_told_is_held_against_the_limits_when_it_is_seen(
    services: Services,
    alice: Principal,
    leftovers: Leftovers,
    bucket: Any,
    size: int,
    error: type[GatewayError] | None,
) -> None:
    admitted = direct(services).admit(
        alice, protocol="s3", filename="f", size=None, content_type=None, single=True
    )
    form = direct(services).sign_post(alice, admitted)
    if error is None:
        assert not post_form(form, bytes(size)).ok  # the policy knows the limit
        return
    assert post_form(form, bytes(size)).ok
    with pytest.raises(error):
        direct(services).complete(alice, admitted.id)
    with pytest.raises(UploadGone):
        direct(services).complete(alice, admitted.id)
    assert direct(services).get(alice, admitted.id).problem is not None
    assert incoming(bucket) == [] and files_of(services, alice) == []
    assert leftovers()["reservations"] == []


def test_a_completer_that_died_is_followed_by_another(
    services: Services, alice: Principal, db: Database, bucket: Any, leftovers: Leftovers
) -> None:
    begun = begin(services, alice, b"hello")
    send_all(begun, b"hello")
    sql(db, "update uploads set status = 'completing', updated_at = now()")
    bucket.put(begun.upload.object_key, b"half", content_type="text/plain")
    assert direct(services).sweep() == 0  # its lease still runs
    let_lease_pass(db)
    assert direct(services).sweep() == 1
    (file,) = files_of(services, alice)
    assert file.file_path != begun.upload.object_key and stored(bucket, file) == b"hello"
    assert leftovers() == NOTHING


def test_a_folder_deleted_meanwhile_leaves_the_file_in_the_root(services: Services, alice: Principal) -> None:
    folder = services.folders.create(alice, "Plans", "", None)
    begun = begin(services, alice, b"hello", placement=Placement(folder_id=folder.id))
    send_all(begun, b"hello")
    services.folders.delete(alice, folder.id, recursive=True)
    assert direct(services).complete(alice, begun.upload.id).folder_id is None
