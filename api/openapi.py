"""The OpenAPI 3.1 document, generated from the routes' ``@operation`` declarations.

A route without a declaration is an error, so none can be missing. The schemas are the pydantic models that parse requests, and
against which the tests check responses.
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

# Response headers, then request headers.
HEADERS: Mapping[str, str] = {
    "X-Request-ID": "The request's id in the logs; the client's own if it is 8 to 128 of A-Z, a-z, 0-9, '.', '_' and '-'",
    "ETag": "Of the content, or of the file's metadata",
    "Last-Modified": "When the content was uploaded",
    "Location": "The address of the new resource, or of the bytes",
    "Link": 'rel="next": the next page (RFC 8288)',
    "Upload-Session": "The upload session; send it with further uploads to add them to the session",
    "Content-Disposition": "RFC 6266",
    "Content-Range": "RFC 9110 §14.4",
    "Accept-Ranges": "RFC 9110 §14.3",
    "Retry-After": "Seconds",
    "Set-Cookie": "The session: HttpOnly, SameSite, and Secure over HTTPS",
    "Clear-Site-Data": "What the browser stored for the gateway's pages is to be removed",
    "WWW-Authenticate": "RFC 6750",
    "RateLimit-Policy": 'Requests (q) in so many seconds (w), as "uploads";q=60000;w=60 (IETF draft)',
    "RateLimit": 'Requests that are left (r) until the window ends in so many seconds (t), as "uploads";r=59968;t=42',
    "Tus-Resumable": "The tus version of this response",
    "Upload-Offset": "Bytes that are stored durably",
    "Upload-Length": "Size of the entire upload in bytes",
    "Upload-Defer-Length": "1 while the length is not known",
    "Upload-Metadata": "As it was sent",
    "Upload-Concat": "As it was sent",
    "Upload-Expires": "When the upload expires unless it is continued",
    "Upload-File-Id": "The id of the finished upload's file",
    "Upload-Complete": "?1 or ?0 (IETF draft)",
    "Upload-Incomplete": "?0 or ?1 (IETF draft, interop version 3)",
    "Upload-Limit": "max-size, min-size in bytes, max-age in seconds (IETF draft)",
    "Upload-Draft-Interop-Version": "The interop version of the IETF draft of this response",
    "Repr-Digest": "Of the complete upload (RFC 9530), as Want-Repr-Digest asked, or sha-256 once it was read back (IETF draft)",
}
REQUEST_HEADERS: Mapping[str, str] = {
    "If-Match": "412 unless the file has one of these ETags",
    "If-None-Match": "304 if the content has one of these ETags",
    "If-Modified-Since": "304 if the content is not newer; ignored beside If-None-Match",
    "If-Unmodified-Since": "412 if the content is newer; ignored beside If-Match",
    "If-Range": "The range applies only if the content has this ETag or Last-Modified",
    "Range": "One range of bytes",
    "Idempotency-Key": "The same request again within 24 hours gets the first response; 1 to 255 visible ASCII characters",
    "Upload-Session": "The session to add to: 1 to 64 letters, digits, hyphens and underscores",
    "Content-MD5": "MD5 of the body (RFC 1864); 400 checksum_mismatch if it differs",
    "Content-Digest": "sha-256=:<base64>: of the body (RFC 9530), also as Repr-Digest; 400 checksum_mismatch if it differs",
    "Repr-Digest": "sha-256=:<base64>: of the entire upload (RFC 9530); the file is rejected if it differs",
    "Want-Repr-Digest": "sha-256=<1 to 10>, sha-512=<1 to 10>: what to return of an upload in one request (RFC 9530)",
    "Tus-Resumable": "1.0.0; a request without it must follow the IETF draft",
    "Upload-Offset": "The offset of the body in the upload, in bytes",
    "Upload-Length": "Size of the entire upload in bytes",
    "Upload-Defer-Length": "1: the length is sent later",
    "Upload-Metadata": "Keys with values in base64: key value,key value",
    "Upload-Concat": "partial, or final; followed by the addresses of partial uploads",
    "Upload-Checksum": "sha1, sha256, md5 or crc32 of the body in base64; 460 checksum_mismatch if it differs",
    "Upload-Complete": "?1 if the upload ends with this body (IETF draft)",
    "Upload-Incomplete": "?0 if the upload ends with this body (IETF draft, interop version 3)",
    "Upload-Draft-Interop-Version": "3 to 9 (IETF draft)",
    "X-HTTP-Method-Override": "HEAD, PATCH or DELETE",
}
_PATTERNS: Mapping[str, str] = {  # of request headers
    "Idempotency-Key": "^[!-~]{1,255}$",
    "Upload-Session": "^[A-Za-z0-9_-]{1,64}$",
    "Tus-Resumable": r"^1\.0\.0$",
    "Upload-Length": "^[0-9]{1,15}$",
    "Upload-Offset": "^[0-9]{1,15}$",
    "Upload-Defer-Length": "^1$",
}
_SERVER_CODES = {408: "request_timeout", 414: "uri_too_long", 431: "headers_too_large"}  # of any request
_COMMON_ERRORS = (errors.InvalidInput, GatewayError, errors.Unavailable)


@lru_cache(maxsize=8)
def document(app: Flask) -> dict[str, Any]:
    """The document of this application. LookupError if a route has no declaration."""
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
            "description": "Errors are application/problem+json (RFC 9457). Clients should rely on their `code`.",
        },
        "servers": [{"url": app.extensions[EXTENSION].settings.base_url}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key with the named scope, a JWT of the identity provider, or an upload token",
                },
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "__Host-session",
                    "description": "The cookie of `POST /api/session`; without HTTPS it is called `session`",
                },
            },
            "schemas": schemas,
            "headers": {name: {"description": text, "schema": {"type": "string"}} for name, text in HEADERS.items()},
        },
    }


def operations(app: Flask) -> Iterator[tuple[Rule, str, Operation]]:
    """Each route and method with its operation. HEAD is listed only if it differs from GET."""
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        operation = getattr(app.view_functions[rule.endpoint], "operation", None)
        if operation is None:
            raise LookupError(f"the route {rule.rule} has no @operation")
        head = any("Range" in name for name in operation.request_headers)
        for method in sorted((rule.methods or set()) - {"OPTIONS"} - (set() if head else {"HEAD"})):
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
        "parameters": [*_path_parameters(rule), *_query_parameters(operation), *_header_parameters(operation)],
        "responses": _responses(rule, method, operation),
        "security": _security(method, operation),
    }
    if operation.body is not None:
        described["requestBody"] = {
            "required": not operation.optional_body,
            "content": {"application/json": {"schema": {"$ref": _REF.format(model=operation.body.__name__)}}},
        }
    elif operation.streams is not None:
        described["requestBody"] = dict(operation.streams)
    return described


def _security(method: str, operation: Operation) -> list[dict[str, list[str]]]:
    """One of these is needed; the text is the scope of a key."""
    if operation.access == "public":
        return []
    keys: list[dict[str, list[str]]] = [{"bearer": [scope]} for scope in operation.scopes_for(method)]
    keys.append({"session": []})
    return [*keys, {}] if operation.access in ("operators", "public files", "signed") else keys


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
        if "anyOf" in described:  # a query can't contain null
            del described["anyOf"]
            described |= options[0] if len(options) == 1 else {"anyOf": options}
            if described.get("default", "") is None:
                del described["default"]
        text = described.pop("description", None)
        parameter = {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": described}
        yield parameter | ({"description": text} if text else {})


def _header_parameters(operation: Operation) -> Iterator[dict[str, Any]]:
    for name in operation.request_headers:
        if name != "Accept":  # OpenAPI reserves this name
            yield {
                "name": name,
                "in": "header",
                "required": False,
                "description": REQUEST_HEADERS[name],
                "schema": {"type": "string"} | ({"pattern": _PATTERNS[name]} if name in _PATTERNS else {}),
            }


def _responses(rule: Rule, method: str, operation: Operation) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, shape in operation.responses.items():
        content = (
            shape if isinstance(shape, Content) else Content({} if shape is None else {"application/json": shape}, "")
        )
        described: dict[str, Any] = {
            "description": content.description or HTTPStatus(status).phrase,
            "headers": _headers(
                *_common_headers(operation),
                *(("Link",) if _is_list(operation) else ()),
                *operation.headers,
                *content.headers,
            ),
        }
        if content.types and method != "HEAD":
            described["content"] = {media_type: {"schema": _schema(part)} for media_type, part in content.types.items()}
        responses[str(status)] = described
    for status, codes in sorted(_errors(rule, operation).items()):
        described = {
            "description": ", ".join(codes),
            "headers": _headers(
                *_common_headers(operation),
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


def _errors(rule: Rule, operation: Operation) -> dict[int, list[str]]:
    """The error codes of this operation by status: those that it declares, and those of every operation of its kind."""
    kinds: list[type[GatewayError]] = [*_COMMON_ERRORS, *operation.errors]
    if operation.access != "public":
        kinds += [
            errors.NotAuthenticated,
            errors.TooMany,
            errors.NotAllowed,
        ]  # upload tokens are accepted by few routes
    if rule.arguments:
        kinds.append(errors.NotFound)
    if operation.body is not None:
        kinds += [errors.RequestTooLarge, errors.Unsupported, errors.EncodingNotAllowed]
    if operation.streams is not None:
        kinds.append(errors.RequestTooLarge)
    if _is_list(operation):
        kinds.append(errors.InvalidCursor)
    if operation.limit is not None:
        kinds.append(errors.TooMany)
    if "Idempotency-Key" in operation.request_headers:
        kinds += [errors.IdempotencyConflict, errors.IdempotencyInProgress]
    found = {status: [code] for status, code in _SERVER_CODES.items()}
    for kind in dict.fromkeys(kinds):
        found.setdefault(status_of(kind), []).append(kind.code)
    return found


def _is_list(operation: Operation) -> bool:
    return operation.query is not None and "cursor" in operation.query.model_fields


def _common_headers(operation: Operation) -> tuple[str, ...]:
    return "X-Request-ID", *(("RateLimit-Policy", "RateLimit") if operation.limit is not None else ())


def _schema(shape: Shape | None) -> dict[str, Any]:
    refs = [{"$ref": _REF.format(model=model.__name__)} for model in _parts(shape)]
    return {} if not refs else refs[0] if len(refs) == 1 else {"anyOf": refs}


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in dict.fromkeys(names)}
