"""Renaming a file detects its type again, under the rules for uploads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from core.content_types import Rules
from services import Services
from tests.client import Answer, GatewayClient
from tests.file_types import zipped
from tests.parsers.samples import corners, encoded
from tests.presigned import put

Rename = Callable[[GatewayClient, str, str], Answer]

WAYS: dict[str, Rename] = {
    "rename": lambda client, file_id, name: client.patch(f"/api/files/{file_id}", json={"original_name": name}),
    "copy": lambda client, file_id, name: client.post(f"/api/files/{file_id}/copy", json={"original_name": name}),
}
every_way = pytest.mark.parametrize("way", list(WAYS))


@every_way
@pytest.mark.settings(denied_types=("exe", "bat"))
def test_T137_a_denied_extension_is_rejected(client: GatewayClient, way: str) -> None:
    file = client.add("a.txt", b"echo hello")
    answer = WAYS[way](client, file["id"], "a.BAT ")
    assert (answer.status, answer.code) == (415, "type_not_allowed")
    assert [found["original_name"] for found in client.get("/api/files").json["items"]] == ["a.txt"]
    assert client.get(f"/api/files/{file['id']}").json["mime_type"] == "text/plain"


@every_way
@pytest.mark.settings(denied_types=("text/csv",))
def test_T137_a_denied_type_is_rejected(client: GatewayClient, way: str) -> None:
    file = client.add("a", b"name,amount\nx,1\n")
    assert WAYS[way](client, file["id"], "a.csv").code == "type_not_allowed"


@every_way
def test_T137_a_name_that_disguises_the_content_is_rejected(client: GatewayClient, way: str) -> None:
    page = client.add("a.html", b"<!doctype html><script>alert(1)</script>")
    assert WAYS[way](client, page["id"], "a.png").code == "type_mismatch"


@every_way
def test_T137_the_type_is_detected_again(client: GatewayClient, way: str) -> None:
    file = client.add("export.txt", b"name,amount\nMueller,12\nMeier,13\n")
    assert file["mime_type"] != "text/csv"
    renamed = WAYS[way](client, file["id"], "export.csv").json
    assert renamed["mime_type"] == "text/csv"
    assert client.get(f"/api/files/{renamed['id']}").json["mime_type"] == "text/csv"
    listed = client.get("/api/files", params={"file_type": "text/csv"}).json["items"]
    assert [found["id"] for found in listed] == [renamed["id"]]
    notes = client.add("notes.bin", b"# Head\n\nimport os\n")
    assert WAYS[way](client, notes["id"], "notes.md").json["mime_type"] == "text/markdown"
    archive = client.add("lib", zipped(("a/B.class", "x")))
    assert WAYS[way](client, archive["id"], "lib.jar").json["mime_type"] == "application/java-archive"
    picture = client.add("b.png", encoded(corners(), "PNG"))
    assert WAYS[way](client, picture["id"], "b.txt").json["mime_type"] == "image/png"  # its bytes decide


def test_T137_previews_follow_the_new_type(
    client: GatewayClient, services: Services, leftovers: Callable[[], dict[str, list[str]]]
) -> None:
    file = client.add("export.txt", b"name,amount\nMueller,12\nMeier,13\n")
    services.pipeline.process(file["id"])
    before = client.get(f"/api/files/{file['id']}/preview", params={"type": "text"}).json
    assert client.patch(f"/api/files/{file['id']}", json={"original_name": "export.csv"}).status == 200
    for _ in range(2):  # made on demand, then by the job that the renaming enqueued
        after = client.get(f"/api/files/{file['id']}/preview", params={"type": "text"}).json
        assert (before.get("table"), bool(after.get("table"))) == (None, True)
        services.pipeline.process(file["id"])
    assert services.janitor.run().corrected_counters == 0
    assert leftovers()["objects without a row"] == []


@every_way
def test_T137_later_rules_do_not_apply_to_a_kept_extension(
    client: GatewayClient, services: Services, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = client.add("a.txt", b"hello")
    monkeypatch.setattr(services.intake.policy.types, "_rules", Rules(allowed=(), denied=("txt",)))
    assert client.put("/api/upload/b.txt", data=b"hello").code == "type_not_allowed"
    assert WAYS[way](client, file["id"], "renamed.TXT").status in (200, 201)
    assert WAYS[way](client, file["id"], "renamed.txt.txt").status in (200, 201)


def test_T137_a_file_with_a_missing_object_can_be_renamed(client: GatewayClient, bucket: Any) -> None:
    file = client.add("a.txt", b"hello")
    bucket.delete(file["file_path"])
    renamed = client.patch(f"/api/files/{file['id']}", json={"original_name": "a.md"})
    assert (renamed.status, renamed.json["mime_type"]) == (200, "text/plain")


def test_T137_an_empty_file_has_the_type_of_its_name(client: GatewayClient) -> None:
    file = client.add("a.txt", b"")
    renamed = client.patch(f"/api/files/{file['id']}", json={"original_name": "a.csv"}).json
    assert renamed["mime_type"] == client.add("b.csv", b"")["mime_type"]


def test_T137_a_running_check_keeps_the_new_type(
    client: GatewayClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = client.post("/api/uploads", json={"filename": "a.txt", "size": 16}).json
    put(begun["url"], b"name,amount\nx,1\n", begun["headers"])
    file = client.post(f"/api/uploads/{begun['id']}/complete", json={}).json
    read = services.verification._read

    def then_renamed(*arguments: Any) -> Any:
        found = read(*arguments)
        assert client.patch(f"/api/files/{file['id']}", json={"original_name": "a.csv"}).status == 200
        return found

    monkeypatch.setattr(services.verification, "_read", then_renamed)
    services.verification.check(UUID(file["id"]))
    now = client.get(f"/api/files/{file['id']}").json
    assert (now["status"], now["mime_type"]) == ("ready", "text/csv")
