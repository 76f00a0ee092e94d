"""``/api/session``: people sign in with a browser, and out again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import get_args

from flask import Blueprint, Response

from api import render, session_cookie
from api.auth import act_as, identify
from api.context import principal, services
from api.operations import operation
from api.request_models import LoginBody
from api.response_models import LoginOut
from core.errors import NotAllowed, NotAuthenticated
from core.principal import Principal, Scope

routes = Blueprint("login", __name__)


@routes.post("/session")
@operation(
    "Sign in",
    access="public",
    limit="logins",
    audit="signed_in",
    body=LoginBody,
    responses={200: LoginOut},
    headers=("Set-Cookie",),
    errors=(NotAuthenticated, NotAllowed),
)
def begin(body: LoginBody) -> Response:
    """Exchanges an API key or a JWT for a session, which the browser keeps in a cookie that no script can read. The session can
    do what the credential can, and ends with it. The cookie counts only on requests of pages of the gateway itself, and never
    beside an `Authorization` header."""
    session_cookie.refuse_other_sites()
    caller = identify(body.key)
    response = render.answer({"owner_id": caller.owner_id, "role": caller.role})
    keep_session(response, caller)
    return response


@routes.delete("/session")
@operation("Sign out", scopes=get_args(Scope), audit="signed_out", responses={204: None}, headers=("Set-Cookie",))
def end() -> Response:
    """The session ends at once. `403` for other credentials."""
    secret = session_cookie.value()
    if principal().credential != "session" or secret is None:
        raise NotAllowed("There is no session to end: the request was made with another credential.")
    services().login_sessions.end(secret)
    response = render.no_content()
    session_cookie.drop(response)
    return response


def keep_session(response: Response, caller: Principal) -> None:
    """Begin a session and give it to the browser. One that the browser had before ends."""
    act_as(caller)
    before = session_cookie.value()
    record, secret = services().login_sessions.begin(caller)
    if before is not None:
        services().login_sessions.end(before)
    left = int((record.expires_at - datetime.now(UTC)).total_seconds())
    session_cookie.keep(response, secret, seconds=max(1, left))
