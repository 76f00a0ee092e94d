"""``@operation`` declares a route's input, responses and errors. The view is called with parsed input, and the OpenAPI
document (api/openapi.py) is written from the same declaration, so the two can't differ.

    @files.patch("/<uuid:file_id>")
    @operation("Change a file", body=FileChangeBody, responses={200: FileOut}, errors=(NotFound, NameConflict))
    def update(file_id: UUID, body: FileChangeBody) -> Response: ...

A view with ``body`` gets the JSON body as that model. A view with ``streams`` reads the body itself; neither this module nor
Flask touches it (T7).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import KW_ONLY, dataclass, replace
from functools import wraps
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin

from flask import Response, g, request
from pydantic import BaseModel, ValidationError

from api.context import principal, services
from api.request_body import has_body, read_whole, refuse_encoded
from core import strict_json
from core.errors import GatewayError, InvalidInput, MalformedUpload, Unsupported
from core.principal import Scope
from services.access.rate_limits import LimitName

# signed: the address is a credential; operators: public, unless OPS_ACCESS closes it
Access = Literal["public", "operators", "public files", "signed", "user", "admin"]
_SCOPES: Mapping[str, Scope] = {"GET": "read", "HEAD": "read", "DELETE": "delete"}  # of other methods: write
Model = TypeVar("Model", bound=BaseModel)
View = Callable[..., Response]
Shape = type[BaseModel] | UnionType

MAX_JSON_BYTES = 1024 * 1024
BY_SERVICE = ""  # Operation.audit: the services record what they change, in the same transaction


@dataclass(frozen=True, slots=True)
class Content:
    """A response body that is not one JSON model: media types, with the model of each or None for bytes."""

    types: Mapping[str, Shape | None]
    description: str = "The bytes"
    headers: tuple[str, ...] = ()  # names of api/openapi.py's HEADERS


@dataclass(frozen=True, slots=True)
class Operation:
    """A route's declaration, which decorates its view. The view's docstring is the operation's description."""

    summary: str
    _: KW_ONLY
    responses: Mapping[int, type[BaseModel] | Content | None]
    access: Access = "user"
    limit: LimitName | None = (
        None  # the rate limit that requests count for, and the slots that they take if it has some
    )
    scopes: tuple[Scope, ...] = ()  # one of these is needed; by default that of the method
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    optional_body: bool = False
    before: Callable[[], None] = lambda: None  # called before the body is read, to take a slot for what comes after it
    streams: Mapping[str, Any] | None = None  # an OpenAPI requestBody
    headers: tuple[str, ...] = ()  # of responses, in addition to those that every response has
    request_headers: tuple[str, ...] = ()
    errors: tuple[type[GatewayError], ...] = ()  # in addition to those of all operations (api/openapi.py)
    audit: str | None = None  # the action to record when it has succeeded; None only if it changes nothing (T125)
    error_type: str = "application/problem+json"
    description: str = ""

    def __call__(self, view: View) -> View:
        """The view, called with parsed input."""

        @wraps(view)
        def with_input(**arguments: Any) -> Response:
            self.before()
            if self.query is not None:
                arguments["query"] = parse_query(self.query)
            if self.body is not None:
                left_out = self.optional_body and not has_body()
                arguments["body"] = self.body() if left_out else parse_json(self.body)
            slots = services().slots.get(self.limit) if self.limit is not None else None
            with nullcontext() if slots is None else slots.slot(principal().owner_id):
                return view(**arguments)

        with_input.operation = replace(self, description=" ".join((view.__doc__ or "").split()))  # type: ignore[attr-defined]
        return with_input

    def scopes_for(self, method: str) -> tuple[Scope, ...]:
        """The scopes of which a credential needs one."""
        return ("admin",) if self.access in ("admin", "operators") else self.scopes or (_SCOPES.get(method, "write"),)


operation = Operation


def parse_query(model: type[Model]) -> Model:
    """The query string as a model; parameters that the model does not have are ignored."""
    return parsed(model, request.args.lists())


def parsed(model: type[Model], fields: Iterable[tuple[str, list[str]]]) -> Model:
    """Text fields as a model. A list may be repeated or separated by commas; other fields are given at most once."""
    values: dict[str, Any] = {}
    for name, given in fields:
        known = model.model_fields.get(name)
        if known is None:
            continue
        if not is_list(known.annotation) and len(given) > 1:
            raise InvalidInput(f"{name} is given more than once.", errors=[_error(name, "given more than once")])
        values[name] = given if is_list(known.annotation) else given[0]
    return validated(model, values)


def is_list(annotation: Any) -> bool:
    """Whether a field holds several values: ``tuple[str, ...]``, alone, beside None or with validators."""
    return get_origin(annotation) is tuple or any(map(is_list, get_args(annotation)))


def parse_json(model: type[Model]) -> Model:
    """The JSON body as a model. 415 for another media type or an encoded body, 413 beyond 1 MiB, else 400."""
    refuse_encoded()
    if request.mimetype != "application/json":
        raise Unsupported("Send the body as application/json.")
    try:
        g.body = read_whole(MAX_JSON_BYTES)  # kept for the digest of an Idempotency-Key
    except MalformedUpload as error:
        raise InvalidInput(error.detail) from error
    try:
        strict_json.loads(g.body)  # rejects what pydantic would round or accept
        return model.model_validate_json(g.body)
    except ValidationError as error:
        raise InvalidInput("The body is not valid.", errors=field_errors(error, "body")) from error
    except ValueError as error:
        raise InvalidInput("The body is not valid.", errors=[_error("body", str(error))]) from error


def validated(model: type[Model], values: Mapping[str, Any]) -> Model:
    """The values as a model, or InvalidInput."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InvalidInput(errors=field_errors(error, "query")) from error


def field_errors(error: ValidationError, whole: str) -> list[dict[str, str]]:
    """[{"field": "tags.3", "message": …}], without the values that the client sent: they may be long or secret."""
    found: dict[str, str] = {}
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        # pydantic names the branches of a union by its own validators: "folder.literal['root']"
        parts = [str(part) for part in fault["loc"] if isinstance(part, int) or not re.search(r"[\[\](]|^int$", part)]
        found.setdefault(".".join(parts)[:200] or whole, fault["msg"].removeprefix("Value error, "))
    return [_error(name, message) for name, message in list(found.items())[:20]]


def _error(name: str, message: str) -> dict[str, str]:
    return {"field": name, "message": message}
