"""Numbers, texts and nesting that some part of the gateway can't store, wherever a client can send them: never a 5xx, and
accepted values are returned unchanged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from flask import Flask

from api.openapi import operations
from api.operations import Operation
from db import Database
from services import Services
from tests.client import GatewayClient, form_data
from tests.direct_steps import direct, send_all
from tests.rows import sql
from tests.subtests import with_subtests
from tests.tus import TUS, metadata

pytestmark = pytest.mark.settings(rate_limits="off")

HUGE = "9" * 5000
# In a JSON body: values that doubles or 64-bit integers would change, and invalid JSON.
CHANGED = [
    "9223372036854775808",
    "-9223372036854775809",
    "18446744073709551616",
    "12345678901234567890123",
    "1" + "0" * 309,
    "1" + "0" * 310,
    HUGE,
    "1e400",
    "-1e400",
    "1e-400",
    "1e9999999999999999999",
    "0.1000000000000000055",
    "123456789012345678901.5",
    "NaN",
    "-Infinity",
    '{"a": 1, "a": 2}',
    "[" * 100_000,
    "[" * 400 + "]" * 400,
    '"\\ud800"',
    '{"\\udfff": 1}',
]
ODD = [
    "9223372036854775807",
    "-9223372036854775808",
    "2147483648",
    "-1",
    "1.5",
    "1e300",
    "null",
    "{}",
    '""',
    '"\\u0000"',
    '{"\\u0000": 1}',
    "[[[[1]]]]",
    '"9999-12-31T23:59:59-12:00"',
    '"0001-01-01T00:00:00+12:00"',
]
# In a query, a path, a form field or a header.
TEXTS = [
    "9223372036854775808",
    "9223372036854775807",
    "2147483648",
    "-1",
    "-9223372036854775809",
    HUGE,
    "1e400",
    "\0",
    "١",
    "1_000",
    "",
    "9999-12-31T23:59:59-12:00",
    "0001-01-01T00:00:00+12:00",
]
NUMBERS = ["9223372036854775808", "-1", HUGE[:4400]]
PLACE = "@place@"


@pytest.fixture
def known(client: GatewayClient, admin: GatewayClient) -> dict[str, str]:
    """Values for the parameters of every route's path."""
    return {
        "file_id": client.add("a.txt", b"some text")["id"],
        "folder_id": str(client.post("/api/folders", json={"name": "a"}).json["id"]),
        "upload_id": client.post("/api/uploads", json={"filename": "a.bin", "size": 20_000_000}).json["id"],
        "key_id": admin.get("/api/admin/keys").json["items"][0]["id"],
        "job_id": "1",
        "token": "t",
        "part_number": "1",
        "filename": "a.txt",
        "owner_id": "nobody",
    }


def bodies(operation: Operation) -> Iterator[str]:
    """JSON bodies of this operation with PLACE as one of its values, as an extra member, or as the whole."""
    if operation.body is not None:
        schema = operation.body.model_json_schema()
    elif operation.streams is not None and "application/json" in operation.streams["content"]:
        schema = operation.streams["content"]["application/json"]["schema"]
    else:
        return
    whole = sample(schema, schema.get("$defs", {}))
    needed = {name: whole[name] for name in schema.get("required", ())}
    yield PLACE
    for name, member in {**whole, "more": None}.items():
        for changed in (PLACE, *places(member)):
            yield json.dumps({**needed, name: changed}).replace(f'"{PLACE}"', PLACE)


def sample(schema: dict[str, Any], known: dict[str, Any]) -> Any:
    """A value that matches the schema, with all members."""
    if "$ref" in schema:
        return sample(known[schema["$ref"].rpartition("/")[2]], known)
    for either in ("anyOf", "allOf"):
        if either in schema:
            return sample(schema[either][0], known)
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return "PUT" if "PUT" in values else values[0]
    if kind == "object" and "properties" in schema:
        return {name: sample(member, known) for name, member in schema["properties"].items()}
    if kind == "array":
        return [sample(schema.get("items") or schema["prefixItems"][0], known)]
    if kind == "string" and schema.get("format") == "date-time":
        return "2030-01-01T00:00:00Z"
    samples = {"object": {"a": {"b": [1]}}, "integer": schema.get("minimum", 1), "boolean": True}
    return samples.get(kind or "", "a")


def places(value: Any) -> Iterator[Any]:
    """Copies of the value, each with PLACE instead of one value inside it."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in members:
        for inner in (PLACE, *places(member)):
            changed = value.copy()
            changed[name] = inner
            yield changed


def address(rule: Any, known: dict[str, str]) -> str:
    """The route's path with the known parameters."""
    return "".join(
        quote(known[text]) if is_argument else text for is_argument, text in rule._trace if text not in ("|",)
    )


def test_T138_no_number_in_any_json_body_gives_a_5xx(
    app: Flask, client: GatewayClient, admin: GatewayClient, known: dict[str, str]
) -> None:
    asked = taken = 0
    for rule, method, operation in operations(app):
        caller = GatewayClient(app, (admin if rule.rule.startswith("/api/admin") else client).key, check=False)
        for body in bodies(operation):
            for value in CHANGED[::3] + ODD:
                answer = caller.request(
                    method,
                    address(rule, known),
                    data=body.replace(PLACE, value).encode(),
                    headers={"Content-Type": "application/json"},
                )
                told = (method, rule.rule, body[:300], value[:60], answer.body[:300])
                assert answer.status < 500, told
                assert answer.status >= 400 or value not in CHANGED, told
                asked, taken = asked + 1, taken + (answer.status < 300)
    assert asked > 1_000 and taken > 100, (asked, taken)
    still_works(client, admin)


