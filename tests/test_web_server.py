"""The HTTP server with real sockets: slow, silent and hostile clients, and a graceful stop (T17, T55, T109, T110).

Each server runs in its own process with few threads and short limits, so that 20 bad clients are more than it has threads."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT

THREADS = 4  # as in the script below
SCRIPT = """
import hashlib, pathlib, sys, time
import web_clients, web_server
from flask import Flask, Response, request
from settings import Settings

port, record, limits = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:]
for limit in limits:
    name, _, value = limit.partition("=")
    [module] = [module for module in (web_clients, web_server) if hasattr(module, name)]
    setattr(module, name, float(value))

def create_app():
    app = Flask("probe")

    @app.get("/hello")
    def hello():
        return {"hello": "world"}

    @app.post("/read")
    def read():
        stream, received = request.environ["wsgi.input"], 0
        try:
            while chunk := getattr(stream, request.args.get("by", "read"))(1024):
                received += len(chunk)
        except OSError as error:
            reader = stream.reader
            rest = stream.buf.getvalue()
            rest += reader.buf.getvalue() if hasattr(reader, "buf") else reader.unreader.take_buffered()
            with record.open("a") as file:
                file.write(f"{type(error).__name__} {received + len(rest)}\\n")
            raise
        return {"received": received}

    @app.post("/refuse")
    def refuse():
        return {"refused": True}, 413

    @app.get("/slow")
    def slow():
        with record.open("a") as file:
            file.write("slow\\n")
        time.sleep(float(request.args["seconds"]))
        return {"slept": True}

    @app.get("/place")
    def place():
        if not request.environ["gateway.connection"].acquire_slot("body", "an address", None):
            return {"place": False}, 429
        return slow()

    @app.get("/endless")
    def endless():
        return Response(bytes(262144) for _ in range(4096))

    @app.get("/large")
    def large():
        return Response(bytes(20_000_000))

    @app.get("/broken")
    def broken():
        def pieces():
            yield bytes(262144)
            raise ConnectionError("the bucket went away")

        length = {"Content-Length": "1000000"} if request.args["kind"] == "length" else {}
        return Response(pieces(), headers=length)

    return app

settings = Settings(_env_file=None, host="127.0.0.1", port=port, web_workers=1, web_threads=4)
web_server.run(create_app, settings)
"""


class Running:
    def __init__(self, process: subprocess.Popen[bytes], port: int, record: Path, home: Path):
        self.process, self.port, self.record, self.home = process, port, record, home
        self.seen = 0

    def connect(self, data: bytes = b"", *, timeout: float = 30) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        client.sendall(data)
        return client

    def ask(self, path: str = "/hello", *, timeout: float = 30) -> tuple[int, dict[str, object]]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def logged(self, count: int) -> list[dict[str, Any]]:
        """The next lines of the access log, once there are so many."""
        deadline = time.monotonic() + 10
        while True:
            lines = [json.loads(line) for line in (self.home / "log").read_text().splitlines() if '"request"' in line]
            if len(lines) >= self.seen + count or time.monotonic() > deadline:
                self.seen, found = len(lines), lines[self.seen :]
                return found
            time.sleep(0.02)

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                self.ask(timeout=5)
                return
            except OSError:
                assert self.process.poll() is None, "the server ended"
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.05)


@contextlib.contextmanager
def serving(tmp_path: Path, **limits: float) -> Iterator[Running]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script, record, home = tmp_path / "serve.py", tmp_path / "record", tmp_path / "home"
    script.write_text(SCRIPT)
    record.touch()
    home.mkdir()
    (home / "gunicorn.conf.py").write_text("raise SystemExit('a stray gunicorn.conf.py was read')")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(home), "GUNICORN_CMD_ARGS": "--workers 7"}
    command = [sys.executable, str(script), str(port), str(record), *(f"{name}={n}" for name, n in limits.items())]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environ, cwd=home, stderr=log)
    running = Running(process, port, record, home)
    try:
        running.wait_until_it_answers()
        yield running
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with short limits, for tests that leave it unchanged."""
    limits = {"HEAD_SECONDS": 2, "BODY_SILENCE": 2, "BODY_WINDOW": 2, "SEND_WINDOW": 2, "LINGER_SECONDS": 0.2}
    with serving(tmp_path_factory.mktemp("server"), **limits) as running:
        yield running


