"""Both backends with a server that hangs, is down or is full: timeouts, and the limit of waiting calls."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core import breaker
from storage_backends import faults, open_store, signed_http, transfers
from storage_backends.base import ByteRange, OutcomeUnknown, OutOfSpace, StorageUnavailable
from tests.servers import S3Server, small_disk, start_weed
from tests.storage_backends.test_faults import BACKENDS, CALLS, ONCE, REF, answer, problem, scripted, settings

MIB = 1024 * 1024
HEAD = answer(200, ETag='"e"', Last_Modified="Mon, 23 Nov 2026 12:00:00 GMT")


@pytest.fixture
def hanging() -> Iterator[int]:
    """The port of a server that accepts connections and never answers, like a suspended process."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signed_http, "STALL_TIMEOUT", 0.3)
    monkeypatch.setattr(faults, "RETRY_WITHIN", 0.1)
    monkeypatch.setattr(transfers, "COPY_TIMEOUT", 0.4)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("call", [*CALLS.values(), *ONCE.values()], ids=[*CALLS, *ONCE])
def test_T103_a_hanging_server_is_not_retried(backend: str, hanging: int, call: Callable[[Any], Any]) -> None:
    store = open_store(settings(backend, hanging))
    with pytest.raises(OutcomeUnknown):
        call(store)
    for again in (call, CALLS["stat"], lambda store: store.check(), lambda store: store.open("x").__enter__()):
        with pytest.raises(StorageUnavailable, match="not sent") as caught:
            again(store)
        assert not isinstance(caught.value, OutcomeUnknown)  # no request was sent


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("backend", BACKENDS)
def test_T103_a_body_that_is_not_read_times_out(backend: str, hanging: int) -> None:
    store: Any = open_store(settings(backend, hanging))
    with pytest.raises(OutcomeUnknown):
        store.put("files/x", bytes(32 * MIB), content_type="text/plain")
    with pytest.raises(StorageUnavailable, match="not sent"):
        store.stat("files/x")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_completion_and_a_copy_may_take_longer(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signed_http, "STALL_TIMEOUT", 0.2)
    done = answer(200, b"<Result><ETag>e</ETag></Result>", Content_Type="application/xml", ETag='"e"')
    with scripted(backend, done, pause=1.0) as (store, script):
        assert ONCE["complete_multipart"](store).etag == "e"
        assert store.copy_part(REF, 1, "files/y", byte_range=ByteRange(0, 9)).etag == "e"
        assert len(script.requests) == 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("said", [problem(503, "SlowDown"), problem(500, "InternalError"), None])
def test_bad_answers_and_closed_connections_are_retried(
    backend: str, said: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "RETRY_WITHIN", 60.0)
    with scripted(backend, *[said] * faults.ATTEMPTS, HEAD) as (store, script):
        with pytest.raises(StorageUnavailable):
            store.stat("files/x")
        store.stat("files/x")
        assert len(script.requests) == faults.ATTEMPTS + 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_T103_a_hanging_server_blocks_a_limited_number_of_threads(
    backend: str, hanging: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signed_http, "STALL_TIMEOUT", 60.0)
    monkeypatch.setattr(breaker, "STALLED_SECONDS", 0.2)
    store: Any = open_store(replace(settings(backend, hanging), connections=8))
    ended: list[BaseException] = []
    some_ended = threading.Event()

    def call(request: Callable[[Any], Any]) -> None:
        with suppress(OSError):
            try:
                request(store)
            except StorageUnavailable as error:
                ended.append(error)
                if len(ended) == 24 - 4 - 2:
                    some_ended.set()

    asked = [CALLS["put"]] * 8 + [CALLS["stat"]] * 8 + [ONCE["complete_multipart"]] * 8
    threads = [threading.Thread(target=call, args=(request,), daemon=True) for request in asked]
    for thread in threads:
        thread.start()
    assert some_ended.wait(30)  # the rest waits for a minute
    assert all("too many calls wait" in str(error) for error in ended)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_busy_bucket_rejects_no_request(backend: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "STALLED_SECONDS", 20.0)  # the machine may be busy
    store: Any = open_store(replace(s3_server.settings(backend), connections=4))
    with ThreadPoolExecutor(16) as threads:
        keys = [f"files/{number}" for number in range(64)]
        list(threads.map(lambda key: store.put(key, b"x" * MIB, content_type="text/plain"), keys, timeout=60))
        list(threads.map(store.delete, keys, timeout=60))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[S3Server, Path]]:
    """A SeaweedFS with a full disk, and its folder."""
    with small_disk(tmp_path_factory.mktemp("full") / "disk", "150m") as disk:
        server = start_weed(disk / "weed")
        store = open_store(server.settings())
        try:
            with suppress(StorageUnavailable):
                for number in range(100):
                    store.put(f"files/{number}", os.urandom(4 * MIB), content_type="text/plain")
            yield server, disk
        finally:
            server.stop()


@pytest.mark.parametrize("backend", BACKENDS)
def test_T7_T105_a_full_seaweedfs_is_out_of_space(backend: str, full: tuple[S3Server, Path], tmp_path: Path) -> None:
    server, disk = full
    store: Any = open_store(replace(server.settings(backend), local_path=disk))
    ref = store.create_multipart("files/parts", content_type="text/plain")
    for write in (
        lambda: store.put("files/new", b"x", content_type="text/plain"),
        lambda: store.put_part(ref, 1, b"x"),
        lambda: store.copy("files/0", "files/copy"),
    ):
        with pytest.raises(OutOfSpace):
            write()
    with store.open("files/0") as reader:
        assert len(reader.read()) == 4 * MIB
    elsewhere = open_store(replace(server.settings(backend), local_path=tmp_path))
    with pytest.raises(OutcomeUnknown):  # there is free space, so the error has another cause
        elsewhere.put("files/new", b"x", content_type="text/plain")
