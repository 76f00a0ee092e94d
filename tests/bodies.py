"""Request bodies that end early or must not be read, with any declared length."""

from __future__ import annotations

from typing import Any

from flask import Flask

from tests.client import GatewayClient

HTML = b"<!doctype html><html><body><script>alert(1)</script></body></html>"  # and never a picture


class Cut:
    """A connection that ends after ``data``: quietly, as gunicorn's does, or with an error."""

    def __init__(self, data: bytes, error: Exception | None = None):
        self._data = data
        self._error = error

    def read(self, size: int = -1) -> bytes:
        piece, self._data = self._data[:size], self._data[size:]
        if not piece and self._error:
            raise self._error
        return piece


class Unread:
    """A body that must not be touched."""

    def read(self, size: int = -1) -> bytes:
        raise AssertionError("the body was read")


def send(
    app: Flask, client: GatewayClient, method: str, path: str, body: Any, length: int | str | None, **headers: str
) -> tuple[int, str]:
    """Send a request with this body stream; the status and the problem's code."""
    environ = {"wsgi.input": body, "wsgi.input_terminated": True, "CONTENT_TYPE": headers.pop("Content_Type", "")}
    if length is None:
        headers["Transfer-Encoding"] = "chunked"
    else:
        environ["CONTENT_LENGTH"] = str(length)
    response = app.test_client().open(
        path,
        method=method,
        environ_overrides=environ,
        headers={
            "Authorization": f"Bearer {client.key}",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        },
    )
    return response.status_code, response.get_json(force=True).get("code")


def names(client: GatewayClient) -> list[str]:
    return [file["original_name"] for file in client.get("/api/files?sort=original_name").json["items"]]
