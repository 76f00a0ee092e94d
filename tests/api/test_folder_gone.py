"""A folder is deleted while an upload into it goes on: no byte is lost (T146)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

from db import Database, folders
from services import Services
from tests import tus
from tests.api.test_key_folders import missing
from tests.api.test_s3_uploads import Multipart, post_form
from tests.client import Answer, GatewayClient, form_data
from tests.conftest import NOTHING, Leftovers
from tests.presigned import put
from tests.rows import sql
from tests.subtests import with_subtests

DATA = b"first half, second half"
Delete = Callable[[], object]


def cut(data: bytes, delete: Delete) -> Iterator[bytes]:
    """A body that is half sent when the folder is deleted."""
    yield data[: len(data) // 2]
    delete()
    yield data[len(data) // 2 :]


def raw(client: GatewayClient, folder: int, delete: Delete) -> Answer:
    return client.put("/api/upload/a.txt", data=cut(DATA, delete), params={"folder_id": folder})


def raw_in_parts(client: GatewayClient, folder: int, delete: Delete) -> Answer:
    """The upload is admitted when its first part is full."""

    def body() -> Iterator[bytes]:
        delete()
        for _ in range(9):
            yield DATA + bytes(2**20)

    return client.put("/api/upload/a.bin", data=body(), params={"folder_id": folder})


def form(client: GatewayClient, folder: int, delete: Delete, *, fields_last: bool = False) -> Answer:
    body, media_type = form_data([("a.txt", DATA)], {"folder_id": str(folder)}, fields_last=fields_last)
    return client.post("/api/upload", data=cut(body, delete), headers={"Content-Type": media_type})


def direct(client: GatewayClient, folder: int, delete: Delete) -> Answer:
    body = {"filename": "a.txt", "size": len(DATA), "folder_id": folder}
    answer = client.post("/api/uploads", json=body)
    if answer.status == 404:
        return answer
    begun = answer.json
    put(begun["url"], DATA, begun["headers"])
    delete()
    return client.post(f"/api/uploads/{begun['id']}/complete", json={})


def s3(client: GatewayClient, folder: int, delete: Delete) -> Answer:
    upload = Multipart(client, folder_id=folder)
    etag = upload.put(1, DATA)
    delete()
    return upload.complete(etag)


def s3_form(client: GatewayClient, folder: int, delete: Delete) -> None:
    query = {"filename": "a.txt", "type": "text/plain", "metadata[folder_id]": folder}
    assert post_form(client.get("/s3/params", params=query).json, DATA).ok
    delete()


def s3_xml(client: GatewayClient, folder: int, delete: Delete) -> Answer:
    begun = {"method": "POST", "key": "a.txt", "metadata": {"folder_id": folder}}
    upload = client.post("/s3/sign", json=begun).json
    part = {"method": "PUT", "key": upload["key"], "partNumber": 1, "uploadId": upload["id"]}
    etag = put(client.post("/s3/sign", json=part).json["url"], DATA)
    delete()
    complete = {"method": "POST", "key": upload["key"], "uploadId": upload["id"]}
    address = client.post("/s3/sign", json=complete).json["url"].removeprefix("http://gateway.test")
    parts = f"<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>"
    body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>"
    return client.post(address, data=body.encode())


def tus_patch(client: GatewayClient, folder: int, delete: Delete, size: int | None = len(DATA)) -> Answer:
    begun = tus.begin(client, size, name="a.txt", folder_id=str(folder))
    if begun.status == 404:
        return begun
    where = tus.path(begun)
    length = {} if size is not None else {"Upload-Length": str(len(DATA))}
    return tus.patch(client, where, 0, cut(DATA, delete), **length)


def tus_creation_with_upload(client: GatewayClient, folder: int, delete: Delete) -> Answer:
    sent = {**tus.BYTES, "Upload-Length": str(len(DATA)), "Upload-Metadata": tus.metadata(folder_id=str(folder))}
    return client.post("/api/tus", data=cut(DATA, delete), headers=sent)


def tus_concatenation(client: GatewayClient, folder: int, delete: Delete) -> Answer:
    """The folder is first named when all bytes have arrived."""
    whole = {"Upload-Concat": "partial"}
    partial = tus.path(tus.begin(client, len(DATA), headers=whole))
    assert tus.patch(client, partial, 0, DATA).status == 204
    delete()
    sent = {**tus.TUS, "Upload-Concat": f"final;{partial}", "Upload-Metadata": tus.metadata(folder_id=str(folder))}
    return client.post("/api/tus", headers=sent)


def draft(client: GatewayClient, folder: int, delete: Delete) -> Answer:
    headers = {"Upload-Draft-Interop-Version": "8", "Upload-Complete": "?1"}
    return client.post("/api/tus", data=cut(DATA, delete), headers=headers, params={"folder_id": folder})


WAYS: dict[str, Callable[[GatewayClient, int, Delete], Answer | None]] = {
    "raw": raw,
    "raw, in parts": raw_in_parts,
    "form": form,
    "form, folder last": lambda *arguments: form(*arguments, fields_last=True),
    "direct": direct,
    "s3": s3,
    "s3 form": s3_form,
    "s3 XML": s3_xml,
    "tus": tus_patch,
    "tus, of unknown length": lambda *arguments: tus_patch(*arguments, size=None),
    "tus, creation with upload": tus_creation_with_upload,
    "tus, concatenation": tus_concatenation,
    "draft": draft,
}


def folder_in(client: GatewayClient, parent: int | None, name: str) -> int:
    made: int = client.post("/api/folders", json={"name": name, "parent_folder_id": parent}).json["id"]
    return made


def deleting(client: GatewayClient, *folder_ids: int) -> Delete:
    def delete() -> None:
        for folder_id in folder_ids:
            assert client.delete(f"/api/folders/{folder_id}?recursive=true").status == 200

    return delete


def newest(client: GatewayClient, services: Services) -> dict[str, Any]:
    """The newest file, completed and checked."""
    assert services.direct is not None
    services.direct.sweep()
    file = client.get("/api/files?limit=1").json["items"][0]
    services.verification.check(UUID(file["id"]))
    found: dict[str, Any] = client.get(f"/api/files/{file['id']}").json
    return found


@with_subtests("way", WAYS)
def test_T146_the_file_goes_to_the_nearest_folder_that_lives(
    client: GatewayClient, services: Services, leftovers: Leftovers, way: str
) -> None:
    """Of /way/b/c/d, b is deleted at once or, to the root, first b and then what it left."""
    for deleted, lands in ((1,), 0), ((2, 1, 0), None):
        place = [folder_in(client, None, f"{way} {lands}")]
        for name in "bcd":
            place.append(folder_in(client, place[-1], name))
        taken = client.add("a.txt", way.encode(), **({} if lands is None else {"folder_id": str(place[lands])}))
        answer = WAYS[way](client, place[-1], deleting(client, *(place[number] for number in deleted)))
        assert answer is None or answer.status in (200, 201, 204), answer.body
        file = newest(client, services)
        assert (file["id"] != taken["id"], file["status"]) == (True, "ready")
        assert file["folder_id"] == (None if lands is None else place[lands])
        assert file["problem"]["code"] == "folder_gone" and "folder" in file["problem"]["detail"]
        if file["original_name"].startswith("a") and file["original_name"].endswith("txt"):
            assert file["original_name"].startswith("a (")  # numbered
    assert leftovers() == NOTHING


@with_subtests("way", [way for way in WAYS if way not in ("s3 XML", "tus, concatenation")])
def test_T146_a_tokens_file_goes_to_the_root_and_is_private(
    client: GatewayClient, services: Services, way: str
) -> None:
    outer = folder_in(client, None, way)
    folder = folder_in(client, outer, "b")
    body = {"owner_id": "alice", "visibility": "public"}
    token = client.as_(client.post("/api/upload-tokens", json=body).json["token"])
    answer = WAYS[way](token, folder, deleting(client, folder))
    assert answer is None or answer.status in (200, 201, 204), answer.body
    file = newest(client, services)
    assert (file["folder_id"], file["visibility"], file["problem"]["code"]) == (None, "private", "folder_gone")


@with_subtests("way", WAYS)
def test_T63_T146_a_limited_keys_file_is_the_owners_and_out_of_its_reach(
    client: GatewayClient, anonymous: GatewayClient, services: Services, way: str
) -> None:
    """The key can finish what it began, and then sees nothing of it."""
    outer = folder_in(client, None, way)
    own = folder_in(client, outer, "own")
    limited = client.as_(services.keys.create_key("alice", folder_id=own)[1])
    answer = WAYS[way](limited, own, deleting(client, own))
    assert answer is None or answer.status in (200, 201, 204), answer.body
    file = newest(client, services)
    assert (file["folder_id"], file["visibility"], file["problem"]["code"]) == (outer, "private", "folder_gone")
    assert missing(limited.get(f"/api/files/{file['id']}"))
    assert limited.get("/api/files").json["items"] == limited.get("/api/uploads").json["items"] == []
    assert anonymous.get(f"/api/files/{file['id']}").status == 401


def test_T146_a_folder_that_was_deleted_before_is_404(client: GatewayClient, db: Database) -> None:
    folder = folder_in(client, None, "a")
    deleting(client, folder)()
    sql(db, "update deleted_folders set deleted_at = now() - interval '1 minute'")
    for way in ("raw", "form", "form, folder last"):
        assert missing(WAYS[way](client, folder, lambda: None)), way  # type: ignore[arg-type]
    assert client.get("/api/files").json["items"] == []


def test_T146_a_move_clears_the_problem_and_an_edit_does_not(client: GatewayClient) -> None:
    def landed() -> str:
        folder = folder_in(client, None, "a")
        answer = raw(client, folder, deleting(client, folder))
        assert answer.status == 201, answer.body
        found: str = answer.json["id"]
        return found

    def code(file: str) -> str | None:
        return (client.get(f"/api/files/{file}").json["problem"] or {}).get("code")

    files = [landed() for _ in range(3)]
    target = folder_in(client, None, "b")
    client.patch(f"/api/files/{files[0]}", json={"original_name": "b.txt", "tags": ["x"]})
    client.delete(f"/api/files/{files[0]}")
    client.post(f"/api/files/{files[0]}/restore")
    assert [code(file) for file in files] == ["folder_gone"] * 3
    client.put(f"/api/files/{files[0]}/move", json={"target_folder_id": target})
    client.put(f"/api/files/{files[1]}/move", json={"target_folder_id": None})  # where it is: then it is right there
    client.post("/api/files/batch", json={"action": "move", "ids": files[2:], "target_folder_id": target})
    assert [code(file) for file in files] == [None] * 3


def test_T146_deletions_race_with_uploads(client: GatewayClient, leftovers: Leftovers) -> None:
    """Whatever comes first: each accepted file is in the root, or went to the trash with its folder."""
    answers: list[Answer] = []
    with ThreadPoolExecutor(8) as pool:
        for number in range(4):
            outer = folder_in(client, None, f"outer {number}")
            folder = folder_in(client, outer, "inner")
            sent = [pool.submit(WAYS[way], client, folder, lambda: None) for way in ("raw", "form", "direct", "tus")]
            gone = [pool.submit(client.delete, f"/api/folders/{f}?recursive=true") for f in (folder, outer)]
            assert {future.result().status for future in gone} <= {200, 404}
            answers += [answer for future in sent if (answer := future.result()) is not None]
    assert {answer.status for answer in answers} <= {201, 204, 404}
    kept, trashed = (client.get(f"/api/files?deleted={which}").json["items"] for which in ("false", "true"))
    assert len(kept) + len(trashed) == sum(answer.status != 404 for answer in answers)
    assert all(file["folder_id"] is None for file in kept + trashed)
    assert {file["problem"]["code"] for file in kept} <= {"folder_gone"}
    assert leftovers() == NOTHING


def test_T145_deleted_folders_are_forgotten(client: GatewayClient, services: Services, db: Database) -> None:
    deleting(client, folder_in(client, None, "a"), folder_in(client, None, "b"))()
    sql(db, "update deleted_folders set deleted_at = now() - %s where id = (select min(id) from deleted_folders)",
        folders.REMEMBERED)  # fmt: skip
    services.janitor.run()
    assert sql(db, "select count(*) from deleted_folders") == [(1,)]
