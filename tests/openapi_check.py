"""Checks a response against the OpenAPI document. Imports nothing of the gateway.

``tests/client.py`` calls ``check_response`` for every response of the suite, so a member, a status or a media
type that the document does not know fails the test that met it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

PROBLEM = "application/problem+json"
XML_ROUTES = "/s3/objects/"  # for clients of S3
_PLACE = re.compile(r"\{(\w+)\}")


class Checker:
    """The validators of one document, compiled once."""

    def __init__(self, document: dict[str, Any]):
        self._components = document["components"]
        self._routes: list[tuple[int, re.Pattern[str], dict[str, Any]]] = []
        for path, operations in document["paths"].items():
            pattern = "".join(
                _segment(piece, path, operations) if odd % 2 else re.escape(piece)
                for odd, piece in enumerate(_PLACE.split(path))
            )
            self._routes.append((path.count("{"), re.compile(pattern + r"\Z", re.DOTALL), operations))
        self._routes.sort(key=lambda route: route[0])  # a literal path before one with parameters
        self._problem = self._validator({"$ref": "#/components/schemas/Problem"})

    def _validator(self, schema: dict[str, Any]) -> Draft202012Validator:
        return _compiled(self, json.dumps(schema, sort_keys=True))

    def compile(self, schema: str) -> Draft202012Validator:
        whole = {**json.loads(schema), "components": self._components}
        return Draft202012Validator(whole, format_checker=FormatChecker())

    def operation(self, method: str, path: str) -> dict[str, Any] | None:
        for _, pattern, operations in self._routes:
            if pattern.match(path):
                found = operations.get(method.lower())
                if found is None and method == "HEAD":
                    found = operations.get("get")  # HEAD = GET without body
                if found is not None:
                    return found
        return None

    def check(self, method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        where = f"{method} {path[:200]} -> {status}"
        if method == "OPTIONS":
            return
        assert headers.get("X-Request-ID"), f"{where}: no X-Request-ID"
        media_type = headers.get("Content-Type", "").partition(";")[0].strip()
        operation = self.operation(method, path)
        if method == "HEAD":
            assert not body, f"{where}: HEAD has a body"
        if status >= 400:
            expected = ["application/xml" if path.startswith(XML_ROUTES) else PROBLEM]
            if operation is not None and status != 405:
                assert str(status) in operation["responses"], f"{where}: {body[:300]!r} is not in the document"
                expected = list(operation["responses"][str(status)].get("content", expected))
            assert media_type in expected, f"{where}: {media_type} instead of {expected}: {body[:300]!r}"
            if media_type == PROBLEM:
                self._check_problem(where, method, status, headers, body)
            return
        assert operation is not None, f"{where}: no such operation in the document"
        assert str(status) in operation["responses"], f"{where}: the document knows {list(operation['responses'])}"
        content = operation["responses"][str(status)].get("content")
        if method == "HEAD":
            return
        if not content:
            assert not body, f"{where}: a body where the document has none"
            return
        assert media_type in content or "*/*" in content, f"{where}: {media_type} instead of {list(content)}"
        schema = content.get(media_type, {}).get("schema")
        if schema and media_type == "application/json":
            self._validate(where, self._validator(schema), body)

    def _check_problem(self, where: str, method: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        if method != "HEAD":
            self._validate(where, self._problem, body)
            document = json.loads(body)
            assert document["status"] == status, where
            assert document["request_id"] == headers["X-Request-ID"], where
        for code, header in ((401, "WWW-Authenticate"), (405, "Allow"), (429, "Retry-After"), (503, "Retry-After")):
            assert status != code or headers.get(header), f"{where}: no {header}"

    @staticmethod
    def _validate(where: str, validator: Draft202012Validator, body: bytes) -> None:
        faults = sorted(validator.iter_errors(json.loads(body)), key=lambda fault: len(fault.path), reverse=True)
        assert not faults, f"{where}: {list(faults[0].path)}: {faults[0].message[:500]}"


@lru_cache(maxsize=512)
def _compiled(checker: Checker, schema: str) -> Draft202012Validator:
    return checker.compile(schema)


def _segment(name: str, path: str, operations: Mapping[str, Any]) -> str:
    """The pattern of a path parameter. Only the last may contain slashes."""
    schemas = [
        parameter["schema"]
        for operation in operations.values()
        for parameter in operation["parameters"]
        if parameter["in"] == "path" and parameter["name"] == name
    ]
    if schemas and schemas[0].get("format") == "uuid":
        return "[0-9A-Fa-f-]{36}"
    if schemas and schemas[0]["type"] == "integer":
        return "[0-9]+"
    if schemas and "/" in schemas[0].get("pattern", ""):  # ^[^/]+$
        return "[^/]+"
    return ".+" if path.endswith(f"{{{name}}}") else "[^/]+"


_checkers: dict[int, tuple[dict[str, Any], Checker]] = {}
_equal: dict[str, Checker] = {}  # by what they check: each server's document has another address


def check_response(
    document: dict[str, Any], method: str, path: str, status: int, headers: Mapping[str, str], body: bytes
) -> None:
    """Raise AssertionError if the document does not describe the response. ``path`` is decoded and has no query; ``headers``
    ignore the case of names."""
    known = _checkers.get(id(document))
    if known is None:
        content = json.dumps([document["components"], document["paths"]])
        checker = _equal.get(content) or _equal.setdefault(content, Checker(document))
        known = _checkers[id(document)] = (document, checker)
    known[1].check(method.upper(), path, status, headers, body)
