"""The OpenAPI document as one HTML page without scripts or external resources."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from typing import Any

from api.problems import status_of
from core import errors

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
code,summary b{font-family:ui-monospace,monospace}
summary{cursor:pointer;padding:.3rem 0}summary b{display:inline-block;min-width:5rem}
details{border-bottom:1px solid #ddd}table{border-collapse:collapse;margin:.5rem 0}
td,th{text-align:left;padding:.2rem .8rem .2rem 0;
vertical-align:top}@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}a{color:#8bf}details{border-color:#444}}
"""


def policy() -> str:
    """The page's Content-Security-Policy: nothing but its own style sheet."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    closed = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return f"default-src 'none'; style-src 'sha256-{digest}'; {closed}"


def page(document: dict[str, Any] | None) -> str:
    """A page with the document; without one, a page that links to it."""
    body = (
        "".join(_whole(document))
        if document
        else (
            '<h1>Upload gateway</h1><p><a href="/docs">API documentation</a> · '
            '<a href="/openapi.json">OpenAPI document</a></p>'
        )
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Upload gateway</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>{body}</body></html>'
    )


def _whole(document: dict[str, Any]) -> Iterator[str]:
    yield f"<h1>{escape(document['info']['title'])}</h1><p>{escape(document['info']['description'])} "
    yield 'Also as an <a href="/openapi.json">OpenAPI document</a>.</p>'
    by_tag: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            by_tag.setdefault(operation["tags"][0], []).append("".join(_operation(method, path, operation)))
    for tag, parts in by_tag.items():
        yield f"<h2>{escape(tag)}</h2>{''.join(parts)}"
    yield "<h2>Error codes</h2><table><tr><th>code<th>status<th>meaning</tr>"
    for kind in errors.kinds():
        yield (
            f'<tr id="{escape(kind.code)}"><td><code>{escape(kind.code)}</code><td>{status_of(kind)}'
            f"<td>{escape(kind.title)}</tr>"
        )
    yield "</table>"


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield (
        f"<details><summary><b>{method.upper()}</b> <code>{escape(path)}</code> "
        f"{escape(operation['summary'])}</summary>"
        f"<p>{escape(operation['description'])}</p>"
    )
    if operation["parameters"]:
        yield "<table>"
        for parameter in operation["parameters"]:
            yield (
                f"<tr><td><code>{escape(parameter['name'])}</code><td>{escape(parameter['in'])}"
                f"<td>{escape(_kind(parameter['schema']))}<td>{escape(parameter.get('description', ''))}</tr>"
            )
        yield "</table>"
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Body: {escape(media_type)} {escape(_kind(content['schema']))}</p>"
    yield "<table>"
    for status, response in operation["responses"].items():
        shapes = ", ".join(
            f"{name} {_kind(content['schema'])}" for name, content in response.get("content", {}).items()
        )
        yield f"<tr><td>{status}<td>{escape(response['description'])}<td>{escape(shapes)}</tr>"
    yield "</table></details>"


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    if "anyOf" in schema:
        return " or ".join(_kind(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    return str(schema.get("const", schema.get("format", schema.get("type", ""))))
