"""Uploads that end without their client: abandoned uploads, and direct uploads that the client did not complete."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from core.cursors import Cursors
from core.errors import QuotaExceeded, UploadGone
from core.parts import PART_SIZE
from core.principal import Principal
from db import Database
from services import Services
from services.uploads.completion import Completion
from services.uploads.direct import DirectLimits, DirectUploads
from settings import Settings, storage_settings
from storage_backends import open_store
from tests.conftest import NOTHING, Leftovers
from tests.direct_steps import (
    begin,
    direct,
    expire,
    files_of,
    incoming,
    let_lease_pass,
    send_all,
    send_parts,
    sql,
    stored,
)
from tests.presigned import post_form, put, send

# -- T46: abandoned --------------------------------------------------------------------------------------------------------


def test_T46_one_janitor_run_removes_abandoned_uploads(
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
    assert services.janitor.run().expired_uploads == 3
    assert leftovers() == NOTHING
    # URLs that are still valid may bring bytes again; the next run removes them.
    assert never.request is not None
    put(never.request.url, small, never.request.headers)
    assert send(half.parts[2].request.url, large[2 * PART_SIZE :]).status_code == 404
    assert direct(services).sweep() == 0
    services.janitor.run()
    assert leftovers() == NOTHING


def test_T46_the_janitor_leaves_unexpired_uploads_alone(services: Services, alice: Principal, bucket: Any) -> None:
    small, large = b"hello", os.urandom(2 * PART_SIZE)
    one, many = begin(services, alice, small), begin(services, alice, large)
    send_all(one, small)
    send_parts(many.parts[:1], large)
    services.janitor.run()
    send_parts(many.parts[1:], large)
    assert stored(bucket, direct(services).complete(alice, one.upload.id)) == small
    assert stored(bucket, direct(services).complete(alice, many.upload.id)) == large


def test_T46_a_lifecycle_rule_aborts_multiparts_that_the_janitor_missed(
    services: Services, settings: Settings, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import commands

    monkeypatch.setattr("app.wire", lambda settings: services)
    assert commands.run(["bootstrap"], settings) == 0
    rules = bucket._client().get_bucket_lifecycle_configuration(Bucket=settings.s3_bucket)["Rules"]
    (rule,) = [rule for rule in rules if "AbortIncompleteMultipartUpload" in rule]
    assert rule["Status"] == "Enabled" and rule["Filter"]["Prefix"] == "files/"
    assert rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] * 86_400 > settings.upload_ttl


# -- objects that arrived without a complete request -----------------------------------------------------------------------


@pytest.fixture
def counted(settings: Settings, services: Services) -> tuple[DirectUploads, Counter[str]]:
    """Direct uploads whose requests to the bucket are counted."""
    requests: Counter[str] = Counter()
    store: Any = open_store(storage_settings(settings), observe=lambda call: requests.update([call.operation]))
    limits = DirectLimits(timedelta(days=1), timedelta(hours=1))
    return DirectUploads(
        services.db,
        store,
        services.intake,
        Completion(services.db, store, services.intake),
        limits,
        cursors=Cursors([b"x"]),
    ), requests


def test_the_sweep_finds_arrived_objects_with_one_listing(
    services: Services, alice: Principal, bucket: Any, counted: tuple[DirectUploads, Counter[str]], leftovers: Leftovers
) -> None:
    sweeper, requests = counted
    assert sweeper.sweep() == 0 and not requests  # no pending upload, so no request
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
    assert requests == {"list_objects": 1, "stat": 8, "copy": 4}  # a copy stats its result; the intake deletes
    assert sorted(stored(bucket, file) for file in files_of(services, alice)) == [
        b"from a form",
        *[b"never arrives"] * 3,
    ]
    assert sweeper.sweep() == 0
    assert incoming(bucket) == []
    many = begin(services, alice, bytes(PART_SIZE + 1))
    send_all(many, bytes(PART_SIZE + 1))
    assert sweeper.sweep() == 0  # only the client completes a multipart


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


@pytest.mark.settings(quota_bytes=2500, max_file_size=2000)
def test_an_undeclared_size_is_checked_at_completion(
    services: Services, alice: Principal, leftovers: Leftovers, bucket: Any
) -> None:
    admitted = direct(services).admit(alice, protocol="s3", filename="f", size=None, content_type=None, single=True)
    form = direct(services).sign_post(alice, admitted)
    assert not post_form(form, bytes(2001)).ok  # the policy contains the limit
    assert post_form(form, bytes(1500)).ok
    meanwhile = begin(services, alice, bytes(1001))
    with pytest.raises(QuotaExceeded):
        direct(services).complete(alice, admitted.id)
    direct(services).abort(alice, meanwhile.upload.id)
    with pytest.raises(UploadGone):
        direct(services).complete(alice, admitted.id)
    assert direct(services).get(alice, admitted.id).problem is not None
    assert incoming(bucket) == [] and files_of(services, alice) == []
    assert leftovers()["reservations"] == []


def test_a_dead_processs_completion_is_taken_over(
    services: Services, alice: Principal, db: Database, bucket: Any, leftovers: Leftovers
) -> None:
    begun = begin(services, alice, b"hello")
    send_all(begun, b"hello")
    sql(db, "update uploads set status = 'completing', updated_at = now()")
    bucket.put(begun.upload.object_key, b"half", content_type="text/plain")
    assert direct(services).sweep() == 0  # the lease has not expired
    let_lease_pass(db)
    assert direct(services).sweep() == 1
    (file,) = files_of(services, alice)
    assert file.file_path != begun.upload.object_key and stored(bucket, file) == b"hello"
    assert leftovers() == NOTHING
