"""Routes of folders, search, statistics, keys and the janitor."""

from __future__ import annotations

import time
from typing import Any

import pytest

from parsers import sandbox
from services import Services
from storage_backends.presign import Presigner, Sign
from tests.client import GatewayClient
from tests.rows import sql
from tests.subtests import with_subtests


def make(client: GatewayClient, name: str, parent: int | None = None) -> int:
    answer = client.post("/api/folders", json={"name": name, "parent_folder_id": parent})
    assert answer.status == 201, answer.body
    return int(answer.json["id"])


# -- folders -------------------------------------------------------------------------------------------------


def test_creating_and_reading_a_folder(client: GatewayClient) -> None:
    made = client.post("/api/folders", json={"name": "Plans", "description": "of houses"})
    assert made.status == 201
    folder = made.json
    assert made.headers["Location"] == f"http://gateway.test/api/folders/{folder['id']}"
    assert (folder["name"], folder["description"], folder["parent_id"], folder["path"]) == (
        "Plans",
        "of houses",
        None,
        "/Plans",
    )
    assert (folder["file_count"], folder["total_file_count"], folder["total_size"]) == (0, 0, 0)
    assert client.get(f"/api/folders/{folder['id']}").json == folder


def test_folder_tree_and_flat_list(client: GatewayClient) -> None:
    top = make(client, "top")
    below = make(client, "below", top)
    client.add("a.txt", b"12345", folder_id=str(below))
    client.delete(f"/api/files/{client.add('b.txt', b'123', folder_id=str(below))['id']}")
    (node,) = client.get("/api/folders").json["items"]
    assert (node["id"], node["file_count"], node["total_file_count"], node["total_size"]) == (top, 0, 1, 5)
    assert [(child["id"], child["path"], child["file_count"]) for child in node["children"]] == [
        (below, "/top/below", 1)
    ]
    first = client.get("/api/folders?flat=true&limit=1")
    assert (len(first.json["items"]), first.json["total"]) == (1, 2)
    assert 'rel="next"' in first.headers["Link"]
    second = client.get(f"/api/folders?flat=true&limit=1&cursor={first.json['next_cursor']}").json
    assert {first.json["items"][0]["id"], second["items"][0]["id"]} == {top, below}
    assert second["next_cursor"] is None


def test_changing_and_moving_a_folder(client: GatewayClient) -> None:
    one, two = make(client, "one"), make(client, "two")
    moved = client.patch(f"/api/folders/{two}", json={"parent_folder_id": one, "name": "deux"}).json
    assert (moved["path"], moved["description"]) == ("/one/deux", "")
    assert client.patch(f"/api/folders/{two}", json={"description": "x"}).json["parent_id"] == one
    assert client.patch(f"/api/folders/{two}", json={"parent_folder_id": None}).json["path"] == "/deux"


def test_T24_folder_tree_rules(client: GatewayClient) -> None:
    one = make(client, "Één")
    assert client.post("/api/folders", json={"name": "E\u0301\u00c9N"}).code == "name_conflict"
    two = make(client, "two", one)
    assert client.patch(f"/api/folders/{one}", json={"parent_folder_id": two}).code == "folder_cycle"
    assert client.patch(f"/api/folders/{one}", json={"parent_folder_id": one}).code == "folder_cycle"
    deepest = two
    for depth in range(3, 33):
        deepest = make(client, f"{depth}", deepest)
    answer = client.post("/api/folders", json={"name": "33", "parent_folder_id": deepest})
    assert (answer.status, answer.code) == (409, "folder_too_deep")


def test_deleting_folders(client: GatewayClient) -> None:
    top = make(client, "top")
    file = client.add("a.txt", b"12345", folder_id=str(make(client, "below", top)))
    answer = client.delete(f"/api/folders/{top}")
    assert (answer.status, answer.code) == (409, "folder_not_empty")
    gone = client.delete(f"/api/folders/{top}?recursive=true").json
    assert gone == {"id": top, "action": "deleted", "trashed_files": 1, "deleted_folders": 2}
    assert client.get(f"/api/files/{file['id']}").json["is_deleted"] is True
    assert client.get(f"/api/folders/{top}").status == 404