def everything(client: socket.socket) -> bytes:
    """All bytes until the server closes or resets the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(65536):
            received += data
    return received


def one_problem(received: bytes, *statuses: int) -> dict[str, object]:
    """The single answer in ``received``, which must be problem+json with its request id in the header."""
    head, _, body = received.partition(b"\r\n\r\n")
    assert received.count(b"HTTP/1.1 ") == 1, received
    document = json.loads(body)
    assert document["status"] in statuses
    assert int(head.split()[1]) == document["status"]
    assert b"Content-Type: application/problem+json" in head
    assert f"X-Request-ID: {document['request_id']}".encode() in head
    assert document["title"]
    assert document["detail"]
    assert re.fullmatch("[a-z_]+", document["code"])
    return document


@pytest.mark.parametrize("by", ["read", "read1"])
def test_pipelined_requests_are_answered_in_order(server: Running, by: str) -> None:
    request = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
    with server.connect(request + request) as client:
        received = b""
        while received.count(b'{"hello":"world"}') < 2:
            received += client.recv(65536)
        client.sendall(b"POST /read?by=%b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel" % by.encode())
        time.sleep(0.2)
        client.sendall(b"lo" + request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        received = everything(client)
    assert b'{"received":5}' in received
    assert received.count(b'{"hello":"world"}') == 1


def test_a_head_sent_byte_by_byte_is_read(server: Running) -> None:
    with server.connect() as client:
        for byte in b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":
            client.sendall(bytes([byte]))
        assert b'{"hello":"world"}' in everything(client)


def test_an_unread_body_does_not_hide_the_answer_from_the_client(server: Running) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    with contextlib.suppress(ConnectionError):
        connection.request("POST", "/refuse", body=bytes(200_000))
    assert connection.getresponse().status == 413
    connection.close()


def test_T133_unread_bodies_hold_no_thread(server: Running) -> None:
    unsent = b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    clients = [server.connect(unsent) for _ in range(40)]
    assert server.ask(timeout=5)[0] == 200
    for client in clients:
        with client:
            received = everything(client)
            assert received.startswith(b"HTTP/1.1 413")
            assert b"Connection: close" in received


def test_an_unread_body_that_has_arrived_does_not_end_the_connection(server: Running) -> None:
    refused = b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    with server.connect(refused + b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as client:
        received = everything(client)
    assert b"HTTP/1.1 413" in received
    assert b'{"hello":"world"}' in received


def test_T133_health_needs_no_thread(server: Running) -> None:
    busy = [server.connect(b"GET /slow?seconds=4 HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(THREADS)]
    for method in (b"GET", b"HEAD"):
        with server.connect(method + b" /healthz HTTP/1.1\r\nHost: x\r\nX-Request-ID: monitor-1\r\n\r\n") as client:
            start, _, body = everything(client).partition(b"\r\n\r\n")
        assert start.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n")
        assert b"X-Request-ID: monitor-1" in start
        assert body == (b'{"status":"ok"}' if method == b"GET" else b"")
    assert not select.select(busy, [], [], 0)[0], "no thread was free yet"
    for client in busy:
        client.close()
    for less_plain in (b"GET /healthz?a=b", b"GET /healthz/", b"GET //healthz", b"POST /healthz"):
        with server.connect(less_plain + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as client:
            assert everything(client).startswith(b"HTTP/1.1 404"), "the test application has no such route"
    with server.connect(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n") as client:
        one_problem(everything(client), 400)


HALF_A_HEAD = b"GET /hello HTTP/1.1\r\nHost: x\r\nX-Slow: "


def test_T110_half_sent_heads_end_with_408(server: Running) -> None:
    for client in [server.connect(HALF_A_HEAD) for _ in range(20)]:
        with client:
            assert one_problem(everything(client), 408)["code"] == "request_timeout"


def test_T110_500_idle_connections_and_half_sent_heads_hold_no_thread(tmp_path: Path) -> None:
    with serving(tmp_path, HEAD_SECONDS=90) as running:
        clients = [running.connect(HALF_A_HEAD if number % 20 == 0 else b"") for number in range(500)]
        for _ in range(10):
            assert running.ask(timeout=60)[0] == 200
        for client in clients:
            client.close()


def test_T110_clients_that_do_not_read_hold_no_thread_and_are_disconnected(server: Running) -> None:
    clients = [server.connect(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(20)]
    for client in clients:
        client.recv(1)
    assert server.ask()[0] == 200
    for client in clients:
        with client:
            hang_up = select.poll()
            hang_up.register(client, 0)
            assert hang_up.poll(30_000), "it is still connected"


def test_T110_a_slow_reader_is_not_disconnected(server: Running) -> None:
    with server.connect(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n") as client:
        until = time.monotonic() + 5  # the server looks every 2 seconds
        while time.monotonic() < until:
            assert client.recv(65536)
            time.sleep(0.1)


def test_T133_unread_responses_are_bounded_in_memory(tmp_path: Path) -> None:
    with serving(tmp_path, UNSENT_BYTES=40_000_000) as running:
        clients = [running.connect(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(6)]
        hang_up = select.poll()
        for client in clients:
            hang_up.register(client, 0)
        assert hang_up.poll(30_000), "all clients are still connected"
        assert len(hang_up.poll(0)) < 6
        for client in clients:
            client.close()


def test_T55_T110_stalled_bodies_are_disconnected_and_their_bytes_kept(server: Running) -> None:
    before = len(server.record.read_text().splitlines())
    stalled = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + bytes(1500)
    clients = [server.connect(stalled) for _ in range(3 * THREADS)]
    assert server.ask(timeout=60)[0] == 200
    for client in clients:
        with client:
            everything(client)
    assert server.record.read_text().splitlines()[before:] == ["ConnectionResetError 1500"] * len(clients)


def test_T55_a_chunked_body_that_stalls_is_closed_too(server: Running) -> None:
    before = len(server.record.read_text().splitlines())
    with server.connect(b"POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n") as client:
        everything(client)
    assert server.record.read_text().splitlines()[before:] == ["ConnectionResetError 3"]


def test_T55_a_trickling_body_is_disconnected_and_a_slow_one_is_not(server: Running) -> None:
    head = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n"

    def trickle(client: socket.socket) -> None:
        for _ in range(300):  # 500 bytes per second; all of it would take 30 seconds
            client.sendall(bytes(50))
            time.sleep(0.1)

    with server.connect(head) as client, pytest.raises(ConnectionError):
        trickle(client)
    with server.connect(head) as client:
        for _ in range(30):  # 20 kB per second, for longer than the window
            client.sendall(bytes(2000))
            time.sleep(0.1)
        client.settimeout(30)
        assert b'{"received":60000}' in client.recv(65536)


SMUGGLED = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /read HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="cl-te"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", id="te-cl"),
        pytest.param(POST + b"Content-Length: -1\r\n\r\n", id="negative"),
        pytest.param(POST + b"Content-Length: +5\r\n\r\nhello", id="plus"),
        pytest.param(POST + b"Content-Length: 5, 5\r\n\r\nhello", id="list"),
        pytest.param(POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", id="two-lengths"),
        pytest.param(POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nhello", id="length-of-5000-digits"),
        pytest.param(POST + b"Content-Length: 0x5\r\n\r\nhello", id="hexadecimal"),
        pytest.param(POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", id="xchunked"),
        pytest.param(POST + b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello", id="identity"),
        pytest.param(POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="gzip"),
        pytest.param(POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", id="chunked-twice"),
        pytest.param(POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", id="chunked-not-last"),
        pytest.param(POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", id="space-before-colon"),
        pytest.param(POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", id="folded"),
        pytest.param(POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="te-in-1.0"),
        pytest.param(POST.replace(b"\r\n", b"\n") + b"Content-Length: 5\n\nhello", id="bare-lf"),
        pytest.param(POST + b"X: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="bare-lf-inside"),
        pytest.param(POST + b"X: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="bare-cr-inside"),
        pytest.param(POST + b"Host: y\r\nContent-Length: 5\r\n\r\nhello", id="two-hosts"),
    ],
)
def test_T17_a_body_of_unclear_length_never_becomes_two_requests(server: Running, request_bytes: bytes) -> None:
    with server.connect(request_bytes + SMUGGLED) as client:
        one_problem(everything(client), 400, 501)


def test_T17_a_bad_chunk_ends_the_connection(server: Running) -> None:
    for bad in (b"-1\r\n", b"0x3\r\nabc\r\n", b"3\r\nabcdef\r\n", b"3 3\r\nabc\r\n", b"\r\n"):
        with server.connect(POST + b"Transfer-Encoding: chunked\r\n\r\n" + bad + b"0\r\n\r\n" + SMUGGLED) as client:
            assert everything(client).count(b"HTTP/1.1 ") <= 1


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\r\n\r\n", 400, "invalid_input", id="tls"),
        pytest.param(b"GET /hello HTTP/9.9\r\nHost: x\r\n\r\n", 400, "invalid_input", id="version"),
        pytest.param(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414, "uri_too_long", id="long-line"),
        pytest.param(b"GET /" + b"a" * 9000, 414, "uri_too_long", id="long-line-without-end"),
        pytest.param(b"GET /hello HTTP/1.1\r\nExpect: magic\r\n\r\n", 417, "expectation_failed", id="expect"),
        pytest.param(b"GET /hello HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431, "headers_too_large", id="field"),
        pytest.param(b"GET /hello HTTP/1.1\r\n" + b"X: a\r\n" * 200 + b"\r\n", 431, "headers_too_large", id="fields"),
        pytest.param(b"GET /hello HTTP/1.1\r\nX: " + b"a" * 70_000, 431, "headers_too_large", id="field-without-end"),
        pytest.param(POST + b"Transfer-Encoding: magic\r\n\r\n", 501, "not_implemented", id="coding"),
    ],
)
def test_errors_of_the_server_itself_are_problem_documents(
    server: Running, request_bytes: bytes, status: int, code: str
) -> None:
    with server.connect(request_bytes) as client:
        assert one_problem(everything(client), status)["code"] == code


def test_a_request_line_of_8190_bytes_passes(server: Running) -> None:
    line = b"GET /hello?" + b"a" * (8190 - len(b"GET /hello? HTTP/1.1")) + b" HTTP/1.1"
    with server.connect(line + b"\r\nHost: x\r\nConnection: close\r\n\r\n") as client:
        assert b'{"hello":"world"}' in everything(client)


def workers(server: Running) -> list[str]:
    command = ["ps", "-o", "pid=", "--ppid", str(server.process.pid)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_connection_resets_end_no_process(server: Running) -> None:
    before = workers(server)
    health, half, long = SMUGGLED.replace(b"hello", b"healthz"), SMUGGLED[:20], b"GET /" + b"a" * 70_000
    for request in (health, half, long, b"GET /\n\r\n", SMUGGLED):
        for _ in range(20):
            with server.connect(request) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert server.ask()[0] == 200
    assert workers(server) == before


def test_no_stray_configuration_and_no_control_socket(server: Running) -> None:
    assert len(workers(server)) == 1, "GUNICORN_CMD_ARGS was read"
    assert not list(server.home.rglob("*.ctl"))


@pytest.mark.parametrize("kind", ["length", "chunked"])
def test_T34_a_stream_broken_midway_is_never_a_clean_short_answer(server: Running, kind: str) -> None:
    """The connection tells the reader of an object, or of a ZIP of unknown length, that it is incomplete."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", f"/broken?kind={kind}")
    answer = connection.getresponse()
    assert answer.status == 200
    with pytest.raises(IncompleteRead):
        answer.read()
    connection.close()


