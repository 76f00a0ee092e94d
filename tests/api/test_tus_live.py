"""Resumable uploads through the real server, over connections that break, stall and compete."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest

from core.parts import PART_SIZE
from core.principal import Principal
from db import resumable
from services import Services
from settings import Settings
from tests.client import GatewayClient
from tests.conftest import NOTHING, Leftovers
from tests.live import Live
from tests.tus import MIB, TUS, begin, offset, patch, path, random_bytes

SILENT = 3.0  # seconds: the timeout of a stalled body in these tests
SHORT = f"import api.tus_body; api.tus_body.SILENCE, api.tus_body.TELL_AFTER = {SILENT}, 0.0"


@pytest.fixture
def live(settings: Settings, services: Services, tmp_path: Path) -> Iterator[Live]:
    server = Live(settings, tmp_path / "server.log", first=SHORT)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def user(live: Live, services: Services) -> GatewayClient:
    return GatewayClient(live.address, services.keys.create_key("alice")[1])


def open_patch(live: Live, user: GatewayClient, where: str, at: int, length: int | None) -> socket.socket:
    """A PATCH whose head is sent, and whose body the test sends; chunked if the length is None."""
    client = socket.create_connection(("127.0.0.1", live.port), 30)
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    client.sendall(
        (
            f"PATCH {where} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {user.key}\r\nTus-Resumable: 1.0.0\r\n"
            f"Content-Type: application/offset+octet-stream\r\nUpload-Offset: {at}\r\n{framing}\r\n\r\n"
        ).encode()
    )
    return client


def answer_of(client: socket.socket) -> bytes:
    client.settimeout(60)
    data = b""
    with client, contextlib.suppress(OSError):
        while b"\r\n\r\n" not in data and (piece := client.recv(65536)):
            data += piece
    return data


def arrived(live: Live, services: Services, where: str, client: socket.socket) -> None:
    """Wait until a request is the upload's writer and has read all that ``client`` sent. A request for the upload's offset ends
    the writer, and bytes that are still in transit may then be lost."""
    upload_id, ours = UUID(where.rpartition("/")[2]), client.getsockname()[1]
    deadline = time.monotonic() + 60
    while unread(live.port, ours) != 0 or not writing(services, upload_id):
        assert time.monotonic() < deadline, "what was sent was not read"
        time.sleep(0.01)


def unread(port: int, client_port: int) -> int | None:
    """Bytes that the kernel buffers for the server's end of a connection (proc_pid_net(5)); None if there is none."""
    connections = Path("/proc/net/tcp")
    if not connections.exists():  # not Linux: this is usually long enough
        time.sleep(0.7)
        return 0
    for line in connections.read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if (int(local.partition(":")[2], 16), int(remote.partition(":")[2], 16)) == (port, client_port):
            return int(queues.partition(":")[2], 16)
    return None


def writing(services: Services, upload_id: UUID) -> bool:
    with services.db.connection() as tx:
        record = resumable.get(tx, upload_id)
    return record is not None and record.leased


def path_of(address: str) -> str:
    return urlsplit(address).path


def finished(user: GatewayClient, services: Services, bucket: Any, where: str, data: bytes) -> None:
    """Continue from the gateway's offset; the result must be the data."""
    at = offset(user, where)
    done = patch(user, where, at, data[at:]) if at < len(data) else user.head(where, headers=TUS)
    file_id = UUID(done.headers["Upload-File-Id"])
    services.verification.check(file_id)
    file = services.files.get(Principal("alice"), file_id)
    assert file.status == "ready", file.problem
    with bucket.open(file.file_path) as reader:
        assert reader.read(-1) == data


def test_T53_a_cut_connection_loses_no_received_byte(
    live: Live, user: GatewayClient, services: Services, bucket: Any, leftovers: Leftovers
) -> None:
    data = random_bytes(19 * MIB)
    ends: list[Callable[[socket.socket], None]] = [
        lambda client: client.shutdown(socket.SHUT_WR),
        lambda client: client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"),  # a reset
    ]
    for number, cut in enumerate((1, 65_537, 3_333_333, 5 * MIB, 8 * MIB, 8 * MIB + 1, 17 * MIB + 12_345)):
        for chunked in (False, True) if cut in (3_333_333, 8 * MIB + 1) else (False,):
            where = path(begin(user, len(data)))
            client = open_patch(live, user, where, 0, None if chunked else len(data))
            client.sendall(b"%x\r\n" % len(data) + data[:cut] if chunked else data[:cut])
            if number % 2:  # a reset discards bytes that the server has not read
                arrived(live, services, where, client)
            ends[number % 2](client)
            client.close() if number % 2 else answer_of(client)
            assert offset(user, where) == cut, (cut, chunked)
            finished(user, services, bucket, where, data)
    assert leftovers() == NOTHING


def test_T53_acknowledged_bytes_survive_a_killed_server(
    live: Live, user: GatewayClient, services: Services, bucket: Any, leftovers: Leftovers
) -> None:
    data = random_bytes(21 * MIB)
    where = path(begin(user, len(data)))
    assert patch(user, where, 0, data[:3000]).status == 204
    user = live.restarted(user)
    assert offset(user, where) == 3000
    for pause in (0.05, 0.3):
        at = offset(user, where)
        with open_patch(live, user, where, at, len(data) - at) as client:
            client.sendall(data[at : at + 9 * MIB])
            time.sleep(pause)
            user = live.restarted(user)
        stands = offset(user, where)  # the dead writer's lease expires by itself
        assert at <= stands <= at + 9 * MIB
    finished(user, services, bucket, where, data)
    services.janitor.run()
    assert leftovers() == NOTHING


