"""A key that is limited to a folder reaches this and what is below it; the rest answers as if it did not exist (T63, T64)."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask

from db import Database
from services import Services
from tests.api.test_foreign_folders import UNKNOWN, WAYS_IN, told
from tests.browser import Browser
from tests.client import Answer, GatewayClient
from tests.conftest import NOTHING, Leftovers
from tests.presigned import put
from tests.rows import sql
from tests.services.uploads.test_intake import counted
from tests.subtests import with_subtests
from tests.tus import TUS
from tests.tus import begin as begin_tus
from tests.tus import path as tus_path
from tests.tus import upload as upload_tus


@dataclass(frozen=True)
class Tree:
    """Alice's folders: /outer/own/below and /outer/beside. The limited key's is ``own``."""

    outer: int
    own: int
    below: int
    beside: int


@pytest.fixture
def tree(client: GatewayClient) -> Tree:
    def folder(name: str, parent: int | None) -> int:
        made: int = client.post("/api/folders", json={"name": name, "parent_folder_id": parent}).json["id"]
        return made

    outer = folder("outer", None)
    own = folder("own", outer)
    return Tree(outer, own, folder("below", own), folder("beside", outer))


@pytest.fixture
def limited(client: GatewayClient, tree: Tree, services: Services) -> GatewayClient:
    return client.as_(services.keys.create_key("alice", folder_id=tree.own)[1])


@pytest.fixture
def files(client: GatewayClient, tree: Tree) -> dict[str, str]:
    """The ids of a file in each folder and in the root."""
    places = {"root": None, "outer": tree.outer, "own": tree.own, "below": tree.below, "beside": tree.beside}
    return {
        name: client.add(f"{name}.txt", name.encode(), **({} if folder is None else {"folder_id": str(folder)}))["id"]
        for name, folder in places.items()
    }


OUTSIDE = ("root", "outer", "beside")


def missing(answer: Answer) -> bool:
    return (answer.status, answer.code) == (404, "not_found")


def names(answer: Answer) -> set[str]:
    assert answer.status == 200, answer.body
    return {(item.get("file") or item)["original_name"] for item in answer.json["items"]}


# -- what it sees ----------------------------------------------------------------------------------------------------------


def test_T63_lists_searches_and_suggestions_show_its_folder(
    limited: GatewayClient, client: GatewayClient, tree: Tree, files: dict[str, str], services: Services
) -> None:
    services.search.index()
    seen = {"own.txt", "below.txt"}
    listed = limited.get("/api/files")
    assert names(listed) == seen and listed.json["total"] == 2
    assert names(limited.get(f"/api/files?folder={tree.own}")) == {"own.txt"}
    assert names(limited.get(f"/api/files?folder={tree.own}&recursive=true")) == seen
    assert names(limited.get("/api/files?recursive=true&sort=original_name")) == seen
    found = limited.get("/api/search?query=txt&facets=folder,file_type")
    assert names(found) == seen and found.json["total"] == 2
    assert {facet["value"] for facet in found.json["facets"]["folder"]} == {tree.own, tree.below}
    assert names(limited.get(f"/api/search?query=txt&folder={tree.below}")) == {"below.txt"}
    assert names(limited.get("/api/search")) == seen
    assert limited.get("/api/search/suggest?prefix=b").json["items"] == ["below.txt", "below"]
    assert "beside.txt" in client.get("/api/search/suggest?prefix=b").json["items"]
    for folder in (tree.outer, tree.beside, UNKNOWN, "root"):
        assert missing(limited.get(f"/api/files?folder={folder}")), folder
        assert missing(limited.get(f"/api/search?folder={folder}")), folder
    assert limited.get("/api/files?owner=*").status == limited.get("/api/search?owner=*").status == 403
    assert limited.get("/api/storage/stats").status == 403

    for name in ("own", "beside"):
        assert client.delete(f"/api/files/{files[name]}").status == 200
    assert names(limited.get("/api/files?deleted=true")) == {"own.txt"}
    services.search.index()
    assert names(limited.get("/api/search?query=is:deleted")) == {"own.txt"}


def test_T63_its_folder_is_the_top_of_the_tree(limited: GatewayClient, client: GatewayClient, tree: Tree) -> None:
    (own,) = limited.get("/api/folders").json["items"]
    (below,) = own["children"]
    assert (own["id"], own["parent_id"], own["path"]) == (tree.own, None, "/own")
    assert (below["id"], below["parent_id"], below["path"]) == (tree.below, tree.own, "/own/below")
    flat = limited.get("/api/folders?flat=true").json
    assert [(item["id"], item["path"]) for item in flat["items"]] == [(tree.own, "/own"), (tree.below, "/own/below")]
    assert flat["total"] == 2
    assert limited.get(f"/api/folders/{tree.own}").json == {k: v for k, v in own.items() if k != "children"}
    assert limited.get(f"/api/folders/{tree.below}").json["path"] == "/own/below"
    assert client.get(f"/api/folders/{tree.below}").json["path"] == "/outer/own/below"
    assert told(limited.get(f"/api/folders/{tree.outer}")) == told(limited.get(f"/api/folders/{UNKNOWN}"))


def single(file: str, target: int) -> dict[str, Callable[[GatewayClient], Answer]]:
    """Each request for one file."""
    address = f"/api/files/{file}"
    return {
        "details": lambda key: key.get(address),
        "verify": lambda key: key.get(f"{address}?verify=true"),
        "history": lambda key: key.get(f"{address}/history"),
        "download": lambda key: key.get(f"{address}/download"),
        "url": lambda key: key.get(f"{address}/url?expires_in=86400"),
        "preview": lambda key: key.get(f"{address}/preview"),
        "zip": lambda key: key.get(f"/api/files/archive?ids={file}"),
        "change": lambda key: key.patch(address, json={"visibility": "public"}),
        "move": lambda key: key.put(f"{address}/move", json={"target_folder_id": target}),
        "copy": lambda key: key.post(f"{address}/copy", json={"target_folder_id": target}),
        "trash": lambda key: key.delete(address),
        "restore": lambda key: key.post(f"{address}/restore"),
        "purge": lambda key: key.delete(f"{address}?permanent=true"),
    }


def test_T64_a_file_outside_is_like_one_that_does_not_exist(
    limited: GatewayClient, client: GatewayClient, tree: Tree, files: dict[str, str]
) -> None:
    before = {name: client.get(f"/api/files/{files[name]}").json for name in OUTSIDE}
    for name in OUTSIDE:
        for step, send in single(files[name], tree.own).items():
            answer = send(limited)
            unknown = single(str(uuid4()), tree.own)[step](limited)
            assert missing(answer) and told(answer) == told(unknown), (name, step, answer.body)
    actions = ({"action": "move", "target_folder_id": tree.own}, {"action": "tag", "add": ["x"]}, {"action": "purge"})
    for action in (*actions, {"action": "delete"}, {"action": "restore"}):
        batch = {**action, "ids": [files[name] for name in OUTSIDE]}
        results = limited.post("/api/files/batch", json=batch).json["results"]
        assert [result["status"] for result in results] == [404] * 3, action
    assert {name: client.get(f"/api/files/{files[name]}").json for name in OUTSIDE} == before
    trashed = client.add("trashed.txt", b"t", folder_id=str(tree.beside))["id"]
    client.delete(f"/api/files/{trashed}")
    assert missing(limited.post(f"/api/files/{trashed}/restore"))


def test_T64_inside_everything_works(limited: GatewayClient, tree: Tree, files: dict[str, str]) -> None:
    for step, send in single(files["own"], tree.below).items():
        assert send(limited).status in (200, 201, 302), step
    archive = limited.get(f"/api/files/archive?folder={tree.own}")
    with zipfile.ZipFile(io.BytesIO(archive.body)) as opened:
        assert set(opened.namelist()) == {"below/below.txt", "below/own (1).txt"}
    assert missing(limited.get(f"/api/files/archive?folder={tree.outer}"))
    new = limited.post("/api/folders", json={"name": "new"}).json
    assert (new["parent_id"], new["path"]) == (tree.own, "/own/new")
    assert limited.add("in-new.txt", folder_id=str(new["id"]))["folder_id"] == new["id"]  # at once
    change = {"name": "newer", "parent_folder_id": tree.below}
    assert limited.patch(f"/api/folders/{new['id']}", json=change).json["path"] == "/own/below/newer"
    assert limited.delete(f"/api/folders/{new['id']}?recursive=true").status == 200


def test_T64_nothing_leaves_its_folder(
    limited: GatewayClient, client: GatewayClient, tree: Tree, files: dict[str, str]
) -> None:
    address = f"/api/files/{files['own']}"
    for target in (None, tree.outer, tree.beside, UNKNOWN):
        assert missing(limited.put(f"{address}/move", json={"target_folder_id": target})), target
        assert missing(limited.post(f"{address}/copy", json={"target_folder_id": target})), target
        batch = {"action": "move", "ids": [files["own"]], "target_folder_id": target}
        (result,) = limited.post("/api/files/batch", json=batch).json["results"]
        assert result["status"] == 404, target
        assert missing(limited.patch(f"/api/folders/{tree.below}", json={"parent_folder_id": target})), target
        if target is not None:
            assert missing(limited.post("/api/folders", json={"name": "x", "parent_folder_id": target})), target
            assert missing(limited.patch(f"/api/folders/{target}", json={"name": "x"})), target
            assert missing(limited.delete(f"/api/folders/{target}?recursive=true")), target
    # Its own folder lies in another one: its name, its place and whether it exists are not the key's to change.
    for change in ({"name": "x"}, {"parent_folder_id": tree.below}, {"parent_folder_id": None}, {"description": "x"}):
        assert limited.patch(f"/api/folders/{tree.own}", json=change).status == 403, change
    assert limited.delete(f"/api/folders/{tree.own}?recursive=true").status == 403
    assert client.get(f"/api/folders/{tree.below}").json["path"] == "/outer/own/below"
    assert client.get(address).json["folder_id"] == tree.own


def test_T63_a_session_of_the_key_reaches_no_further(
    app: Flask, limited: GatewayClient, tree: Tree, files: dict[str, str]
) -> None:
    browser = Browser(app)
    browser.sign_in(limited.key)
    assert names(browser.get("/api/files")) == {"own.txt", "below.txt"}
    assert missing(browser.get(f"/api/files/{files['beside']}"))


def test_public_files_outside_stay_readable_as_for_anybody(
    limited: GatewayClient, client: GatewayClient, other: GatewayClient, files: dict[str, str]
) -> None:
    client.patch(f"/api/files/{files['beside']}", json={"visibility": "public"})
    address = f"/api/files/{files['beside']}"
    assert limited.get(address).json == other.get(address).json
    assert "statistics" not in limited.get(f"{address}?verify=true").json
    assert limited.get(f"{address}/download").status == 302
    assert missing(limited.patch(address, json={"visibility": "private"}))
    assert missing(limited.post(f"{address}/copy", json={}))
    assert names(limited.get("/api/files")) == {"own.txt", "below.txt"}


@with_subtests("path", ["/api/files", "/api/files/{file}", "/api/search?query=own", "/api/folders"])
def test_a_limited_key_costs_one_more_statement(
    limited: GatewayClient,
    client: GatewayClient,
    files: dict[str, str],
    services: Services,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.access.keys.CACHED", 60.0)
    numbers = []
    for key in (client, limited):
        key.get(path.format(file=files["own"]))  # the key is read, and its use is noted
        with counted(services) as log:
            assert key.get(path.format(file=files["own"])).status == 200
        numbers.append(len(log.statements))
    assert numbers[1] <= numbers[0] + 1


# -- uploads ---------------------------------------------------------------------------------------------------------------


@with_subtests("way", WAYS_IN)
def test_T63_uploads_to_other_folders_are_refused(
    limited: GatewayClient, tree: Tree, leftovers: Leftovers, db: Database, way: str
) -> None:
    unknown = WAYS_IN[way](limited, UNKNOWN)
    for folder in (tree.outer, tree.beside):
        answer = WAYS_IN[way](limited, folder)
        assert missing(answer) and told(answer) == told(unknown), answer.body
    assert leftovers() == NOTHING
    assert sql(db, "select (select count(*) from uploads) + (select count(*) from upload_sessions)") == [(0,)]


def test_T63_uploads_go_to_its_folder_by_default(
    limited: GatewayClient, client: GatewayClient, tree: Tree, db: Database
) -> None:
    assert limited.add("form.txt")["folder_id"] == tree.own
    assert limited.put("/api/upload/raw.txt", data=b"raw").json["folder_id"] == tree.own
    assert limited.put(f"/api/upload/raw.txt?folder_id={tree.below}", data=b"raw").json["folder_id"] == tree.below
    file = upload_tus(limited, b"tus").headers["Upload-File-Id"]
    assert client.get(f"/api/files/{file}").json["folder_id"] == tree.own
    limited.post("/api/uploads", json={"filename": "a.txt", "size": 1})
    limited.get("/s3/params?filename=a.txt&type=text/plain")
    limited.post("/s3/multipart", json={"filename": "a.bin"})
    limited.post("/s3/sign", json={"method": "PUT", "key": "a.txt", "size": 1})
    begun = "select protocol, folder_id, count(*) from uploads where status <> 'done' group by 1, 2 order by 1"
    assert sql(db, begun) == [("direct", tree.own, 1), ("s3", tree.own, 3)]
    answer = limited.upload(("a.txt", b"hello"), on_duplicate="reject")
    assert (answer.status, answer.code) == (403, "not_allowed")  # it would tell what other folders have


def test_T64_uploads_to_other_folders_are_not_its_own(
    limited: GatewayClient, client: GatewayClient, tree: Tree
) -> None:
    begun = client.post("/api/uploads", json={"filename": "a.txt", "size": 1}).json["id"]
    parts = client.post("/s3/multipart", json={"filename": "a.bin", "metadata": {"folder_id": tree.beside}}).json
    tus = tus_path(begin_tus(client, 4))
    partial = [tus_path(begin_tus(client, 1, headers={"Upload-Concat": "partial"})) for _ in range(2)]
    within = client.post("/api/uploads", json={"filename": "b.txt", "size": 1, "folder_id": tree.below}).json["id"]

    assert [upload["id"] for upload in limited.get("/api/uploads").json["items"]] == [within]
    assert limited.get(f"/api/uploads/{within}").status == 200
    for answer in (
        limited.get(f"/api/uploads/{begun}"),
        limited.post(f"/api/uploads/{begun}/parts", json={"part_numbers": [1]}),
        limited.post(f"/api/uploads/{begun}/complete"),
        limited.delete(f"/api/uploads/{begun}"),
        limited.get(f"/s3/multipart/{parts['uploadId']}?key={parts['key']}"),
        limited.get(f"/s3/multipart/{parts['uploadId']}/1?key={parts['key']}"),
        limited.delete(f"/s3/multipart/{parts['uploadId']}?key={parts['key']}"),
        limited.head(tus, headers=TUS),
        limited.patch(
            tus, data=b"x", headers={**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        ),
        limited.delete(tus, headers=TUS),
        limited.post("/api/tus", headers={**TUS, "Upload-Concat": f"final;{' '.join(partial)}"}),
    ):
        assert answer.status == 404, answer.body
    assert client.get(f"/api/uploads/{begun}").json["status"] == "pending"


def test_T64_a_repeated_completion_does_not_show_a_file_that_was_moved_away(
    limited: GatewayClient, client: GatewayClient, tree: Tree
) -> None:
    begun = limited.post("/api/uploads", json={"filename": "a.txt", "size": 1}).json
    put(begun["url"], b"a", begun["headers"])
    complete = f"/api/uploads/{begun['id']}/complete"
    file = limited.post(complete).json
    assert limited.post(complete).json["id"] == file["id"]
    client.put(f"/api/files/{file['id']}/move", json={"target_folder_id": tree.beside})
    assert missing(limited.post(complete))


def test_T63_sessions_and_repeated_requests_of_wider_keys_are_not_its_own(
    limited: GatewayClient, client: GatewayClient, admin: GatewayClient, services: Services, tree: Tree
) -> None:
    named = {"Upload-Session": "shared"}
    client.upload(("a.txt", b"a"), ("b.txt", b"b"), headers=named)
    assert limited.upload(("c.txt", b"c"), headers=named).json["session"]["files_uploaded"] == 1
    once = {"Idempotency-Key": "same"}
    wider = client.post("/api/folders", json={"name": "same"}, headers=once)
    narrow = limited.post("/api/folders", json={"name": "same"}, headers=once)
    assert (wider.json["parent_id"], narrow.json["parent_id"]) == (None, tree.own)
    again = limited.post("/api/folders", json={"name": "same"}, headers=once)
    assert again.json == narrow.json and again.headers["Idempotency-Replayed"] == "true"
    # An admin's answers may be about the files of others; the admin's owner has keys of the role user too.
    theirs = client.add("private.txt")
    copied = admin.post(f"/api/files/{theirs['id']}/copy", json={}, headers=once)
    user = admin.as_(services.keys.create_key("root")[1])
    assert copied.status == 201
    assert missing(user.post(f"/api/files/{theirs['id']}/copy", json={}, headers=once))


def test_T84_cursors_of_wider_keys_are_refused(
    limited: GatewayClient, client: GatewayClient, files: dict[str, str], services: Services
) -> None:
    services.search.index()
    for _ in range(2):
        client.post("/api/uploads", json={"filename": "a.txt", "size": 1})
        client.post("/api/upload-tokens", json={"owner_id": "alice"})
    for path in ("/api/files?", "/api/folders?flat=true&", "/api/uploads?", "/api/upload-tokens?", "/api/search?"):
        cursor = client.get(f"{path}limit=1").json["next_cursor"]
        answer = limited.get(f"{path}limit=1&cursor={cursor}")
        assert cursor and (answer.status, answer.code) == (400, "invalid_cursor"), path


# -- upload tokens ---------------------------------------------------------------------------------------------------------


def test_T63_its_upload_tokens_reach_no_further(limited: GatewayClient, client: GatewayClient, tree: Tree) -> None:
    def token(maker: GatewayClient, **members: Any) -> Answer:
        return maker.post("/api/upload-tokens", json={"owner_id": "alice", **members})

    for folder in (tree.outer, tree.beside, UNKNOWN):
        assert missing(token(limited, folder_id=folder))
    wide, made = token(client), token(limited)
    bearer = client.as_(made.json["token"])
    placed = bearer.upload(("a.txt", b"a"))
    file = client.get("/api/files?sort=-uploaded_at").json["items"][0]
    assert placed.status == 201 and (file["original_name"], file["folder_id"]) == ("a.txt", tree.own)
    assert [item["id"] for item in limited.get("/api/upload-tokens").json["items"]] == [made.json["id"]]
    assert limited.get("/api/upload-tokens").json["total"] == 1
    assert missing(limited.delete(f"/api/upload-tokens/{wide.json['id']}"))

    inner = client.as_(token(limited, folder_id=tree.below).json["token"])
    assert client.patch(f"/api/folders/{tree.below}", json={"parent_folder_id": tree.beside}).status == 200
    assert missing(inner.upload(("b.txt", b"b")))  # its folder is no longer in its key's
    assert limited.delete(f"/api/upload-tokens/{made.json['id']}").status == 204
    assert bearer.upload(("c.txt", b"c")).status == 401


# -- a folder that is gone -------------------------------------------------------------------------------------------------


def test_T63_without_its_folder_a_key_reaches_nothing(
    limited: GatewayClient, client: GatewayClient, tree: Tree, files: dict[str, str]
) -> None:
    token = client.as_(limited.post("/api/upload-tokens", json={"owner_id": "alice"}).json["token"])
    begun = limited.post("/api/uploads", json={"filename": "a.txt", "size": 1}).json["id"]
    assert client.delete(f"/api/folders/{tree.own}?recursive=true").status == 200
    assert limited.get("/api/files").json == {"items": [], "next_cursor": None, "total": 0}
    assert limited.get("/api/files?deleted=true").json["items"] == []
    assert limited.get("/api/search").json["items"] == limited.get("/api/folders").json["items"] == []
    assert limited.get("/api/upload-tokens").json["items"] == []
    assert [upload["id"] for upload in limited.get("/api/uploads").json["items"]] == [begun]  # its own
    assert limited.get("/api/search/suggest?prefix=r").json["items"] == []
    for file in files.values():
        assert missing(limited.get(f"/api/files/{file}"))
    for way, send in WAYS_IN.items():
        assert missing(send(limited, tree.own)), way
    for answer in (
        limited.upload(("a.txt", b"a")),
        limited.put("/api/upload/a.txt", data=b"a"),
        begin_tus(limited, 1),
        limited.post("/api/uploads", json={"filename": "a.txt", "size": 1}),
        limited.post("/api/folders", json={"name": "x"}),
        limited.post("/api/upload-tokens", json={"owner_id": "alice"}),
        token.upload(("a.txt", b"a")),
        begin_tus(token, 1),
    ):
        assert answer.status == 404, answer.body
    assert names(client.get("/api/files")) == {"root.txt", "outer.txt", "beside.txt"}
