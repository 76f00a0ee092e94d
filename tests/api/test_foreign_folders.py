"""For every protocol, another owner's folder gives the same error as one that does not exist."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlencode

import psycopg
import pytest

from db import Database
from services import Services
from tests.client import Answer, GatewayClient
from tests.conftest import NOTHING, Leftovers
from tests.subtests import with_subtests
from tests.tus import begin as begin_tus

UNKNOWN = 2**31 - 1

WAYS_IN: dict[str, Callable[[GatewayClient, int], Answer]] = {
    "form": lambda client, folder: client.upload(("a.txt", b"a"), folder_id=str(folder)),
    "raw": lambda client, folder: client.put(f"/api/upload/a.txt?folder_id={folder}", data=b"a"),
    "direct": lambda client, folder: client.post(
        "/api/uploads", json={"filename": "a.txt", "size": 1, "folder_id": folder}
    ),
    "direct, in parts": lambda client, folder: client.post(
        "/api/uploads", json={"filename": "a.bin", "size": 20_000_000, "folder_id": folder}
    ),
    "tus": lambda client, folder: begin_tus(client, 1, folder_id=str(folder)),
    "tus, of unknown length": lambda client, folder: begin_tus(client, None, folder_id=str(folder)),
    "tus, with bytes": lambda client, folder: begin_tus(client, 0, folder_id=str(folder)),
    "draft": lambda client, folder: client.post(
        f"/api/tus?folder_id={folder}",
        data=b"a",
        headers={"Upload-Draft-Interop-Version": "6", "Upload-Complete": "?1"},
    ),
    "s3 form": lambda client, folder: client.get(
        f"/s3/params?{urlencode({'filename': 'a.txt', 'metadata[folder_id]': folder})}"
    ),
    "s3 multipart": lambda client, folder: client.post(
        "/s3/multipart", json={"filename": "a.bin", "metadata": {"folder_id": folder}}
    ),
    "s3 sign": lambda client, folder: client.post(
        "/s3/sign", json={"method": "PUT", "key": "a.txt", "size": 1, "metadata": {"folder_id": folder}}
    ),
    "upload token": lambda client, folder: client.post(
        "/api/upload-tokens", json={"owner_id": "alice", "folder_id": folder}
    ),
}


def folder_of(client: GatewayClient) -> int:
    made: int = client.post("/api/folders", json={"name": "Theirs"}).json["id"]
    return made


def told(answer: Answer) -> dict[str, object]:
    return {name: value for name, value in answer.json.items() if name != "request_id"}


@pytest.fixture
def theirs(other: GatewayClient) -> int:
    return folder_of(other)


@with_subtests("way", WAYS_IN)
def test_T134_foreign_folders_look_missing(
    client: GatewayClient, theirs: int, leftovers: Leftovers, db: Database, way: str
) -> None:
    send = WAYS_IN[way]
    foreign, unknown = send(client, theirs), send(client, UNKNOWN)
    assert (foreign.status, foreign.code) == (404, "not_found"), foreign.body
    assert told(foreign) == told(unknown)
    assert leftovers() == NOTHING
    with db.connection() as tx:  # not even a session or an upload token
        for table in ("uploads", "upload_sessions", "upload_tokens", "files"):
            assert tx.execute(f"select count(*) from {table}").fetchone() == (0,), table


def test_T134_foreign_folders_are_404_for_tokens_and_admins(
    client: GatewayClient, theirs: int, admin: GatewayClient, leftovers: Leftovers
) -> None:
    token = client.as_(client.post("/api/upload-tokens", json={"owner_id": "alice"}).json["token"])
    for uploader in (token, admin):
        for way in ("form", "raw", "direct", "tus", "s3 form", "s3 sign"):
            assert WAYS_IN[way](uploader, theirs).status == 404, way
    assert leftovers() == NOTHING


def test_T134_foreign_folders_are_404_for_moves_copies_and_batches(
    client: GatewayClient, theirs: int, admin: GatewayClient
) -> None:
    file, mine = client.add("a.txt"), folder_of(client)
    for who in (client, admin):  # not even an admin moves alice's file into bob's folder
        for target in (theirs, UNKNOWN):
            address = f"/api/files/{file['id']}"
            assert who.put(f"{address}/move", json={"target_folder_id": target}).status == 404
            assert who.post(f"{address}/copy", json={"target_folder_id": target}).status == 404
            batch = {"action": "move", "ids": [file["id"]], "target_folder_id": target}
            (result,) = who.post("/api/files/batch", json=batch).json["results"]
            assert result["problem"]["code"] == "not_found"
            assert who.patch(f"/api/folders/{mine}", json={"parent_folder_id": target}).status == 404
    assert client.get(f"/api/files/{file['id']}").json["folder_id"] is None


@pytest.mark.parametrize("way", ["form", "raw"])
def test_T134_no_byte_is_stored_for_a_foreign_folder(
    client: GatewayClient, theirs: int, services: Services, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    def put(*arguments: object, **options: object) -> None:
        raise AssertionError("bytes went to the bucket")

    monkeypatch.setattr(services.intake._store, "put", put)
    assert WAYS_IN[way](client, theirs).status == 404


@pytest.mark.parametrize("table", ["uploads", "files"])
def test_T134_tables_reject_foreign_folders(client: GatewayClient, theirs: int, db: Database, table: str) -> None:
    begun = client.post("/api/uploads", json={"filename": "a.txt", "size": 1})
    token = client.post("/api/upload-tokens", json={"owner_id": "alice"})
    assert (begun.status, token.status, client.add("b.txt")["folder_id"]) == (201, 201, None)
    with pytest.raises(psycopg.errors.ForeignKeyViolation), db.connection() as tx:
        tx.execute(f"update {table} set folder_id = %s", [theirs])
