"""Upload tokens allow uploads within a budget, and nothing else."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest

from core.errors import GatewayError, QuotaExceeded
from core.parts import PART_SIZE
from core.principal import Principal
from db import Database
from services import Services
from services.access.upload_tokens import Budget
from tests.client import Answer, GatewayClient, form_data
from tests.conftest import NOTHING, Leftovers
from tests.presigned import post_form, put
from tests.rows import sql
from tests.samples import Source, picture


def token_of(client: GatewayClient, **members: Any) -> GatewayClient:
    answer = client.post("/api/upload-tokens", json={"owner_id": "alice", **members})
    assert answer.status == 201, answer.body
    return client.as_(answer.json["token"])


def by_form(
    client: GatewayClient, name: str = "a.txt", content: bytes = b"hello", path: str = "/api/upload", **fields: str
) -> Answer:
    body, content_type = form_data([(name, content)], fields)
    return client.post(path, data=body, headers={"Content-Type": content_type})


def direct(client: GatewayClient, content: bytes = b"hello", *, prefix: str = "", **members: Any) -> Answer:
    """Begin, send, complete; the first response that is not a success, or the last."""
    begun = client.post(f"{prefix}/api/uploads", json={"filename": "a.txt", "size": len(content), **members})
    if begun.status != 201:
        return begun
    put(begun.json["url"], content, begun.json["headers"])
    return client.post(f"{prefix}/api/uploads/{begun.json['id']}/complete", json={})


def test_a_token_uploads_by_header_and_by_path(app: Any, client: GatewayClient, leftovers: Leftovers) -> None:
    answer = client.post("/api/upload-tokens", json={"owner_id": "alice", "expires_in": 600})
    assert set(answer.json) == {"id", "token", "expires_at", "endpoints"}
    token, endpoints = answer.json["token"], answer.json["endpoints"]
    base = f"http://gateway.test/t/{token}"
    assert endpoints == {
        "upload": f"{base}/api/upload",
        "uploads": f"{base}/api/uploads",
        "tus": f"{base}/api/tus",
        "companion": base,
    }
    bearer = client.as_(token)
    assert by_form(bearer).status == 201 and direct(bearer).status == 201
    assert bearer.put("/api/upload/raw.txt", data=b"raw").status == 201

    bare = GatewayClient(app, None, check=False)  # the OpenAPI document has no paths below /t
    paths = {name: urlsplit(address).path for name, address in endpoints.items()}
    assert by_form(bare, path=paths["upload"]).status == 201
    assert bare.put(f"{paths['upload']}/raw.txt", data=b"raw").status == 201
    assert direct(bare, prefix=paths["companion"]).status == 201
    assert bare.get(paths["uploads"]).json["items"] == []
    assert bare.get(f"{paths['companion']}/s3/params", params={"filename": "a.txt", "type": "text/plain"}).status == 200
    assert len(client.get("/api/files").json["items"]) == 6


def test_T62_a_token_only_uploads(app: Any, client: GatewayClient, admin: GatewayClient, services: Services) -> None:
    file = client.add("secret.txt")
    public = client.add("public.txt", visibility="public")
    key_begun = client.post("/api/uploads", json={"filename": "a", "size": 5}).json
    for maker in (client, admin):
        token = token_of(maker)
        for method, path, body in (
            ("GET", "/api/files", None),
            ("GET", f"/api/files/{file['id']}", None),
            ("DELETE", f"/api/files/{file['id']}", None),
            ("GET", f"/api/files/{file['id']}/download", None),
            ("GET", f"/api/files/{public['id']}/url", None),
            ("PATCH", f"/api/files/{file['id']}", {"original_name": "x"}),
            ("GET", "/api/folders", None),
            ("POST", "/api/folders", {"name": "x"}),
            ("GET", "/api/search", None),
            ("GET", "/api/storage/stats", None),
            ("POST", "/api/upload-tokens", {"owner_id": "alice"}),
            ("GET", "/api/admin/keys", None),
            ("POST", "/api/admin/janitor", {}),
            ("POST", "/api/files/batch", {"action": "delete", "ids": [file["id"]]}),
            ("GET", "/api/nothing", None),
        ):
            answer = token.request(method, path, json=body)
            assert (answer.status, answer.code) == (403, "not_allowed"), (method, path, answer.body)
        # Only its own uploads, not those of its owner's key or of another token.
        other = token_of(client)
        begun = other.post("/api/uploads", json={"filename": "a", "size": 5}).json
        for upload_id in (key_begun["id"], begun["id"]):
            assert token.get(f"/api/uploads/{upload_id}").status == 404
            assert token.post(f"/api/uploads/{upload_id}/parts", json={"part_numbers": [1]}).status == 404
            assert token.post(f"/api/uploads/{upload_id}/complete", json={}).status == 404
            assert token.delete(f"/api/uploads/{upload_id}").status == 404
        assert token.get("/api/uploads").json["items"] == []
        assert client.get(f"/api/uploads/{begun['id']}").json["status"] == "pending"  # its owner's key sees all
        bare = GatewayClient(app, None, check=False)
        for path in ("/api/files", f"/api/files/{file['id']}", "/api/upload-tokens", "", "/", "/api/uploadsx", "/s3x"):
            assert bare.get(f"/t/{token.key}{path}").status == 401, path
        assert bare.get(f"/t/{client.key}/api/uploads").status == 401  # keys are not accepted in a path
        assert bare.get(f"/t/{token.key}x/api/uploads").status == 401
        assert bare.get("/t/gwt_" + "x" * 43 + "/api/uploads").status == 401


def test_who_may_create_tokens(client: GatewayClient, admin: GatewayClient, anonymous: GatewayClient) -> None:
    answer = client.post("/api/upload-tokens", json={"owner_id": "bob"})
    assert (answer.status, answer.code) == (403, "not_allowed")
    assert anonymous.post("/api/upload-tokens", json={"owner_id": "bob"}).status == 401
    token = admin.post("/api/upload-tokens", json={"owner_id": "bob"}).json["token"]
    sent = by_form(admin.as_(token)).json["files"][0]
    assert admin.get(f"/api/files/{sent['id']}").json["owner_id"] == "bob"
    folder = client.post("/api/folders", json={"name": "Plans"}).json["id"]
    assert admin.post("/api/upload-tokens", json={"owner_id": "bob", "folder_id": folder}).status == 404
    assert client.post("/api/upload-tokens", json={"owner_id": "alice", "folder_id": folder}).status == 201
    for body in (
        {},
        {"owner_id": ""},
        {"owner_id": "x" * 256},
        {"owner_id": "alice", "max_files": 0},
        {"owner_id": "alice", "max_size": -1},
        {"owner_id": "alice", "expires_in": 0},
        {"owner_id": "alice", "expires_in": "1"},
        {"owner_id": "a\x00"},
        {"owner_id": "alice", "allowed_types": ["\x00"]},
        {"owner_id": "alice", "max_files": 2**31},
        {"owner_id": "alice", "folder_id": 0},
    ):
        assert admin.post("/api/upload-tokens", json=body).status == 400, body


def test_a_token_expires_within_a_day(
    client: GatewayClient, services: Services, db: Database, leftovers: Leftovers
) -> None:
    answer = client.post("/api/upload-tokens", json={"owner_id": "alice", "expires_in": 10**12})
    with db.connection() as tx:
        row = tx.execute(
            "select expires_at - now() <= interval '1 day', octet_length(token_digest) from upload_tokens"
        ).fetchone()
    assert row == (True, 32)
    token = client.as_(answer.json["token"])
    begun = token.post("/api/uploads", json={"filename": "a", "size": 5}).json
    sql(db, "update upload_tokens set expires_at = now() - interval '1 second'")
    for answer in (by_form(token), token.get("/api/uploads"), token.get(f"/api/uploads/{begun['id']}")):
        assert (answer.status, answer.code) == (401, "not_authenticated")
    assert client.get(f"/api/uploads/{begun['id']}").json["status"] == "pending"
    sql(db, "update upload_tokens set expires_at = now() - interval '30 days'")
    services.janitor.run()
    with db.connection() as tx:  # an unfinished upload still needs its rules
        assert tx.execute("select count(*) from upload_tokens").fetchone() == (1,)
    assert client.delete(f"/api/uploads/{begun['id']}").status == 204
    sql(db, "update uploads set updated_at = now() - interval '30 days'")
    services.janitor.run()
    assert sql(db, "select count(*) from upload_tokens") == [(0,)]


def test_a_replayed_response_has_no_token(client: GatewayClient, db: Database) -> None:
    headers = {"Idempotency-Key": "k"}
    first = client.post("/api/upload-tokens", json={"owner_id": "alice"}, headers=headers).json
    again = client.post("/api/upload-tokens", json={"owner_id": "alice"}, headers=headers).json
    assert again == {**first, "token": None, "endpoints": None}
    with db.connection() as tx:
        dump = tx.execute("select outcome::text from idempotency_keys").fetchone()
    assert dump is not None and first["token"] not in dump[0]


def test_T140_tokens_are_never_logged(
    app: Any, client: GatewayClient, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    token = token_of(client).key
    bare = GatewayClient(app, None, check=False)
    with caplog.at_level(logging.DEBUG):
        bare.get(f"/t/{token}/api/uploads")
        bare.get(f"/t/{token}/api/uploads/nothing")
        bare.post(f"/t/{token}/api/uploads", data=b"{", headers={"Content-Type": "application/json"})
        answer = bare.get(f"/t/{token}/api/uploads", params={"limit": "x"})
    out, err = capfd.readouterr()
    assert token and token not in out + err + caplog.text + answer.body.decode()


# -- the budget ------------------------------------------------------------------------------------------------------------


def test_R5_size_types_and_folder_are_limited(client: GatewayClient, services: Services, leftovers: Leftovers) -> None:
    folder = client.post("/api/folders", json={"name": "Plans"}).json["id"]
    elsewhere = client.post("/api/folders", json={"name": "Else"}).json["id"]
    token = token_of(client, max_size=1000, allowed_types=["png", "text/plain"], folder_id=folder)
    for send in (by_form, direct):
        name: dict[str, Any] = {"filename": "a.pdf"} if send is direct else {"name": "a.pdf"}
        assert send(token, content=b"x" * 1001).code == "file_too_large"
        assert send(token, **name).code == "type_not_allowed"
        wrong = {"folder_id": elsewhere} if send is direct else {"folder_id": str(elsewhere)}
        assert send(token, **wrong).code == "not_found"
        done = send(token)
        assert done.status == 201
        file = done.json if send is direct else done.json["files"][0]
        assert client.get(f"/api/files/{file['id']}").json["folder_id"] == folder
    # The type is detected when the bytes are read back; the token's types apply then, too.
    lie = direct(token, picture("PNG"), filename="a.txt").json
    services.verification.check(lie["id"])
    assert client.get(f"/api/files/{lie['id']}").json["status"] == "ready"  # a PNG is among the types
    zipped = direct(token, b"PK\x03\x04" + bytes(100), filename="b.txt").json
    services.verification.check(zipped["id"])
    assert client.get(f"/api/files/{zipped['id']}").json["problem"]["code"] == "type_not_allowed"
    assert leftovers() == NOTHING


def test_the_sweep_checks_undeclared_sizes_against_the_budget(
    client: GatewayClient, services: Services, leftovers: Leftovers
) -> None:
    assert services.direct is not None
    _, token = services.upload_tokens.create(Principal("alice"), "alice", Budget(max_size=1000))
    holder = services.upload_tokens.authenticate(token)
    admitted = services.direct.admit(holder, protocol="s3", filename="a", size=None, content_type=None, single=True)
    form = services.direct.sign_post(holder, admitted)
    assert not post_form(form, bytes(1001)).ok
    wide = services.direct.sign_post(Principal("alice"), admitted)  # as if the limit were not in the policy
    assert post_form(wide, bytes(1001)).ok
    assert services.direct.sweep() == 0
    assert services.direct.get(holder, admitted.id).status == "aborted"
    assert leftovers() == NOTHING


def test_failed_and_aborted_uploads_return_their_budget(
    client: GatewayClient, services: Services, db: Database, leftovers: Leftovers
) -> None:
    token = token_of(client, max_files=2, max_total_size=20)

    def used() -> Any:
        with db.connection() as tx:
            return tx.execute("select files_used, bytes_used from upload_tokens").fetchone()

    begun = token.post("/api/uploads", json={"filename": "a", "size": 15}).json
    assert used() == (1, 15)
    assert token.post("/api/uploads", json={"filename": "a", "size": 6}).code == "quota_exceeded"
    assert used() == (1, 15)
    token.delete(f"/api/uploads/{begun['id']}")
    assert used() == (0, 0)
    by_form(token, "a.png", b"<!DOCTYPE html><script>1</script>")  # rejected
    assert used() == (0, 0)
    begun = token.post("/api/uploads", json={"filename": "a", "size": 15}).json
    sql(db, "update uploads set expires_at = now() - interval '1 second'")
    services.janitor.run()
    assert used() == (0, 0)
    assert by_form(token, content=b"x" * 12).status == 201 and used() == (1, 12)
    assert direct(token, b"y" * 8).status == 201 and used() == (2, 20)
    assert by_form(token, content=b"").code == "quota_exceeded"
    assert direct(token, b"").code == "quota_exceeded"
    assert leftovers() == NOTHING


@pytest.mark.settings(web_threads=32)
@pytest.mark.parametrize(
    ("budget", "size"),
    [
        (Budget(max_files=10), 100),
        (Budget(max_total_size=1000), 100),
        (Budget(max_files=10, max_total_size=1_000), 100),
        (Budget(max_files=10), 0),
        (Budget(max_total_size=10 * 1000), 1000),
    ],
)
def test_T71_40_concurrent_uploads_stay_within_the_budget(
    services: Services, db: Database, leftovers: Leftovers, budget: Budget, size: int
) -> None:
    assert services.direct is not None
    direct_uploads = services.direct
    _, token = services.upload_tokens.create(Principal("alice"), "alice", budget)
    holder = services.upload_tokens.authenticate(token)

    def one(number: int) -> bool:
        data = os.urandom(size)
        try:
            if number % 4 == 0:
                with services.intake.batch(holder, protocol="form") as batch:
                    known = size if number % 8 == 0 else None
                    batch.receive(name="a.bin", claimed_type=None, stream=Source(data), size=known)
                    if batch.rejected:
                        raise batch.rejected[0].error
                    from core.placement import Placement

                    batch.commit(Placement())
            else:
                begun = direct_uploads.begin(holder, filename="a.bin", size=size)
                assert begun.request is not None
                put(begun.request.url, data, begun.request.headers)
                direct_uploads.complete(holder, begun.upload.id)
        except QuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(40) as pool:
        accepted = sum(pool.map(one, range(40)))
    with db.connection() as tx:
        row = tx.execute("select files_used, bytes_used from upload_tokens").fetchone()
        stored = tx.execute("select count(*), coalesce(sum(file_size), 0)::bigint from files").fetchone()
        usage = tx.execute("select used_bytes, reserved_bytes from owner_usage").fetchone()
    assert accepted == 10
    assert row == stored == (10, 10 * size)
    assert usage == (10 * size, 0)
    assert leftovers() == NOTHING


@pytest.mark.settings(web_threads=32)
def test_concurrent_uploads_of_a_token_do_not_deadlock(services: Services, db: Database, leftovers: Leftovers) -> None:
    """Transactions lock token and usage in the same order; otherwise PostgreSQL ends one of them."""
    assert services.direct is not None
    direct_uploads = services.direct
    _, token = services.upload_tokens.create(
        Principal("alice"), "alice", Budget(max_files=10_000, max_total_size=10**12)
    )
    holder = services.upload_tokens.authenticate(token)
    failed: list[GatewayError] = []

    def one(number: int) -> None:
        try:
            if number % 2:
                begun = direct_uploads.begin(holder, filename="a.bin", size=number)
                if number % 3 == 0:
                    assert begun.request is not None
                    put(begun.request.url, bytes(number), begun.request.headers)
                    direct_uploads.complete(holder, begun.upload.id)
                else:
                    direct_uploads.abort(holder, begun.upload.id)
            else:
                many = direct_uploads.admit(
                    holder, protocol="s3", filename="a.bin", size=None, content_type=None, single=True
                )
                services.intake.reserve(many, number)
                direct_uploads.abort(holder, many.id)
        except GatewayError as error:
            failed.append(error)

    with ThreadPoolExecutor(16) as pool:  # fewer than may call the bucket at once (24 of 32 threads)
        list(pool.map(one, range(1, 241)))
    assert [repr(error.__cause__) for error in failed] == []
    assert sql(db, "select sum(deadlocks) from pg_stat_database where datname = current_database()") == [(0,)]
    assert leftovers() == NOTHING


def test_a_large_upload_needs_only_the_token(client: GatewayClient, services: Services, leftovers: Leftovers) -> None:
    token = token_of(client, max_files=1)
    data = os.urandom(PART_SIZE + 1)
    begun = token.post("/api/uploads", json={"filename": "a.bin", "size": len(data)}).json
    put(begun["parts"][0]["url"], data[:PART_SIZE])
    assert token.get(f"/api/uploads/{begun['id']}").json["missing"] == [[2, 2]]
    (part,) = token.post(f"/api/uploads/{begun['id']}/parts", json={"part_numbers": [2]}).json["parts"]
    put(part["url"], data[PART_SIZE:], part["headers"])
    assert token.post(f"/api/uploads/{begun['id']}/complete", json={}).status == 201
    assert token.post("/api/uploads", json={"filename": "a.bin", "size": 1}).code == "quota_exceeded"
    assert leftovers() == NOTHING