def still_works(client: GatewayClient, admin: GatewayClient) -> None:
    """Accepted values can be listed."""
    for path in ("/api/files", "/api/uploads", "/api/folders", "/api/search", "/api/storage/stats"):
        assert client.get(path).status == 200, path
    for path in ("/api/admin/keys", "/api/admin/jobs", "/api/files?owner=*"):
        assert admin.get(path).status == 200, path


def test_T138_no_number_in_any_query_gives_a_5xx(
    app: Flask, client: GatewayClient, admin: GatewayClient, known: dict[str, str]
) -> None:
    asked = 0
    for rule, method, operation in operations(app):
        if operation.query is None:
            continue
        caller = GatewayClient(app, (admin if rule.rule.startswith("/api/admin") else client).key, check=False)
        for name in operation.query.model_fields:
            for text in (*TEXTS, "\ud800"):
                query = urlencode({name: text}, errors="surrogatepass")
                answer = caller.request(method, f"{address(rule, known)}?{query}")
                assert answer.status < 500, (method, rule.rule, query[:80], answer.body[:300])
                asked += 1
    assert asked > 500
    for text in TEXTS:
        for name in ("folder_id", "visibility", "tags", "other"):
            query = urlencode({"filename": "a.txt", f"metadata[{name}]": text})
            assert client.get(f"/s3/params?{query}").status in (200, 400, 404), query[:80]
    still_works(client, admin)


def test_T138_no_number_in_any_path_gives_a_5xx(
    app: Flask, client: GatewayClient, admin: GatewayClient, known: dict[str, str]
) -> None:
    for rule, method, _ in operations(app):
        caller = GatewayClient(app, (admin if rule.rule.startswith("/api/admin") else client).key, check=False)
        for name in rule.arguments:
            for text in TEXTS:
                path = address(rule, {**known, name: text})
                answer = caller.request(method, path, headers=TUS)
                assert answer.status < 500, (method, path[:80], answer.body[:300])


def test_T138_no_number_in_any_header_gives_a_5xx(
    app: Flask, client: GatewayClient, admin: GatewayClient, known: dict[str, str]
) -> None:
    for rule, method, operation in operations(app):
        caller = GatewayClient(app, (admin if rule.rule.startswith("/api/admin") else client).key, check=False)
        for name in operation.request_headers:
            for text in NUMBERS:
                for spoken in ({"Upload-Complete": "?1"}, TUS) if "tus" in rule.rule else ({},):
                    headers = {"Content-Type": "application/offset+octet-stream", **spoken, name: text}
                    answer = caller.request(method, address(rule, known), headers=headers, data=b"a")
                    assert answer.status < 500, (method, rule.rule, headers, answer.body[:300])


def test_T138_no_number_in_a_form_or_in_tus_metadata_gives_a_5xx(client: GatewayClient) -> None:
    for text in TEXTS:
        for name in ("folder_id", "visibility", "tags", "on_duplicate", "other"):
            body, content_type = form_data([("a.txt", b"a")], {name: text})
            assert client.post("/api/upload", data=body, headers={"Content-Type": content_type}).status < 500
            headers = {**TUS, "Upload-Length": "5", "Upload-Metadata": metadata(**{name: text})}
            if len(text) < 5000:  # a longer head exceeds the server's limit
                assert client.post("/api/tus", headers=headers).status in (201, 400, 404)


EXACT = {
    "integers": [2**63 - 1, -(2**63), 2**53 + 1, 0],
    "doubles": [0.1, 1e22, 1.7976931348623157e308, 5e-324, -2.5, 1e300, 100.0],
    "texts": ["\\u0000", "\\\\u0000", "\\", "日本", "9" * 400],
    "nested": [[[[[{"a": None}]]]]],
}


def test_T138_metadata_is_returned_unchanged(client: GatewayClient, services: Services, alice: Any) -> None:
    begun = direct(services).begin(alice, filename="a.bin", size=5)
    assert begun.upload.metadata == {}
    answer = client.post("/api/uploads", json={"filename": "a.bin", "size": 5, "metadata": EXACT})
    assert answer.status == 201, answer.body
    plan = direct(services).begun(answer.json["id"])
    assert plan is not None
    send_all(plan, b"hello")
    file = client.post(f"/api/uploads/{answer.json['id']}/complete", json={}).json
    found = client.get(f"/api/files/{file['id']}").json["metadata"]["custom"]
    assert found == EXACT
    assert client.get("/api/files").json["items"][0]["metadata"]["custom"] == EXACT


@with_subtests(("route", "value"), product(["/api/uploads", "/s3/multipart", "/s3/sign"], CHANGED))
def test_T138_metadata_that_would_change_is_rejected(client: GatewayClient, route: str, value: str) -> None:
    members = {
        "/api/uploads": '"filename": "a.bin", "size": 5',
        "/s3/multipart": '"filename": "a.bin"',
        "/s3/sign": '"method": "PUT", "key": "a.bin", "size": 5',
    }[route]
    body = f'{{{members}, "metadata": {{"a": [{value}]}}}}'.encode()
    answer = client.post(route, data=body, headers={"Content-Type": "application/json"})
    assert (answer.status, answer.code) == (400, "invalid_input")


def test_T138_an_unacceptable_number_stored_earlier_can_be_shown(client: GatewayClient, db: Database) -> None:
    client.add("a.txt", b"text")
    kept = 10**400
    sql(db, "update files set metadata = jsonb_build_object('custom', jsonb_build_object('a', %s::numeric))", kept)
    assert client.get("/api/files").json["items"][0]["metadata"]["custom"] == {"a": kept}
