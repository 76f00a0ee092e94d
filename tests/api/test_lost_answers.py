"""A client that lost the response to an upload repeats the request with the same Idempotency-Key."""

from __future__ import annotations

import os
from typing import Any

import pytest

from app import create_app
from services import Services
from settings import Settings
from tests.client import Answer, GatewayClient
from tests.lost_commits import LossyGateway


@pytest.mark.parametrize("way", ["form", "raw"])
def test_T104_a_repeat_gets_the_published_file(
    services: Services, settings: Settings, lossy: LossyGateway, client: GatewayClient, way: str
) -> None:
    losing = GatewayClient(create_app(settings, lossy.services), client.key)

    def ask(data: bytes) -> Answer:
        headers = {"Idempotency-Key": data[:10].hex()}
        if way == "raw":
            return losing.put("/api/upload/a.bin", data=data, headers=headers)
        return losing.upload(("a.bin", data), ("b.bin", data[::-1]), headers=headers)

    statuses = []
    for lost in lossy.lost_commits("at once"):
        data = os.urandom(500)
        before = client.get("/api/files").json["total"]
        with lost:
            answers = [ask(data)]
        statuses.append(answers[0].status)
        if answers[0].status == 503:
            answers.append(ask(data))
        if answers[-1].status == 409:  # the first request's lease has not expired yet
            assert answers[-1].code == "idempotency_in_progress"
            continue
        assert answers[-1].status == 201
        file: Any = answers[-1].json if way == "raw" else answers[-1].json["files"][0]
        found = client.get(f"/api/files/{file['id']}/download?mode=proxy")
        assert (found.status, found.body) == (200, data)
        assert client.get("/api/files").json["total"] == before + (1 if way == "raw" else 2)
    assert 503 in statuses
