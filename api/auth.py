"""Authentication: the credential of a request becomes a Principal before anything else happens.

Each operation declares who may call it. A request for a route that does not exist needs a credential too: without one the
answer is 401 whether the route exists or not.
"""

from __future__ import annotations

import re
from hmac import compare_digest
from typing import cast

from flask import current_app, g, request

from api import session_cookie
from api.context import services, settings
from api.operations import Operation
from core.errors import GatewayError, NotAllowed, NotAuthenticated
from core.origin import ORIGIN
from core.principal import Principal, Scope
from services.access import upload_tokens

# The only routes for upload tokens, which see only their own uploads there (services/uploads/completion.own).
TOKEN_BLUEPRINTS = frozenset({"form_uploads", "direct_uploads", "tus", "s3_uploads", "s3_xml"})

_BEARER = re.compile(r"bearer +([\x21-\x7e]{1,8000}) *", re.IGNORECASE)


def current_operation() -> Operation | None:
    """The operation of the request's route and method; None if there is no such route."""
    return cast("Operation | None", g.get("operation"))


def authenticate() -> None:
    """Set ``g.operation`` and ``g.principal``, or raise NotAuthenticated or NotAllowed. Runs before every request."""
    g.principal = None
    view = current_app.view_functions.get(request.endpoint or "")
    operation: Operation | None = getattr(view, "operation", None)
    g.operation = operation
    try:
        _admit(operation)
    finally:
        if g.principal is not None:
            act_as(g.principal)


def _admit(operation: Operation | None) -> None:
    access = operation.access if operation is not None else None
    if access == "public" or request.method == "OPTIONS":  # a CORS preflight has no credential, and only lists methods
        if request.method == "POST":  # a login, and before it counts: other sites must not use up a person's
            session_cookie.refuse_other_sites()
        return
    if access == "operators" and _is_open_to_operators():
        return
    g.principal = _caller()
    if g.principal is not None:
        _authorize(g.principal, operation)
        if g.principal.folder_id is not None:
            g.principal = services().folders.reached_by(g.principal)
    elif access != "signed" and not (access == "public files" and request.method in ("GET", "HEAD")):
        raise NotAuthenticated()


def is_operator() -> bool:
    """Whether the caller may see what OPS_ACCESS can close (T141)."""
    if _is_open_to_operators():
        return True
    try:
        caller = _caller()
    except GatewayError:
        return False
    return caller is not None and caller.is_admin and "admin" in caller.scopes


def _is_open_to_operators() -> bool:
    """To everyone, or to the sender of METRICS_TOKEN, also while the database is away."""
    if settings().ops_access == "public":
        return True
    token, sent = settings().metrics_token, request.headers.get("Authorization", "")
    return token is not None and compare_digest(sent.partition(" ")[2].encode(), token.get_secret_value().encode())


def act_as(principal: Principal) -> None:
    """Let the events of this request tell that it is this caller's (db/events.py)."""
    credential_id = principal.key_id or principal.token_id
    ORIGIN.set(
        ORIGIN.get()._replace(
            actor=principal.owner_id,
            credential=principal.credential,
            credential_id=None if credential_id is None else str(credential_id),
        )
    )


def _caller() -> Principal | None:
    """Who sent the request's credential; None without one. Raises NotAuthenticated for one that is not valid."""
    return _signed_in() if "Authorization" not in request.headers else bearer()


def bearer() -> Principal | None:
    """Whose credential is in the Authorization header; None without the header. Raises NotAuthenticated."""
    header = request.headers.get("Authorization")
    if header is None:
        return None
    match = _BEARER.fullmatch(header)
    if not match:
        raise NotAuthenticated("Send the credential as: Authorization: Bearer <key>")
    return identify(match[1])


def _signed_in() -> Principal | None:
    """Whose session the browser has. None without one, or if it has ended, and on reads that pages of other sites make."""
    secret = session_cookie.value()
    if secret is None:
        return None
    operation = current_operation()
    # A GET of Uppy's protocol begins an upload.
    changes = request.method not in ("GET", "HEAD") or (operation is not None and operation.scopes == ("write",))
    if not session_cookie.may_authenticate(changes=changes):
        if not changes:
            return None
        raise NotAllowed("The session counts only on requests of pages of the gateway itself, at PUBLIC_URL.")
    try:
        with services().failed_credentials.counted(secret, g.address):
            return services().login_sessions.authenticate(secret)
    except NotAuthenticated:
        session_cookie.drop()  # or the browser would send it again and again
        return None


def identify(credential: str) -> Principal:
    """Whose the credential is; its form tells what kind it is. Raises NotAuthenticated, and TooMany if its address has sent
    too many that are not valid."""
    provider, failed = services().identity_provider, services().failed_credentials
    if provider is not None and provider.accepts(credential):
        with failed.counted(credential, g.address, needs_database=False):
            return provider.authenticate(credential)
    kind = services().upload_tokens if credential.startswith(upload_tokens.PREFIX) else services().keys
    with failed.counted(credential, g.address):
        return kind.authenticate(credential)


def _authorize(principal: Principal, operation: Operation | None) -> None:
    """Raises NotAllowed if the credential does not permit the operation."""
    if principal.budget is not None and request.blueprint not in TOKEN_BLUEPRINTS:
        raise NotAllowed("An upload token only allows uploads.")
    if operation is None:
        return
    if operation.access in ("admin", "operators") and not principal.is_admin:
        raise NotAllowed("An admin key is required.")
    require(principal, *operation.scopes_for(request.method))


def require(principal: Principal, *scopes: Scope) -> None:
    """Raises NotAllowed unless the credential has one of the scopes."""
    if principal.scopes.isdisjoint(scopes):
        raise NotAllowed(f"The credential lacks the scope {' or '.join(scopes)}.")
