"""The nginx configuration, tested with a real nginx in front of a test server."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.security_headers import SECURITY_HEADERS
from tests.servers import nginx

TIMEOUT = 60


class Upstream(socketserver.ThreadingTCPServer):
    """A server in place of the gateway; it records the bytes that arrive."""

    daemon_threads = allow_reuse_address = True

    def __init__(self) -> None:
        self.received, self.arrived = bytearray(), threading.Condition()
        super().__init__(("127.0.0.1", 0), Answers)

    def wait_for(self, text: bytes) -> None:
        with self.arrived:
            assert self.arrived.wait_for(lambda: text in self.received, timeout=TIMEOUT), bytes(self.received[:2000])


class Answers(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, Upstream)
        while data := self.request.recv(65536):
            with server.arrived:
                server.received += data
                server.arrived.notify_all()
            if data.endswith(b"0\r\n\r\n"):
                self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[tuple[int, Upstream]]:
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(Upstream())
        thread = threading.Thread(target=upstream.serve_forever)
        thread.start()
        stack.callback(thread.join)
        stack.callback(upstream.shutdown)
        try:
            port = stack.enter_context(nginx(tmp_path, upstream.server_address[1]))
        except FileNotFoundError as error:
            if os.environ.get("GATEWAY_TESTS_STRICT") == "1":
                raise
            pytest.skip(str(error))
        yield port, upstream


def test_bodies_are_passed_on_unbuffered(proxy: tuple[int, Upstream]) -> None:
    port, upstream = proxy
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as client:
        client.sendall(
            b"PUT /api/upload/x HTTP/1.1\r\nHost: files.test:8080\r\nX-Forwarded-For: 6.6.6.6\r\n"
            b"X-Forwarded-Proto: https\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"
        )
        upstream.wait_for(b"first")  # before the rest was sent
        piece = b"10000\r\n" + bytes(65536) + b"\r\n"
        for _ in range(48):  # 3 MiB, above nginx's own limit for a body
            client.sendall(piece)
        client.sendall(b"4\r\nlast\r\n0\r\n\r\n")
        upstream.wait_for(b"last")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
    head = bytes(upstream.received).partition(b"\r\n\r\n")[0].decode()
    assert "X-Forwarded-For: 127.0.0.1\r\n" in head
    assert "6.6.6.6" not in head
    assert "X-Forwarded-Proto: http\r\n" in head
    assert "Host: files.test:8080" in head


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("My-request_1.2", True),
        ("a" * 128, True),
        ("a" * 129, False),
        ("short", False),
        ('a"b\\c{d}efgh', False),
        ("a b c d e f", False),
        (None, False),
    ],
)
def test_T25_a_request_has_one_id_in_the_log_and_for_the_gateway(
    proxy: tuple[int, Upstream], tmp_path: Path, given: str | None, kept: bool
) -> None:
    port, upstream = proxy
    header = b"" if given is None else b"X-Request-ID: " + given.encode() + b"\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as client:
        client.sendall(b"PUT /api/upload/SECRET HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n")
        client.sendall(header + b"\r\n0\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
    [passed] = re.findall(rb"X-Request-ID: (.*)\r\n", bytes(upstream.received))
    assert (passed.decode() == given) is kept
    assert re.fullmatch(rb"[A-Za-z0-9._-]{8,128}", passed)
    deadline = time.monotonic() + TIMEOUT
    while not (log := (tmp_path / "nginx.log").read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    line = json.loads(log)
    assert (line["event"], line["status"], line["request_id"]) == ("proxied", 200, passed.decode())
    assert "SECRET" not in log


LINK = b"/d/SECRET"
LONG = b"x" * 40_000
REFUSED = {
    b"GET " + LINK + b" HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n": (400, "invalid_input"),
    b"GET " + LINK + b" HTTP/3.0\r\nHost: a\r\n\r\n": (400, "invalid_input"),
    b"GET " + LINK + b" HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: other\r\n\r\n": (400, "invalid_input"),
    b"GET " + LINK + b"/%00/../../.. HTTP/1.1\r\nHost: a\r\n\r\n": (400, "invalid_input"),
    b"SECRET\0\r\n\r\n": (400, "invalid_input"),
    b"TRACE " + LINK + b" HTTP/1.1\r\nHost: a\r\n\r\n": (405, "method_not_allowed"),
    b"GET /problem HTTP/1.1\r\nHost: a\r\nX-A: SECRET\r\n\r\n": (404, "not_found"),
    b"GET " + LINK + LONG + b" HTTP/1.1\r\nHost: a\r\n\r\n": (414, "uri_too_long"),
    b"GET " + LINK + b" HTTP/1.1\r\nHost: a\r\nX-A: " + LONG + b"\r\n\r\n": (431, "headers_too_large"),
    b"GET " + LINK + b" HTTP/1.1\r\nHost: a\r\n\r\n": (503, "unavailable"),  # the gateway is down
}


def test_T140_errors_of_nginx_are_problem_documents_and_its_log_has_no_paths(
    proxy: tuple[int, Upstream], tmp_path: Path
) -> None:
    port, upstream = proxy
    upstream.server_close()
    answered = set()
    for request, (status, code) in REFUSED.items():
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as client:
            client.sendall(request)
            answer = http.client.HTTPResponse(client)
            answer.begin()
            problem = json.loads(answer.read())
        assert (answer.status, problem["status"], problem["code"]) == (status, status, code), request[:80]
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert problem["request_id"] == answer.headers["X-Request-ID"]
        assert (answer.headers["Retry-After"] is None) is (status != 503)
        assert answer.headers["Server"] == "nginx"
        for name, value in SECURITY_HEADERS:
            assert answer.headers[name] == value
        answered.add((status, problem["request_id"]))
    deadline = time.monotonic() + TIMEOUT
    while (log := (tmp_path / "nginx.log").read_text()).count("\n") < len(answered) and time.monotonic() < deadline:
        time.sleep(0.02)  # nginx logs a request when its connection is closed
    assert {(line["status"], line["request_id"]) for line in map(json.loads, log.splitlines())} == answered
    assert "SECRET" not in log
