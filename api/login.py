"""``/api/session``: people sign in with a browser, and out again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import get_args

from flask import Blueprint, Response, g

from api import render, session_cookie
from api.auth import act_as, bearer, identify
from api.context import principal, services, settings
from api.operations import operation
from api.request_models import CallbackQuery, LoginBody, LoginQuery
from api.response_models import LoginOut
from core.errors import NotAllowed, NotAuthenticated
from core.principal import Principal, Scope
from services.access.code_flow import MINUTES, CodeFlow

routes = Blueprint("login", __name__)
provider_routes = Blueprint("login_at_provider", __name__)


@routes.post("/session")
@operation(
    "Sign in",
    access="public",
    limit="logins",
    audit="signed_in",
    body=LoginBody,
    optional_body=True,
    responses={200: LoginOut},
    headers=("Set-Cookie",),
    errors=(NotAuthenticated, NotAllowed),
)
def begin(body: LoginBody) -> Response:
    """Exchanges an API key or a JWT, in the body or as a Bearer credential, for a session, which the browser keeps in a cookie
    that no script can read. The session can do what the credential can, and ends with it. The cookie counts only on requests of
    pages of the gateway itself, and never beside an `Authorization` header."""
    caller = bearer() if body.key is None else identify(body.key)
    if caller is None:
        raise NotAuthenticated("Send an API key or a JWT.")
    response = render.answer({"owner_id": caller.owner_id, "role": caller.role})
    keep_session(response, caller)
    return response


@routes.delete("/session")
@operation(
    "Sign out",
    scopes=get_args(Scope),
    audit="signed_out",
    responses={204: None},
    headers=("Set-Cookie", "Clear-Site-Data"),
)
def end() -> Response:
    """The session ends at once, and the browser removes what it has stored for the gateway. `403` for other credentials."""
    secret = session_cookie.value()
    if principal().credential != "session" or secret is None:
        raise NotAllowed("There is no session to end: the request was made with another credential.")
    services().login_sessions.end(secret)
    session_cookie.drop()
    response = render.no_content()
    # Not "cookies": those of other hosts of the domain would go too.
    response.headers["Clear-Site-Data"] = '"cache", "storage"'
    return response


@provider_routes.get("")
@operation(
    "Sign in at the identity provider",
    access="public",
    query=LoginQuery,
    responses={302: None},
    headers=("Location", "Set-Cookie"),
)
def begin_at_provider(query: LoginQuery) -> Response:
    """A browser that is sent here comes back with a session, at the path `return_to` of the gateway. This is OpenID Connect's
    authorization code flow with PKCE."""
    location, cookie = code_flow().begin(query.return_to)
    response = Response(status=302, headers={"Location": location})
    session_cookie.keep(response, cookie, seconds=MINUTES * 60, name="login")
    return response


@provider_routes.get("/callback")
@operation(
    "Finish signing in at the identity provider",
    access="public",
    limit="logins",
    audit="signed_in",
    query=CallbackQuery,
    responses={302: None},
    headers=("Location", "Set-Cookie"),
    errors=(NotAuthenticated,),
)
def finish_at_provider(query: CallbackQuery) -> Response:
    """The provider sends the browser here. `401` if it did not sign the person in, or this browser has not begun the login."""
    cookie = session_cookie.value("login")
    session_cookie.drop("login")
    if cookie is None or query.code is None:
        raise NotAuthenticated("The identity provider did not sign you in, or not in this browser.")
    with services().failed_credentials.counted(query.code, g.address, needs_database=False):
        caller, path = code_flow().finish(cookie, state=query.state, code=query.code, issuer=query.iss)
    response = Response(status=302, headers={"Location": f"{settings().base_url}{path}"})
    keep_session(response, caller)
    return response


def code_flow() -> CodeFlow:
    """The routes are registered only with one."""
    flow = services().code_flow
    assert flow is not None
    return flow


def keep_session(response: Response, caller: Principal) -> None:
    """Begin a session and give it to the browser. One that the browser had before ends."""
    act_as(caller)
    before = session_cookie.value()
    record, secret = services().login_sessions.begin(caller)
    if before is not None:
        services().login_sessions.end(before)
    left = int((record.expires_at - datetime.now(UTC)).total_seconds())
    session_cookie.keep(response, secret, seconds=max(1, left))
