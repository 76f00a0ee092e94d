"""Who asks: the credential of a request becomes a Principal before anything else happens.

Each operation says who may call it. What has no operation, because no such route exists, is for callers with a
credential too: without one the answer is 401 whether the route exists or not.
"""

from __future__ import annotations

import re

from flask import current_app, g, request

from api.context import services
from api.operations import Operation
from core.errors import NotAllowed, NotAuthenticated
from services.access import upload_tokens

# All that an upload token may speak to; there it sees its own uploads only (services/completing.own).
TOKEN_BLUEPRINTS = frozenset({"upload", "uploads", "tus", "companion", "s3_xml"})

_BEARER = re.compile(r"bearer +([\x21-\x7e]{1,4096}) *", re.IGNORECASE)


def current_operation() -> Operation | None:
    """What the route of this request does; None where there is no such route or method."""
    if request.endpoint is None:
        return None
    return getattr(current_app.view_functions.get(request.endpoint), "operation", None)


def authenticate() -> None:
    """Set ``g.principal``, or raise NotAuthenticated or NotAllowed. Runs before every request."""
    g.principal = None
    operation = current_operation()
    if operation is not None and operation.access == "public":
        return
    if request.method == "OPTIONS":  # a CORS preflight bears no credential, and tells nothing but methods
        return
    header = request.headers.get("Authorization")
    if header is not None:
        found = _BEARER.fullmatch(header)
        if not found:
            raise NotAuthenticated("Send the credential as: Authorization: Bearer <key>")
        credential = found.group(1)
        if credential.startswith(upload_tokens.PREFIX):
            g.principal = services().upload_tokens.authenticate(credential)
            if request.blueprint not in TOKEN_BLUEPRINTS:
                raise NotAllowed("An upload token is good for uploading and nothing else.")
        else:
            g.principal = services().keys.authenticate(credential)
    elif operation is None or not (
        operation.access == "signed" or (operation.access == "public files" and request.method in ("GET", "HEAD"))
    ):
        raise NotAuthenticated()
    if operation is not None and operation.access == "admin" and not g.principal.is_admin:
        raise NotAllowed("This needs an admin key.")
