"""Every response has the security headers, whichever part writes it. tests/client.py looks at every response of the suite."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email import message_from_bytes
from uuid import uuid4

import pytest
from flask import Flask

from core.security_headers import OVER_HTTPS, SECURITY_HEADERS
from tests.client import GatewayClient
from tests.paths import ROOT
from web_clients import health_response, problem_response

NGINX = (ROOT / "deploy" / "nginx.conf").read_text()


def values(headers: Mapping[str, str]) -> list[tuple[str, str | None]]:
    return [(name, headers.get(name)) for name, _ in SECURITY_HEADERS]


@pytest.mark.memory_store
@pytest.mark.parametrize("role", [None, "admin"])
def test_T31_every_route_sends_them(app: Flask, admin: GatewayClient, role: str | None) -> None:
    caller = GatewayClient(app, admin.key if role else None, check=False)
    asked = 0
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:\w+:)?(\w+)>", lambda name: str(uuid4()) if name[1].endswith("id") else "1", rule.rule)
        for method in (*sorted(rule.methods or ()), "BREW"):
            headers = caller.request(method, path).headers
            missing = [name for name, value in values(headers) if value is None]
            assert not missing, f"{method} {path}: {missing}"
            asked += 1
    assert asked > 100


@pytest.mark.memory_store
@pytest.mark.settings(public_url="https://files.example.com")
def test_https_is_demanded_where_the_gateway_has_it(anonymous: GatewayClient) -> None:
    assert (
        anonymous.get("/healthz").headers["Strict-Transport-Security"] == dict(OVER_HTTPS)["Strict-Transport-Security"]
    )


@pytest.mark.memory_store
def test_http_is_not_told_to_be_https(anonymous: GatewayClient) -> None:
    assert "Strict-Transport-Security" not in anonymous.get("/healthz").headers


@pytest.mark.parametrize("response", [problem_response(400, "No."), health_response(bytearray(b"GET /healthz"))])
def test_responses_below_flask_have_them(response: bytes) -> None:
    fields = response.partition(b"\r\n")[2]
    assert values(message_from_bytes(fields)) == list(SECURITY_HEADERS)  # type: ignore[arg-type]


def test_the_proxys_own_errors_have_them() -> None:
    assert {(name, value) for name, value in re.findall(r'add_header (\S+) "(.+)" always;', NGINX)} == set(
        SECURITY_HEADERS
    )