def test_T109_sigterm_finishes_the_request_in_flight_and_accepts_no_new_one(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        with running.connect(), running.connect(b"GET /hello HTTP/1.1\r\n"):  # idle, and half a head
            client = running.connect(b"GET /slow?seconds=4 HTTP/1.1\r\nHost: x\r\n\r\n")
            while running.record.read_text() != "slow\n":
                time.sleep(0.02)
            running.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(ConnectionError):
                while True:  # until the signal takes effect; earlier requests are answered
                    assert running.ask(timeout=60)[0] == 200
            assert not select.select([client], [], [], 0)[0], (
                "new requests are refused only after the one in flight ended"
            )
            with client:
                received = everything(client)
            assert b'{"slept":true}' in received
            assert running.process.wait(15) == 0, "idle connections delayed the stop"


def test_T109_waiting_requests_get_503_when_the_server_stops(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        clients = [running.connect(b"GET /place?seconds=6 HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(8)]
        while running.record.read_text() != "slow\n" * 2:  # half of the slots, since the clients are anonymous
            time.sleep(0.02)
        assert running.ask(timeout=5)[0] == 200, "a thread is reserved for short requests"
        running.process.send_signal(signal.SIGTERM)
        answers: dict[socket.socket, int] = {}
        while len(answers) < len(clients):
            for client in select.select([client for client in clients if client not in answers], [], [], 30)[0]:
                answers[client] = int(client.recv(65536).split()[1])
                client.close()
        assert list(answers.values()) == [429] * 6 + [200] * 2
        assert running.process.wait(15) == 0


def test_T109_a_stopped_server_frees_the_port(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        port = running.port
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


def test_T125_each_request_has_a_line_in_the_access_log_when_it_ends(tmp_path: Path) -> None:
    with serving(tmp_path, HEAD_SECONDS=1, SEND_WINDOW=2) as server:
        server.logged(1)
        hello = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
        with server.connect(hello) as client:
            received = client.recv(65536)
            client.sendall(b"GET /h")  # the next one breaks off
            one_problem(everything(client), 408)
        first, second = server.logged(2)
        assert (first["method"], first["status"], first["address"]) == ("GET", 200, "127.0.0.1")
        assert (first["bytes_received"], first["bytes_sent"]) == (len(hello), len(received))
        assert 0 < first["seconds"] < 5
        assert (second["status"], second["bytes_received"], second["route"]) == (408, 6, None)
        for request, status in {
            b"GET /\x00 HTTP/1.1\r\n\r\n": 400,
            b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n": 431,
            b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n": 200,
        }.items():
            with server.connect(request) as client:
                answer = everything(client)
            [line] = server.logged(1)
            assert line["status"] == status
            assert line["bytes_sent"] == len(answer)
            assert line["request_id"].encode() in answer
        with server.connect(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n") as client:
            client.recv(1000)
            assert server.logged(0) == []  # it has not ended
        [line] = server.logged(1)
        assert line["status"] == 200
        assert 1000 < line["bytes_sent"] < 100_000_000
