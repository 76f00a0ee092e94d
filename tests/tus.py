"""The steps of a resumable upload over HTTP, as a tus client makes them."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from tests.client import Answer, GatewayClient

TUS = {"Tus-Resumable": "1.0.0"}
BYTES = {**TUS, "Content-Type": "application/offset+octet-stream"}
MIB = 1024 * 1024


def metadata(**pairs: str) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in pairs.items())


def begin(
    client: GatewayClient,
    size: int | None,
    *,
    name: str | None = "note.bin",
    headers: Mapping[str, str] | None = None,
    **pairs: str,
) -> Answer:
    sent = {**TUS, **({"Upload-Defer-Length": "1"} if size is None else {"Upload-Length": str(size)})}
    if name is not None:
        pairs = {"filename": name, **pairs}
    if pairs:
        sent["Upload-Metadata"] = metadata(**pairs)
    return client.post("/api/tus", headers={**sent, **(headers or {})})


def path(answer: Answer) -> str:
    """The path of a Location."""
    return urlsplit(answer.headers["Location"]).path


def patch(client: GatewayClient, where: str, offset: int, data: Any, **headers: str) -> Answer:
    return client.patch(where, data=data, headers={**BYTES, "Upload-Offset": str(offset), **headers})


def offset(client: GatewayClient, where: str) -> int:
    answer = client.head(where, headers=TUS)
    assert answer.status == 200, (answer.status, answer.headers)
    return int(answer.headers["Upload-Offset"])


def upload(client: GatewayClient, data: bytes, *, chunk: int | None = None, **options: Any) -> Answer:
    """A whole upload; the answer to the last PATCH."""
    where = path(begin(client, len(data), **options))
    answer = client.head(where, headers=TUS)
    for start in range(0, len(data), chunk or max(1, len(data))):
        piece = data[start : start + (chunk or len(data))]
        answer = patch(client, where, start, piece)
        assert answer.status == 204, answer.body
        assert answer.headers["Upload-Offset"] == str(start + len(piece))
    return answer


def random_bytes(size: int) -> bytes:
    """Random bytes whose type libmagic does not know."""
    return b"\x93\x01\x02" + os.urandom(size - 3) if size > 3 else b"\x93" * size
