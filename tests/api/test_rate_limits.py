"""Rate limits of requests: who is counted, what callers are told, and that nobody pays for another (T74)."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import http_sf
import pytest
from flask import Flask

from api import proxies
from api.openapi import operations
from settings import Settings
from tests.client import Answer, GatewayClient
from tests.live import Live

Clients = Callable[..., GatewayClient]


def said(answer: Answer) -> tuple[str, int, int]:
    """Limit, requests left, seconds left, as the fields say; the policy must be the same limit's."""
    limits: Any = http_sf.parse(answer.headers["RateLimit"].encode(), tltype="list")
    policies: Any = http_sf.parse(answer.headers["RateLimit-Policy"].encode(), tltype="list")
    ((name, left),), ((policy, _),) = limits, policies
    assert name == policy
    return name, left["r"], left["t"]


def token(client: GatewayClient) -> GatewayClient:
    return client.as_(client.post("/api/upload-tokens", json={"owner_id": "alice"}).json["token"])


@pytest.mark.settings(rate_limit_search="2/hour")
def test_T74_a_caller_learns_what_is_left_and_when_to_come_again(client: GatewayClient, other: GatewayClient) -> None:
    first, second, third = (client.get("/api/search?q=a") for _ in range(3))
    assert [answer.status for answer in (first, second, third)] == [200, 200, 429]
    assert [said(answer)[:2] for answer in (first, second, third)] == [("search", 2 - n) for n in (1, 2)] + [
        ("search", 0)
    ]
    assert first.headers["RateLimit-Policy"] == '"search";q=2;w=3600'
    assert third.code == "rate_limited"
    assert 0 < int(third.headers["Retry-After"]) == said(third)[2] <= 3_600
    assert client.get("/api/search/suggest?prefix=a").status == 429, "the same limit"
    assert other.get("/api/search?q=a").status == 200, "another owner's is not touched"
    assert "RateLimit" not in client.get("/api/files").headers, "other requests have no limit"


@pytest.mark.settings(rate_limit_uploads="3/hour")
def test_T74_keys_and_tokens_of_one_owner_share_limits(client_for: Clients, client: GatewayClient) -> None:
    first, second, again = token(client), token(client), client_for("alice")
    sent = [each.put("/api/upload/a.txt", data=b"a").status for each in (first, second, first, second, token(client))]
    assert sent == [201, 201, 201, 429, 429]
    sent = [each.put("/api/upload/a.txt", data=b"a").status for each in (client, again, client, again)]
    assert sent == [201, 201, 201, 429], "what an app's users do does not slow the owner, and two keys count as one"


@pytest.mark.settings(rate_limit_uploads="1/hour")
def test_T74_every_protocol_counts(client_for: Clients, app: Flask) -> None:
    begun = {
        "form": lambda c: c.upload(("a.txt", b"a")),
        "raw": lambda c: c.put("/api/upload/a.txt", data=b"a"),
        "direct": lambda c: c.post("/api/uploads", json={"filename": "a.txt", "size": 1}),
        "tus": lambda c: c.post("/api/tus", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "1"}),
        "ietf": lambda c: c.post("/api/tus", headers={"Upload-Draft-Interop-Version": "8", "Upload-Complete": "?0"}),
        "s3 form": lambda c: c.get("/s3/params?filename=a.txt&type=text/plain"),
        "s3 multipart": lambda c: c.post("/s3/multipart", json={"filename": "a.txt", "type": "text/plain"}),
        "s3 sign": lambda c: c.post("/s3/sign", json={"method": "PUT", "key": "a.txt", "size": 1}),
    }
    for way, begin in begun.items():
        caller = client_for(way)
        assert caller.put("/api/upload/a.txt", data=b"a").status == 201
        refused = begin(caller)
        assert (refused.status, refused.code) == (429, "rate_limited"), way
    beginning = {f"{method} {rule.rule}" for rule, method, operation in operations(app) if operation.limit == "uploads"}
    assert len(beginning) == len(begun)  # tus and ietf share one, and addresses that /s3/sign gives count too


@pytest.mark.settings(rate_limit_uploads="2/hour")
def test_T74_the_plugin_of_s3_is_told_to_slow_down(client: GatewayClient) -> None:
    signed = client.post("/s3/sign", json={"method": "POST", "key": "a.bin", "size": 9_000_000}).json["url"]
    where, plugin = signed.removeprefix("http://gateway.test"), client.as_(None)
    assert [plugin.post(where).status for _ in range(2)] == [200, 200]
    refused = plugin.post(where)
    assert refused.status == 429 and b"<Code>SlowDown</Code>" in refused.body and refused.headers["Retry-After"]
    assert client.put("/api/upload/a.txt", data=b"a").status == 201, "an address is not an owner"


