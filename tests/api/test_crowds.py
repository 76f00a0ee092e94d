"""500 concurrent connections that are slow or idle, and their effect on another caller."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flask import Flask

from core.principal import Principal
from services import Services
from settings import Settings
from tests.client import GatewayClient
from tests.compressed_files import compressed, text
from tests.live import Live
from tests.servers import nginx
from tests.tus import begin, path
from web_clients import health_response, is_health_check

CROWD = 500
ANSWER_TIME = 5.0  # seconds: five times the limit for a response
LARGE = 12 * 1024 * 1024  # bytes: more than the kernel buffers for a client that does not read
SHORT_LIMITS = """
import api.tus_body, web_clients, web_server
web_clients.BODY_SILENCE = web_clients.BODY_WINDOW = api.tus_body.SILENCE = 6.0
web_server.SEND_WINDOW = web_server.HEAD_SECONDS = 6.0
web_server.SLOT_SECONDS = 3.0
"""


def crowd(port: int, request: bytes, count: int = CROWD) -> list[socket.socket]:
    """Connections that send the request and then neither send nor read."""
    clients = []
    for _ in range(count):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect(("127.0.0.1", port))
        client.sendall(request)
        clients.append(client)
    return clients


def head(method: str, path: str, *fields: str, key: str | None = None) -> bytes:
    credential = [] if key is None else [f"Authorization: Bearer {key}"]
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *credential, *fields, "", ""]).encode()


def attacks(services: Services, user: GatewayClient) -> dict[str, bytes]:
    """What each connection sends."""
    alice = Principal("alice")
    public = user.add("public.bin", b"\x93\x01\x02" + os.urandom(LARGE), visibility="public")["id"]
    link = services.delivery.url(None, compressed(services, alice, text(LARGE), visibility="public").id)
    json, form = "Content-Type: application/json", "Content-Type: multipart/form-data; boundary=x"
    sized, chunked = "Content-Length: 500000", "Transfer-Encoding: chunked"
    tus = ("Tus-Resumable: 1.0.0", "Content-Type: application/offset+octet-stream", "Upload-Length: 500000")
    key = user.key
    return {
        # Downloads first: they are ended last, while the others take their turns.
        "public downloads": head("GET", f"/api/files/{public}/download?mode=proxy"),
        "signed downloads": head("GET", f"/d/{link.token}"),  # type: ignore[union-attr]
        "ZIPs": head("GET", f"/api/files/archive?ids={public}", key=key),
        "heads": head("GET", "/api/files")[:-4],
        "anonymous bodies": head("POST", "/api/upload", form, sized),
        "anonymous bodies, chunked": head("PUT", "/api/upload/a.txt", chunked),
        "JSON": head("POST", "/api/folders", json, sized, key=key) + b'{"name":',
        "JSON, chunked": head("POST", "/api/folders", json, chunked, key=key) + b'8\r\n{"name":\r\n',
        "JSON that was to continue": head("POST", "/api/folders", json, sized, "Expect: 100-continue", key=key),
        "raw uploads": head("PUT", "/api/upload/a.txt", sized, key=key) + b"begun",
        "forms": head("POST", "/api/upload", form, sized, key=key) + b"--x\r\n",
        "resumable uploads": head("POST", "/api/tus", *tus, sized, key=key) + b"begun",
    }


@pytest.fixture
def live(settings: Settings, services: Services, tmp_path: Path) -> Iterator[Live]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    server = Live(settings, tmp_path / "server.log", first=SHORT_LIMITS, WEB_THREADS="32")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def user(live: Live, services: Services) -> GatewayClient:
    return GatewayClient(live.address, services.keys.create_key("alice")[1])


def ask(port: int, request: bytes) -> bytes:
    """The entire response; TimeoutError if it takes too long."""
    with socket.create_connection(("127.0.0.1", port), ANSWER_TIME) as client:
        client.sendall(request)
        received = b""
        while piece := client.recv(65536):
            received += piece
    return received


@pytest.mark.timeout(300)
def test_T133_no_attack_delays_health_checks_and_short_requests(
    live: Live, services: Services, user: GatewayClient, tmp_path: Path
) -> None:
    other = services.keys.create_key("bob")[1]
    left = {}
    with contextlib.ExitStack() as sockets:
        proxy = sockets.enter_context(nginx(tmp_path, live.port))
        for kind, request in attacks(services, user).items():
            clients = [*crowd(live.port, request), *crowd(proxy, request)]
            for client in clients:
                sockets.enter_context(client)
            for port in (live.port, proxy) * 2:
                assert ask(port, head("GET", "/healthz", "Connection: close")).startswith(b"HTTP/1.1 200"), kind
                answer = ask(port, head("GET", "/api/files", "Connection: close", key=other))
                assert answer.startswith(b"HTTP/1.1 200"), kind
            left[kind] = clients[:CROWD:50]  # the proxy's own limits are longer
            for client in set(clients).difference(left[kind]):
                client.close()
        for kind, clients in left.items():
            for client in clients:
                assert hung_up(client, seconds=60), f"{kind}: still connected"


def test_server_and_application_give_the_same_health_response(anonymous: GatewayClient) -> None:
    request = bytearray(head("GET", "/healthz", "X-Request-ID: monitor-1"))
    assert is_health_check(request)
    start, _, body = health_response(request).partition(b"\r\n\r\n")
    told = anonymous.get("/healthz", headers={"X-Request-ID": "monitor-1"})
    fields = dict(line.split(": ", 1) for line in start.decode().splitlines()[1:])
    assert (fields.pop("Connection"), fields.pop("Content-Length")) == ("close", str(len(body)))
    assert fields.items() <= dict(told.headers).items()
    assert body == told.body


def hung_up(client: socket.socket, *, seconds: float) -> bool:
    """Wait until the server has closed the connection, without reading what it sent."""
    wait = select.poll()
    wait.register(client, select.POLLRDHUP)
    return bool(wait.poll(seconds * 1000))


def test_T7_bodies_in_flight_are_limited_per_owner(settings: Settings, services: Services, tmp_path: Path) -> None:
    first = "import web_server; web_server.SLOT_SECONDS = 2.0"
    server = Live(settings, tmp_path / "log", first=first, WEB_WORKERS="1", WEB_THREADS="4", MAX_BODIES_IN_FLIGHT="2")
    with contextlib.ExitStack() as sockets:
        sockets.callback(server.kill)
        server.start()
        key = services.keys.create_key("alice")[1]
        alice, bob = (GatewayClient(server.address, k) for k in (key, services.keys.create_key("bob")[1]))
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda n: alice.as_(key).put(f"/api/upload/{n}.txt", data=b"x").status, range(6)))
        assert answers == [201] * 6
        slow = [head("PUT", f"/api/upload/slow{n}.txt", "Content-Length: 2", key=key) + b"a" for n in range(8)]
        clients = [sockets.enter_context(crowd(server.port, request, 1)[0]) for request in slow]
        third = alice.put("/api/upload/third.txt", data=b"c")
        assert (third.status, third.code) == (429, "rate_limited")
        assert int(third.headers["Retry-After"]) >= 1
        assert bob.put("/api/upload/theirs.txt", data=b"c").status == 201
        assert alice.get("/api/files").status == 200
        statuses = []
        for client in clients:
            with contextlib.suppress(ConnectionError):
                client.sendall(b"b")
                statuses.append(int(client.recv(4096).split()[1]))
        assert sorted(statuses)[:2] == [201, 201]
        assert set(statuses[2:]) <= {201, 429}
        assert alice.put("/api/upload/third.txt", data=b"c").status == 201


MALFORMED = {
    "no size": b"\r\n",
    "a negative size": b"-1\r\na\r\n0\r\n\r\n",
    "a size in C's notation": b"0x1\r\na\r\n0\r\n\r\n",
    "a size with a blank": b"1 1\r\na\r\n0\r\n\r\n",
    "a size beyond all numbers": b"f" * 5000 + b"\r\na\r\n0\r\n\r\n",
    "a size line without end": b"0" * 9000,
    "a bad extension": b"1;=\r\na\r\n0\r\n\r\n",
    "a bare CR in an extension": b"1;a\rb\r\na\r\n0\r\n\r\n",
    "a chunk longer than its size": b"1\r\nabc\r\n0\r\n\r\n",
    "no line break behind a chunk": b"1\r\na0\r\n\r\n",
    "a trailer that is none": b"1\r\na\r\n0\r\nno colon\r\n\r\n",
    "a trailer with a bad name": b"1\r\na\r\n0\r\na b: c\r\n\r\n",
    "a bare LF in the trailers": b"1\r\na\r\n0\r\na: b\n\r\n\r\n",
    "too many trailers": b"1\r\na\r\n0\r\n" + b"a: b\r\n" * 300 + b"\r\n",
    "a cut chunk": b"5\r\na",
    "no last chunk": b"1\r\na\r\n",
    "cut trailers": b"1\r\na\r\n0\r\na: b\r\n",
}


def requests_of_every_route(app: Flask, known: dict[str, str]) -> Iterator[tuple[bytes, set[int]]]:
    """Heads of requests with a chunked body, and the statuses expected if the body is read and malformed."""
    for rule in app.url_map.iter_rules():
        operation = getattr(app.view_functions[rule.endpoint], "operation", None)
        streams, body = getattr(operation, "streams", None), getattr(operation, "body", None)
        where = re.sub(r"<(?:\w+:)?(\w+)>", lambda name: known.get(name[1], "1"), rule.rule)
        takes = next(iter(streams["content"])) if streams else "application/json"
        fields = [f"Content-Type: {takes}" + ("; boundary=x" if "multipart" in takes else "")]
        if "/tus" in where:
            fields += ["Tus-Resumable: 1.0.0", "Upload-Offset: 0", "X-HTTP-Method-Override: PATCH"]
        if where.endswith("/tus"):
            fields[-1] = "Upload-Length: 500"
        for method in sorted(rule.methods or ()):
            statuses = {400} if (streams or body) and method not in ("OPTIONS", "HEAD") else set()
            if where.startswith("/s3/objects/") and statuses:  # nothing was signed
                statuses = {404}
            elif "/tus/" in where and statuses:  # the second one finds the bytes before the first one's fault
                statuses = {400, 409}
            yield (head(method, where, "Transfer-Encoding: chunked", *fields, key=known["credential"]), statuses)


def test_T138_malformed_chunks_and_trailers_are_400_on_every_route(
    app: Flask, settings: Settings, services: Services, tmp_path: Path
) -> None:
    log = tmp_path / "server.log"
    server = Live(settings, log, WEB_WORKERS="1", RATE_LIMITS="off")
    with contextlib.ExitStack() as stack:
        stack.callback(server.kill)
        server.start()
        admin = GatewayClient(server.address, services.keys.create_key("root", role="admin")[1])
        for kind, body in MALFORMED.items():
            known = {"credential": str(admin.key), "filename": "a.txt", "file_id": admin.add()["id"]}
            known["upload_id"] = path(begin(admin, 500)).rpartition("/")[2]
            every = sorted(requests_of_every_route(app, known), key=lambda one: one[0].startswith(b"DELETE"))
            for request, expected in every:
                with socket.create_connection(("127.0.0.1", server.port), 60) as client:
                    client.sendall(request + body)
                    client.shutdown(socket.SHUT_WR)
                    answer = b""
                    with contextlib.suppress(ConnectionResetError):
                        while piece := client.recv(65536):
                            answer += piece
                assert answer.count(b"HTTP/1.1 ") == 1, (kind, request, answer)
                status = int(answer.split()[1])
                assert status < 500, (kind, request, answer)
                assert not expected or status in expected, (kind, request, answer)
        assert ask(server.port, head("GET", "/healthz")).startswith(b"HTTP/1.1 200")
        assert b"Traceback" not in log.read_bytes()
