"""Routes of files: input, responses and errors. The services have their own tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from tests.client import Answer, GatewayClient
from tests.subtests import with_subtests

pytestmark = pytest.mark.memory_store

File = dict[str, Any]


def make_folder(client: GatewayClient, name: str = "Plans") -> int:
    answer = client.post("/api/folders", json={"name": name})
    assert answer.status == 201
    return int(answer.json["id"])


def test_file_details(client: GatewayClient) -> None:
    file = client.add("Plan (final).txt", b"hello there", tags="plans")
    answer = client.get(f"/api/files/{file['id']}")
    found = answer.json
    assert {name: found[name] for name in file if name != "last_accessed"} == {
        name: value for name, value in file.items() if name != "last_accessed"
    }
    assert found["links"]["download"] == f"http://gateway.test/api/files/{file['id']}/download"
    assert found["file_path"].endswith(found["stored_name"])
    assert found["statistics"] == {"downloads": 0, "previews": 0, "first_access": None, "last_access": None}
    assert found["access_history"][-1]["actor"] == "alice"
    assert found["integrity"]["exists"] is True
    client.get(f"/api/files/{file['id']}/download?mode=proxy")
    later = client.get(f"/api/files/{file['id']}?verify=true").json
    assert later["integrity"]["checksum"] == "verified"
    assert later["statistics"]["downloads"] == 1
    assert later["last_accessed"] is not None


def test_edits_change_the_etag_and_downloads_do_not(client: GatewayClient) -> None:
    file = client.add()
    address = f"/api/files/{file['id']}"
    first = client.get(address).headers["ETag"]
    client.get(f"{address}/download")
    assert client.get(address).headers["ETag"] == first
    changed = client.patch(address, json={"tags": ["new"]})
    assert changed.headers["ETag"] not in (first, "")
    assert client.get(address).headers["ETag"] == changed.headers["ETag"]


def test_T125_history_is_paged(client: GatewayClient) -> None:
    file = client.add()
    address = f"/api/files/{file['id']}"
    for number in range(4):
        client.patch(address, json={"tags": [str(number)]})
    seen: list[int] = []
    query = "?limit=2"
    while True:
        page = client.get(f"{address}/history{query}").json
        seen += [event["id"] for event in page["items"]]
        if page["next_cursor"] is None:
            break
        query = f"?limit=2&cursor={page['next_cursor']}"
    assert len(seen) == len(set(seen)) == 5
    assert seen == sorted(seen, reverse=True)


def test_patch_changes_only_the_given_members(client: GatewayClient) -> None:
    file = client.add("a.txt", tags="one")
    address = f"/api/files/{file['id']}"
    renamed = client.patch(address, json={"original_name": "b.txt"}).json
    assert (renamed["original_name"], renamed["tags"], renamed["visibility"]) == ("b.txt", ["one"], "private")
    expiring = client.patch(address, json={"expires_at": "2030-01-01T00:00:00+02:00", "visibility": "public"}).json
    assert (expiring["expires_at"], expiring["visibility"]) == ("2029-12-31T22:00:00Z", "public")
    assert client.patch(address, json={}).json["expires_at"] == "2029-12-31T22:00:00Z"
    assert client.patch(address, json={"expires_at": None, "tags": []}).json["expires_at"] is None


@with_subtests(
    "body",
    [
        {"original_name": None},
        {"original_name": 5},
        {"visibility": "secret"},
        {"visibility": None},
        {"tags": "one"},
        {"tags": None},
        {"tags": [""]},
        {"tags": ["a,b"]},
        {"tags": ["x" * 101]},
        {"tags": [str(n) for n in range(51)]},
        {"tags": ["a\0b"]},
        {"expires_at": "tomorrow"},
        {"expires_at": 5},
        {"expires_at": "2030-01-01T00:00:00"},
        {"original_name": ""},
        {"original_name": "x" * 5000},
        [],
        "x",
        None,
    ],
)
def test_invalid_patches(client: GatewayClient, body: Any) -> None:
    file = client.add("a.txt", tags="one")
    raw = {"data": b"null", "headers": {"Content-Type": "application/json"}} if body is None else {"json": body}
    answer = client.patch(f"/api/files/{file['id']}", **raw)
    assert answer.status == 400
    after = client.get(f"/api/files/{file['id']}").json
    assert (after["original_name"], after["tags"]) == (file["original_name"], ["one"])


@with_subtests(
    "member", ["owner_id", "status", "file_size", "file_hash", "id", "download_count", "file_path", "is_deleted"]
)
def test_T64_read_only_members_are_rejected(client: GatewayClient, member: str) -> None:
    file = client.add()
    answer = client.patch(f"/api/files/{file['id']}", json={member: "x"})
    assert (answer.status, answer.json["errors"][0]["field"]) == (400, member)


def test_T14_a_stale_if_match_changes_nothing(client: GatewayClient) -> None:
    file = client.add("a.txt")
    address = f"/api/files/{file['id']}"
    etag = client.get(address).headers["ETag"]
    folder = make_folder(client)
    stale = {"If-Match": '"stale"'}
    for answer in (
        client.patch(address, json={"original_name": "b.txt"}, headers=stale),
        client.put(f"{address}/move", json={"target_folder_id": folder}, headers=stale),
        client.delete(address, headers=stale),
        client.delete(f"{address}?permanent=true", headers=stale),
        client.patch(address, json={"original_name": "b.txt"}, headers={"If-Match": f"W/{etag}"}),
    ):
        assert (answer.status, answer.code) == (412, "precondition_failed")
    after = client.get(address).json
    assert (after["original_name"], after["folder_id"], after["is_deleted"]) == ("a.txt", None, False)
    for good in ("{}", '"other", {}', "*"):
        fresh = client.get(address).headers["ETag"]
        answer = client.patch(
            address, json={"visibility": "public", "tags": [str(len(good))]}, headers={"If-Match": good.format(fresh)}
        )
        assert answer.status == 200, good
    assert client.delete(address, headers={"If-Match": "*"}).status == 200


def test_a_taken_name_conflicts_and_uploads_are_numbered(client: GatewayClient) -> None:
    client.add("a.txt", b"one")
    second = client.add("A.TXT", b"two")
    assert second["original_name"] == "A (1).TXT"
    answer = client.patch(f"/api/files/{second['id']}", json={"original_name": "a.txt"})
    assert (answer.status, answer.code) == (409, "name_conflict")


def test_move_and_copy(client: GatewayClient, other: GatewayClient) -> None:
    file, folder = client.add("a.txt"), make_folder(client)
    address = f"/api/files/{file['id']}"
    assert client.put(f"{address}/move", json={"target_folder_id": folder}).json["folder_id"] == folder
    copied = client.post(f"{address}/copy", json={})
    assert copied.status == 201
    assert copied.headers["Location"] == copied.json["links"]["self"]
    assert (copied.json["original_name"], copied.json["folder_id"]) == ("a (1).txt", folder)
    assert copied.json["file_path"] == file["file_path"]
    to_root = client.post(f"{address}/copy", json={"target_folder_id": None, "original_name": "b.txt"}).json
    assert (to_root["original_name"], to_root["folder_id"]) == ("b.txt", None)
    assert client.put(f"{address}/move", json={"target_folder_id": None}).json["folder_id"] is None
    theirs = make_folder(other)
    for target in (theirs, 2**31 - 1):
        for answer in (
            client.put(f"{address}/move", json={"target_folder_id": target}),
            client.post(f"{address}/copy", json={"target_folder_id": target}),
        ):
            assert (answer.status, answer.code) == (404, "not_found")
    assert client.put(f"{address}/move", json={}).status == 400


def test_T14_a_key_makes_one_copy(client: GatewayClient) -> None:
    file = client.add("a.txt")
    key = {"Idempotency-Key": "copy-1"}
    answers = [client.post(f"/api/files/{file['id']}/copy", json={}, headers=key) for _ in range(2)]
    assert [answer.status for answer in answers] == [201, 201]
    assert answers[0].json == answers[1].json
    assert answers[0].headers["Location"] == answers[1].headers["Location"]
    assert len(client.get("/api/files").json["items"]) == 2
    other_body = client.post(f"/api/files/{file['id']}/copy", json={"original_name": "x.txt"}, headers=key)
    assert (other_body.status, other_body.code) == (422, "idempotency_conflict")


def test_T14_a_failed_request_may_be_repeated_with_its_key(client: GatewayClient) -> None:
    key = {"Idempotency-Key": "folder-1"}
    make_folder(client, "taken")
    body = {"name": "Taken"}
    assert client.post("/api/folders", json=body, headers=key).code == "name_conflict"
    taken = client.get("/api/folders").json["items"][0]["id"]
    assert client.delete(f"/api/folders/{taken}").status == 200
    assert client.post("/api/folders", json=body, headers=key).status == 201


def test_trash_restore_and_purge(client: GatewayClient, bucket: Any) -> None:
    file = client.add("a.txt")
    address = f"/api/files/{file['id']}"
    first, again = client.delete(address), client.delete(address)
    assert first.json == again.json == {"id": file["id"], "action": "trashed", "deleted_at": first.json["deleted_at"]}
    assert client.get("/api/files").json["items"] == []
    assert [item["id"] for item in client.get("/api/files?deleted=true").json["items"]] == [file["id"]]
    assert client.get(address).json["is_deleted"] is True
    restored = client.post(f"{address}/restore")
    assert (restored.status, restored.json["is_deleted"], restored.json["deleted_at"]) == (200, False, None)
    client.delete(address)
    purged = client.delete(f"{address}?permanent=true")
    assert (purged.status, purged.json["action"]) == (200, "purged")
    assert client.get(address).status == 404
    assert client.delete(address).status == 404
    assert list(bucket.list_objects("files/")) == []


def test_batches(client: GatewayClient, other: GatewayClient) -> None:
    mine = [client.add(f"{number}.txt", b"text %d" % number)["id"] for number in range(2)]
    theirs = other.add()["id"]
    ids = [mine[0], "nonsense", theirs, str(uuid4()), mine[1]]
    for action, more in (
        ("tag", {"add": ["x"], "remove": ["y"]}),
        ("move", {"target_folder_id": None}),
        ("delete", {}),
        ("restore", {}),
        ("purge", {}),
    ):
        answer = client.post("/api/files/batch", json={"action": action, "ids": ids, **more})
        assert answer.status == 200
        results = answer.json["results"]
        assert [result["id"] for result in results] == ids
        assert [result["status"] for result in results] == [200, 404, 404, 404, 200], action
        assert [result["problem"] and result["problem"]["code"] for result in results] == [
            None,
            "not_found",
            "not_found",
            "not_found",
            None,
        ]
    assert client.get("/api/files").json["items"] == []
    assert other.get(f"/api/files/{theirs}").json["is_deleted"] is False


@with_subtests(
    "body",
    [
        {},
        {"action": "delete"},
        {"action": "explode", "ids": []},
        {"action": "delete", "ids": "x"},
        {"action": "delete", "ids": [1]},
        {"action": "move", "ids": []},
        {"action": "tag", "ids": []},
        {"action": "delete", "ids": ["x"] * 1001},
        {"action": "tag", "ids": [], "add": [""]},
        {"action": "delete", "ids": [], "surplus": 1},
        {"action": "move", "ids": [], "target_folder_id": "7"},
    ],
)
def test_invalid_batches(client: GatewayClient, body: Any) -> None:
    answer = client.post("/api/files/batch", json=body)
    assert (answer.status, answer.code) == (400, "invalid_input")


def test_lists_filter_and_sort(client: GatewayClient) -> None:
    folder = make_folder(client)
    client.add("b.txt", b"text " * 10, tags="x")
    client.add("a.csv", b"a,b\n1,2\n3,4\n", folder_id=str(folder))

    def names(**query: str) -> list[str]:
        return [item["original_name"] for item in client.get("/api/files", params=query).json["items"]]

    assert names(sort="original_name") == ["a.csv", "b.txt"]
    assert names(sort="-original_name") == ["b.txt", "a.csv"]
    assert names(folder="root") == ["b.txt"]
    assert names(folder=str(folder)) == ["a.csv"]
    assert names(tag="x") == ["b.txt"]
    assert names(min_size="20") == ["b.txt"]
    assert names(file_type="text/plain") == ["b.txt"]
    assert names(file_type="text/*", sort="file_size") == ["a.csv", "b.txt"]
    assert names(status="infected") == []
    assert names(date_from="2020-01-01", date_to="2020-12-31") == []
    assert names(unknown="parameter", sort="original_name") == ["a.csv", "b.txt"]


@with_subtests(
    "query",
    [
        "sort=size",
        "sort=",
        "status=gone",
        "deleted=maybe",
        "recursive=2",
        "folder=7x",
        "tag=%00",
        "file_type=%00",
        "owner=",
        "limit=1&limit=2",
        "tag=" + "x" * 300,
    ],
)
def test_invalid_list_queries(client: GatewayClient, query: str) -> None:
    answer = client.get(f"/api/files?{query}")
    assert (answer.status, answer.code) == (400, "invalid_input")


@pytest.mark.slow
@with_subtests(
    "act",
    [
        lambda c, f: c.get(f"/api/files/{f}"),
        lambda c, f: c.get(f"/api/files/{f}/history"),
        lambda c, f: c.patch(f"/api/files/{f}", json={"tags": ["x"]}),
        lambda c, f: c.delete(f"/api/files/{f}"),
        lambda c, f: c.delete(f"/api/files/{f}?permanent=true"),
        lambda c, f: c.post(f"/api/files/{f}/restore"),
        lambda c, f: c.put(f"/api/files/{f}/move", json={"target_folder_id": None}),
        lambda c, f: c.post(f"/api/files/{f}/copy", json={}),
        lambda c, f: c.get(f"/api/files/{f}/download"),
        lambda c, f: c.head(f"/api/files/{f}/download"),
        lambda c, f: c.get(f"/api/files/{f}/url"),
        lambda c, f: c.get(f"/api/files/{f}/preview"),
        lambda c, f: c.get(f"/api/files/archive?ids={f}"),
    ],
)
def test_T64_another_owners_file_is_404_except_for_admins(
    client: GatewayClient, other: GatewayClient, admin: GatewayClient, act: Callable[[GatewayClient, str], Answer]
) -> None:
    file = client.add("a.txt", b"text here")["id"]
    answer = act(other, file)
    assert answer.status == 404
    assert client.get(f"/api/files/{file}").json["is_deleted"] is False
    assert act(admin, file).status in (200, 201, 302, 415)
