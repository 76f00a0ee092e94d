"""A client of the bucket: sends signed requests as a browser does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests

from storage_backends.base import PresignedPost


def send(url: str, body: bytes, headers: Mapping[str, str] | None = None, *, method: str = "PUT") -> requests.Response:
    """One request to the bucket, with the body's ``Content-Length``."""
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, data=body, headers=dict(headers or {}), timeout=60)


def put(url: str, body: bytes, headers: Mapping[str, str] | None = None) -> str:
    """A PUT that the bucket must accept; the ETag header."""
    answer = send(url, body, headers)
    assert answer.status_code == 200, answer.text
    return answer.headers["ETag"]


def post_form(form: PresignedPost, body: bytes, **changed: str) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        fields: dict[str, Any] = {**form.fields, **changed}
        return session.post(form.url, data=fields, files={"file": ("blob", body)}, timeout=60)