def test_T54_a_new_request_takes_over_and_no_byte_is_lost_or_mixed(
    live: Live, user: GatewayClient, services: Services, bucket: Any, leftovers: Leftovers
) -> None:
    data = random_bytes(20 * MIB)
    where = path(begin(user, len(data)))
    first = open_patch(live, user, where, 0, len(data))
    first.sendall(data[: 9 * MIB + 77])  # then the client loses its network
    arrived(live, services, where, first)
    assert offset(user, where) == 9 * MIB + 77
    assert b" 423 " in answer_of(first).split(b"\r\n")[0]
    # of concurrent requests at the same offset one proceeds
    at = 9 * MIB + 77
    answers = []
    writers = [
        threading.Thread(target=lambda: answers.append(patch(user, where, at, data[at:]).status)) for _ in range(3)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert set(answers) <= {204, 409, 423, 400}, answers
    finished(user, services, bucket, where, data)
    assert leftovers() == NOTHING


def test_T55_a_stalled_body_times_out_and_keeps_its_bytes(live: Live, user: GatewayClient, services: Services) -> None:
    data = random_bytes(40_000)
    where = path(begin(user, len(data)))
    client = open_patch(live, user, where, 0, len(data))
    client.sendall(data[:33_333])
    started = time.monotonic()
    status = answer_of(client).split(b"\r\n")[0]
    assert b" 400 " in status and SILENT - 1 < time.monotonic() - started < 5 * SILENT
    assert services.resumable is not None
    upload_id = UUID(where.rpartition("/")[2])
    assert services.resumable.find(Principal("alice"), upload_id).offset == 33_333
    dripping = open_patch(live, user, where, 33_333, len(data) - 33_333)  # slow, not stalled, but it yields
    dripping.sendall(data[33_333:33_334])
    arrived(live, services, where, dripping)
    assert offset(user, where) == 33_334
    assert b" 423 " in answer_of(dripping).split(b"\r\n")[0]


def test_an_interim_response_has_the_location_before_the_body(
    live: Live, user: GatewayClient, services: Services, bucket: Any
) -> None:
    def begun(version: str, *more: str) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", live.port), 30)
        fields = [
            "POST /api/tus HTTP/1.1",
            "Host: x",
            f"Authorization: Bearer {user.key}",
            "Upload-Complete: ?1",
            f"Upload-Draft-Interop-Version: {version}",
            "Content-Length: 11",
            *more,
        ]
        client.sendall(("\r\n".join(fields) + "\r\n\r\n").encode())
        return client

    for version in ("3", "6", "9"):
        client = begun(version)
        head = client.recv(65536).decode().split("\r\n")
        assert head[0] == "HTTP/1.1 104 Upload Resumption Supported"
        told = dict(line.split(": ", 1) for line in head[1:] if line)
        assert told["Upload-Draft-Interop-Version"] == version and "max-size=" in told["Upload-Limit"]
        where = path_of(told["Location"])
        if version == "6":  # the network fails after five bytes; the client has only the interim response
            client.sendall(b"hello")
            client.close()
            at = user.head(where, headers={"Upload-Draft-Interop-Version": version}).headers["Upload-Offset"]
            assert at == "5"
            sent = {
                "Upload-Draft-Interop-Version": version,
                "Upload-Offset": at,
                "Upload-Complete": "?1",
                "Content-Type": "application/partial-upload",
            }
            done = user.patch(where, data=b" world", headers=sent)
            assert done.status == 204 and done.headers["Upload-File-Id"]
        else:
            client.sendall(b"hello world")
            final = answer_of(client).decode()
            assert final.startswith("HTTP/1.1 201 ") and where in final
    for version, more in (("2", ()), ("10", ()), ("8", ("Via: 1.1 proxy",)), ("8", ("X-Forwarded-For: 192.0.2.1",))):
        client = begun(version, *more)
        client.sendall(b"hello world")
        assert answer_of(client).startswith(b"HTTP/1.1 201 ")


def test_interim_responses_tell_what_is_stored(live: Live, user: GatewayClient) -> None:
    """After each part that the bucket has; none to clients of other versions."""
    length = 3 * PART_SIZE + 5

    def send(method: str, where: str, version: str) -> list[bytes]:
        fields = [f"{method} {where} HTTP/1.1", "Host: x", f"Authorization: Bearer {user.key}", "Upload-Complete: ?1"]
        fields += ["Upload-Offset: 0", f"Content-Length: {length}", f"Upload-Draft-Interop-Version: {version}"]
        fields += ["Content-Type: application/partial-upload", "Connection: close"]
        client = socket.create_connection(("127.0.0.1", live.port), 60)
        client.sendall(("\r\n".join(fields) + "\r\n\r\n").encode() + random_bytes(length))
        with client, client.makefile("rb") as answers:
            return answers.read().split(b"HTTP/1.1 ")[1:]

    first, *told, final = send("POST", "/api/tus", "9")
    assert first.startswith(b"104 ") and b"\r\nLocation: " in first and final.startswith(b"201 ")
    begun = user.post("/api/tus", headers={"Upload-Draft-Interop-Version": "9", "Upload-Complete": "?0"})
    *told_again, final = send("PATCH", path(begun), "9")
    assert final.startswith(b"204 ")
    lines = ["Upload-Draft-Interop-Version: 9", "Upload-Offset: {}"]
    expected = [
        "\r\n".join(["104 Upload Resumption Supported", *lines]).format(number * PART_SIZE) + "\r\n\r\n"
        for number in (1, 2, 3)
    ]
    assert [answer.decode() for answer in told] == [answer.decode() for answer in told_again] == expected
    assert [answer[:4] for answer in send("POST", "/api/tus", "10")] == [b"201 "]
