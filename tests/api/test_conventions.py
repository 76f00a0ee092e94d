"""Conventions of all routes: authentication, errors, request ids, limits, CORS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from core.errors import GatewayError
from db import Database
from services import Services
from tests.client import GatewayClient
from tests.rows import sql

pytestmark = pytest.mark.memory_store

PROBLEM = "application/problem+json"


# -- authentication ------------------------------------------------------------------------------------------


def test_public_routes(anonymous: GatewayClient) -> None:
    for path in ("/healthz", "/readyz", "/openapi.json", "/docs", "/"):
        assert anonymous.get(path).status == 200, path


CLOSED = [
    "/api/files",
    "/api/folders",
    "/api/search",
    "/api/storage/stats",
    "/api/admin/keys",
    f"/api/files/{uuid4()}",
    f"/api/files/{uuid4()}/download",
    f"/api/files/{uuid4()}/url",
    f"/api/files/{uuid4()}/preview",
    f"/api/files/{uuid4()}/history",
    "/api/nothing/here",
    "/api",
    "/s3/nothing",
    "/elsewhere",
]


def test_T61_other_routes_need_a_credential(anonymous: GatewayClient) -> None:
    for path in CLOSED:
        answer = anonymous.get(path)
        assert (answer.status, answer.code) == (401, "not_authenticated"), path
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert anonymous.request(method, "/api/storage/stats").status == 401, method


BAD_CREDENTIALS = [
    "Bearer wrong",
    "Bearer",
    "Bearer ",
    "Basic dXNlcjpwYXNz",
    "wrong",
    "",
    "Bearer a b",
    "Bearer " + "x" * 5000,
    "Bearer \xe9",
    "Bearer ' or true --",
]


def test_T62_bad_credentials_get_the_same_401(anonymous: GatewayClient) -> None:
    for value in BAD_CREDENTIALS:
        answer = anonymous.get("/api/files", headers={"Authorization": value})
        assert (answer.status, answer.code) == (401, "not_authenticated"), value


def test_the_scheme_is_case_insensitive(client: GatewayClient) -> None:
    assert client.get("/api/files", headers={"Authorization": f"bEARER {client.key}"}).status == 200


def test_T63_revoked_keys_stop_working_at_once(admin: GatewayClient) -> None:
    made = admin.post("/api/admin/keys", json={"owner_id": "carol"}).json
    carol = admin.as_(made["key"])
    assert carol.get("/api/files").status == 200
    assert admin.delete(f"/api/admin/keys/{made['id']}").status == 204
    assert carol.get("/api/files").status == 401


FOR_ADMINS = [
    ("GET", "/api/admin/keys"),
    ("POST", "/api/admin/keys"),
    ("POST", "/api/admin/janitor"),
    ("DELETE", f"/api/admin/keys/{uuid4()}"),
    ("GET", "/api/files?owner=*"),
    ("GET", "/api/files?owner=bob"),
    ("GET", "/api/search?owner=*"),
    ("GET", "/api/folders?owner=bob"),
    ("GET", "/api/storage/stats?owner=*"),
]


def test_T61_admin_only_routes(client: GatewayClient) -> None:
    for method, path in FOR_ADMINS:
        answer = client.request(method, path)
        assert (answer.status, answer.code) == (403, "not_allowed"), path


# -- errors --------------------------------------------------------------------------------------------------

ABSENT = [
    "/api/nothing",
    "/api/files/not-a-uuid",
    "/api/files/not-a-uuid/download",
    f"/api/files/{uuid4()}",
    "/api/files/",
    "/api/folders/0",
    "/api/folders/x",
    "/api/folders/" + "9" * 5000,
    "/api/folders/2147483648",
    "/api/folders/-1",
    "/api//files",
    "/api/files/%00",
    "/api/files/..%2f..%2fetc%2fpasswd",
    "/api/folders/%D9%A1",
]


def test_unknown_paths_are_404(client: GatewayClient) -> None:
    for path in ABSENT:
        answer = client.get(path)
        assert (answer.status, answer.code) == (404, "not_found"), path


def test_a_wrong_method_is_405_with_allow(client: GatewayClient) -> None:
    answer = client.delete("/api/files")
    assert (answer.status, answer.code) == (405, "method_not_allowed")
    assert "GET" in answer.headers["Allow"]


def test_problems_have_all_members(client: GatewayClient) -> None:
    problem = client.get("/api/files?limit=0&sort=sideways").json
    assert problem["type"] == "http://gateway.test/docs#invalid_input"
    assert problem["status"] == 400
    assert problem["title"]
    assert problem["detail"]
    assert {error["field"] for error in problem["errors"]} == {"limit", "sort"}


def test_the_documentation_explains_every_code(anonymous: GatewayClient) -> None:
    page = anonymous.get("/docs").body.decode()

    def leaves(kind: type[GatewayError]) -> set[str]:
        return {kind.code}.union(*(leaves(below) for below in kind.__subclasses__()))

    assert all(f'id="{code}"' in page for code in leaves(GatewayError))


def test_the_documentation_needs_no_script_or_other_server(anonymous: GatewayClient) -> None:
    answer = anonymous.get("/docs")
    assert "<script" not in answer.body.decode()
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")


def test_T35_unexpected_errors_reveal_nothing(
    client: GatewayClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("select key_digest from api_keys; /srv/secret.py")

    monkeypatch.setattr(type(services.files), "list", broken)
    answer = client.get("/api/files")
    assert (answer.status, answer.code) == (500, "internal_error")
    assert b"api_keys" not in answer.body
    assert b"secret" not in answer.body
    assert b"Traceback" not in answer.body


def test_T35_an_unreachable_database_is_503_with_retry_after(
    client: GatewayClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.CHECK_OUT", 0.5)
    services.db.url = "postgresql://nobody@127.0.0.1:1/nothing"
    services.db.close()
    services.keys._db.url = services.db.url
    answer = client.get("/api/files")
    assert (answer.status, answer.code) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    assert b"127.0.0.1" not in answer.body
    assert b"nobody" not in answer.body


def test_T35_another_owners_file_looks_missing(client: GatewayClient, other: GatewayClient) -> None:
    theirs = other.add()["id"]
    for path in ("", "/download", "/url", "/preview", "/history"):
        answers = [client.get(f"/api/files/{file_id}{path}") for file_id in (theirs, uuid4())]
        assert [answer.status for answer in answers] == [404, 404]
        plain = [answer.json | {"request_id": None} for answer in answers]
        assert plain[0] == plain[1]


def test_the_server_header_has_no_version(client: GatewayClient) -> None:
    assert "Server" not in client.get("/api/files").headers


# -- request ids ---------------------------------------------------------------------------------------------


def test_T25_valid_request_ids_are_kept(anonymous: GatewayClient) -> None:
    for given in ("client-1.2_3", "A" * 128, "01234567"):
        assert anonymous.get("/healthz", headers={"X-Request-ID": given}).headers["X-Request-ID"] == given


def test_T25_invalid_request_ids_are_replaced(anonymous: GatewayClient) -> None:
    for given in ("short", "A" * 129, "has space", "\x1b[31mred\x1b[0m", "über-lang", "a/../../b", "<script>", ""):
        answer = anonymous.get("/nothing", headers={"X-Request-ID": given.encode().decode("latin-1")})
        assert answer.headers["X-Request-ID"].isalnum()
        assert answer.headers["X-Request-ID"] != given
        assert answer.json["request_id"] == answer.headers["X-Request-ID"]


# -- numbers, dates, lists -----------------------------------------------------------------------------------

BAD_NUMBERS = [
    "-1",
    "1.0",
    "1.5",
    "9223372036854775808",
    "9" * 5000,
    "NaN",
    "Infinity",
    "1e3",
    "0x10",
    " 1",
    "1_000",
    "١",
    "",
]


def test_T16_bad_numbers_in_queries(client: GatewayClient) -> None:
    for name in ("min_size", "max_size", "limit", "folder"):
        for value in BAD_NUMBERS:
            answer = client.get("/api/files", params={name: value})
            assert (answer.status, answer.code) == (400, "invalid_input"), (name, value)
            assert answer.json["errors"][0]["field"] == name


def test_T16_bad_numbers_in_bodies(client: GatewayClient) -> None:
    for value in ("-1", "0", "1.0", "9223372036854775808", "9" * 5000, "NaN", "Infinity", '"5"', "true", "[]"):
        body = f'{{"name": "x", "parent_folder_id": {value}}}'.encode()
        answer = client.post("/api/folders", data=body, headers={"Content-Type": "application/json"})
        assert (answer.status, answer.code) == (400, "invalid_input"), value


def test_page_limits(client: GatewayClient) -> None:
    for value in ("0", "-5", "x", "1.5"):
        assert client.get(f"/api/files?limit={value}").status == 400, value
    for value in ("200", "201", "9223372036854775807"):
        assert client.get(f"/api/files?limit={value}").status == 200, value


BAD_DATES = [
    "yesterday",
    "2026-13-01",
    "2026-02-30",
    "20261123",
    "2026-11-23T25:00:00Z",
    "2026-11-23T04:15:00+99:00",
    "",
    "1",
]
GOOD_DATES = ["2026-11-23", "2026-11-23T04:15:00Z", "2026-11-23T04:15:00.123456+05:30", "0001-01-01", "9999-12-30"]


def test_valid_and_invalid_dates(client: GatewayClient) -> None:
    for value in BAD_DATES:
        answer = client.get("/api/files", params={"date_from": value})
        assert (answer.status, answer.code) == (400, "invalid_input"), value
    for value in GOOD_DATES:
        assert client.get("/api/files", params={"date_from": value, "date_to": value}).status == 200, value


def test_date_ranges_include_both_days(client: GatewayClient, db: Database) -> None:
    file = client.add()
    moments = [
        "2026-11-22T23:59:59.999999Z",
        "2026-11-23T00:00:00Z",
        "2026-11-23T23:59:59.999999Z",
        "2026-11-24T00:00:00Z",
    ]
    found = []
    for moment in moments:
        sql(db, "update files set uploaded_at = %s where id = %s", moment, file["id"])
        page = client.get("/api/files", params={"date_from": "2026-11-23", "date_to": "2026-11-23"}).json
        found.append(len(page["items"]))
        assert len(client.get("/api/files", params={"date_from": moment, "date_to": moment}).json["items"]) == 1
    assert found == [0, 1, 1, 0]


BAD_BODIES = [
    b"",
    b"null",
    b"[]",
    b"{",
    b'{"name": "a"} x',
    b'{"name": "\\ud800"}',
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"name": NaN}',
    b'{"name": "a", "owner_id": "bob"}',
    b'{"name": 5}',
]


def test_invalid_json_bodies_are_400(client: GatewayClient) -> None:
    for body in BAD_BODIES:
        answer = client.post("/api/folders", data=body, headers={"Content-Type": "application/json"})
        assert (answer.status, answer.code) == (400, "invalid_input"), body[:50]


def test_json_bodies_have_a_size_limit(client: GatewayClient) -> None:
    answer = client.post("/api/folders", data=b" " * 1_100_000, headers={"Content-Type": "application/json"})
    assert (answer.status, answer.code) == (413, "request_too_large")
    answer = client.post("/api/folders", data=iter([b" " * 600_000] * 2), headers={"Content-Type": "application/json"})
    assert answer.status == 413


def test_T13_encoded_json_bodies_are_rejected(client: GatewayClient) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = client.post("/api/folders", data=b"\x1f\x8b", headers=headers)
    assert (answer.status, answer.code) == (415, "encoding_not_allowed")


def test_other_content_types_are_415(client: GatewayClient) -> None:
    answer = client.post("/api/folders", data=b"name=a", headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert (answer.status, answer.code) == (415, "unsupported_media_type")


def test_next_links_keep_the_query(client: GatewayClient) -> None:
    for number in range(3):
        client.add(f"{number} ü&.txt", b"text %d" % number)
    first = client.get("/api/files?limit=2&sort=original_name&file_type=text")
    link = first.headers["Link"]
    assert link.startswith("<http://gateway.test/api/files?limit=2&sort=original_name&file_type=text&cursor=")
    assert link.endswith('>; rel="next"')
    second = client.get(link[1:].partition(">")[0].removeprefix("http://gateway.test"))
    assert [file["original_name"] for file in second.json["items"]] == ["2 ü&.txt"]
    assert second.json["next_cursor"] is None
    assert "Link" not in second.headers


def test_a_tampered_cursor_is_400(client: GatewayClient) -> None:
    for cursor in ("x", "A" * 9000, "\0", "..", "eyJhIjoxfQ"):
        assert client.get("/api/files", params={"cursor": cursor}).status == 400, cursor[:50]


def test_another_callers_cursor_is_400(client: GatewayClient, other: GatewayClient) -> None:
    for number in range(2):
        client.add(f"{number}.txt", b"%d" % number)
    cursor = client.get("/api/files?limit=1").json["next_cursor"]
    answer = other.get("/api/files", params={"limit": "1", "cursor": cursor})
    assert (answer.status, answer.code) == (400, "invalid_cursor")


# -- CORS ----------------------------------------------------------------------------------------------------


def test_T38_allowed_origins_get_cors_headers(client: GatewayClient) -> None:
    answer = client.get("/api/files", headers={"Origin": "http://app.test"})
    assert answer.headers["Access-Control-Allow-Origin"] == "http://app.test"
    exposed = {name.strip() for name in answer.headers["Access-Control-Expose-Headers"].split(",")}
    assert exposed >= {"Location", "ETag", "X-Request-ID", "Link", "Upload-Offset", "Upload-Session"}
    assert "Origin" in answer.headers["Vary"]


def test_T38_errors_have_cors_headers_too(anonymous: GatewayClient) -> None:
    for path in ("/api/files", "/nothing"):
        answer = anonymous.get(path, headers={"Origin": "http://app.test"})
        assert answer.status == 401
        assert answer.headers["Access-Control-Allow-Origin"] == "http://app.test"


def test_T38_a_preflight_needs_no_credential(anonymous: GatewayClient) -> None:
    answer = anonymous.options(
        "/api/files",
        headers={
            "Origin": "http://app.test",
            "Access-Control-Request-Method": "PATCH",
            "Access-Control-Request-Headers": "authorization, if-match, x-anything",
        },
    )
    assert answer.status == 200
    assert "PATCH" in answer.headers["Access-Control-Allow-Methods"]
    assert "authorization" in answer.headers["Access-Control-Allow-Headers"].lower()


FOREIGN = [
    "null",
    "http://evil.test",
    "http://app.test.evil.test",
    "https://app.test",
    "http://app.test:81",
    "http://xapp.test",
    "http://app.test/",
    "*",
]


def test_T38_other_origins_get_no_cors_headers(client: GatewayClient) -> None:
    for origin in FOREIGN:
        answer = client.get("/api/files", headers={"Origin": origin})
        assert answer.status == 200
        assert not [name for name in dict(answer.headers) if name.startswith("Access-Control-Allow")], origin


def test_T38_links_do_not_repeat_the_host_header(client: GatewayClient) -> None:
    headers = {"Host": "evil.test", "X-Forwarded-Host": "evil.test", "X-Forwarded-Proto": "https"}
    client.add()
    answer = client.get("/api/files?limit=1", headers=headers)
    assert b"evil" not in answer.body
    assert answer.json["items"][0]["links"]["self"].startswith("http://gateway.test/api/files/")


def test_admins_list_other_owners_on_request(
    client: GatewayClient, admin: GatewayClient, client_for: Callable[..., GatewayClient]
) -> None:
    client.add("one.txt")
    assert admin.get("/api/files").json["items"] == []
    assert len(admin.get("/api/files?owner=alice").json["items"]) == 1
    assert len(admin.get("/api/files?owner=*").json["items"]) == 1
    assert client.get("/api/files?owner=alice").status == 200
