"""The session cookie of the web console, and which requests it may authenticate.

A browser sends the cookie with requests that other sites make too, so it counts only on those that come from a page of the
gateway itself (T66). Browsers say so in Sec-Fetch-Site, which no script can set, and those without it in Origin: the defence
that the OWASP Cross-Site Request Forgery Prevention Cheat Sheet describes as "Fetch Metadata", with its fallback. It needs no
token in pages, so there is none that could leak or be forgotten on a route. SameSite is the second wall.

Pages of CORS_ORIGINS send a Bearer credential: the cookie is not accepted from them."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from flask import Response, g, request

from api.context import settings
from core.errors import NotAllowed


def value(name: str = "session") -> str | None:
    """The value of a cookie of ours; None without one."""
    return request.cookies.get(_full_name(name)) or None


def keep(response: Response, secret: str, *, seconds: int, name: str = "session") -> None:
    """Let the browser send the secret from now on. The prefix ``__Host-`` keeps other hosts of the domain from setting it."""
    response.set_cookie(
        _full_name(name), secret, max_age=seconds, path="/", secure=_is_https(), httponly=True, samesite="Lax"
    )


def drop(name: str = "session") -> None:
    """Let the browser forget the cookie, whatever the response to this request is."""
    g.setdefault("dropped_cookies", set()).add(name)


def drop_from(response: Response) -> Response:
    """After each request: send what ``drop`` was told."""
    for name in g.get("dropped_cookies", ()):
        response.delete_cookie(_full_name(name), path="/", secure=_is_https(), httponly=True, samesite="Lax")
    return response


def may_authenticate(*, changes: bool) -> bool:
    """Whether the cookie counts on this request, which ``changes`` something or only reads. A link on another site may be
    followed; it can't read the response."""
    if changes:
        return _sender() == "own page"
    return _sender() != "other site" or request.headers.get("Sec-Fetch-Mode") == "navigate"


def refuse_other_sites() -> None:
    """Raises NotAllowed for a request that a page of another site has made, whatever its credential."""
    if _sender() == "other site":
        raise NotAllowed("Only a page of the gateway itself, at PUBLIC_URL, may do this.")


def _sender() -> Literal["own page", "other site", "unknown"]:
    """Whose page made the request, as the browser says."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site == "none" or (site is None and origin is None):  # the person, or a program
        return "unknown"
    is_own = site == "same-origin" if site is not None else origin == _own_origin()
    return "own page" if is_own else "other site"


def _own_origin() -> str:
    parts = urlsplit(settings().base_url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def _is_https() -> bool:
    return settings().base_url.startswith("https://")


def _full_name(name: str) -> str:
    return f"__Host-{name}" if _is_https() else name
