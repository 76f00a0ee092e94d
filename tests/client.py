"""A client of the gateway for tests: over a Flask application in this process, or over HTTP to a running one.

    client = GatewayClient(app, key)                        # or GatewayClient("http://127.0.0.1:8080", key)
    answer = client.post("/api/folders", json={"name": "Plans"})
    assert answer.status == 201 and answer.json["name"] == "Plans"

Both follow no redirect, and check each response for security headers and against the OpenAPI document
(tests/openapi_check.py).
"""

from __future__ import annotations

import json as jsonlib
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from urllib.parse import unquote, unquote_to_bytes, urlencode

import requests
from flask import Flask
from werkzeug.datastructures import Headers

from core.security_headers import SECURITY_HEADERS
from tests.openapi_check import check_response

# What responses with users' bytes permit a browser.
SANDBOX = "default-src 'none'; base-uri 'none'; frame-ancestors 'self'; sandbox"

File = tuple[str, bytes] | tuple[str, bytes, str]  # file name, bytes, media type


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # names in any case
    body: bytes

    @property
    def json(self) -> Any:
        return jsonlib.loads(self.body)

    @property
    def code(self) -> str | None:
        """The problem's code; None if the answer is not a problem, or has no body (HEAD)."""
        is_problem = self.body and self.headers.get("Content-Type") == "application/problem+json"
        return self.json["code"] if is_problem else None


class GatewayClient:
    def __init__(self, target: Flask | str, key: str | None = None, *, check: bool = True):
        self.target = target
        self.key = key
        self._check = check
        self._document: dict[str, Any] | None = None
        self._session = requests.Session() if isinstance(target, str) else None

    def as_(self, key: str | None) -> GatewayClient:
        """The same gateway with another credential."""
        return GatewayClient(self.target, key, check=self._check)

    def get(self, path: str, **options: Any) -> Answer:
        return self.request("GET", path, **options)

    def head(self, path: str, **options: Any) -> Answer:
        return self.request("HEAD", path, **options)

    def post(self, path: str, **options: Any) -> Answer:
        return self.request("POST", path, **options)

    def put(self, path: str, **options: Any) -> Answer:
        return self.request("PUT", path, **options)

    def patch(self, path: str, **options: Any) -> Answer:
        return self.request("PATCH", path, **options)

    def delete(self, path: str, **options: Any) -> Answer:
        return self.request("DELETE", path, **options)

    def options(self, path: str, **options: Any) -> Answer:
        return self.request("OPTIONS", path, **options)

    def upload(self, *files: File, headers: Mapping[str, str] | None = None, **fields: str | Iterable[str]) -> Answer:
        """POST /api/upload with these files and fields."""
        body, content_type = form_data(files, fields)
        return self.post("/api/upload", data=body, headers={"Content-Type": content_type, **(headers or {})})

    def add(self, name: str = "note.txt", content: bytes = b"hello", **fields: Any) -> dict[str, Any]:
        """Upload one file, which must be accepted; the file."""
        answer = self.upload((name, content), **fields)
        assert answer.status == 201, answer.body
        return answer.json["files"][0]

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        data: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request. ``path`` is already percent-encoded; ``data`` as an iterator is sent as a chunked body."""
        sent = Headers(dict(headers or {}))
        if self.key is not None and "Authorization" not in sent:
            sent["Authorization"] = f"Bearer {self.key}"
        if json is not None:
            data = jsonlib.dumps(json).encode()
            sent.setdefault("Content-Type", "application/json")
        if params:
            path += "?" + urlencode(params, doseq=True)
        answer = (
            self._over_http(method, path, data, sent) if self._session else self._in_process(method, path, data, sent)
        )
        if self._check:
            missing = [name for name, _ in SECURITY_HEADERS if not answer.headers.get(name)]
            assert not missing, f"{method} {path[:200]} -> {answer.status}: no {missing}"
            check_response(
                self.document, method, unquote(path.partition("?")[0]), answer.status, answer.headers, answer.body
            )
        return answer

    @property
    def document(self) -> dict[str, Any]:
        """The gateway's OpenAPI document, fetched once for all applications with the same routes."""
        if self._document is None:
            key = self.target if isinstance(self.target, str) else _routes(self.target)
            if key not in _documents:
                _documents[key] = GatewayClient(self.target, self.key, check=False).get("/openapi.json").json
            self._document = _documents[key]
        return self._document

    def _over_http(self, method: str, path: str, data: Any, headers: Headers) -> Answer:
        assert self._session is not None
        response = self._session.request(
            method, f"{self.target}{path}", data=data, headers=dict(headers), allow_redirects=False, timeout=120
        )
        return Answer(response.status_code, dict(response.headers), response.content)

    def _in_process(self, method: str, path: str, data: Any, headers: Headers) -> Answer:
        assert isinstance(self.target, Flask)
        # as servers decode it: werkzeug would put U+FFFD for what is not UTF-8
        environ = {"PATH_INFO": unquote_to_bytes(path.partition("?")[0]).decode("latin-1")}
        options: dict[str, Any] = {"data": data, "environ_overrides": environ}
        if data is not None and not isinstance(data, (bytes, bytearray)):
            headers["Transfer-Encoding"] = "chunked"
            options = {
                "environ_overrides": environ
                | {
                    "wsgi.input": _Chunks(data),
                    "wsgi.input_terminated": True,
                    "CONTENT_TYPE": headers.get("Content-Type", ""),  # werkzeug would draw a boundary of its own
                }
            }
        response = self.target.test_client(use_cookies=False).open(path, method=method, headers=headers, **options)
        try:
            return Answer(response.status_code, response.headers, response.get_data())  # type: ignore[arg-type]
        finally:
            response.close()


_documents: dict[str | frozenset[object], dict[str, Any]] = {}


def _routes(app: Flask) -> frozenset[object]:
    return frozenset((rule.rule, rule.endpoint, *sorted(rule.methods or ())) for rule in app.url_map.iter_rules())


class _Chunks:
    """An iterator read like gunicorn's body of a chunked request."""

    def __init__(self, chunks: Iterator[bytes]):
        self._chunks = iter(chunks)
        self._rest = BytesIO()

    def read(self, size: int = -1) -> bytes:
        while not (piece := self._rest.read(size)):
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._rest = BytesIO(chunk)
        return piece


def form_data(
    files: Iterable[File],
    fields: Mapping[str, str | Iterable[str]] | None = None,
    *,
    field: str = "files",
    boundary: str | None = None,
    fields_last: bool = False,
) -> tuple[bytes, str]:
    """A multipart/form-data body and its Content-Type, names escaped as browsers do."""
    boundary = boundary or "test" + secrets.token_hex(8)
    texts: list[bytes] = []
    for name, values in (fields or {}).items():
        for value in [values] if isinstance(values, str) else values:
            texts.append(_part(boundary, f'name="{name}"', value.encode()))
    parts: list[bytes] = []
    for name, content, *media_type in files:
        escaped = name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
        parts.append(_part(boundary, f'name="{field}"; filename="{escaped}"', content, *media_type))
    ordered = parts + texts if fields_last else texts + parts
    return b"".join(ordered) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _part(boundary: str, disposition: str, content: bytes, media_type: str = "") -> bytes:
    head = f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n"
    if media_type:
        head += f"Content-Type: {media_type}\r\n"
    return f"{head}\r\n".encode() + content + b"\r\n"