@with_subtests(
    "body",
    [
        {},
        {"name": ""},
        {"name": "  "},
        {"name": ".."},
        {"name": None},
        {"name": "a", "parent_id": 1},
        {"name": "x" * 5000},
        {"name": "a", "parent_folder_id": "1"},
        {"name": "a", "description": "x" * 4001},
        {"name": "a", "description": "\0"},
        {"name": "a", "description": None},
        {"name": "a", "id": 1},
    ],
)
def test_invalid_folders(client: GatewayClient, body: Any) -> None:
    assert client.post("/api/folders", json=body).status == 400


def test_T64_another_owners_folder_is_404(client: GatewayClient, other: GatewayClient, admin: GatewayClient) -> None:
    theirs, mine = make(other, "theirs"), make(client, "mine")
    for answer in (
        client.get(f"/api/folders/{theirs}"),
        client.patch(f"/api/folders/{theirs}", json={"name": "x"}),
        client.delete(f"/api/folders/{theirs}"),
        client.post("/api/folders", json={"name": "x", "parent_folder_id": theirs}),
        client.patch(f"/api/folders/{mine}", json={"parent_folder_id": theirs}),
    ):
        assert (answer.status, answer.code) == (404, "not_found")
    assert admin.get(f"/api/folders/{theirs}").status == 200
    assert len(admin.get("/api/folders?owner=*").json["items"]) == 2


# -- search and statistics -----------------------------------------------------------------------------------


def test_search_finds_and_highlights(client: GatewayClient, other: GatewayClient, services: Services) -> None:
    client.add("Quarterly report.txt", b"numbers, numbers")
    client.add("holiday.txt", b"sun")
    other.add("report of another.txt", b"secret")
    services.search.index()
    found = client.get("/api/search?query=report&facets=file_type,folder").json
    (hit,) = found["items"]
    assert hit["file"]["original_name"] == "Quarterly report.txt"
    assert "report" in hit["highlights"]["name"]
    assert found["facets"]["file_type"] == [{"value": "text", "count": 1}]
    assert client.get("/api/search").json["total"] == 2
    assert "facets" not in client.get("/api/search?query=report").json
    assert client.get("/api/search/suggest?prefix=quart").json == {"items": ["Quarterly report.txt", "quarterly"]}


@with_subtests(
    "query",
    [
        '"',
        "- - -",
        "\0",
        "%",
        "OR",
        "a" * 3000,
        "size:>" + "9" * 50,
        "before:never",
        "type:",
        "'; drop table files; --",
        "\\",
        "((",
        "*",
        "is:deleted",
        "name:",
        "😀",
        "a:b:c",
        "%ff",
    ],
)
def test_T81_any_query_is_valid(client: GatewayClient, query: str) -> None:
    assert client.get("/api/search", params={"query": query}).status == 200
    assert client.get("/api/search/suggest", params={"prefix": query}).status == 200


@with_subtests("query", ["facets=colour", "facets=owner,colour", "limit=0", "folder=x", "date_to=x", "cursor=x"])
def test_invalid_search_parameters(client: GatewayClient, query: str) -> None:
    assert client.get(f"/api/search?{query}").status == 400


def test_search_is_paged(client: GatewayClient, services: Services) -> None:
    for number in range(3):
        client.add(f"report {number}.txt", b"text %d" % number)
    services.search.index()
    first = client.get("/api/search?query=report&limit=2")
    rest = client.get(first.headers["Link"][1:].partition(">")[0].removeprefix("http://gateway.test"))
    names = [hit["file"]["original_name"] for hit in first.json["items"] + rest.json["items"]]
    assert len(names) == len(set(names)) == 3


@pytest.mark.settings(quota_bytes=10_000)
def test_statistics(client: GatewayClient, other: GatewayClient, admin: GatewayClient) -> None:
    client.add("a.txt", b"12345")
    client.add("b.txt", b"12345")
    other.add("c.txt", b"123")
    stats = client.get("/api/storage/stats").json
    assert (stats["total_files"], stats["total_size"], stats["deduplicated_bytes"]) == (2, 10, 5)
    assert stats["by_type"] == [{"file_type": "text", "count": 2, "size": 10}]
    assert stats["by_status"] == {"ready": 2}
    assert stats["quota"] == {"used": 10, "limit": 10_000, "files": 2, "max_files": None}
    assert stats["recent_activity"][0]["original_name"] == "b.txt"
    assert admin.get("/api/storage/stats").json["total_files"] == 0
    assert admin.get("/api/storage/stats?owner=*").json["total_files"] == 3


