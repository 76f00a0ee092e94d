"""The contract of every store, as one class of tests.

``@needs`` names abilities (names of Protocols) or rules that only some servers enforce. A test runs on each target that
has all of them. ``conftest.HAS`` lists what each server has, so that no test is skipped unnoticed. The ``store`` fixture
fails a test that leaves an object or a multipart behind.
"""

from __future__ import annotations

import base64
import hashlib
import io
import random
import subprocess
import sys
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest

from storage_backends.base import (
    ByteRange,
    Checksum,
    ChecksumMismatch,
    InvalidPart,
    Keeping,
    MultipartRef,
    ObjectFrozen,
    ObjectLocked,
    ObjectNotFound,
    PreconditionFailed,
    StorageError,
    UploadNotFound,
)
from tests.buckets import another_bucket, set_versioning, versions

MIB = 1024 * 1024
_SETTINGS = ("backend", "endpoint", "public_endpoint", "region", "bucket", "access_key", "secret_key")
HOUR = timedelta(hours=1)
ODD_NAMES = [
    "dir/ü +~(x)&=?.bin",
    "a/b;c,d@e:f$g!h'i*j.bin",
    "日本語/📄.txt",
    "per%cent%2Ftwice.bin",
    'quo"te<tag>&amp;.bin',
    "br[1]{2}^`|#.bin",
    "dots../..a/.b",
]
FORKING = """
import os, sys
from storage_backends import StorageSettings, open_store
prefix, store = sys.argv[1], open_store(StorageSettings(*sys.argv[2:]))

def look(name):
    assert store.stat(prefix + name).size == len(name)
    with store.open(prefix + name) as reader:
        assert reader.read() == name.encode()

def clients():
    return [store._http.pool(), store._client()]

look("parent")
before, child = clients(), os.fork()
assert [new is old for new, old in zip(clients(), before)] == [bool(child)] * 2
for _ in range(50):
    look("parent" if child else "its child")
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
Test = TypeVar("Test", bound=Callable[..., Any])


def needs(*words: str) -> Callable[[Test], Test]:
    def mark(test: Test) -> Test:
        test.needs = frozenset(words)  # type: ignore[attr-defined]
        return test

    return mark


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def sha256(data: bytes) -> Checksum:
    return Checksum("sha256", base64.b64encode(hashlib.sha256(data).digest()).decode())


def crc32(data: bytes) -> Checksum:
    return Checksum("crc32", base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode())


def read(store: Any, key: str, **how: Any) -> bytes:
    with store.open(key, **how) as reader:
        return b"".join(iter(lambda: reader.read(64 * 1024), b""))


class StoreContract:
    # Objects

    def test_put_stat_open_delete(self, store, prefix):
        key, data = f"{prefix}a.txt", b"hello"
        put = store.put(key, data, content_type="text/plain")
        info = store.stat(key)
        assert (info.key, info.size, info.etag, info.content_type) == (key, 5, put.etag, "text/plain")
        assert '"' not in info.etag
        assert abs(info.last_modified - datetime.now(UTC)) < timedelta(minutes=5)
        with store.open(key) as reader:
            assert (reader.info.size, reader.info.etag, reader.info.content_type) == (5, put.etag, "text/plain")
            assert reader.read() == data
            assert reader.read() == b""
        store.delete(key)
        with pytest.raises(ObjectNotFound):
            store.stat(key)

    @pytest.mark.parametrize("make", [bytes, bytearray, memoryview, io.BytesIO])
    def test_put_accepts_bytes_and_streams(self, store, prefix, make):
        data = noise(700_001)
        put = store.put(f"{prefix}x", make(data), content_type="application/octet-stream", size=len(data))
        assert put.size == len(data)
        assert read(store, f"{prefix}x") == data
        store.delete(f"{prefix}x")

    def test_put_replaces(self, store, prefix):
        first = store.put(f"{prefix}x", b"one", content_type="text/plain")
        second = store.put(f"{prefix}x", b"two!", content_type="text/html")
        assert first.etag != second.etag
        assert store.stat(f"{prefix}x").content_type == "text/html"
        assert read(store, f"{prefix}x") == b"two!"
        store.delete(f"{prefix}x")

    def test_a_stream_of_unknown_size_is_refused(self, store, prefix):
        with pytest.raises(ValueError):
            store.put(f"{prefix}x", io.BytesIO(b"abc"), content_type="text/plain")

    def test_T3_a_stream_that_ends_early_writes_nothing(self, store, prefix):
        with pytest.raises(ValueError, match="early"):
            store.put(f"{prefix}x", io.BytesIO(noise(300_000)), content_type="text/plain", size=600_000)
        with pytest.raises(ObjectNotFound):
            store.stat(f"{prefix}x")

    def test_T3_a_stream_error_passes_through_and_writes_nothing(self, store, prefix):
        class Cut(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                if self.tell() > 300_000:
                    raise ConnectionResetError("the client went away")
                return super().read(64 * 1024)

        with pytest.raises(ConnectionResetError, match="went away"):
            store.put(f"{prefix}x", Cut(noise(600_000)), content_type="text/plain", size=600_000)
        with pytest.raises(ObjectNotFound):
            store.stat(f"{prefix}x")

    def test_a_stream_is_not_read_past_its_size(self, store, prefix):
        stream = io.BytesIO(b"abcdef")
        assert store.put(f"{prefix}x", stream, content_type="text/plain", size=3).size == 3
        assert read(store, f"{prefix}x") == b"abc"
        assert stream.read() == b"def"
        store.delete(f"{prefix}x")

    def test_T11_an_empty_object(self, store, prefix):
        store.put(f"{prefix}empty", b"", content_type="text/plain")
        assert store.stat(f"{prefix}empty").size == 0
        assert read(store, f"{prefix}empty") == b""
        store.delete(f"{prefix}empty")

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_odd_keys(self, store, prefix, name):
        key = prefix + name
        store.put(key, b"odd", content_type="text/plain")
        assert store.stat(key).key == key
        assert read(store, key) == b"odd"
        assert [info.key for info in store.list_objects(prefix)] == [key]
        store.delete(key)
        assert list(store.list_objects(prefix)) == []

    @needs("backslash_keys")
    def test_a_backslash_in_a_key(self, store, prefix):
        store.put(f"{prefix}a\\b", b"odd", content_type="text/plain")
        assert [info.key for info in store.list_objects(prefix)] == [f"{prefix}a\\b"]
        store.delete(f"{prefix}a\\b")

    @needs("conditional_put")
    @pytest.mark.parametrize("make", [bytes, io.BytesIO])
    def test_if_absent_does_not_overwrite(self, store, prefix, make):
        store.put(f"{prefix}x", make(b"first"), content_type="text/plain", size=5, if_absent=True)
        with pytest.raises(PreconditionFailed):
            store.put(f"{prefix}x", make(b"other"), content_type="text/plain", size=5, if_absent=True)
        assert read(store, f"{prefix}x") == b"first"
        store.delete(f"{prefix}x")
        store.put(f"{prefix}x", make(b"again"), content_type="text/plain", size=5, if_absent=True)
        store.delete(f"{prefix}x")

    @pytest.mark.parametrize("checksum", [sha256, crc32])
    def test_a_correct_checksum_is_accepted(self, store, prefix, checksum):
        put = store.put(f"{prefix}x", b"sum", content_type="text/plain", checksum=checksum(b"sum"))
        assert put.checksum in (None, checksum(b"sum"))
        assert store.stat(f"{prefix}x").checksum in (None, checksum(b"sum"))
        store.delete(f"{prefix}x")

    @needs("checksums")
    @pytest.mark.parametrize("checksum", [sha256, crc32])
    def test_a_wrong_checksum_is_refused(self, store, prefix, checksum):
        with pytest.raises(ChecksumMismatch):
            store.put(f"{prefix}x", b"sun", content_type="text/plain", checksum=checksum(b"sum"))
        with pytest.raises(ObjectNotFound):
            store.stat(f"{prefix}x")

    @needs("checksums_kept")
    def test_the_checksum_is_returned_and_stored(self, store, prefix):
        assert store.put(f"{prefix}x", b"s", content_type="text/plain", checksum=sha256(b"s")).checksum == sha256(b"s")
        assert store.stat(f"{prefix}x").checksum == sha256(b"s")
        store.delete(f"{prefix}x")

    def test_ranges(self, store, prefix):
        data = noise(300_000)
        store.put(f"{prefix}x", data, content_type="text/plain")
        for first, last in [(0, 0), (0, 299_999), (299_999, 299_999), (1000, 200_000), (299_000, 400_000)]:
            with store.open(f"{prefix}x", byte_range=ByteRange(first, last)) as reader:
                assert reader.info.size == 300_000
                assert reader.read() == data[first : last + 1]
        with pytest.raises(StorageError), store.open(f"{prefix}x", byte_range=ByteRange(300_000, 300_001)):
            pass
        store.delete(f"{prefix}x")

    def test_a_read_returns_no_more_than_requested(self, store, prefix):
        data = noise(500_000)
        store.put(f"{prefix}x", data, content_type="text/plain")
        with store.open(f"{prefix}x") as reader:
            assert reader.read(0) == b""
            pieces = list(iter(lambda: reader.read(70_000), b""))
        assert max(map(len, pieces)) <= 70_000
        assert b"".join(pieces) == data
        store.delete(f"{prefix}x")

    def test_if_match(self, store, prefix):
        etag = store.put(f"{prefix}x", b"abc", content_type="text/plain").etag
        assert read(store, f"{prefix}x", if_match=etag) == b"abc"
        for wanted in (None, ByteRange(1, 2), ByteRange(7, 9)):  # the condition is checked before the range
            with pytest.raises(PreconditionFailed), store.open(f"{prefix}x", byte_range=wanted, if_match="0" * 32):
                pass
        store.delete(f"{prefix}x")

    def test_an_abandoned_reader_does_no_harm(self, store, prefix):
        data = noise(4 * MIB)
        store.put(f"{prefix}x", data, content_type="text/plain")
        for _ in range(5):
            with store.open(f"{prefix}x") as reader:
                assert reader.read(1000) == data[:1000]
        with pytest.raises(KeyError), store.open(f"{prefix}x") as reader:
            raise KeyError("the caller's own error comes through")
        assert read(store, f"{prefix}x") == data
        store.delete(f"{prefix}x")

    def test_missing_objects(self, store, prefix):
        with pytest.raises(ObjectNotFound):
            store.stat(f"{prefix}nothing")
        with pytest.raises(ObjectNotFound), store.open(f"{prefix}nothing"):
            pass
        store.delete(f"{prefix}nothing")

    def test_listing(self, store, prefix):
        names = ["a/1", "a/2", "a/3/4", "ab", "b"]
        for name in reversed(names):
            store.put(prefix + name, name.encode(), content_type="text/plain")

        def listed(under: str, after: str | None = None) -> list[str]:
            found = store.list_objects(prefix + under, after=None if after is None else prefix + after)
            return [info.key.removeprefix(prefix) for info in found]

        assert listed("") == sorted(names)
        assert listed("a/") == ["a/1", "a/2", "a/3/4"]
        assert listed("", after="a/2") == ["a/3/4", "ab", "b"]
        assert listed("", after="b") == []
        assert listed("zzz") == []
        info = next(iter(store.list_objects(f"{prefix}ab")))
        assert (info.size, info.etag) == (2, store.stat(f"{prefix}ab").etag)
        for name in names:
            store.delete(prefix + name)

    @needs("byte_order")
    def test_listing_in_byte_order(self, store, prefix):
        keys = [f"{prefix}{name}" for name in ("a", "a-1", "a.1", "a/1", "a0")]
        for key in keys:
            store.put(key, b"", content_type="text/plain")
        assert [info.key for info in store.list_objects(prefix)] == keys
        assert [info.key for info in store.list_objects(prefix, after=keys[0])] == keys[1:]
        for key in keys:
            store.delete(key)

    @needs("quick_requests")
    def test_listing_over_pages(self, store, prefix):
        keys = [f"{prefix}{number:05}" for number in range(1_003)]
        for key in keys:
            store.put(key, b"", content_type="text/plain")
        assert [info.key for info in store.list_objects(prefix)] == keys
        assert [info.key for info in store.list_objects(prefix, after=keys[99])] == keys[100:]
        for key in keys:
            store.delete(key)

    def test_check_leaves_nothing_behind(self, store):
        store.check()
        assert list(store.list_objects("probe/")) == []

    @needs("ManagesBucket")
    def test_a_forked_process_gets_its_own_clients(self, store, prefix):
        """gunicorn forks after the import; processes that share a socket would get each other's answers."""
        for name in ("parent", "its child"):
            store.put(prefix + name, name.encode(), content_type="text/plain")
        arguments = [getattr(store._settings, name) for name in _SETTINGS]
        command = [sys.executable, "-W", "ignore", "-c", FORKING, prefix, *arguments]
        subprocess.run(command, check=True, timeout=60)
        store.delete(f"{prefix}parent")
        store.delete(f"{prefix}its child")

    # Multipart

    @needs("Multipart")
    def test_multipart(self, store, prefix):
        key, pieces = f"{prefix}big", [noise(5 * MIB, 1), noise(5 * MIB, 2), b"tail"]
        ref = store.create_multipart(key, content_type="image/png")
        parts = [store.put_part(ref, number, piece) for number, piece in enumerate(pieces, 1)]
        assert [(part.number, part.size) for part in parts] == [(1, 5 * MIB), (2, 5 * MIB), (3, 4)]
        assert [(part.number, part.size, part.etag) for part in store.list_parts(ref)] == [
            (part.number, part.size, part.etag) for part in parts
        ]
        with pytest.raises(ObjectNotFound):
            store.stat(key)
        done = store.complete_multipart(ref, parts)
        info = store.stat(key)
        assert (info.size, info.etag, info.content_type) == (10 * MIB + 4, done.etag, "image/png")
        assert done.size == info.size
        assert read(store, key) == b"".join(pieces)
        assert read(store, key, byte_range=ByteRange(5 * MIB - 2, 5 * MIB + 1)) == pieces[0][-2:] + pieces[1][:2]
        store.delete(key)

    @needs("Multipart")
    def test_parts_in_any_order_and_repeated(self, store, prefix):
        key, first, last = f"{prefix}big", noise(5 * MIB, 3), noise(1000, 4)
        ref = store.create_multipart(key, content_type="image/png")
        tail = store.put_part(ref, 7, last)
        store.put_part(ref, 2, noise(5 * MIB, 5))
        head = store.put_part(ref, 2, bytearray(first))
        listed = list(store.list_parts(ref))
        assert [part.number for part in listed] == sorted(part.number for part in listed)
        assert (2, head.etag) in [(part.number, part.etag) for part in listed]
        store.complete_multipart(ref, [head, tail])
        assert read(store, key) == first + last
        store.delete(key)

    @needs("Multipart", "upload_gone")
    def test_abort_is_final_and_may_be_repeated(self, store, prefix):
        ref = store.create_multipart(f"{prefix}big", content_type="image/png")
        part = store.put_part(ref, 1, b"part")
        store.abort_multipart(ref)
        store.abort_multipart(ref)
        with pytest.raises(UploadNotFound):
            list(store.list_parts(ref))
        with pytest.raises(UploadNotFound):
            store.put_part(ref, 2, b"late")
        with pytest.raises(UploadNotFound):
            store.complete_multipart(ref, [part])
        with pytest.raises(ObjectNotFound):
            store.stat(f"{prefix}big")

    @needs("Multipart", "upload_gone")
    def test_a_completed_upload_is_gone(self, store, prefix):
        ref = store.create_multipart(f"{prefix}big", content_type="image/png")
        part = store.put_part(ref, 1, b"part")
        store.complete_multipart(ref, [part])
        with pytest.raises(UploadNotFound):
            list(store.list_parts(ref))
        with pytest.raises(UploadNotFound):
            store.put_part(ref, 1, b"late")
        store.abort_multipart(ref)
        assert read(store, f"{prefix}big") == b"part"
        store.delete(f"{prefix}big")

    @needs("Multipart")
    def test_an_unknown_upload(self, store, prefix):
        ref = store.create_multipart(f"{prefix}big", content_type="image/png")
        foreign = MultipartRef(ref.key, "0" * len(ref.upload_id))
        store.abort_multipart(ref)
        with pytest.raises(UploadNotFound):
            list(store.list_parts(foreign))
        store.abort_multipart(foreign)

    @needs("Multipart")
    def test_T43_completion_refuses_missing_and_changed_parts(self, store, prefix):
        ref = store.create_multipart(f"{prefix}big", content_type="image/png")
        first = store.put_part(ref, 1, noise(5 * MIB, 6))
        second = store.put_part(ref, 2, b"end")
        missing = type(first)(3, 3, second.etag)
        with pytest.raises(InvalidPart):
            store.complete_multipart(ref, [first, missing])
        with pytest.raises(InvalidPart):
            store.complete_multipart(ref, [first, type(first)(2, 3, "0" * 32)])
        with pytest.raises(InvalidPart):
            store.complete_multipart(ref, [second, first])
        with pytest.raises(ObjectNotFound):
            store.stat(f"{prefix}big")
        store.complete_multipart(ref, [first, second])
        store.delete(f"{prefix}big")

    @needs("Multipart", "smallest_part")
    def test_T43_a_short_part_is_only_allowed_at_the_end(self, store, prefix):
        ref = store.create_multipart(f"{prefix}big", content_type="image/png")
        parts = [store.put_part(ref, number, b"small") for number in (1, 2)]
        with pytest.raises(InvalidPart):
            store.complete_multipart(ref, parts)
        store.abort_multipart(ref)

    @needs("Multipart", "conditional_complete")
    def test_completion_if_absent(self, store, prefix):
        key = f"{prefix}big"
        ref = store.create_multipart(key, content_type="image/png")
        part = store.put_part(ref, 1, b"part")
        store.put(key, b"already here", content_type="text/plain")
        with pytest.raises(PreconditionFailed):
            store.complete_multipart(ref, [part], if_absent=True)
        assert read(store, key) == b"already here"
        store.delete(key)
        store.complete_multipart(ref, [part], if_absent=True)
        assert read(store, key) == b"part"
        store.delete(key)

    @needs("Multipart")
    @pytest.mark.parametrize("checksum", [sha256, crc32])
    @pytest.mark.parametrize("announced", [True, False])
    def test_parts_with_checksums(self, store, prefix, checksum, announced):
        data = noise(5 * MIB, 7), b"end"
        algorithm = checksum(b"").algorithm if announced else None
        ref = store.create_multipart(f"{prefix}big", content_type="image/png", checksums=algorithm)
        parts = [store.put_part(ref, number, piece, checksum=checksum(piece)) for number, piece in enumerate(data, 1)]
        for part, piece in zip(parts, data, strict=True):
            assert part.checksum in (None, checksum(piece))
        store.complete_multipart(ref, parts)
        assert read(store, f"{prefix}big") == b"".join(data)
        store.stat(f"{prefix}big")
        store.delete(f"{prefix}big")

    @needs("Multipart", "checksums")
    @pytest.mark.parametrize("checksum", [sha256, crc32])
    def test_a_part_with_a_wrong_checksum_is_refused(self, store, prefix, checksum):
        ref = store.create_multipart(f"{prefix}big", content_type="image/png")
        with pytest.raises(ChecksumMismatch):
            store.put_part(ref, 1, b"sun", checksum=checksum(b"sum"))
        assert list(store.list_parts(ref)) == []
        store.abort_multipart(ref)

    @needs("Multipart", "upload_dates")
    def test_multiparts_are_listed_by_key(self, store, prefix):
        refs = [store.create_multipart(f"{prefix}one", content_type="image/png") for _ in range(2)]
        found = list(store.list_multiparts(f"{prefix}one"))
        assert {(ref.key, ref.upload_id) for ref in found} == {(ref.key, ref.upload_id) for ref in refs}
        assert {ref.upload_id for ref in found} <= {ref.upload_id for ref in store.list_multiparts("")}
        assert all(ref.started_at is None or abs(ref.started_at - datetime.now(UTC)) < HOUR for ref in found)
        for ref in found:
            store.abort_multipart(ref)
        assert list(store.list_multiparts(f"{prefix}one")) == []

    @needs("Multipart", "multiparts_by_prefix")
    def test_multiparts_are_listed_by_prefix(self, store, prefix):
        refs = [store.create_multipart(prefix + name, content_type="image/png") for name in ODD_NAMES]
        assert sorted(ref.key for ref in store.list_multiparts(prefix)) == sorted(ref.key for ref in refs)
        assert list(store.list_multiparts(f"{prefix}zzz")) == []
        for ref in store.list_multiparts(prefix):
            store.abort_multipart(ref)

    # Copies

    @needs("Copies")
    def test_copy(self, store, prefix):
        source, target = f"{prefix}ü +~(x)&=?.bin", f"{prefix}copy of ü +%2F.bin"
        put = store.put(source, b"content", content_type="text/plain")
        copied = store.copy(source, target)
        assert (copied.key, copied.size, copied.content_type) == (target, 7, "text/plain")
        assert copied.etag == store.stat(target).etag
        assert store.copy(source, target, content_type="image/png", if_source_etag=put.etag).content_type == "image/png"
        assert store.stat(target).content_type == "image/png"
        assert read(store, target) == b"content"
        store.delete(source)
        store.delete(target)

    @needs("Copies")
    def test_copy_of_a_missing_object(self, store, prefix):
        with pytest.raises(ObjectNotFound):
            store.copy(f"{prefix}nothing", f"{prefix}target")
        with pytest.raises(ObjectNotFound):
            store.stat(f"{prefix}target")

    @needs("Archives", "thaws")
    def test_storage_classes_and_their_thaw(self, store, prefix):
        store.put(f"{prefix}x", b"hello", content_type="text/plain")
        store.copy(f"{prefix}x", f"{prefix}cheap", storage_class="GLACIER_IR")
        assert store.stat(f"{prefix}cheap").storage_class == "GLACIER_IR"
        assert read(store, f"{prefix}cheap") == b"hello"
        frozen = store.copy(f"{prefix}x", f"{prefix}frozen", storage_class="DEEP_ARCHIVE")
        assert (frozen.readable, frozen.size) == (False, 5)
        with pytest.raises(ObjectFrozen):
            read(store, f"{prefix}frozen")
        with pytest.raises(ObjectFrozen):
            store.copy(f"{prefix}frozen", f"{prefix}back")
        for _ in range(2):
            store.thaw(f"{prefix}frozen", days=1)
        assert store.stat(f"{prefix}frozen").readable
        store.copy(f"{prefix}frozen", f"{prefix}back")
        assert store.stat(f"{prefix}back").storage_class is None
        assert read(store, f"{prefix}back") == b"hello"
        for name in ("x", "cheap", "frozen", "back"):
            store.delete(f"{prefix}{name}")

    @needs("Copies", "copy_conditions")
    def test_copy_if_source_matches(self, store, prefix):
        store.put(f"{prefix}x", b"content", content_type="text/plain")
        with pytest.raises(PreconditionFailed):
            store.copy(f"{prefix}x", f"{prefix}y", if_source_etag="0" * 32)
        with pytest.raises(ObjectNotFound):
            store.stat(f"{prefix}y")
        store.delete(f"{prefix}x")

    @needs("Copies", "Multipart")
    def test_copy_part(self, store, prefix):
        data = noise(6 * MIB, 8)
        store.put(f"{prefix}ü source", data, content_type="text/plain")
        ref = store.create_multipart(f"{prefix}joined", content_type="image/png")
        first = store.copy_part(ref, 1, f"{prefix}ü source", byte_range=ByteRange(100, 5 * MIB + 199))
        second = store.copy_part(ref, 2, f"{prefix}ü source")
        assert (first.size, second.size) == (5 * MIB + 100, 6 * MIB)
        assert [part.size for part in store.list_parts(ref)] == [first.size, second.size]
        store.complete_multipart(ref, [first, second])
        assert read(store, f"{prefix}joined") == data[100 : 5 * MIB + 200] + data
        assert store.stat(f"{prefix}joined").content_type == "image/png"
        store.delete(f"{prefix}ü source")
        store.delete(f"{prefix}joined")

    @needs("Copies", "Multipart", "part_copy_conditions")
    def test_copy_part_if_source_matches(self, store, prefix):
        put = store.put(f"{prefix}x", b"content", content_type="text/plain")
        ref = store.create_multipart(f"{prefix}joined", content_type="image/png")
        with pytest.raises(PreconditionFailed):
            store.copy_part(ref, 1, f"{prefix}x", if_source_etag="0" * 32)
        assert store.copy_part(ref, 1, f"{prefix}x", if_source_etag=put.etag).size == 7
        store.abort_multipart(ref)
        store.delete(f"{prefix}x")

    # The bucket

    @needs("ManagesBucket")
    def test_the_bucket_is_created_once(self, store):
        assert store.ensure_bucket() is False

    @needs("ManagesBucket", "versions")
    @pytest.mark.parametrize("status", ["Enabled", "Suspended"])
    def test_a_deletion_deletes_all_versions(self, store, prefix, status):
        """Also those from before versioning was suspended, and no mark of the deletion stays."""
        bucket = another_bucket(store, f"{status.lower()}-{prefix[2:-1]}")
        assert bucket.keeping() == Keeping("", object_lock=False)
        bucket.put("ü/&", b"0", content_type="text/plain")
        set_versioning(bucket, "Enabled")
        for key in ("ü/&", "ü/&", "ü/& other"):
            bucket.put(key, b"1", content_type="text/plain")
        set_versioning(bucket, status)
        assert bucket.keeping() == Keeping(status, object_lock=False)
        bucket.put("ü/&", b"2", content_type="text/plain")
        bucket.delete("ü/&")
        bucket.delete("nothing")
        bucket.check()
        assert versions(bucket) == ["ü/& other"]
        bucket.delete("ü/& other")
        assert versions(bucket) == []

    @needs("ManagesBucket", "versions")
    def test_versioning_that_is_enabled_later_is_noticed(self, store, prefix):
        bucket = another_bucket(store, f"later-{prefix[2:-1]}")
        for status in (None, "Enabled"):
            if status:
                set_versioning(bucket, status)
            bucket.put("x", b"1", content_type="text/plain")
            bucket.delete("x")
            assert versions(bucket) == []

    @needs("ManagesBucket", "object_lock")
    def test_an_object_lock_keeps_the_bytes(self, store, prefix):
        bucket = another_bucket(store, f"locked-{prefix[2:-1]}", lock_days=2)
        assert bucket.keeping() == Keeping("Enabled", True, "GOVERNANCE", 2)
        bucket.put("x", b"1", content_type="text/plain")
        with pytest.raises(ObjectLocked) as locked:
            bucket.delete("x")
        assert abs(locked.value.until - datetime.now(UTC) - timedelta(days=2)) < HOUR
        assert read(bucket, "x") == b"1"
        for _ in range(3):  # the first probe stays, and the others read it
            bucket.check()
        kept, other = versions(bucket)
        assert (kept[:6], other) == ("probe/", "x")

    @needs("ManagesBucket", "lifecycle")
    def test_the_lifecycle_rule_for_unfinished_uploads_is_set(self, store):
        for _ in range(2):
            assert store.set_abort_incomplete_rule("files/", days=7) is True

    @needs("ManagesBucket", "no_rules")
    def test_a_server_without_rules_says_so(self, store):
        assert store.set_cors(["http://console.example"]) is False
        assert store.set_abort_incomplete_rule("files/", days=7) is False
