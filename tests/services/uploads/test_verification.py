"""Direct uploads whose bytes differ from what was declared, and crashes at every call."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app import wire
from core.errors import FileNotReady, Unavailable, UploadGone
from core.parts import PART_SIZE
from core.placement import Placement
from core.principal import Principal
from db import Database
from db.records import FileRecord
from services import Services
from services.library.files import FileQuery
from services.processing.previews import PreviewRequest
from services.uploads.direct import UploadPlan
from settings import Settings, storage_settings
from storage_backends.s3 import S3Store
from tests.conftest import NOTHING, Leftovers
from tests.crash_points import CrashingGateway
from tests.direct_steps import begin, checked, direct, send_all
from tests.rows import sql
from tests.samples import picture

HTML = b"<!DOCTYPE html><html><script>alert(1)</script></html>" + b" " * 100


def sent(services: Services, who: Principal, data: bytes, name: str = "a.bin", **options: Any) -> UploadPlan:
    """Begin an upload and send all its bytes."""
    begun = begin(services, who, data, filename=name, **options)
    send_all(begun, data)
    return begun


def completed(
    services: Services, who: Principal, data: bytes, *, sha256: str | None = None, **options: Any
) -> FileRecord:
    return direct(services).complete(who, sent(services, who, data, **options).upload.id, sha256=sha256)


def problem_of(file: FileRecord) -> str | None:
    return file.problem["code"] if file.problem else None


# -- T47 -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("photo.png", HTML, "type_mismatch"),
        ("plan.pdf", HTML, "type_mismatch"),
        ("note.txt", b"MZ" + bytes(200), "type_not_allowed"),
    ],
)
@pytest.mark.settings(denied_types=("application/x-msdownload", "application/vnd.microsoft.portable-executable", "exe"))
def test_T47_bytes_of_another_type_than_the_name_are_never_downloadable(
    services: Services,
    alice: Principal,
    bob: Principal,
    bucket: Any,
    leftovers: Leftovers,
    name: str,
    data: bytes,
    code: str,
) -> None:
    file = completed(
        services, alice, data, name=name, content_type="image/png", placement=Placement(visibility="public")
    )
    assert file.status == "processing"
    for state in ("processing", "rejected"):
        for who in (alice, bob, None):
            with pytest.raises(FileNotReady):
                services.delivery.open(who, file.id, method="GET", mode="proxy")
            with pytest.raises(FileNotReady):
                services.delivery.url(who, file.id, expires_in=None, disposition=None)
            with pytest.raises(FileNotReady):
                services.previews.show(who, file.id, PreviewRequest())
        if state == "processing":
            file = checked(services, file)
            assert (file.status, problem_of(file), file.file_hash) == ("rejected", code, None)
    assert leftovers() == NOTHING


@pytest.mark.parametrize("size", [100, PART_SIZE + 100])
def test_T47_only_a_wrong_checksum_rejects(
    services: Services, alice: Principal, leftovers: Leftovers, size: int
) -> None:
    data = os.urandom(size)
    right, wrong = hashlib.sha256(data).hexdigest(), hashlib.sha256(b"other").hexdigest()
    ended = checked(services, completed(services, alice, data, sha256=right))
    assert (ended.status, ended.file_hash) == ("ready", right)
    ended = checked(services, completed(services, alice, data, sha256=wrong))
    assert (ended.status, problem_of(ended)) == ("rejected", "checksum_mismatch")
    if size > PART_SIZE:  # a single PUT's checksum is enforced by the bucket
        ended = checked(services, _begun_with(services, alice, data, wrong, None))
        assert (ended.status, problem_of(ended)) == ("rejected", "checksum_mismatch")
    contradictory = checked(services, _begun_with(services, alice, data, right, wrong))
    assert (contradictory.status, problem_of(contradictory)) == ("rejected", "checksum_mismatch")
    assert leftovers() == NOTHING


def _begun_with(services: Services, who: Principal, data: bytes, first: str, last: str | None) -> FileRecord:
    begun = sent(services, who, data, sha256=first)
    return direct(services).complete(who, begun.upload.id, sha256=last)


@pytest.mark.parametrize("check_first", [True, False])
def test_T47_a_checksum_is_verified_even_after_the_sweep(
    services: Services, alice: Principal, check_first: bool
) -> None:
    data = b"hello"
    good, bad = sent(services, alice, data), sent(services, alice, b"HELLO")
    assert direct(services).sweep() == 2
    swept = services.files.list(alice, FileQuery()).items
    if check_first:
        for file in swept:
            checked(services, file)
    right, wrong = hashlib.sha256(data).hexdigest(), hashlib.sha256(b"other").hexdigest()
    first = direct(services).complete(alice, good.upload.id, sha256=right)
    second = direct(services).complete(alice, bad.upload.id, sha256=wrong)
    assert checked(services, first).status == "ready"
    assert (checked(services, second).status, problem_of(checked(services, second))) == (
        "rejected",
        "checksum_mismatch",
    )
    # The first checksum is kept.
    assert direct(services).complete(alice, good.upload.id, sha256=wrong).status == "ready"


def test_T47_a_missing_object_or_one_of_another_size_is_rejected(
    services: Services, alice: Principal, bucket: Any
) -> None:
    changed, gone = completed(services, alice, b"hello"), completed(services, alice, b"hello!")
    bucket.put(changed.file_path, b"hello world", content_type="text/plain")
    bucket.delete(gone.file_path)
    for file in (changed, gone):
        ended = checked(services, file)
        assert (ended.status, problem_of(ended)) == ("rejected", "content_missing")


def test_the_type_is_detected_and_pictures_get_previews(services: Services, alice: Principal, db: Database) -> None:
    file = checked(services, completed(services, alice, picture("PNG"), name="a", content_type="application/x-lie"))
    assert (file.status, file.mime_type, file.file_type) == ("ready", "image/png", "image")
    jobs = sql(db, "select task_name from procrastinate_jobs where args ->> 'file_id' = %s", str(file.id))
    assert sorted(row[0] for row in jobs) == ["check_file", "process_file"]


# -- equal bytes -----------------------------------------------------------------------------------------------------------


def test_equal_bytes_are_linked_copied_or_rejected(
    services: Services, alice: Principal, bob: Principal, bucket: Any, leftovers: Leftovers
) -> None:
    data = os.urandom(1000)
    first = checked(services, completed(services, alice, data))
    linked = checked(services, completed(services, alice, data))
    copied = checked(services, completed(services, alice, data, placement=Placement(on_duplicate="copy")))
    refused = checked(services, completed(services, alice, data, placement=Placement(on_duplicate="reject")))
    others = checked(services, completed(services, bob, data, placement=Placement(on_duplicate="reject")))
    assert linked.file_path == first.file_path and linked.status == "ready"
    assert copied.file_path != first.file_path and copied.status == "ready"
    assert (refused.status, problem_of(refused)) == ("rejected", "duplicate_file")
    assert others.status == "ready" and others.file_path != first.file_path
    assert leftovers() == NOTHING


def test_concurrent_checks_of_equal_bytes_share_one_object(
    services: Services, alice: Principal, leftovers: Leftovers
) -> None:
    data = os.urandom(1000)
    files = [completed(services, alice, data) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        ended = list(pool.map(lambda file: checked(services, file), files))
    assert {file.status for file in ended} == {"ready"}
    assert len({services.files.get(alice, file.id).file_path for file in ended}) == 1
    assert leftovers() == NOTHING


def test_T106_two_checks_of_one_file_have_one_effect(
    services: Services, alice: Principal, leftovers: Leftovers
) -> None:
    file = completed(services, alice, os.urandom(1000))
    with ThreadPoolExecutor(6) as pool:
        ended = list(pool.map(lambda _: checked(services, file), range(6)))
    assert {(f.status, f.version) for f in ended} == {("ready", file.version + 1)}
    assert leftovers() == NOTHING


# -- lost checks -----------------------------------------------------------------------------------------------------------


def test_a_check_without_a_job_is_requeued_for_a_week(services: Services, alice: Principal, db: Database) -> None:
    def queued() -> int:
        [row] = sql(db, "select count(*) from procrastinate_jobs where task_name = 'check_file' and status = 'todo'")
        return int(row[0])

    file = completed(services, alice, b"hello")
    sql(db, "update files set uploaded_at = now() - interval '1 hour'")
    assert services.verification.requeue_lost() == 0 and queued() == 1  # the job exists
    sql(db, "delete from procrastinate_jobs")
    assert services.verification.requeue_lost() == 1 and queued() == 1
    with db.connection() as tx:
        tx.execute("delete from procrastinate_jobs")
        tx.execute("update files set uploaded_at = now() - interval '8 days'")
    assert services.verification.requeue_lost() == 1 and queued() == 0
    ended = services.files.get(alice, file.id)
    assert (ended.status, problem_of(ended)) == ("rejected", "check_failed")


def test_an_unreachable_bucket_leaves_the_file_processing(
    services: Services, settings: Settings, alice: Principal
) -> None:
    file = completed(services, alice, b"hello")
    dead = S3Store(storage_settings(settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"})))
    with pytest.raises(Unavailable):
        wire(settings, db=services.db, store=dead).verification.check(file.id)
    assert services.files.get(alice, file.id).status == "processing"
    assert checked(services, file).status == "ready"


# -- T101: crashes ---------------------------------------------------------------------------------------------------------


def time_passes(db: Database, *, expires: bool) -> None:
    with db.connection() as tx:
        tx.execute(
            "update uploads set updated_at = now() - interval '1 hour' where status in ('completing', 'aborted', 'expired')"
        )
        if expires:
            tx.execute(
                "update uploads set expires_at = now() - interval '1 second' where status in ('pending', 'uploading')"
            )


@pytest.mark.parametrize("size", [100, PART_SIZE + 100])
def test_T101_a_crash_at_any_call_of_begin_leaves_nothing(
    services: Services, crashing: CrashingGateway, alice: Principal, db: Database, leftovers: Leftovers, size: int
) -> None:
    for crash in crashing.crash_points():
        with crash:
            begin(crashing.services, alice, bytes(size))
    time_passes(db, expires=True)
    services.janitor.run()  # after all crashes: it takes a third of a second
    assert leftovers() == NOTHING
    assert crash.number >= 2


@pytest.mark.parametrize("rescue", ["client", "sweep"])
@pytest.mark.parametrize("size", [100, PART_SIZE + 100])
def test_T101_a_crash_at_any_call_of_completion_leaves_one_whole_file(
    services: Services,
    crashing: CrashingGateway,
    alice: Principal,
    db: Database,
    bucket: Any,
    leftovers: Leftovers,
    size: int,
    rescue: str,
) -> None:
    for crash in crashing.crash_points():
        data = os.urandom(size)
        begun = sent(services, alice, data)
        with crash:
            direct(crashing.services).complete(alice, begun.upload.id)
        time_passes(db, expires=False)
        if rescue == "sweep":
            direct(services).sweep()
            services.janitor.run()
        file = direct(services).complete(alice, begun.upload.id)  # the client's retry
        (listed,) = services.files.list(alice, FileQuery()).items
        assert listed.id == file.id, crash
        ready = checked(services, file)
        assert (ready.status, ready.file_hash) == ("ready", hashlib.sha256(data).hexdigest()), crash
        with bucket.open(ready.file_path) as reader:
            assert reader.read(-1) == data
        services.files.purge(alice, file.id, if_match=None)
    services.janitor.run()
    assert leftovers() == NOTHING
    assert crash.number >= 6


@pytest.mark.parametrize("size", [100, PART_SIZE + 100])
def test_T101_a_crash_in_an_abandoned_completion_leaves_nothing_incomplete(
    services: Services, crashing: CrashingGateway, db: Database, leftovers: Leftovers, size: int
) -> None:
    abandoned = {}
    for crash in crashing.crash_points():
        data, owner = os.urandom(size), Principal(f"owner {crash.number}")
        begun = sent(services, owner, data)
        with crash:
            direct(crashing.services).complete(owner, begun.upload.id)
        abandoned[owner.owner_id] = data
    for _ in range(2):
        time_passes(db, expires=True)
        services.janitor.run()
        direct(services).sweep()
    services.janitor.run()
    for owner_id, data in abandoned.items():
        files = services.files.list(Principal(owner_id), FileQuery()).items
        assert len(files) <= 1
        for file in files:
            assert checked(services, file).file_hash == hashlib.sha256(data).hexdigest()
    assert leftovers() == NOTHING


@pytest.mark.parametrize("equal", [False, True])
def test_T101_a_crash_at_any_call_of_the_check_changes_no_result(
    services: Services, crashing: CrashingGateway, alice: Principal, db: Database, leftovers: Leftovers, equal: bool
) -> None:
    for crash in crashing.crash_points():
        data = os.urandom(100)
        first = checked(services, completed(services, alice, data)) if equal else None
        file = completed(services, alice, data)
        with crash:
            crashing.services.verification.check(file.id)
        ready = checked(services, file)
        assert (ready.status, ready.file_hash) == ("ready", hashlib.sha256(data).hexdigest())
        assert first is None or ready.file_path == first.file_path
    services.janitor.run()
    assert leftovers() == NOTHING


@pytest.mark.parametrize("size", [100, PART_SIZE + 100])
def test_T101_the_janitor_completes_an_abort_that_crashed_at_any_call(
    services: Services, crashing: CrashingGateway, alice: Principal, db: Database, leftovers: Leftovers, size: int
) -> None:
    aborted = []
    for crash in crashing.crash_points():
        begun = sent(services, alice, os.urandom(size))
        aborted.append(begun.upload.id)
        with crash:
            direct(crashing.services).abort(alice, begun.upload.id)
    time_passes(db, expires=True)
    services.janitor.run()
    for upload_id in aborted:
        with pytest.raises(UploadGone):
            direct(services).complete(alice, upload_id)
    assert leftovers() == NOTHING
