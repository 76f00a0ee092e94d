"""Errors and retries of both backends with faulty servers."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from storage_backends import StorageSettings, faults, open_store, signed_http
from storage_backends.base import (
    ByteRange,
    MultipartRef,
    ObjectNotFound,
    OutcomeUnknown,
    OutOfSpace,
    Part,
    PreconditionFailed,
    StorageError,
    StorageRefused,
    StorageUnavailable,
    UploadNotFound,
)
from tests.servers import free_port

BACKENDS = ["s3", "minio"]
REF = MultipartRef("files/x", "upload-1")


def settings(backend: str, port: int) -> StorageSettings:
    url = f"http://127.0.0.1:{port}"
    return StorageSettings(backend, url, url, "us-east-1", "uploads", "key", "secret")


def answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Date: Mon, 23 Nov 2026 12:00:00 GMT"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def problem(status: int, code: str, message: str = "m") -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return answer(status, body, Content_Type="application/xml", x_amz_request_id="r-1")


@pytest.fixture(autouse=True)
def time_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow more time for retries: creating boto3's client takes seconds on a loaded machine."""
    monkeypatch.setattr(faults, "RETRY_WITHIN", 60.0)


class Script:
    """A server that sends one scripted answer per request, after ``pause`` seconds; None closes the connection instead.
    The last answer is repeated."""

    def __init__(self, *answers: bytes | None, hang: threading.Event | None = None, pause: float = 0):
        self.requests: list[bytes] = []
        self._answers = list(answers)
        self._hang = hang
        self._pause = pause
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(10)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, suppress(OSError):
                    connection.settimeout(10)
                    self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        stream = connection.makefile("rb")
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = stream.readline()
            if not line:
                return
            head += line
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        stream.read(length)
        self.requests.append(head)
        reply = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        time.sleep(self._pause)
        if reply is not None:
            connection.sendall(reply)
        if self._hang is not None:
            self._hang.wait(10)

    def close(self) -> None:
        self._listener.close()


@contextmanager
def scripted(backend: str, *answers: bytes | None, **how: Any) -> Iterator[tuple[Any, Script]]:
    script = Script(*answers, **how)
    try:
        yield open_store(settings(backend, script.port)), script
    finally:
        script.close()


CALLS: dict[str, Callable[[Any], Any]] = {
    "put": lambda store: store.put("files/x", b"x", content_type="text/plain"),
    "put_part": lambda store: store.put_part(REF, 1, b"x"),
    "stat": lambda store: store.stat("files/x"),
    "delete": lambda store: store.delete("files/x"),
    "list_objects": lambda store: list(store.list_objects("files/")),
    "list_parts": lambda store: list(store.list_parts(REF)),
    "list_multiparts": lambda store: list(store.list_multiparts("files/")),
    "abort_multipart": lambda store: store.abort_multipart(REF),
    "copy": lambda store: store.copy("files/x", "files/y"),
}
ONCE: dict[str, Callable[[Any], Any]] = {
    "put if absent": lambda store: store.put("files/x", b"x", content_type="text/plain", if_absent=True),
    "put a stream": lambda store: store.put("files/x", io.BytesIO(b"x"), size=1, content_type="text/plain"),
    "create_multipart": lambda store: store.create_multipart("files/x", content_type="text/plain"),
    "complete_multipart": lambda store: store.complete_multipart(REF, [Part(1, 1, "e")]),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("call", [*CALLS.values(), *ONCE.values()], ids=[*CALLS, *ONCE])
def test_T103_connection_refused(backend, call):
    with pytest.raises(StorageUnavailable) as caught:
        call(open_store(settings(backend, free_port())))
    assert not isinstance(caught.value, OutcomeUnknown)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_T103_safe_requests_are_retried_after_a_lost_answer(backend, call):
    with scripted(backend, None) as (store, script):
        with pytest.raises(OutcomeUnknown):
            call(store)
        assert len(script.requests) == faults.ATTEMPTS


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("call", ONCE.values(), ids=ONCE)
def test_R4_unsafe_requests_are_not_retried_after_a_lost_answer(backend, call):
    with scripted(backend, None) as (store, script):
        with pytest.raises(OutcomeUnknown):
            call(store)
        assert len(script.requests) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_T103_slow_down_is_retried(backend):
    slow = problem(503, "SlowDown")
    with scripted(backend, slow, slow, answer(200, ETag='"e"')) as (store, script):
        assert store.put("files/x", b"x", content_type="text/plain", if_absent=True).etag == "e"
        assert len(script.requests) == 3
    with scripted(backend, slow) as (store, script):
        with pytest.raises(StorageUnavailable) as caught:
            store.stat("files/x")
        assert not isinstance(caught.value, OutcomeUnknown)
        assert len(script.requests) == faults.ATTEMPTS


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stream_is_sent_once_even_if_the_bucket_is_busy(backend):
    with scripted(backend, problem(503, "SlowDown"), answer(200, ETag='"e"')) as (store, script):
        with pytest.raises(StorageUnavailable):
            store.put("files/x", io.BytesIO(b"x"), size=1, content_type="text/plain")
        assert len(script.requests) == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("status", "code", "message", "error"),
    [
        (404, "NoSuchKey", "", ObjectNotFound),
        (404, "NoSuchUpload", "", UploadNotFound),
        (412, "PreconditionFailed", "", PreconditionFailed),
        (507, "XMinioStorageFull", "", OutOfSpace),
        (500, "InternalError", "write: no space left on device", OutOfSpace),
        (500, "InternalError", "", OutcomeUnknown),
        (404, "NoSuchBucket", "", StorageRefused),
        (403, "RequestTimeTooSkewed", "", StorageRefused),
        (403, "AccessDenied", "", StorageRefused),
        (400, "InvalidRequest", "", StorageError),
        (409, "ConditionalRequestConflict", "", StorageUnavailable),
    ],
)
def test_errors_by_status_and_code(backend, status, code, message, error):
    for call in (CALLS["put"], CALLS["list_parts"], ONCE["complete_multipart"]):
        with scripted(backend, problem(status, code, message)) as (store, _):
            with pytest.raises(StorageError) as caught:
                call(store)
            assert type(caught.value) is error
            assert caught.value.code == code
            assert caught.value.request_id == "r-1"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_404_from_a_proxy_is_not_a_missing_object(backend):
    with scripted(backend, answer(404, b"<html>no such site</html>", Content_Type="text/html")) as (store, _):
        for call in (CALLS["list_parts"], CALLS["put"], ONCE["complete_multipart"]):
            with pytest.raises(StorageError) as caught:
                call(store)
            assert not isinstance(caught.value, ObjectNotFound | UploadNotFound)
        with pytest.raises(StorageError) as caught, store.open("files/x"):
            pass
        assert not isinstance(caught.value, ObjectNotFound)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("code", "error"), [("InternalError", StorageError), ("NoSuchUpload", UploadNotFound)])