# -- keys and upkeep -----------------------------------------------------------------------------------------


def test_keys_are_created_listed_and_revoked(admin: GatewayClient) -> None:
    made = admin.post("/api/admin/keys", json={"owner_id": "carol", "name": "laptop", "role": "admin"})
    assert made.status == 201
    assert admin.as_(made.json["key"]).get("/api/admin/keys").status == 200
    listed = admin.get("/api/admin/keys").json["items"]
    assert made.json["id"] in {key["id"] for key in listed}
    assert all("key" not in key for key in listed)
    assert made.json["key"].encode() not in admin.get("/api/admin/keys").body
    assert admin.delete(f"/api/admin/keys/{made.json['id']}").status == 204
    assert admin.delete(f"/api/admin/keys/{made.json['id']}").status == 404
    page = admin.get("/api/admin/keys?limit=1")
    assert len(page.json["items"]) == 1


def test_T63_a_replayed_response_has_no_key(admin: GatewayClient, services: Services) -> None:
    header = {"Idempotency-Key": "key-1"}
    first, again = (admin.post("/api/admin/keys", json={"owner_id": "carol"}, headers=header) for _ in range(2))
    assert first.json["key"]
    assert again.json == first.json | {"key": None}
    stored = sql(services.db, "select outcome::text from idempotency_keys")
    assert first.json["key"] not in str(stored)


@with_subtests(
    "body",
    [
        {},
        {"owner_id": ""},
        {"owner_id": "x" * 256},
        {"owner_id": "a\0b"},
        {"owner_id": "a", "role": "root"},
        {"owner_id": 5},
        {"owner_id": "a", "key": "chosen"},
        {"owner_id": "a", "name": "x" * 256},
    ],
)
def test_invalid_keys(admin: GatewayClient, body: Any) -> None:
    assert admin.post("/api/admin/keys", json=body).status == 400


def test_the_janitor_runs_on_request(admin: GatewayClient) -> None:
    for body in ({}, {"dry_run": True}, {"dry_run": False}, {"delete_protected": True}):
        answer = admin.post("/api/admin/janitor", json=body)
        assert answer.status == 200
        assert answer.json["dry_run"] is body.get("dry_run", True)


# -- health --------------------------------------------------------------------------------------------------


def test_T124_readiness_reveals_only_checks(
    anonymous: GatewayClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert anonymous.get("/readyz").json == {
        "status": "ready",
        "checks": {
            "database": True,
            "bucket": True,
            "queue": True,
            "disk": True,
            "sandbox": "weak" if sandbox.missing() else True,
        },
    }
    monkeypatch.setattr(type(services.health), "ready", lambda self: {"database": True, "bucket": False, "queue": True})
    answer = anonymous.get("/readyz")
    assert (answer.status, answer.code) == (503, "unavailable")
    assert answer.json["checks"]["bucket"] is False
    assert answer.headers["Retry-After"]


@pytest.mark.parametrize("hours", [-1, 1])
def test_T108_a_wrong_clock_is_reported(
    anonymous: GatewayClient, bucket: Any, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """With a clock an hour ahead, the bucket accepts presigned requests and rejects all others."""
    told = Presigner._at

    def off(self: Presigner, now: float | None) -> tuple[str, str, Sign]:
        return told(self, (time.time() if now is None else now) + hours * 3600)

    with monkeypatch.context() as patch:
        patch.setattr(Presigner, "_at", off)
        answer = anonymous.get("/readyz")
    assert answer.status == 503
    assert (answer.json["checks"]["bucket"], answer.json["checks"]["clock_skew"]) == (False, True)
    assert list(bucket.list_objects("probe/")) == []
    assert "clock_skew" not in anonymous.get("/readyz").json["checks"]


def test_T124_health_needs_no_database(anonymous: GatewayClient, services: Services) -> None:
    services.db.url = "postgresql://nobody@127.0.0.1:1/nothing"
    services.db.close()
    assert anonymous.get("/healthz").json == {"status": "ok"}
