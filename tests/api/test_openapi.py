"""The OpenAPI document is valid and complete, and the check of responses against it fails those that do not match."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from flask import Flask
from openapi_spec_validator import validate

from api import openapi
from core.errors import GatewayError
from tests.client import GatewayClient
from tests.openapi_check import check_response
from tests.paths import ROOT


def test_the_document_is_valid_openapi_3_1(anonymous: GatewayClient) -> None:
    document = anonymous.get("/openapi.json").json
    assert document["openapi"].startswith("3.1")
    validate(document)


def test_the_version_matches_the_command(anonymous: GatewayClient) -> None:
    command = [sys.executable, "app.py", "--version"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed == f"upload-gateway {anonymous.document['info']['version']}\n"


def test_every_route_is_described(app: Flask, anonymous: GatewayClient) -> None:
    document = anonymous.get("/openapi.json").json
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    routed = {
        (
            method,
            "".join(
                "{" + piece.rpartition(":")[2].rstrip(">") + "}" if piece.startswith("<") else piece
                for piece in rule.rule.replace("<", "\0<").replace(">", ">\0").split("\0")
            ),
        )
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in ("HEAD", "OPTIONS")
    }
    assert routed
    assert described - {("HEAD", path) for _, path in described} == routed
    assert ("HEAD", "/api/files/{file_id}/download") in described


def test_an_undescribed_route_raises() -> None:
    app = Flask("bare", static_folder=None)
    app.get("/x")(lambda: "x")
    with pytest.raises(LookupError, match="/x"):
        openapi.document(app)


def test_every_operation_lists_its_errors(anonymous: GatewayClient) -> None:
    for path, methods in anonymous.document["paths"].items():
        for method, operation in methods.items():
            responses = operation["responses"]
            assert {"400", "500", "503"} <= set(responses), (method, path)
            assert "401" in responses or operation.get("security") == [], (method, path)
            for status, response in responses.items():
                if int(status) >= 400 and method != "head":
                    expected = "application/xml" if path.startswith("/s3/objects/") else "application/problem+json"
                    assert list(response["content"]) == [expected], (method, path, status)


def test_operation_ids_are_unique(anonymous: GatewayClient) -> None:
    ids = [
        operation["operationId"] for methods in anonymous.document["paths"].values() for operation in methods.values()
    ]
    assert len(ids) == len(set(ids))


def test_every_error_has_a_status() -> None:
    from api.problems import status_of

    def below(kind: type[GatewayError]) -> list[type[GatewayError]]:
        return [kind] + [leaf for child in kind.__subclasses__() for leaf in below(child)]

    assert [kind for kind in below(GatewayError)[1:] if status_of(kind) == 500] == []


HEADERS = {"X-Request-ID": "0123456789", "Content-Type": "application/json"}
FOLDER = (
    b'{"id":1,"name":"a","description":"","parent_id":null,"path":"/a","created_at":"2026-11-23T04:15:00Z",'
    b'"updated_at":"2026-11-23T04:15:00Z","file_count":0,"total_file_count":0,"total_size":0%s}'
)


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, HEADERS, FOLDER % b',"surplus":1'),
        (200, HEADERS, (FOLDER % b"").replace(b'"path":"/a",', b"")),
        (200, HEADERS, (FOLDER % b"").replace(b"04:15:00Z", b"04:15")),
        (200, HEADERS | {"Content-Type": "text/html"}, FOLDER % b""),
        (200, {"Content-Type": "application/json"}, FOLDER % b""),
        (201, HEADERS, FOLDER % b""),
        (404, HEADERS, b"{}"),
        (404, HEADERS | {"Content-Type": "application/problem+json"}, b'{"status":404}'),
    ],
)
def test_mismatching_responses_are_detected(
    anonymous: GatewayClient, status: int, headers: dict[str, str], body: bytes
) -> None:
    check_response(anonymous.document, "GET", "/api/folders/1", 200, HEADERS, FOLDER % b"")
    with pytest.raises(AssertionError):
        check_response(anonymous.document, "GET", "/api/folders/1", status, headers, body)


def test_all_refs_resolve(anonymous: GatewayClient) -> None:
    document = anonymous.document

    def refs(node: Any) -> list[str]:
        if isinstance(node, dict):
            return ([node["$ref"]] if "$ref" in node else []) + [ref for value in node.values() for ref in refs(value)]
        return [ref for value in node for ref in refs(value)] if isinstance(node, list) else []

    for ref in set(refs(document)):
        target: Any = document
        for step in ref.removeprefix("#/").split("/"):
            target = target[step]
