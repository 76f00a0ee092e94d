"""Which rules an upload token's uploads follow if its folder or key changes, and what its user is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from db import Database
from services import Services
from tests import tus
from tests.api.test_s3_uploads import Multipart, post_form
from tests.api.test_upload_tokens import by_form, token_of
from tests.client import Answer, GatewayClient
from tests.conftest import NOTHING, Leftovers
from tests.file_types import BINARY, HTML, ftyp, ole, zipped
from tests.presigned import put
from tests.rows import sql

Finish = Callable[[], list[Answer]]
Way = Callable[..., tuple[list[Answer], Finish]]  # begins an upload, up to its last request


def _form(client: GatewayClient, name: str, data: bytes, **wishes: str) -> tuple[list[Answer], Finish]:
    return [], lambda: [by_form(client, name, data, **wishes)]


def _raw(client: GatewayClient, name: str, data: bytes, **wishes: str) -> tuple[list[Answer], Finish]:
    return [], lambda: [client.put(f"/api/upload/{name}", data=data, params=wishes)]


def _direct(client: GatewayClient, name: str, data: bytes, **wishes: str) -> tuple[list[Answer], Finish]:
    numbers = {"folder_id": int(wishes["folder_id"])} if "folder_id" in wishes else {}
    begun = client.post("/api/uploads", json={"filename": name, "size": len(data), **wishes, **numbers})
    if begun.status != 201:
        return [begun], list
    put(begun.json["url"], data, begun.json["headers"])
    address = f"/api/uploads/{begun.json['id']}"
    return [begun], lambda: [
        client.post(f"{address}/complete", json={}),
        client.post(f"{address}/complete", json={}),
        client.get(address),
    ]


def _tus(client: GatewayClient, name: str, data: bytes, **wishes: str) -> tuple[list[Answer], Finish]:
    query = {key: wishes.pop(key) for key in ("on_duplicate",) if key in wishes}
    pairs = tus.metadata(filename=name, **wishes)
    sent = {**tus.TUS, "Upload-Length": str(len(data)), "Upload-Metadata": pairs}
    begun = client.post("/api/tus", params=query, headers=sent)
    if begun.status != 201:
        return [begun], list
    where = tus.path(begun)
    return [begun], lambda: [
        tus.patch(client, where, 0, data),
        client.head(where, headers=tus.TUS),
        client.get(where.replace("tus", "uploads")),
    ]


def _multipart(client: GatewayClient, name: str, data: bytes, **wishes: str) -> tuple[list[Answer], Finish]:
    body = {"filename": name, "type": "text/plain", "metadata": wishes}
    answer = client.post("/s3/multipart", json=body)
    if answer.status != 200:
        return [answer], list
    upload = Multipart.__new__(Multipart)
    upload.client, upload.key, upload.id = client, answer.json["key"], answer.json["uploadId"]
    etag = upload.put(1, data)
    return [answer], lambda: [upload.complete(etag), upload.complete(etag)]


def _bucket_form(client: GatewayClient, name: str, data: bytes, **wishes: str) -> tuple[list[Answer], Finish]:
    query = {f"metadata[{key}]": value for key, value in wishes.items()}
    answer = client.get("/s3/params", params={"filename": name, "type": "text/plain", **query})
    if answer.status != 200:
        return [answer], list
    assert post_form(answer.json, data).ok
    return [answer], list  # the sweep finds it


WAYS: dict[str, Way] = {
    "form": _form,
    "raw": _raw,
    "direct": _direct,
    "tus": _tus,
    "s3": _multipart,
    "s3 form": _bucket_form,
}
TELLING = [name for name in WAYS if name not in ("s3", "s3 form")]  # those that accept on_duplicate


def path_of(answers: list[Answer]) -> str:
    return tus.path(answers[0])


def end(services: Services, finish: Finish) -> list[Answer]:
    answers = finish()
    assert services.direct is not None
    services.direct.sweep()
    return answers


def check_all(services: Services, client: GatewayClient) -> list[dict[str, Any]]:
    for file in client.get("/api/files").json["items"]:
        services.verification.check(UUID(file["id"]))
    found: list[dict[str, Any]] = client.get("/api/files").json["items"]
    return found


# -- list, revoke, end -------------------------------------------------------------------------------------------------


def test_T136_tokens_are_listed_without_secrets_and_revoked_at_once(
    client: GatewayClient, other: GatewayClient, admin: GatewayClient
) -> None:
    made = [client.post("/api/upload-tokens", json={"owner_id": "alice", "max_size": size}).json for size in (1, 2, 3)]
    theirs = other.post("/api/upload-tokens", json={"owner_id": "bob"}).json
    for_carol = admin.post("/api/upload-tokens", json={"owner_id": "carol", "visibility": "public"}).json

    first = client.get("/api/upload-tokens", params={"limit": 2})
    assert [item["id"] for item in first.json["items"]] == [made[2]["id"], made[1]["id"]]
    assert first.json["total"] == 3 and first.json["items"][0]["max_size"] == 3
    rest = client.get("/api/upload-tokens", params={"cursor": first.json["next_cursor"]}).json
    assert [item["id"] for item in rest["items"]] == [made[0]["id"]] and rest["next_cursor"] is None
    assert not any(one["token"] in first.body.decode() for one in made)
    assert other.get("/api/upload-tokens", params={"cursor": first.json["next_cursor"]}).code == "invalid_cursor"

    # An admin sees the tokens made with its own keys, or all on request.
    [shown] = admin.get("/api/upload-tokens").json["items"]
    assert (shown["id"], shown["owner_id"], shown["visibility"]) == (for_carol["id"], "carol", "public")
    assert admin.get("/api/upload-tokens", params={"owner": "*"}).json["total"] == 5
    assert client.get("/api/upload-tokens", params={"owner": "bob"}).code == "not_allowed"

    assert client.delete(f"/api/upload-tokens/{theirs['id']}").status == 404
    assert client.delete(f"/api/upload-tokens/{made[0]['id']}").status == 204
    assert client.delete(f"/api/upload-tokens/{made[0]['id']}").status == 404
    assert by_form(client.as_(made[0]["token"])).status == 401
    assert by_form(client.as_(made[1]["token"]), content=b"1").status == 201
    assert client.get("/api/upload-tokens").json["total"] == 2
    assert admin.delete(f"/api/upload-tokens/{theirs['id']}").status == 204
    assert by_form(other.as_(theirs["token"])).status == 401


def test_T136_a_token_ends_with_the_key_that_created_it(
    app: Any, services: Services, client: GatewayClient, admin: GatewayClient
) -> None:
    key, secret = services.keys.create_key("alice")
    token = token_of(client.as_(secret))
    upload = token.post("/s3/sign", json={"method": "POST", "key": "a.bin"}).json
    ticket = GatewayClient(app, None, check=False)
    address = upload["url"].removeprefix("http://gateway.test").replace("uploads&", "")
    assert by_form(token).status == 201 and ticket.get(address).status == 200
    assert admin.delete(f"/api/admin/keys/{key.id}").status == 204
    assert by_form(token).code == "not_authenticated"
    assert ticket.get(address).status == 403
    assert by_form(token_of(client)).status == 201  # another key of the owner made this one


# -- allowed types -----------------------------------------------------------------------------------------------------


def test_T10_an_allow_list_accepts_what_does_not_contradict_it(client: GatewayClient) -> None:
    for allowed, name, data, status in [
        ("xlsx", "salaries.xlsx", ole("EncryptedPackage"), 201),
        ("video/*", "C0001.MP4", ftyp(b"XAVC", b"mp42"), 201),
        ("pages", "letter.pages", zipped(("Index/Document.iwa", BINARY)), 201),
        ("csv", "export.csv", "Name;Betrag\r\n".encode("utf-16-le"), 201),
        ("ts", "app.ts", b"export const a = 1\n", 201),
        ("text/x-python", "run.py", b"import os\n", 201),
        ("md", "README.md", b"<h1>Head</h1>\n", 201),
        ("image/*", "photo.jpg", BINARY, 415),
        ("xlsx", "salaries.xlsx", BINARY, 415),
        ("pages", "letter.pages", b"%PDF-1.7\n", 415),
        ("xls", "report.xls", HTML, 415),
        ("step", "part.step", b"MZ" + bytes(200), 415),
    ]:
        body = {"owner_id": "alice", "allowed_types": [allowed]}
        token = client.as_(client.post("/api/upload-tokens", json=body).json["token"])
        answer = token.put(f"/api/upload/{name}", data=data)
        assert (answer.status, answer.json.get("code")) == (status, None if status == 201 else "type_not_allowed"), name


# -- rules of admitted uploads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["folder", "token", "key", "long ago"])
def test_T136_admitted_uploads_keep_their_rules(
    services: Services, client: GatewayClient, db: Database, gone: str, leftovers: Leftovers
) -> None:
    key, secret = services.keys.create_key("alice")
    folder = client.post("/api/folders", json={"name": "Plans"}).json["id"]
    body = {"owner_id": "alice", "folder_id": folder, "max_size": 100, "allowed_types": ["text/plain"]}
    made = client.as_(secret).post("/api/upload-tokens", json=body).json
    token = client.as_(made["token"])
    elf = b"\x7fELF\x02\x01\x01" + bytes(20)
    by_direct, by_tus = _direct(token, "a.txt", elf)[0], _tus(token, "a.txt", elf)[0]
    large = [
        token.post("/s3/multipart", json={"filename": "b.txt", "type": "text/plain"}).json,
        token.get("/s3/params", params={"filename": "c.txt", "type": "text/plain"}).json,
    ]
    part = token.get(f"/s3/multipart/{large[0]['uploadId']}/1", params={"key": large[0]["key"]}).json
    etag = put(part["url"], bytes(101))
    assert services.direct is not None
    match gone:
        case "folder":
            client.delete(f"/api/folders/{folder}")
        case "token":
            client.delete(f"/api/upload-tokens/{made['id']}")
        case "key":
            services.keys.revoke_key(key.id)
        case "long ago":
            sql(db, "update upload_tokens set expires_at = now() - interval '30 days'")
            services.janitor.run()
    # The owner finishes what the token began.
    assert client.post(f"{path_of(by_direct)}/complete", json={}).status == 201
    assert tus.patch(client, path_of(by_tus), 0, elf).status in (204, 415)
    sent = {"parts": [{"PartNumber": 1, "ETag": etag}]}
    done = client.post(f"/s3/multipart/{large[0]['uploadId']}/complete?key={large[0]['key']}", json=sent)
    assert done.code == "file_too_large"
    sql(db, "update uploads set updated_at = now() - interval '30 days' where status = 'done'")
    services.janitor.run()
    files = check_all(services, client)
    assert {(file["status"], file["visibility"]) for file in files} == {("rejected", "private")}
    assert {file["problem"]["code"] for file in files} == {"type_not_allowed"}
    assert leftovers()["multiparts"] == []


@pytest.mark.parametrize("name", list(WAYS))
@pytest.mark.parametrize("bound", [True, False])
def test_T136_T146_after_its_folders_deletion_a_token_stores_privately_in_the_root(
    client: GatewayClient, services: Services, name: str, bound: bool, leftovers: Leftovers
) -> None:
    folder = client.post("/api/folders", json={"name": "Plans"}).json["id"]
    token = token_of(client, visibility="public", **({"folder_id": folder} if bound else {}))
    wishes = {"visibility": "public", "folder_id": str(folder)}
    _, finish = WAYS[name](token, "before.txt", b"before", **wishes)
    assert client.delete(f"/api/folders/{folder}").status in (200, 204)
    if name not in ("form", "raw"):
        end(services, finish)
    if bound:
        end(services, WAYS[name](token, "after.txt", b"after", visibility="public")[1])
    files = check_all(services, client)
    assert len(files) == (name not in ("form", "raw")) + bound
    assert {(file["folder_id"], file["visibility"], file["status"]) for file in files} <= {(None, "private", "ready")}
    assert leftovers() == NOTHING


def test_T136_T146_deleting_the_folder_during_an_upload_loses_no_byte(
    client: GatewayClient, services: Services, leftovers: Leftovers
) -> None:
    folder = client.post("/api/folders", json={"name": "Plans"}).json["id"]
    token = token_of(client, visibility="public", folder_id=folder)

    def body() -> Any:
        yield b"half"
        assert client.delete(f"/api/folders/{folder}").status in (200, 204)
        yield b"rest"

    assert token.put("/api/upload/a.txt", data=body(), params={"visibility": "public"}).status == 201
    [file] = client.get("/api/files").json["items"]
    assert (file["folder_id"], file["visibility"], file["file_size"]) == (None, "private", 8)
    assert leftovers() == NOTHING


# -- limits set by its creator -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(WAYS))
def test_T136_a_token_publishes_only_if_its_creator_allowed_it(
    client: GatewayClient, services: Services, name: str, leftovers: Leftovers
) -> None:
    begun, finish = WAYS[name](token_of(client), "a.txt", b"hello", visibility="public")
    assert (begun + end(services, finish))[0].code == "not_allowed"
    assert client.get("/api/files").json["items"] == []
    end(services, WAYS[name](token_of(client, visibility="public"), "a.txt", b"hello", visibility="public")[1])
    end(services, WAYS[name](token_of(client, visibility="public"), "b.txt", b"world")[1])
    assert [file["visibility"] for file in check_all(services, client)] == ["private", "public"]
    assert leftovers() == NOTHING


def test_T136_a_token_can_not_undo_a_completed_upload(client: GatewayClient, services: Services, db: Database) -> None:
    token = token_of(client)
    begun, finish = WAYS["direct"](token, "invoice.txt", b"hello")
    end(services, finish)
    check_all(services, client)
    sql(db, "update files set uploaded_at = now() - interval '2 minutes'")
    address = f"/api/uploads/{begun[0].json['id']}"
    again = token.post(f"{address}/complete", json={"sha256": "0" * 64})
    assert (again.status, again.json["status"]) == (201, "ready")
    assert [file["status"] for file in client.get("/api/files").json["items"]] == ["ready"]
    assert "folder_id" not in token.get(address).json or token.get(address).json["folder_id"] is None


# -- nothing about the owner is revealed -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TELLING)
@pytest.mark.parametrize("wish", ["copy", "reject"])
def test_T136_a_token_can_not_probe_for_the_owners_files(
    client: GatewayClient, services: Services, name: str, wish: str, leftovers: Leftovers
) -> None:
    client.add("theirs.txt", b"hello")
    for data in (b"hello", b"other"):
        begun, finish = WAYS[name](token_of(client), "a.txt", data, on_duplicate=wish)
        assert (begun + finish())[0].code == "not_allowed"
    assert leftovers() == NOTHING


@pytest.mark.parametrize("name", list(WAYS))
def test_T136_responses_do_not_reveal_the_owners_files(
    client: GatewayClient, services: Services, db: Database, name: str, leftovers: Leftovers
) -> None:
    """One upload has bytes and a session that the owner has too, the other has neither: both get the same responses."""
    client.upload(("a.txt", b"hello"), headers={"Upload-Session": "theirs"})
    sql(db, """update objects set problem = '{"code": "preview_failed", "detail": "It can not be drawn."}'""")
    seen = []
    for content, session in ((b"hello", "theirs"), (b"olleh", "fresh")):
        token = token_of(client)
        if name in ("form", "raw"):
            headers = {"Upload-Session": session, "Idempotency-Key": "k"}
            send = {
                "form": lambda c=content, t=token, h=headers: t.upload(("a.txt", c), headers=h),
                "raw": lambda c=content, t=token, h=headers: t.put("/api/upload/a.txt", data=c, headers=h),
            }[name]
            answers = [send(), send()]
            assert answers[0].headers["Upload-Session"] == session
            assert answers[1].headers["Idempotency-Replayed"] == "true"
            assert answers[0].json == answers[1].json
        else:
            begun, finish = WAYS[name](token, "a.txt", content, **({"session_id": session} if name == "direct" else {}))
            answers = begun + end(services, finish)
            check_all(services, client)
            answers += finish() if name == "direct" else []  # completed again, now that it is ready
        seen.append([shape(answer) for answer in answers])
        if name != "s3 form":
            told = answers[1].json if name == "direct" else answers[0].json if name in ("form", "raw") else {}
            for file in told.get("files", [told] if name in ("direct", "raw") else []):
                assert set(file) == {"id", "original_name", "file_size", "status", "problem"}
                assert (file["original_name"], file["problem"]) == ("a.txt", None)
    assert seen[0] == seen[1]
    names = {file["original_name"] for file in client.get("/api/files").json["items"]}
    assert names == {"a.txt", "a (1).txt", "a (2).txt"}
    with db.connection() as tx:
        row = tx.execute("select files_uploaded from upload_sessions where session_id = 'theirs'").fetchone()
    assert row == (1,)
    assert leftovers() == NOTHING


def shape(answer: Answer) -> Any:
    """A response without random values and times."""
    document = answer.json if answer.body else None

    def plain(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: plain(member, name) for name, member in value.items()}
        if isinstance(value, list):
            return [plain(member) for member in value]
        drawn = key.endswith(("_at", "expires", "etag")) or key in (
            "id",
            "session_id",
            "url",
            "file_id",
            "key",
            "uploadId",
            "location",
            "fields",
        )
        return type(value) if drawn and not isinstance(value, dict) else value

    document = plain(document)
    if isinstance(document, dict):
        document.pop("fields", None)
    headers = {name for name, _ in answer.headers.items()}
    return answer.status, sorted(headers), document