FORGED = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Client-IP", "True-Client-IP", "CF-Connecting-IP")


@pytest.mark.settings(rate_limit_previews="3/hour")
def test_T74_forged_headers_change_nothing(client: GatewayClient, anonymous: GatewayClient) -> None:
    path = f"/api/files/{client.add(visibility='public')['id']}/preview?type=text"
    answers = [
        anonymous.get(path, headers=dict.fromkeys(FORGED, f"{'for=' if name == 'Forwarded' else ''}6.6.6.{n}"))
        for n, name in enumerate(FORGED)
    ]
    assert [answer.status == 429 for answer in answers] == [False] * 3 + [True] * 3
    assert client.get(path).status == 200, "its owner is not that address"


@pytest.mark.settings(rate_limit_previews="1/hour", trusted_proxies=("127.0.0.1", "10.0.0.0/8"))
def test_T74_behind_trusted_proxies_the_nearest_other_address_counts(
    client: GatewayClient, anonymous: GatewayClient
) -> None:
    path = f"/api/files/{client.add(visibility='public')['id']}/preview?type=text"

    def status(forwarded: str) -> int:
        return anonymous.get(path, headers={"X-Forwarded-For": forwarded}).status

    assert [status("6.6.6.6, 1.1.1.1"), status("7.7.7.7, 1.1.1.1, 10.0.0.2")] == [200, 429], (
        "what is to the left is a claim"
    )
    assert status("6.6.6.6, 2.2.2.2") == 200
    assert [status("3.3.3.3:4567"), status("3.3.3.3:4568"), status("4.4.4.4:4567")] == [200, 429, 200]  # with ports
    assert [status("[2001:db8::1]:4567"), status("2001:db8::2"), status("[2001:db8:1::1]")] == [200, 429, 200]


@pytest.mark.settings(trusted_proxies=("127.0.0.1",))
def test_T74_each_ipv4_client_counts_by_itself_at_a_socket_of_both_families(app: Flask) -> None:
    peer = {"REMOTE_ADDR": "::ffff:127.0.0.1"}  # as with HOST=::
    with app.test_request_context(environ_base=peer, headers={"X-Forwarded-For": "::ffff:2.2.2.2"}):
        assert proxies.client() == "2.2.2.2"


@pytest.mark.settings(rate_limits="off", rate_limit_search="1/hour")
def test_limits_can_be_turned_off(client: GatewayClient) -> None:
    answers = [client.get("/api/search?q=a") for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 3
    assert not any("RateLimit" in answer.headers for answer in answers)


SMALL_FILES = 30_000  # of one owner, in one go
# The requests that each way needs for one small file.
WAYS = {
    "form": ["POST /api/upload"],
    "raw": ["PUT /api/upload/<path:filename>"],
    "direct": [
        "POST /api/uploads",
        "POST /api/uploads/<uuid:upload_id>/parts",
        "POST /api/uploads/<uuid:upload_id>/complete",
    ],
    "tus": ["POST /api/tus", "PATCH /api/tus/<string:upload_id>"],
    "s3": ["POST /s3/sign"],
}


def test_T74_the_defaults_do_not_slow_one_owner_with_many_small_files(app: Flask, settings: Settings) -> None:
    limited = {f"{method} {rule.rule}": operation.limit for rule, method, operation in operations(app)}
    quota, per = settings.rate_limit_uploads.split("/")
    assert per == "minute"
    for way, requests in WAYS.items():
        counted = sum(limited[request] == "uploads" for request in requests)
        assert {limited[request] for request in requests} <= {"uploads", None}, way
        assert counted >= 1 and SMALL_FILES * counted <= int(quota), f"{way}: even if all are sent within a minute"


@pytest.mark.slow
def test_T74_a_request_is_counted_once_in_all_processes(settings: Settings, services: Any, tmp_path: Path) -> None:
    """Also one that the server begins again when its body has arrived."""
    _, key = services.keys.create_key("alice")
    live = Live(settings, tmp_path / "log", RATE_LIMIT_UPLOADS="50/hour")
    live.start()
    try:
        body = b'{"filename": "a.txt", "size": 1}'
        head = (
            f"POST /api/uploads HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        left = []
        for _ in range(6):
            with socket.create_connection(("127.0.0.1", live.port), 20) as connection:
                connection.sendall(head)
                time.sleep(0.1)  # the server looks at the head
                connection.sendall(body)
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
            assert answer.startswith(b"HTTP/1.1 201")
            left.append(int(answer.partition(b'RateLimit: "uploads";r=')[2].partition(b";")[0]))
        assert left == [49, 48, 47, 46, 45, 44]
    finally:
        live.kill()