def test_an_error_after_a_200_is_an_error(backend, code, error):
    with scripted(backend, problem(200, code)) as (store, script):
        with pytest.raises(error):
            ONCE["complete_multipart"](store)
        assert len(script.requests) == 1
    with scripted(backend, problem(200, code)) as (store, _), pytest.raises(StorageError):
        CALLS["copy"](store)


@pytest.mark.parametrize("backend", BACKENDS)
def test_T34_a_truncated_body_raises(backend):
    whole = answer(200, b"0123456789" * 1000, ETag='"e"', Last_Modified="Mon, 23 Nov 2026 12:00:00 GMT")
    for size in (-1, 100_000, 512):
        with scripted(backend, whole[:-10]) as (store, _):
            with pytest.raises(StorageUnavailable), store.open("files/x") as reader:
                list(iter(lambda: reader.read(size), b""))  # noqa: B023


@pytest.mark.parametrize("backend", BACKENDS)
def test_T34_a_stalled_body_times_out(backend, monkeypatch):
    monkeypatch.setattr(signed_http, "STALL_TIMEOUT", 0.3)
    over = threading.Event()
    whole = answer(200, b"0123456789" * 1000, ETag='"e"')
    with scripted(backend, whole[:-10], hang=over) as (store, _):
        with pytest.raises(StorageUnavailable), store.open("files/x") as reader:
            reader.read()
        over.set()


@pytest.mark.parametrize("backend", BACKENDS)
def test_T103_a_hanging_bucket_is_unavailable(backend, monkeypatch):
    monkeypatch.setattr(signed_http, "STALL_TIMEOUT", 0.2)
    over = threading.Event()
    with scripted(backend, b"", hang=over) as (store, _):
        with pytest.raises(OutcomeUnknown):
            ONCE["put if absent"](store)
        over.set()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_ignored_range_raises(backend):
    with scripted(backend, answer(200, b"0123456789", ETag='"e"')) as (store, _):
        with pytest.raises(StorageUnavailable), store.open("files/x", byte_range=ByteRange(2, 3)):
            pass


def test_an_unknown_backend_prevents_the_start():
    with pytest.raises(ValueError, match="s3, minio"):
        open_store(replace(settings("s3", 1), backend="memroy"))


def test_T140_the_repr_of_store_settings_has_no_secret():
    assert "secret" not in repr(settings("s3", 1)).replace("secret_key", "")


@pytest.mark.parametrize(("backend", "other"), [("s3", "minio"), ("minio", "boto3")])
def test_only_the_sdk_in_use_is_loaded(backend, other):
    program = f"""
import sys
from storage_backends import StorageSettings, open_store
open_store(StorageSettings({backend!r}, "http://h", "http://h", "r", "b", "k", "s"))
assert {other!r} not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("backend", BACKENDS)
def test_observers_are_called_for_every_request(backend):
    heard: list[tuple[str, str]] = []
    script = Script(answer(200, ETag='"e"'), problem(404, "NoSuchUpload"))
    store = open_store(
        settings(backend, script.port), observe=lambda call: heard.append((call.operation, call.outcome))
    )
    CALLS["put"](store)
    with pytest.raises(UploadNotFound):
        CALLS["list_parts"](store)
    script.close()
    assert heard == [("put", "ok"), ("list_parts", "UploadNotFound")]
