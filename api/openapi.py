"""The OpenAPI 3.1 document, written from the routes of the application themselves.

Every route must describe itself by ``@operation``; one that does not stops the writing, so no route can be missing. The
shapes are the pydantic models that parse input and that the tests hold answers against.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from http import HTTPStatus
from types import UnionType
from typing import Any, get_args

from flask import Flask
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from werkzeug.routing import Rule

from api.context import EXTENSION
from api.operations import Content, Operation, Shape
from api.problems import MEDIA_TYPE, status_of
from api.response_models import Problem
from core import errors
from core.errors import GatewayError
from settings import version

_REF = "#/components/schemas/{model}"
_ARGUMENT = re.compile(r"<(?:(?P<kind>[a-z_]+)(?:\([^)]*\))?:)?(?P<name>\w+)>")
_ARGUMENT_SCHEMAS: Mapping[str, dict[str, Any]] = {
    "uuid": {"type": "string", "format": "uuid"},
    "folder_id": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
    "job_id": {"type": "integer", "minimum": 1, "maximum": 10**18 - 1},
    "path": {"type": "string", "minLength": 1},
    "string": {"type": "string", "pattern": "^[^/]+$"},
}

# Headers of answers, and of requests.
HEADERS: Mapping[str, str] = {
    "X-Request-ID": "Names this request in the logs; the client's own where it is short and plain",
    "ETag": "Validator of the content, or of the file's metadata",
    "Location": "The address of what was made, or where the bytes are",
    "Link": 'RFC 8288: rel="next" leads to the next page',
    "Upload-Session": "Groups uploads; send it with the next to add to the same session",
    "Content-Disposition": "RFC 6266",
    "Content-Range": "RFC 9110 §14.4",
    "Accept-Ranges": "RFC 9110 §14.3",
    "Retry-After": "Seconds",
    "WWW-Authenticate": "RFC 6750",
    "Tus-Resumable": "The version of tus in which this is answered",
    "Upload-Offset": "Bytes that are durable",
    "Upload-Length": "Bytes of the entire upload",
    "Upload-Defer-Length": "1 while the length is not known",
    "Upload-Metadata": "As it was sent",
    "Upload-Concat": "As it was sent",
    "Upload-Expires": "When the upload ends unless it goes on",
    "Upload-File-Id": "The file that the upload became",
    "Upload-Complete": "?1 or ?0 (IETF draft)",
    "Upload-Incomplete": "?0 or ?1 (IETF draft, interop version 3)",
    "Upload-Limit": "max-size, min-size in bytes, max-age in seconds (IETF draft)",
    "Upload-Draft-Interop-Version": "The version of the IETF draft in which this is answered",
}
REQUEST_HEADERS: Mapping[str, str] = {
    "If-Match": "412 unless the file still has one of these ETags",
    "If-None-Match": "304 where the copy that the client has is still right",
    "If-Range": "The range only if the file still has this ETag",
    "Range": "One range of bytes",
    "Accept": "",
    "Idempotency-Key": "The same request within 24 hours gets the first answer; 1 to 255 visible ASCII characters",
    "Upload-Session": "The session to add to: 1 to 64 letters, digits, hyphens and underscores",
    "Content-MD5": "RFC 1864, of the body; wrong: 400 checksum_mismatch",
    "Content-Digest": "RFC 9530, sha-256=:<base64>: of the body, also as Repr-Digest; wrong: 400 checksum_mismatch",
    "Repr-Digest": "RFC 9530, sha-256=:<base64>: of the entire upload; wrong: the file is rejected",
    "Tus-Resumable": "1.0.0; what comes without it is the IETF draft, or 412",
    "Upload-Offset": "Where the body begins, in bytes",
    "Upload-Length": "Bytes of the entire upload",
    "Upload-Defer-Length": "1: the length is told later",
    "Upload-Metadata": "Keys and values in base64: name value,name value",
    "Upload-Concat": "partial, or final; and the addresses of partial uploads",
    "Upload-Checksum": "sha1, sha256, md5 or crc32 of the body in base64; wrong: 460 checksum_mismatch",
    "Upload-Complete": "?1 where the upload ends with this body (IETF draft)",
    "Upload-Incomplete": "?0 where the upload ends with this body (IETF draft, interop version 3)",
    "Upload-Draft-Interop-Version": "3 to 9 (IETF draft)",
    "X-HTTP-Method-Override": "HEAD, PATCH or DELETE",
}
_COMMON_REFUSALS = (errors.InvalidInput, GatewayError, errors.Unavailable)


@lru_cache(maxsize=8)
def document(app: Flask) -> dict[str, Any]:
    """The document of this application. LookupError where a route does not describe itself."""
    found = list(operations(app))
    schemas = _schemas(found)
    paths: dict[str, dict[str, Any]] = {}
    for rule, method, operation in found:
        path = _ARGUMENT.sub(r"{\g<name>}", rule.rule)
        paths.setdefault(path, {})[method.lower()] = _operation(rule, method, operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Upload gateway",
            "version": version(),
            "description": "Errors are application/problem+json (RFC 9457); clients switch on their `code`.",
        },
        "servers": [{"url": app.extensions[EXTENSION].settings.base_url}],
        "security": [{"bearer": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "description": "An API key"}},
            "schemas": schemas,
            "headers": {name: {"description": text, "schema": {"type": "string"}} for name, text in HEADERS.items()},
        },
    }


def operations(app: Flask) -> Iterator[tuple[Rule, str, Operation]]:
    """Each route and method with its operation; HEAD only where it is a method of its own."""
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        operation = getattr(app.view_functions[rule.endpoint], "operation", None)
        if operation is None:
            raise LookupError(f"the route {rule.rule} has no @operation")
        own_head = any("Range" in name for name in operation.request_headers)
        for method in sorted((rule.methods or set()) - {"OPTIONS"} - (set() if own_head else {"HEAD"})):
            yield rule, method, operation


def _schemas(found: list[tuple[Rule, str, Operation]]) -> dict[str, Any]:
    models: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {(Problem, "serialization"): None}
    for _, _, operation in found:
        if operation.body is not None:
            models[operation.body, "validation"] = None
        for shape in operation.responses.values():
            for part in shape.types.values() if isinstance(shape, Content) else [shape]:
                for model in _parts(part):
                    models[model, "serialization"] = None
    _, schemas = models_json_schema(list(models), ref_template=_REF)
    defined: dict[str, Any] = schemas["$defs"]
    return defined


def _parts(shape: Shape | None) -> tuple[type[BaseModel], ...]:
    if shape is None:
        return ()
    return get_args(shape) if isinstance(shape, UnionType) else (shape,)


def _operation(rule: Rule, method: str, operation: Operation) -> dict[str, Any]:
    section, _, name = rule.endpoint.partition(".")
    described: dict[str, Any] = {
        "operationId": f"{section}_{name}" + ("_head" if method == "HEAD" else ""),
        "tags": [section],
        "summary": operation.summary,
        "description": operation.description,
        "parameters": [
            *_path_parameters(rule),
            *_query_parameters(operation),
            *_header_parameters(operation),
        ],
        "responses": _responses(rule, method, operation),
    }
    if operation.access == "public":
        described["security"] = []
    elif operation.access in ("public files", "signed"):
        described["security"] = [{"bearer": []}, {}]
    if operation.body is not None:
        described["requestBody"] = {
            "required": not operation.optional_body,
            "content": {"application/json": {"schema": {"$ref": _REF.format(model=operation.body.__name__)}}},
        }
    elif operation.streams is not None:
        described["requestBody"] = dict(operation.streams)
    return described


def _path_parameters(rule: Rule) -> Iterator[dict[str, Any]]:
    for found in _ARGUMENT.finditer(rule.rule):
        schema = _ARGUMENT_SCHEMAS[found["kind"]]
        yield {"name": found["name"], "in": "path", "required": True, "schema": schema}


def _query_parameters(operation: Operation) -> Iterator[dict[str, Any]]:
    if operation.query is None:
        return
    schema = operation.query.model_json_schema()
    for name, described in schema.get("properties", {}).items():
        described = {key: value for key, value in described.items() if key != "title"}
        options = [option for option in described.get("anyOf", []) if option != {"type": "null"}]
        if "anyOf" in described:  # null can't be sent in a query
            del described["anyOf"]
            described |= options[0] if len(options) == 1 else {"anyOf": options}
            if described.get("default", "") is None:
                del described["default"]
        text = described.pop("description", None)
        parameter = {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": described,
        }
        yield parameter | ({"description": text} if text else {})


def _header_parameters(operation: Operation) -> Iterator[dict[str, Any]]:
    for name in operation.request_headers:
        if name != "Accept":  # OpenAPI keeps this one for itself
            yield {
                "name": name,
                "in": "header",
                "required": False,
                "description": REQUEST_HEADERS[name],
                "schema": {"type": "string"},
            }


def _responses(rule: Rule, method: str, operation: Operation) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, shape in operation.responses.items():
        content = (
            shape if isinstance(shape, Content) else Content({} if shape is None else {"application/json": shape}, "")
        )
        described: dict[str, Any] = {
            "description": content.description or HTTPStatus(status).phrase,
            "headers": _headers("X-Request-ID", *operation.headers, *content.headers),
        }
        if content.types and method != "HEAD":
            described["content"] = {media_type: {"schema": _schema(part)} for media_type, part in content.types.items()}
        responses[str(status)] = described
    for status, codes in sorted(_refusals(rule, method, operation).items()):
        described = {
            "description": ", ".join(codes),
            "headers": _headers(
                "X-Request-ID",
                *_PROBLEM_HEADERS.get(status, ()),
                *(("Retry-After",) if errors.IdempotencyInProgress.code in codes else ()),
            ),
        }
        if method != "HEAD":
            schema = {"$ref": _REF.format(model="Problem")} if operation.error_type == MEDIA_TYPE else {}
            described["content"] = {operation.error_type: {"schema": schema}}
        responses[str(status)] = described
    return dict(sorted(responses.items()))


_PROBLEM_HEADERS: Mapping[int, tuple[str, ...]] = {
    401: ("WWW-Authenticate",),
    416: ("Content-Range",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}


def _refusals(rule: Rule, method: str, operation: Operation) -> dict[int, list[str]]:
    """Status -> codes of what this operation may refuse: what its view names, and what any of its kind may."""
    kinds: list[type[GatewayError]] = [*_COMMON_REFUSALS, *operation.errors]
    if operation.access != "public":
        kinds += [errors.NotAuthenticated, errors.NotAllowed]  # an upload token is good for few routes
    if rule.arguments:
        kinds.append(errors.NotFound)
    if operation.body is not None:
        kinds += [errors.RequestTooLarge, errors.Unsupported, errors.EncodingNotAllowed]
    if operation.streams is not None:
        kinds.append(errors.RequestTooLarge)
    if "Idempotency-Key" in operation.request_headers:
        kinds += [errors.IdempotencyConflict, errors.IdempotencyInProgress]
    found: dict[int, list[str]] = {}
    for kind in dict.fromkeys(kinds):
        found.setdefault(status_of(kind), []).append(kind.code)
    return found


def _schema(shape: Shape | None) -> dict[str, Any]:
    refs = [{"$ref": _REF.format(model=model.__name__)} for model in _parts(shape)]
    return {} if not refs else refs[0] if len(refs) == 1 else {"anyOf": refs}


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in dict.fromkeys(names)}
