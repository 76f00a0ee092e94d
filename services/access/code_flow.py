"""Signing in at the identity provider: OpenID Connect's authorization code flow with PKCE.

A login is bound to the browser that began it: state, nonce and PKCE verifier are in a signed cookie of that browser. So a code
that somebody else was given, or that was taken from somebody, is worth nothing (RFC 9700). What the provider says of the person
comes from its ID token, which is verified like any JWT, and must be for this client and this login."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hmac import compare_digest
from secrets import token_urlsafe
from typing import Any
from urllib.parse import quote_plus, urlencode

from core.cursors import Cursors
from core.errors import InvalidCursor, Unavailable
from core.principal import Principal
from services.access.identity_provider import IdentityProvider, refuse
from services.access.provider_documents import request_json

MINUTES = 10  # that a person may take
_SCOPE = "login"


@dataclass(frozen=True, slots=True)
class Client:
    """The gateway, as the provider knows it."""

    id: str
    secret: str | None  # None: a public client
    redirect_uri: str


class CodeFlow:
    """Begins and finishes logins at the provider."""

    def __init__(self, provider: IdentityProvider, client: Client, signer: Cursors):
        self._provider = provider
        self._client = client
        self._signer = signer

    def begin(self, return_to: str) -> tuple[str, str]:
        """The address to send the person to, and the cookie that the browser must bring back. Raises Unavailable."""
        state, nonce, verifier = token_urlsafe(32), token_urlsafe(32), token_urlsafe(32)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code",
            "client_id": self._client.id,
            "redirect_uri": self._client.redirect_uri,
            "scope": "openid",
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        address = self._provider.endpoint("authorization_endpoint")
        cookie = self._signer.sign([state, nonce, verifier, return_to, int(time.time())], scope=_SCOPE)
        return f"{address}{'&' if '?' in address else '?'}{urlencode(asked)}", cookie

    def finish(self, cookie: str, *, state: str, code: str, issuer: str | None) -> tuple[Principal, str]:
        """Who has signed in, and where the person wanted to go. ``issuer`` is what the provider says in its redirect (RFC 9207).
        Raises NotAuthenticated, or Unavailable if the provider does not answer."""
        try:
            begun = self._signer.open(cookie, scope=_SCOPE)
        except InvalidCursor:
            refuse("the login was not begun in this browser")
        expected, nonce, verifier, return_to = (str(value) for value in begun[:4])
        if not compare_digest(state.encode(), expected.encode()):
            refuse("the login was begun elsewhere, or another one since")
        if int(begun[4] or 0) + MINUTES * 60 < time.time():
            refuse("the login took too long")
        if not self._provider.is_issuer(issuer):
            refuse("the redirect is another issuer's")
        return self._principal(self._exchange(code, verifier), nonce), return_to

    def _exchange(self, code: str, verifier: str) -> str:
        """The ID token for a code."""
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._client.redirect_uri,
            "code_verifier": verifier,
        }
        headers: Mapping[str, str] = {}
        if self._client.secret is None:
            fields["client_id"] = self._client.id
        elif self._provider.accepts_basic():
            pair = f"{quote_plus(self._client.id)}:{quote_plus(self._client.secret)}"  # RFC 6749 §2.3.1
            headers = {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
        else:
            fields |= {"client_id": self._client.id, "client_secret": self._client.secret}
        status, answer = request_json(self._provider.endpoint("token_endpoint"), fields, headers)
        if status >= 500 or not isinstance(answer, dict):
            raise Unavailable("The identity provider can't be reached; try again.")
        token: Any = answer.get("id_token")
        if status != 200 or not isinstance(token, str):
            refuse(f"the provider gave no ID token: {status} {answer.get('error')}")
        return token

    def _principal(self, token: str, nonce: str) -> Principal:
        claims = self._provider.verify(token, self._client.id)
        if not compare_digest(str(claims.get("nonce")).encode("utf-8", "surrogatepass"), nonce.encode()):
            refuse("the ID token is of another login")
        party = claims.get(
            "azp", None if isinstance(claims["aud"], list) and len(claims["aud"]) > 1 else self._client.id
        )
        if party != self._client.id:  # OpenID Connect Core §3.1.3.7
            refuse("the ID token was issued to another client")
        return replace(self._provider.principal(claims), credential="session")
