"""The doctor with a real SeaweedFS, and with a missing bucket."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from services.upkeep.doctor.bucket import examine
from storage_backends import open_store
from tests.buckets import another_bucket, set_versioning, versions
from tests.memory_store import MemoryStore
from tests.servers import free_port, minio_binary, start_minio, start_weed


@pytest.fixture(scope="module")
def weed(tmp_path_factory):
    server = start_weed(tmp_path_factory.mktemp("doctor"))
    yield server
    server.stop()


@pytest.mark.parametrize("backend", ["s3", "minio"])
def test_a_correct_bucket_passes_all_checks_and_is_left_empty(weed, backend):
    store: Any = open_store(weed.settings(backend))
    store.set_cors(["http://console.example"])
    checks = examine(store, origins=["http://console.example"])
    assert [(check.name, check.detail) for check in checks if check.ok is not True] == []
    assert len(checks) == 21
    assert list(store.list_objects("")) == []
    assert list(store.list_multiparts("")) == []


def test_the_doctor_leaves_no_version_behind(weed):
    bucket = another_bucket(open_store(weed.settings()), "doctor-versioned")
    set_versioning(bucket, "Enabled")
    found = {check.name: check for check in examine(bucket)}
    assert {name for name, check in found.items() if check.ok is False} == set()
    assert "all versions" in found["versioning"].detail
    assert versions(bucket) == []


def test_the_doctor_says_how_long_a_locked_bucket_keeps_bytes(weed):
    bucket = another_bucket(open_store(weed.settings()), "doctor-locked", lock_days=3)
    found = {check.name: check for check in examine(bucket)}
    assert {name for name, check in found.items() if check.ok is False} == {"delete", "object lock", "clean up"}
    assert "GOVERNANCE: bytes stay until 3 day(s)" in found["object lock"].detail
    allowed = {check.name: check for check in examine(bucket, allow_lock=True)}
    assert {name for name, check in allowed.items() if check.ok is False} == set()
    assert "GOVERNANCE: bytes stay until 3 day(s)" in allowed["object lock"].detail


def test_T38_the_doctor_reports_an_open_bucket(weed):
    store: Any = open_store(weed.settings())
    store.set_cors([])
    found = {check.name: check for check in examine(store, origins=["http://console.example"])}
    assert found["CORS"].ok is False
    assert "every origin" in found["CORS"].detail
    assert found["CORS"].consequence


def test_the_doctor_reports_an_origin_that_is_not_allowed(weed):
    store: Any = open_store(weed.settings())
    store.set_cors(["http://console.example"])
    found = {check.name: check for check in examine(store, origins=["http://console.example", "http://new.example"])}
    assert found["CORS"].ok is False
    assert "http://new.example" in found["CORS"].detail


def test_the_doctor_reports_a_wrong_public_endpoint_and_runs_other_checks(weed):
    settings = dataclasses.replace(weed.settings(), public_endpoint=f"http://127.0.0.1:{free_port()}")
    store = open_store(settings)
    found = {check.name: check for check in examine(store)}
    assert found["public endpoint"].ok is False
    assert found["multipart"].ok is True
    assert found["CORS"].ok is None
    assert list(store.list_objects("")) == []


@pytest.mark.parametrize("backend", ["s3", "minio"])
def test_a_missing_bucket_is_a_failed_check_not_an_error(weed, backend):
    gone = open_store(dataclasses.replace(weed.settings(backend), endpoint=f"http://127.0.0.1:{free_port()}"))
    wrong = open_store(dataclasses.replace(weed.settings(backend), secret_key="wrong"))
    for store in (gone, wrong):
        first, *others = examine(store)
        assert (first.name, first.ok) == ("write", False)
        assert {check.ok for check in others} == {None}


def test_missing_abilities_are_not_failures():
    store = MemoryStore()
    found = {check.name: check.ok for check in examine(store)}
    assert False not in found.values()
    assert found["presigned GET"] is None
    assert found["multipart"] is True
    assert list(store.list_objects("")) == []
    assert list(store.list_multiparts("")) == []


@pytest.mark.needs_minio
@pytest.mark.skipif(minio_binary() is None, reason="needs MinIO on PATH")
def test_T41_the_doctor_finds_that_upload_urls_can_copy(tmp_path):
    """MinIO's administrator may; the user of the shipped deployment may not (tests/test_compose.py)."""
    server = start_minio(tmp_path)
    try:
        store: Any = open_store(server.settings("minio"))
        store.ensure_bucket()
        failed = {check.name for check in examine(store) if check.ok is False}
        assert failed == {"presigned PUT copies nothing"}
    finally:
        server.stop()
