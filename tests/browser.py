"""A browser's part in requests to the gateway: it keeps cookies, and says whose page makes a request."""

from __future__ import annotations

from collections.abc import Mapping
from http.cookies import Morsel, SimpleCookie
from typing import Any

from flask import Flask

from tests.client import Answer, GatewayClient


class Browser:
    """``site``: Sec-Fetch-Site of its requests; None for a browser that does not send it."""

    def __init__(self, target: Flask | str, *, site: str | None = "same-origin"):
        self.client = GatewayClient(target)
        self.site = site
        self.cookies: dict[str, Morsel[str]] = {}

    def request(self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **options: Any) -> Answer:
        sent = {} if self.site is None else {"Sec-Fetch-Site": self.site}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={cookie.value}" for name, cookie in self.cookies.items())
        answer = self.client.request(method, path, headers=sent | dict(headers or {}), **options)
        for line in answer.headers.getlist("Set-Cookie"):  # type: ignore[attr-defined]
            for name, cookie in SimpleCookie(line).items():
                self.cookies.pop(name, None)
                if cookie["max-age"] != "0":
                    self.cookies[name] = cookie
        return answer

    def get(self, path: str, **options: Any) -> Answer:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> Answer:
        return self.request("POST", path, **options)

    def delete(self, path: str, **options: Any) -> Answer:
        return self.request("DELETE", path, **options)

    def sign_in(self, key: str | None) -> Answer:
        answer = self.post("/api/session", json={"key": key})
        assert answer.status == 200, answer.body
        return answer
